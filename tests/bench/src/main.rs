//! The bench: ours, stock tgt and a bare ring server, side by side in one run.
//!
//! ```text
//!   core 0: the server, one at a time            core 1: the client
//!   tgtd | plinth tgtd | bare ring      ◀─────   iscsi-perf | the load generator, over loopback
//!                └── a file in the page cache
//! ```
//!
//! What is compared is the server's CPU time for a command, from the process's CPU clock: that changes little when
//! something else wants the cores, unlike the time on the wall. It prints markdown for docs/performance.md.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
// The bench speaks io_uring directly: the bare ring is the limit that the reactor is measured against.
#![allow(unsafe_code)]

mod bare;
mod cases;
mod cpu;
mod load;
mod report;
mod ring;
mod server;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use cases::CASES;
use server::{CLIENT_CORE, Kind, Places, Program};

#[derive(Parser)]
#[command(about = "Ours, stock tgt and a bare ring server, side by side in one run; prints markdown")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Part>,
    /// Stock tgtd; its tgtadm lies in the same folder.
    #[arg(long, default_value = "/usr/sbin/tgtd")]
    tgtd: PathBuf,
    /// Our binary; `plinth` beside this program where it is there.
    #[arg(long)]
    plinth: Option<PathBuf>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Rounds; of each number the best round counts.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Only cases whose names contain this (`idle` is one too); may be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// Only these servers: tgt, plinth, bare.
    #[arg(long)]
    server: Vec<String>,
    /// Size of the file, MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Record each server with perf and print where its time goes.
    #[arg(long)]
    profile: bool,
}

#[derive(Subcommand)]
enum Part {
    /// The bare ring server alone.
    #[command(hide = true)]
    Bare {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        file: PathBuf,
        #[arg(long, default_value_t = 0)]
        spin_us: u64,
    },
}

impl Arguments {
    fn wants_case(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| name.contains(o.as_str()))
    }

    fn wants_server(&self, kind: Kind) -> bool {
        self.server.is_empty() || self.server.iter().any(|s| kind.name().starts_with(s.as_str()))
    }

    fn places(&self, dir: PathBuf) -> Result<Places> {
        let folder = self.tgtd.parent().context("--tgtd names no folder")?;
        let plain = |path: PathBuf| Program { path, first: Vec::new() };
        let beside = std::env::current_exe()?.with_file_name("plinth");
        let ours = self.plinth.clone().or(beside.exists().then_some(beside));
        let part = |path: &PathBuf, name: &str| Program { path: path.clone(), first: vec![name.to_owned()] };
        Ok(Places {
            stock: (plain(self.tgtd.clone()), plain(folder.join("tgtadm"))),
            plinth: ours.map(|p| (part(&p, "tgtd"), part(&p, "tgtadm"))),
            files: Places::make_files(&dir, self.mib)?,
            dir,
        })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Bare { port, connections, file, spin_us }) = &arguments.command {
        return bare::serve(*port, file, *connections, Duration::from_micros(*spin_us));
    }
    let dir = tempfile::Builder::new().prefix("plinth-bench-").tempdir()?;
    let places = arguments.places(dir.path().to_owned())?;
    cpu::pin(None, CLIENT_CORE)?;
    raise_files_limit()?;
    let (mut rows, mut idle) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        for case in CASES.iter().filter(|c| arguments.wants_case(c.name)) {
            for kind in [Kind::Tgt, Kind::Plinth, Kind::Bare] {
                if !arguments.wants_server(kind) || (kind == Kind::Plinth && places.plinth.is_none()) {
                    continue;
                }
                eprintln!("round {}: {} on {}", round + 1, case.name, kind.name());
                let time = Duration::from_secs(arguments.seconds);
                let row = cases::run(case, kind, &places, time, arguments.profile);
                rows.extend(row.with_context(|| format!("{} on {}", case.name, kind.name()))?);
            }
        }
    }
    for kind in [Kind::Tgt, Kind::Plinth] {
        let there = kind == Kind::Tgt || places.plinth.is_some();
        if arguments.wants_case("idle") && arguments.wants_server(kind) && there {
            for units in [1, places.files.len()] {
                eprintln!("1,000 idle sessions on {} with {units} units", kind.name());
                match cases::idle(kind, &places, 1000, units) {
                    Ok(i) => idle.push(i),
                    Err(e) if kind == Kind::Tgt => eprintln!("1,000 sessions on tgt: {e:#}"),
                    Err(e) => return Err(e),
                }
            }
        }
    }
    println!("{}", report::report(&rows, &idle));
    Ok(())
}

/// A thousand sessions are a thousand sockets here and there.
fn raise_files_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(65536, |m| m.min(65536));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        .context("raise the limit of open files")
}
