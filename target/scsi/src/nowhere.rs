//! Commands to a LUN that has no unit (SPC-4 6.6.2, SAM-5 5.11).

use crate::cdb::{be16, u8_at};
use crate::inquiry::nothing_there;
use crate::primary::luns_reply;
use crate::sense::{Asc, Refusal, Sense};
use crate::{Command, DataIn, Inventory, Reply, Status};

/// The reply to `command`: INQUIRY says that nothing is there, REPORT LUNS lists what is, REQUEST SENSE and all else
/// tell that the unit is not supported.
pub fn no_such_lun(command: &Command, inventory: &dyn Inventory) -> Reply {
    let cdb = &command.cdb[..];
    let not_supported = Sense::illegal(Asc::LOGICAL_UNIT_NOT_SUPPORTED);
    let result: Result<(Vec<u8>, u32), Sense> = match u8_at(cdb, 0) {
        0x12 if u8_at(cdb, 1) == 0 && u8_at(cdb, 2) == 0 => Ok((nothing_there(), u32::from(be16(cdb, 3)))),
        0x12 => Err(Sense::field(1)),
        0xa0 => luns_reply(cdb, &inventory.luns()),
        0x03 => Ok((not_supported.to_bytes(u8_at(cdb, 1) & 1 != 0), u32::from(u8_at(cdb, 4)))),
        _ => Err(not_supported),
    };
    match result {
        Ok((mut bytes, allocation_len)) => {
            bytes.truncate(allocation_len as usize);
            let transfer_len = bytes.len() as u64;
            bytes.truncate(command.expected_in as usize);
            Reply { status: Status::Good, sense: None, data_in: DataIn::Bytes(bytes), transfer_len }
        }
        Err(sense) => Refusal::Sense(sense).reply(false, u64::from(command.expected_out)),
    }
}
