//! The table as markdown, and the bars judged.

use std::fmt::Write;

use crate::cases::{CASES, Client, Idle, Row};
use crate::server::Kind;

/// One bar: what was asked, what was reached, whether that is enough.
struct Bar {
    what: &'static str,
    asked: String,
    reached: String,
    ok: bool,
}

/// The whole report. Of several rounds the one with the least CPU counts: what disturbs a run only adds.
pub fn report(rows: &[Row], idle: &[Idle]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "| case | server | IOPS | MiB/s | server CPU us/IO | CPU us/MiB | client CPU us/IO | p50 / p99 / p99.9 us |"
    );
    let _ = writeln!(out, "|---|---|---:|---:|---:|---:|---:|---|");
    for case in CASES {
        for kind in [Kind::Tgt, Kind::Plinth, Kind::Bare] {
            let Some(r) = best(rows, case.name, kind) else { continue };
            let o = &r.outcome;
            let mib = f64::from(r.case.pattern.bytes) / 1_048_576.0;
            let latency = match r.case.client {
                Client::IscsiPerf => "".to_owned(),
                Client::Ours(_) => o.latency_us.map(|l| l.to_string()).join(" / "),
            };
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} | {latency} |",
                case.name,
                kind.name(),
                o.iops(),
                o.iops() * mib,
                o.cpu_us(),
                o.cpu_us() / mib,
                o.client_us(),
            );
        }
    }
    for i in idle {
        let _ = writeln!(
            out,
            "\n{} idle sessions on {} with {} units: {:.0} us CPU a second, {:.1} MiB resident ({:.1} MiB before them).",
            i.sessions,
            i.kind.name(),
            i.units,
            i.cpu_us_a_second,
            i.resident as f64 / 1_048_576.0,
            i.resident_before as f64 / 1_048_576.0
        );
    }
    let bars = bars(rows, idle);
    if !bars.is_empty() {
        let _ = writeln!(out, "\n| bar | asked | reached | |\n|---|---|---|---|");
        for b in bars {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} |",
                b.what,
                b.asked,
                b.reached,
                if b.ok { "met" } else { "**missed**" }
            );
        }
    }
    out
}

fn best<'a>(rows: &'a [Row], case: &str, kind: Kind) -> Option<&'a Row> {
    let mine = rows.iter().filter(|r| r.kind == kind && r.case.name == case);
    mine.min_by(|a, b| a.outcome.cpu_us().total_cmp(&b.outcome.cpu_us()))
}

fn most_iops(rows: &[Row], case: &str, kind: Kind) -> Option<f64> {
    let mine = rows.iter().filter(|r| r.kind == kind && r.case.name == case);
    mine.map(|r| r.outcome.iops()).max_by(f64::total_cmp)
}

fn bars(rows: &[Row], idle: &[Idle]) -> Vec<Bar> {
    let mut out = Vec::new();
    let cpu = |case, kind| best(rows, case, kind).map(|r| r.outcome.cpu_us());
    let mut ratio = |what, case, to: Kind, most: f64| {
        if let (Some(ours), Some(theirs)) = (cpu(case, Kind::Plinth), cpu(case, to)) {
            let asked = format!("at most {most:.2} of {}", to.name());
            let reached = format!("{:.2} ({ours:.2} of {theirs:.2} us)", ours / theirs);
            out.push(Bar { what, asked, reached, ok: ours / theirs <= most });
        }
    };
    ratio("4 KiB random reads, depth 32, iscsi-perf: CPU per IO", "perf-4k-qd32", Kind::Tgt, 0.2);
    ratio("4 KiB random reads, depth 32: CPU per IO", "read-4k-qd32", Kind::Tgt, 0.2);
    ratio("4 KiB random writes, depth 32: CPU per IO", "write-4k-qd32", Kind::Tgt, 0.2);
    ratio("256 KiB sequential reads, iscsi-perf: CPU per byte", "perf-256k", Kind::Tgt, 0.5);
    ratio("256 KiB sequential reads: CPU per byte", "read-256k", Kind::Tgt, 0.5);
    ratio("256 KiB sequential writes: CPU per byte", "write-256k", Kind::Tgt, 0.5);
    ratio("4 KiB random reads, depth 32: CPU per IO, against the limit", "read-4k-qd32", Kind::Bare, 1.6);
    ratio("4 KiB random reads, 8 sessions: CPU per IO, against the limit", "read-4k-8x32", Kind::Bare, 1.6);
    ratio(
        "4 KiB random reads, 64 sessions on 64 units: CPU per IO, against the limit",
        "read-4k-64x4-64luns",
        Kind::Bare,
        1.6,
    );
    ratio("4 KiB random writes, depth 32: CPU per IO, against the limit", "write-4k-qd32", Kind::Bare, 1.6);
    for (what, case) in [
        ("4 KiB random reads, depth 1, iscsi-perf: IOPS", "perf-4k-qd1"),
        ("4 KiB random reads, depth 1: IOPS", "read-4k-qd1"),
        ("4 KiB random writes, depth 1: IOPS", "write-4k-qd1"),
    ] {
        if let (Some(ours), Some(tgt)) =
            (most_iops(rows, case, Kind::Plinth), most_iops(rows, case, Kind::Tgt))
        {
            let reached = format!("{:.2} ({ours:.0} to {tgt:.0})", ours / tgt);
            out.push(Bar { what, asked: "at least 2 of tgt".to_owned(), reached, ok: ours / tgt >= 2.0 });
        }
    }
    let (one, many) = (cpu("read-4k-64x4", Kind::Plinth), cpu("read-4k-64x4-64luns", Kind::Plinth));
    if let (Some(one), Some(many)) = (one, many) {
        out.push(Bar {
            what: "64 sessions on 64 units: CPU per IO, against 64 sessions on one",
            asked: "no loss (at most 1.10)".to_owned(),
            reached: format!("{:.2} ({many:.2} of {one:.2} us)", many / one),
            ok: many / one <= 1.1,
        });
    }
    if let Some(r) = best(rows, "perf-4k-qd32", Kind::Plinth) {
        let (server, client) = (r.outcome.cpu_us(), r.outcome.client_us());
        out.push(Bar {
            what: "the client's core is the bottleneck: client CPU per IO, against the server's",
            asked: "more than 1".to_owned(),
            reached: format!("{:.2} ({client:.2} to {server:.2} us)", client / server),
            ok: client > server,
        });
    }
    for i in idle.iter().filter(|i| i.kind == Kind::Plinth) {
        let mib = i.resident as f64 / 1_048_576.0;
        out.push(Bar {
            what: if i.units == 1 { "1,000 idle sessions, 1 unit" } else { "1,000 idle sessions, 66 units" },
            asked: "no CPU, less than 64 MiB".to_owned(),
            reached: format!("{:.0} us a second, {mib:.1} MiB", i.cpu_us_a_second),
            ok: mib < 64.0 && i.cpu_us_a_second < 1000.0,
        });
    }
    out
}
