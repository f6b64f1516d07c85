//! What each block of a disk may legally hold, told from the user's side alone: what was asked, when, and what was
//! answered. It knows nothing of the device, so it judges whatever stands between: a cache, a target, a replica.
//!
//! A write is an interval, from being asked to being answered. Write `w` *supersedes* `v` where `v` was answered before
//! `w` was asked. A read may return `v` unless a write that was answered well before the read was asked supersedes it;
//! after a crash a block may hold `v` unless a *hard* write supersedes it. A write is hard once it was answered and was FUA, or
//! once a flush was answered that was asked after the write was answered. A failed write may have happened or not. After
//! a failed flush, the same holds for all writes that were asked before its answer and are not hard, and no later flush
//! changes that; a failed FUA write is a failed flush of its own blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

/// What a block was filled with, as [`Oracle::fill`] writes it; 0 is a block of zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// A write that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteToken(u64);
/// A read that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadToken(u64);
/// A flush that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushToken(u64);

/// A block that holds what it must not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The block.
    pub block: u64,
    /// What it holds; `None`: no whole block that was ever written there.
    pub found: Option<Stamp>,
    /// What it might hold.
    pub legal: Vec<Stamp>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} holds ", self.block)?;
        match self.found {
            Some(s) => write!(f, "version {}", s.0)?,
            None => write!(f, "bytes that were never written there")?,
        }
        write!(f, "; legal: {:?}", self.legal.iter().map(|s| s.0).collect::<Vec<_>>())
    }
}

impl std::error::Error for Violation {}

#[derive(Clone, Copy, Debug)]
struct Write {
    token: u64,
    owner: u32,
    stamp: Stamp,
    asked: u64,
    answered: Option<u64>,
    /// It surely happened.
    sure: bool,
    /// Since when it is hard: the answer of the flush; 0 for a FUA write.
    hard: Option<u64>,
    /// A flush failed meanwhile.
    doubt: bool,
}

impl Write {
    /// A flush of its block that was asked at `asked` failed. A flush that succeeded meanwhile may have seen nothing left
    /// to write.
    fn cast_doubt(&mut self, asked: u64) {
        if self.hard.is_none_or(|since| since > asked) {
            self.hard = None;
            self.doubt = true;
            self.sure = false;
        }
    }
}

/// A block's possible past: what it held in the beginning or after the last crash, and the writes since.
#[derive(Clone, Debug)]
struct History {
    base: Vec<Stamp>,
    writes: Vec<Write>,
}

impl Default for History {
    fn default() -> Self {
        History { base: vec![Stamp(0)], writes: Vec::new() }
    }
}

impl History {
    /// Whether write `i` is superseded by one of those that `by` picks; `None` asks for the base.
    fn superseded(&self, i: Option<usize>, by: impl Fn(&Write) -> bool) -> bool {
        let until = match i {
            None => Some(0),
            Some(i) => self.writes[i].answered,
        };
        let Some(until) = until else { return false };
        self.writes.iter().any(|w| w.sure && w.asked > until && by(w))
    }

