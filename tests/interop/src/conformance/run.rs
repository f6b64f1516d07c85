//! Starting the target with a unit of each kind, and the test tool against each.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::known;
use super::parse::{Outcome, parse};
use super::{Args, LunKind};
use crate::command::Run;
use crate::packages;
use crate::target::{Lun, Options, Programs, Target, sparse_file, tail};

/// Large enough for every test, small enough for READ(6): at most 1fffffh blocks.
const LUN_SIZE_BYTES: u64 = 256 << 20;
const TOOL: &str = "iscsi-test-cu";

/// The outcomes of one kind, by `Suite.Test`.
pub type Column = BTreeMap<String, Outcome>;

/// All outcomes.
pub struct Results {
    /// The tests that were asked for, in the tool's order.
    pub tests: Vec<String>,
    /// One column for each kind.
    pub columns: Vec<(LunKind, Column)>,
    /// How long it took.
    pub took: Duration,
    /// How often the daemon died, and in which suite.
    pub deaths: Vec<String>,
}

/// All tests of the tool, as `Suite.Test`.
fn list() -> Result<Vec<String>> {
    let listed = Run::new(TOOL).arg("-l").output()?;
    let tests: Vec<String> = listed
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("ALL."))
        .filter(|name| name.contains('.'))
        .map(str::to_owned)
        .collect();
    if tests.is_empty() {
        bail!("{TOOL} -l lists no tests: {}", listed.text());
    }
    Ok(tests)
}

/// Runs what `args` ask for.
pub fn run(args: &Args) -> Result<Results> {
    packages::require(&[("libiscsi-bin", TOOL)])?;
    let began = Instant::now();
    let all = list()?;
    let wanted =
        |test: &String| args.names.is_empty() || args.names.iter().any(|n| test.contains(n.as_str()));
    let tests: Vec<String> = all.into_iter().filter(wanted).collect();
    if tests.is_empty() {
        bail!("no test has a name with any of {:?} in it", args.names);
    }
    let kinds = if args.kind.is_empty() { LunKind::ALL.to_vec() } else { args.kind.clone() };
    let scratch = tempfile::Builder::new().prefix("plinth-conformance-").tempdir()?;
    let programs = Programs::locate(args.target, scratch.path())?;
    let queue = Mutex::new(kinds.iter().copied().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        while let Some(kind) = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front() {
            let mut round = Round::start(args, &programs, scratch.path(), kind)?;
            round.run(&tests)?;
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((
                kind,
                round.column,
                round.deaths,
            ));
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..args.parallel.clamp(1, kinds.len())).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(kind, ..)| *kind);
    let deaths = done.iter().flat_map(|(.., deaths)| deaths.clone()).collect();
    let columns = done.into_iter().map(|(kind, column, _)| (kind, column)).collect();
    Ok(Results { tests, columns, took: began.elapsed(), deaths })
}

/// One kind's round, against a daemon of its own.
struct Round {
    kind: LunKind,
    iqn: String,
    target: Target,
    logs: PathBuf,
    quick: bool,
    column: Column,
    deaths: Vec<String>,
}

impl Round {
    fn start(args: &Args, programs: &Programs, scratch: &Path, kind: LunKind) -> Result<Self> {
        let dir = scratch.join(kind.name());
        let logs = args.logs.join(kind.name());
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let mut target = Target::start(programs, &dir, Options::loopback(2)?)?;
        let file = dir.join("lun.img");
        sparse_file(&file, LUN_SIZE_BYTES)?;
        let iqn = format!("iqn.2026-11.org.plinth.conformance:{}", kind.name());
        target.add_target(1, &iqn)?;
        let lun =
            Lun { number: 1, path: file, block_size: kind.block_size(), params: kind.params().to_owned() };
        target.add_lun(1, &lun).with_context(|| format!("cannot make the {} unit", kind.name()))?;
        Ok(Self { kind, iqn, target, logs, quick: args.quick, column: Column::new(), deaths: Vec::new() })
    }

    fn run(&mut self, tests: &[String]) -> Result<()> {
        let mut suites: Vec<&str> = tests.iter().filter_map(|t| t.split('.').next()).collect();
        suites.dedup();
        for suite in suites {
            let mut pending = Vec::new();
            for test in tests.iter().filter(|t| t.split('.').next() == Some(suite)) {
                match known::not_applicable(test, self.kind, self.quick) {
                    Some(why) => drop(self.column.insert(test.clone(), Outcome::NotApplicable(why))),
                    None => pending.push(test.clone()),
                }
            }
            self.suite(suite, pending)?;
        }
        Ok(())
    }

    /// Runs a suite in one process, and what that left open test by test.
    fn suite(&mut self, suite: &str, mut pending: Vec<String>) -> Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        if !known::one_by_one(suite) {
            self.process(suite, suite, &mut pending)?;
        }
        while let Some(test) = pending.first().cloned() {
            self.process(suite, &test, &mut pending)?;
            if pending.first() == Some(&test) {
                pending.remove(0);
                self.column.insert(test, Outcome::Failed("it gave no verdict, not even alone".to_owned()));
            }
        }
        Ok(())
    }

    /// One process of the tool, for a suite or a test.
    fn process(&mut self, suite: &str, what: &str, pending: &mut Vec<String>) -> Result<()> {
        let log = self.logs.join(format!("{what}.log"));
        let limit = Duration::from_secs(if suite == "Sanitize" { 600 } else { 150 });
        let mut run = Run::new(TOOL).limit(limit).args(["-V", "-t", &format!("ALL.{what}")]);
        if known::data_loss(suite, self.kind) {
            run = run.args(["--dataloss", "--allow-sanitize"]);
        }
        let urls = [self.target.url(0, &self.iqn, 1), self.target.url(1, &self.iqn, 1)];
        let (code, timed_out) = run.args(urls).to_log(&log)?;
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let (found, open) = parse(&text);
        for (test, outcome) in found {
            if let Some(at) = pending.iter().position(|t| *t == test) {
                pending.remove(at);
                self.column.insert(test, outcome);
            }
        }
        let died = !self.target.runs();
        if died {
            self.deaths.push(format!("{what} on {}: {}", self.kind.name(), tail(&self.target.log(), 5)));
            self.target.restart()?;
        }
        if let Some(test) = open {
            let why = match (died, timed_out) {
                (true, _) => "the target died".to_owned(),
                (false, true) => format!("not done after {} s", limit.as_secs()),
                (false, false) => format!("the tool ended in the middle of it (exit code {code:?})"),
            };
            pending.retain(|t| *t != test);
            self.column.insert(test, Outcome::Failed(why));
        }
        Ok(())
    }
}
