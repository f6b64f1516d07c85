//! SANITIZE and FORMAT UNIT (SBC-3 5.24, 5.4; 4.11, 4.32): work on the whole unit that goes on whatever happens to the
//! command that began it, while most other commands are refused.
//!
//! ```text
//!            command                 all passes, each flushed
//!   idle ────────────▶ running(fraction) ────────────────────▶ idle
//!     ▲                      │ a pass fails, or the daemon stops in the middle
//!     └── EXIT FAILURE MODE ─┴▶ failed ── the same command again ──▶ running
//!         (if AUSE was set)
//! ```
//!
//! OVERWRITE writes its pattern over every block. BLOCK ERASE exists on thin units: it writes zeroes over all that is
//! mapped and then unmaps it, so that the data are gone from what lies below too. CRYPTOGRAPHIC ERASE has no key to change
//! here and does the same, which reaches what it promises, that no data can be had any more, by the longer way.

use std::time::Duration;

use base::Mono;
use block::{Bufs, ExtentState};
use serde::{Deserialize, Serialize};

use crate::cdb::{be16, be32, flag, u8_at};
use crate::limits::SANITIZE_BYTES_PER_SECOND_MAX;
use crate::opcodes::{Access, Entry, Needs, WRITES};
use crate::range_lock::Range;
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::{Input, IoOp, LogicalUnit, Step};

const NEEDS: Needs = Needs { during_sanitize: true, ..WRITES };

const fn sanitize_entry(action: u16, name: &'static str, usage: &'static [u8], needs: Needs) -> Entry {
    Entry {
        opcode: 0x48,
        service_action: Some(action),
        name,
        usage,
        access: Access::Write,
        needs,
        seconds: u16::MAX,
        handler: sanitize,
    }
}

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x04,
        service_action: None,
        name: "FORMAT UNIT",
        usage: &[0x04, 0x30, 0, 0, 0, 0x04],
        access: Access::Write,
        needs: NEEDS,
        seconds: u16::MAX,
        handler: format,
    },
    sanitize_entry(OVERWRITE, "SANITIZE, OVERWRITE", &[0x48, 0xa1, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04], NEEDS),
    sanitize_entry(
        BLOCK_ERASE,
        "SANITIZE, BLOCK ERASE",
        &[0x48, 0xa2, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04],
        Needs { thin: true, ..NEEDS },
    ),
    sanitize_entry(
        CRYPTOGRAPHIC_ERASE,
        "SANITIZE, CRYPTOGRAPHIC ERASE",
        &[0x48, 0xa3, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04],
        Needs { thin: true, ..NEEDS },
    ),
    sanitize_entry(
        EXIT_FAILURE_MODE,
        "SANITIZE, EXIT FAILURE MODE",
        &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04],
        NEEDS,
    ),
];

const OVERWRITE: u16 = 0x01;
const BLOCK_ERASE: u16 = 0x02;
const CRYPTOGRAPHIC_ERASE: u16 = 0x03;
const EXIT_FAILURE_MODE: u16 = 0x1f;

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Sanitize,
    Format,
}

/// Work on the whole unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Activity {
    #[default]
    Idle,
    /// How far it is, in 65536ths.
    Running { kind: Kind, fraction: u16, may_exit: bool },
    /// It did not end well. Data may be there in part: nothing is read until it was done again.
    Failed { kind: Kind, may_exit: bool },
}

/// Work that a stop of the daemon interrupted, as it is kept over a restart.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Interrupted {
    kind: Kind,
    may_exit: bool,
}

impl From<Interrupted> for Activity {
    fn from(i: Interrupted) -> Self {
        Activity::Failed { kind: i.kind, may_exit: i.may_exit }
    }
}

impl Activity {
    /// What of it must be known after a restart.
    pub(crate) fn interrupted(self) -> Option<Interrupted> {
        match self {
            Activity::Idle => None,
            Activity::Running { kind, may_exit, .. } | Activity::Failed { kind, may_exit } => {
                Some(Interrupted { kind, may_exit })
            }
        }
    }

