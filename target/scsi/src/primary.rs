//! Commands of every unit (SPC-4 6): TEST UNIT READY, REQUEST SENSE.

use crate::opcodes::{Access, Entry, UNIT_ANY_TIME};
use crate::sense::Refusal;
use crate::task::{Call, Outcome};

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[Entry {
    opcode: 0x00,
    service_action: None,
    name: "TEST UNIT READY",
    usage: &[0x00, 0, 0, 0, 0, 0x04],
    access: Access::Always,
    needs: UNIT_ANY_TIME,
    seconds: 10,
    handler: test_unit_ready,
}];

/// SPC-4 6.47.
fn test_unit_ready(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    call.unit().ready()?;
    Ok(Outcome::Good)
}
