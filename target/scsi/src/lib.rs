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

mod api;
pub mod reservation;
mod unit;

pub use api::*;
pub use unit::LogicalUnit;