    /// Why commands that need the medium are refused.
    pub(crate) fn refusal(self) -> Result<(), Sense> {
        match self {
            Activity::Idle => Ok(()),
            Activity::Running { kind, fraction, .. } => {
                let asc = match kind {
                    Kind::Sanitize => Asc::NOT_READY_SANITIZE,
                    Kind::Format => Asc::NOT_READY_FORMAT,
                };
                Err(Sense::new(Key::NotReady, asc).progress(fraction))
            }
            Activity::Failed { kind: Kind::Sanitize, .. } => {
                Err(Sense::new(Key::MediumError, Asc::SANITIZE_FAILED))
            }
            Activity::Failed { kind: Kind::Format, .. } => {
                Err(Sense::new(Key::MediumError, Asc::FORMAT_CORRUPTED))
            }
        }
    }
}

/// SBC-3 5.24.
fn sanitize(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let action = u16::from(u8_at(cdb, 1) & 0x1f);
    let (immediate, may_exit) = (flag(cdb, 1, 7), flag(cdb, 1, 5));
    let declared = usize::from(be16(cdb, 7));
    if action != OVERWRITE && declared != 0 {
        return Err(Sense::field(7).into());
    }
    let passes = match action {
        OVERWRITE => overwrite_passes(call, declared)?,
        BLOCK_ERASE | CRYPTOGRAPHIC_ERASE => vec![Pass::Zero { unmap: true }, Pass::ZeroMapped],
        _ => return exit_failure_mode(call.unit()),
    };
    begin(call, Kind::Sanitize, passes, immediate, may_exit)
}

fn exit_failure_mode(unit: &LogicalUnit) -> Result<Outcome, Refusal> {
    let mut state = unit.lock();
    match state.activity {
        Activity::Failed { kind: Kind::Sanitize, may_exit: true } => state.activity = Activity::Idle,
        Activity::Idle => return Ok(Outcome::Good),
        Activity::Failed { kind: Kind::Sanitize, .. } => return Err(Sense::field_bit(1, 4).into()),
        other => other.refusal()?,
    }
    drop(state);
    unit.moved();
    Ok(Outcome::Job(Box::new(Forget)))
}

/// The failure is no longer kept over a restart either.
struct Forget;

impl Job for Forget {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Persisted(result) => {
                result.map_err(|_| Sense::new(Key::HardwareError, Asc::INTERNAL_TARGET_FAILURE))?;
                Ok(Step::Done(call.good()))
            }
            _ => Ok(Step::Persist),
        }
    }
}

/// The overwrite parameter list (SBC-3 table 91): passes in reverse order.
fn overwrite_passes(call: &mut Call<'_>, declared: usize) -> Result<Vec<Pass>, Sense> {
    let block = 1usize << call.unit().shift;
    if declared < 5 || declared > block + 4 {
        return Err(Sense::field(7));
    }
    let list = call.parameter_list(declared, block + 4)?;
    let (invert, test, count) = (flag(&list, 0, 7), (list[0] >> 5) & 3, list[0] & 0x1f);
    if test != 0 {
        return Err(Sense::parameter_bit(0, 6));
    }
    if count == 0 {
        return Err(Sense::parameter_bit(0, 4));
    }
    let len = usize::from(be16(&list, 2));
    let Some(pattern) = list.get(4..4 + len).filter(|p| !p.is_empty() && p.len() <= block) else {
        return Err(Sense::parameter(2));
    };
    let whole: Vec<u8> = pattern.iter().copied().cycle().take(block).collect();
    let inverted: Vec<u8> = whole.iter().map(|b| !b).collect();
    Ok((0..count)
        .rev()
        .map(|n| Pass::Pattern(if invert && n % 2 == 1 { inverted.clone() } else { whole.clone() }))
        .collect())
}

/// SBC-3 5.4: the medium is formatted as it is; its blocks read as zeroes afterwards.
fn format(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let (long, with_data) = (flag(cdb, 1, 5), flag(cdb, 1, 4));
    let mut immediate = false;
    if with_data {
        let header = if long { 8 } else { 4 };
        let list = call.parameter_list(header, 8)?;
        if list[0] != 0 {
            return Err(Sense::parameter(0).into());
        }
        // FOV with DPRY, DCRT and STPF says how defects are treated that are not there; IP brings a pattern.
        if list[1] & 0x0d != 0 {
            return Err(Sense::parameter(1).into());
        }
        immediate = flag(&list, 1, 1);
        let defects = if long { be32(&list, 4) } else { u32::from(be16(&list, 2)) };
        if defects != 0 || (long && list[3] != 0) {
            return Err(Sense::parameter(if long { 4 } else { 2 }).into());
        }
    }
    let unmap = call.unit().lock().config.thin;
    begin(call, Kind::Format, vec![Pass::Zero { unmap }], immediate, false)
}

