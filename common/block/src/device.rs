//! The device and channel traits.

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{CompletionQueue, IoError, IoErrorKind, Pool, Request};

/// Sizes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the device, bytes.
    pub size_bytes: u64,
    /// Smallest unit that can be addressed, bytes (a power of two).
    pub logical_block_bytes: u32,
    /// Unit that the medium writes without tearing, bytes (a power of two, not below the logical block).
    pub physical_block_bytes: u32,
    /// Preferred size of a transfer, bytes; 0 where there is none.
    pub optimal_io_bytes: u32,
    /// Granularity in which a discard frees space, bytes; 0 where there is none.
    pub discard_granularity_bytes: u32,
}

/// What a device can do, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Writes are refused.
    pub read_only: bool,
    /// [`crate::Op::Discard`] does something.
    pub discard: bool,
    /// A completed write may be lost with the power until a flush.
    pub volatile_cache: bool,
    /// [`crate::Op::Map`] tells holes from data.
    pub maps: bool,
    /// Seeks cost.
    pub rotational: bool,
}

/// Something with blocks, shared between threads.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Its current sizes.
    fn geometry(&self) -> Geometry;
    /// What it can do.
    fn features(&self) -> Features;
    /// A channel for the calling thread.
    fn open(&self, context: &ChannelContext) -> Result<Rc<dyn Channel>, IoError>;
    /// Looks at the size of what lies below again; watchers are told when it changed.
    fn refresh(&self) -> Result<Geometry, IoError> {
        Ok(self.geometry())
    }
    /// Tells `watcher` about every later change of size. The device keeps only a weak reference.
    fn watch(&self, watcher: Weak<dyn ResizeWatcher>);
}

/// One thread's way to a device.
pub trait Channel {
    /// Takes the request; it comes back through the thread's [`CompletionQueue`], never inside this call.
    fn submit(&self, request: Request);
}

/// What a thread gives to the channels that it opens.
#[derive(Clone)]
pub struct ChannelContext {
    /// Where finished requests go.
    pub completions: CompletionQueue,
    /// Where a layer gets buffers of its own.
    pub pool: Pool,
    /// The thread's ring or simulator, for devices that need one.
    pub host: Option<Rc<dyn Any>>,
}

impl ChannelContext {
    /// A context without a host: enough for devices that live in memory.
    pub fn hostless() -> Self {
        ChannelContext { completions: CompletionQueue::default(), pool: Pool::default(), host: None }
    }

    /// The host, where it is a `T`.
    pub fn host<T: 'static>(&self) -> Option<Rc<T>> {
        self.host.clone().and_then(|h| h.downcast::<T>().ok())
    }
}

/// Somebody who wants to know of a new size. Called from whichever thread noticed; it must not block.
pub trait ResizeWatcher: Send + Sync {
    /// The device has `geometry` now.
    fn resized(&self, geometry: Geometry);
}

/// The watchers of a device.
#[derive(Default)]
pub struct Watchers(Mutex<Vec<Weak<dyn ResizeWatcher>>>);

impl Watchers {
    /// Adds one.
    pub fn add(&self, watcher: Weak<dyn ResizeWatcher>) {
        self.lock().push(watcher);
    }

    /// Tells all that are still there.
    pub fn notify(&self, geometry: Geometry) {
        let alive: Vec<Arc<dyn ResizeWatcher>> = {
            let mut list = self.lock();
            list.retain(|w| w.strong_count() > 0);
            list.iter().filter_map(Weak::upgrade).collect()
        };
        for w in alive {
            w.resized(geometry);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn ResizeWatcher>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watchers({})", self.lock().len())
    }
}

/// Refuses what no device could do: outside the device, not on block boundaries, buffers that do not add up, or a change
/// of a read-only device.
pub fn check(request: &Request, geometry: &Geometry, features: Features) -> Result<(), IoError> {
    use crate::Op;
    if matches!(request.op, Op::Flush) {
        return Ok(());
    }
    let end = request.end().ok_or(IoError::at(IoErrorKind::OutOfRange, request.offset))?;
    if end > geometry.size_bytes {
        return Err(IoError::at(IoErrorKind::OutOfRange, request.offset));
    }
    let block = u64::from(geometry.logical_block_bytes);
    if !request.offset.is_multiple_of(block) || !request.len.is_multiple_of(block) {
        return Err(IoError::at(IoErrorKind::Misaligned, request.offset));
    }
    if matches!(request.op, Op::Read | Op::Write { .. })
        && request.bufs.iter().map(|b| b.len() as u64).sum::<u64>() != request.len
    {
        return Err(IoError::at(IoErrorKind::Misaligned, request.offset));
    }
    if features.read_only && !matches!(request.op, Op::Read | Op::Map) {
        return Err(IoError::at(IoErrorKind::ReadOnly, request.offset));
    }
    Ok(())
}
