//! What passes between the machine and the engine that drives it: ids, batches, actions, and what a login asks.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use base::{Entropy, Mono};
use block::{Buf, Pool};
use iscsi::chap::{Account, Algorithm};
use iscsi::params::{ConnectionParams, SessionParams, Settings};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The slot: small, reused, good as an index into a table of the engine.
            pub fn index(self) -> usize {
                (self.0 & 0xffff_ffff) as usize
            }
        }

        impl crate::slots::SlotId for $name {
            fn make(index: u32, generation: u32) -> Self {
                $name(u64::from(index) | u64::from(generation) << 32)
            }

            #[inline]
            fn parts(self) -> (usize, u32) {
                (self.index(), (self.0 >> 32) as u32)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.index(), self.0 >> 32)
            }
        }
    };
}

id! {
    /// A connection of this machine: slot and generation. A stale id is ignored wherever it is given.
    ConnId
}
id! {
    /// A session of this machine: slot and generation.
    SessionId
}
id! {
    /// A SCSI command of this machine: slot and generation.
    TaskId
}
id! {
    /// A task management function that the engine carries out: slot and generation.
    TmfId
}

/// Greatest FirstBurstLength: the unsolicited data of a full command window must leave room for R2Ts.
pub const FIRST_BURST_MAX: u32 = base::limits::RECV_DATA_SEGMENT_MAX;

const _: () = {
    let unsolicited = FIRST_BURST_MAX as usize
        * (base::limits::COMMANDS_PER_SESSION_MAX + base::limits::IMMEDIATE_COMMANDS_PER_SESSION_MAX)
            as usize;
    assert!(
        unsolicited + base::limits::TRANSFER_BYTES_MAX as usize <= base::limits::SESSION_WRITE_BYTES_MAX,
        "commands that hold unsolicited data could keep each other from ever getting the rest"
    );
};

/// What every call gets from outside.
pub struct Cx<'a> {
    /// Now.
    pub now: Mono,
    /// Buffers of the thread.
    pub pool: &'a Pool,
    /// Unpredictable bytes.
    pub entropy: &'a mut dyn Entropy,
    /// What exists and who may use it.
    pub directory: &'a mut dyn Directory,
}

/// The ends of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The initiator's address.
    pub peer: SocketAddr,
    /// The address that it came to.
    pub local: SocketAddr,
    /// The portal group of that address.
    pub portal_group: u16,
}

/// How a machine is set up. [`MachineConfig::default`] takes every limit from `base::limits`.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The number of the machine's thread, as [`Directory::register_session`] and [`Directory::find_session`] name it.
    pub thread: u32,
    /// Connections that this machine holds at most.
    pub connections_max: usize,
    /// Connections before the end of their login that this machine holds at most.
    pub unauthenticated_max: usize,
    /// Sessions (discovery included) that this machine holds at most.
    pub sessions_max: usize,
    /// Seconds that a login may take.
    pub login_seconds_max: u64,
    /// Seconds without progress of a pending send before the connection is dropped.
    pub tx_stall_seconds_max: u64,
    /// Write data of one session that is gathered at a time, bytes; not below
    /// `base::limits::TRANSFER_BYTES_MAX` plus the unsolicited data of a full command window.
    pub session_write_bytes_max: usize,
    /// Replies queued on one connection before it is not read any more, bytes.
    pub connection_tx_bytes_max: usize,
}

impl Default for MachineConfig {
    fn default() -> Self {
        use base::limits as l;
        MachineConfig {
            thread: 0,
            connections_max: l::CONNECTIONS_MAX,
            unauthenticated_max: l::CONNECTIONS_UNAUTHENTICATED_MAX,
            sessions_max: l::SESSIONS_MAX,
            login_seconds_max: l::LOGIN_SECONDS_MAX,
            tx_stall_seconds_max: l::TX_STALL_SECONDS_MAX,
            session_write_bytes_max: l::SESSION_WRITE_BYTES_MAX,
            connection_tx_bytes_max: l::CONNECTION_TX_BYTES_MAX,
        }
    }
}

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The machine holds as many connections as it may.
    #[error("too many connections (limit {0})")]
    TooManyConnections(usize),
    /// Too many connections have not finished their login.
    #[error("too many connections that are not logged in (limit {0})")]
    TooManyUnauthenticated(usize),
}

/// Room for the next bytes of a connection, in this order: the rest of a data segment straight into a command's own
/// buffer, then headers and small payloads. The views of both are exactly the free room.
#[derive(Debug)]
pub struct RxBatch {
    /// Where a large data segment goes, without a copy.
    pub direct: Option<Buf>,
    /// Where everything after it goes.
    pub staging: Buf,
}

/// A piece of a [`TxBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Of `headers`.
    Header {
        /// First byte.
        start: u32,
        /// Bytes.
        len: u32,
    },
    /// Of `bufs[index]`.
    Buf {
        /// Which.
        index: u32,
        /// First byte.
        start: u32,
        /// Bytes.
        len: u32,
    },
}

