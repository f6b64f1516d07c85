//! What a nexus is to one logical unit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{LogicalUnit, Nexus};

/// A nexus and a unit, as the tasks of the nexus hold it.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) nexus: Nexus,
    /// The unit's epoch at which reads, and writes, of this nexus passed every check; 0 is never.
    clear: [AtomicU64; 2],
    /// Of how many failed flushes the nexus was told.
    pub(crate) told: Arc<AtomicU64>,
}

impl Attached {
    pub(crate) fn new(unit: Arc<LogicalUnit>, nexus: Nexus, told: Arc<AtomicU64>) -> Self {
        let clear = [AtomicU64::new(0), AtomicU64::new(0)];
        Attached { unit, nexus, clear, told }
    }

    /// Whether a command of this class passed every check at `epoch`.
    #[inline]
    pub(crate) fn is_clear(&self, write: bool, epoch: u64) -> bool {
        self.clear[usize::from(write)].load(Ordering::Relaxed) == epoch
    }

    /// Remembers that it did.
    pub(crate) fn set_clear(&self, write: bool, epoch: u64) {
        self.clear[usize::from(write)].store(epoch, Ordering::Relaxed);
    }
}

/// A session's hold on a logical unit; owned by the session's thread. Its nexus stays known to the unit until
/// [`LogicalUnit::detach`].
#[derive(Debug)]
pub struct ItNexusLun {
    pub(crate) attached: Arc<Attached>,
}

impl ItNexusLun {
    /// The unit.
    pub fn unit(&self) -> &Arc<LogicalUnit> {
        &self.attached.unit
    }

    /// The nexus.
    pub fn nexus(&self) -> &Nexus {
        &self.attached.nexus
    }
}