    fn candidates(&self, by: impl Fn(&Write) -> bool + Copy) -> Vec<Stamp> {
        let mut out = Vec::new();
        if !self.superseded(None, by) {
            out.extend_from_slice(&self.base);
        }
        for (i, w) in self.writes.iter().enumerate() {
            if !self.superseded(Some(i), by) {
                out.push(w.stamp);
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Forgets what neither a read, nor a crash after a failure, of something asked at `oldest` or later can bring back.
    fn prune(&mut self, oldest: u64) {
        let gone = |w: &Write| w.hard.is_some_and(|t| t < oldest) && w.answered.is_some_and(|t| t < oldest);
        if self.superseded(None, gone) {
            self.base.clear();
        }
        let keep: Vec<bool> = (0..self.writes.len()).map(|i| !self.superseded(Some(i), gone)).collect();
        let mut keep = keep.iter();
        self.writes.retain(|_| keep.next().copied().unwrap_or(true));
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Oracle {
    block_bytes: usize,
    clock: u64,
    next: u64,
    blocks: BTreeMap<u64, History>,
    writes: BTreeMap<u64, (Range<u64>, bool, u64)>,
    reads: BTreeMap<u64, (Range<u64>, u64)>,
    /// When it was asked, and for whose writes.
    flushes: BTreeMap<u64, (u64, Option<u32>)>,
    owner: u32,
    /// Blocks with a write that is not hard, or not for long.
    soft: BTreeSet<u64>,
}

impl Oracle {
    /// An oracle for a disk of zeroes with blocks of this size (at least 32 bytes, a multiple of 8).
    pub fn new(block_bytes: usize) -> Self {
        assert!(
            block_bytes >= 32 && block_bytes.is_multiple_of(8),
            "blocks of {block_bytes} bytes have no room"
        );
        Oracle {
            block_bytes,
            clock: 0,
            next: 1,
            blocks: BTreeMap::new(),
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            flushes: BTreeMap::new(),
            owner: 0,
            soft: BTreeSet::new(),
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// A write of a fresh stamp to `blocks` is asked: the data to send.
    pub fn write(&mut self, blocks: Range<u64>, fua: bool) -> (WriteToken, Vec<u8>) {
        let stamp = Stamp(self.next);
        let token = self.ask(blocks.clone(), fua, stamp);
        let mut data = vec![0; (blocks.end - blocks.start) as usize * self.block_bytes];
        for (block, out) in blocks.zip(data.chunks_exact_mut(self.block_bytes)) {
            fill(stamp, block, out);
        }
        (token, data)
    }

    /// Zeroes are asked for.
    pub fn zero(&mut self, blocks: Range<u64>) -> WriteToken {
        self.ask(blocks, false, Stamp(0))
    }

    /// A write of the bytes that some other block or an earlier write was filled with.
    pub fn write_stamp(&mut self, blocks: Range<u64>, fua: bool, stamp: Stamp) -> WriteToken {
        self.ask(blocks, fua, stamp)
    }

    fn ask(&mut self, blocks: Range<u64>, fua: bool, stamp: Stamp) -> WriteToken {
        let (token, asked) = (self.token(), self.tick());
        for b in blocks.clone() {
            let w = Write {
                token,
                owner: self.owner,
                stamp,
                asked,
                answered: None,
                sure: false,
                hard: None,
                doubt: false,
            };
            self.blocks.entry(b).or_default().writes.push(w);
            self.soft.insert(b);
        }
        self.writes.insert(token, (blocks, fua, asked));
        WriteToken(token)
    }

    /// A write was answered. With `ok` false it may have happened or not, but it will not happen any more.
    pub fn write_done(&mut self, token: WriteToken, ok: bool) {
        let now = self.tick();
        let Some((blocks, fua, asked)) = self.writes.remove(&token.0) else { return };
        let oldest = self.oldest();
        for b in blocks {
            let Some(h) = self.blocks.get_mut(&b) else { continue };
            for w in &mut h.writes {
                if w.token == token.0 {
                    w.answered = Some(now);
                    w.hard = (ok && fua).then_some(0);
                    w.sure = w.hard.is_some() || (ok && !w.doubt);
                } else if !ok && fua {
                    w.cast_doubt(asked);
                }
            }
            h.prune(oldest);
        }
    }

    /// A discard was answered: the blocks may hold zeroes or what they held.
    pub fn discard_done(&mut self, token: WriteToken) {
        self.write_done(token, false);
    }

    /// A write was refused before anything of it was done: it must never be seen.
    pub fn write_refused(&mut self, token: WriteToken) {
        let Some((blocks, ..)) = self.writes.remove(&token.0) else { return };
        for b in blocks {
            if let Some(h) = self.blocks.get_mut(&b) {
                h.writes.retain(|w| w.token != token.0);
            }
        }
    }

    /// Writes that are asked from now on are `owner`'s.
    pub fn set_owner(&mut self, owner: u32) {
        self.owner = owner;
    }

    /// A flush is asked.
    pub fn flush(&mut self) -> FlushToken {
        self.ask_flush(None)
    }

    /// A flush is asked whose success is taken to speak for `owner`'s writes alone: where each owner is told of failures on
    /// its own, another's may not have been told yet.
    pub fn flush_of(&mut self, owner: u32) -> FlushToken {
        self.ask_flush(Some(owner))
    }

    fn ask_flush(&mut self, of: Option<u32>) -> FlushToken {
        let (token, now) = (self.token(), self.tick());
        self.flushes.insert(token, (now, of));
        FlushToken(token)
    }

    /// Nothing that is not hard by now can be relied on: those who wrote were told that it may be lost.
    pub fn doubt(&mut self) {
        let now = self.tick();
        for h in self.blocks.values_mut() {
            h.writes.iter_mut().for_each(|w| w.cast_doubt(now));
        }
    }

    /// Nobody will know whether a flush was done.
    pub fn flush_lost(&mut self, token: FlushToken) {
        self.flushes.remove(&token.0);
    }

    /// A flush was answered.
    pub fn flush_done(&mut self, token: FlushToken, ok: bool) {
        let now = self.tick();
        let Some((asked, of)) = self.flushes.remove(&token.0) else { return };
        let oldest = self.oldest();
        let blocks = &mut self.blocks;
        self.soft.retain(|b| {
            let Some(h) = blocks.get_mut(b) else { return false };
            for w in &mut h.writes {
                if ok
                    && of.is_none_or(|o| o == w.owner)
                    && w.sure
                    && w.hard.is_none()
                    && w.answered.is_some_and(|t| t < asked)
                {
                    w.hard = Some(now);
                } else if !ok {
                    w.cast_doubt(asked);
                }
            }
            h.prune(oldest);
            h.writes.iter().any(|w| w.hard.is_none_or(|t| t >= oldest))
        });
    }

    /// A read is asked.
    pub fn read(&mut self, blocks: Range<u64>) -> ReadToken {
        let (token, now) = (self.token(), self.tick());
        self.reads.insert(token, (blocks, now));
        ReadToken(token)
    }

    /// A read failed, or its answer is lost.
    pub fn read_failed(&mut self, token: ReadToken) {
        self.reads.remove(&token.0);
    }

    /// A read was answered with `data`.
    pub fn read_done(&mut self, token: ReadToken, data: &[u8]) -> Result<(), Violation> {
        let Some((blocks, asked)) = self.reads.remove(&token.0) else { return Ok(()) };
        for (block, bytes) in blocks.zip(data.chunks_exact(self.block_bytes)) {
            let found = stamp_of(block, bytes);
            let h = self.blocks.entry(block).or_default();
            let legal = h.candidates(|w| w.answered.is_some_and(|t| t < asked));
            let Some(stamp) = found.filter(|s| legal.contains(s)) else {
                return Err(Violation { block, found, legal });
            };
            if h.writes.is_empty() {
                // Nothing was written since the crash: the block is what it was seen to be.
                h.base = vec![stamp];
            }
        }
        Ok(())
    }

    /// The power went: what was asked and not answered may have happened or not, and each block is one of its
    /// candidates.
    pub fn crashed(&mut self) {
        let tokens: Vec<u64> = self.writes.keys().copied().collect();
        tokens.into_iter().for_each(|t| self.write_done(WriteToken(t), false));
        self.reads.clear();
        self.flushes.clear();
        self.soft.clear();
        for h in self.blocks.values_mut() {
            h.base = h.candidates(|w| w.hard.is_some());
            h.writes.clear();
        }
    }

    /// What `block` may hold if the power goes now.
    pub fn after_crash(&self, block: u64) -> Vec<Stamp> {
        self.blocks.get(&block).map_or_else(|| vec![Stamp(0)], |h| h.candidates(|w| w.hard.is_some()))
    }

    /// Judges the bytes of `block` as they are after a crash.
    pub fn check_after_crash(&self, block: u64, bytes: &[u8]) -> Result<Stamp, Violation> {
        let (found, legal) = (stamp_of(block, bytes), self.after_crash(block));
        found.filter(|s| legal.contains(s)).ok_or(Violation { block, found, legal })
    }

    /// When the oldest read, flush or FUA write that is not answered was asked.
    fn oldest(&self) -> u64 {
        let reads = self.reads.values().map(|r| r.1);
        let fua = self.writes.values().filter(|w| w.1).map(|w| w.2);
        reads.chain(fua).chain(self.flushes.values().map(|f| f.0)).min().unwrap_or(u64::MAX)
    }
}

const MAGIC: u64 = 0x504c_494e_5448_5354;

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fills a block: every word of it follows from the stamp and the block's number.
fn fill(stamp: Stamp, block: u64, out: &mut [u8]) {
    out.fill(0);
    let words = [MAGIC, stamp.0, block];
    for (i, w) in out.chunks_exact_mut(8).enumerate() {
        let word = words.get(i).copied().unwrap_or_else(|| mix(mix(stamp.0) ^ (block << 20) ^ i as u64));
        w.copy_from_slice(&word.to_le_bytes());
    }
}

/// The stamp of a block, where it is whole and belongs there.
fn stamp_of(block: u64, bytes: &[u8]) -> Option<Stamp> {
    if bytes.iter().all(|&b| b == 0) {
        return Some(Stamp(0));
    }
    let stamp = Stamp(u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?));
    let mut want = vec![0; bytes.len()];
    fill(stamp, block, &mut want);
    (want == bytes).then_some(stamp)
}
