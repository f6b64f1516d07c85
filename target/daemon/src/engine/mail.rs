//! What workers are told by each other and by the control plane.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use block::IoError;
use scsi::NexusId;
use target_session::{PeerInfo, Transfer};

use crate::control::backend::{LunHandle, NexusStats, SessionView, Tid};

/// Where the answer to a control-plane question goes.
pub(crate) type Answer<T> = SyncSender<T>;

/// Whose tasks on which units are to be aborted.
#[derive(Clone, Debug)]
pub(crate) struct AbortOrder {
    /// The worker that asked.
    pub from: u32,
    /// Its job.
    pub job: u64,
    /// The units.
    pub units: Arc<[LunHandle]>,
    /// The nexuses; none: every one.
    pub nexuses: Option<Arc<[NexusId]>>,
    /// A nexus whose tasks are left alone, since its own session machine takes care of them.
    pub spare: Option<NexusId>,
    /// Afterwards, close the sessions of these tasks (cold reset).
    pub close: bool,
}

/// One piece of mail.
pub(crate) enum Mail {
    /// A new connection.
    Connection { socket: OwnedFd, peer: PeerInfo },
    /// A connection whose session lives here.
    Adopt { socket: Arc<OwnedFd>, peer: PeerInfo, transfer: Transfer },
    /// A task may go on.
    Wake { key: usize, serial: u64 },
    /// A task's reservation state is durable, or is not.
    Persisted { key: usize, serial: u64, result: Result<(), IoError> },
    /// Abort tasks; answered by `AbortDone`.
    Abort(AbortOrder),
    /// Another worker is done with its part of a job.
    AbortDone { job: u64 },
    /// The snapshot changed: bring sessions up to it.
    Refresh(Answer<()>),
    /// Listen.
    Listen { socket: OwnedFd, address: SocketAddr, tag: u16, answer: Answer<()> },
    /// Listen no more.
    Unlisten { address: SocketAddr, answer: Answer<()> },
    /// How many tasks of the unit are in flight.
    CountTasks { unit: LunHandle, answer: Answer<usize> },
    /// Take the unit away from every session, abort its tasks, and answer when nothing here holds it any more.
    CloseUnit { unit: LunHandle, answer: Answer<()> },
    /// The unit's medium changed: channels are opened anew.
    ReopenUnit { unit: LunHandle, answer: Answer<()> },
    /// Counters of the unit.
    UnitStats { unit: LunHandle, answer: Answer<Vec<NexusStats>> },
    /// Sessions of a target.
    Sessions { tid: Tid, answer: Answer<Vec<SessionView>> },
    /// Drop a connection. Answers whether the session, and whether the connection, was here.
    DropConnection { tid: Tid, sid: u64, cid: u32, answer: Answer<(bool, bool)> },
    /// Drop all sessions of a target; answered when they are gone.
    DropSessions { tid: Tid, answer: Answer<()> },
    /// End the thread.
    Stop,
}
