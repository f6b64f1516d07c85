//! SCSI logical units that know no transport (SPC-4, SBC-3/4).
//!
//! ```text
//!  transport ── Command ──▶ Task::new(&ItNexusLun) ── step(Input::Start) ──▶ Step::Io ... Step::Done(Reply)
//!                                       ▲                                      │
//!                                       └────── step(Input::Io { .. }) ◀───────┘  the engine runs the operation
//! ```
//!
//! A [`Task`] is a sans-IO machine: it names one operation at a time and is resumed with its outcome. The engine owns
//! channels, buffers and threads.

pub mod alua;
mod api;
mod atomic;
mod attention;
mod cache;
mod capacity;
mod cdb;
mod commands;
mod config;
mod copy;
mod diagnostics;
mod forcing;
mod inquiry;
mod lifecycle;
mod limits;
mod mode;
mod mode_pages;
mod nexus;
mod nowhere;
mod opcodes;
mod primary;
mod provisioning;
mod range_lock;
mod removable;
mod report;
mod rw;
mod sanitize;
mod sense;
mod task;
mod unit;
mod verify;

pub mod reservation;

pub use api::*;
pub use config::{ConfigError, LuChange, LuConfig, LuKind, ModePage};
pub use lifecycle::ResetKind;
pub use mode_pages::parse_mode_page;
pub use nexus::ItNexusLun;
pub use nowhere::no_such_lun;
pub use opcodes::command_name;
pub use task::{Inventory, Task};
pub use unit::LogicalUnit;

#[cfg(test)]
mod tests;
