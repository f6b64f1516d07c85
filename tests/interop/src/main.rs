//! `plinth-interop`: rounds against real tools and peers, one subcommand each.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs the target against real tools and peers.
#[derive(Parser)]
#[command(name = "plinth-interop")]
struct Cli {
    #[command(subcommand)]
    round: Round,
}

#[derive(Subcommand)]
enum Round {
    /// iscsi-test-cu, suite by suite, over several kinds of logical unit and two portals
    Conformance(interop::conformance::Args),
    /// libiscsi's tools: discovery, INQUIRY, capacity, CHAP
    Libiscsi(interop::libiscsi::Args),
    /// A stock kernel in qemu: recovery, multipath, reservations
    Kernel(interop::kernel::Args),
    /// qemu-img convert and compare through qemu's iSCSI driver
    QemuImg(interop::qemu_img::Args),
    /// tgtadm, tgt-admin and tgtimg, call by call, against stock tgt's
    Transcript(interop::transcript::Args),
}

fn main() -> ExitCode {
    let good = match Cli::parse().round {
        Round::Conformance(args) => interop::conformance::main(&args),
        Round::Libiscsi(args) => interop::libiscsi::main(&args),
        Round::Kernel(args) => interop::kernel::main(&args),
        Round::QemuImg(args) => interop::qemu_img::main(&args),
        Round::Transcript(args) => interop::transcript::main(&args),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plinth-interop: {error:#}");
            ExitCode::FAILURE
        }
    }
}
