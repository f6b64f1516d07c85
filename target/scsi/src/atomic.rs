//! Commands that are atomic for all others (SBC-3 5.2 COMPARE AND WRITE, 5.10 ORWRITE; SBC-4 5.48 WRITE ATOMIC): they
//! hold their range exclusively, and reads notice them (see [`crate::rw`]).

use block::{Buf, Bufs, Pool};

use crate::cdb::{be16, be64, u8_at};
use crate::inquiry::atomic_unit;
use crate::limits::ATOMIC_BLOCKS_MAX;
use crate::opcodes::{Access, Entry, WRITES};
use crate::range_lock::Range;
use crate::rw::{Span, asks_fua, no_protection, take_exactly, total, transfer_span};
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::unit::AtomicWrite;
use crate::{Input, IoOp, Step};

const fn entry(opcode: u8, name: &'static str, usage: &'static [u8], handler: crate::task::Handler) -> Entry {
    Entry {
        opcode,
        service_action: None,
        name,
        usage,
        access: Access::Write,
        needs: WRITES,
        seconds: 30,
        handler,
    }
}

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    entry(
        0x89,
        "COMPARE AND WRITE",
        &[0x89, 0xfa, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 255, 0x3f, 0x04],
        compare_and_write,
    ),
    entry(
        0x8b,
        "ORWRITE(16)",
        &[0x8b, 0xfa, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
        or_write,
    ),
    entry(
        0x9c,
        "WRITE ATOMIC(16)",
        &[0x9c, 0xf8, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 255, 255, 0x3f, 0x04],
        write_atomic,
    ),
];

/// SBC-3 5.2.
fn compare_and_write(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    no_protection(cdb)?;
    let fua = asks_fua(cdb);
    let span = Span { lba: be64(cdb, 2), blocks: u64::from(u8_at(cdb, 13)) };
    span.check(call.unit())?;
    let range = span.bytes(call.unit());
    let len = range.end - range.start;
    // More data than the count says: the count is wrong (256 blocks, say, which it cannot say).
    if total(&call.command.data_out) > 2 * len {
        call.transfer_len = Some(2 * len);
        return Err(Sense::field(13).into());
    }
    let data = take_exactly(call, 2 * len)?;
    if len == 0 {
        return Ok(Outcome::Good);
    }
    let (compare, write) = split(data, len, call.cx.pool);
    Ok(Atomic::job(range, fua, Then::Compare { compare, write }))
}

/// SBC-3 5.10.
fn or_write(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    no_protection(call.cdb())?;
    let fua = asks_fua(call.cdb());
    let range = transfer_span(call)?.bytes(call.unit());
    let data = take_exactly(call, range.end - range.start)?;
    if data.is_empty() {
        return Ok(Outcome::Good);
    }
    Ok(Atomic::job(range, fua, Then::Or(data)))
}

/// SBC-4 5.48. The ATOMIC BOUNDARY field is zero: this unit has no boundaries.
fn write_atomic(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    no_protection(cdb)?;
    let fua = asks_fua(cdb);
    let span = Span { lba: be64(cdb, 2), blocks: u64::from(be16(cdb, 12)) };
    span.check(call.unit())?;
    if span.blocks > u64::from(ATOMIC_BLOCKS_MAX) {
        return Err(Sense::field(12).into());
    }
    let multiple = u64::from(atomic_unit(call.unit(), &call.unit().lock()).max(1));
    if !span.lba.is_multiple_of(multiple) {
        return Err(Sense::field(2).into());
    }
    if !span.blocks.is_multiple_of(multiple) {
        return Err(Sense::field(12).into());
    }
    let range = span.bytes(call.unit());
    let data = take_exactly(call, range.end - range.start)?;
    if data.is_empty() {
        return Ok(Outcome::Good);
    }
    Ok(Atomic::job(range, fua, Then::Write(data)))
}

