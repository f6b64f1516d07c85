//! READ and WRITE of all sizes (SBC-3 5.9 to 5.13, 5.34 to 5.39): the fast path. No allocation; a write takes its range
//! shared, a read looks whether an atomic write went on meanwhile and then reads once more with the range held.

use base::limits::TRANSFER_BYTES_MAX;
use block::Bufs;

use crate::cdb::{be16, be24, be32, be64, flag, u8_at};
use crate::opcodes::{Access, Entry, READS, WRITES};
use crate::range_lock::Range;
use crate::sense::{Asc, Refusal, Sense};
use crate::task::{Call, Outcome};
use crate::{DataIn, Input, IoOp, LogicalUnit, Reply, Status, Step};

const fn entry(
    opcode: u8,
    name: &'static str,
    usage: &'static [u8],
    write: bool,
    handler: crate::task::Handler,
) -> Entry {
    Entry {
        opcode,
        service_action: None,
        name,
        usage,
        access: if write { Access::Write } else { Access::Read },
        needs: if write { WRITES } else { READS },
        seconds: 30,
        handler,
    }
}

/// Bits of byte 1: RDPROTECT or WRPROTECT, DPO, FUA, and the obsolete FUA_NV, which is taken and ignored.
const FLAGS: u8 = 0xfa;

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    entry(0x08, "READ(6)", &[0x08, 0x1f, 0xff, 0xff, 0xff, 0x04], false, read),
    entry(0x0a, "WRITE(6)", &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0x04], true, write),
    entry(0x28, "READ(10)", &[0x28, FLAGS, 255, 255, 255, 255, 0x1f, 255, 255, 0x04], false, read),
    entry(0x2a, "WRITE(10)", &[0x2a, FLAGS, 255, 255, 255, 255, 0x1f, 255, 255, 0x04], true, write),
    entry(
        0x88,
        "READ(16)",
        &[0x88, FLAGS, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
        false,
        read,
    ),
    entry(
        0x8a,
        "WRITE(16)",
        &[0x8a, FLAGS, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0x04],
        true,
        write,
    ),
    entry(0xa8, "READ(12)", &[0xa8, FLAGS, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 0x04], false, read),
    entry(0xaa, "WRITE(12)", &[0xaa, FLAGS, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 0x04], true, write),
];

/// LOGICAL BLOCK ADDRESS and the number of blocks, of a CDB in the usual layout of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
}

impl Span {
    pub(crate) fn of(cdb: &[u8]) -> Span {
        match u8_at(cdb, 0) >> 5 {
            0 => {
                let n = u64::from(u8_at(cdb, 4));
                let lba = u64::from(be24(cdb, 1) & 0x1f_ffff);
                Span { lba, blocks: if n == 0 { 256 } else { n } }
            }
            4 => Span { lba: be64(cdb, 2), blocks: u64::from(be32(cdb, 10)) },
            5 => Span { lba: u64::from(be32(cdb, 2)), blocks: u64::from(be32(cdb, 6)) },
            _ => Span { lba: u64::from(be32(cdb, 2)), blocks: u64::from(be16(cdb, 7)) },
        }
    }

    /// Byte of the CDB where the number of blocks begins.
    pub(crate) fn count_at(cdb: &[u8]) -> usize {
        match u8_at(cdb, 0) >> 5 {
            0 => 4,
            4 => 10,
            5 => 6,
            _ => 7,
        }
    }

    /// Whether all of it lies on the unit; an empty span must begin on it too (SBC-3 4.4.2).
    pub(crate) fn check(self, unit: &LogicalUnit) -> Result<(), Sense> {
        let size = unit.blocks();
        if self.lba >= size {
            return Err(Sense::out_of_range(self.lba));
        }
        if self.blocks > size - self.lba {
            return Err(Sense::out_of_range(size));
        }
        Ok(())
    }

    /// As bytes; the span has been checked.
    pub(crate) fn bytes(self, unit: &LogicalUnit) -> Range {
        Range { start: self.lba << unit.shift, end: (self.lba + self.blocks) << unit.shift }
    }
}

/// The span of a command that transfers its blocks, checked against the unit and MAXIMUM TRANSFER LENGTH.
pub(crate) fn transfer_span(call: &Call<'_>) -> Result<Span, Sense> {
    let span = Span::of(call.cdb());
    span.check(call.unit())?;
    if span.blocks > u64::from(TRANSFER_BYTES_MAX) >> call.unit().shift {
        return Err(Sense::field(Span::count_at(call.cdb())));
    }
    Ok(span)
}

/// RDPROTECT, WRPROTECT, VRPROTECT and ORPROTECT: without protection information they must be zero (SBC-3 4.22).
pub(crate) fn no_protection(cdb: &[u8]) -> Result<(), Sense> {
    if u8_at(cdb, 1) & 0xe0 == 0 { Ok(()) } else { Err(Sense::field_bit(1, 7)) }
}

/// FUA. Whoever writes also asks whether the write cache is on ([`LogicalUnit::write_through`]), once it holds its
/// range, so that no write that began with the cache on ends after it was turned off.
pub(crate) fn asks_fua(cdb: &[u8]) -> bool {
    !is_six(cdb) && flag(cdb, 1, 3)
}

/// The six-byte commands have neither FUA nor protection: their byte 1 is address.
fn is_six(cdb: &[u8]) -> bool {
    u8_at(cdb, 0) < 0x20
}

