//! The disk itself: medium, volatile cache, requests in flight, faults. Knows no requests' owners and no threads.
//!
//! For each logical block the cache holds the versions that were written since the one on the medium, oldest first:
//!
//! ```text
//!   medium ─▶ version 1 ─▶ version 2 ─▶ version 3 = what a read returns
//!             └── after a crash: the medium's version or any of these, as the crash policy allows
//! ```
//!
//! Invariants: `visible` is the medium overlaid with the newest version of each block; a flush or FUA write that
//! completes moves a version to the medium and forgets the older ones; versions of one block have rising numbers,
//! and where one is an orphan all of them are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::random::SeededRandom;
use base::{Entropy, Mono};

use super::config::{
    CrashPolicy, CrashReport, DiscardAs, Effect, Fault, FaultConfig, FaultId, HeldOp, On, OpId, Tear, Timing,
};
use crate::memory::SparseBytes;
use crate::{Extent, IoError, IoErrorKind, Op};

/// Versions of one block that the cache keeps; with more the oldest goes to the medium.
const VERSIONS_MAX: usize = 16;
/// Blocks that the cache keeps; with more all of it goes to the medium.
const CACHED_BLOCKS_MAX: usize = 256 * 1024;

/// A block's content in the cache.
#[derive(Debug, Clone)]
struct Version {
    seq: u64,
    op: OpId,
    /// The write's bytes and where the block is in them; `None`: zeroes.
    bytes: Option<(Arc<[u8]>, usize)>,
    /// A flush that should have written it failed: no later flush will write it.
    orphan: bool,
}

/// What was decided about a request when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Do,
    /// Fail; a write is done before this byte.
    Fail(IoError, u64),
    /// Do a FUA write but fail to force it.
    FailForce(IoError),
    Lose,
    Corrupt(u64, u64),
}

#[derive(Debug)]
struct Pending {
    channel: u64,
    op: Op,
    offset: u64,
    len: u64,
    data: Arc<[u8]>,
    plan: Plan,
    /// Bytes that took effect early, and the number of their versions.
    early: Option<(u64, u64)>,
    /// For a flush: the newest version that it covers.
    covers: u64,
    due: Option<Mono>,
    stalled: Option<FaultId>,
}

/// How a request ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) op: OpId,
    pub(super) result: Result<(), IoError>,
    pub(super) data: Vec<u8>,
    pub(super) extents: Vec<Extent>,
}

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) config: FaultConfig,
    random: SeededRandom,
    now: Mono,
    seq: u64,
    next_id: u64,
    medium: SparseBytes,
    visible: SparseBytes,
    cache: BTreeMap<u64, Vec<Version>>,
    pending: BTreeMap<OpId, Pending>,
    due: BTreeSet<(Mono, OpId)>,
    faults: BTreeMap<FaultId, Fault>,
    pub(super) gone: bool,
    pub(super) lie_on_flush: bool,
    /// Channels that are open, and what they have not fetched yet.
    pub(super) outbox: BTreeMap<u64, Vec<Outcome>>,
    next_channel: u64,
}

impl Disk {
    pub(super) fn new(config: FaultConfig) -> Self {
        Disk {
            random: SeededRandom::new(config.seed ^ 0x6469_736b),
            config,
            now: Mono::ZERO,
            seq: 0,
            next_id: 0,
            medium: SparseBytes::default(),
            visible: SparseBytes::default(),
            cache: BTreeMap::new(),
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            faults: BTreeMap::new(),
            gone: false,
            lie_on_flush: false,
            outbox: BTreeMap::new(),
            next_channel: 0,
        }
    }

    pub(super) fn now(&self) -> Mono {
        self.now
    }

    fn block(&self) -> u64 {
        u64::from(self.config.geometry.logical_block_bytes)
    }

    pub(super) fn open(&mut self) -> u64 {
        let id = self.next_channel;
        self.next_channel += 1;
        self.outbox.insert(id, Vec::new());
        id
    }

