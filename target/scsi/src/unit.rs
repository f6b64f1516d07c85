//! The logical unit, shared by all threads.
//!
//! Its state is behind one mutex that is never held across a step. What the fast path needs is in atomics, and `epoch`
//! moves with everything that could make a command of some nexus fail that passed before: a nexus that passed every
//! check at the present epoch need not take the mutex (see [`crate::nexus::Attached`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{Features, Gate, GateState, Geometry};

use crate::alua::Alua;
use crate::attention::Attentions;
use crate::copy::Copies;
use crate::forcing::{Failures, Told};
use crate::range_lock::RangeLock;
use crate::reservation::Reservations;
use crate::sanitize::Activity;
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::{InitiatorPort, LuChange, LuConfig, LuKind, NexusId, Waker};

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
    /// Atomic writes (COMPARE AND WRITE, ORWRITE, WRITE ATOMIC) that began, and that ended: a read that saw as many
    /// begin as had ended before it was not torn by one.
    atomic_begun: AtomicU64,
    atomic_ended: AtomicU64,
    gate: Gate,
    gate_waiters: Waiters,
    pub(crate) ranges: RangeLock,
    pub(crate) failures: Failures,
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
    pub(crate) port: Arc<InitiatorPort>,
    /// Of how many failed flushes it was told.
    pub(crate) told: Arc<AtomicU64>,
    pub(crate) attentions: Attentions,
    /// PREVENT ALLOW MEDIUM REMOVAL by this nexus (SPC-4 6.15).
    pub(crate) prevents_removal: bool,
    /// An error of a command that had its status before.
    pub(crate) deferred: Option<Sense>,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: LuConfig,
    /// The configuration before any MODE SELECT: default values.
    pub(crate) defaults: LuConfig,
    pub(crate) geometry: Geometry,
    pub(crate) nexuses: HashMap<NexusId, NexusEntry>,
    pub(crate) reservations: Reservations,
    pub(crate) alua: Alua,
    pub(crate) copies: Copies,
    /// What ports that went away were told of failed flushes.
    pub(crate) told: Told,
    /// The medium was ejected.
    pub(crate) ejected: bool,
    /// Work on the whole unit.
    pub(crate) activity: Activity,
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

    /// Whether the medium can be used now.
    pub(crate) fn ready(&self) -> Result<(), Sense> {
        self.loaded()?;
        self.activity.refusal()
    }

    /// Whether the medium is there.
    pub(crate) fn loaded(&self) -> Result<(), Sense> {
        if !self.config.online {
            return Err(Sense::new(Key::NotReady, Asc::NOT_READY_OFFLINE));
        }
        if self.ejected {
            return Err(Sense::new(Key::NotReady, Asc::MEDIUM_NOT_PRESENT));
        }
        Ok(())
    }

    /// What REQUEST SENSE reports where no unit attention waits.
    pub(crate) fn condition(&self) -> Sense {
        match self.ready() {
            Ok(()) => Sense::new(Key::NoSense, Asc::NONE),
            Err(sense) => sense,
        }
    }

    /// Whether the unit takes writes (SBC-3 4.14).
    pub(crate) fn writable(&self, device_read_only: bool) -> Result<(), Sense> {
        if self.config.read_only || device_read_only {
            return Err(Sense::new(Key::DataProtect, Asc::WRITE_PROTECTED));
        }
        if self.config.swp {
            return Err(Sense::new(Key::DataProtect, Asc::SOFTWARE_WRITE_PROTECTED));
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
            atomic_begun: AtomicU64::new(0),
            atomic_ended: AtomicU64::new(0),
            gate: Gate::default(),
            gate_waiters: Waiters::default(),
            ranges: RangeLock::default(),
            failures: Failures::default(),
            state: Mutex::new(State {
                defaults: config.clone(),
                config,
                geometry,
                nexuses: HashMap::new(),
                reservations: Reservations::default(),
                alua: Alua::default(),
                copies: Copies::default(),
                told: Told::default(),
                ejected: false,
                activity: Activity::Idle,
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

    /// Sets whether writes go through.
    pub(crate) fn set_write_through(&self, on: bool) {
        self.write_through.store(on, Ordering::Release);
    }

    /// Sets the size.
    pub(crate) fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, Ordering::Release);
    }

    /// Whether the medium can be used.
    pub(crate) fn ready(&self) -> Result<(), Refusal> {
        Ok(self.lock().ready()?)
    }

    /// Tells a nexus with its next command of an error that came after a status.
    pub(crate) fn defer(&self, nexus: NexusId, sense: Sense) {
        if let Some(entry) = self.lock().nexuses.get_mut(&nexus) {
            entry.deferred = Some(Sense { deferred: true, ..sense });
        }
        self.moved();
    }

    /// Marks the time in which an atomic write is under way: reads that overlap with it in time are done again.
    pub(crate) fn atomic_write(self: &Arc<Self>) -> AtomicWrite {
        self.atomic_begun.fetch_add(1, Ordering::SeqCst);
        AtomicWrite(Arc::clone(self))
    }

    /// Atomic writes that began.
    #[inline]
    pub(crate) fn atomic_begun(&self) -> u64 {
        self.atomic_begun.load(Ordering::SeqCst)
    }

    /// Atomic writes that ended.
    #[inline]
    pub(crate) fn atomic_ended(&self) -> u64 {
        self.atomic_ended.load(Ordering::SeqCst)
    }

    /// Makes a change that MODE SELECT of `by` asked for; the others hear of it (SPC-4 6.9).
    pub(crate) fn select(&self, change: &LuChange, by: NexusId) {
        let mut state = self.lock();
        let before = state.config.clone();
        if let Err(error) = state.config.apply(change) {
            // MODE SELECT changes three flags, which have no invalid values.
            tracing::error!(%error, "mode parameters that were checked do not apply");
            return;
        }
        if state.config != before {
            state.raise(Asc::MODE_PARAMETERS_CHANGED, Some(by));
        }
        self.set_write_through(!state.config.write_cache);
        drop(state);
        self.moved();
    }

    /// Whether sense data are in the descriptor format.
    pub(crate) fn descriptor_sense(&self) -> bool {
        self.lock().config.descriptor_sense
    }
}

/// An atomic write is under way.
#[derive(Debug)]
pub(crate) struct AtomicWrite(Arc<LogicalUnit>);

impl Drop for AtomicWrite {
    fn drop(&mut self) {
        self.0.atomic_ended.fetch_add(1, Ordering::SeqCst);
    }
}
