//! UNMAP, WRITE SAME and GET LBA STATUS (SBC-3 5.6, 5.28, 5.44, 5.45).
//!
//! LBPRZ is 1: what is unmapped reads as zeroes, so unmapping is writing zeroes that may free space.

use block::{Bufs, Extent, ExtentState, IoErrorKind};

use crate::cdb::{Builder, be16, be32, be64, flag, u8_at};
use crate::limits::{
    LBA_STATUS_DESCRIPTORS_MAX, PARAMETER_BYTES_MAX, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX,
    WRITE_SAME_BLOCKS_MAX,
};
use crate::opcodes::{Access, Entry, Needs, READS, WRITES};
use crate::range_lock::Range;
use crate::rw::{Span, no_protection, take_exactly};
use crate::sense::{Asc, Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::{Input, IoOp, Step};

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x41,
        service_action: None,
        name: "WRITE SAME(10)",
        usage: &[0x41, 0xf8, 255, 255, 255, 255, 0x1f, 255, 255, 0x04],
        access: Access::Write,
        needs: WRITES,
        seconds: 120,
        handler: write_same,
    },
    Entry {
        opcode: 0x42,
        service_action: None,
        name: "UNMAP",
        usage: &[0x42, 0, 0, 0, 0, 0, 0x1f, 255, 255, 0x04],
        access: Access::Write,
        needs: Needs { thin: true, ..WRITES },
        seconds: 60,
        handler: unmap,
    },
    Entry {
        opcode: 0x93,
        service_action: None,
        name: "WRITE SAME(16)",
        usage: &[0x93, 0xf9, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
        access: Access::Write,
        needs: WRITES,
        seconds: 120,
        handler: write_same,
    },
    Entry {
        opcode: 0x9e,
        service_action: Some(0x12),
        name: "GET LBA STATUS",
        usage: &[0x9e, 0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0x04],
        access: Access::Read,
        needs: READS,
        seconds: 30,
        handler: get_lba_status,
    },
];

/// SBC-3 5.28.
fn unmap(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let declared = usize::from(be16(call.cdb(), 7));
    if declared == 0 {
        return Ok(Outcome::Good);
    }
    let list = call.parameter_list(declared, PARAMETER_BYTES_MAX)?;
    if list.len() < 8 {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH).into());
    }
    let described = usize::from(be16(&list, 2));
    let descriptors = list.get(8..8 + described).ok_or(Sense::illegal(Asc::PARAMETER_LIST_LENGTH))?;
    if described / 16 > UNMAP_DESCRIPTORS_MAX as usize {
        return Err(Sense::parameter(2).into());
    }
    let (mut ranges, mut sum) = (Vec::new(), 0u64);
    // What is left of an incomplete descriptor is ignored (SBC-3 5.28.2).
    for (i, d) in descriptors.chunks_exact(16).enumerate() {
        let span = Span { lba: be64(d, 0), blocks: u64::from(be32(d, 8)) };
        sum += span.blocks;
        if sum > u64::from(UNMAP_BLOCKS_MAX) {
            return Err(Sense::parameter(8 + i * 16 + 8).into());
        }
        if span.blocks > 0 {
            span.check(call.unit())?;
            ranges.push(span.bytes(call.unit()));
        } else if span.lba > call.unit().blocks() {
            return Err(Sense::out_of_range(span.lba).into());
        }
    }
    let Some(hull) = hull(&ranges) else { return Ok(Outcome::Good) };
    Ok(Outcome::Job(Box::new(Zero { hull, ranges, pattern: None, unmap: true, stage: Stage::Work })))
}

fn hull(ranges: &[Range]) -> Option<Range> {
    let start = ranges.iter().map(|r| r.start).min()?;
    let end = ranges.iter().map(|r| r.end).max()?;
    Some(Range { start, end })
}

