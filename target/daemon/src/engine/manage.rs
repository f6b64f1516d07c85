//! What concerns more than one task: sessions coming and going, task management over all workers, units that close,
//! and the control plane's questions.
//!
//! A task management function, a reset, and a reservation that aborts tasks are *jobs* of the worker that started
//! them. It sends an [`AbortOrder`] to every worker; each aborts what is its own and answers when nothing of it
//! runs any more; with the last answer the job ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use scsi::{InitiatorPort, Nexus, NexusId, ResetKind, TargetPort, Victims};
use target_session::{CloseHow, SessionId, TmfFunction, TmfId, TmfResponse};

use super::convert;
use super::mail::{AbortOrder, Answer, Mail};
use super::tasks::{Place, SessionState};
use super::worker::{Worker, with_machine};
use crate::control::backend::{LunHandle, NexusStats, SessionView, TargetSnapshot, Tid};

/// What happens at the end of a job.
enum After {
    /// Answer a task management function.
    Tmf { tmf: TmfId },
    /// Go on with a task of this worker.
    Task { key: usize, serial: u64 },
}

/// A job that this worker started.
struct Job {
    /// Workers that have not answered.
    open: usize,
    after: After,
}

/// This worker's part of somebody's job.
struct Part {
    from: u32,
    job: u64,
    /// Sessions whose tasks are not gone yet.
    open: usize,
}

/// Jobs, parts of jobs, and closings that wait.
#[derive(Default)]
pub(super) struct Jobs {
    last: u64,
    own: HashMap<u64, Job>,
    parts: HashMap<u64, Part>,
    closing_units: Vec<(LunHandle, Answer<()>)>,
    closing_targets: Vec<(Tid, Answer<()>)>,
}

impl Jobs {
    /// Whether the unit is being taken away.
    pub fn is_closing(&self, unit: LunHandle) -> bool {
        self.closing_units.iter().any(|(closing, _)| *closing == unit)
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Worker {
    pub fn session_up(&mut self, id: SessionId) {
        let Some(info) = self.machine.session(id) else { return };
        let key = Arc::clone(&info.key);
        let nexus = Nexus {
            id: self.shared.new_nexus(),
            initiator: Arc::new(InitiatorPort { name: key.initiator.clone(), isid: key.isid }),
            target: Arc::new(TargetPort { name: key.target.clone(), portal_group: key.portal_group }),
        };
        let mut state = SessionState { tid: info.tid, nexus, tsih: info.tsih, places: Vec::new() };
        match self.shared.snapshot().target(state.tid) {
            Some(target) => self.update_places(&mut state, target),
            // The target went away while the login was on its way.
            None => with_machine!(self, close_session, id, CloseHow::DropNow),
        }
        self.sessions.insert(id, state);
    }

    pub fn session_down(&mut self, id: SessionId) {
        let Some(state) = self.sessions.remove(&id) else { return };
        for place in &state.places {
            place.unit.lu.detach(state.nexus.id);
        }
        self.check_target_closings();
    }

    /// Brings every session up to the snapshot: new units appear, removed ones go, lost targets close.
    pub fn refresh_sessions(&mut self) {
        let snapshot = self.shared.snapshot();
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            let Some(mut state) = self.sessions.remove(&id) else { continue };
            match snapshot.target(state.tid) {
                Some(target) => self.update_places(&mut state, target),
                None => with_machine!(self, close_session, id, CloseHow::DropNow),
            }
            self.sessions.insert(id, state);
        }
    }

    fn update_places(&self, state: &mut SessionState, target: &TargetSnapshot) {
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut state.places)
            .into_iter()
            .partition(|p| target.luns.iter().any(|&(lun, handle)| lun == p.lun && handle == p.unit.handle));
        for place in gone {
            place.unit.lu.detach(state.nexus.id);
        }
        state.places = kept;
        for &(lun, handle) in &target.luns {
            if state.places.iter().any(|p| p.unit.handle == handle) {
                continue;
            }
            let Some(unit) = self.shared.unit(handle) else { continue };
            let itl = RefCell::new(unit.lu.attach(&state.nexus));
            state.places.push(Rc::new(Place { lun, unit, itl, counters: RefCell::default() }));
        }
        state.places.sort_by_key(|p| p.lun);
    }

