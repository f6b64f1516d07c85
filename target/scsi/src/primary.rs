//! Commands of every unit (SPC-4 6): TEST UNIT READY, REQUEST SENSE, REPORT LUNS.

use crate::cdb::{Builder, be32, flag, u8_at};
use crate::opcodes::{Access, Entry, INFORM, UNIT_ANY_TIME};
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::task::{Call, Outcome, Prepared};

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x00,
        service_action: None,
        name: "TEST UNIT READY",
        usage: &[0x00, 0, 0, 0, 0, 0x04],
        access: Access::Always,
        needs: UNIT_ANY_TIME,
        seconds: 10,
        handler: test_unit_ready,
    },
    Entry {
        opcode: 0x03,
        service_action: None,
        name: "REQUEST SENSE",
        usage: &[0x03, 0x01, 0, 0, 0xff, 0x04],
        access: Access::Always,
        needs: INFORM,
        seconds: 10,
        handler: request_sense,
    },
    Entry {
        opcode: 0xa0,
        service_action: None,
        name: "REPORT LUNS",
        usage: &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04],
        access: Access::Always,
        needs: INFORM,
        seconds: 10,
        handler: report_luns,
    },
];

/// SPC-4 6.47.
fn test_unit_ready(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    call.unit().ready()?;
    Ok(Outcome::Good)
}

/// SPC-4 6.39: a pending unit attention, else why the unit is not ready, else what goes on.
fn request_sense(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let descriptor = flag(call.cdb(), 1, 0);
    let allocation_len = u32::from(u8_at(call.cdb(), 4));
    let mut state = call.unit().lock();
    let pending = state.nexuses.get_mut(&call.at.nexus.id).and_then(|n| n.attentions.take());
    let sense = match pending {
        Some(asc) => Sense::new(Key::UnitAttention, asc),
        None => state.condition(),
    };
    Ok(Outcome::Data { bytes: sense.to_bytes(descriptor), allocation_len })
}

/// SPC-4 6.33.
fn report_luns(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let luns = match std::mem::take(call.prepared) {
        Prepared::Luns(luns) => luns,
        _ => Vec::new(),
    };
    let (bytes, allocation_len) = luns_reply(call.cdb(), &luns)?;
    let mut state = call.unit().lock();
    if let Some(entry) = state.nexuses.get_mut(&call.at.nexus.id) {
        entry.attentions.withdraw(Asc::LUNS_DATA_CHANGED);
    }
    Ok(Outcome::Data { bytes, allocation_len })
}

/// The list that a REPORT LUNS asks for, and its allocation length.
pub(crate) fn luns_reply(cdb: &[u8], luns: &[u64]) -> Result<(Vec<u8>, u32), Sense> {
    let allocation_len = be32(cdb, 6);
    // Room for a header and one LUN (SPC-4 6.33).
    if allocation_len < 16 {
        return Err(Sense::field(6));
    }
    let listed: &[u64] = match u8_at(cdb, 2) {
        0x00 | 0x02 | 0x11 => luns,
        // There are no well-known, administrative or subsidiary logical units.
        0x01 | 0x10 | 0x12 => &[],
        _ => return Err(Sense::field(2)),
    };
    let mut b = Builder::default();
    b.u32((listed.len() * 8) as u32);
    b.u32(0);
    for lun in listed {
        b.u64(*lun);
    }
    Ok((b.0, allocation_len))
}
