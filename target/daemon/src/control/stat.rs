//! What `--op stat` prints: tgt's tables byte for byte, and a longer text of our own with rates and latencies.

use std::fmt::Write;

use super::backend::{Backend, ConnectionStats, IoStats, LunHandle, NexusStats, SessionView};
use super::error::{Refusal, TgtError};
use super::{Control, Target, Tid};
use crate::mgmt::{Request, Response, TID_ALL};

const HEADER: &str =
    "tgt lun sid rd_subm(bytes,cmds) rd_done(bytes,cmds) wr_subm(bytes,cmds) wr_done(bytes,cmds) errs\n";
const CONNECTION_HEADER: &str =
    "sid cid rxdata_octets txdata_octets dataout_pdus datain_pdus cmd_pdus rsp_pdus\n";

impl Control {
    pub(super) fn stat_system(&self, backend: &dyn Backend) -> String {
        let mut out = HEADER.to_owned();
        self.targets.values().for_each(|t| target_lines(&mut out, t, backend));
        out
    }

    pub(super) fn stat_target(&self, tid: Tid, backend: &dyn Backend) -> Response {
        let mut out = HEADER.to_owned();
        target_lines(&mut out, self.target(tid)?, backend);
        Ok(out)
    }

    pub(super) fn stat_lun(&self, tid: Tid, number: u64, backend: &dyn Backend) -> Response {
        let handle = self.lun_handle(tid, number)?;
        let mut out = HEADER.to_owned();
        lun_lines(&mut out, tid, number, handle, backend);
        Ok(out)
    }

    pub(super) fn lun_handle(&self, tid: Tid, number: u64) -> Result<LunHandle, Refusal> {
        let lun = self.target(tid)?.luns.get(&number);
        lun.map(|l| l.handle).ok_or_else(|| Refusal::new(TgtError::NoLun, format!("no LUN {number}")))
    }

    pub(super) fn stat_session(&self, sid: u64, backend: &dyn Backend) -> Response {
        let (target, session) = self.find_session(sid, backend)?;
        let mut out = HEADER.to_owned();
        for (number, lun) in &target.luns {
            let mine = |n: &NexusStats| n.sid == sid;
            let stats = backend.lun_stats(lun.handle).into_iter().find(mine).unwrap_or_default();
            nexus_line(&mut out, target.tid, *number, sid, &stats);
        }
        if !session.connections.is_empty() {
            out.push('\n');
            out.push_str(CONNECTION_HEADER);
        }
        for c in &session.connections {
            connection_line(&mut out, sid, c.cid, &c.stats);
        }
        Ok(out)
    }

    pub(super) fn stat_connection(&self, sid: u64, cid: u32, backend: &dyn Backend) -> Response {
        let (_, session) = self.find_session(sid, backend)?;
        let connection = session.connections.iter().find(|c| c.cid == cid).ok_or(TgtError::NoConnection)?;
        let mut out = CONNECTION_HEADER.to_owned();
        connection_line(&mut out, sid, cid, &connection.stats);
        Ok(out)
    }

    fn find_session(&self, sid: u64, backend: &dyn Backend) -> Result<(&Target, SessionView), Refusal> {
        self.targets
            .values()
            .find_map(|t| backend.sessions(t.tid).into_iter().find(|s| s.sid == sid).map(|s| (t, s)))
            .ok_or_else(|| Refusal::new(TgtError::NoSession, format!("no session {sid}")))
    }

    /// Rates, latencies and limits, of what `what` and the request's fields name.
    pub(super) fn stat_extended(&self, what: &str, request: &Request, backend: &dyn Backend) -> Response {
        let mut out = String::new();
        match what {
            "lu" => {
                self.lun_handle(request.tid, request.lun)?;
                extended_lun(&mut out, self.target(request.tid)?, request.lun, backend);
            }
            "target" if request.tid != TID_ALL => {
                extended_target(&mut out, self.target(request.tid)?, backend);
            }
            "target" | "system" => {
                self.targets.values().for_each(|t| extended_target(&mut out, t, backend));
            }
            _ => return Err(Refusal::invalid("extended statistics are of system, target or logicalunit")),
        }
        Ok(out)
    }
}

