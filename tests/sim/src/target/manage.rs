//! Task management over all sessions, as jobs that end when the last of their victims is gone.

use scsi::{NexusId, ResetKind, Victims};
use target_session::{CloseHow, SessionId, TmfFunction, TmfId, TmfResponse};

use super::{After, Job, Target, machine};
use scsi::Input;

impl Target {
    pub(super) fn manage(&mut self, tmf: TmfId, session: SessionId, lun: u64, function: TmfFunction) {
        let Some(by) = self.sessions.get(&session).map(|s| s.nexus.id) else {
            return machine!(self, tmf_done, tmf, TmfResponse::Rejected);
        };
        let whole = matches!(function, TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset);
        let units: Vec<usize> = if whole {
            (0..self.units.len()).collect()
        } else {
            let n = iscsi::lun::decode(lun).map_or(usize::MAX, |n| n as usize);
            (0..self.units.len()).filter(|&u| u == n).collect()
        };
        if units.is_empty() {
            return machine!(self, tmf_done, tmf, TmfResponse::LunDoesNotExist);
        }
        for &u in &units {
            let lu = &self.units[u].lu;
            match function {
                TmfFunction::AbortTaskSet => {}
                TmfFunction::ClearTaskSet => lu.tasks_cleared(by, &Victims::All),
                TmfFunction::LogicalUnitReset => lu.reset(ResetKind::LogicalUnit),
                TmfFunction::TargetWarmReset => lu.reset(ResetKind::TargetWarm),
                TmfFunction::TargetColdReset => lu.reset(ResetKind::TargetCold),
            }
        }
        if function == TmfFunction::AbortTaskSet {
            return machine!(self, tmf_done, tmf, TmfResponse::Complete);
        }
        let close = function == TmfFunction::TargetColdReset;
        self.start_job(After::Tmf(tmf), &units, None, Some(by), close);
    }

    pub(super) fn start_job(
        &mut self,
        after: After,
        units: &[usize],
        nexuses: Option<&[NexusId]>,
        spare: Option<NexusId>,
        close: bool,
    ) {
        self.next += 1;
        let job = self.next;
        let concerned = |s: &&SessionId| {
            let nexus = self.sessions[*s].nexus.id;
            spare != Some(nexus) && nexuses.is_none_or(|n| n.contains(&nexus))
        };
        let sessions: Vec<SessionId> = self.sessions.keys().filter(concerned).copied().collect();
        self.jobs.insert(job, Job { open: sessions.len() * units.len() + 1, after });
        for &session in &sessions {
            for &unit in units {
                machine!(self, abort_tasks, session, iscsi::lun::encode(unit as u32), None, job);
            }
            if close {
                machine!(self, close_session, session, CloseHow::DropNow);
            }
        }
        self.part_done(job);
    }

    pub(super) fn part_done(&mut self, job: u64) {
        let Some(j) = self.jobs.get_mut(&job) else { return };
        j.open -= 1;
        if j.open > 0 {
            return;
        }
        match self.jobs.remove(&job).map(|j| j.after) {
            Some(After::Tmf(tmf)) => machine!(self, tmf_done, tmf, TmfResponse::Complete),
            Some(After::Task(key)) => {
                if let Some(r) = self.tasks.get_mut(&key) {
                    r.busy = false;
                }
                self.resume(key, Input::Aborted);
            }
            None => {}
        }
    }
}
