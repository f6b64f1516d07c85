//! Ends: of connections, of sessions, and the deadlines that lead to them.

use std::time::Duration;

use base::Mono;
use iscsi::params::TaskReporting;
use iscsi::pdu::{AsyncEvent as AsyncCode, AsyncMessage, NopIn, Response, Tag};

use crate::api::*;
use crate::conn::{Conn, Phase};
use crate::machine::{Ending, Machine};
use crate::session::{Held, Kind, Life};
use crate::task::TaskState;
use crate::tmf::JobKind;
use crate::tx::Payload;

/// Seconds that a connection that is given up has to take what is queued.
const DRAIN_SECONDS: u64 = 2;
/// Seconds without progress after which data that was asked for is asked for again (recovery level above 0).
const RECOVER_SECONDS: u64 = 5;

impl Machine {
    /// Ends a connection: it is not read any more, leaves its session, and is closed once what is queued is sent (or
    /// at once, by the kind of the end).
    pub(crate) fn end_conn(&mut self, cx: &mut Cx<'_>, id: ConnId, ending: Ending) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let was = conn.phase;
        conn.phase = Phase::Closing;
        match ending {
            Ending::Protocol(why) | Ending::Dropped(why) if was != Phase::Closing => {
                tracing::info!(conn = %id, peer = %conn.peer.peer, why, "connection ended");
            }
            _ => {}
        }
        if was == Phase::Login {
            self.unauthenticated -= 1;
            self.login_ended(id);
        }
        if was != Phase::Closing {
            self.detach(cx, id, ending);
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        let drains = matches!(ending, Ending::Clean | Ending::Protocol(_)) && !conn.tx.idle();
        if drains {
            conn.close_by = conn.close_by.min(cx.now + Duration::from_secs(DRAIN_SECONDS));
            self.arm_conn(id);
            self.announce(id);
        } else {
            self.close_now(cx, id);
        }
    }

    /// Frees a connection.
    pub(crate) fn close_now(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let Some(conn) = self.conns.remove(id) else { return };
        self.actions.push_back(Action::Close(id));
        if let Some(session) = conn.session {
            if let Some(s) = self.sessions.get_mut(session) {
                s.conns.retain(|c| *c != id);
            }
            self.check_gone(cx, session);
        }
    }

    /// Takes a connection out of its session (RFC 7143 7.1.4, 8.2).
    fn detach(&mut self, cx: &mut Cx<'_>, id: ConnId, ending: Ending) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.text = None;
        let arriving = conn.rx.arriving.take();
        let Some(session) = conn.session else { return };
        if let Some(task) = arriving {
            self.tasks.remove(task);
        }
        let Some(s) = self.sessions.get_mut(session) else { return };
        s.info.connections.retain(|c| c.id != id);
        s.barriers.retain(|(c, _)| *c != id);
        let level = s.recovery_level();
        let clean = matches!(ending, Ending::Clean | Ending::Recovery);
        let keeps_tasks = level >= 2 && ending != Ending::Clean && s.kind == Kind::Normal;
        let mut freed = 0;
        for (_, held) in &mut s.held {
            if let Held::Pdu(c, _, data) = held
                && *c == id
            {
                freed += data.len();
                *held = Held::Gone;
            }
        }
        s.held_bytes -= freed;
        if keeps_tasks {
            self.keep_orphans(id, session);
        } else {
            for task in self.tasks_of(session, |t| t.conn == id) {
                self.abort_task(cx, task);
            }
        }
        let Some(s) = self.sessions.get(session).filter(|s| s.life == Life::Up) else { return };
        let live = s.conns.iter().any(|c| self.conns.get(*c).is_some_and(|c| c.phase == Phase::Full));
        if !live && s.expects > 0 {
            // A login is about to replace the connection.
        } else if !live && keeps_tasks {
            self.session_failed(cx, session);
        } else if !live || (level < 2 && !clean) {
            // Below level 2 there is no recovery but that of the session (RFC 7143 7.1.1).
            self.session_down(cx, session);
        }
    }

    /// Takes a session down whose last connection was to be replaced and was not.
    pub(crate) fn check_deserted(&mut self, cx: &mut Cx<'_>, id: SessionId) {
        let Some(s) = self.sessions.get(id).filter(|s| s.life == Life::Up && s.expects == 0) else { return };
        if !s.conns.iter().any(|c| self.conns.get(*c).is_some_and(|c| c.phase == Phase::Full)) {
            self.session_down(cx, id);
        }
    }

    fn session_failed(&mut self, cx: &mut Cx<'_>, id: SessionId) {
        let Some(s) = self.sessions.get_mut(id) else { return };
        let p = &s.info.params;
        if p.time2retain == 0 {
            self.session_down(cx, id);
            return;
        }
        let seconds = u64::from(p.time2wait) + u64::from(p.time2retain);
        s.life = Life::Failed;
        s.retain_until = cx.now + Duration::from_secs(seconds);
        self.arm_session(id);
    }

    /// Takes a session down: its tasks are aborted and its connections closed.
    pub(crate) fn session_down(&mut self, cx: &mut Cx<'_>, id: SessionId) {
        let Some(s) = self.sessions.get_mut(id).filter(|s| s.life != Life::Down) else { return };
        s.life = Life::Down;
        s.waiting.clear();
        s.barriers.clear();
        (s.close_by, s.retain_until, s.recover_at) = (Mono::NEVER, Mono::NEVER, Mono::NEVER);
        let conns = s.conns.clone();
        for task in self.tasks_of(id, |_| true) {
            self.abort_task(cx, task);
        }
        for conn in conns {
            if self.conns.get(conn).is_some_and(|c| c.phase != Phase::Closing) {
                self.end_conn(cx, conn, Ending::Protocol("its session is over"));
            }
        }
        self.check_gone(cx, id);
    }

    /// Frees a session that is down once nothing is left of it.
    pub(crate) fn check_gone(&mut self, cx: &mut Cx<'_>, id: SessionId) {
        let gone =
            |s: &&crate::session::Session| s.life == Life::Down && s.tasks.is_empty() && s.conns.is_empty();
        if self.sessions.get(id).filter(gone).is_none() {
            return;
        }
        let Some(s) = self.sessions.remove(id) else { return };
        let mut successors = s.successors;
        for job in s.jobs {
            if let Some(JobKind::Login { conn, .. }) = self.jobs.remove(job).map(|j| j.kind) {
                successors.push(conn);
            }
        }
        if s.kind == Kind::Normal {
            self.by_key.remove(&s.info.key);
            cx.directory.unregister_session(&s.info.key, s.info.tsih);
        }
        if s.announced {
            self.actions.push_back(Action::SessionDown { session: id });
        }
        for conn in successors {
            self.login_goes_on(cx, conn);
        }
    }

    /// Closes a session.
    pub fn close_session(&mut self, cx: &mut Cx<'_>, id: SessionId, how: CloseHow) {
        let Some(s) = self.sessions.get_mut(id).filter(|s| s.life != Life::Down) else { return };
        let (code, parameter2, parameter3) = match how {
            CloseHow::AsyncLogout { seconds } => {
                s.close_by = s.close_by.min(cx.now + Duration::from_secs(u64::from(seconds)));
                (AsyncCode::LogoutRequest, 0, seconds)
            }
            CloseHow::DropNow => (AsyncCode::SessionDrop, s.info.params.time2wait, 0),
        };
        let drop = how == CloseHow::DropNow;
        let conns = s.conns.clone();
        let live: Vec<ConnId> = conns
            .into_iter()
            .filter(|c| self.conns.get(*c).is_some_and(|c| c.phase == Phase::Full))
            .collect();
        for &conn in &live {
            if let Some(c) = self.conns.get_mut(conn).filter(|_| drop) {
                c.tx.clear_unsent();
            }
        }
        if let Some(&first) = live.first() {
            self.send_event(first, code, 0, (0, parameter2, parameter3), Payload::None);
        }
        if drop {
            self.session_down(cx, id);
        } else {
            self.arm_session(id);
        }
    }

    /// Tells a session that one of its connections is dropped (RFC 7143 11.9.1, event 2).
    pub(crate) fn announce_drop(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Full) else { return };
        conn.tx.clear_unsent();
        let cid = conn.cid;
        let session = conn.session.and_then(|s| self.sessions.get(s));
        let Some(time2wait) = session.map(|s| s.info.params.time2wait) else { return };
        self.send_event(id, AsyncCode::ConnectionDrop, 0, (cid, time2wait, 0), Payload::None);
    }

