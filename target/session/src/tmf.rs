//! Task management (RFC 7143 4.2.3, 11.5) and everything else that waits until tasks are gone.
//!
//! A [`Job`] is something that goes on when the last of its tasks is gone and, where the engine has a part in it, when
//! the engine has said so. Aborted tasks send no response (TAS=0). Data-Out of an aborted task is dropped as it comes;
//! the response does not wait for it, since common initiators stop sending it once they have asked for the abort.

use base::limits::IMMEDIATE_COMMANDS_PER_SESSION_MAX;
use iscsi::pdu::{self, RejectReason, Response, Tag, TmfRequest, TmfResponsePdu};

use crate::api::*;
use crate::conn::{Conn, Phase};
use crate::machine::Machine;
use crate::session::{Held, Life};
use crate::tx::Payload;

/// What goes on when the tasks are gone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum JobKind {
    /// A task management function of this initiator.
    Function { conn: ConnId, itt: Tag, cold: bool },
    /// An abort that the engine asked for.
    Outside { token: u64 },
    /// A logout; of the session without `closes`.
    Logout { conn: ConnId, itt: Tag, closes: Option<ConnId> },
    /// A login that replaces a connection.
    Login { conn: ConnId, session: SessionId },
}

/// See the module.
pub(crate) struct Job {
    pub session: SessionId,
    pub kind: JobKind,
    waiting: Vec<TaskId>,
    /// The engine has not answered yet.
    engine: bool,
    response: pdu::TmfResponse,
}

impl Machine {
    /// A Task Management Function Request whose turn has come.
    pub(crate) fn task_management(&mut self, cx: &mut Cx<'_>, id: ConnId, pdu: TmfRequest) {
        use pdu::TmfFunction as F;
        let Some(conn) = self.conns.get(id) else { return };
        let bhs = *conn.rx.bhs();
        let Some(session) = conn.session else { return };
        let Some(s) = self.sessions.get_mut(session) else { return };
        if s.jobs.len() + s.barriers.len() >= IMMEDIATE_COMMANDS_PER_SESSION_MAX as usize {
            self.reject(id, &bhs, RejectReason::ImmediateCommandReject);
            return;
        }
        match pdu.function {
            F::AbortTask => self.abort_one(cx, id, session, &pdu),
            F::AbortTaskSet
            | F::ClearTaskSet
            | F::LogicalUnitReset
            | F::TargetWarmReset
            | F::TargetColdReset => {
                // Commands that were sent before and are still on their way (on other connections) are among the
                // victims: the function takes its place in the order of CmdSN (RFC 7143 4.2.3.3).
                if pdu.immediate && s.exp_cmd_sn.precedes(pdu.cmd_sn) && s.conns.len() > 1 {
                    s.barriers.push((id, pdu));
                } else {
                    self.abort_set(cx, id, session, &pdu);
                }
            }
            F::TaskReassign => self.reassign(cx, id, session, &pdu),
            F::ClearAca
            | F::QueryTask
            | F::QueryTaskSet
            | F::ItNexusReset
            | F::QueryAsyncEvent
            | F::Other(_) => self.answer_function(id, pdu.itt, pdu::TmfResponse::NotSupported),
        }
    }

    /// Runs the functions whose turn has come.
    pub(crate) fn pass_barriers(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        loop {
            let Some(s) = self.sessions.get_mut(session) else { return };
            let exp = s.exp_cmd_sn;
            let Some(at) = s.barriers.iter().position(|(_, p)| p.cmd_sn.precedes_or_is(exp)) else { return };
            let (conn, pdu) = s.barriers.remove(at);
            self.abort_set(cx, conn, session, &pdu);
        }
    }

    /// ABORT TASK (RFC 7143 11.5.1).
    fn abort_one(&mut self, cx: &mut Cx<'_>, id: ConnId, session: SessionId, pdu: &TmfRequest) {
        let Some(s) = self.sessions.get(session) else { return };
        let kind = JobKind::Function { conn: id, itt: pdu.itt, cold: false };
        let found = s.tasks.get(&pdu.ref_itt.0).copied();
        if let Some(task) = found.filter(|t| self.tasks.get(*t).is_some_and(|t| t.lun == pdu.lun)) {
            self.start_job(cx, session, kind, vec![task], false);
            return;
        }
        let sn = pdu.ref_cmd_sn;
        let to_come = sn.within(s.exp_cmd_sn, s.max_cmd_sn()) && sn.precedes(pdu.cmd_sn);
        if found.is_none() && to_come {
            // The command is lost or late: its number counts as received, and when it comes it is a duplicate.
            self.consume(cx, session, sn, false, Held::Gone);
            self.answer_function(id, pdu.itt, pdu::TmfResponse::Complete);
        } else {
            self.answer_function(id, pdu.itt, pdu::TmfResponse::NoTask);
        }
    }

