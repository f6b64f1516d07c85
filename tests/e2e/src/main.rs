//! `plinth-e2e`: real processes with addresses of their own in network namespaces, killed, cut off and lied to.
//!
//! Needs root and Linux. Everything that is made (namespaces, mounts, processes) is removed again, also after a failure.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod cases;
mod client;
mod daemon;
mod hostile;
mod idle;
mod net;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use interop::cases::Cases;
use interop::packages;
use interop::target::{Kind, Programs};

use crate::daemon::World;

/// Runs the target end to end in network namespaces.
#[derive(Parser)]
#[command(name = "plinth-e2e")]
struct Cli {
    /// The implementation to test
    #[arg(long, value_enum, default_value = "ours")]
    target: Kind,
    /// Only cases whose name contains one of these
    names: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plinth-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    ensure!(rustix::process::geteuid().is_root(), "this makes network namespaces and mounts: run it as root");
    packages::require(&[("iproute2", "ip"), ("libiscsi-bin", "iscsi-ls")])?;
    let scratch = tempfile::Builder::new().prefix("plinth-e2e-").tempdir()?;
    let programs = Programs::locate(cli.target, scratch.path())?;
    let net = crate::net::Net::make().context("cannot make the network")?;
    let world = World { net, programs, scratch: scratch.path().to_owned() };
    let mut cases = Cases::new(&cli.names);
    cases::all(&world, &mut cases);
    idle::all(&world, &mut cases);
    hostile::all(&world, &mut cases);
    Ok(cases.finish())
}
