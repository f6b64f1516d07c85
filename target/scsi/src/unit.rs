//! The logical unit, shared by all threads.
//!
//! Its state is behind one mutex that is never held across a step. What the fast path needs is in atomics, and `epoch`
//! moves with everything that could make a command of some nexus fail that passed before: a nexus that passed every
//! check at the present epoch need not take the mutex (see [`crate::nexus::Attached`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{Features, Gate, GateState, Geometry};

use crate::attention::Attentions;
use crate::nexus::{Attached, ItNexusLun};
use crate::range_lock::RangeLock;
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::{LuConfig, LuKind, Nexus, NexusId, Waker};

/// A logical unit, shared by all threads.
#[derive(Debug)]
pub struct LogicalUnit {
    pub(crate) kind: LuKind,
    /// log2 of the logical block's bytes.
    pub(crate) shift: u32,
    pub(crate) features: Features,
    /// Size, blocks.
    blocks: AtomicU64,
    epoch: AtomicU64,
    /// Writes go to the medium before their status: the write cache is off.
    write_through: AtomicBool,
    gate: Gate,
    gate_waiters: Waiters,
    pub(crate) ranges: RangeLock,
    pub(crate) state: Mutex<State>,
}

/// Tasks that wait for the gate.
#[derive(Default)]
struct Waiters(Mutex<Vec<Waker>>);

impl std::fmt::Debug for Waiters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waiters")
    }
}

/// What a unit remembers of one nexus.
#[derive(Debug)]
pub(crate) struct NexusEntry {
    pub(crate) nexus: Nexus,
    pub(crate) attentions: Attentions,
    /// PREVENT ALLOW MEDIUM REMOVAL by this nexus (SPC-4 6.15).
    pub(crate) prevents_removal: bool,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: LuConfig,
    pub(crate) geometry: Geometry,
    pub(crate) nexuses: HashMap<NexusId, NexusEntry>,
    /// The medium was ejected.
    pub(crate) ejected: bool,
    /// STOP.
    pub(crate) stopped: bool,
}

impl State {
    /// Raises a unit attention for every nexus but `except`. The caller moves the epoch.
    pub(crate) fn raise(&mut self, asc: Asc, except: Option<NexusId>) {
        for (id, entry) in &mut self.nexuses {
            if Some(*id) != except {
                entry.attentions.raise(asc);
            }
        }
    }

    /// Raises a unit attention for one nexus. The caller moves the epoch.
    pub(crate) fn raise_for(&mut self, nexus: NexusId, asc: Asc) {
        if let Some(entry) = self.nexuses.get_mut(&nexus) {
            entry.attentions.raise(asc);
        }
    }

    /// Whether the medium can be used.
    pub(crate) fn ready(&self) -> Result<(), Sense> {
        if !self.config.online {
            return Err(Sense::new(Key::NotReady, Asc::NOT_READY_OFFLINE));
        }
        if self.ejected {
            return Err(Sense::new(Key::NotReady, Asc::MEDIUM_NOT_PRESENT));
        }
        if self.stopped {
            return Err(Sense::new(Key::NotReady, Asc::NOT_READY_START_REQUIRED));
        }
        Ok(())
    }
}

impl LogicalUnit {
    /// A disk (or, by `config.kind`, a controller) on a device of these sizes.
    pub fn new(config: LuConfig, geometry: Geometry, features: Features) -> Arc<Self> {
        let shift = config.block_bytes.checked_ilog2().unwrap_or(9);
        Arc::new(LogicalUnit {
            kind: config.kind,
            shift,
            features,
            blocks: AtomicU64::new(geometry.size_bytes >> shift),
            epoch: AtomicU64::new(1),
            write_through: AtomicBool::new(!config.write_cache),
            gate: Gate::default(),
            gate_waiters: Waiters::default(),
            ranges: RangeLock::default(),
            state: Mutex::new(State {
                config,
                geometry,
                nexuses: HashMap::new(),
                ejected: false,
                stopped: false,
            }),
        })
    }

    /// The gate. Move it with [`LogicalUnit::set_gate`], which also lets go of those who wait.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Moves the gate and wakes the tasks that wait for it. False where `to` is older than the gate's epoch.
    pub fn set_gate(&self, to: GateState) -> bool {
        let moved = self.gate.set(to);
        if !matches!(self.gate.state(), GateState::Frozen { .. }) {
            let waiting =
                std::mem::take(&mut *self.gate_waiters.0.lock().unwrap_or_else(PoisonError::into_inner));
            for wake in waiting {
                wake();
            }
        }
        moved
    }

    /// Queues `waker` for the gate's next move; false where the gate is no longer frozen.
    pub(crate) fn wait_for_gate(&self, waker: Waker) -> bool {
        let mut waiting = self.gate_waiters.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(self.gate.state(), GateState::Frozen { .. }) {
            return false;
        }
        waiting.push(waker);
        true
    }

    /// Makes the unit known to a nexus; its first command meets the power-on unit attention (SAM-5 5.14.5).
    pub fn attach(self: &Arc<Self>, nexus: &Nexus) -> ItNexusLun {
        let mut state = self.lock();
        let mut attentions = Attentions::default();
        attentions.raise(Asc::POWER_ON);
        state
            .nexuses
            .insert(nexus.id, NexusEntry { nexus: nexus.clone(), attentions, prevents_removal: false });
        drop(state);
        self.moved();
        ItNexusLun { attached: Arc::new(Attached::new(Arc::clone(self), nexus.clone())) }
    }

    /// The unit's state; never held across a step.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Something changed that commands must notice: call it after the change.
    pub(crate) fn moved(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Size, blocks.
    #[inline]
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Acquire)
    }

    /// Whether every write must be on the medium before its status.
    #[inline]
    pub(crate) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Acquire)
    }

    /// Whether the medium can be used.
    pub(crate) fn ready(&self) -> Result<(), Refusal> {
        Ok(self.lock().ready()?)
    }

    /// Whether sense data are in the descriptor format.
    pub(crate) fn descriptor_sense(&self) -> bool {
        self.lock().config.descriptor_sense
    }
}
