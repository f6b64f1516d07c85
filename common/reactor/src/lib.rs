//! The reactor: one io_uring a thread, and on it everything that the thread waits for.
//!
//! ```text
//!            ┌────────────────────────────── one thread ───────────────────────────────┐
//!  sockets ──┤ Ring::turn: submit what was queued, spin or sleep, take completions      │
//!  files   ──┤   ├─ sockets, mailboxes ──▶ Ring::next_event  ──▶ the engine             │
//!  timers  ──┤   └─ files ──▶ block::CompletionQueue ──▶ frames of the requests         │
//!  mail    ──┤                                                                          │
//!            └───────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: an operation owns its buffers and keeps its file open until the kernel is done with it; dropping the
//! ring cancels and waits for every operation before any buffer is freed; a thread that has nothing to do sleeps in the
//! kernel, and spins at most [`SPIN_NS_MAX`] before it does, only while recent gaps were shorter than that.
//!
//! This is the one crate with unsafe code: each block says why it is sound.

#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod blocking;
pub mod clock;
pub mod file;
mod file_channel;
mod handle;
mod mailbox;
pub mod net;
mod offload;
mod ring;
mod slot;

pub use blocking::Blocking;
pub use file::{FileDevice, FileError, FileOptions};
pub use handle::Handle;
pub use mailbox::{Mailbox, MailboxFull, Post};
pub use ring::{Event, Ring, SPIN_NS_MAX};
pub use slot::{Gather, Part, ReceiveBufs};
