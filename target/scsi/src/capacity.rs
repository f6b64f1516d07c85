//! READ CAPACITY (SBC-3 5.15, 5.16).

use crate::cdb::{Builder, be32, be64, flag};
use crate::inquiry::physical_exponent;
use crate::opcodes::{Access, Entry, Needs, READS};
use crate::sense::{Refusal, Sense};
use crate::task::{Call, Outcome};

/// Not affected by reservations (SBC-3 table 13).
const NEEDS: Needs = Needs { passes_gate: false, ..READS };

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x25,
        service_action: None,
        name: "READ CAPACITY(10)",
        usage: &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0x04],
        access: Access::Always,
        needs: NEEDS,
        seconds: 10,
        handler: read_capacity_10,
    },
    Entry {
        opcode: 0x9e,
        service_action: Some(0x10),
        name: "READ CAPACITY(16)",
        usage: &[0x9e, 0x1f, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x01, 0x04],
        access: Access::Always,
        needs: NEEDS,
        seconds: 10,
        handler: read_capacity_16,
    },
];

/// Without PMI the address must be zero (SBC-3 5.15.2).
fn check_pmi(pmi: bool, lba: u64) -> Result<(), Sense> {
    if !pmi && lba != 0 { Err(Sense::field(2)) } else { Ok(()) }
}

fn read_capacity_10(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    check_pmi(flag(cdb, 8, 0), u64::from(be32(cdb, 2)))?;
    let last = call.unit().blocks().saturating_sub(1);
    let mut b = Builder::default();
    // A unit that is larger says so: use READ CAPACITY(16).
    b.u32(u32::try_from(last).unwrap_or(u32::MAX));
    b.u32(1 << call.unit().shift);
    Ok(Outcome::Data { bytes: b.0, allocation_len: 8 })
}

fn read_capacity_16(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    check_pmi(flag(cdb, 14, 0), be64(cdb, 2))?;
    let allocation_len = be32(cdb, 10);
    let unit = call.unit();
    let state = unit.lock();
    let mut b = Builder::default();
    b.u64(unit.blocks().saturating_sub(1));
    b.u32(1 << unit.shift);
    b.u8(0); // no protection
    b.u8(physical_exponent(unit, &state));
    let provisioned = if state.config.thin { 0xc000 } else { 0 }; // LBPME, LBPRZ
    b.u16(provisioned | (state.config.la_lba & 0x3fff));
    b.zeroes(16);
    Ok(Outcome::Data { bytes: b.0, allocation_len })
}
