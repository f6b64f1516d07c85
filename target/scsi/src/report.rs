//! What the unit can do: REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4 6.35, 6.36).

use crate::cdb::{Builder, be16, be32, flag, u8_at};
use crate::opcodes::{self, Access, Entry, UNIT_ANY_TIME};
use crate::sense::{Refusal, Sense};
use crate::task::{Call, Outcome};

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0xa3,
        service_action: Some(0x0c),
        name: "REPORT SUPPORTED OPERATION CODES",
        usage: &[0xa3, 0x0c, 0x87, 255, 255, 255, 255, 255, 255, 255, 0, 0x04],
        access: Access::Read,
        needs: UNIT_ANY_TIME,
        seconds: 10,
        handler: operation_codes,
    },
    Entry {
        opcode: 0xa3,
        service_action: Some(0x0d),
        name: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        usage: &[0xa3, 0x0d, 0x80, 0, 0, 0, 255, 255, 255, 255, 0, 0x04],
        access: Access::Read,
        needs: UNIT_ANY_TIME,
        seconds: 10,
        handler: task_management,
    },
];

fn operation_codes(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let timeouts = flag(cdb, 2, 7);
    let (opcode, action) = (u8_at(cdb, 3), be16(cdb, 4));
    let allocation_len = be32(cdb, 6);
    let unit = call.unit();
    let thin = unit.lock().config.thin;
    let here = |e: &&Entry| e.exists(unit.kind, thin);
    let bytes = match u8_at(cdb, 2) & 0x07 {
        0 => all(opcodes::table().filter(here), timeouts),
        option @ 1..=3 => {
            let with_action = opcodes::table().any(|e| e.opcode == opcode && e.service_action.is_some());
            match option {
                1 if with_action => return Err(Sense::field_bit(2, 2).into()),
                2 if !with_action => return Err(Sense::field_bit(2, 2).into()),
                _ => {}
            }
            let wanted = with_action.then_some(action);
            // Of a command without service actions there is no action but 0.
            let exists = with_action || action == 0 || option == 1;
            let found = opcodes::table()
                .filter(here)
                .find(|e| exists && e.opcode == opcode && e.service_action == wanted);
            one(found, timeouts)
        }
        _ => return Err(Sense::field_bit(2, 2).into()),
    };
    Ok(Outcome::Data { bytes, allocation_len })
}

/// A command timeouts descriptor (SPC-4 6.35.4).
fn timeouts_descriptor(e: &Entry, b: &mut Builder) {
    b.u16(0x000a);
    b.u16(0);
    b.u32(u32::from(e.seconds));
    b.u32(u32::from(e.seconds));
}

fn all(entries: impl Iterator<Item = &'static Entry>, timeouts: bool) -> Vec<u8> {
    let mut b = Builder::default();
    b.u32(0);
    for e in entries {
        b.u8(e.opcode);
        b.u8(0);
        b.u16(e.service_action.unwrap_or(0));
        b.u8(0);
        b.u8(u8::from(timeouts) << 1 | u8::from(e.service_action.is_some()));
        b.u16(e.usage.len() as u16);
        if timeouts {
            timeouts_descriptor(e, &mut b);
        }
    }
    b.patch_len32(0);
    b.0
}

fn one(entry: Option<&Entry>, timeouts: bool) -> Vec<u8> {
    let mut b = Builder::default();
    b.u8(0);
    let Some(e) = entry else {
        b.bytes(&[0x01, 0, 0]); // SUPPORT: not supported
        return b.0;
    };
    b.u8(u8::from(timeouts) << 7 | 0x03); // SUPPORT: as the standard says
    b.u16(e.usage.len() as u16);
    b.bytes(e.usage);
    if timeouts {
        timeouts_descriptor(e, &mut b);
    }
    b.0
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, target reset.
const FUNCTIONS: u8 = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;

fn task_management(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let allocation_len = be32(call.cdb(), 6);
    if allocation_len < 4 {
        return Err(Sense::field(6).into());
    }
    let mut b = Builder::default();
    b.bytes(&[FUNCTIONS, 0, 0, 0]);
    if flag(call.cdb(), 2, 7) {
        // The extended format; no timeouts are promised.
        b.0[3] = 0x0c;
        b.zeroes(12);
    }
    Ok(Outcome::Data { bytes: b.0, allocation_len })
}