    /// Sends an asynchronous message on a session.
    pub fn send_async(&mut self, _cx: &mut Cx<'_>, id: SessionId, event: AsyncEvent) {
        let Some(s) = self.sessions.get(id).filter(|s| s.life == Life::Up) else { return };
        let live = |c: &&ConnId| self.conns.get(**c).is_some_and(|c| c.phase == Phase::Full);
        let conns: Vec<ConnId> = s.conns.iter().filter(live).copied().collect();
        match event {
            AsyncEvent::Scsi { lun, sense } => {
                // SenseLength, then the sense data (RFC 7143 11.9.4).
                let mut data = (sense.len() as u16).to_be_bytes().to_vec();
                data.extend_from_slice(&sense);
                if let Some(&first) = conns.first() {
                    self.send_event(first, AsyncCode::Scsi, lun, (0, 0, 0), Payload::Bytes(data));
                }
            }
            AsyncEvent::TasksTerminated { lun }
                if s.info.params.task_reporting == TaskReporting::FastAbort =>
            {
                for conn in conns {
                    self.send_event(conn, AsyncCode::TasksTerminated, lun, (0, 0, 0), Payload::None);
                }
            }
            AsyncEvent::TasksTerminated { .. } => {}
        }
    }

    fn send_event(&mut self, id: ConnId, event: AsyncCode, lun: u64, p: (u16, u16, u16), data: Payload) {
        let message = AsyncMessage {
            event,
            vendor_code: 0,
            lun,
            sn: Conn::no_numbers(),
            parameter1: p.0,
            parameter2: p.1,
            parameter3: p.2,
            data_len: data.len() as u32,
        };
        self.reply(id, &Response::Async(message), data);
    }

