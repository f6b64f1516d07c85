//! What one initiator did on one unit, counted by its worker.

use std::time::Duration;

use base::{Histogram, Mono};

use crate::control::backend::IoStats;

/// Direction of a command's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Read,
    Write,
    Other,
}

/// A count over the last whole second.
#[derive(Debug, Default)]
struct Rate {
    second: u64,
    current: u64,
    last: u64,
}

impl Rate {
    fn add(&mut self, now: Mono, amount: u64) {
        self.roll(now);
        self.current += amount;
    }

    fn roll(&mut self, now: Mono) {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            self.last = if second == self.second + 1 { self.current } else { 0 };
            self.current = 0;
            self.second = second;
        }
    }
}

#[derive(Debug, Default)]
struct Lane {
    submitted: u64,
    submitted_bytes: u64,
    done: u64,
    done_bytes: u64,
    commands: Rate,
    bytes: Rate,
    latency: Histogram,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    read: Lane,
    write: Lane,
    pub errors: u64,
}

impl Counters {
    fn lane(&mut self, way: Way) -> Option<&mut Lane> {
        match way {
            Way::Read => Some(&mut self.read),
            Way::Write => Some(&mut self.write),
            Way::Other => None,
        }
    }

    /// A command began that asks for `bytes`.
    pub fn began(&mut self, way: Way, bytes: u64) {
        if let Some(lane) = self.lane(way) {
            lane.submitted += 1;
            lane.submitted_bytes += bytes;
        }
    }

    /// It ended after `took`, having moved `bytes`.
    pub fn ended(&mut self, now: Mono, way: Way, bytes: u64, took: Duration) {
        if let Some(lane) = self.lane(way) {
            lane.done += 1;
            lane.done_bytes += bytes;
            lane.commands.add(now, 1);
            lane.bytes.add(now, bytes);
            lane.latency.record(took);
        }
    }

    /// Reads and writes, for show.
    pub fn view(&mut self, now: Mono) -> (IoStats, IoStats) {
        (view(&mut self.read, now), view(&mut self.write, now))
    }
}

fn view(lane: &mut Lane, now: Mono) -> IoStats {
    lane.commands.roll(now);
    lane.bytes.roll(now);
    IoStats {
        submitted_bytes: lane.submitted_bytes,
        submitted: lane.submitted,
        done_bytes: lane.done_bytes,
        done: lane.done,
        per_second: lane.commands.last,
        bytes_per_second: lane.bytes.last,
        latency: lane.latency.clone(),
    }
}
