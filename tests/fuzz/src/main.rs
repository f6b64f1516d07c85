//! Builds the harness with coverage, runs targets for a time, and says how to see a finding again.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a program with files and processes")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use fuzz::{TARGETS, Target, home, seeds};

/// Fuzzes every parser of bytes from a network, a disk or a user's file.
#[derive(Parser)]
#[command(name = "plinth-fuzz")]
struct Args {
    /// The target; all of them, one after the other, if not given
    #[arg(long)]
    target: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs one input through --target, without libFuzzer
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Lists the targets
    #[arg(long)]
    list: bool,
    /// First shows that the fuzzer finds things: looks for a planted bug, and fails if it is not found
    #[arg(long)]
    self_check: bool,
}

/// LLVM's coverage pass as libFuzzer wants it; what cargo-fuzz passes too. The pass and its arguments are stable options.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plinth-fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    if args.list {
        TARGETS.iter().for_each(|target| println!("{:8} {}", target.name, target.about));
        return Ok(true);
    }
    if let Some(file) = &args.replay {
        let [name] = &args.target[..] else { bail!("--replay needs one --target") };
        let input = fs::read(file).with_context(|| format!("{}", file.display()))?;
        (named(name)?.run)(&input);
        println!("{name}: nothing wrong with {}", file.display());
        return Ok(true);
    }
    let targets: Vec<Target> = match &args.target[..] {
        [] => TARGETS.to_vec(),
        names => names.iter().map(|name| named(name)).collect::<Result<_>>()?,
    };
    // libFuzzer is C++.
    interop::packages::require(&[("g++", "c++")])?;
    let harness = build()?;
    let (mut passed, mut failed) = (0, 0);
    if args.self_check {
        match self_check(&harness)? {
            true => passed += 1,
            false => failed += 1,
        }
    }
    for target in &targets {
        println!("{}: {} for {} s", target.name, target.about, args.seconds);
        match fuzz_one(&harness, target, args.seconds)? {
            None => {
                passed += 1;
                println!("{}: nothing found", target.name);
            }
            Some((finding, log)) => {
                failed += 1;
                log.iter().for_each(|line| println!("  | {line}"));
                let file = finding.strip_prefix(repository()?).unwrap_or(&finding).display();
                println!("{}: FOUND. To see it again:", target.name);
                println!("  cargo run -p plinth-fuzz -- --target {} --replay {file}", target.name);
            }
        }
    }
    println!("tally: {passed} passed, {failed} failed, 0 skipped");
    Ok(failed == 0)
}

fn named(name: &str) -> Result<Target> {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    fuzz::target(name).with_context(|| format!("no target {name}; there are {}", names.join(", ")))
}

fn repository() -> Result<&'static Path> {
    home().ancestors().nth(2).context("tests/fuzz is two levels below the repository")
}

/// Builds the harness in a build folder of its own, since everything in it is instrumented.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let rustc = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let version = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host =
        version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let dir = repository()?.join("build/fuzz");
    println!("building the harness in {}", dir.display());
    // Naming the host as --target keeps the flags from build scripts and procedural macros.
    let status = Command::new(cargo)
        .current_dir(repository()?)
        .args(["build", "-q", "-p", "plinth-fuzz", "--bin", "fuzz-harness", "--features", "harness"])
        .args(["--profile", "fuzz", "--target", host, "--target-dir"])
        .arg(&dir)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"))
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "the harness does not build");
    Ok(dir.join(host).join("fuzz/fuzz-harness"))
}

/// Runs `target`; the file of what was found and libFuzzer's last words, if anything was.
fn fuzz_one(harness: &Path, target: &Target, seconds: u64) -> Result<Option<(PathBuf, Vec<String>)>> {
    let corpus = repository()?.join("build/fuzz/corpus").join(target.name);
    let artifacts = home().join("artifacts").join(target.name);
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    }
    let before = files(&artifacts)?;
    let mut command = Command::new(harness);
    command
        .env("PLINTH_FUZZ_TARGET", target.name)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.input_bytes_max))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // A hang is a finding, and so is growth.
        .args([
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-use_value_profile=1",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .arg(&corpus);
    // What is found goes into the first folder; seeds are only read.
    if seeds(target.name).is_dir() {
        command.arg(seeds(target.name));
    }
    let output = command.output().with_context(|| format!("{}", harness.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let executions = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    if output.status.success() {
        let executions = executions.context("libFuzzer gave no statistics")?.trim();
        println!("{}: {executions} inputs, {} kept", target.name, files(&corpus)?.len());
        return Ok(None);
    }
    // libFuzzer gives a finding the name of its hash: one that was found before is no new file.
    let told = log.lines().find_map(|line| line.split("Test unit written to ").nth(1)).map(PathBuf::from);
    let new = files(&artifacts)?.into_iter().find(|file| !before.contains(file));
    let Some(file) = new.or(told) else { bail!("the harness failed without a finding:\n{log}") };
    let said: Vec<&str> = log.lines().filter(|line| !line.starts_with("stat::")).collect();
    let tail = said[said.len().saturating_sub(40)..].iter().map(|&line| line.to_owned()).collect();
    Ok(Some((file, tail)))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// Whether the planted bug is found: coverage and comparisons reach libFuzzer. That takes less than a second.
fn self_check(harness: &Path) -> Result<bool> {
    let target = fuzz::targets::SELF_CHECK;
    let found = fuzz_one(harness, &target, 60)?;
    match &found {
        Some((file, _)) => fs::remove_file(file).with_context(|| format!("{}", file.display()))?,
        None => println!("{}: not found in 60 s: the harness sees no coverage", target.name),
    }
    Ok(found.is_some())
}
