//! A disk with a volatile write cache, from one seed: the disk of every simulation.
//!
//! Several channels, of several simulated nodes, share one disk. Requests finish when the simulator lets them: at
//! virtual times ([`FaultDevice::advance`]), or one by one in a chosen order ([`FaultDevice::release`]). What no flush
//! covered may be lost, kept, torn or overtaken at a [`FaultDevice::crash`]; flushes and FUA writes are honest unless
//! [`FaultDevice::lie_on_flush`] says otherwise. [`Fault`]s are injected and cleared while it runs. [`Oracle`] knows
//! what each block may legally hold, from the user's side alone.
//!
//! Everything that is left to chance comes from the seed: the same calls give the same outcome. A request is
//! completed by the thread that submitted it, when that thread advances the device or calls [`FaultDevice::poll`].

mod config;
mod disk;
mod oracle;
#[cfg(test)]
mod tests;

pub use config::{
    CrashPolicy, CrashReport, DiscardAs, Effect, Fault, FaultConfig, FaultId, HeldOp, InFlight, Latency, On,
    OpId, Tear, Timing,
};
pub use oracle::{FlushToken, Oracle, ReadToken, Stamp, Violation, WriteToken};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use base::Mono;

use crate::{
    BlockDevice, Channel, ChannelContext, CompletionQueue, Features, Geometry, IoError, IoErrorKind, Op,
    Request, ResizeWatcher, Watchers, check,
};
use disk::{Disk, Outcome};

struct Shared {
    /// Tells this process's devices apart; no outcome depends on it.
    serial: u64,
    disk: Mutex<Disk>,
    watchers: Watchers,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. Cloning gives another handle on the same disk.
#[derive(Clone)]
pub struct FaultDevice(Arc<Shared>);

impl fmt::Debug for FaultDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultDevice({} bytes)", self.geometry().size_bytes)
    }
}

/// A channel's requests, on the thread that it belongs to.
struct Port {
    requests: RefCell<BTreeMap<OpId, Request>>,
    completions: CompletionQueue,
}

thread_local! {
    /// This thread's ports by device and channel: requests do not leave their thread, the disk is shared.
    static PORTS: RefCell<BTreeMap<(u64, u64), RcWeak<Port>>> = const { RefCell::new(BTreeMap::new()) };
}

impl FaultDevice {
    /// A zeroed disk.
    pub fn new(config: FaultConfig) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        FaultDevice(Arc::new(Shared {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            disk: Mutex::new(Disk::new(config)),
            watchers: Watchers::default(),
        }))
    }

    /// When the next request finishes by itself.
    pub fn next_due(&self) -> Option<Mono> {
        self.0.lock().next_due()
    }

    /// Lets time pass until `now`: finishes what is due; returns how many requests ended. Time counts for later
    /// requests also where nothing was due.
    pub fn advance(&self, now: Mono) -> usize {
        let n = self.0.lock().advance(now);
        self.poll();
        n
    }

    /// Hands the calling thread's finished requests to its completion queues.
    pub fn poll(&self) {
        let ports: Vec<(u64, Rc<Port>)> = PORTS.with_borrow(|ports| {
            let mine = ports.range((self.0.serial, 0)..=(self.0.serial, u64::MAX));
            mine.filter_map(|(&(_, id), port)| Some((id, port.upgrade()?))).collect()
        });
        for (id, port) in ports {
            let outcomes = self.0.lock().outbox.get_mut(&id).map(std::mem::take).unwrap_or_default();
            outcomes.into_iter().for_each(|o| port.finish(o));
        }
    }

    /// The requests that the disk has, oldest first.
    pub fn held(&self) -> Vec<HeldOp> {
        self.0.lock().held()
    }

    /// Finishes one request now. False where the disk has no such request.
    pub fn release(&self, op: OpId) -> bool {
        let found = self.0.lock().finish(op, None);
        self.poll();
        found
    }

    /// Fails one request now; nothing of it was done.
    pub fn release_failed(&self, op: OpId, error: IoError) -> bool {
        let found = self.0.lock().finish(op, Some(error));
        self.poll();
        found
    }

    /// Finishes all requests, oldest first; returns how many.
    pub fn release_all(&self) -> usize {
        let held = self.held();
        held.iter().filter(|h| self.release(h.id)).count()
    }

    /// From now on, `fault`.
    pub fn inject(&self, fault: Fault) -> FaultId {
        self.0.lock().inject(fault)
    }

    /// Ends a fault. What it stalled goes on: at the next [`Self::advance`], or where requests are held when released.
    pub fn clear(&self, fault: FaultId) {
        self.0.lock().clear(fault);
    }

    /// Ends all faults.
    pub fn clear_all(&self) {
        self.0.lock().clear_all();
    }

    /// Whether flushes and FUA writes are acknowledged without being done.
    pub fn lie_on_flush(&self, lie: bool) {
        self.0.lock().lie_on_flush = lie;
    }

    /// Takes the disk away (everything in flight and everything new fails with `Gone`; its cache stays powered) or
    /// brings it back.
    pub fn set_gone(&self, gone: bool) {
        {
            let mut disk = self.0.lock();
            disk.gone = gone;
            if gone {
                disk.fail_all(IoError::new(IoErrorKind::Gone));
            }
        }
        self.poll();
    }

    /// The power goes and comes back: what no flush covered meets its fate.
    pub fn crash(&self, in_flight: InFlight) -> CrashReport {
        let policy = self.0.lock().config.crash;
        self.crash_with(policy, in_flight)
    }

    /// The same, with another policy than the disk's own.
    pub fn crash_with(&self, policy: CrashPolicy, in_flight: InFlight) -> CrashReport {
        self.poll();
        let report = self.0.lock().crash(policy);
        PORTS.with_borrow(|ports| {
            let mine = ports.range((self.0.serial, 0)..=(self.0.serial, u64::MAX));
            mine.filter_map(|(_, port)| port.upgrade()).for_each(|port| port.give_up(in_flight));
        });
        report
    }

    /// Flips one bit in each logical block of the range on the medium, silently. Range and length are multiples of
    /// the logical block.
    pub fn rot(&self, offset: u64, len: u64) {
        self.0.lock().rot(offset, len);
    }

    /// Gives the disk another size and tells its watchers; what is cut off is gone.
    pub fn resize(&self, size_bytes: u64) {
        self.0.lock().resize(size_bytes);
        self.0.watchers.notify(self.geometry());
    }

    /// What is on the medium, whatever the cache holds.
    pub fn medium(&self, offset: u64, out: &mut [u8]) {
        self.0.lock().medium(offset, out);
    }

    /// Logical blocks that a crash may change.
    pub fn unflushed_blocks(&self) -> usize {
        self.0.lock().unflushed()
    }
}