fn sent(call: &Call<'_>) -> u64 {
    call.command.data_out.iter().map(|b| b.len() as u64).sum()
}

/// The write data, at most `len` bytes of it. Where the initiator sent fewer, those blocks are taken that are whole, and
/// the residual tells of the rest (FCP-4 9.4.2 case a, RFC 7143 11.4.5.1); a part of a block is refused (case b).
pub(crate) fn take_blocks(call: &mut Call<'_>, len: u64) -> Result<Bufs, Refusal> {
    call.transfer_len = Some(len);
    if sent(call) < len && !sent(call).is_multiple_of(1 << call.unit().shift) {
        return Err(Sense::illegal(Asc::INVALID_FIELD_IN_INFORMATION_UNIT).into());
    }
    let mut bufs = std::mem::take(&mut call.command.data_out);
    cut(&mut bufs, len);
    Ok(bufs)
}

/// Exactly `len` bytes of write data; a command that cannot be done in part is refused with any other number.
pub(crate) fn take_exactly(call: &mut Call<'_>, len: u64) -> Result<Bufs, Refusal> {
    call.transfer_len = Some(len);
    if sent(call) != len {
        return Err(Sense::illegal(Asc::INVALID_FIELD_IN_INFORMATION_UNIT).into());
    }
    Ok(std::mem::take(&mut call.command.data_out))
}

/// Bytes in all.
pub(crate) fn total(bufs: &Bufs) -> u64 {
    bufs.iter().map(|b| b.len() as u64).sum()
}

/// Keeps the first `len` bytes.
pub(crate) fn cut(bufs: &mut Bufs, len: u64) {
    let mut left = len;
    bufs.retain(|b| {
        let keep = left.min(b.len() as u64);
        b.truncate(keep as usize);
        left -= keep;
        keep > 0
    });
}

/// A READ or WRITE on its way.
pub(crate) struct Transfer {
    range: Range,
    kind: Kind,
}

enum Kind {
    Read {
        /// Bytes that the CDB asks for.
        total: u64,
        /// Atomic writes that had ended when the read began.
        seen: u64,
        locked: bool,
    },
    Write {
        bufs: Bufs,
        fua: bool,
    },
}

fn read(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let span = begin(call)?;
    let whole = span.bytes(call.unit());
    let total = whole.end - whole.start;
    call.transfer_len = Some(total);
    // Blocks that the initiator does not take are not read.
    let block = 1u64 << call.unit().shift;
    let wanted = total.min(u64::from(call.command.expected_in).next_multiple_of(block));
    let range = Range { start: whole.start, end: whole.start + wanted };
    if wanted == 0 {
        return Ok(Outcome::Done(data(Bufs::new(), total)));
    }
    Ok(Outcome::Transfer(Transfer { range, kind: Kind::Read { total, seen: 0, locked: false } }))
}

fn write(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let span = begin(call)?;
    let mut range = span.bytes(call.unit());
    let fua = asks_fua(call.cdb());
    let bufs = take_blocks(call, range.end - range.start)?;
    if bufs.is_empty() {
        return Ok(Outcome::Done(call.good()));
    }
    range.end = range.start + total(&bufs);
    Ok(Outcome::Transfer(Transfer { range, kind: Kind::Write { bufs, fua } }))
}

fn begin(call: &Call<'_>) -> Result<Span, Sense> {
    if !is_six(call.cdb()) {
        no_protection(call.cdb())?;
    }
    transfer_span(call)
}

fn data(bufs: Bufs, total: u64) -> Reply {
    Reply { status: Status::Good, sense: None, data_in: DataIn::Bufs(bufs), transfer_len: total }
}

impl Transfer {
    /// The next step; [`Input::Start`] first.
    pub(crate) fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        match &mut self.kind {
            Kind::Read { total, seen, locked } => match input {
                Input::Io { result, bufs, .. } => {
                    result.map_err(|e| Sense::from_io(&e, false, call.unit().shift))?;
                    if !*locked && call.unit().atomic_begun() != *seen {
                        *locked = true;
                        if !call.hold(self.range, false) {
                            return Ok(Step::Wait);
                        }
                        return Ok(read_step(self.range));
                    }
                    let mut bufs = bufs;
                    cut(&mut bufs, u64::from(call.command.expected_in).min(*total));
                    Ok(Step::Done(data(bufs, *total)))
                }
                Input::Woken if *locked && !call.holds() => Ok(Step::Wait),
                _ => {
                    *seen = call.unit().atomic_ended();
                    Ok(read_step(self.range))
                }
            },
            Kind::Write { bufs, fua } => match input {
                Input::Start if !call.hold(self.range, false) => Ok(Step::Wait),
                Input::Woken if !call.holds() => Ok(Step::Wait),
                Input::Io { result, .. } => {
                    result.map_err(|e| Sense::from_io(&e, true, call.unit().shift))?;
                    Ok(Step::Done(call.good()))
                }
                _ => {
                    let bufs = std::mem::take(bufs);
                    let fua = *fua || call.unit().write_through();
                    Ok(Step::Io { on: None, op: IoOp::Write { offset: self.range.start, bufs, fua } })
                }
            },
        }
    }
}

fn read_step(range: Range) -> Step {
    // Fits: no transfer is above TRANSFER_BYTES_MAX.
    Step::Io { on: None, op: IoOp::Read { offset: range.start, len: (range.end - range.start) as u32 } }
}
