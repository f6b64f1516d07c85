//! Third-party copy (SPC-4 5.16): EXTENDED COPY(LID1), RECEIVE COPY RESULTS, and the vital product data that tell of them.
//!
//! ```text
//!  parameter list ──▶ [`list`]: checked, units resolved ──▶ [`job`]: piece by piece: read, write ──▶ status
//!                                                                   └──▶ [`results`]: what RECEIVE COPY RESULTS tells
//! ```
//!
//! The unit is its own copy manager. Sources and destinations are the disks of the target that the same nexus may use,
//! named by the designators of their device identification page; for each of them everything that would stop a READ or
//! WRITE of the nexus (gate, reservation, access state, readiness, write protection) stops the copy.

mod job;
mod list;
mod results;

use crate::cdb::be32;
use crate::opcodes::{Access, Entry, Needs, UNIT};
use crate::sense::Refusal;
use crate::task::{Call, Inventory, Outcome, Prepared};
use crate::{Command, LogicalUnit};

pub(crate) use list::List;
pub(crate) use results::Copies;

/// CSCD descriptors of one command.
const CSCDS_MAX: usize = 16;
/// Segment descriptors of one command.
const SEGMENTS_MAX: usize = 64;
/// Bytes of CSCD and segment descriptors of one command.
const DESCRIPTOR_BYTES_MAX: usize = 4096;
/// Bytes that one segment copies: all that the block count of a block to block descriptor can say, of 512-byte blocks.
const SEGMENT_BYTES_MAX: u32 = 32 << 20;
/// Copies of one unit that run at the same time.
const RUNNING_MAX: usize = 16;
/// Ended copies of one unit whose results are kept.
const HELD_MAX: usize = 64;
/// log2 of DATA SEGMENT GRANULARITY, bytes.
const GRANULARITY: u8 = 9;
/// Segment descriptor types, then CSCD descriptor types, in ascending order.
const DESCRIPTOR_TYPES: [u8; 3] = [list::BLOCK_TO_BLOCK, list::BLOCK_TO_BLOCK_OFFSET, list::IDENTIFICATION];

/// Disks alone copy.
const NEEDS: Needs = Needs { any_kind: false, ..UNIT };

/// Entries of RECEIVE COPY RESULTS; in CDB USAGE DATA the service action stands as it is.
macro_rules! result {
    ($action:literal, $name:literal, $handler:path) => {
        Entry {
            opcode: 0x84,
            service_action: Some($action),
            name: $name,
            usage: &[0x84, $action, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04],
            access: Access::Write,
            needs: NEEDS,
            seconds: 10,
            handler: $handler,
        }
    };
}

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0x83,
        service_action: Some(0x00),
        name: "EXTENDED COPY(LID1)",
        usage: &[0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04],
        access: Access::Write,
        needs: NEEDS,
        seconds: 60,
        handler: extended_copy,
    },
    result!(0x00, "RECEIVE COPY STATUS(LID1)", results::status),
    result!(0x01, "RECEIVE COPY DATA(LID1)", results::data),
    result!(0x03, "RECEIVE COPY OPERATING PARAMETERS", results::operating_parameters),
    result!(0x04, "RECEIVE COPY FAILURE DETAILS(LID1)", results::failure_details),
];

/// Reads the parameter list of an EXTENDED COPY and asks the target for its units; nothing for other commands.
pub(crate) fn prepare(command: &Command, inventory: &dyn Inventory) -> Prepared {
    if command.cdb.get(1).is_none_or(|b| b & 0x1f != 0) {
        return Prepared::Nothing;
    }
    let len = be32(&command.cdb, 10) as usize;
    Prepared::Copy(Box::new(list::gather(&command.data_out, len).and_then(|bytes| {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut list = List::parse(&bytes)?;
        list.resolve(inventory);
        Ok(Some(list))
    })))
}

/// SPC-4 6.4.
fn extended_copy(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    call.transfer_len = Some(u64::from(be32(call.cdb(), 10)));
    let prepared = std::mem::take(call.prepared);
    let Prepared::Copy(list) = prepared else { return Ok(Outcome::Good) };
    // No parameter list: nothing to do, which is not an error (SPC-4 6.4).
    let Some(list) = (*list)? else { return Ok(Outcome::Good) };
    let record = call.unit().lock().copies.begin(call.at.nexus.id, list.id, list.discards)?;
    Ok(Outcome::Job(Box::new(job::Copy::new(call.unit(), list, record))))
}

/// Third-party copy VPD page, 8Fh, after its header (SPC-4 7.8.17).
pub(crate) fn vital_product_data(b: &mut crate::cdb::Builder) {
    let mut commands: Vec<(u8, Vec<u8>)> = Vec::new();
    for e in COMMANDS {
        let action = e.service_action.unwrap_or(0) as u8;
        match commands.last_mut() {
            Some((opcode, actions)) if *opcode == e.opcode => actions.push(action),
            _ => commands.push((e.opcode, vec![action])),
        }
    }
    let mut text = Vec::new();
    for (opcode, actions) in commands {
        text.extend([opcode, actions.len() as u8]);
        text.extend(actions);
    }
    let mut counted = |kind: u16, data: &[u8], count_bytes: usize| {
        let count = (data.len() as u16).to_be_bytes();
        let len = (count_bytes + data.len()).next_multiple_of(4);
        b.u16(kind);
        b.u16(len as u16);
        b.bytes(&count[2 - count_bytes..]);
        b.bytes(data);
        b.zeroes(len - count_bytes - data.len());
    };
    // Supported Commands, Supported Descriptors, Supported CSCD IDs.
    counted(0x0001, &text, 1);
    let mut parameters = crate::cdb::Builder::default();
    parameters.zeroes(4);
    parameters.u16(CSCDS_MAX as u16);
    parameters.u16(SEGMENTS_MAX as u16);
    parameters.u32(DESCRIPTOR_BYTES_MAX as u32);
    parameters.u32(0);
    parameters.zeroes(12);
    counted(0x0004, &parameters.0, 0);
    counted(0x0008, &DESCRIPTOR_TYPES, 1);
    counted(0x000c, &list::THIS_UNIT.to_be_bytes(), 2);
    let mut general = crate::cdb::Builder::default();
    general.u32(RUNNING_MAX as u32);
    general.u32(RUNNING_MAX as u32);
    general.u32(SEGMENT_BYTES_MAX);
    general.bytes(&[GRANULARITY, 0]);
    general.zeroes(18);
    counted(0x8001, &general.0, 0);
}

/// Whether a descriptor of a disk may name this unit.
fn is_disk(unit: &LogicalUnit) -> bool {
    unit.kind == crate::LuKind::Disk
}