impl BlockDevice for FaultDevice {
    fn geometry(&self) -> Geometry {
        self.0.lock().config.geometry
    }

    fn features(&self) -> Features {
        let volatile_cache = self.0.lock().config.volatile_cache;
        Features { discard: true, maps: true, volatile_cache, ..Features::default() }
    }

    fn open(&self, context: &ChannelContext) -> Result<Rc<dyn Channel>, IoError> {
        let id = {
            let mut disk = self.0.lock();
            if disk.gone {
                return Err(IoError::new(IoErrorKind::Gone));
            }
            disk.open()
        };
        let port = Rc::new(Port { requests: RefCell::default(), completions: context.completions.clone() });
        PORTS.with_borrow_mut(|ports| ports.insert((self.0.serial, id), Rc::downgrade(&port)));
        Ok(Rc::new(FaultChannel { device: self.clone(), id, port }))
    }

    fn watch(&self, watcher: Weak<dyn ResizeWatcher>) {
        self.0.watchers.add(watcher);
    }
}

impl Port {
    fn finish(&self, outcome: Outcome) {
        let Some(mut request) = self.requests.borrow_mut().remove(&outcome.op) else { return };
        if outcome.result.is_ok() && request.op == Op::Read {
            let mut at = 0;
            for b in &mut request.bufs {
                let n = b.len();
                b.copy_from_slice(&outcome.data[at..at + n]);
                at += n;
            }
        }
        request.extents = outcome.extents;
        self.completions.push(request, outcome.result);
    }

    fn give_up(&self, in_flight: InFlight) {
        for (_, request) in std::mem::take(&mut *self.requests.borrow_mut()) {
            match in_flight {
                InFlight::Die => request.abandon(),
                InFlight::Fail => self.completions.push(request, Err(IoError::new(IoErrorKind::Gone))),
            }
        }
    }
}

/// A node's way to the disk. Dropping it gives its requests up; the disk does them all the same, as disks do.
struct FaultChannel {
    device: FaultDevice,
    id: u64,
    port: Rc<Port>,
}

impl Channel for FaultChannel {
    fn submit(&self, request: Request) {
        let features = self.device.features();
        let shared = &self.device.0;
        let mut disk = shared.lock();
        let checked = check(&request, &disk.config.geometry, features);
        if let Err(e) = if disk.gone { Err(IoError::new(IoErrorKind::Gone)) } else { checked } {
            drop(disk);
            self.port.completions.push(request, Err(e));
            return;
        }
        let data = match request.op {
            Op::Write { .. } => request.bufs.iter().flat_map(|b| b.iter().copied()).collect(),
            _ => Vec::new(),
        };
        let op = disk.start(self.id, request.op, request.offset, request.len, data);
        let immediate = matches!(disk.config.timing, Timing::Immediate);
        self.port.requests.borrow_mut().insert(op, request);
        if immediate {
            let now = disk.now();
            disk.advance(now);
        }
        drop(disk);
        if immediate {
            self.device.poll();
        }
    }
}

impl Drop for FaultChannel {
    fn drop(&mut self) {
        self.device.0.lock().outbox.remove(&self.id);
        // At the end of a thread its table may be gone already, and with it the entry.
        let _ = PORTS.try_with(|ports| ports.borrow_mut().remove(&(self.device.0.serial, self.id)));
        self.port.give_up(InFlight::Die);
    }
}
