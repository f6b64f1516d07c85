//! The commands of the target: tgtadm, tgt-admin and tgtimg, as tgt's users know them.
//!
//! Each command is a function from its arguments (the first is the name it was called by) to its exit code; the one
//! binary calls it. Options, texts and exit codes are tgt's (docs/compatibility.md has the differences).
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod getopt;
mod terminal;
mod tgt_admin;
mod tgtadm;
mod tgtimg;

use std::ffi::OsString;

pub use terminal::Terminal;
pub use tgt_admin::run as run_tgt_admin;
pub use tgtadm::run as run_tgtadm;
pub use tgtimg::run as run_tgtimg;

/// tgt's version whose behaviour these commands have.
pub const TGT_VERSION: &str = "1.0.85";

/// What the version options print.
pub fn version_text() -> String {
    format!("{TGT_VERSION} (plinth {})", env!("CARGO_PKG_VERSION"))
}

/// `tgtadm`
pub fn tgtadm(args: &[OsString]) -> i32 {
    terminal::with("tgtadm", args, run_tgtadm)
}

/// `tgt-admin`
pub fn tgt_admin(args: &[OsString]) -> i32 {
    terminal::with("tgt-admin", args, run_tgt_admin)
}

/// `tgtimg`
pub fn tgtimg(args: &[OsString]) -> i32 {
    terminal::with("tgtimg", args, run_tgtimg)
}
