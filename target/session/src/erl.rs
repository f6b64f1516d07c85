//! Error recovery levels 1 and 2 (RFC 7143 7): responses are kept until they are acknowledged, and sent again when a
//! SNACK asks for them; at level 2 a lost connection's tasks go on on another one.
//!
//! What is kept is bounded: beyond that the oldest data, then the oldest responses are forgotten, and a SNACK for them
//! is rejected, after which the initiator goes to a higher level of recovery.

use iscsi::pdu::{R2t, RejectReason, Response, Snack, SnackType, Tag, TmfRequest, TmfResponse};
use iscsi::serial::Serial;

use crate::api::*;
use crate::conn::{Conn, Phase};
use crate::machine::Machine;
use crate::task::TaskState;
use crate::tx::{Format, Out, Payload, Plan, Shape, segment_len, segment_start, segments_of};

/// Data that is kept for one connection.
const UNACKED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Responses that are kept for one connection.
const UNACKED_MAX: usize = 1024;

impl Machine {
    /// ExpStatSN came: everything before it has arrived (RFC 7143 4.2.2.2).
    pub(crate) fn acknowledge(&mut self, id: ConnId, exp_stat_sn: Serial) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if exp_stat_sn == conn.acked || !exp_stat_sn.within(conn.acked, conn.stat_sn) {
            return;
        }
        conn.acked = exp_stat_sn;
        if conn.unacked.is_empty() {
            return;
        }
        let mut freed = 0;
        conn.unacked.retain(|out| {
            let keep = !out.stat_sn.precedes(exp_stat_sn);
            freed += if keep { 0 } else { out.payload.len() };
            keep
        });
        conn.unacked_bytes -= freed;
    }

    /// Forgets the oldest of what is kept, as far as it is too much.
    pub(crate) fn bound_unacked(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let acked = conn.acked;
        let mut freed = 0;
        // What was acknowledged while it was on its way out need not be kept at all.
        conn.unacked.retain(|out| {
            let keep = !out.stat_sn.precedes(acked);
            freed += if keep { 0 } else { out.payload.len() };
            keep
        });
        conn.unacked_bytes -= freed;
        while conn.unacked.len() > UNACKED_MAX || conn.unacked_bytes > UNACKED_BYTES_MAX {
            let Some(out) = conn.unacked.pop_front() else { break };
            conn.unacked_bytes -= out.payload.len();
        }
    }

    /// RFC 7143 11.16.
    pub(crate) fn snack(&mut self, cx: &mut Cx<'_>, id: ConnId, pdu: &Snack) {
        let Some(conn) = self.conns.get(id) else { return };
        let bhs = *conn.rx.bhs();
        if !conn.keeps {
            self.protocol_error(
                cx,
                id,
                RejectReason::CommandNotSupported,
                "a SNACK at error recovery level 0",
            );
            return;
        }
        let done = match pdu.kind {
            SnackType::Status => self.status_again(id, pdu),
            SnackType::DataOrR2t => self.data_again(id, pdu) || self.r2t_again(id, pdu),
            // No Data-In of this target asks for a DataACK.
            SnackType::DataAck => {
                self.reject(id, &bhs, RejectReason::InvalidDataAck);
                return;
            }
            SnackType::RData | SnackType::Other(_) => false,
        };
        if !done {
            self.reject(id, &bhs, RejectReason::SnackReject);
        }
    }

    /// Responses again, with the numbers that they had.
    fn status_again(&mut self, id: ConnId, pdu: &Snack) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let first = if pdu.begin == Serial(0) && pdu.run_len == 0 { conn.acked } else { pdu.begin };
        let last = if pdu.run_len == 0 { conn.stat_sn.minus(1) } else { first.plus(pdu.run_len - 1) };
        if !first.within(conn.acked, conn.stat_sn.minus(1)) || !last.within(first, conn.stat_sn.minus(1)) {
            return false;
        }
        let format = conn.format;
        let carries = |o: &Out| match &o.shape {
            Shape::Whole(_) => true,
            Shape::Data(p) => p.status.is_some(),
        };
        let (again, rest): (Vec<Out>, Vec<Out>) =
            conn.unacked.drain(..).partition(|o| o.stat_sn.within(first, last) && carries(o));
        conn.unacked = rest.into();
        let wanted = last.since(first) + 1;
        let found = i32::try_from(again.len()).unwrap_or(i32::MAX);
        for mut out in again {
            conn.unacked_bytes -= out.payload.len();
            if let Shape::Data(plan) = &mut out.shape {
                // Only the last Data-In carries the status.
                let n = segments_of(plan.total, format);
                aim(plan, n - 1, 1, format);
            }
            conn.tx.push(out);
        }
        self.announce(id);
        found == wanted
    }

    /// Data-In again.
    fn data_again(&mut self, id: ConnId, pdu: &Snack) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let format = conn.format;
        let at = conn.unacked.iter().position(|o| matches!(&o.shape, Shape::Data(p) if p.itt == pdu.itt));
        let Some(mut out) = at.and_then(|at| conn.unacked.remove(at)) else { return false };
        let Shape::Data(plan) = &mut out.shape else { return false };
        let count = segments_of(plan.total, format);
        let run = if pdu.run_len == 0 { count.saturating_sub(pdu.begin.0) } else { pdu.run_len };
        let valid = run > 0 && u64::from(pdu.begin.0) + u64::from(run) <= u64::from(count);
        if valid {
            aim(plan, pdu.begin.0, run, format);
            conn.unacked_bytes -= out.payload.len();
            conn.tx.push(out);
            self.announce(id);
        } else {
            conn.unacked.push_front(out);
        }
        valid
    }

    /// R2Ts again that are not answered yet.
    fn r2t_again(&mut self, id: ConnId, pdu: &Snack) -> bool {
        let Some(session) = self.conns.get(id).and_then(|c| c.session) else { return false };
        let task =
            self.sessions.get(session).and_then(|s| s.tasks.get(&pdu.itt.0)).and_then(|t| self.tasks.get(*t));
        let Some(task) = task.filter(|t| t.conn == id && t.state == TaskState::Gathering) else {
            return false;
        };
        let wanted = |sn: u32| {
            sn.wrapping_sub(pdu.begin.0) < if pdu.run_len == 0 { u32::MAX / 2 } else { pdu.run_len }
        };
        let again: Vec<Response> = task
            .write
            .outstanding()
            .filter(|(_, ask)| wanted(ask.r2t_sn))
            .map(|(ttt, ask)| r2t(task.lun, task.itt, ttt, ask))
            .collect();
        for r2t in &again {
            self.tell(id, r2t, Payload::None);
        }
        !again.is_empty()
    }

    /// TASK REASSIGN (RFC 7143 7.2.2, 11.5.1): a task of a lost connection goes on on this one.
    pub(crate) fn reassign(&mut self, cx: &mut Cx<'_>, id: ConnId, session: SessionId, pdu: &TmfRequest) {
        let Some(s) = self.sessions.get_mut(session) else { return };
        if s.recovery_level() < 2 {
            self.answer_function(id, pdu.itt, TmfResponse::ReassignNotSupported);
            return;
        }
        let Some(&task_id) = s.tasks.get(&pdu.ref_itt.0) else {
            let at = s.orphans.iter().position(|o| o.itt() == Some(pdu.ref_itt));
            let orphans: Vec<Out> = match at {
                Some(_) => {
                    let (mine, rest) = s.orphans.drain(..).partition(|o: &Out| o.itt() == Some(pdu.ref_itt));
                    s.orphans = rest;
                    mine
                }
                None => Vec::new(),
            };
            let found = if orphans.is_empty() { TmfResponse::NoTask } else { TmfResponse::Complete };
            self.answer_function(id, pdu.itt, found);
            self.send_orphans(id, orphans, pdu.exp_data_sn);
            return;
        };
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        if self.conns.get(task.conn).is_some_and(|c| c.phase == Phase::Full) {
            self.answer_function(id, pdu.itt, TmfResponse::StillAllegiant);
            return;
        }
        task.conn = id;
        let state = task.state;
        let reply = task.reply.take();
        self.answer_function(id, pdu.itt, TmfResponse::Complete);
        match (state, reply) {
            (TaskState::Replied, Some(reply)) => {
                if let Some(task) = self.tasks.get_mut(task_id) {
                    task.state = TaskState::Executing;
                }
                self.task_done(cx, task_id, *reply);
            }
            (TaskState::Gathering, _) => {
                if let Some(task) = self.tasks.get_mut(task_id) {
                    task.write.stop_waiting();
                    task.last_data = cx.now;
                }
                self.progress(cx, task_id);
            }
            _ => {}
        }
    }

    /// Sends what a lost connection had sent, or was to send, for a command, with numbers of this connection. Data-In
    /// before `exp_data_sn` has arrived, where the segments are still the same.
    fn send_orphans(&mut self, id: ConnId, orphans: Vec<Out>, exp_data_sn: Serial) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let format = conn.format;
        for mut out in orphans {
            let carries = match &mut out.shape {
                Shape::Whole(_) => true,
                Shape::Data(plan) => {
                    let count = segments_of(plan.total, format);
                    // The status is in the last one: that is sent in any case.
                    let from = exp_data_sn.0.min(count - 1);
                    aim(plan, from, count - from, format);
                    plan.status.is_some()
                }
            };
            out.stat_sn = if carries { conn.next_stat_sn() } else { conn.stat_sn };
            conn.tx.push(out);
        }
        self.announce(id);
    }

    /// Keeps what a lost connection had for its commands, for a reassignment.
    pub(crate) fn keep_orphans(&mut self, id: ConnId, session: SessionId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let mut outs: Vec<Out> = conn.unacked.drain(..).collect();
        conn.unacked_bytes = 0;
        outs.extend(conn.tx.take_queue());
        outs.retain(|o| o.itt().is_some());
        let Some(s) = self.sessions.get_mut(session) else { return };
        s.orphans.extend(outs);
        let mut bytes: usize = s.orphans.iter().map(|o| o.payload.len()).sum();
        while bytes > UNACKED_BYTES_MAX || s.orphans.len() > UNACKED_MAX {
            bytes -= s.orphans.remove(0).payload.len();
        }
    }
}

/// Makes a plan for `run` Data-In PDUs from number `begin` on.
fn aim(plan: &mut Plan, begin: u32, run: u32, format: Format) {
    let start = u32::try_from(segment_start(begin, format)).unwrap_or(plan.total).min(plan.total);
    let mut end = start;
    for _ in 0..run {
        if end >= plan.total {
            break;
        }
        end += segment_len(end, plan.total, format);
    }
    (plan.at, plan.end, plan.data_sn) = (start, end, begin);
}

/// An R2T of a command.
pub(crate) fn r2t(lun: u64, itt: Tag, ttt: Tag, ask: crate::write::Ask) -> Response {
    Response::R2t(R2t {
        lun,
        itt,
        ttt,
        sn: Conn::no_numbers(),
        r2t_sn: Serial(ask.r2t_sn),
        offset: ask.offset,
        desired_len: ask.len,
    })
}
