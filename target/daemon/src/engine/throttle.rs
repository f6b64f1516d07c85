//! Limits of a unit: commands and bytes per second, over all threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Mono;

/// How far the limits may be overdrawn before commands wait.
const BURST: Duration = Duration::from_millis(100);

/// A virtual clock that each command pushes forward by its cost (the generic cell rate algorithm): a command starts
/// when real time has caught up with it, less the burst.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    iops: Lane,
    bytes: Lane,
}

#[derive(Debug, Default)]
struct Lane {
    per_second: AtomicU64,
    theoretical_ns: AtomicU64,
}

impl Lane {
    fn reserve(&self, now: Mono, amount: u64) -> Mono {
        let rate = self.per_second.load(Ordering::Relaxed);
        if rate == 0 || amount == 0 {
            return now;
        }
        let cost = u64::try_from(u128::from(amount) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
        let push = |at: u64| Some(at.max(now.as_nanos()).saturating_add(cost));
        let before = match self.theoretical_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, push) {
            Ok(before) | Err(before) => before,
        };
        let burst = BURST.as_nanos() as u64;
        Mono::from_nanos(before.saturating_sub(burst).max(now.as_nanos()))
    }
}

impl Throttle {
    /// Sets the limits; 0 is none.
    pub fn set(&self, iops: u64, bytes_per_second: u64) {
        self.iops.per_second.store(iops, Ordering::Relaxed);
        self.bytes.per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Whether there are limits at all.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.iops.per_second.load(Ordering::Relaxed) | self.bytes.per_second.load(Ordering::Relaxed) != 0
    }

    /// Books a command of `bytes` and says when it may start.
    pub fn reserve(&self, now: Mono, bytes: u64) -> Mono {
        self.iops.reserve(now, 1).max(self.bytes.reserve(now, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_spread_over_time() {
        let t = Throttle::default();
        let now = Mono::from_nanos(5_000_000_000);
        assert!(!t.is_on());
        assert_eq!(t.reserve(now, 1 << 20), now);
        t.set(100, 0);
        assert!(t.is_on());
        let last = (0..110).map(|_| t.reserve(now, 4096)).max().unwrap();
        // 110 commands at 100 a second: the last starts after 1.09 s, less the burst of 0.1 s.
        assert_eq!(last.since(now).as_millis(), 990);
        t.set(0, 1 << 20);
        let last = (0..3).map(|_| t.reserve(now, 1 << 20)).max().unwrap();
        assert_eq!(last.since(now).as_millis(), 1900);
    }
}
