//! START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.25, SPC-4 6.15), and the defect lists that a unit without
//! defects has (SBC-3 5.17, 5.18).

use crate::cdb::{Builder, be16, be32, flag, u8_at};
use crate::opcodes::{Access, Entry, Needs, READS, UNIT};
use crate::sense::{Asc, Refusal, Sense};
use crate::task::{Call, Job, Outcome};
use crate::{Input, IoOp, LogicalUnit, NexusId, Step};

const DISK: Needs = Needs { any_kind: false, ..UNIT };

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x1b,
        service_action: None,
        name: "START STOP UNIT",
        usage: &[0x1b, 0x01, 0, 0x0f, 0xf7, 0x04],
        access: Access::Write,
        needs: DISK,
        seconds: 60,
        handler: start_stop,
    },
    Entry {
        opcode: 0x1e,
        service_action: None,
        name: "PREVENT ALLOW MEDIUM REMOVAL",
        usage: &[0x1e, 0, 0, 0, 0x03, 0x04],
        access: Access::Own,
        needs: DISK,
        seconds: 10,
        handler: prevent_allow,
    },
    Entry {
        opcode: 0x37,
        service_action: None,
        name: "READ DEFECT DATA(10)",
        usage: &[0x37, 0, 0x1f, 0, 0, 0, 0, 255, 255, 0x04],
        access: Access::Read,
        needs: READS,
        seconds: 10,
        handler: defects_10,
    },
    Entry {
        opcode: 0xb7,
        service_action: None,
        name: "READ DEFECT DATA(12)",
        usage: &[0xb7, 0x1f, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0x04],
        access: Access::Read,
        needs: READS,
        seconds: 10,
        handler: defects_12,
    },
];

/// There is no motor: START and power conditions change nothing, STOP puts the cache on the medium, and LOEJ without a
/// power condition loads and ejects.
fn start_stop(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let power_condition = u8_at(cdb, 4) >> 4;
    let (no_flush, load_eject, start) = (flag(cdb, 4, 2), flag(cdb, 4, 1), flag(cdb, 4, 0));
    let unit = call.unit();
    if power_condition != 0 {
        return Ok(Outcome::Good);
    }
    if load_eject && !unit.lock().config.removable {
        return Err(Sense::field_bit(4, 1).into());
    }
    // Prevented is LOEJ either way: a medium may not be changed.
    if load_eject && unit.removal_prevented() {
        return Err(Sense::illegal(Asc::REMOVAL_PREVENTED).into());
    }
    if start {
        if load_eject {
            unit.load(call.at.nexus.id);
        }
        return Ok(Outcome::Good);
    }
    let loaded = unit.lock().ready().is_ok();
    if !loaded || no_flush {
        if load_eject {
            unit.eject()?;
        }
        return Ok(Outcome::Good);
    }
    Ok(Outcome::Job(Box::new(Stop { eject: load_eject })))
}

/// Puts the cache on the medium, then ejects.
struct Stop {
    eject: bool,
}

impl Job for Stop {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Io { result, .. } => {
                result.map_err(|e| Sense::from_io(&e, true, call.unit().shift))?;
                if self.eject {
                    call.unit().eject()?;
                }
                Ok(Step::Done(call.good()))
            }
            _ => Ok(Step::Io { on: None, op: IoOp::Flush }),
        }
    }
}

impl LogicalUnit {
    /// Takes the medium out, unless somebody prevents it.
    fn eject(&self) -> Result<(), Sense> {
        let mut state = self.lock();
        if state.nexuses.values().any(|n| n.prevents_removal) {
            return Err(Sense::illegal(Asc::REMOVAL_PREVENTED));
        }
        state.ejected = true;
        drop(state);
        self.moved();
        Ok(())
    }

    /// Puts the medium in; the other nexuses hear of it.
    fn load(&self, by: NexusId) {
        let mut state = self.lock();
        if std::mem::take(&mut state.ejected) {
            state.raise(Asc::MEDIUM_MAY_HAVE_CHANGED, Some(by));
        }
        drop(state);
        self.moved();
    }
}

fn prevent_allow(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let prevent = match u8_at(call.cdb(), 4) {
        0 => false,
        1 => true,
        // 10b and 11b are obsolete.
        _ => return Err(Sense::field_bit(4, 1).into()),
    };
    if let Some(entry) = call.unit().lock().nexuses.get_mut(&call.at.nexus.id) {
        entry.prevents_removal = prevent;
    }
    Ok(Outcome::Good)
}

/// An empty list of the kind and in the format that was asked for: byte 1 of the reply repeats them.
fn defects_10(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let mut b = Builder::default();
    b.bytes(&[0, u8_at(cdb, 2) & 0x1f, 0, 0]);
    Ok(Outcome::Data { bytes: b.0, allocation_len: u32::from(be16(cdb, 7)) })
}

fn defects_12(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let mut b = Builder::default();
    b.bytes(&[0, u8_at(cdb, 1) & 0x1f, 0, 0, 0, 0, 0, 0]);
    Ok(Outcome::Data { bytes: b.0, allocation_len: be32(cdb, 6) })
}