fn target_lines(out: &mut String, target: &Target, backend: &dyn Backend) {
    for (number, lun) in &target.luns {
        lun_lines(out, target.tid, *number, lun.handle, backend);
    }
}

fn lun_lines(out: &mut String, tid: Tid, number: u64, handle: LunHandle, backend: &dyn Backend) {
    for nexus in backend.lun_stats(handle) {
        nexus_line(out, tid, number, nexus.sid, &nexus);
    }
}

fn nexus_line(out: &mut String, tid: Tid, lun: u64, sid: u64, s: &NexusStats) {
    let _ = writeln!(
        out,
        "{tid:3} {lun:3} {sid:3} {:12} {:6} {:12} {:6} {:12} {:6} {:12} {:6} {:4}",
        s.read.submitted_bytes,
        s.read.submitted,
        s.read.done_bytes,
        s.read.done,
        s.write.submitted_bytes,
        s.write.submitted,
        s.write.done_bytes,
        s.write.done,
        s.errors
    );
}

fn connection_line(out: &mut String, sid: u64, cid: u32, s: &ConnectionStats) {
    let _ = writeln!(
        out,
        "{sid:3} {cid:3} {:13} {:13} {:12} {:11} {:8} {:8}",
        s.rx_bytes, s.tx_bytes, s.data_out_pdus, s.data_in_pdus, s.command_pdus, s.response_pdus
    );
}

fn extended_target(out: &mut String, target: &Target, backend: &dyn Backend) {
    for number in target.luns.keys() {
        extended_lun(out, target, *number, backend);
    }
}

fn extended_lun(out: &mut String, target: &Target, number: u64, backend: &dyn Backend) {
    let Some(lun) = target.luns.get(&number) else { return };
    let nexuses = backend.lun_stats(lun.handle);
    let limit = |n: u64| if n == 0 { "none".to_owned() } else { n.to_string() };
    let limits = &lun.spec.limits;
    let _ = writeln!(out, "Target {}: {}\n    LUN: {number}", target.tid, target.name);
    let _ = writeln!(
        out,
        "        Limits: IOPS {}, bytes/s {}",
        limit(limits.iops),
        limit(limits.bytes_per_second)
    );
    let mut all = NexusStats::default();
    for n in &nexuses {
        add(&mut all.read, &n.read);
        add(&mut all.write, &n.write);
        all.errors += n.errors;
    }
    let _ = writeln!(out, "        All initiators:");
    extended_nexus(out, &all);
    for n in &nexuses {
        let _ = writeln!(out, "        Initiator: {} (session {})", n.initiator, n.sid);
        extended_nexus(out, n);
    }
}

fn extended_nexus(out: &mut String, n: &NexusStats) {
    for (name, io) in [("Reads", &n.read), ("Writes", &n.write)] {
        let _ = writeln!(
            out,
            "            {name}: {} done, {} bytes, {} IOPS, {} bytes/s",
            io.done, io.done_bytes, io.per_second, io.bytes_per_second
        );
        if io.latency.count() == 0 {
            continue;
        }
        let [half, most, worst] = [0.5, 0.99, 0.999].map(|q| bound(io.latency.quantile_us(q)));
        let mean = io.latency.sum_ns() / io.latency.count() / 1000;
        let _ = writeln!(out, "            Latency: mean {mean} us, 50% {half}, 99% {most}, 99.9% {worst}");
        for (upper, count) in io.latency.buckets().filter(|(_, n)| *n > 0) {
            let _ = writeln!(out, "                {:>12}: {count}", bound(upper));
        }
    }
    let _ = writeln!(out, "            Errors: {}", n.errors);
}

fn bound(us: u64) -> String {
    if us == u64::MAX { "more".to_owned() } else { format!("< {us} us") }
}

pub(super) fn add(to: &mut IoStats, from: &IoStats) {
    to.submitted_bytes += from.submitted_bytes;
    to.submitted += from.submitted;
    to.done_bytes += from.done_bytes;
    to.done += from.done;
    to.per_second += from.per_second;
    to.bytes_per_second += from.bytes_per_second;
    to.latency.merge(&from.latency);
}