    /// When something is due on a connection.
    pub(crate) fn conn_deadline(&self, id: ConnId) -> Mono {
        let Some(conn) = self.conns.get(id) else { return Mono::NEVER };
        let stall = Duration::from_secs(self.config.tx_stall_seconds_max);
        let stalled = conn.tx.since.map_or(Mono::NEVER, |since| since + stall);
        match conn.phase {
            Phase::Login => conn.login_by.min(stalled),
            Phase::Closing => conn.close_by.min(stalled),
            Phase::Full => stalled.min(self.ping_due(conn)),
        }
    }

    fn ping_due(&self, conn: &Conn) -> Mono {
        let target = conn.session.and_then(|s| self.sessions.get(s)).and_then(|s| s.target.as_ref());
        match target.map(|t| t.nop_interval) {
            None | Some(0) => Mono::NEVER,
            Some(seconds) => conn.last_rx.max(conn.last_ping) + Duration::from_secs(u64::from(seconds)),
        }
    }

    /// Does what is due on a connection.
    pub(crate) fn conn_due(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        if self.conn_deadline(id) > cx.now {
            return;
        }
        let stall = Duration::from_secs(self.config.tx_stall_seconds_max);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.tx.since.is_some_and(|since| since + stall <= cx.now) {
            self.end_conn(cx, id, Ending::Dropped("the peer does not read"));
            return;
        }
        match conn.phase {
            Phase::Login => self.end_conn(cx, id, Ending::Dropped("login took too long")),
            Phase::Closing => self.close_now(cx, id),
            Phase::Full => self.ping(cx, id),
        }
    }

    /// Asks for a sign of life (RFC 7143 11.19), or gives the connection up after enough of them.
    fn ping(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let target = conn.session.and_then(|s| self.sessions.get(s)).and_then(|s| s.target.as_ref());
        let count = target.map_or(0, |t| t.nop_count);
        if conn.pings >= count.max(1) {
            self.end_conn(cx, id, Ending::Dropped("no answer to NOP-In"));
            return;
        }
        conn.pings += 1;
        conn.last_ping = cx.now;
        let ttt = conn.next_ping_tag();
        let pdu = NopIn { lun: 0, itt: Tag::RESERVED, ttt, sn: Conn::no_numbers(), data_len: 0 };
        self.tell(id, &Response::NopIn(pdu), Payload::None);
    }

    /// Does what is due on a session.
    pub(crate) fn session_due(&mut self, cx: &mut Cx<'_>, id: SessionId) {
        let Some(s) = self.sessions.get_mut(id) else { return };
        if s.close_by.min(s.retain_until) <= cx.now {
            self.session_down(cx, id);
            return;
        }
        if s.recover_at <= cx.now {
            s.recover_at = Mono::NEVER;
            for task in self.tasks_of(id, |t| t.state == TaskState::Gathering && t.write.waits_for_answer()) {
                let quiet = Duration::from_secs(RECOVER_SECONDS);
                let Some(t) = self.tasks.get_mut(task) else { continue };
                if cx.now.since(t.last_data) >= quiet {
                    t.last_data = cx.now;
                    t.write.stop_waiting();
                    self.progress(cx, task);
                }
            }
            self.watch_data(cx, id);
        }
    }

    /// Sees to it that data that was asked for is looked after (recovery level above 0).
    pub(crate) fn watch_data(&mut self, cx: &Cx<'_>, id: SessionId) {
        let Some(s) = self.sessions.get(id) else { return };
        if s.recovery_level() == 0 || s.recover_at != Mono::NEVER || s.life != Life::Up {
            return;
        }
        let waits = s.tasks.values().any(|t| self.tasks.get(*t).is_some_and(|t| t.write.waits_for_answer()));
        if let Some(s) = self.sessions.get_mut(id).filter(|_| waits) {
            s.recover_at = cx.now + Duration::from_secs(RECOVER_SECONDS);
            self.arm_session(id);
        }
    }
}
