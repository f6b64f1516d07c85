//! What a [`super::FaultDevice`] is like and what is wrong with it.

use std::ops::Range;
use std::time::Duration;

use crate::{Geometry, IoErrorKind, Op};

/// When requests finish.
#[derive(Clone, Copy, Debug)]
pub enum Timing {
    /// Inside submit, as [`crate::MemoryDevice`] does; the completion waits in the thread's queue as always.
    Immediate,
    /// After a random time; requests overtake each other.
    Timed(Latency),
    /// When a test releases them, in the order that it likes.
    Held,
}

/// How long a request takes.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// At least.
    pub min: Duration,
    /// Commonly at most; every time between is equally likely.
    pub max: Duration,
    /// One request in so many is slow; 0: none.
    pub slow_one_in: u32,
    /// How much longer a slow one takes.
    pub slow_extra: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Latency {
            min: Duration::from_micros(20),
            max: Duration::from_micros(400),
            slow_one_in: 100,
            slow_extra: Duration::from_millis(30),
        }
    }
}

/// What a crash may tear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// Each write is on the medium wholly or not at all.
    Never,
    /// Each physical block of a write, wholly or not at all.
    Physical,
    /// Each logical block of a write: a disk that does not keep its word about physical blocks.
    Logical,
}

/// What a crash leaves of the writes that no flush covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPolicy {
    /// None of them.
    LoseAll,
    /// All of them; also those still in flight.
    KeepAll,
    /// Those up to a random point, in the order in which they were made; the last may be torn.
    InOrder(Tear),
    /// Any of them, whatever their order.
    AnyOrder(Tear),
    /// One of the others with this tearing, by chance.
    Any(Tear),
}

/// What a discard does to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardAs {
    /// They read as zeroes.
    Zeroes,
    /// They stay.
    Nothing,
    /// One or the other, by chance for each physical block.
    Either,
}

/// What a device is like.
#[derive(Clone, Copy, Debug)]
pub struct FaultConfig {
    /// Its sizes.
    pub geometry: Geometry,
    /// Where all of its chances come from.
    pub seed: u64,
    /// When requests finish.
    pub timing: Timing,
    /// Completed writes are volatile until a flush.
    pub volatile_cache: bool,
    /// What a crash leaves.
    pub crash: CrashPolicy,
    /// Chance that a part of a write is visible before it completes, percent.
    pub early_percent: u8,
    /// What a discard does.
    pub discard: DiscardAs,
    /// After a failed flush, what it should have written is forgotten at once and not only after a crash (a page
    /// cache that drops its pages under pressure): a read may see that before anybody has seen the failure.
    pub evict_after_flush_error: bool,
}

impl FaultConfig {
    /// A disk that does everything at once and in order, with a volatile cache that a crash empties: for unit tests.
    pub fn calm(size_bytes: u64, block_bytes: u32) -> Self {
        FaultConfig {
            geometry: Geometry {
                size_bytes,
                logical_block_bytes: block_bytes,
                physical_block_bytes: block_bytes.max(4096),
                optimal_io_bytes: 0,
                discard_granularity_bytes: block_bytes.max(4096),
            },
            seed: 0,
            timing: Timing::Immediate,
            volatile_cache: true,
            crash: CrashPolicy::LoseAll,
            early_percent: 0,
            discard: DiscardAs::Zeroes,
            evict_after_flush_error: false,
        }
    }

    /// A disk that uses every freedom that a real one has: for simulations.
    pub fn harsh(size_bytes: u64, block_bytes: u32, seed: u64) -> Self {
        FaultConfig {
            seed,
            timing: Timing::Timed(Latency::default()),
            crash: CrashPolicy::Any(Tear::Physical),
            early_percent: 25,
            discard: DiscardAs::Either,
            ..FaultConfig::calm(size_bytes, block_bytes)
        }
    }
}

/// Which requests a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Reads and maps.
    Reads,
    /// Writes, discards and zeroing.
    Writes,
    /// Flushes, and the flush that is part of a FUA write: its data are then in doubt as after a failed flush.
    Flushes,
    /// All of them.
    All,
}

/// What happens to a request that meets a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails with this kind. A write may have been done up to the faulty place.
    Fail(IoErrorKind),
    /// It waits until the fault is cleared.
    Stall,
    /// It takes longer.
    Delay(Duration),
    /// It is acknowledged and not done: a lost write, a read of stale bytes (zeroes), a flush that does nothing.
    Lose,
    /// Its data are changed silently, one bit in each logical block that lies in the range.
    Corrupt,
}

/// Something that is wrong with the device.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which requests.
    pub on: On,
    /// Bytes of the device; flushes concern all of it.
    pub range: Range<u64>,
    /// How many requests; `None`: all until it is cleared.
    pub times: Option<u32>,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// A fault of the whole device that stays.
    pub fn everywhere(on: On, effect: Effect) -> Self {
        Fault { on, range: 0..u64::MAX, times: None, effect }
    }

    /// The same for `n` requests only.
    pub fn times(self, n: u32) -> Self {
        Fault { times: Some(n), ..self }
    }

    /// The same for these bytes only.
    pub fn within(self, range: Range<u64>) -> Self {
        Fault { range, ..self }
    }

    /// Whether a request meets it.
    pub(super) fn meets(&self, op: Op, offset: u64, len: u64) -> bool {
        let here = offset < self.range.end && self.range.start < offset.saturating_add(len);
        match self.on {
            On::Reads => matches!(op, Op::Read | Op::Map) && here,
            On::Writes => matches!(op, Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. }) && here,
            On::Flushes => matches!(op, Op::Flush) || (matches!(op, Op::Write { fua: true }) && here),
            On::All => matches!(op, Op::Flush) || here,
        }
    }
}

/// Names a fault that was injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultId(pub(super) u64);

/// Names a request that the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub(super) u64);

/// A request that the device has and did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOp {
    /// Its name.
    pub id: OpId,
    /// What it asks.
    pub op: Op,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The channel it came by, numbered from 0 in the order of opening.
    pub channel: u64,
}

/// What becomes of those who wait when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// They went with the power: their requests are given up and nobody is told.
    Die,
    /// They live on: their requests fail with [`IoErrorKind::Gone`].
    Fail,
}

/// What a crash did, in logical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashReport {
    /// Blocks that had a version which no flush had covered.
    pub unflushed: u64,
    /// Of those, blocks whose newest version is on the medium.
    pub kept: u64,
    /// Of those, blocks with an older version of the ones that were not flushed.
    pub older: u64,
    /// Writes that were in flight.
    pub in_flight: u64,
}