fn begin(
    call: &mut Call<'_>,
    kind: Kind,
    passes: Vec<Pass>,
    immediate: bool,
    may_exit: bool,
) -> Result<Outcome, Refusal> {
    let unit = call.unit();
    let mut state = unit.lock();
    match state.activity {
        Activity::Idle => {}
        Activity::Failed { kind: failed, .. } if failed == kind => {}
        other => other.refusal()?,
    }
    state.activity = Activity::Running { kind, fraction: 0, may_exit };
    drop(state);
    unit.moved();
    let size = unit.blocks() << unit.shift;
    let total = passes.len() as u64;
    let work = Work {
        guard: Guard { unit: std::sync::Arc::clone(unit), kind, may_exit, ended: false },
        passes,
        total,
        size,
        at: 0,
        extents: Vec::new(),
        block: Vec::new(),
        immediate,
        due: Mono::ZERO,
        stage: Stage::Note,
    };
    Ok(Outcome::Job(Box::new(work)))
}

/// One way over all of the unit.
enum Pass {
    /// Every block is this.
    Pattern(Vec<u8>),
    /// Zeroes, written as data, over what is mapped.
    ZeroMapped,
    /// Zeroes in whatever way the device makes them.
    Zero { unmap: bool },
}

enum Stage {
    /// That it began is noted where it outlives the daemon.
    Note,
    /// The range is waited for.
    Hold,
    Map,
    Write,
    /// The next write is not due yet.
    Pause,
    Flush,
    /// That it ended is noted.
    Clear,
}

/// A unit whose work was given up in the middle is marked as failed.
struct Guard {
    unit: std::sync::Arc<LogicalUnit>,
    kind: Kind,
    may_exit: bool,
    ended: bool,
}

impl Guard {
    fn set(&self, activity: Activity) {
        self.unit.lock().activity = activity;
        self.unit.moved();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.ended {
            self.set(Activity::Failed { kind: self.kind, may_exit: self.may_exit });
        }
    }
}

/// Bytes that are written, mapped, and zeroed at once.
const PIECE: u64 = 1 << 20;
const WINDOW: u64 = 64 << 20;
const ZERO_PIECE: u64 = 1 << 30;

struct Work {
    guard: Guard,
    /// What is left, the next one last.
    passes: Vec<Pass>,
    total: u64,
    size: u64,
    at: u64,
    /// Mapped ranges of the present window that are not zeroed yet, the next one last.
    extents: Vec<Range>,
    /// What the present pass writes to each block.
    block: Vec<u8>,
    immediate: bool,
    /// When the next write is due.
    due: Mono,
    stage: Stage,
}

impl Job for Work {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let failed = Sense::new(Key::HardwareError, Asc::INTERNAL_TARGET_FAILURE);
        match (&self.stage, input) {
            (Stage::Note, Input::Persisted(Ok(()))) => {
                self.stage = Stage::Hold;
                if self.immediate { Ok(Step::Reply(call.good())) } else { Ok(self.hold(call)) }
            }
            (Stage::Note, Input::Persisted(Err(_))) => Err(failed.into()),
            (Stage::Note, _) => Ok(Step::Persist),
            (Stage::Hold, Input::Replied) => Ok(self.hold(call)),
            (Stage::Hold, _) if !call.holds() => Ok(Step::Wait),
            (Stage::Hold, _) => Ok(self.next(call, Bufs::new())),
            (Stage::Clear, Input::Persisted(result)) => {
                // Noted or not, the work is done; a restart would only find it failed.
                if result.is_err() {
                    tracing::error!("the end of a sanitize operation could not be made durable");
                }
                Ok(if self.immediate { Step::Finished } else { Step::Done(call.good()) })
            }
            (_, Input::Io { result: Err(e), .. }) => {
                let write = !matches!(self.stage, Stage::Map);
                tracing::error!(error = %e, "a sanitize or format operation failed");
                Err(Sense::from_io(&e, write, call.unit().shift).into())
            }
            (Stage::Map, Input::Io { extents, .. }) => {
                let end = (self.at + WINDOW).min(self.size);
                self.extents = extents
                    .iter()
                    .filter(|e| e.state == ExtentState::Mapped)
                    .map(|e| Range {
                        start: e.offset.max(self.at),
                        end: e.offset.saturating_add(e.len).min(end),
                    })
                    .filter(|r| r.start < r.end)
                    .collect();
                self.extents.reverse();
                self.at = end;
                Ok(self.next(call, Bufs::new()))
            }
            (Stage::Flush, _) => {
                self.passes.pop();
                self.at = 0;
                self.block = Vec::new();
                Ok(self.next(call, Bufs::new()))
            }
            (_, Input::Io { bufs, .. }) => {
                let writes = matches!(self.passes.last(), Some(Pass::Pattern(_) | Pass::ZeroMapped));
                if writes && call.cx.now < self.due {
                    self.stage = Stage::Pause;
                    return Ok(Step::Pause(self.due));
                }
                Ok(self.next(call, bufs))
            }
            (Stage::Pause, _) => Ok(self.next(call, Bufs::new())),
            _ => Ok(Step::Wait),
        }
    }

    fn outlives_abort(&self) -> bool {
        true
    }
}

