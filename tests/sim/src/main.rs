//! `plinth-sim --seeds N [--seed S] [--scenario X]`: runs simulated worlds, and names the seed of the first that fails.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plinth_sim::scenario::{self, Scenario};
use plinth_sim::{run, target::Mutation};

#[derive(Parser)]
#[command(about = "Simulated targets, initiators, networks and disks, each world from one seed")]
struct Arguments {
    /// How many seeds of each scenario.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; without it the time of day chooses.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// Make the target do one thing wrong, as `Mutation` names it: a failure is then what is expected.
    #[arg(long)]
    mutation: Option<String>,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        scenario::ALL.iter().for_each(|s| println!("{:14} {}", s.name, s.about));
        return Ok(ExitCode::SUCCESS);
    }
    let scenarios: Vec<&Scenario> = match &arguments.scenario {
        None => scenario::ALL.iter().collect(),
        Some(name) => {
            let names = || scenario::ALL.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
            vec![
                scenario::by_name(name)
                    .with_context(|| format!("no scenario {name:?}; there are {}", names()))?,
            ]
        }
    };
    let mutation = match &arguments.mutation {
        None => None,
        Some(name) => match Mutation::ALL.into_iter().find(|m| format!("{m:?}") == *name) {
            None => bail!("no mutation {name:?}; there are {:?}", Mutation::ALL),
            m => m,
        },
    };
    let start = match arguments.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 >> 8,
    };
    // A panic is reported with its seed; its own words would tear the progress bar.
    if !arguments.trace {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let total = arguments.seeds * scenarios.len() as u64;
    // Draws on a terminal only.
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {elapsed}")?);
    let began = Instant::now();
    let (mut events, mut crashes, mut ends) = (0, 0, [0; 4]);
    for s in scenarios {
        bar.set_message(s.name);
        for seed in start..start.saturating_add(arguments.seeds) {
            match run::one(s, seed, mutation, arguments.trace) {
                Ok(summary) => {
                    if arguments.seeds == 1 {
                        println!(
                            "{}: seed {seed}: trace {:016x}, {} events",
                            s.name, summary.hash, summary.events
                        );
                    }
                    events += summary.events;
                    crashes += summary.crashes;
                    ends.iter_mut().zip(summary.ends).for_each(|(a, b)| *a += b);
                }
                Err(failed) => {
                    bar.abandon();
                    println!("{}: seed {seed} failed: {}", s.name, failed.failure);
                    println!("trace {:016x}, {} events", failed.summary.hash, failed.summary.events);
                    let mutated =
                        arguments.mutation.iter().map(|m| format!(" --mutation {m}")).collect::<String>();
                    println!(
                        "replay: cargo run --release -p plinth-sim -- --scenario {} --seeds 1 --seed {seed}{mutated} --trace",
                        s.name
                    );
                    return Ok(ExitCode::FAILURE);
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let [good, refused, failed, open] = ends;
    println!(
        "{total} worlds from seed {start}, {events} events, {crashes} crashes, {good} commands done, {refused} refused, \
         {failed} failed, {open} without an answer; nothing wrong; {:.1} s",
        began.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}