/// SBC-3 5.44, 5.45.
fn write_same(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    no_protection(cdb)?;
    let (anchor, unmap) = (flag(cdb, 1, 4), flag(cdb, 1, 3));
    let no_data = u8_at(cdb, 0) == 0x93 && flag(cdb, 1, 0);
    // ANC_SUP is 0.
    if anchor {
        return Err(Sense::field_bit(1, 4).into());
    }
    let thin = call.unit().lock().config.thin;
    if unmap && !thin {
        return Err(Sense::field_bit(1, 3).into());
    }
    let mut span = Span::of(cdb);
    span.check(call.unit())?;
    if span.blocks == 0 {
        // To the end of the unit; but WSNZ is 1 where a slip of that kind would unmap it all.
        if thin {
            return Err(Sense::field(Span::count_at(cdb)).into());
        }
        span.blocks = call.unit().blocks() - span.lba;
    }
    if span.blocks > WRITE_SAME_BLOCKS_MAX {
        return Err(Sense::field(Span::count_at(cdb)).into());
    }
    let block = take_exactly(call, if no_data { 0 } else { 1 << call.unit().shift })?;
    let block: Vec<u8> = block.iter().flat_map(|b| b.iter().copied()).collect();
    let range = span.bytes(call.unit());
    // Reads shall give what was sent, unmapped or not (SBC-3 5.44): only zeroes can be unmapped.
    let pattern = block.iter().any(|&b| b != 0).then_some(block);
    let unmap = unmap && pattern.is_none();
    Ok(Outcome::Job(Box::new(Zero { hull: range, ranges: vec![range], pattern, unmap, stage: Stage::Work })))
}

/// Bytes of a pattern that are written at once.
const PIECE: u64 = 1 << 20;

enum Stage {
    Work,
    Flush,
}

/// Writes zeroes, or a pattern, over ranges.
struct Zero {
    hull: Range,
    /// What is left to do, last first.
    ranges: Vec<Range>,
    /// One block; None is zeroes.
    pattern: Option<Vec<u8>>,
    unmap: bool,
    stage: Stage,
}

impl Job for Zero {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let shift = call.unit().shift;
        match input {
            Input::Start if !call.hold(self.hull, false) => Ok(Step::Wait),
            Input::Woken if !call.holds() => Ok(Step::Wait),
            Input::Io { result: Err(e), .. } => {
                // A device that cannot write zeroes by itself can write them as data.
                if e.kind == IoErrorKind::Unsupported && self.pattern.is_none() {
                    self.pattern = Some(vec![0; 1 << shift]);
                    return Ok(self.next(call, Bufs::new()));
                }
                Err(Sense::from_io(&e, true, shift).into())
            }
            Input::Io { bufs, .. } => {
                if matches!(self.stage, Stage::Flush) {
                    return Ok(Step::Done(call.good()));
                }
                self.advance();
                Ok(self.next(call, bufs))
            }
            _ => Ok(self.next(call, Bufs::new())),
        }
    }
}

impl Zero {
    /// What one operation does of the last range.
    fn piece(&self) -> Option<Range> {
        let r = *self.ranges.last()?;
        let len = if self.pattern.is_some() { PIECE } else { u64::MAX };
        Some(Range { start: r.start, end: r.end.min(r.start.saturating_add(len)) })
    }

    fn advance(&mut self) {
        let Some(done) = self.piece() else { return };
        if let Some(r) = self.ranges.last_mut() {
            r.start = done.end;
            if r.start >= r.end {
                self.ranges.pop();
            }
        }
    }

    fn next(&mut self, call: &Call<'_>, mut bufs: Bufs) -> Step {
        let Some(piece) = self.piece() else {
            if call.unit().write_through() {
                self.stage = Stage::Flush;
                return Step::Io { on: None, op: IoOp::Flush };
            }
            return Step::Done(call.good());
        };
        let len = piece.end - piece.start;
        let op = match &self.pattern {
            None => IoOp::WriteZeroes { offset: piece.start, len, unmap: self.unmap },
            Some(pattern) => {
                if bufs.is_empty() {
                    let mut b = call.cx.pool.get(len as usize);
                    b.chunks_mut(pattern.len()).for_each(|c| c.copy_from_slice(&pattern[..c.len()]));
                    bufs.push(b);
                }
                crate::rw::cut(&mut bufs, len);
                IoOp::Write { offset: piece.start, bufs, fua: false }
            }
        };
        Step::Io { on: None, op }
    }
}

