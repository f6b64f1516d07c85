//! The cases of the table, and how one is run.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cpu;
use crate::load::{Load, Outcome, Pattern};
use crate::server::{CLIENT_CORE, Kind, Places, Server, UNIT_READ, UNIT_WRITE, UNITS_FIRST};

/// Who makes the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// libiscsi's `iscsi-perf`; reads only.
    IscsiPerf,
    /// Ours, with so many sessions.
    Ours(u32),
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For `--only` and the table.
    pub name: &'static str,
    /// Who.
    pub client: Client,
    /// What.
    pub pattern: Pattern,
    /// The first unit.
    pub unit: u32,
    /// Units from there on that the sessions are spread over.
    pub units: u32,
    /// The bare ring may spin before it sleeps, as a target that is built for latency does.
    pub spin_us: u64,
}

const fn case(name: &'static str, client: Client, write: bool, bytes: u32, depth: u32) -> Case {
    let random = bytes == 4096;
    let spin_us = if depth == 1 { 50 } else { 0 };
    let unit = if write { UNIT_WRITE } else { UNIT_READ };
    Case { name, client, pattern: Pattern { write, random, bytes, depth }, unit, units: 1, spin_us }
}

/// All cases, in the table's order.
pub const CASES: &[Case] = &[
    case("perf-4k-qd32", Client::IscsiPerf, false, 4096, 32),
    case("perf-4k-qd1", Client::IscsiPerf, false, 4096, 1),
    case("perf-256k", Client::IscsiPerf, false, 262_144, 8),
    case("read-4k-qd32", Client::Ours(1), false, 4096, 32),
    case("read-4k-qd1", Client::Ours(1), false, 4096, 1),
    case("read-256k", Client::Ours(1), false, 262_144, 8),
    case("write-4k-qd32", Client::Ours(1), true, 4096, 32),
    case("write-4k-qd1", Client::Ours(1), true, 4096, 1),
    case("write-256k", Client::Ours(1), true, 262_144, 8),
    case("read-4k-8x32", Client::Ours(8), false, 4096, 32),
    // As many bytes as the 64 units have, so that caches are of no more use to one than to the other.
    case("read-4k-64x4", Client::Ours(64), false, 4096, 4),
    Case { unit: UNITS_FIRST, units: 64, ..case("read-4k-64x4-64luns", Client::Ours(64), false, 4096, 4) },
];

/// One measured line.
#[derive(Clone, Debug)]
pub struct Row {
    /// Whose.
    pub kind: Kind,
    /// Of which case.
    pub case: Case,
    /// What it gave.
    pub outcome: Outcome,
}

/// Runs one case on one server, `None` where it does not apply.
pub fn run(case: &Case, kind: Kind, places: &Places, time: Duration, profile: bool) -> Result<Option<Row>> {
    let outcome = match (case.client, kind) {
        (Client::IscsiPerf, Kind::Bare) => return Ok(None),
        (Client::IscsiPerf, _) => {
            let server = Server::target(kind, places)?;
            let _profile = profile.then(|| Profile::start(&server, time)).transpose()?;
            iscsi_perf(case, &server, time)?
        }
        (Client::Ours(sessions), _) => {
            let server = match kind {
                Kind::Bare => Server::bare(places, bare_unit(case), sessions as usize, case.spin_us)?,
                _ => Server::target(kind, places)?,
            };
            let session = |i: u32| {
                let unit = case.unit + i % case.units;
                server.session(i, if kind == Kind::Bare { bare_unit(case) } else { unit }, places)
            };
            let sessions = (0..sessions).map(session).collect::<Result<Vec<_>>>()?;
            let load = Load::new(sessions, case.pattern, Duration::ZERO, server.pid())?;
            let _profile = profile.then(|| Profile::start(&server, time)).transpose()?;
            load.run(Duration::from_millis(300), time)?
        }
    };
    Ok(Some(Row { kind, case: *case, outcome }))
}

/// The bare ring has one file: the large one stands for all of the small ones.
fn bare_unit(case: &Case) -> u32 {
    if case.pattern.write { UNIT_WRITE } else { UNIT_READ }
}

