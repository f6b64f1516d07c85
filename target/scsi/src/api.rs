//! What passes between a task and the engine that runs it.

use std::sync::Arc;

use base::Mono;
use block::{Bufs, Extent, IoError, Pool};
use smallvec::SmallVec;

use crate::LogicalUnit;

/// An I_T nexus, unique within the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u64);

/// The initiator's port (RFC 7143 4.4.1: name and ISID).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPort {
    /// iSCSI name.
    pub name: String,
    /// Initiator session id.
    pub isid: [u8; 6],
}

/// The target's port (name and target portal group).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPort {
    /// iSCSI name.
    pub name: String,
    /// Target portal group tag; also the relative target port identifier and the ALUA target port group.
    pub portal_group: u16,
}

/// Who talks to whom.
#[derive(Clone, Debug)]
pub struct Nexus {
    /// Its identifier.
    pub id: NexusId,
    /// The initiator's side.
    pub initiator: Arc<InitiatorPort>,
    /// The target's side.
    pub target: Arc<TargetPort>,
}

/// Task attribute (SAM-5 8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attribute {
    /// No attribute was given.
    Untagged,
    /// SIMPLE.
    #[default]
    Simple,
    /// ORDERED.
    Ordered,
    /// HEAD OF QUEUE.
    HeadOfQueue,
    /// ACA.
    Aca,
}

/// A command with all of its write data.
#[derive(Debug, Default)]
pub struct Command {
    /// The CDB, at its real length (6 to 260 bytes).
    pub cdb: SmallVec<[u8; 16]>,
    /// Task attribute.
    pub attribute: Attribute,
    /// Bytes that the initiator takes at most.
    pub expected_in: u32,
    /// Bytes that the initiator said it sends.
    pub expected_out: u32,
    /// What it sent.
    pub data_out: Bufs,
}

/// One operation on a device.
#[derive(Debug)]
pub enum IoOp {
    /// Read `len` bytes; the engine brings the buffers.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write the buffers.
    Write {
        /// First byte.
        offset: u64,
        /// Data.
        bufs: Bufs,
        /// On the medium before completion.
        fua: bool,
    },
    /// Put completed writes on the medium.
    Flush,
    /// Free the space.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Make it read as zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Free the space where that still reads as zeroes.
        unmap: bool,
    },
    /// What is mapped.
    Map {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// Whose tasks to abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Victims {
    /// Every task of the unit but the one that asks.
    All,
    /// Those of these nexuses.
    Nexuses(Vec<NexusId>),
}

/// What a task wants next.
#[derive(Debug)]
pub enum Step {
    /// Run `op` on `on`, or on the task's own unit; resume with [`Input::Io`].
    Io {
        /// Another unit (third-party copy).
        on: Option<Arc<LogicalUnit>>,
        /// The operation.
        op: IoOp,
    },
    /// Abort tasks of the task's unit on every thread and wait until they are gone; resume with [`Input::Aborted`].
    Abort(Victims),
    /// Make the unit's persistent state durable ([`LogicalUnit::durable_state`]); resume with [`Input::Persisted`].
    Persist,
    /// Wait for the waker that the task took; resume with [`Input::Woken`].
    Wait,
    /// Do nothing until then; resume with [`Input::Woken`].
    Pause(Mono),
    /// Send this reply, and go on in the background; resume with [`Input::Replied`].
    Reply(Reply),
    /// Send this reply; the task is over.
    Done(Reply),
    /// A task that replied before is over.
    Finished,
}

/// What a task is resumed with.
#[derive(Debug)]
pub enum Input {
    /// The first call.
    Start,
    /// The operation ended.
    Io {
        /// How.
        result: Result<(), IoError>,
        /// Its buffers.
        bufs: Bufs,
        /// What [`IoOp::Map`] found.
        extents: Vec<Extent>,
    },
    /// The victims are gone.
    Aborted,
    /// The state is durable, or could not be made so.
    Persisted(Result<(), IoError>),
    /// The waker was called.
    Woken,
    /// The reply is on its way.
    Replied,
}

/// Called once, from any thread, to resume a task that waits.
pub type Waker = Box<dyn FnOnce() + Send>;

/// What a step may use.
pub struct StepContext<'a> {
    /// Now.
    pub now: Mono,
    /// Buffers of the thread.
    pub pool: &'a Pool,
    /// Makes a waker for the task that is stepped.
    pub waker: &'a dyn Fn() -> Waker,
}

/// SAM status (SAM-5 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// GOOD
    Good = 0x00,
    /// CHECK CONDITION
    CheckCondition = 0x02,
    /// CONDITION MET
    ConditionMet = 0x04,
    /// BUSY
    Busy = 0x08,
    /// RESERVATION CONFLICT
    ReservationConflict = 0x18,
    /// TASK SET FULL
    TaskSetFull = 0x28,
    /// ACA ACTIVE
    AcaActive = 0x30,
    /// TASK ABORTED
    TaskAborted = 0x40,
}

/// Data for the initiator.
#[derive(Debug, Default)]
pub enum DataIn {
    /// None.
    #[default]
    None,
    /// Parameter data.
    Bytes(Vec<u8>),
    /// Buffers from the medium, in order.
    Bufs(Bufs),
}

/// The end of a command.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: Status,
    /// Sense data, in the unit's format, for CHECK CONDITION.
    pub sense: Option<Vec<u8>>,
    /// Data for the initiator, not more than `expected_in`.
    pub data_in: DataIn,
    /// Bytes that the command would transfer in its direction if nothing limited it: what residuals are computed from
    /// (RFC 7143 11.4.5.1).
    pub transfer_len: u64,
}
