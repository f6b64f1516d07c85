//! VERIFY and WRITE AND VERIFY (SBC-3 5.29 to 5.31, 5.40 to 5.42).

use block::Bufs;

use crate::atomic::first_difference;
use crate::cdb::u8_at;
use crate::opcodes::{Access, Entry, READS, WRITES};
use crate::range_lock::Range;
use crate::rw::{Span, no_protection, take_blocks, take_exactly, total, transfer_span};
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::{Input, IoOp, Step};

const fn verify_entry(opcode: u8, name: &'static str, usage: &'static [u8]) -> Entry {
    Entry {
        opcode,
        service_action: None,
        name,
        usage,
        access: Access::Read,
        needs: READS,
        seconds: 60,
        handler: verify,
    }
}

const fn write_entry(opcode: u8, name: &'static str, usage: &'static [u8]) -> Entry {
    Entry {
        opcode,
        service_action: None,
        name,
        usage,
        access: Access::Write,
        needs: WRITES,
        seconds: 60,
        handler: write_and_verify,
    }
}

/// This module's commands. Byte 1 has VRPROTECT or WRPROTECT, DPO and BYTCHK.
pub(crate) const COMMANDS: &[Entry] = &[
    write_entry(0x2e, "WRITE AND VERIFY(10)", &[0x2e, 0xf6, 255, 255, 255, 255, 0x1f, 255, 255, 0x04]),
    verify_entry(0x2f, "VERIFY(10)", &[0x2f, 0xf6, 255, 255, 255, 255, 0x1f, 255, 255, 0x04]),
    write_entry(
        0x8e,
        "WRITE AND VERIFY(16)",
        &[0x8e, 0xf6, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
    ),
    verify_entry(
        0x8f,
        "VERIFY(16)",
        &[0x8f, 0xf6, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
    ),
    write_entry(
        0xae,
        "WRITE AND VERIFY(12)",
        &[0xae, 0xf6, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 0x04],
    ),
    verify_entry(0xaf, "VERIFY(12)", &[0xaf, 0xf6, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 0x04]),
];

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

fn byte_check(cdb: &[u8]) -> u8 {
    (u8_at(cdb, 1) >> 1) & 3
}

fn verify(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    no_protection(call.cdb())?;
    let (span, against) = match byte_check(call.cdb()) {
        // No data are transferred: the length is limited by the unit alone.
        0 => {
            let span = Span::of(call.cdb());
            span.check(call.unit())?;
            call.transfer_len = Some(0);
            (span, Against::Nothing)
        }
        1 => {
            let span = transfer_span(call)?;
            (span, Against::Data(take_exactly(call, span.blocks << call.unit().shift)?))
        }
        3 => {
            let span = Span::of(call.cdb());
            span.check(call.unit())?;
            let len = if span.blocks == 0 { 0 } else { 1 << call.unit().shift };
            (span, Against::Block(take_exactly(call, len)?))
        }
        _ => return Err(Sense::field_bit(1, 2).into()),
    };
    if span.blocks == 0 {
        return Ok(Outcome::Good);
    }
    let range = span.bytes(call.unit());
    let lock = !matches!(against, Against::Nothing);
    Ok(Outcome::Job(Box::new(Verify { range, at: range.start, against, write: Write::No, lock })))
}

fn write_and_verify(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    no_protection(call.cdb())?;
    let check = byte_check(call.cdb());
    if check > 1 {
        return Err(Sense::field_bit(1, 2).into());
    }
    let mut range = transfer_span(call)?.bytes(call.unit());
    let data = take_blocks(call, range.end - range.start)?;
    if data.is_empty() {
        return Ok(Outcome::Good);
    }
    range.end = range.start + total(&data);
    let (against, lock) = (Against::Nothing, true);
    let write = Write::Due { data, compare: check == 1 };
    Ok(Outcome::Job(Box::new(Verify { range, at: range.start, against, write, lock })))
}

enum Against {
    /// That it can be read is enough.
    Nothing,
    /// What of the data was not compared yet.
    Data(Bufs),
    /// Every block is this one.
    Block(Bufs),
}

enum Write {
    No,
    Due { data: Bufs, compare: bool },
    UnderWay { compare: bool },
}

/// Writes where it must, on the medium, then reads the range piece by piece and compares.
struct Verify {
    range: Range,
    at: u64,
    against: Against,
    write: Write,
    lock: bool,
}

impl Job for Verify {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let shift = call.unit().shift;
        match input {
            Input::Start if self.lock && !call.hold(self.range, false) => Ok(Step::Wait),
            Input::Woken if !call.holds() => Ok(Step::Wait),
            Input::Io { result, bufs, .. } => {
                if let Write::UnderWay { compare } = self.write {
                    result.map_err(|e| Sense::from_io(&e, true, shift))?;
                    self.write = Write::No;
                    if compare {
                        self.against = Against::Data(bufs);
                    }
                    return Ok(self.read());
                }
                result.map_err(|e| Sense::from_io(&e, false, shift))?;
                self.at += total(&bufs);
                self.compare(&bufs, call)?;
                if self.at < self.range.end { Ok(self.read()) } else { Ok(Step::Done(call.good())) }
            }
            _ => Ok(self.begin()),
        }
    }
}

impl Verify {
    fn begin(&mut self) -> Step {
        match std::mem::replace(&mut self.write, Write::No) {
            Write::Due { data, compare } => {
                self.write = Write::UnderWay { compare };
                Step::Io { on: None, op: IoOp::Write { offset: self.range.start, bufs: data, fua: true } }
            }
            _ => self.read(),
        }
    }

    fn read(&self) -> Step {
        let len = (self.range.end - self.at).min(PIECE) as u32;
        Step::Io { on: None, op: IoOp::Read { offset: self.at, len } }
    }

    fn compare(&mut self, read: &Bufs, call: &Call<'_>) -> Result<(), Sense> {
        let miscompare = Err(Sense::new(Key::Miscompare, Asc::MISCOMPARE_DURING_VERIFY));
        match &mut self.against {
            Against::Nothing => Ok(()),
            Against::Data(data) => {
                if first_difference(data, read).is_some() {
                    return miscompare;
                }
                drop_front(data, total(read));
                Ok(())
            }
            Against::Block(data) => {
                let block: Vec<u8> = data.iter().flat_map(|b| b.iter().copied()).collect();
                let equal = read.iter().all(|b| b.chunks(1 << call.unit().shift).all(|c| c == block));
                if equal { Ok(()) } else { miscompare }
            }
        }
    }
}

/// Drops the first `len` bytes.
fn drop_front(bufs: &mut Bufs, len: u64) {
    let mut left = len as usize;
    bufs.retain(|b| {
        let n = left.min(b.len());
        b.advance(n);
        left -= n;
        !b.is_empty()
    });
}