    /// Takes a request that was checked. `data` is what it writes.
    pub(super) fn start(&mut self, channel: u64, op: Op, offset: u64, len: u64, data: Vec<u8>) -> OpId {
        let id = OpId(self.next_id);
        self.next_id += 1;
        let (plan, stalled, extra) = self.plan(op, offset, len);
        let mut p = Pending {
            channel,
            op,
            offset,
            len,
            data: data.into(),
            plan,
            early: None,
            covers: self.seq,
            due: None,
            stalled,
        };
        let timed = match self.config.timing {
            Timing::Immediate => Some(extra),
            Timing::Timed(l) => {
                let spread = u64::try_from(l.max.saturating_sub(l.min).as_nanos()).unwrap_or(u64::MAX);
                let mut d = l.min + Duration::from_nanos(self.random.below(spread.saturating_add(1))) + extra;
                if l.slow_one_in > 0 && self.random.below(u64::from(l.slow_one_in)) == 0 {
                    d += l.slow_extra;
                }
                Some(d)
            }
            Timing::Held => None,
        };
        if let (Some(d), None) = (timed, stalled) {
            p.due = Some(self.now + d);
            self.due.insert((self.now + d, id));
        }
        self.apply_early(id, &mut p);
        self.pending.insert(id, p);
        id
    }

    /// Which faults the request meets.
    fn plan(&mut self, op: Op, offset: u64, len: u64) -> (Plan, Option<FaultId>, Duration) {
        let (mut plan, mut stalled, mut extra) = (Plan::Do, None, Duration::ZERO);
        let mut spent = Vec::new();
        for (&id, fault) in &mut self.faults {
            if !fault.meets(op, offset, len) {
                continue;
            }
            if let Some(n) = &mut fault.times {
                if *n == 0 {
                    continue;
                }
                *n -= 1;
                if *n == 0 && fault.effect != Effect::Stall {
                    spent.push(id);
                }
            }
            let at = fault.range.start.max(offset);
            match fault.effect {
                Effect::Fail(kind) if fault.on == On::Flushes && op != Op::Flush => {
                    plan = Plan::FailForce(IoError::at(kind, at));
                }
                Effect::Fail(kind) if op == Op::Flush => plan = Plan::Fail(IoError::new(kind), 0),
                Effect::Fail(kind) => plan = Plan::Fail(IoError::at(kind, at), at),
                Effect::Stall => stalled = Some(id),
                Effect::Delay(d) => extra += d,
                Effect::Lose => plan = Plan::Lose,
                Effect::Corrupt => plan = Plan::Corrupt(at, fault.range.end.min(offset.saturating_add(len))),
            }
        }
        for id in spent {
            self.faults.remove(&id);
        }
        (plan, stalled, extra)
    }

    /// Lets a part of a write take effect before it completes.
    fn apply_early(&mut self, id: OpId, p: &mut Pending) {
        if !matches!(p.op, Op::Write { .. })
            || p.plan != Plan::Do
            || self.gone
            || p.due.is_none()
            || self.random.below(100) >= u64::from(self.config.early_percent)
        {
            return;
        }
        let unit = u64::from(self.config.geometry.physical_block_bytes);
        let units = (p.offset + p.len).div_ceil(unit) - p.offset / unit;
        let cut = ((p.offset / unit + self.random.below(units + 1)) * unit).clamp(p.offset, p.offset + p.len);
        if cut > p.offset {
            let seq = self.put(id, p.offset, cut - p.offset, Some((&p.data, 0)));
            p.early = Some((cut - p.offset, seq));
        }
    }

    pub(super) fn next_due(&self) -> Option<Mono> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Finishes what is due until `now`; returns how many requests ended.
    pub(super) fn advance(&mut self, now: Mono) -> usize {
        let mut n = 0;
        while let Some(&(at, id)) = self.due.first() {
            if at > now {
                break;
            }
            self.now = self.now.max(at);
            self.finish(id, None);
            n += 1;
        }
        self.now = self.now.max(now);
        n
    }

