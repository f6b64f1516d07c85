//! A latency histogram of fixed size: powers of two of microseconds, no allocation, mergeable.

use std::time::Duration;

/// Buckets: below 1 us, below 2 us, below 4 us ... and the last for everything else.
pub const BUCKETS: usize = 28;

/// Counts by latency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Histogram {
    /// Counts one event that took `d`.
    pub fn record(&mut self, d: Duration) {
        let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (64 - (ns / 1000).leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Events counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all latencies, nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// (upper bound in microseconds, events below it and not below the bound before), in order; the last bucket's
    /// bound is `u64::MAX`.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().map(|(i, &n)| (if i == BUCKETS - 1 { u64::MAX } else { 1 << i }, n))
    }

    /// The bucket bound, in microseconds, below which `fraction` (0 to 1) of the events lie; 0 without events.
    pub fn quantile_us(&self, fraction: f64) -> u64 {
        let total = self.count();
        if total == 0 {
            return 0;
        }
        let rank = ((total as f64) * fraction.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bound, n) in self.buckets() {
            seen += n;
            if seen >= rank {
                return bound;
            }
        }
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_by_powers_of_two() {
        let mut h = Histogram::default();
        h.record(Duration::from_nanos(999));
        h.record(Duration::from_micros(1));
        h.record(Duration::from_micros(3));
        h.record(Duration::from_secs(10_000));
        let hit: Vec<_> = h.buckets().filter(|&(_, n)| n > 0).map(|(b, _)| b).collect();
        assert_eq!(hit, [1, 2, 4, u64::MAX]);
        assert_eq!(h.quantile_us(0.5), 2);
        assert_eq!(h.quantile_us(1.0), u64::MAX);
    }
}
