//! The iSCSI target's session machine (RFC 7143): connections, login, sessions, commands, task management and error
//! recovery, without any input or output of its own.
//!
//! One [`Machine`] belongs to one thread and owns that thread's connections and sessions. The engine hands in bytes,
//! completions and time, and takes out bytes and [`Action`]s.

mod api;
mod machine;

pub use api::*;
pub use machine::Machine;
