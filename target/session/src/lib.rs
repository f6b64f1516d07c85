//! The iSCSI target's session machine (RFC 7143): connections, login, sessions, commands, task management and error
//! recovery, without any input or output of its own.
//!
//! One [`Machine`] belongs to one thread and owns that thread's connections and sessions. The engine hands in bytes,
//! completions and time, and takes out bytes and [`Action`]s.
//!
//! ```text
//!   bytes ─▶ rx ─▶ login ─▶ join ─▶ session            Action::Execute ─▶ engine ─▶ task_done ─▶ reply
//!             └──▶ full ─▶ command ─▶ write (data) ─────────┘                                     │
//!                   ├────▶ tmf, text, logout, nop                                                 ▼
//!                   └────▶ erl (SNACK, reassign)              bytes ◀──────── tx ◀──────── queued PDUs
//! ```
//!
//! Buffers are moved out for an operation and handed back with its completion: what [`Machine::take_rx`] and
//! [`Machine::take_tx`] give comes back by [`Machine::rx_done`] and [`Machine::tx_done`]; a command's data goes with
//! [`Action::Execute`] and comes back in its [`scsi::Reply`].
//!
//! Invariants:
//! * Every accepted connection ends with exactly one [`Action::Close`], or with [`Machine::extract`].
//! * Every session that was announced by [`Action::SessionUp`] ends with exactly one [`Action::SessionDown`], after the last
//!   of its tasks is gone.
//! * Every [`Action::Execute`] is answered once, by `task_done` or (after [`Action::AbortTask`]) `task_aborted`; the command's
//!   tag is free only then.
//! * What a peer can make the machine hold is bounded by `base::limits` and the constants beside the code that holds it.

mod api;
mod close;
mod command;
mod conn;
mod erl;
mod full;
mod join;
mod login;
mod machine;
mod rx;
mod session;
mod slots;
mod task;
mod text;
mod tmf;
mod tx;
mod write;

pub use api::*;
pub use machine::Machine;
