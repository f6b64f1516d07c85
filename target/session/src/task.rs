//! A SCSI command in its life.
//!
//! ```text
//!   Arriving ──whole PDU──▶ Held (CmdSN not yet due) ──due──▶ Gathering ──all data──▶ Executing ──task_done──▶ (free)
//!                  └───────────────due────────────────────────▲              │
//!      aborted in any of these: (free) at once                               └─aborted─▶ Aborting ──gone──▶ (free)
//! ```

use iscsi::pdu::Tag;
use iscsi::serial::Serial;

use crate::api::{ConnId, SessionId, TaskId};
use crate::write::WriteData;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskState {
    /// Its PDU is still coming; it is in no table but its own.
    Arriving,
    /// Complete or not, but its CmdSN is not due.
    Held,
    /// Data is still coming.
    Gathering,
    /// With the engine.
    Executing,
    /// With the engine, to be stopped.
    Aborting,
    /// Over, but its connection is lost; its reply waits for a reassignment (recovery level 2).
    Replied,
}

/// See the module.
pub(crate) struct Task {
    pub id: TaskId,
    pub session: SessionId,
    /// The connection of its allegiance.
    pub conn: ConnId,
    pub itt: Tag,
    pub lun: u64,
    pub cmd_sn: Serial,
    pub immediate: bool,
    pub state: TaskState,
    pub command: scsi::Command,
    pub write: WriteData,
    /// It waits in the session's queue for room.
    pub waits_for_room: bool,
    /// What it takes of the session's budget.
    pub budget: usize,
    /// What the initiator takes.
    pub expected_in: u32,
    /// What the initiator sends.
    pub expected_out: u32,
    /// In [`TaskState::Replied`].
    pub reply: Option<Box<scsi::Reply>>,
    /// When its data moved last.
    pub last_data: base::Mono,
}