    /// Ends a request, with `forced` in place of what would happen. False where there is no such request.
    pub(super) fn finish(&mut self, id: OpId, forced: Option<IoError>) -> bool {
        let Some(mut p) = self.pending.remove(&id) else { return false };
        if let Some(due) = p.due {
            self.due.remove(&(due, id));
        }
        if let Some(error) = forced {
            p.plan = Plan::Fail(error, p.offset);
        }
        let mut out = Outcome { op: id, result: Ok(()), data: Vec::new(), extents: Vec::new() };
        if self.gone {
            out.result = Err(IoError::new(IoErrorKind::Gone));
        } else {
            match p.op {
                Op::Read => self.finish_read(&p, &mut out),
                Op::Map => match p.plan {
                    Plan::Fail(e, _) => out.result = Err(e),
                    _ => out.extents = self.visible.map(p.offset, p.len),
                },
                Op::Flush => out.result = self.finish_flush(&p),
                Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. } => {
                    out.result = self.finish_write(id, &p);
                }
            }
        }
        if let Some(outbox) = self.outbox.get_mut(&p.channel) {
            outbox.push(out);
        }
        true
    }

    fn finish_read(&mut self, p: &Pending, out: &mut Outcome) {
        match p.plan {
            Plan::Fail(e, _) | Plan::FailForce(e) => {
                out.result = Err(e);
                return;
            }
            Plan::Lose => {
                out.data = vec![0; p.len as usize];
                return;
            }
            Plan::Do | Plan::Corrupt(..) => {}
        }
        out.data = vec![0; p.len as usize];
        self.visible.read(p.offset, &mut out.data);
        if let Plan::Corrupt(from, to) = p.plan {
            self.flip(&mut out.data, p.offset, from, to);
        }
    }

    fn finish_flush(&mut self, p: &Pending) -> Result<(), IoError> {
        match p.plan {
            Plan::Fail(e, _) | Plan::FailForce(e) => {
                let all = self.cache.keys().copied().collect::<Vec<_>>();
                self.force_failed(&all);
                Err(e)
            }
            Plan::Lose => Ok(()),
            Plan::Do | Plan::Corrupt(..) => {
                if !self.lie_on_flush {
                    self.harden_all(p.covers);
                }
                Ok(())
            }
        }
    }

    fn finish_write(&mut self, id: OpId, p: &Pending) -> Result<(), IoError> {
        let fua = matches!(p.op, Op::Write { fua: true });
        let (early, early_seq) = p.early.unwrap_or((0, 0));
        let (mut to, mut result) = (p.offset + p.len, Ok(()));
        let mut corrupted = None;
        match p.plan {
            Plan::Do | Plan::FailForce(_) => {}
            Plan::Lose => return Ok(()),
            Plan::Fail(e, at) => {
                let unit = self.block();
                to = at.clamp(p.offset, to) / unit * unit;
                result = Err(e);
            }
            Plan::Corrupt(from, to) => {
                let mut data = p.data.to_vec();
                self.flip(&mut data, p.offset, from, to);
                corrupted = Some(Arc::from(data));
            }
        }
        let from = p.offset + early;
        let mut seq = early_seq;
        if to > from {
            match p.op {
                Op::Discard => self.discard(id, p.offset, to - p.offset),
                Op::Write { .. } => {
                    let data = corrupted.as_ref().unwrap_or(&p.data);
                    seq = self.put(id, from, to - from, Some((data, early as usize)));
                }
                _ => seq = self.put(id, from, to - from, None),
            }
        }
        if result.is_ok() && (fua || !self.config.volatile_cache) && !self.lie_on_flush {
            let blocks: Vec<u64> = (p.offset / self.block()..to.div_ceil(self.block())).collect();
            if let Plan::FailForce(e) = p.plan {
                self.force_failed(&blocks);
                return Err(e);
            }
            let early_end = (p.offset + early) / self.block();
            for b in blocks {
                self.harden(b, if b < early_end { early_seq } else { seq.max(early_seq) });
            }
        }
        result
    }

    fn discard(&mut self, id: OpId, offset: u64, len: u64) {
        let unit = u64::from(self.config.geometry.physical_block_bytes);
        let mut at = offset;
        while at < offset + len {
            let n = ((at / unit + 1) * unit).min(offset + len) - at;
            let zero = match self.config.discard {
                DiscardAs::Zeroes => true,
                DiscardAs::Nothing => false,
                DiscardAs::Either => self.random.below(2) == 0,
            };
            if zero {
                self.put(id, at, n, None);
            }
            at += n;
        }
    }

    /// Writes to the cache; returns the number of the new versions.
    fn put(&mut self, op: OpId, offset: u64, len: u64, data: Option<(&Arc<[u8]>, usize)>) -> u64 {
        self.seq += 1;
        let (seq, block) = (self.seq, self.block());
        match data {
            Some((bytes, at)) => self.visible.write(offset, &bytes[at..at + len as usize]),
            None => self.visible.zero(offset, len),
        }
        if self.cache.len() >= CACHED_BLOCKS_MAX {
            self.harden_all(u64::MAX);
            let orphans: Vec<u64> = std::mem::take(&mut self.cache).into_keys().collect();
            orphans
                .into_iter()
                .filter(|b| !(offset..offset + len).contains(&(b * block)))
                .for_each(|b| self.show_medium(b));
        }
        for (i, b) in (offset / block..(offset + len) / block).enumerate() {
            let bytes = data.map(|(d, at)| (Arc::clone(d), at + i * block as usize));
            let versions = self.cache.entry(b).or_default();
            // An orphan under a newer version is neither read nor ever written.
            versions.retain(|v| !v.orphan);
            versions.push(Version { seq, op, bytes, orphan: false });
            if versions.len() > VERSIONS_MAX {
                let oldest = versions[0].seq;
                self.harden(b, oldest);
            }
        }
        seq
    }

    /// Moves the newest version up to `seq` of a block to the medium and forgets the older ones.
    fn harden(&mut self, block: u64, seq: u64) {
        let size = self.block();
        let Some(versions) = self.cache.get_mut(&block) else { return };
        let n = versions.partition_point(|v| v.seq <= seq);
        let gone: Vec<Version> = versions.drain(..n).collect();
        if versions.is_empty() {
            self.cache.remove(&block);
        }
        match gone.last() {
            Some(last) if !last.orphan => write_block(&mut self.medium, block, size, last),
            // Orphans stay what is read until a crash, as clean pages of a cache do.
            Some(_) => self.cache.entry(block).or_default().extend(gone),
            None => {}
        }
    }

    fn harden_all(&mut self, seq: u64) {
        let blocks: Vec<u64> = self.cache.keys().copied().collect();
        for b in blocks {
            self.harden(b, seq);
        }
    }

    /// What a failed flush does: each block either reached the medium or never will. Blocks that are just being written
    /// stay as they are: those writes will be answered after this failure, so the next flush speaks for them.
    fn force_failed(&mut self, blocks: &[u64]) {
        for &b in blocks {
            let busy = |v: &Version| self.pending.contains_key(&v.op);
            if self.cache.get(&b).is_some_and(|versions| versions.iter().any(busy)) {
                continue;
            }
            let newest = self.cache.get(&b).and_then(|v| v.last()).map_or(0, |v| v.seq);
            if self.random.below(2) == 0 {
                self.harden(b, newest);
            } else if self.config.evict_after_flush_error {
                self.cache.remove(&b);
                self.show_medium(b);
            } else if let Some(versions) = self.cache.get_mut(&b) {
                versions.iter_mut().for_each(|v| v.orphan = true);
            }
        }
    }

    /// Makes a block read as the medium has it.
    fn show_medium(&mut self, block: u64) {
        let size = self.block();
        let mut bytes = vec![0; size as usize];
        self.medium.read(block * size, &mut bytes);
        self.visible.write(block * size, &bytes);
    }

    fn flip(&mut self, data: &mut [u8], offset: u64, from: u64, to: u64) {
        let block = self.block() as usize;
        let at = |b: u64| (b.saturating_sub(offset) as usize).min(data.len());
        let (from, to) = (at(from), at(to));
        for chunk in data[from..to].chunks_mut(block) {
            let bit = self.random.below(chunk.len() as u64 * 8) as usize;
            chunk[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Flips a bit in each logical block of the range on the medium; what the cache holds stays good.
    pub(super) fn rot(&mut self, offset: u64, len: u64) {
        let mut data = vec![0; len as usize];
        self.medium.read(offset, &mut data);
        self.flip(&mut data, offset, offset, offset + len);
        self.medium.write(offset, &data);
        let block = self.block();
        for b in offset / block..(offset + len) / block {
            if !self.cache.contains_key(&b) {
                self.show_medium(b);
            }
        }
    }

    pub(super) fn inject(&mut self, fault: Fault) -> FaultId {
        let id = FaultId(self.next_id);
        self.next_id += 1;
        self.faults.insert(id, fault);
        id
    }

    /// Removes a fault; what it stalled goes on from now.
    pub(super) fn clear(&mut self, id: FaultId) {
        self.faults.remove(&id);
        let now = self.now;
        for (&op, p) in self.pending.iter_mut().filter(|(_, p)| p.stalled == Some(id)) {
            p.stalled = None;
            if !matches!(self.config.timing, Timing::Held) {
                p.due = Some(now);
                self.due.insert((now, op));
            }
        }
    }

    pub(super) fn clear_all(&mut self) {
        let stalled: BTreeSet<FaultId> = self.pending.values().filter_map(|p| p.stalled).collect();
        let all: Vec<FaultId> = self.faults.keys().copied().chain(stalled).collect();
        all.into_iter().for_each(|id| self.clear(id));
    }

    pub(super) fn held(&self) -> Vec<HeldOp> {
        let held = |(&id, p): (&OpId, &Pending)| HeldOp {
            id,
            op: p.op,
            offset: p.offset,
            len: p.len,
            channel: p.channel,
        };
        self.pending.iter().map(held).collect()
    }

    /// Ends everything that is in flight with `error`.
    pub(super) fn fail_all(&mut self, error: IoError) {
        let all: Vec<OpId> = self.pending.keys().copied().collect();
        for id in all {
            if let Some(p) = self.pending.remove(&id)
                && let Some(outbox) = self.outbox.get_mut(&p.channel)
            {
                outbox.push(Outcome { op: id, result: Err(error), data: Vec::new(), extents: Vec::new() });
            }
        }
        self.due.clear();
    }

    /// The power goes. What was in flight is not answered here.
    pub(super) fn crash(&mut self, policy: CrashPolicy) -> CrashReport {
        let mut report = CrashReport::default();
        let all = std::mem::take(&mut self.pending);
        self.due.clear();
        for (id, mut p) in all {
            if matches!(p.op, Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. }) {
                report.in_flight += 1;
                if let Op::Write { fua } = &mut p.op {
                    *fua = false;
                }
                let volatile = std::mem::replace(&mut self.config.volatile_cache, true);
                if p.plan == Plan::Do && !self.gone {
                    let _ = self.finish_write(id, &p);
                }
                self.config.volatile_cache = volatile;
            }
        }
        self.settle(policy, &mut report);
        self.visible = self.medium.clone();
        report
    }

    /// Decides what of the cache is on the medium.
    fn settle(&mut self, policy: CrashPolicy, report: &mut CrashReport) {
        let policy = match policy {
            CrashPolicy::Any(tear) => match self.random.below(6) {
                0 => CrashPolicy::LoseAll,
                1 => CrashPolicy::KeepAll,
                2 | 3 => CrashPolicy::InOrder(tear),
                _ => CrashPolicy::AnyOrder(tear),
            },
            p => p,
        };
        let size = self.block();
        let geometry = self.config.geometry;
        let cache = std::mem::take(&mut self.cache);
        let oldest = cache.values().flatten().map(|v| v.seq).min().unwrap_or(0);
        let cut = oldest + self.random.below(self.seq.saturating_sub(oldest) + 2);
        let odds = 1 + self.random.below(99);
        let mut fates: BTreeMap<(u64, u64), bool> = BTreeMap::new();
        for (block, versions) in cache {
            let mut kept = None;
            let real: Vec<&Version> = versions.iter().filter(|v| !v.orphan).collect();
            for (i, v) in real.iter().enumerate() {
                let unit = |tear| match tear {
                    Tear::Never => 0,
                    Tear::Physical => block * size / u64::from(geometry.physical_block_bytes),
                    Tear::Logical => block,
                };
                let random = &mut self.random;
                let keep = match policy {
                    CrashPolicy::LoseAll => false,
                    CrashPolicy::KeepAll => true,
                    CrashPolicy::InOrder(tear) if v.seq == cut => {
                        *fates.entry((v.op.0, unit(tear))).or_insert_with(|| random.below(2) == 0)
                    }
                    CrashPolicy::InOrder(_) => v.seq < cut,
                    CrashPolicy::AnyOrder(tear) | CrashPolicy::Any(tear) => {
                        *fates.entry((v.op.0, unit(tear))).or_insert_with(|| random.below(100) < odds)
                    }
                };
                if keep {
                    kept = Some(i);
                }
            }
            report.unflushed += 1;
            if let Some(i) = kept {
                write_block(&mut self.medium, block, size, real[i]);
                if i + 1 == versions.len() {
                    report.kept += 1;
                } else {
                    report.older += 1;
                }
            }
        }
    }

    pub(super) fn resize(&mut self, size_bytes: u64) {
        let old = self.config.geometry.size_bytes;
        if size_bytes < old {
            self.medium.zero(size_bytes, old - size_bytes);
            self.visible.zero(size_bytes, old - size_bytes);
            self.cache.split_off(&size_bytes.div_ceil(self.block()));
        }
        self.config.geometry.size_bytes = size_bytes;
    }

    pub(super) fn medium(&self, offset: u64, out: &mut [u8]) {
        self.medium.read(offset, out);
    }

    /// Blocks whose newest version no flush covered.
    pub(super) fn unflushed(&self) -> usize {
        self.cache.len()
    }
}

fn write_block(to: &mut SparseBytes, block: u64, size: u64, version: &Version) {
    match &version.bytes {
        Some((bytes, at)) => to.write(block * size, &bytes[*at..*at + size as usize]),
        None => to.zero(block * size, size),
    }
}