impl Work {
    fn hold(&mut self, call: &mut Call<'_>) -> Step {
        if call.hold(Range { start: 0, end: u64::MAX }, true) {
            self.next(call, Bufs::new())
        } else {
            Step::Wait
        }
    }

    /// The next operation of the present pass, its flush, or the end of all.
    fn next(&mut self, call: &Call<'_>, bufs: Bufs) -> Step {
        self.tell();
        let (at, size) = (self.at, self.size);
        let op = match self.passes.last() {
            None => return self.end(),
            Some(Pass::Zero { unmap }) if at < size => {
                self.stage = Stage::Write;
                let len = (size - at).min(ZERO_PIECE);
                self.at += len;
                IoOp::WriteZeroes { offset: at, len, unmap: *unmap }
            }
            Some(Pass::Pattern(block)) if at < size => {
                if self.block.is_empty() {
                    self.block = block.clone();
                }
                let end = (at + PIECE).min(size);
                self.at = end;
                self.write(call, Range { start: at, end }, bufs)
            }
            Some(Pass::ZeroMapped) if !self.extents.is_empty() => {
                if self.block.is_empty() {
                    self.block = vec![0; 1 << call.unit().shift];
                }
                self.zero_extent(call, bufs)
            }
            Some(Pass::ZeroMapped) if at < size => {
                self.stage = Stage::Map;
                IoOp::Map { offset: at, len: (size - at).min(WINDOW) }
            }
            Some(_) => {
                self.stage = Stage::Flush;
                IoOp::Flush
            }
        };
        Step::Io { on: None, op }
    }

    fn zero_extent(&mut self, call: &Call<'_>, bufs: Bufs) -> IoOp {
        let Some(r) = self.extents.last_mut() else {
            self.stage = Stage::Flush;
            return IoOp::Flush;
        };
        // Whole blocks: what a window cuts is aligned, and so is what a device maps, to blocks or more.
        let block = 1u64 << call.unit().shift;
        let start = r.start - r.start % block;
        let end = r.end.next_multiple_of(block).min(start + PIECE);
        r.start = end;
        if r.start >= r.end {
            self.extents.pop();
        }
        self.write(call, Range { start, end }, bufs)
    }

    fn write(&mut self, call: &Call<'_>, range: Range, mut bufs: Bufs) -> IoOp {
        self.stage = Stage::Write;
        let len = range.end - range.start;
        let takes = Duration::from_nanos(len * 1_000_000_000 / SANITIZE_BYTES_PER_SECOND_MAX);
        self.due = self.due.max(call.cx.now) + takes;
        if crate::rw::total(&bufs) < len {
            bufs.clear();
            let mut b = call.cx.pool.get(len as usize);
            b.chunks_mut(self.block.len()).for_each(|c| c.copy_from_slice(&self.block[..c.len()]));
            bufs.push(b);
        }
        crate::rw::cut(&mut bufs, len);
        IoOp::Write { offset: range.start, bufs, fua: false }
    }

    /// How far it is.
    fn tell(&self) {
        let done = (self.total - self.passes.len() as u64) * self.size + self.at;
        let all = (self.total * self.size).max(1);
        let fraction = (u128::from(done) * 65536 / u128::from(all)).min(65535) as u16;
        // Told without moving the epoch: nobody passes or fails otherwise than before.
        let (kind, may_exit) = (self.guard.kind, self.guard.may_exit);
        self.guard.unit.lock().activity = Activity::Running { kind, fraction, may_exit };
    }

    fn end(&mut self) -> Step {
        self.guard.ended = true;
        self.guard.set(Activity::Idle);
        self.stage = Stage::Clear;
        Step::Persist
    }
}