/// The first `len` bytes, and the rest. A buffer that has both is divided by a copy.
fn split(bufs: Bufs, len: u64, pool: &Pool) -> (Bufs, Bufs) {
    let (mut head, mut tail) = (Bufs::new(), Bufs::new());
    let mut left = len as usize;
    for mut b in bufs {
        if left == 0 {
            tail.push(b);
        } else if b.len() <= left {
            left -= b.len();
            head.push(b);
        } else {
            let mut rest = pool.get(b.len() - left);
            rest.copy_from_slice(&b[left..]);
            b.truncate(left);
            left = 0;
            head.push(b);
            tail.push(rest);
        }
    }
    (head, tail)
}

/// Where `a` and `b`, of one length, differ first.
pub(crate) fn first_difference(a: &[Buf], b: &[Buf]) -> Option<u64> {
    let (mut i, mut j) = (0, 0);
    let (mut at_a, mut at_b) = (0, 0);
    let mut done = 0u64;
    while i < a.len() && j < b.len() {
        let n = (a[i].len() - at_a).min(b[j].len() - at_b);
        let (x, y) = (&a[i][at_a..at_a + n], &b[j][at_b..at_b + n]);
        if x != y {
            return x.iter().zip(y).position(|(p, q)| p != q).map(|p| done + p as u64);
        }
        done += n as u64;
        at_a += n;
        at_b += n;
        if at_a == a[i].len() {
            (i, at_a) = (i + 1, 0);
        }
        if at_b == b[j].len() {
            (j, at_b) = (j + 1, 0);
        }
    }
    None
}

/// ORs `from` into `into`; both have one length.
fn or_into(into: &mut [Buf], from: &[Buf]) {
    let mut source = from.iter().flat_map(|b| b.iter());
    for (target, bits) in into.iter_mut().flat_map(|b| b.iter_mut()).zip(&mut source) {
        *target |= bits;
    }
}

enum Then {
    Compare {
        compare: Bufs,
        write: Bufs,
    },
    Or(Bufs),
    Write(Bufs),
    /// The write is under way.
    Finish,
}

/// Holds the range, reads it where it must, writes once.
struct Atomic {
    range: Range,
    fua: bool,
    then: Then,
    under_way: Option<AtomicWrite>,
}

impl Atomic {
    fn job(range: Range, fua: bool, then: Then) -> Outcome {
        Outcome::Job(Box::new(Atomic { range, fua, then, under_way: None }))
    }

    fn begin(&mut self, call: &Call<'_>) -> Step {
        match std::mem::replace(&mut self.then, Then::Finish) {
            Then::Write(data) => self.write(call, data),
            then => {
                self.then = then;
                let len = (self.range.end - self.range.start) as u32;
                Step::Io { on: None, op: IoOp::Read { offset: self.range.start, len } }
            }
        }
    }

    fn write(&mut self, call: &Call<'_>, bufs: Bufs) -> Step {
        self.under_way = Some(call.unit().atomic_write());
        let fua = self.fua || call.unit().write_through();
        Step::Io { on: None, op: IoOp::Write { offset: self.range.start, bufs, fua } }
    }
}

impl Job for Atomic {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let shift = call.unit().shift;
        match input {
            Input::Start if !call.hold(self.range, true) => Ok(Step::Wait),
            Input::Woken if !call.holds() => Ok(Step::Wait),
            Input::Io { result, mut bufs, .. } => match std::mem::replace(&mut self.then, Then::Finish) {
                Then::Finish => {
                    self.under_way = None;
                    result.map_err(|e| Sense::from_io(&e, true, shift))?;
                    Ok(Step::Done(call.good()))
                }
                Then::Compare { compare, write } => {
                    result.map_err(|e| Sense::from_io(&e, false, shift))?;
                    if let Some(offset) = first_difference(&compare, &bufs) {
                        let miscompare = Sense::new(Key::Miscompare, Asc::MISCOMPARE_DURING_VERIFY);
                        return Err(miscompare.at(offset).into());
                    }
                    Ok(self.write(call, write))
                }
                Then::Or(data) => {
                    result.map_err(|e| Sense::from_io(&e, false, shift))?;
                    debug_assert_eq!(total(&bufs), total(&data));
                    or_into(&mut bufs, &data);
                    Ok(self.write(call, bufs))
                }
                Then::Write(data) => Ok(self.write(call, data)),
            },
            _ => Ok(self.begin(call)),
        }
    }
}