    fn abort_set(&mut self, cx: &mut Cx<'_>, id: ConnId, session: SessionId, pdu: &TmfRequest) {
        use pdu::TmfFunction as F;
        let (function, all) = match pdu.function {
            F::AbortTaskSet => (TmfFunction::AbortTaskSet, false),
            F::ClearTaskSet => (TmfFunction::ClearTaskSet, false),
            F::LogicalUnitReset => (TmfFunction::LogicalUnitReset, false),
            F::TargetWarmReset => (TmfFunction::TargetWarmReset, true),
            _ => (TmfFunction::TargetColdReset, true),
        };
        let victims = self.tasks_of(session, |t| {
            (all || t.lun == pdu.lun) && (t.immediate || t.cmd_sn.precedes(pdu.cmd_sn))
        });
        let cold = function == TmfFunction::TargetColdReset;
        let kind = JobKind::Function { conn: id, itt: pdu.itt, cold };
        let tmf = self.start_job(cx, session, kind, victims, true);
        let lun = if all { 0 } else { pdu.lun };
        self.actions.push_back(Action::Manage { tmf, session, lun, function });
    }

    /// Aborts `victims` and goes on when they are gone, and the engine has answered if it is `asked`.
    pub(crate) fn start_job(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        kind: JobKind,
        victims: Vec<TaskId>,
        asked: bool,
    ) -> TmfId {
        let response = pdu::TmfResponse::Complete;
        let job =
            self.jobs.insert_with(|_| Job { session, kind, waiting: Vec::new(), engine: asked, response });
        let mut waiting = victims;
        // The job is in no list of the session yet, so that it is not finished before it is complete.
        waiting.retain(|task| !self.abort_task(cx, *task));
        if let Some(s) = self.sessions.get_mut(session) {
            s.jobs.push(job);
        }
        if let Some(job) = self.jobs.get_mut(job) {
            job.waiting = waiting;
        }
        self.check_job(cx, job);
        job
    }

    /// A task is gone.
    pub(crate) fn task_gone(&mut self, cx: &mut Cx<'_>, session: SessionId, task: TaskId) {
        let jobs = self.sessions.get(session).map(|s| s.jobs.clone()).unwrap_or_default();
        for job in jobs {
            if let Some(j) = self.jobs.get_mut(job) {
                j.waiting.retain(|t| *t != task);
                self.check_job(cx, job);
            }
        }
        if self.sessions.get(session).is_some_and(|s| s.life == Life::Down) {
            self.check_gone(cx, session);
        }
    }

    fn check_job(&mut self, cx: &mut Cx<'_>, id: TmfId) {
        if self.jobs.get(id).is_none_or(|j| j.engine || !j.waiting.is_empty()) {
            return;
        }
        let Some(job) = self.jobs.remove(id) else { return };
        if let Some(s) = self.sessions.get_mut(job.session) {
            s.jobs.retain(|j| *j != id);
        }
        match job.kind {
            JobKind::Function { conn, itt, cold } => {
                self.answer_function(conn, itt, job.response);
                if cold && job.response == pdu::TmfResponse::Complete {
                    self.session_down(cx, job.session);
                }
            }
            JobKind::Outside { token } => self.actions.push_back(Action::TasksAborted { token }),
            JobKind::Logout { conn, itt, closes } => self.logout_done(cx, &job, conn, itt, closes),
            JobKind::Login { conn, session } => {
                if let Some(s) = self.sessions.get_mut(session) {
                    s.expects -= 1;
                }
                self.login_goes_on(cx, conn);
                self.check_deserted(cx, session);
            }
        }
    }

    pub(crate) fn answer_function(&mut self, id: ConnId, itt: Tag, response: pdu::TmfResponse) {
        if self.conns.get(id).is_some_and(|c| c.phase == Phase::Full) {
            let pdu = TmfResponsePdu { response, itt, sn: Conn::no_numbers() };
            self.reply(id, &Response::Tmf(pdu), Payload::None);
        }
    }

    /// A task management function ended.
    pub fn tmf_done(&mut self, cx: &mut Cx<'_>, id: TmfId, response: TmfResponse) {
        let Some(job) = self.jobs.get_mut(id).filter(|j| j.engine) else { return };
        job.engine = false;
        job.response = match response {
            TmfResponse::Complete => pdu::TmfResponse::Complete,
            TmfResponse::LunDoesNotExist => pdu::TmfResponse::NoLun,
            TmfResponse::NotSupported => pdu::TmfResponse::NotSupported,
            TmfResponse::Rejected => pdu::TmfResponse::Rejected,
        };
        self.check_job(cx, id);
    }

    /// Aborts the tasks of a session on `lun` (all units without), but `except`, for another nexus' task management
    /// function or reservation command. [`Action::TasksAborted`] follows when they are gone, also where there were
    /// none. Returns how many there are.
    pub fn abort_tasks(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        lun: Option<u64>,
        except: Option<TaskId>,
        token: u64,
    ) -> usize {
        if self.sessions.get(session).is_none() {
            self.actions.push_back(Action::TasksAborted { token });
            return 0;
        }
        let victims = self.tasks_of(session, |t| lun.is_none_or(|l| l == t.lun) && Some(t.id) != except);
        let n = victims.len();
        if let Some(lun) = lun.filter(|_| n > 0) {
            self.send_async(cx, session, AsyncEvent::TasksTerminated { lun });
        }
        self.start_job(cx, session, JobKind::Outside { token }, victims, false);
        n
    }
}
