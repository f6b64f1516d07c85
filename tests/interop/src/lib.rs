//! Runs against real tools and peers: `iscsi-test-cu`, libiscsi's tools, `qemu-img`, a stock kernel in qemu, and stock tgt.
//!
//! Everything here drives processes; what is judged is what they say. [`target::Target`] starts either stock tgtd or ours on
//! loopback ports and a control socket of its own, so that each round can be shown against both.
//!
//! The binary's subcommands are the rounds: see `plinth-interop --help` and CONTRIBUTING.md.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod cases;
pub mod command;
pub mod conformance;
pub mod kernel;
pub mod libiscsi;
pub mod packages;
pub mod qemu_img;
pub mod target;
pub mod transcript;
