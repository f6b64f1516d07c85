//! A copy on its way: segment by segment, piece by piece, one operation at a time.
//!
//! ```text
//!   next ──▶ (gate frozen: wait) ──▶ source held shared ──▶ read ──▶ source let go
//!     ▲                                                              │
//!     │          block only partly written: destination held         ▼
//!     └── wrote ◀── write ◀── read it, put the piece in ◀── exclusively, else shared
//! ```
//!
//! A piece lies in one unit at a time, so two copies in opposite directions never wait for each other. Within a unit a
//! segment that moves its blocks onto themselves is copied from its end where that is what keeps them whole.

use std::sync::Arc;

use block::{Buf, Bufs, GateState};

use super::list::{Amount, List, Segment, THIS_UNIT};
use super::results::RecordId;
use super::{SEGMENT_BYTES_MAX, is_disk};
use crate::nexus::Attached;
use crate::range_lock::{Range, Ticket};
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::task::{Call, Job};
use crate::{Input, IoOp, LogicalUnit, Step};

/// Bytes of one operation; a multiple of every block size.
const PIECE: u64 = 1 << 20;

const UNREACHABLE_COPY_TARGET: Asc = Asc(0x0804);
const THIRD_PARTY_DEVICE_FAILURE: Asc = Asc(0x0d01);
const COPY_TARGET_NOT_REACHABLE: Asc = Asc(0x0d02);
const INCORRECT_COPY_TARGET_TYPE: Asc = Asc(0x0d03);
const UNEXPECTED_INEXACT_SEGMENT: Asc = Asc(0x260a);

fn aborted(asc: Asc) -> Sense {
    Sense::new(Key::CopyAborted, asc)
}

/// A range held or waited for; given back when dropped.
struct Hold {
    unit: Arc<LogicalUnit>,
    ticket: Ticket,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.unit.ranges.release(self.ticket);
    }
}

/// A segment with its units, in bytes.
struct Plan {
    source: Arc<LogicalUnit>,
    destination: Arc<LogicalUnit>,
    from: u64,
    to: u64,
    len: u64,
    backward: bool,
}

impl Plan {
    /// The piece after the first `done` bytes: its place in the segment and its length. Whole blocks of the destination
    /// where that is possible, else what lies in one block.
    fn piece(&self, done: u64) -> (u64, u64) {
        let block = 1u64 << self.destination.shift;
        let left = self.len - done;
        if self.backward {
            let into = (self.to + left) % block;
            if into != 0 {
                let n = into.min(left);
                return (left - n, n);
            }
            let n = left.min(PIECE);
            let over = (self.to + left - n) % block;
            let n = if over != 0 && n > block - over { n - (block - over) } else { n };
            return (left - n, n);
        }
        let into = (self.to + done) % block;
        let n = match into {
            0 if left >= block => left.min(PIECE) / block * block,
            0 => left,
            _ => left.min(block - into),
        };
        (done, n)
    }
}

/// Where a piece is.
enum Phase {
    Next,
    /// The source's range is waited for.
    Source,
    Read,
    /// The destination's range is waited for, with the data.
    Destination(Bufs),
    /// The destination's block is read, to put the data into it.
    Edge(Bufs),
    Write,
}

/// See the module.
pub(super) struct Copy {
    home: Arc<LogicalUnit>,
    list: List,
    record: RecordId,
    /// Segment that is copied.
    at: usize,
    plan: Option<Plan>,
    /// Bytes of the segment that are copied.
    done: u64,
    /// Bytes of all segments.
    total: u64,
    piece: (u64, u64),
    hold: Option<Hold>,
    phase: Phase,
    ended: bool,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.ended {
            self.home.lock().copies.forget(self.record);
        }
    }
}

impl Job for Copy {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        match self.advance(call, input) {
            Ok(step) => {
                if matches!(step, Step::Done(_)) {
                    self.end(None);
                }
                Ok(step)
            }
            Err(sense) => {
                // Which segment: the third and fourth byte (SPC-4 5.16.7.4).
                let segment = u32::try_from(self.at).unwrap_or(u32::MAX) & 0xffff;
                let sense = Sense { command_specific: Some(segment), ..sense };
                self.hold = None;
                self.end(Some(sense));
                Err(sense.into())
            }
        }
    }
}

