//! Running one tier: bounded in time, its output to a log, its failures to the terminal at once.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::tally::{self, Tally};
use crate::tiers::Tier;

/// How many lines of a failed tier's log are shown.
const SHOWN_LINES: usize = 60;

/// How a tier ended.
pub struct Done {
    /// What it counted.
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
}

/// The log and what went into it.
struct Sink {
    file: File,
    text: String,
}

/// Runs `tier`; its log goes to `logs`.
pub fn tier(tier: &Tier, logs: &Path) -> Result<Done> {
    interop::packages::require(tier.needs)?;
    let path = logs.join(format!("{}.log", tier.name));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let sink = Arc::new(Mutex::new(Sink { file, text: String::new() }));
    let began = Instant::now();
    let mut command = Command::new(tier.command[0]);
    command.args(&tier.command[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("CARGO_TERM_COLOR", "never").process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", tier.shown()))?;
    let readers = [
        child.stdout.take().map(|pipe| copy(pipe, sink.clone())),
        child.stderr.take().map(|pipe| copy(pipe, sink.clone())),
    ];
    let success = wait(&mut child, Duration::from_secs(tier.limit_s))?;
    if success.is_none() {
        println!("   not done after {} s, ended", tier.limit_s);
    }
    for reader in readers.into_iter().flatten() {
        reader.join().map_err(|_| anyhow::anyhow!("a reader of {} panicked", tier.name))??;
    }
    let text = std::mem::take(&mut sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner).text);
    let tally = tally::of(tier.count, &text, success == Some(true));
    if tally.failed > 0 {
        let lines: Vec<&str> = text.lines().collect();
        println!("   the end of {}:", path.display());
        lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().for_each(|line| println!("   | {line}"));
    }
    Ok(Done { tally, took: began.elapsed() })
}

/// None if the time limit ended it, with all that it had started.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<bool>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() >= until {
            let group = Pid::from_child(child);
            // First politely, so that namespaces and mounts are put away.
            let _ = kill_process_group(group, Signal::TERM);
            std::thread::sleep(Duration::from_secs(3));
            let _ = kill_process_group(group, Signal::KILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn copy(pipe: impl Read + Send + 'static, sink: Arc<Mutex<Sink>>) -> std::thread::JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line).into_owned();
            let mut sink = sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            sink.file.write_all(text.as_bytes())?;
            sink.text.push_str(&text);
            if looks_failed(&text) {
                print!("   {text}");
            }
            line.clear();
        }
        Ok(())
    })
}

fn looks_failed(line: &str) -> bool {
    let begins = ["FAILED", "error", "thread '", "layers: ", "Diff in "];
    begins.iter().any(|b| line.starts_with(b)) || line.trim_end().ends_with("... FAILED")
}