/// One send: the segments in their order. The vectors are reused between sends.
#[derive(Debug, Default)]
pub struct TxBatch {
    /// Headers, digests, padding and small payloads.
    pub headers: Vec<u8>,
    /// What to send, in order.
    pub segments: Vec<Segment>,
    /// Data of replies.
    pub bufs: Vec<Buf>,
    /// Bytes of all segments.
    pub total: usize,
}

impl TxBatch {
    /// The bytes of a segment.
    pub fn bytes(&self, segment: Segment) -> &[u8] {
        match segment {
            Segment::Header { start, len } => &self.headers[start as usize..(start + len) as usize],
            Segment::Buf { index, start, len } => {
                &self.bufs[index as usize][start as usize..(start + len) as usize]
            }
        }
    }
}

/// What the engine does next. Drained by [`crate::Machine::poll_action`] after each turn.
#[derive(Debug)]
pub enum Action {
    /// [`crate::Machine::take_tx`] has something, unless a send is out already.
    Transmit(ConnId),
    /// [`crate::Machine::take_rx`] gives room again after it gave none.
    Resume(ConnId),
    /// Run the command. Answered by `task_done`, or after [`Action::AbortTask`] by `task_aborted`.
    Execute {
        /// Its handle.
        task: TaskId,
        /// Its session.
        session: SessionId,
        /// The 8-byte LUN field.
        lun: u64,
        /// The command with all of its write data.
        command: scsi::Command,
    },
    /// Stop the task. Answered by exactly one `task_aborted` when nothing of the task runs any more, or by `task_done`
    /// where it had ended already; a reply is thrown away.
    AbortTask {
        /// Which.
        task: TaskId,
    },
    /// Carry out what concerns more than the session's own tasks (the machine aborts those by itself, in parallel). The
    /// engine calls [`crate::Machine::abort_tasks`] for every other session that is concerned, resets the units, and
    /// answers by `tmf_done` when all of that is over. ABORT TASK SET comes here only for the check of the LUN.
    Manage {
        /// Its handle.
        tmf: TmfId,
        /// The session that asks.
        session: SessionId,
        /// The 8-byte LUN field; 0 for target resets.
        lun: u64,
        /// What to do.
        function: TmfFunction,
    },
    /// The tasks of an [`crate::Machine::abort_tasks`] call are gone.
    TasksAborted {
        /// As given with the call.
        token: u64,
    },
    /// A normal session reached the full feature phase.
    SessionUp {
        /// Which.
        session: SessionId,
    },
    /// A session that was up is over: all of its connections are closed and all of its tasks are gone. The id is dead.
    SessionDown {
        /// Which.
        session: SessionId,
    },
    /// Move the connection to another thread: [`crate::Machine::extract`] here, [`crate::Machine::adopt`] there.
    Handover {
        /// Which.
        conn: ConnId,
        /// Where its session lives.
        thread: u32,
    },
    /// The connection is over and its id dead: shut the socket. Comes exactly once for every connection that was
    /// accepted and not extracted, also after `conn_failed`. Where it ends in order, what was to be sent is sent; a
    /// connection that is given up (no sign of life, reinstatement) is closed with a send still out. A batch that is out
    /// may be given back (it is ignored) or dropped.
    Close(ConnId),
}

/// Task management functions that reach the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TmfFunction {
    /// Abort all tasks of this nexus on the unit; the machine does it, the engine says whether the unit exists.
    AbortTaskSet,
    /// Abort all tasks of all nexuses on the unit.
    ClearTaskSet,
    /// Reset the unit.
    LogicalUnitReset,
    /// Reset all units of the target.
    TargetWarmReset,
    /// Reset all units of the target and close all of its other sessions; the machine closes the asking one.
    TargetColdReset,
}

/// How a task management function ended (RFC 7143 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TmfResponse {
    /// Done.
    Complete,
    /// There is no such unit.
    LunDoesNotExist,
    /// The function is not supported.
    NotSupported,
    /// The function was refused.
    Rejected,
}

/// How a session is closed by management.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// Ask the initiator to log out, and drop the session when it did not within this time.
    AsyncLogout {
        /// The time.
        seconds: u16,
    },
    /// Say that it is dropped, and drop it.
    DropNow,
}

/// An asynchronous message to the initiator (RFC 7143 11.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsyncEvent {
    /// A SCSI asynchronous event with sense data.
    Scsi {
        /// The unit.
        lun: u64,
        /// Sense data.
        sense: Vec<u8>,
    },
    /// The tasks of the unit are being terminated (FastAbort sessions only; nothing is sent on others).
    TasksTerminated {
        /// The unit.
        lun: u64,
    },
}

/// A connection on its way to another thread: what it received so far.
#[derive(Debug)]
pub struct Transfer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) responses_sent: u32,
    pub(crate) deadline: Mono,
}

/// Counters of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// SCSI commands received.
    pub commands: u64,
    /// SCSI responses sent, with those inside Data-In.
    pub responses: u64,
    /// PDUs received.
    pub pdus_in: u64,
    /// PDUs sent.
    pub pdus_out: u64,
    /// Data of writes received, bytes.
    pub bytes_in: u64,
    /// Data of reads sent, bytes.
    pub bytes_out: u64,
    /// Header and data digest errors.
    pub digest_errors: u64,
    /// PDUs that broke the protocol.
    pub format_errors: u64,
}

