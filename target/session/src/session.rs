//! A session: its command window, its tasks by tag, its connections and its counters.
//!
//! RFC 7143 8.3 (target side): a session is made by the final Login Response of its leading connection (Q2 LOGGED_IN),
//! may outlive its last connection at recovery level 2 (Q3 FAILED, until `retain_until`), and goes down when it is
//! closed, reinstated or times out: its tasks are aborted, and it is gone when the last of them is.
//!
//! The window (RFC 7143 4.2.2.1): `MaxCmdSN = ExpCmdSN - 1 + (queue - commands in flight)`, so that commands in flight are
//! bounded and MaxCmdSN never goes back: a command that arrives moves ExpCmdSN and the count alike.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use base::Mono;
use iscsi::pdu::{Request, TargetNumbers, TmfRequest};
use iscsi::serial::Serial;
use smallvec::SmallVec;

use crate::api::{ConnId, SessionId, SessionInfo, TargetLogin, TaskId, TmfId};
use crate::tx::Out;

/// A multiplicative hash: keys are tags of one peer, of which there are few at a time.
#[derive(Default)]
pub(crate) struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u32(u32::from(b));
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

pub(crate) type TagMap<T> = HashMap<u32, T, BuildHasherDefault<TagHasher>>;

/// Whether a session is for commands or for discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Discovery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Up,
    /// No connection is left; tasks may be reassigned (recovery level 2).
    Failed,
    /// Going.
    Down,
}

/// What waits for its CmdSN.
pub(crate) enum Held {
    Task(TaskId),
    Pdu(ConnId, Request, Vec<u8>),
    /// It was aborted; only its number counts.
    Gone,
}

/// What becomes of a PDU by its CmdSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// It is due.
    Due,
    /// Others come first.
    Hold,
    /// Outside the window, or a duplicate: RFC 7143 4.2.2.1 wants silence.
    Ignore,
}

/// See the module.
pub(crate) struct Session {
    pub id: SessionId,
    pub kind: Kind,
    pub life: Life,
    pub info: SessionInfo,
    pub target: Option<Arc<TargetLogin>>,
    pub conns: SmallVec<[ConnId; 2]>,
    pub exp_cmd_sn: Serial,
    pub queue_max: u32,
    /// Non-immediate commands in flight.
    pub active: u32,
    /// Immediate ones.
    pub immediate: u32,
    pub tasks: TagMap<TaskId>,
    pub held: Vec<(Serial, Held)>,
    pub held_bytes: usize,
    /// Task management for a task set, until the commands before it are here.
    pub barriers: Vec<(ConnId, TmfRequest)>,
    pub write_bytes: usize,
    /// Commands whose R2Ts wait for room.
    pub waiting: VecDeque<TaskId>,
    /// Task management and other aborts under way.
    pub jobs: Vec<TmfId>,
    /// Logins that wait until this session is gone.
    pub successors: SmallVec<[ConnId; 1]>,
    /// Responses of lost connections, for a reassignment (recovery level 2).
    pub orphans: Vec<Out>,
    pub announced: bool,
    /// Logins that are about to bring a connection.
    pub expects: u32,
    pub close_by: Mono,
    pub retain_until: Mono,
    pub timer_at: Mono,
    /// When data that was asked for is looked after next (recovery level above 0).
    pub recover_at: Mono,
}

impl Session {
    pub fn new(
        id: SessionId,
        kind: Kind,
        info: SessionInfo,
        target: Option<Arc<TargetLogin>>,
        exp_cmd_sn: Serial,
        queue_max: u32,
    ) -> Self {
        Session {
            id,
            kind,
            life: Life::Up,
            info: SessionInfo { id, ..info },
            target,
            conns: SmallVec::new(),
            exp_cmd_sn,
            queue_max,
            active: 0,
            immediate: 0,
            tasks: TagMap::default(),
            held: Vec::new(),
            held_bytes: 0,
            barriers: Vec::new(),
            write_bytes: 0,
            waiting: VecDeque::new(),
            jobs: Vec::new(),
            successors: SmallVec::new(),
            orphans: Vec::new(),
            announced: false,
            expects: 0,
            close_by: Mono::NEVER,
            retain_until: Mono::NEVER,
            timer_at: Mono::NEVER,
            recover_at: Mono::NEVER,
        }
    }

