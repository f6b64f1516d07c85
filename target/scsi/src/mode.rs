//! MODE SENSE and MODE SELECT (SPC-4 6.9 to 6.12).

use crate::cdb::{Builder, be16, be24, be32, be64, flag, u8_at};
use crate::config::LuChange;
use crate::limits::PARAMETER_BYTES_MAX;
use crate::mode_pages::{self, PageId, Rejected, Values};
use crate::opcodes::{Access, Entry, Needs, UNIT, UNIT_ANY_TIME};
use crate::range_lock::Range;
use crate::sense::{Asc, Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::unit::State;
use crate::{DataIn, Input, IoOp, LogicalUnit, LuKind, Reply, Status, Step};

/// SBC-3 4.11.2 lets MODE SENSE through during a sanitize operation.
const SENSE_NEEDS: Needs = UNIT_ANY_TIME;

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x15,
        service_action: None,
        name: "MODE SELECT(6)",
        usage: &[0x15, 0x11, 0, 0, 0xff, 0x04],
        access: Access::Write,
        needs: UNIT,
        seconds: 30,
        handler: select,
    },
    Entry {
        opcode: 0x1a,
        service_action: None,
        name: "MODE SENSE(6)",
        usage: &[0x1a, 0x08, 0xff, 0xff, 0xff, 0x04],
        access: Access::Read,
        needs: SENSE_NEEDS,
        seconds: 10,
        handler: sense,
    },
    Entry {
        opcode: 0x55,
        service_action: None,
        name: "MODE SELECT(10)",
        usage: &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04],
        access: Access::Write,
        needs: UNIT,
        seconds: 30,
        handler: select,
    },
    Entry {
        opcode: 0x5a,
        service_action: None,
        name: "MODE SENSE(10)",
        usage: &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x04],
        access: Access::Read,
        needs: SENSE_NEEDS,
        seconds: 10,
        handler: sense,
    },
];

fn wanted(state: &State, page: u8, subpage: u8) -> Result<Vec<PageId>, Sense> {
    let all = mode_pages::list(state);
    let ids: Vec<PageId> = match (page, subpage) {
        (0x3f, 0x00) => all.into_iter().filter(|id| id.1 == 0).collect(),
        (0x3f, 0xff) => all,
        (0x3f, _) => return Err(Sense::field(3)),
        (_, 0xff) => all.into_iter().filter(|id| id.0 == page).collect(),
        _ => all.into_iter().filter(|id| *id == (page, subpage)).collect(),
    };
    if !ids.is_empty() {
        return Ok(ids);
    }
    let known = mode_pages::list(state).iter().any(|id| id.0 == page);
    Err(if known { Sense::field(3) } else { Sense::field_bit(2, 5) })
}

/// SPC-4 6.11, 6.12.
fn sense(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let ten = u8_at(cdb, 0) == 0x5a;
    let values = match u8_at(cdb, 2) >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        _ => return Err(Sense::illegal(Asc::SAVING_NOT_SUPPORTED).into()),
    };
    let (page, subpage) = (u8_at(cdb, 2) & 0x3f, u8_at(cdb, 3));
    let (disable_descriptor, long) = (flag(cdb, 1, 3), ten && flag(cdb, 1, 4));
    let allocation_len = if ten { u32::from(be16(cdb, 7)) } else { u32::from(u8_at(cdb, 4)) };
    let unit = call.unit();
    let state = unit.lock();
    let ids = wanted(&state, page, subpage)?;
    let descriptor = if disable_descriptor || unit.kind == LuKind::Controller {
        Vec::new()
    } else {
        block_descriptor(unit, long)
    };
    let mut b = Builder::default();
    let device = device_specific(unit, &state);
    if ten {
        b.u16(0);
        b.bytes(&[0, device, u8::from(long && !descriptor.is_empty()), 0]);
        b.u16(descriptor.len() as u16);
    } else {
        b.bytes(&[0, 0, device, descriptor.len() as u8]);
    }
    b.bytes(&descriptor);
    for id in ids {
        b.bytes(&mode_pages::page(&state, id, values).unwrap_or_default());
    }
    if ten {
        b.patch_len16(0);
    } else {
        b.0[0] = u8::try_from(b.0.len() - 1).unwrap_or(u8::MAX);
    }
    Ok(Outcome::Data { bytes: b.0, allocation_len })
}

/// WP and DPOFUA (SBC-3 6.5.1).
fn device_specific(unit: &LogicalUnit, state: &State) -> u8 {
    match unit.kind {
        LuKind::Controller => 0,
        LuKind::Disk => 0x10 | if state.writable(unit.features.read_only).is_err() { 0x80 } else { 0 },
    }
}

/// SBC-3 6.5.2.
fn block_descriptor(unit: &LogicalUnit, long: bool) -> Vec<u8> {
    let mut b = Builder::default();
    if long {
        b.u64(unit.blocks());
        b.u32(0);
        b.u32(1 << unit.shift);
    } else {
        b.u32(u32::try_from(unit.blocks()).unwrap_or(u32::MAX));
        b.u32(1 << unit.shift);
    }
    b.0
}

