//! What all threads of the engine share.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use block::{BlockDevice, Geometry, ResizeWatcher};
use reactor::Post;
use scsi::LogicalUnit;
use target_session::{SessionKey, SessionPlace, SessionSlot};

use super::EngineConfig;
use super::mail::Mail;
use super::state_writer::StateWriter;
use super::throttle::Throttle;
use crate::control::backend::{LunHandle, Snapshot};

/// How often sizes of backing files are looked at, so that a grown file is a grown unit without anybody's asking.
const SIZE_WATCH: Duration = Duration::from_secs(2);

/// A unit and what stands behind it.
pub(crate) struct Unit {
    pub handle: LunHandle,
    /// LUN number in its target.
    pub lun: u64,
    pub lu: Arc<LogicalUnit>,
    /// None: no medium (a controller, or an ejected unit without a path).
    pub device: Mutex<Option<Arc<dyn BlockDevice>>>,
    pub throttle: Throttle,
    /// Name of the file that keeps reservations.
    pub state_name: String,
    pub target: String,
}

impl Unit {
    pub fn device(&self) -> Option<Arc<dyn BlockDevice>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Carries a device's new size to its unit.
pub(crate) struct SizeCarrier(pub std::sync::Weak<LogicalUnit>);

impl ResizeWatcher for SizeCarrier {
    fn resized(&self, geometry: Geometry) {
        if let Some(lu) = self.0.upgrade() {
            lu.resized(geometry);
        }
    }
}

#[derive(Default)]
pub(crate) struct SessionTable {
    places: HashMap<SessionKey, SessionPlace>,
    used: HashSet<u16>,
    last: u16,
}

impl SessionTable {
    pub fn register(&mut self, key: &SessionKey, thread: u32) -> SessionSlot {
        if let Some(place) = self.places.get(key) {
            return SessionSlot::OnThread(place.thread);
        }
        if self.places.len() >= base::limits::SESSIONS_MAX {
            return SessionSlot::Full;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && self.used.insert(self.last) {
                break;
            }
        }
        self.places.insert(key.clone(), SessionPlace { thread, tsih: self.last });
        SessionSlot::Registered { tsih: self.last }
    }

    pub fn find(&self, key: &SessionKey) -> Option<SessionPlace> {
        self.places.get(key).copied()
    }

    pub fn unregister(&mut self, key: &SessionKey, tsih: u16) {
        if self.places.get(key).is_some_and(|p| p.tsih == tsih) {
            self.places.remove(key);
            self.used.remove(&tsih);
        }
    }
}

/// See the module.
pub(crate) struct Shared {
    pub config: EngineConfig,
    posts: OnceLock<Vec<Post<Mail>>>,
    snapshot: RwLock<Arc<Snapshot>>,
    units: RwLock<HashMap<LunHandle, Arc<Unit>>>,
    sessions: Mutex<SessionTable>,
    /// Connections by worker, for choosing the next one's.
    pub load: Vec<AtomicUsize>,
    next_nexus: AtomicU64,
    next_handle: AtomicU64,
    pub writer: StateWriter,
    watching: AtomicBool,
}

impl Shared {
    pub fn new(config: EngineConfig, threads: usize) -> io::Result<Self> {
        let writer = StateWriter::start(config.root.join("/var/lib/plinth/reservations"))?;
        Ok(Shared {
            config,
            posts: OnceLock::new(),
            snapshot: RwLock::default(),
            units: RwLock::default(),
            sessions: Mutex::default(),
            load: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            next_nexus: AtomicU64::new(1),
            next_handle: AtomicU64::new(1),
            writer,
            watching: AtomicBool::new(true),
        })
    }

    pub fn set_posts(&self, posts: Vec<Post<Mail>>) {
        // Set once, by the engine's start.
        let _ = self.posts.set(posts);
    }

    /// The workers' mailboxes, by number.
    pub fn posts(&self) -> &[Post<Mail>] {
        self.posts.get().map_or(&[], Vec::as_slice)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    pub fn unit(&self, handle: LunHandle) -> Option<Arc<Unit>> {
        self.units.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    pub fn units(&self) -> Vec<Arc<Unit>> {
        self.units.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn add_unit(&self, unit: Arc<Unit>) {
        self.units.write().unwrap_or_else(PoisonError::into_inner).insert(unit.handle, unit);
    }

    pub fn remove_unit(&self, handle: LunHandle) -> Option<Arc<Unit>> {
        self.units.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }

    pub fn sessions(&self) -> MutexGuard<'_, SessionTable> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn new_nexus(&self) -> scsi::NexusId {
        scsi::NexusId(self.next_nexus.fetch_add(1, Ordering::Relaxed))
    }

    pub fn new_handle(&self) -> LunHandle {
        LunHandle(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }

    /// The worker with the fewest connections.
    pub fn least_loaded(&self) -> u32 {
        let by_load = self.load.iter().enumerate().min_by_key(|(_, n)| n.load(Ordering::Relaxed));
        by_load.map_or(0, |(i, _)| i as u32)
    }

    /// Starts the thread that looks at the sizes of backing stores.
    pub fn watch_sizes(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let body = move || {
            loop {
                std::thread::sleep(SIZE_WATCH);
                let Some(shared) = weak.upgrade() else { return };
                if !shared.watching.load(Ordering::Acquire) {
                    return;
                }
                for unit in shared.units() {
                    if let Some(Err(e)) = unit.device().map(|d| d.refresh()) {
                        tracing::warn!("{} lun {}: cannot look at the size: {e}", unit.target, unit.lun);
                    }
                }
            }
        };
        if let Err(e) = std::thread::Builder::new().name("size-watch".into()).spawn(body) {
            tracing::error!("grown backing stores will not be noticed: {e}");
        }
    }

    pub fn stop_watching(&self) {
        self.watching.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SessionKey {
        SessionKey {
            initiator: "iqn.2026-01.a:b".into(),
            isid: [n; 6],
            target: "iqn.2026-01.a:t".into(),
            portal_group: 1,
        }
    }

    #[test]
    fn a_session_is_registered_once_and_its_handle_is_free_again_after_it() {
        let mut table = SessionTable::default();
        let SessionSlot::Registered { tsih } = table.register(&key(1), 3) else { panic!("not registered") };
        assert_ne!(tsih, 0);
        assert_eq!(table.register(&key(1), 0), SessionSlot::OnThread(3));
        let SessionSlot::Registered { tsih: other } = table.register(&key(2), 0) else { panic!("no second") };
        assert_ne!(tsih, other);
        table.unregister(&key(1), other);
        assert!(table.find(&key(1)).is_some(), "a stale handle ends nothing");
        table.unregister(&key(1), tsih);
        assert_eq!(table.find(&key(1)), None);
        for n in 0..70_000u32 {
            let SessionSlot::Registered { tsih } = table.register(&key(9), 0) else { panic!("at {n}") };
            assert!(tsih != 0 && tsih != other);
            table.unregister(&key(9), tsih);
        }
    }
}
