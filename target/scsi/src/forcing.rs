//! Failures to put data on the medium, and who hears of them.
//!
//! A device that fails to write its cache back may forget what it could not write, and then have nothing to write: the next
//! flush succeeds (Linux reports an error of write-back once). The data of every nexus are concerned, so every nexus
//! hears of it with the first flush of its own that ends after the failure, and with it nobody takes GOOD for data that are
//! gone. A nexus that went away hears of it when its initiator port comes back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use base::limits::REGISTRATIONS_MAX;
use block::{IoError, IoErrorKind};

use crate::nexus::Attached;
use crate::{InitiatorPort, Input, IoOp, Step};

/// Failures of a unit so far.
#[derive(Debug, Default)]
pub(crate) struct Failures(AtomicU64);

impl Failures {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// One more; the count with it.
    fn add(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// What initiator ports that went away had been told: as many as a unit remembers registrations.
#[derive(Debug, Default)]
pub(crate) struct Told(HashMap<InitiatorPort, u64>);

impl Told {
    /// A nexus of `port` goes, which was told of so many failures.
    pub(crate) fn leave(&mut self, port: &InitiatorPort, told: u64) {
        if self.0.len() >= REGISTRATIONS_MAX && !self.0.contains_key(port) {
            // Who was told of least is the one with the most to be told of: any other makes room.
            let Some(most) = self.0.iter().max_by_key(|e| *e.1).map(|e| e.0.clone()) else { return };
            self.0.remove(&most);
        }
        self.0.insert(port.clone(), told);
    }

    /// A nexus of `port` comes: of how many of the unit's failures it was told.
    pub(crate) fn enter(&mut self, port: &InitiatorPort, count: u64) -> u64 {
        self.0.remove(port).unwrap_or(count)
    }
}

/// What an operation of a task puts on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forcing {
    /// Its own data.
    Write,
    /// Everything.
    Flush,
}

impl Forcing {
    /// What a step puts on the medium of the task's own unit, if anything.
    pub(crate) fn of(step: &Step) -> Option<Forcing> {
        match step {
            Step::Io { on: None, op: IoOp::Flush } => Some(Forcing::Flush),
            Step::Io { on: None, op: IoOp::Write { fua: true, .. } } => Some(Forcing::Write),
            _ => None,
        }
    }

    /// The operation failed, and the nexus itself does not hear of it either.
    pub(crate) fn failed_unheard(self, at: &Attached) {
        at.unit.failures.add();
    }

    /// Judges how the operation of `at` ended.
    pub(crate) fn judge(self, at: &Attached, input: Input) -> Input {
        let Input::Io { result, bufs, extents } = input else { return input };
        let failures = &at.unit.failures;
        let result = match (self, result) {
            (Forcing::Flush | Forcing::Write, Err(e)) => {
                if e.kind != IoErrorKind::Unsupported {
                    at.told.store(failures.add(), Ordering::Release);
                }
                Err(e)
            }
            (Forcing::Flush, Ok(())) => {
                let count = failures.count();
                let untold = at.told.swap(count, Ordering::AcqRel) != count;
                if untold { Err(IoError::new(IoErrorKind::Medium)) } else { Ok(()) }
            }
            (Forcing::Write, Ok(())) => Ok(()),
        };
        Input::Io { result, bufs, extents }
    }
}