/// Bytes that the first question about the map covers; later ones cover twice as many while little is found.
const WINDOW: u64 = 64 << 20;

/// SBC-3 5.6.
fn get_lba_status(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let span = Span { lba: be64(call.cdb(), 2), blocks: 0 };
    span.check(call.unit())?;
    let allocation_len = be32(call.cdb(), 10);
    let room = (allocation_len.saturating_sub(8) / 16).max(1) as usize;
    let unit = call.unit();
    let start = span.lba << unit.shift;
    let end = unit.blocks() << unit.shift;
    let status = Status {
        at: start,
        end,
        window: WINDOW,
        max: room.min(LBA_STATUS_DESCRIPTORS_MAX),
        found: Vec::new(),
        allocation_len,
    };
    if !unit.lock().config.thin || !unit.features.maps {
        let all = Extent { offset: start, len: end - start, state: ExtentState::Mapped };
        return Ok(status.finish(&[all], unit.shift));
    }
    Ok(Outcome::Job(Box::new(status)))
}

struct Status {
    at: u64,
    end: u64,
    window: u64,
    max: usize,
    found: Vec<Extent>,
    allocation_len: u32,
}

impl Job for Status {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let shift = call.unit().shift;
        if let Input::Io { result, extents, .. } = input {
            result.map_err(|e| Sense::from_io(&e, false, shift))?;
            let few = extents.len() <= 64;
            let covered = extents.iter().map(|e| e.offset.saturating_add(e.len)).max().unwrap_or(0);
            if covered <= self.at {
                // The device knows nothing of what follows: taken as stored.
                self.join(
                    Extent { offset: self.at, len: self.end - self.at, state: ExtentState::Mapped },
                    shift,
                );
                self.at = self.end;
            } else {
                let from = self.at;
                for e in extents.into_iter().filter(|e| e.offset >= from) {
                    self.join(e, shift);
                }
                self.at = covered.min(self.end);
            }
            if few {
                self.window = self.window.saturating_mul(2);
            }
        }
        // One more than asked for, since the last may yet grow.
        if self.at < self.end && self.found.len() <= self.max {
            let len = self.window.min(self.end - self.at);
            return Ok(Step::Io { on: None, op: IoOp::Map { offset: self.at, len } });
        }
        let found = std::mem::take(&mut self.found);
        let reply = match self.finish(&found, shift) {
            Outcome::Data { bytes, allocation_len } => call.data(bytes, allocation_len),
            _ => call.good(),
        };
        Ok(Step::Done(reply))
    }
}

impl Status {
    /// Adds an extent in whole blocks: a block that is stored in part is mapped.
    fn join(&mut self, e: Extent, shift: u32) {
        let block = 1u64 << shift;
        let (mut start, mut end) = (e.offset, e.offset.saturating_add(e.len).min(self.end));
        if e.state == ExtentState::Mapped {
            start -= start % block;
            end = end.next_multiple_of(block);
        } else {
            start = start.next_multiple_of(block);
            end -= end % block;
        }
        let from = self.found.last().map_or(start, |l| l.offset + l.len);
        start = start.max(from);
        if start >= end {
            return;
        }
        match self.found.last_mut() {
            Some(last) if last.state == e.state => last.len = end - last.offset,
            _ => self.found.push(Extent { offset: start, len: end - start, state: e.state }),
        }
    }

    fn finish(&self, extents: &[Extent], shift: u32) -> Outcome {
        let mut b = Builder::default();
        b.u32(0);
        b.u32(0);
        let mut n = 0;
        for e in extents {
            let (mut lba, mut left) = (e.offset >> shift, e.len >> shift);
            while left > 0 && n < self.max {
                let blocks = left.min(u64::from(u32::MAX));
                b.u64(lba);
                b.u32(blocks as u32);
                b.u8(u8::from(e.state == ExtentState::Hole));
                b.zeroes(3);
                lba += blocks;
                left -= blocks;
                n += 1;
            }
        }
        b.patch_len32(0);
        Outcome::Data { bytes: b.0, allocation_len: self.allocation_len }
    }
}