impl Copy {
    pub(super) fn new(home: &Arc<LogicalUnit>, list: List, record: RecordId) -> Copy {
        Copy {
            home: Arc::clone(home),
            list,
            record,
            at: 0,
            plan: None,
            done: 0,
            total: 0,
            piece: (0, 0),
            hold: None,
            phase: Phase::Next,
            ended: false,
        }
    }

    fn end(&mut self, failed: Option<Sense>) {
        self.ended = true;
        let mut state = self.home.lock();
        state.copies.progress(self.record, self.at, self.total);
        state.copies.end(self.record, failed);
    }

    fn advance(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Sense> {
        match std::mem::replace(&mut self.phase, Phase::Next) {
            Phase::Next => self.next(call),
            Phase::Source => self.read(call),
            Phase::Read => {
                let bufs = completed(input)?;
                self.hold = None;
                let bufs = self.trim(call, bufs)?;
                self.hold_destination(call, bufs)
            }
            Phase::Destination(bufs) => self.write(call, bufs),
            Phase::Edge(bufs) => {
                let block = completed(input)?;
                self.overlay(call, &bufs, &block)
            }
            Phase::Write => {
                completed(input)?;
                self.hold = None;
                self.done += self.piece.1;
                self.total += self.piece.1;
                self.home.lock().copies.progress(self.record, self.at, self.total);
                self.next(call)
            }
        }
    }

    /// The next piece, of this segment or of one after it.
    fn next(&mut self, call: &mut Call<'_>) -> Result<Step, Sense> {
        loop {
            let Some(segment) = self.list.segments.get(self.at).copied() else {
                return Ok(Step::Done(call.good()));
            };
            let plan = match self.plan.take() {
                Some(plan) => plan,
                None => self.plan(call, segment)?,
            };
            if self.done < plan.len {
                if !usable(call, &plan.source, false)? || !usable(call, &plan.destination, true)? {
                    self.plan = Some(plan);
                    return Ok(Step::Wait);
                }
                self.piece = plan.piece(self.done);
                let range = whole_blocks(&plan.source, plan.from + self.piece.0, self.piece.1);
                let unit = Arc::clone(&plan.source);
                self.plan = Some(plan);
                return if self.hold(call, unit, range, false) {
                    self.read(call)
                } else {
                    self.wait(Phase::Source)
                };
            }
            self.at += 1;
            self.done = 0;
        }
    }

    fn wait(&mut self, phase: Phase) -> Result<Step, Sense> {
        self.phase = phase;
        Ok(Step::Wait)
    }

    fn hold(&mut self, call: &Call<'_>, unit: Arc<LogicalUnit>, range: Range, exclusive: bool) -> bool {
        let (ticket, held) = unit.ranges.acquire(range, exclusive, call.cx.waker);
        self.hold = Some(Hold { unit, ticket });
        held
    }

    fn granted(&self) -> bool {
        self.hold.as_ref().is_some_and(|h| h.unit.ranges.granted(h.ticket))
    }

    fn current(&self) -> Result<&Plan, Sense> {
        // Only a phase after `next` asks, and that leaves a plan.
        self.plan.as_ref().ok_or(Sense::new(Key::HardwareError, Asc::INTERNAL_TARGET_FAILURE))
    }

    fn read(&mut self, call: &Call<'_>) -> Result<Step, Sense> {
        if !self.granted() {
            return self.wait(Phase::Source);
        }
        let plan = self.current()?;
        let range = whole_blocks(&plan.source, plan.from + self.piece.0, self.piece.1);
        let op = IoOp::Read { offset: range.start, len: (range.end - range.start) as u32 };
        let on = other(call.at, &plan.source);
        self.phase = Phase::Read;
        Ok(Step::Io { on, op })
    }

    /// The bytes of the piece out of the whole blocks that were read.
    fn trim(&self, call: &Call<'_>, bufs: Bufs) -> Result<Bufs, Sense> {
        let plan = self.current()?;
        let (place, len) = self.piece;
        let skip = (plan.from + place) % (1u64 << plan.source.shift);
        let have: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        if have < skip + len {
            return Err(aborted(THIRD_PARTY_DEVICE_FAILURE));
        }
        if skip == 0 && have == len {
            return Ok(bufs);
        }
        // Into a buffer of its own: devices take memory that is aligned.
        let mut out = call.cx.pool.get(len as usize);
        let bytes = bufs.iter().flat_map(|b| b.iter()).skip(skip as usize);
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(std::iter::once(out).collect())
    }

    /// The range of the destination that the piece changes, and whether it changes a block only in part.
    fn target(&self) -> Result<(Range, bool), Sense> {
        let plan = self.current()?;
        let (start, len) = (plan.to + self.piece.0, self.piece.1);
        let range = whole_blocks(&plan.destination, start, len);
        Ok((range, range.end - range.start != len))
    }

    fn hold_destination(&mut self, call: &Call<'_>, bufs: Bufs) -> Result<Step, Sense> {
        let (range, partly) = self.target()?;
        let unit = Arc::clone(&self.current()?.destination);
        if self.hold(call, unit, range, partly) {
            self.write(call, bufs)
        } else {
            self.wait(Phase::Destination(bufs))
        }
    }

    fn write(&mut self, call: &Call<'_>, bufs: Bufs) -> Result<Step, Sense> {
        if !self.granted() {
            return self.wait(Phase::Destination(bufs));
        }
        let (range, partly) = self.target()?;
        if partly {
            let on = other(call.at, &self.current()?.destination);
            self.phase = Phase::Edge(bufs);
            let op = IoOp::Read { offset: range.start, len: (range.end - range.start) as u32 };
            return Ok(Step::Io { on, op });
        }
        self.write_to(call, range.start, bufs)
    }

    fn write_to(&mut self, call: &Call<'_>, offset: u64, bufs: Bufs) -> Result<Step, Sense> {
        let destination = &self.current()?.destination;
        let op = IoOp::Write { offset, bufs, fua: destination.write_through() };
        let on = other(call.at, destination);
        self.phase = Phase::Write;
        Ok(Step::Io { on, op })
    }

    /// Puts the piece into the block that was read for it.
    fn overlay(&mut self, call: &Call<'_>, bufs: &Bufs, block: &Bufs) -> Result<Step, Sense> {
        let (range, _) = self.target()?;
        let skip = (self.current()?.to + self.piece.0 - range.start) as usize;
        let mut out: Buf = call.cx.pool.get((range.end - range.start) as usize);
        let old = block.iter().flat_map(|b| b.iter());
        out.iter_mut().zip(old).for_each(|(to, from)| *to = *from);
        let new = bufs.iter().flat_map(|b| b.iter());
        out.iter_mut().skip(skip).zip(new).for_each(|(to, from)| *to = *from);
        self.write_to(call, range.start, std::iter::once(out).collect())
    }

    /// Checks a segment against its units (SPC-4 5.16.7.4: what fails here ends the copy after the segments before it).
    fn plan(&self, call: &Call<'_>, s: Segment) -> Result<Plan, Sense> {
        let source = self.unit(call, s.source)?;
        let destination = self.unit(call, s.destination)?;
        let (from_block, to_block) = (1u64 << source.shift, 1u64 << destination.shift);
        let (from_offset, to_offset, len) = match s.amount {
            Amount::Blocks { count, of_destination } => {
                let block = if of_destination { to_block } else { from_block };
                let len = u64::from(count) * block;
                if !len.is_multiple_of(from_block) || !len.is_multiple_of(to_block) {
                    return Err(aborted(UNEXPECTED_INEXACT_SEGMENT));
                }
                (0, 0, len)
            }
            Amount::Bytes { count, source_offset, destination_offset } => {
                (u64::from(source_offset), u64::from(destination_offset), u64::from(count))
            }
        };
        if len > u64::from(SEGMENT_BYTES_MAX) || from_offset >= from_block || to_offset >= to_block {
            return Err(aborted(Asc::INVALID_FIELD_IN_PARAMETER_LIST));
        }
        let from = place(&source, s.source_lba, from_offset, len)?;
        let to = place(&destination, s.destination_lba, to_offset, len)?;
        let backward = Arc::ptr_eq(&source, &destination) && from < to && to < from + len;
        Ok(Plan { source, destination, from, to, len, backward })
    }

    /// The unit that a CSCD ID names.
    fn unit(&self, call: &Call<'_>, id: u16) -> Result<Arc<LogicalUnit>, Sense> {
        if id == THIS_UNIT {
            return Ok(Arc::clone(call.unit()));
        }
        let cscd = self.list.cscds.get(usize::from(id)).ok_or(aborted(UNREACHABLE_COPY_TARGET))?;
        if cscd.device_type != 0 {
            return Err(aborted(INCORRECT_COPY_TARGET_TYPE));
        }
        let unit = cscd.unit.as_ref().filter(|u| is_disk(u)).ok_or(aborted(COPY_TARGET_NOT_REACHABLE))?;
        if cscd.block_bytes != 1 << unit.shift {
            return Err(aborted(Asc::INVALID_FIELD_IN_PARAMETER_LIST));
        }
        Ok(Arc::clone(unit))
    }
}

/// The buffers of an operation that went well; another end is the copy's (the device's sense, with the copy's key).
fn completed(input: Input) -> Result<Bufs, Sense> {
    match input {
        Input::Io { result: Ok(()), bufs, .. } => Ok(bufs),
        Input::Io { result: Err(error), .. } => {
            let sense = Sense::from_io(&error, false, 0);
            let medium = sense.asc == Asc::UNRECOVERED_READ_ERROR;
            Err(aborted(if medium { THIRD_PARTY_DEVICE_FAILURE } else { sense.asc }))
        }
        _ => Err(Sense::new(Key::HardwareError, Asc::INTERNAL_TARGET_FAILURE)),
    }
}

/// The blocks that `len` bytes at `start` touch.
fn whole_blocks(unit: &LogicalUnit, start: u64, len: u64) -> Range {
    let block = 1u64 << unit.shift;
    Range { start: start / block * block, end: (start + len).next_multiple_of(block) }
}

/// The first byte of a segment on a unit, all of which must lie on it.
fn place(unit: &LogicalUnit, lba: u64, offset: u64, len: u64) -> Result<u64, Sense> {
    let size = unit.blocks();
    let outside = aborted(Asc::NONE).at(lba);
    if lba > size {
        return Err(outside);
    }
    let start = (lba << unit.shift) + offset;
    if start + len > size << unit.shift { Err(outside) } else { Ok(start) }
}

/// The unit, where it is not the task's own.
fn other(at: &Attached, unit: &Arc<LogicalUnit>) -> Option<Arc<LogicalUnit>> {
    (!Arc::ptr_eq(unit, &at.unit)).then(|| Arc::clone(unit))
}

/// Whether the nexus may go on reading or writing there: false where the gate is frozen and its waker was queued.
fn usable(call: &Call<'_>, unit: &LogicalUnit, write: bool) -> Result<bool, Sense> {
    loop {
        match unit.gate().state() {
            GateState::Open { .. } => break,
            GateState::Fenced { .. } => return Err(aborted(COPY_TARGET_NOT_REACHABLE)),
            GateState::Frozen { .. } if unit.wait_for_gate((call.cx.waker)()) => return Ok(false),
            GateState::Frozen { .. } => {}
        }
    }
    let nexus = &call.at.nexus;
    let state = unit.lock();
    // READ(10), WRITE(10): what stops them stops the copy.
    let as_command = [if write { 0x2a } else { 0x28 }];
    if state.reservations.view(nexus).conflicts(&as_command) {
        return Err(aborted(THIRD_PARTY_DEVICE_FAILURE));
    }
    let as_copy = |s: Sense| Sense { key: Key::CopyAborted, ..s };
    state.alua.state(nexus.target.portal_group).admit(&as_command).map_err(as_copy)?;
    state.ready().map_err(as_copy)?;
    if write {
        state.writable(unit.features.read_only).map_err(as_copy)?;
    }
    Ok(true)
}