    /// Carries out a task management function (RFC 7143 11.5.1).
    pub fn manage(&mut self, tmf: TmfId, session: SessionId, lun: u64, function: TmfFunction) {
        let Some(state) = self.sessions.get(&session) else {
            return with_machine!(self, tmf_done, tmf, TmfResponse::Rejected);
        };
        let by = state.nexus.id;
        let whole_target = matches!(function, TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset);
        let places: Vec<Rc<Place>> = if whole_target {
            state.places.clone()
        } else {
            let at = iscsi::lun::decode(lun).ok().and_then(|n| state.place(u64::from(n)));
            at.into_iter().map(Rc::clone).collect()
        };
        if places.is_empty() {
            return with_machine!(self, tmf_done, tmf, TmfResponse::LunDoesNotExist);
        }
        if function == TmfFunction::AbortTaskSet {
            return with_machine!(self, tmf_done, tmf, TmfResponse::Complete);
        }
        tracing::info!("{}: {function:?} by {}", state.nexus.target.name, state.nexus.initiator.name);
        for place in &places {
            match function {
                TmfFunction::ClearTaskSet => place.unit.lu.tasks_cleared(by, &Victims::All),
                TmfFunction::LogicalUnitReset => place.unit.lu.reset(ResetKind::LogicalUnit),
                TmfFunction::TargetColdReset => place.unit.lu.reset(ResetKind::TargetCold),
                TmfFunction::TargetWarmReset | TmfFunction::AbortTaskSet => {
                    place.unit.lu.reset(ResetKind::TargetWarm);
                }
            }
        }
        let units = places.iter().map(|p| p.unit.handle).collect();
        let close = function == TmfFunction::TargetColdReset;
        self.start_job(After::Tmf { tmf }, units, None, Some(by), close);
    }

    /// Aborts what a reservation command wants aborted, but never the tasks' own nexus, whose command it is.
    pub fn abort_everywhere_for_task(
        &mut self,
        key: usize,
        serial: u64,
        session: SessionId,
        unit: LunHandle,
        nexuses: Option<Arc<[NexusId]>>,
    ) {
        let spare = self.sessions.get(&session).map(|s| s.nexus.id);
        self.start_job(After::Task { key, serial }, [unit].into(), nexuses, spare, false);
    }

    fn start_job(
        &mut self,
        after: After,
        units: Arc<[LunHandle]>,
        nexuses: Option<Arc<[NexusId]>>,
        spare: Option<NexusId>,
        close: bool,
    ) {
        let job = self.jobs.number();
        let workers = self.shared.posts().len();
        self.jobs.own.insert(job, Job { open: workers, after });
        let order = AbortOrder { from: self.index, job, units, nexuses, spare, close };
        for to in (0..workers as u32).filter(|&to| to != self.index) {
            self.send(to, Mail::Abort(order.clone()));
        }
        self.abort_part(&order);
    }

    /// Aborts what is this worker's of somebody's job.
    pub fn abort_part(&mut self, order: &AbortOrder) {
        let part = self.jobs.number();
        let mut wanted: Vec<(SessionId, Option<u64>)> = Vec::new();
        let mut close: Vec<SessionId> = Vec::new();
        for (&id, state) in &self.sessions {
            let nexus = state.nexus.id;
            if order.spare == Some(nexus) || order.nexuses.as_ref().is_some_and(|n| !n.contains(&nexus)) {
                continue;
            }
            let hit: Vec<u64> =
                state.places.iter().filter(|p| order.units.contains(&p.unit.handle)).map(|p| p.lun).collect();
            let fields = hit.iter().filter_map(|&lun| iscsi::lun::encode(u32::try_from(lun).ok()?));
            wanted.extend(fields.map(|field| (id, Some(field))));
            if order.close && !hit.is_empty() {
                close.push(id);
            }
        }
        self.jobs.parts.insert(part, Part { from: order.from, job: order.job, open: wanted.len() + 1 });
        for (id, lun) in wanted {
            with_machine!(self, abort_tasks, id, lun, None, part);
        }
        for id in close {
            with_machine!(self, close_session, id, CloseHow::DropNow);
        }
        self.local_part_done(part);
    }

    /// One session's share of a part is over.
    pub fn local_part_done(&mut self, number: u64) {
        let Some(part) = self.jobs.parts.get_mut(&number) else { return };
        part.open -= 1;
        if part.open > 0 {
            return;
        }
        let (from, job) = (part.from, part.job);
        self.jobs.parts.remove(&number);
        if from == self.index {
            self.job_part_done(job);
        } else {
            self.send(from, Mail::AbortDone { job });
        }
    }

