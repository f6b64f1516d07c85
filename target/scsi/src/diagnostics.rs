//! LOG SENSE, SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-4 6.8, 6.40, 6.31).

use crate::cdb::{Builder, be16, flag, u8_at};
use crate::limits::PARAMETER_BYTES_MAX;
use crate::opcodes::{Access, Entry, UNIT, UNIT_ANY_TIME};
use crate::sense::{Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::{Input, IoOp, LuKind, Step};

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x1c,
        service_action: None,
        name: "RECEIVE DIAGNOSTIC RESULTS",
        usage: &[0x1c, 0x01, 0xff, 0xff, 0xff, 0x04],
        access: Access::Read,
        needs: UNIT,
        seconds: 10,
        handler: receive,
    },
    Entry {
        opcode: 0x1d,
        service_action: None,
        name: "SEND DIAGNOSTIC",
        usage: &[0x1d, 0xf7, 0, 0xff, 0xff, 0x04],
        access: Access::Write,
        needs: UNIT,
        seconds: 30,
        handler: send,
    },
    Entry {
        opcode: 0x4d,
        service_action: None,
        name: "LOG SENSE",
        usage: &[0x4d, 0x01, 0xff, 0xff, 0, 255, 255, 255, 255, 0x04],
        access: Access::Always,
        needs: UNIT_ANY_TIME,
        seconds: 10,
        handler: log_sense,
    },
];

/// The one diagnostic page: which there are (SPC-4 7.2.2).
fn receive(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    if flag(cdb, 1, 0) && u8_at(cdb, 2) != 0 {
        return Err(Sense::field(2).into());
    }
    Ok(Outcome::Data { bytes: vec![0, 0, 0, 1, 0], allocation_len: u32::from(be16(cdb, 3)) })
}

fn send(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let (code, page_format, self_test) = (u8_at(cdb, 1) >> 5, flag(cdb, 1, 4), flag(cdb, 1, 2));
    let declared = usize::from(be16(cdb, 3));
    if self_test {
        if code != 0 {
            return Err(Sense::field_bit(1, 7).into());
        }
        if declared != 0 {
            return Err(Sense::field(3).into());
        }
        if call.unit().kind == LuKind::Controller {
            return Ok(Outcome::Good);
        }
        call.unit().ready()?;
        return Ok(Outcome::Job(Box::new(SelfTest)));
    }
    // There is no background or extended self-test.
    if code != 0 {
        return Err(Sense::field_bit(1, 7).into());
    }
    if declared == 0 {
        return Ok(Outcome::Good);
    }
    let list = call.parameter_list(declared, PARAMETER_BYTES_MAX)?;
    if !page_format || list.len() < 4 || list[0] != 0 || be16(&list, 2) != 0 {
        return Err(Sense::parameter(0).into());
    }
    Ok(Outcome::Good)
}

/// The default self-test: the first block can be read, and the cache can be put on the medium.
struct SelfTest;

impl Job for SelfTest {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let shift = call.unit().shift;
        match input {
            Input::Start if call.unit().blocks() > 0 => {
                Ok(Step::Io { on: None, op: IoOp::Read { offset: 0, len: 1 << shift } })
            }
            Input::Io { result, bufs, .. } if !bufs.is_empty() => {
                result.map_err(|e| Sense::from_io(&e, false, shift))?;
                Ok(Step::Io { on: None, op: IoOp::Flush })
            }
            Input::Io { result, .. } => {
                result.map_err(|e| Sense::from_io(&e, true, shift))?;
                Ok(Step::Done(call.good()))
            }
            _ => Ok(Step::Done(call.good())),
        }
    }
}

/// Supported pages, and informational exceptions (SPC-4 7.3.16, 7.3.7).
const LOG_PAGES: &[(u8, u8)] = &[(0x00, 0x00), (0x00, 0xff), (0x2f, 0x00), (0x2f, 0xff)];

fn log_sense(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    // SP: nothing is saved.
    if flag(cdb, 1, 0) {
        return Err(Sense::field_bit(1, 0).into());
    }
    let (page, subpage, pointer) = (u8_at(cdb, 2) & 0x3f, u8_at(cdb, 3), be16(cdb, 5));
    // The values of every PC are the same: nothing is counted.
    let mut b = Builder::default();
    b.u8(page | if subpage != 0 { 0x40 } else { 0 });
    b.u8(subpage);
    b.u16(0);
    match (page, subpage) {
        (0x00, 0x00) => LOG_PAGES.iter().filter(|p| p.1 == 0).for_each(|p| b.u8(p.0)),
        (0x00, 0xff) => LOG_PAGES.iter().for_each(|p| b.bytes(&[p.0, p.1])),
        (0x2f, 0xff) => LOG_PAGES.iter().filter(|p| p.0 == 0x2f).for_each(|p| b.bytes(&[p.0, p.1])),
        // Parameter 0000h: no exception, no temperature.
        (0x2f, 0x00) if pointer == 0 => b.bytes(&[0, 0, 0x03, 4, 0, 0, 0xff, 0]),
        (0x2f, 0x00) => return Err(Sense::field(5).into()),
        _ => return Err(Sense::field_bit(2, 5).into()),
    }
    b.patch_len16(2);
    Ok(Outcome::Data { bytes: b.0, allocation_len: u32::from(be16(cdb, 7)) })
}