/// SPC-4 6.9, 6.10.
fn select(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let ten = u8_at(cdb, 0) == 0x55;
    let (page_format, save) = (flag(cdb, 1, 4), flag(cdb, 1, 0));
    if !page_format {
        return Err(Sense::field_bit(1, 4).into());
    }
    if save {
        return Err(Sense::field_bit(1, 0).into());
    }
    let declared = if ten { usize::from(be16(cdb, 7)) } else { usize::from(u8_at(cdb, 4)) };
    if declared == 0 {
        return Ok(Outcome::Good);
    }
    let mut list = call.parameter_list(declared, PARAMETER_BYTES_MAX)?;
    list.truncate(declared);
    let change = {
        let state = call.unit().lock();
        parse_list(call.unit(), &state, &list, ten)?
    };
    Ok(Outcome::Job(Box::new(Select { change, stage: Stage::Hold })))
}

/// Header, block descriptors and pages; what they change together.
fn parse_list(unit: &LogicalUnit, state: &State, list: &[u8], ten: bool) -> Result<LuChange, Sense> {
    let header = if ten { 8 } else { 4 };
    if list.len() < header {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH));
    }
    let (descriptors, long) =
        if ten { (usize::from(be16(list, 6)), flag(list, 4, 0)) } else { (usize::from(list[3]), false) };
    let mut at = header + descriptors;
    if at > list.len() {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH));
    }
    check_descriptor(unit, &list[header..at], long, header, if ten { 6 } else { 3 })?;
    let mut change = LuChange::default();
    while at < list.len() {
        at = parse_page(state, list, at, &mut change)?;
    }
    Ok(change)
}

/// The size of unit and blocks cannot be set here.
fn check_descriptor(unit: &LogicalUnit, d: &[u8], long: bool, at: usize, len_at: usize) -> Result<(), Sense> {
    let (blocks, all_ones, block) = match (d.len(), long) {
        (0, _) => return Ok(()),
        (8, false) => (u64::from(be32(d, 0)), u64::from(u32::MAX), be24(d, 5)),
        (16, true) => (be64(d, 0), u64::MAX, be32(d, 12)),
        _ => return Err(Sense::parameter(len_at)),
    };
    if blocks != 0 && blocks != all_ones && blocks != unit.blocks() {
        return Err(Sense::parameter(at));
    }
    if block != 1 << unit.shift {
        return Err(Sense::parameter(at + if long { 12 } else { 5 }));
    }
    Ok(())
}

/// One page at `at`; returns where the next begins.
fn parse_page(state: &State, list: &[u8], at: usize, change: &mut LuChange) -> Result<usize, Sense> {
    let short = || Sense::illegal(Asc::PARAMETER_LIST_LENGTH);
    let first = u8_at(list, at);
    // PS is reserved here (SPC-4 7.5.7).
    if first & 0x80 != 0 {
        return Err(Sense::parameter_bit(at, 7));
    }
    let (id, header, len) = if first & 0x40 != 0 {
        ((first & 0x3f, u8_at(list, at + 1)), 4, usize::from(be16(list, at + 2)))
    } else {
        ((first & 0x3f, 0), 2, usize::from(u8_at(list, at + 1)))
    };
    if !mode_pages::list(state).contains(&id) {
        return Err(Sense::parameter_bit(at, 5));
    }
    let data = list.get(at + header..at + header + len).ok_or_else(short)?;
    match mode_pages::change(state, id, data, change) {
        Ok(()) => Ok(at + header + len),
        Err(Rejected::Length) => Err(Sense::parameter(at + header - if header == 4 { 2 } else { 1 })),
        Err(Rejected::Bit(byte, bit)) => Err(Sense::parameter_bit(at + header + byte, bit)),
    }
}

/// Makes the change. Turning the write cache off waits for the writes that are under way, lets none begin, and puts
/// what is cached on the medium before the change shows.
struct Select {
    change: LuChange,
    stage: Stage,
}

enum Stage {
    Hold,
    Flush,
}

impl Job for Select {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let turns_off = self.change.write_cache == Some(false) && !call.unit().write_through();
        match (&self.stage, input) {
            (Stage::Hold, Input::Start) if turns_off => {
                if !call.hold(Range { start: 0, end: u64::MAX }, true) {
                    return Ok(Step::Wait);
                }
                self.flush()
            }
            (Stage::Hold, Input::Woken) => {
                if !call.holds() {
                    return Ok(Step::Wait);
                }
                self.flush()
            }
            (Stage::Flush, Input::Io { result: Err(e), .. }) => {
                Err(Sense::from_io(&e, true, call.unit().shift).into())
            }
            _ => {
                call.unit().select(&self.change, call.at.nexus.id);
                Ok(Step::Done(Reply {
                    status: Status::Good,
                    sense: None,
                    data_in: DataIn::None,
                    transfer_len: call.transfer_len.unwrap_or(0),
                }))
            }
        }
    }
}

impl Select {
    fn flush(&mut self) -> Result<Step, Refusal> {
        self.stage = Stage::Flush;
        Ok(Step::Io { on: None, op: IoOp::Flush })
    }
}
