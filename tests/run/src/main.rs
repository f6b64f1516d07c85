//! `cargo test-all`: every tier of the proof, one after the other, on a machine with nothing but a toolchain and apt.
//!
//! Each tier is a command whose whole output goes to `build/logs/check/TIER.log`; what looks like a failure is shown while it
//! runs. The last line is `N passed, N failed` (and `, N skipped` if anything was), and the exit code says the same.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod execute;
mod tally;
mod tiers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::tally::Tally;
use crate::tiers::{TIERS, Tier};

/// Runs every tier of tests.
#[derive(Parser)]
#[command(name = "cargo test-all")]
struct Cli {
    /// Only these tiers
    #[arg(long, value_delimiter = ',')]
    tier: Vec<String>,
    /// All but these tiers
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Only say what there is
    #[arg(long)]
    list: bool,
    /// Where the logs go
    #[arg(long, default_value = "build/logs/check")]
    logs: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("test-all: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    if cli.list {
        TIERS.iter().for_each(|t| println!("{:12} {}\n{:12} {}", t.name, t.about, "", t.shown()));
        return Ok(true);
    }
    if !Path::new("Cargo.toml").is_file() || !Path::new("tests/run").is_dir() {
        bail!("run this from the root of the repository");
    }
    let chosen = choose(cli)?;
    std::fs::create_dir_all(&cli.logs).with_context(|| format!("cannot create {}", cli.logs.display()))?;
    let began = Instant::now();
    let mut total = Tally::default();
    let mut lines = Vec::new();
    for tier in chosen {
        println!("== {}: {}", tier.name, tier.about);
        let done = execute::tier(tier, &cli.logs)?;
        let word = if done.tally.failed == 0 { "ok" } else { "FAILED" };
        let line = format!("{word:6} {:12} {:4.0} s  {}", tier.name, done.took.as_secs_f32(), done.tally);
        println!("{line}");
        lines.push(line);
        total += done.tally;
    }
    println!("\n== all tiers, {:.0} s; logs in {}", began.elapsed().as_secs_f32(), cli.logs.display());
    lines.iter().for_each(|line| println!("{line}"));
    println!("{total}");
    Ok(total.failed == 0)
}

fn choose(cli: &Cli) -> Result<Vec<&'static Tier>> {
    if let Some(name) =
        cli.tier.iter().chain(&cli.without).find(|n| !TIERS.iter().any(|t| t.name == n.as_str()))
    {
        let names: Vec<&str> = TIERS.iter().map(|t| t.name).collect();
        bail!("no tier {name:?}; there are: {}", names.join(" "));
    }
    let wanted = |t: &&Tier| {
        (cli.tier.is_empty() || cli.tier.iter().any(|n| n == t.name))
            && !cli.without.iter().any(|n| n == t.name)
    };
    Ok(TIERS.iter().filter(wanted).collect())
}
