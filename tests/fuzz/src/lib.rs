//! Fuzz targets: every parser of bytes that come from a network, a disk or a user's file.
//!
//! | part | what it is |
//! |---|---|
//! | [`targets`] | one small file a target: a function of bytes that panics where something is wrong |
//! | `corpus/TARGET/` | a few handmade inputs, replayed by `cargo test -p plinth-fuzz` with simple mutations |
//! | `src/main.rs` | the runner: `cargo run -p plinth-fuzz -- --target pdu --seconds 60` |
//! | `src/harness.rs` | the program that libFuzzer drives, built by the runner alone |
//!
//! The runner needs neither a nightly toolchain nor cargo-fuzz: LLVM's coverage pass is a stable code generation option,
//! and libFuzzer comes as a crate (it is C++, so a C++ compiler has to be there).
//!
//! A new target is a file in `src/targets/` and a line in [`TARGETS`].

pub mod targets;

use std::path::{Path, PathBuf};

pub use targets::TARGETS;

/// One thing to fuzz.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line and in `corpus/`.
    pub name: &'static str,
    /// What it feeds.
    pub about: &'static str,
    /// Bytes of an input at most.
    pub input_bytes_max: usize,
    /// Takes one input; a panic is a finding.
    pub run: fn(&[u8]),
}

/// The target of that name; [`targets::SELF_CHECK`] among them.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().chain([&targets::SELF_CHECK]).find(|target| target.name == name).copied()
}

/// The folder of this crate in the source tree.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the handmade inputs of `target` are.
pub fn seeds(target: &str) -> PathBuf {
    home().join("corpus").join(target)
}