    /// The numbers that responses carry.
    #[inline]
    pub fn numbers(&self) -> TargetNumbers {
        TargetNumbers { stat_sn: Serial(0), exp_cmd_sn: self.exp_cmd_sn, max_cmd_sn: self.max_cmd_sn() }
    }

    pub fn max_cmd_sn(&self) -> Serial {
        self.exp_cmd_sn.plus(self.queue_max.saturating_sub(self.active)).minus(1)
    }

    /// Looks at a CmdSN; changes nothing.
    #[inline]
    pub fn admit(&self, cmd_sn: Serial, immediate: bool) -> Admit {
        if immediate {
            return Admit::Due;
        }
        if !cmd_sn.within(self.exp_cmd_sn, self.max_cmd_sn()) {
            return Admit::Ignore;
        }
        if cmd_sn == self.exp_cmd_sn {
            return Admit::Due;
        }
        if self.held.iter().any(|(sn, _)| *sn == cmd_sn) { Admit::Ignore } else { Admit::Hold }
    }

    /// What is held for the number that is due now; it is counted as received.
    pub fn next_held(&mut self) -> Option<Held> {
        let at = self.held.iter().position(|(sn, _)| *sn == self.exp_cmd_sn)?;
        self.exp_cmd_sn = self.exp_cmd_sn.next();
        let (_, held) = self.held.swap_remove(at);
        if let Held::Pdu(_, _, data) = &held {
            self.held_bytes -= data.len();
        }
        Some(held)
    }

    /// Bytes that it holds for its peer, beside those of its tasks and connections.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes + self.orphans.iter().map(|o| o.payload.len()).sum::<usize>()
    }

    pub fn recovery_level(&self) -> u8 {
        self.info.params.error_recovery_level
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{SessionKey, Stats};
    use iscsi::params::SessionParams;

    fn session(exp: u32, queue_max: u32) -> Session {
        let key = SessionKey { initiator: "i".into(), isid: [0; 6], target: "t".into(), portal_group: 1 };
        let info = SessionInfo {
            id: SessionId(0),
            tid: 1,
            key: Arc::new(key),
            initiator_alias: None,
            tsih: 1,
            connections: vec![],
            params: SessionParams::default(),
            stats: Stats::default(),
            tasks: 0,
        };
        Session::new(SessionId(0), Kind::Normal, info, None, Serial(exp), queue_max)
    }

    #[test]
    fn window() {
        let mut s = session(0xffff_fffe, 4);
        assert_eq!(s.max_cmd_sn(), Serial(1));
        assert_eq!(s.admit(Serial(0xffff_fffd), false), Admit::Ignore);
        assert_eq!(s.admit(Serial(0xffff_fffe), false), Admit::Due);
        assert_eq!(s.admit(Serial(0), false), Admit::Hold);
        assert_eq!(s.admit(Serial(2), false), Admit::Ignore);
        assert_eq!(s.admit(Serial(77), true), Admit::Due);
        s.held.push((Serial(0), Held::Gone));
        assert_eq!(s.admit(Serial(0), false), Admit::Ignore, "a duplicate");
        s.exp_cmd_sn = s.exp_cmd_sn.next();
        s.active += 1;
        assert_eq!(s.max_cmd_sn(), Serial(1), "what arrives does not move MaxCmdSN");
        assert!(s.next_held().is_none());
        s.exp_cmd_sn = s.exp_cmd_sn.next();
        assert!(matches!(s.next_held(), Some(Held::Gone)));
        assert_eq!(s.exp_cmd_sn, Serial(1));
        s.active = 9;
        assert!(!s.max_cmd_sn().precedes(s.exp_cmd_sn.minus(1)), "the window is closed, not negative");
    }
}