    /// A worker did its part of a job of ours.
    pub fn job_part_done(&mut self, number: u64) {
        let Some(job) = self.jobs.own.get_mut(&number) else { return };
        job.open -= 1;
        if job.open > 0 {
            return;
        }
        let Some(job) = self.jobs.own.remove(&number) else { return };
        match job.after {
            After::Tmf { tmf } => with_machine!(self, tmf_done, tmf, TmfResponse::Complete),
            After::Task { key, serial } => self.aborted_for(key, serial),
        }
    }

    /// Takes a unit away from this worker.
    pub fn close_unit(&mut self, unit: LunHandle, answer: Answer<()>) {
        let mut aborts = Vec::new();
        for (&id, state) in &mut self.sessions {
            let Some(at) = state.places.iter().position(|p| p.unit.handle == unit) else { continue };
            let place = state.places.remove(at);
            place.unit.lu.detach(state.nexus.id);
            aborts
                .extend(u32::try_from(place.lun).ok().and_then(iscsi::lun::encode).map(|field| (id, field)));
        }
        for (id, field) in aborts {
            // Nobody waits for this number: the tasks' own end is what the closing waits for.
            let number = self.jobs.number();
            with_machine!(self, abort_tasks, id, Some(field), None, number);
        }
        self.end_background(unit);
        self.jobs.closing_units.push((unit, answer));
        self.check_unit_closings();
    }

    /// Answers for units that nothing here holds any more.
    pub fn check_unit_closings(&mut self) {
        if self.jobs.closing_units.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.jobs.closing_units);
        waiting.retain(|(unit, answer)| {
            if self.tasks.iter().any(|(_, t)| t.is_on(*unit)) {
                return true;
            }
            self.channels.remove(unit);
            let _ = answer.send(());
            false
        });
        self.jobs.closing_units.append(&mut waiting);
    }

    pub fn reopen_unit(&mut self, unit: LunHandle) {
        self.channels.remove(&unit);
    }

    pub fn unit_stats(&self, unit: LunHandle) -> Vec<NexusStats> {
        let mut found = Vec::new();
        for state in self.sessions.values() {
            for place in state.places.iter().filter(|p| p.unit.handle == unit) {
                let mut counters = place.counters.borrow_mut();
                let errors = counters.as_ref().map_or(0, |c| c.errors);
                let (read, write) = counters.as_mut().map(|c| c.view(self.now)).unwrap_or_default();
                found.push(NexusStats {
                    sid: u64::from(state.tsih),
                    initiator: state.nexus.initiator.name.clone(),
                    read,
                    write,
                    errors,
                });
            }
        }
        found
    }

    pub fn session_views(&self, tid: Tid) -> Vec<SessionView> {
        self.machine.sessions().filter(|s| s.tid == tid).map(convert::session_view).collect()
    }

    /// Whether the session and the connection were here.
    pub fn drop_connection(&mut self, tid: Tid, sid: u64, cid: u32) -> (bool, bool) {
        let found = self.machine.sessions().find(|s| s.tid == tid && u64::from(s.tsih) == sid);
        let Some(session) = found else { return (false, false) };
        let conn = session.connections.iter().find(|c| u32::from(c.cid) == cid).map(|c| c.id);
        let Some(conn) = conn else { return (true, false) };
        with_machine!(self, drop_connection, conn);
        (true, true)
    }

    pub fn drop_sessions(&mut self, tid: Tid, answer: Answer<()>) {
        let ids: Vec<SessionId> = self.machine.sessions().filter(|s| s.tid == tid).map(|s| s.id).collect();
        for id in ids {
            with_machine!(self, close_session, id, CloseHow::DropNow);
        }
        self.jobs.closing_targets.push((tid, answer));
        self.check_target_closings();
    }

    fn check_target_closings(&mut self) {
        let mut waiting = std::mem::take(&mut self.jobs.closing_targets);
        waiting.retain(|(tid, answer)| {
            if self.machine.sessions().any(|s| s.tid == *tid) || self.sessions.values().any(|s| s.tid == *tid)
            {
                return true;
            }
            let _ = answer.send(());
            false
        });
        self.jobs.closing_targets = waiting;
    }
}
