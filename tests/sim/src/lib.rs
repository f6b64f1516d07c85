//! The simulator: real machines, one thread, a virtual clock, a virtual network and virtual disks, all from one seed.
//!
//! ```text
//!   Initiator ─┐                            ┌─ session Machine ── scsi Task ── LogicalUnit
//!   Initiator ─┼─ Net: pieces, delays, cuts ─┤ Target (the glue that an engine is)   │
//!   Initiator ─┘                            └──────────────── FaultDevice: cache, tears, stalls, errors
//!         └─ judged by: Oracle (data), Reservations (who may write), the initiator's own protocol checks
//! ```
//!
//! | module | what it owns |
//! |---|---|
//! | [`trace`] | the hash over everything that happened: a replay gives the same |
//! | [`net`] | links with delays, pieces, back-pressure and cuts; knows no protocol |
//! | [`target`] | a target node: the machine, the units, tasks, task management; may be mutated |
//! | [`initiator`] | an initiator that checks every byte that it is told |
//! | [`judge`] | what was asked and answered, and whether that may be |
//! | [`world`] | the clock, the load, the accidents |
//! | [`scenario`] | what is switched on |
//! | [`run`] | one seed, many seeds, replay |
//!
//! The world's parts know nothing of each other but through it, so that later simulations of replicas, lock managers and
//! file systems bring their own machines and keep clock, network, disks and runner.
//!
//! Invariants that are checked at every step: a command is answered at most once, and not at all once its abort or a reset
//! was answered; numbers and tags follow RFC 7143; a read returns a version that may be there ([`block::fault::Oracle`]);
//! what was acknowledged as durable is there after a crash; a refused write is never seen; a reservation with APTPL
//! outlives crashes and keeps others from writing; unit attentions are told; memory, tasks and queues stay bounded, and
//! are given back in the end; nothing waits for ever once the accidents are over; nothing panics.

pub mod initiator;
pub mod judge;
pub mod net;
pub mod run;
pub mod scenario;
pub mod target;
pub mod trace;
pub mod world;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Fails with a formatted text.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::Failure(format!($($arg)*)))
    };
}
