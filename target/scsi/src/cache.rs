//! SYNCHRONIZE CACHE and PRE-FETCH (SBC-3 5.8, 5.9, 5.26, 5.27).

use block::IoError;

use crate::cdb::flag;
use crate::opcodes::{Access, Entry, READS};
use crate::range_lock::Range;
use crate::rw::Span;
use crate::sense::{Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::{Input, IoOp, Reply, Status, Step};

const fn entry(
    opcode: u8,
    name: &'static str,
    usage: &'static [u8],
    access: Access,
    handler: crate::task::Handler,
) -> Entry {
    Entry { opcode, service_action: None, name, usage, access, needs: READS, seconds: 60, handler }
}

/// This module's commands. SYNC_NV, which is obsolete, is taken and ignored.
pub(crate) const COMMANDS: &[Entry] = &[
    entry(
        0x34,
        "PRE-FETCH(10)",
        &[0x34, 0x02, 255, 255, 255, 255, 0x1f, 255, 255, 0x04],
        Access::Read,
        prefetch,
    ),
    entry(
        0x35,
        "SYNCHRONIZE CACHE(10)",
        &[0x35, 0x06, 255, 255, 255, 255, 0x1f, 255, 255, 0x04],
        Access::Write,
        synchronize,
    ),
    entry(
        0x90,
        "PRE-FETCH(16)",
        &[0x90, 0x02, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
        Access::Read,
        prefetch,
    ),
    entry(
        0x91,
        "SYNCHRONIZE CACHE(16)",
        &[0x91, 0x06, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
        Access::Write,
        synchronize,
    ),
];

/// The whole cache is synchronized whatever the range (SBC-3 5.26 allows more than was asked for).
fn synchronize(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    Span::of(call.cdb()).check(call.unit())?;
    let immediate = flag(call.cdb(), 1, 1);
    Ok(Outcome::Job(Box::new(Synchronize { immediate })))
}

/// With IMMED the status goes out first; an error is then reported as deferred (SPC-4 4.5.7).
struct Synchronize {
    immediate: bool,
}

impl Job for Synchronize {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Start if self.immediate => Ok(Step::Reply(call.good())),
            Input::Io { result: Err(e), .. } => Err(self.failed(call, e)),
            Input::Io { .. } if self.immediate => Ok(Step::Finished),
            Input::Io { .. } => Ok(Step::Done(call.good())),
            _ => Ok(Step::Io { on: None, op: IoOp::Flush }),
        }
    }
}

impl Synchronize {
    fn failed(&self, call: &Call<'_>, error: IoError) -> Refusal {
        let sense = Sense::from_io(&error, true, call.unit().shift);
        if self.immediate {
            call.unit().defer(call.at.nexus.id, sense);
        }
        sense.into()
    }
}

/// Bytes that one PRE-FETCH brings into the cache at most.
const PREFETCH_MAX: u64 = 16 << 20;
const PIECE: u64 = 1 << 20;

/// CONDITION MET where all blocks were fetched, GOOD where only some were.
fn prefetch(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let mut span = Span::of(call.cdb());
    span.check(call.unit())?;
    if span.blocks == 0 {
        span.blocks = call.unit().blocks() - span.lba;
    }
    let all = span.bytes(call.unit());
    let end = all.end.min(all.start + PREFETCH_MAX);
    let status = if end == all.end { Status::ConditionMet } else { Status::Good };
    let immediate = flag(call.cdb(), 1, 1);
    Ok(Outcome::Job(Box::new(Prefetch { left: Range { start: all.start, end }, status, immediate })))
}

/// Reads what the device then has in its cache, and forgets it.
struct Prefetch {
    left: Range,
    status: Status,
    immediate: bool,
}

impl Job for Prefetch {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Start if self.immediate => return Ok(Step::Reply(self.reply(call))),
            Input::Io { result, .. } => result.map_err(|e| Sense::from_io(&e, false, call.unit().shift))?,
            _ => {}
        }
        if self.left.start >= self.left.end {
            let done = if self.immediate { Step::Finished } else { Step::Done(self.reply(call)) };
            return Ok(done);
        }
        let (offset, len) = (self.left.start, (self.left.end - self.left.start).min(PIECE));
        self.left.start += len;
        Ok(Step::Io { on: None, op: IoOp::Read { offset, len: len as u32 } })
    }
}

impl Prefetch {
    fn reply(&self, call: &Call<'_>) -> Reply {
        Reply { status: self.status, ..call.good() }
    }
}