fn iscsi_perf(case: &Case, server: &Server, time: Duration) -> Result<Outcome> {
    let seconds = time.as_secs().max(1);
    let mut command = Command::new("iscsi-perf");
    command.args(["-m", &case.pattern.depth.to_string(), "-b", &(case.pattern.bytes / 512).to_string()]);
    command.args(["-t", &seconds.to_string()]);
    if case.pattern.random {
        command.arg("-r");
    }
    command.arg(server.url(case.unit)).stdin(Stdio::null());
    let (before, children, start) = (cpu::process_time(server.pid())?, cpu::children_time()?, Instant::now());
    let out = command.output().context("start iscsi-perf (Debian's libiscsi-bin)")?;
    let (wall, after) = (start.elapsed(), cpu::process_time(server.pid())?);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("iscsi-perf: {} {}", text.trim(), String::from_utf8_lossy(&out.stderr).trim());
    }
    let average = text.rsplit_once("iops average ").context("iscsi-perf names no average")?.1;
    let average: f64 = average.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(Outcome {
        count: (average * seconds as f64) as u64,
        wall: wall.min(Duration::from_secs(seconds)),
        server: after - before,
        client: cpu::children_time()? - children,
        latency_us: [0; 3],
    })
}

/// What idle sessions cost.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Whose.
    pub kind: Kind,
    /// How many.
    pub sessions: u32,
    /// Units of the target.
    pub units: usize,
    /// CPU time in a second, microseconds.
    pub cpu_us_a_second: f64,
    /// Resident memory with them, bytes.
    pub resident: u64,
    /// Resident memory before them, bytes.
    pub resident_before: u64,
}

/// Logs `count` sessions in, and watches them do nothing.
pub fn idle(kind: Kind, places: &Places, count: u32, units: usize) -> Result<Idle> {
    let files = places.files[..units].to_vec();
    let places = &Places { files, ..places.clone() };
    let server = Server::target(kind, places)?;
    let resident_before = cpu::resident(server.pid())?;
    let sessions = (0..count)
        .map(|i| server.session(i, UNIT_READ, places))
        .collect::<Result<Vec<_>>>()
        .context("log in")?;
    std::thread::sleep(Duration::from_millis(500));
    let (before, start) = (cpu::process_time(server.pid())?, Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let used = cpu::process_time(server.pid())? - before;
    let cpu_us_a_second = used.as_secs_f64() * 1e6 / start.elapsed().as_secs_f64();
    let resident = cpu::resident(server.pid())?;
    drop(sessions);
    Ok(Idle { kind, sessions: count, units, cpu_us_a_second, resident, resident_before })
}

/// A `perf record` of a server, printed when it ends.
pub struct Profile {
    perf: std::process::Child,
    data: std::path::PathBuf,
    title: String,
}

impl Profile {
    fn start(server: &Server, time: Duration) -> Result<Self> {
        let data = std::env::temp_dir().join(format!("plinth-bench-{}.perf", server.pid()));
        // Virtual machines often have no hardware counters: the clock is there always.
        let perf = Command::new("perf")
            .args([
                "record",
                "-q",
                "-e",
                "cpu-clock",
                "-F",
                "4000",
                "-g",
                "-p",
                &server.pid().to_string(),
                "-o",
            ])
            .arg(&data)
            .args(["--", "sleep", &format!("{:.1}", time.as_secs_f64())])
            .stdin(Stdio::null())
            .spawn()
            .context("start perf (Debian's linux-perf)")?;
        cpu::pin(Some(perf.id()), CLIENT_CORE)?;
        Ok(Profile { perf, data, title: server.kind.name().to_owned() })
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = self.perf.wait();
        let report = Command::new("perf")
            .args([
                "report",
                "--no-children",
                "-g",
                "none",
                "--stdio",
                "--percent-limit",
                "0.7",
                "-s",
                "sym",
                "-i",
            ])
            .arg(&self.data)
            .stderr(Stdio::null())
            .output();
        if let Ok(out) = report {
            println!("\nProfile of {} (percent of its samples):\n", self.title);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).take(45) {
                println!("    {}", line.trim_end());
            }
        }
        let _ = std::fs::remove_file(&self.data);
    }
}
