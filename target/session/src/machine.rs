//! The machine's own state and the calls of the engine; the rules live in the modules beside it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::Mono;
use iscsi::pdu::{Bhs, RejectReason, Response};
use iscsi::serial::Serial;

use crate::api::*;
use crate::conn::{Conn, Phase};
use crate::session::Session;
use crate::slots::Slots;
use crate::task::Task;
use crate::tmf::Job;
use crate::tx::{Out, Payload};

/// Batches that are kept for reuse.
const SPARE_BATCHES: usize = 64;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Logged out.
    Clean,
    /// Logged out "for recovery", or replaced by a new connection of the same CID.
    Recovery,
    /// The socket failed or was closed by the peer.
    Lost,
    /// Given up at once.
    Dropped(&'static str),
    /// The peer broke the protocol, or was told that this ends; what is queued still goes out.
    Protocol(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Conn(ConnId),
    Session(SessionId),
}

/// All connections and sessions of one thread.
pub struct Machine {
    pub(crate) config: MachineConfig,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) conns: Slots<ConnId, Conn>,
    pub(crate) sessions: Slots<SessionId, Session>,
    pub(crate) tasks: Slots<TaskId, Task>,
    pub(crate) jobs: Slots<TmfId, Job>,
    pub(crate) by_key: HashMap<Arc<SessionKey>, SessionId>,
    /// Connections before the end of their login.
    pub(crate) unauthenticated: usize,
    timers: BinaryHeap<Reverse<(Mono, Timer)>>,
    spare: Vec<TxBatch>,
}

impl Machine {
    /// A machine without connections.
    pub fn new(config: MachineConfig) -> Self {
        Machine {
            config,
            actions: VecDeque::new(),
            conns: Slots::new(),
            sessions: Slots::new(),
            tasks: Slots::new(),
            jobs: Slots::new(),
            by_key: HashMap::new(),
            unauthenticated: 0,
            timers: BinaryHeap::new(),
            spare: Vec::new(),
        }
    }

    /// Takes a new connection.
    pub fn accept(&mut self, cx: &mut Cx<'_>, peer: PeerInfo) -> Result<ConnId, Refused> {
        let by = cx.now + Duration::from_secs(self.config.login_seconds_max);
        self.add_conn(cx, peer, by)
    }

    fn add_conn(&mut self, cx: &Cx<'_>, peer: PeerInfo, login_by: Mono) -> Result<ConnId, Refused> {
        if self.conns.len() >= self.config.connections_max {
            return Err(Refused::TooManyConnections(self.config.connections_max));
        }
        if self.unauthenticated >= self.config.unauthenticated_max {
            return Err(Refused::TooManyUnauthenticated(self.config.unauthenticated_max));
        }
        self.unauthenticated += 1;
        let id = self.conns.insert_with(|_| Conn::new(peer, cx.now, login_by));
        self.arm_conn(id);
        Ok(id)
    }

