//! What happens to a unit from outside of commands: configuration, size, nexuses that come and go, resets, state that
//! outlives the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{Features, Geometry};

use crate::attention::Attentions;
use crate::config::ConfigError;
use crate::inquiry;
use crate::nexus::{Attached, ItNexusLun};
use crate::sense::Asc;
use crate::unit::NexusEntry;
use crate::{LogicalUnit, LuChange, LuConfig, LuKind, Nexus, NexusId, Victims};

/// What reset a unit (SAM-5 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// LOGICAL UNIT RESET.
    LogicalUnit,
    /// TARGET WARM RESET.
    TargetWarm,
    /// TARGET COLD RESET.
    TargetCold,
}

impl LogicalUnit {
    /// The storage array controller that answers on LUN 0 of every target: no medium.
    pub fn controller(config: LuConfig) -> Arc<Self> {
        let geometry = Geometry {
            size_bytes: 0,
            logical_block_bytes: 512,
            physical_block_bytes: 512,
            optimal_io_bytes: 0,
            discard_granularity_bytes: 0,
        };
        LogicalUnit::new(LuConfig { kind: LuKind::Controller, ..config }, geometry, Features::default())
    }

    /// Makes the unit known to a nexus; its first command meets a unit attention (SAM-5 5.14.5).
    pub fn attach(self: &Arc<Self>, nexus: &Nexus) -> ItNexusLun {
        let mut attentions = Attentions::default();
        attentions.raise(Asc::RESET_OCCURRED);
        let mut state = self.lock();
        let told = state.told.enter(&nexus.initiator, self.failures.count());
        let told = Arc::new(AtomicU64::new(told));
        let entry = NexusEntry {
            port: Arc::clone(&nexus.initiator),
            told: Arc::clone(&told),
            attentions,
            prevents_removal: false,
            deferred: None,
        };
        state.nexuses.insert(nexus.id, entry);
        state.reservations.attach(nexus);
        state.alua.know(nexus.target.portal_group);
        drop(state);
        self.moved();
        ItNexusLun { attached: Arc::new(Attached::new(Arc::clone(self), nexus.clone(), told)) }
    }

    /// The nexus is lost (SAM-5 6.3.4): what it held without persistence is released.
    pub fn detach(&self, nexus: NexusId) {
        let mut state = self.lock();
        if let Some(entry) = state.nexuses.remove(&nexus) {
            state.told.leave(&entry.port, entry.told.load(Ordering::Acquire));
        }
        state.reservations.detach(nexus);
        state.copies.detach(nexus);
        drop(state);
        self.moved();
    }

    /// Changes a unit that runs. Nothing is changed where it is refused. Where the write cache is turned off, the caller
    /// flushes the device afterwards: what was written before may still be in its cache.
    pub fn update(&self, change: &LuChange) -> Result<(), ConfigError> {
        let mut state = self.lock();
        let before = state.config.clone();
        state.config.apply(change)?;
        state.defaults = state.config.clone();
        let (new, old) = (state.config.clone(), before);
        if identity(&new) != identity(&old) {
            state.raise(Asc::INQUIRY_DATA_CHANGED, None);
        }
        if (new.thin, new.lbppbe, new.la_lba) != (old.thin, old.lbppbe, old.la_lba) {
            state.raise(Asc::CAPACITY_CHANGED, None);
        }
        if mode(&new) != mode(&old) {
            state.raise(Asc::MODE_PARAMETERS_CHANGED, None);
        }
        if new.online && !old.online {
            state.raise(Asc::MEDIUM_MAY_HAVE_CHANGED, None);
        }
        self.set_write_through(!new.write_cache);
        drop(state);
        self.moved();
        Ok(())
    }

    /// The unit's present configuration.
    pub fn config(&self) -> LuConfig {
        self.lock().config.clone()
    }

    /// The device has another size.
    pub fn resized(&self, geometry: Geometry) {
        let mut state = self.lock();
        let changed = state.geometry.size_bytes >> self.shift != geometry.size_bytes >> self.shift;
        state.geometry = geometry;
        self.set_blocks(geometry.size_bytes >> self.shift);
        if changed {
            state.raise(Asc::CAPACITY_CHANGED, None);
        }
        drop(state);
        self.moved();
    }

    /// A reset: unit attention for all, mode parameters as configured, removal no longer prevented (SAM-5 6.3.3).
    pub fn reset(&self, by: ResetKind) {
        let mut state = self.lock();
        for entry in state.nexuses.values_mut() {
            entry.prevents_removal = false;
            entry.attentions.raise(match by {
                ResetKind::LogicalUnit => Asc::UNIT_RESET,
                ResetKind::TargetWarm => Asc::TARGET_RESET,
                ResetKind::TargetCold => Asc::POWER_ON,
            });
        }
        state.reservations.reset();
        state.copies.reset();
        state.config = state.defaults.clone();
        self.set_write_through(!state.config.write_cache);
        drop(state);
        self.moved();
    }

    /// Tasks of `victims` were aborted on behalf of `by`: the others hear of it (SAM-5 5.14, TAS is 0).
    pub fn tasks_cleared(&self, by: NexusId, victims: &Victims) {
        let mut state = self.lock();
        match victims {
            Victims::All => state.raise(Asc::COMMANDS_CLEARED, Some(by)),
            Victims::Nexuses(ids) => {
                for id in ids.iter().filter(|id| **id != by) {
                    state.raise_for(*id, Asc::COMMANDS_CLEARED);
                }
            }
        }
        drop(state);
        self.moved();
    }

    /// The target has other LUNs than before.
    pub fn luns_changed(&self) {
        self.lock().raise(Asc::LUNS_DATA_CHANGED, None);
        self.moved();
    }

    /// Whether some nexus prevents the removal of the medium.
    pub fn removal_prevented(&self) -> bool {
        self.lock().nexuses.values().any(|n| n.prevents_removal)
    }

    /// Whether there is a medium in the unit: it was not ejected.
    pub fn medium_present(&self) -> bool {
        !self.lock().ejected
    }

    /// Whether `value` is a designator of this unit, of DESIGNATOR TYPE `kind` (SPC-4 7.8.6).
    pub fn has_designator(&self, kind: u8, value: &[u8]) -> bool {
        let state = self.lock();
        match kind {
            0x01 => {
                let mut b = crate::cdb::Builder::default();
                b.ascii(&state.config.vendor, 8);
                b.bytes(state.config.scsi_id.as_bytes());
                b.0 == value
            }
            0x02 => state.config.eui64.is_some_and(|e| e == value),
            0x03 => inquiry::naa(&state) == value,
            _ => false,
        }
    }
}

/// What INQUIRY tells.
fn identity(c: &LuConfig) -> impl PartialEq + '_ {
    (
        (&c.vendor, &c.product, &c.revision, &c.serial, &c.scsi_id, c.naa, c.eui64),
        (
            c.removable,
            c.thin,
            c.rotation_rate,
            c.optimal_transfer_granularity,
            c.optimal_transfer_len,
            c.lbppbe,
        ),
    )
}

/// What MODE SENSE tells.
fn mode(c: &LuConfig) -> impl PartialEq + '_ {
    (c.write_cache, c.swp, c.descriptor_sense, c.read_only, &c.mode_pages)
}
