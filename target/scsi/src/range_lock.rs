//! Ranges of blocks that are being changed, so that atomic commands are atomic (SBC-3 4.23, 5.2, 5.20).
//!
//! A write holds its range shared; COMPARE AND WRITE, ORWRITE and WRITE ATOMIC hold theirs exclusively. Who conflicts
//! waits in order of arrival, and conflicts with those before it whether they hold or wait, so that nobody starves.
//!
//! ```text
//!   acquire ──▶ Held ──────────────▶ release
//!          └──▶ Waiting ──▶ granted ──▶ (waker called) ──▶ release
//! ```
//!
//! Without exclusive holders and without waiters, shared acquire and release look at nothing but their own slot.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Waker;

/// First byte and the byte after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// What was acquired, or is waited for. Give it back with [`RangeLock::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    slot: usize,
    order: u64,
}

struct Entry {
    range: Range,
    exclusive: bool,
    /// Arrival.
    order: u64,
    /// Present while it waits.
    waker: Option<Waker>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    orders: u64,
    /// Entries that are exclusive, held or waiting.
    exclusives: usize,
    waiting: usize,
}

impl Table {
    fn blocked(&self, range: Range, exclusive: bool, order: u64) -> bool {
        self.slots
            .iter()
            .flatten()
            .any(|e| e.order < order && (e.exclusive || exclusive) && e.range.overlaps(range))
    }

    fn insert(&mut self, entry: Entry) -> Ticket {
        let order = entry.order;
        self.exclusives += usize::from(entry.exclusive);
        self.waiting += usize::from(entry.waker.is_some());
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() - 1
            }
        };
        Ticket { slot, order }
    }

    fn grant(&mut self) -> Vec<Waker> {
        let runnable: Vec<usize> = (0..self.slots.len())
            .filter(|&i| {
                self.slots[i]
                    .as_ref()
                    .is_some_and(|e| e.waker.is_some() && !self.blocked(e.range, e.exclusive, e.order))
            })
            .collect();
        self.waiting -= runnable.len();
        runnable.into_iter().filter_map(|i| self.slots[i].as_mut().and_then(|e| e.waker.take())).collect()
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct RangeLock(Mutex<Table>);

impl std::fmt::Debug for RangeLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t = self.lock();
        write!(f, "RangeLock({} entries, {} waiting)", t.slots.len() - t.free.len(), t.waiting)
    }
}

impl RangeLock {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires `range`, or queues for it: then `waker` is called once when it was granted, and the second value is
    /// false.
    pub(crate) fn acquire(&self, range: Range, exclusive: bool, waker: &dyn Fn() -> Waker) -> (Ticket, bool) {
        let mut t = self.lock();
        t.orders += 1;
        let order = t.orders;
        let alone = t.exclusives == 0 && !exclusive;
        let blocked = !alone && t.blocked(range, exclusive, order);
        let ticket = t.insert(Entry { range, exclusive, order, waker: blocked.then(waker) });
        (ticket, !blocked)
    }

    /// Gives back what is held, or leaves the queue. A ticket that was given back before changes nothing.
    pub(crate) fn release(&self, ticket: Ticket) {
        let wakers = {
            let mut t = self.lock();
            let same = |e: &Option<Entry>| e.as_ref().is_some_and(|e| e.order == ticket.order);
            if !t.slots.get(ticket.slot).is_some_and(same) {
                return;
            }
            let Some(entry) = t.slots[ticket.slot].take() else { return };
            t.free.push(ticket.slot);
            t.exclusives -= usize::from(entry.exclusive);
            t.waiting -= usize::from(entry.waker.is_some());
            if t.waiting == 0 { Vec::new() } else { t.grant() }
        };
        for wake in wakers {
            wake();
        }
    }

    /// Whether nothing is held and nobody waits.
    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        self.lock().slots.iter().all(Option::is_none)
    }

    /// Whether the ticket is held by now.
    pub(crate) fn granted(&self, ticket: Ticket) -> bool {
        let t = self.lock();
        t.slots
            .get(ticket.slot)
            .and_then(Option::as_ref)
            .is_some_and(|e| e.order == ticket.order && e.waker.is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn waker(n: &Arc<AtomicUsize>) -> impl Fn() -> Waker {
        let n = Arc::clone(n);
        move || {
            let n = Arc::clone(&n);
            Box::new(move || {
                n.fetch_add(1, Ordering::SeqCst);
            })
        }
    }

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    #[test]
    fn shared_go_together_and_exclusive_alone() {
        let woken = Arc::new(AtomicUsize::new(0));
        let w = waker(&woken);
        let lock = RangeLock::default();
        let (a, held_a) = lock.acquire(range(0, 10), false, &w);
        let (b, held_b) = lock.acquire(range(5, 15), false, &w);
        assert!(held_a && held_b);
        let (x, held_x) = lock.acquire(range(8, 9), true, &w);
        assert!(!held_x);
        let (far, held_far) = lock.acquire(range(100, 101), true, &w);
        assert!(held_far, "does not overlap");
        lock.release(a);
        assert_eq!((woken.load(Ordering::SeqCst), lock.granted(x)), (0, false));
        lock.release(b);
        assert_eq!((woken.load(Ordering::SeqCst), lock.granted(x)), (1, true));
        lock.release(x);
        lock.release(x);
        lock.release(far);
        assert!(lock.acquire(range(0, 1000), true, &w).1);
    }

    #[test]
    fn order_of_arrival_and_leaving_the_queue() {
        let woken = Arc::new(AtomicUsize::new(0));
        let w = waker(&woken);
        let lock = RangeLock::default();
        let (a, _) = lock.acquire(range(0, 10), false, &w);
        let (x, _) = lock.acquire(range(0, 10), true, &w);
        let (b, held) = lock.acquire(range(0, 10), false, &w);
        assert!(!held, "must not overtake the exclusive one that waits");
        lock.release(x);
        assert!(lock.granted(b), "the one before it left");
        lock.release(a);
        lock.release(b);
        assert_eq!(woken.load(Ordering::SeqCst), 1);
    }
}