    /// Takes a connection that another thread's machine gave away.
    #[allow(clippy::needless_pass_by_value, reason = "a transfer is used up")]
    pub fn adopt(&mut self, cx: &mut Cx<'_>, peer: PeerInfo, from: Transfer) -> Result<ConnId, Refused> {
        let id = self.add_conn(cx, peer, from.deadline)?;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.login_mut().adopted(from.responses_sent);
        }
        for piece in from.bytes.chunks(2048) {
            // What does not fit was sent without waiting for a Login Response, which no initiator may do.
            let Some(mut batch) = self.take_rx(cx, id).filter(|b| b.staging.len() >= piece.len()) else {
                self.end_conn(cx, id, Ending::Protocol("input beyond an unfinished login"));
                break;
            };
            batch.staging[..piece.len()].copy_from_slice(piece);
            self.rx_done(cx, id, batch, piece.len());
        }
        Ok(id)
    }

    /// Gives a connection away, after [`Action::Handover`]; its id is dead.
    pub fn extract(&mut self, id: ConnId) -> Option<Transfer> {
        let conn = self.conns.get(id)?;
        if conn.phase != Phase::Login || !conn.login.as_ref().is_some_and(|l| l.leaves()) {
            return None;
        }
        let conn = self.conns.remove(id)?;
        self.unauthenticated -= 1;
        let mut login = conn.login?;
        let (mut bytes, responses_sent) = login.take_raw();
        bytes.extend_from_slice(&conn.rx.unread());
        Some(Transfer { bytes, responses_sent, deadline: conn.login_by })
    }

    /// The socket failed; [`Action::Close`] follows.
    pub fn conn_failed(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        self.end_conn(cx, id, Ending::Lost);
    }

    /// Drops a connection.
    pub fn drop_connection(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        self.announce_drop(id);
        self.end_conn(cx, id, Ending::Protocol("dropped by management"));
    }

    /// Replies that are ready, up to about `max_segments` pieces (give 128 or more) and `max_bytes`. None while a send
    /// is out or nothing is ready.
    pub fn take_tx(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        max_segments: usize,
        max_bytes: usize,
    ) -> Option<TxBatch> {
        let conn = self.conns.get_mut(id)?;
        conn.announced = false;
        let session = conn.session.and_then(|s| self.sessions.get_mut(s));
        let numbers = match &session {
            Some(session) => session.numbers(),
            None => conn.login_numbers(),
        };
        let spare = &mut self.spare;
        let make = || spare.pop().unwrap_or_default();
        let batch = conn.tx.gather(make, numbers, conn.format, (max_segments, max_bytes))?;
        if let Some(session) = session {
            session.info.stats.pdus_out += std::mem::take(&mut conn.tx.pdus);
            session.info.stats.bytes_out += std::mem::take(&mut conn.tx.data_bytes);
        }
        if conn.tx.since.is_none() {
            conn.tx.since = Some(cx.now);
            self.arm_conn(id);
        }
        Some(batch)
    }

    /// Takes back what [`Machine::take_tx`] gave, with its first `n` bytes sent. The rest is what is given first next
    /// time.
    pub fn tx_done(&mut self, cx: &mut Cx<'_>, id: ConnId, batch: TxBatch, n: usize) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (unacked, bytes) = (&mut conn.unacked, &mut conn.unacked_bytes);
        let spare = conn.tx.done(batch, n, |out| {
            *bytes += out.payload.len();
            unacked.push_back(out);
        });
        self.spare.extend(spare.filter(|_| self.spare.len() < SPARE_BATCHES));
        if conn.tx.idle() {
            conn.tx.since = None;
        } else if n > 0 {
            conn.tx.since = Some(cx.now);
        }
        if conn.unacked.is_empty() {
            // The usual case: nothing is kept at recovery level 0.
        } else {
            self.bound_unacked(id);
        }
        self.after_send(cx, id);
    }

    fn after_send(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if !conn.tx.idle() {
            self.announce(id);
        } else if conn.phase == Phase::Closing {
            self.close_now(cx, id);
            return;
        } else if conn.phase == Phase::Login {
            self.login_sent(id);
        }
        self.resume(id);
    }

    /// Queues a PDU that takes a StatSN.
    pub(crate) fn reply(&mut self, id: ConnId, pdu: &Response, payload: Payload) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let mut bhs: Bhs = [0; 48];
        pdu.encode(&mut bhs);
        let mut out = Out::whole(bhs, payload, conn.next_stat_sn());
        out.keep = conn.keeps;
        conn.tx.push(out);
        self.announce(id);
    }

    /// Queues a PDU that carries the next StatSN and does not take it.
    pub(crate) fn tell(&mut self, id: ConnId, pdu: &Response, payload: Payload) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let mut bhs: Bhs = [0; 48];
        pdu.encode(&mut bhs);
        let out = Out::whole(bhs, payload, conn.stat_sn);
        conn.tx.push(out);
        self.announce(id);
    }

    /// Queues a Reject of the PDU whose header is `bhs` (RFC 7143 11.17).
    pub(crate) fn reject(&mut self, id: ConnId, bhs: &Bhs, reason: RejectReason) {
        let pdu = iscsi::pdu::Reject {
            reason,
            sn: Conn::no_numbers(),
            data_sn: Serial(0),
            data_len: bhs.len() as u32,
        };
        self.reply(id, &Response::Reject(pdu), Payload::Bytes(bhs.to_vec()));
    }

    pub(crate) fn announce(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.announced
            && conn.tx.ready()
        {
            conn.announced = true;
            self.actions.push_back(Action::Transmit(id));
        }
    }

    pub(crate) fn count_digest_error(&mut self, id: ConnId) {
        let session = self.conns.get(id).and_then(|c| c.session);
        if let Some(s) = session.and_then(|s| self.sessions.get_mut(s)) {
            s.info.stats.digest_errors += 1;
        }
    }

    pub(crate) fn count_format_error(&mut self, id: ConnId) {
        let session = self.conns.get(id).and_then(|c| c.session);
        if let Some(s) = session.and_then(|s| self.sessions.get_mut(s)) {
            s.info.stats.format_errors += 1;
        }
    }

    /// What the engine does next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A normal session in its full feature phase, or on its way down.
    pub fn session(&self, id: SessionId) -> Option<&SessionInfo> {
        self.sessions.get(id).filter(|s| s.announced).map(|s| &s.info)
    }

    /// All normal sessions.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionInfo> {
        self.sessions.iter().filter(|s| s.announced).map(|s| &s.info)
    }

    /// Bytes that the machine holds for its peers: receive buffers, gathered write data, queued and kept replies.
    pub fn held_bytes(&self) -> usize {
        let conns: usize = self.conns.iter().map(Conn::held_bytes).sum();
        let tasks: usize = self.tasks.iter().map(|t| t.write.held_bytes()).sum();
        let sessions: usize = self.sessions.iter().map(Session::held_bytes).sum();
        conns + tasks + sessions
    }

    /// When [`Machine::tick`] is to be called at the latest.
    pub fn next_deadline(&self) -> Mono {
        self.timers.peek().map_or(Mono::NEVER, |Reverse((at, _))| *at)
    }

    /// Does what is due.
    pub fn tick(&mut self, cx: &mut Cx<'_>) {
        while let Some(&Reverse((at, timer))) = self.timers.peek() {
            if at > cx.now {
                return;
            }
            self.timers.pop();
            match timer {
                Timer::Conn(id) => {
                    let Some(conn) = self.conns.get_mut(id).filter(|c| c.timer_at == at) else { continue };
                    conn.timer_at = Mono::NEVER;
                    self.conn_due(cx, id);
                    self.arm_conn(id);
                }
                Timer::Session(id) => {
                    let Some(s) = self.sessions.get_mut(id).filter(|s| s.timer_at == at) else { continue };
                    s.timer_at = Mono::NEVER;
                    self.session_due(cx, id);
                    self.arm_session(id);
                }
            }
        }
    }

    /// Makes sure that a timer comes no later than the connection's next deadline.
    pub(crate) fn arm_conn(&mut self, id: ConnId) {
        let due = self.conn_deadline(id);
        if let Some(conn) = self.conns.get_mut(id)
            && due < conn.timer_at
        {
            conn.timer_at = due;
            self.timers.push(Reverse((due, Timer::Conn(id))));
        }
    }

    pub(crate) fn arm_session(&mut self, id: SessionId) {
        if let Some(s) = self.sessions.get_mut(id) {
            let due = s.close_by.min(s.retain_until).min(s.recover_at);
            if due < s.timer_at {
                s.timer_at = due;
                self.timers.push(Reverse((due, Timer::Session(id))));
            }
        }
    }
}