/// A connection of a session.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: ConnId,
    /// Connection id of the initiator.
    pub cid: u16,
    /// Its ends.
    pub peer: PeerInfo,
    /// What was negotiated.
    pub params: ConnectionParams,
}

/// A session, as management shows it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Target.
    pub tid: i32,
    /// Names, ISID and portal group.
    pub key: Arc<SessionKey>,
    /// InitiatorAlias, where one was given.
    pub initiator_alias: Option<String>,
    /// The session's handle at the target.
    pub tsih: u16,
    /// Its connections.
    pub connections: Vec<ConnectionInfo>,
    /// What was negotiated.
    pub params: SessionParams,
    /// Counters.
    pub stats: Stats,
    /// SCSI commands in flight.
    pub tasks: u32,
}

/// What identifies a session in the world (RFC 7143 4.4.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Initiator's name.
    pub initiator: String,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// Target's name.
    pub target: String,
    /// Target portal group.
    pub portal_group: u16,
}

/// Who wants to log in or discover.
#[derive(Clone, Debug)]
pub struct Who {
    /// Initiator's name.
    pub initiator: String,
    /// Its address.
    pub peer: SocketAddr,
    /// The address that it came to.
    pub local: SocketAddr,
    /// The portal group of that address.
    pub portal_group: u16,
}

/// What authentication a login needs.
#[derive(Clone, Debug, Default)]
pub struct AuthPolicy {
    /// Who may log in; empty: anybody, without authentication.
    pub incoming: Vec<Account>,
    /// How the target proves itself to initiators that ask for it.
    pub outgoing: Option<Account>,
    /// CHAP algorithms that are allowed, best first; empty: all that are known.
    pub algorithms: Vec<Algorithm>,
}

/// Where a portal is reached, as SendTargets and redirects name it: an address, or a host name with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortalAddress {
    /// An address.
    Socket(SocketAddr),
    /// A name; an IPv6 address in brackets.
    Host(String, u16),
}

impl fmt::Display for PortalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortalAddress::Socket(a) => write!(f, "{a}"),
            PortalAddress::Host(h, p) => write!(f, "{h}:{p}"),
        }
    }
}

/// A target as SendTargets shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetListing {
    /// iSCSI name.
    pub name: String,
    /// Its portals with their portal group tags.
    pub portals: Vec<(PortalAddress, u16)>,
}

/// A target that an initiator may log in to.
#[derive(Clone, Debug)]
pub struct TargetLogin {
    /// Its number.
    pub tid: i32,
    /// iSCSI name.
    pub name: String,
    /// TargetAlias; empty: none.
    pub alias: String,
    /// What authentication it needs.
    pub auth: AuthPolicy,
    /// What it negotiates. Unsolicited data is bounded to [`FIRST_BURST_MAX`], and data is always in order.
    pub params: Settings,
    /// Seconds without input after which the initiator is asked for a sign of life; 0: never.
    pub nop_interval: u32,
    /// Unanswered questions before the connection is dropped.
    pub nop_count: u32,
    /// Commands in flight of one session, at most `base::limits::COMMANDS_PER_SESSION_MAX`.
    pub max_queue_cmd: u32,
}

/// Why a login goes no further (RFC 7143 11.13.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginRefusal {
    /// 0x0203: there is no such target.
    NotFound,
    /// 0x0204: the target was there and is gone.
    Removed,
    /// 0x0202: this initiator may not use it.
    NotAuthorized,
    /// 0x0301: it is offline or fenced.
    Unavailable,
    /// 0x0302: out of resources.
    OutOfResources,
    /// 0x0101 or 0x0102: it is elsewhere.
    Redirect {
        /// Where.
        to: PortalAddress,
        /// For ever.
        permanent: bool,
    },
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPlace {
    /// The machine's thread.
    pub thread: u32,
    /// The session's handle.
    pub tsih: u16,
}

/// The answer to [`Directory::register_session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionSlot {
    /// The session is this thread's now.
    Registered {
        /// A handle that no other session of the daemon has; not 0.
        tsih: u16,
    },
    /// A session of this key lives on that thread (which may be the asking one).
    OnThread(u32),
    /// There are as many sessions as there may be.
    Full,
}

/// What a login asks the daemon. Every question is answered at once.
pub trait Directory {
    /// Authentication of discovery sessions.
    fn discovery_auth(&self) -> AuthPolicy;
    /// The targets that `who` may see.
    fn visible_targets(&self, who: &Who) -> Vec<TargetListing>;
    /// Whether `who` may log in to `target`.
    fn login(&self, who: &Who, target: &str) -> Result<TargetLogin, LoginRefusal>;
    /// Makes the session of `key` that of `thread`, atomically over all threads.
    fn register_session(&mut self, key: &SessionKey, thread: u32) -> SessionSlot;
    /// Where the session of `key` is.
    fn find_session(&self, key: &SessionKey) -> Option<SessionPlace>;
    /// The session is over.
    fn unregister_session(&mut self, key: &SessionKey, tsih: u16);
}
