//! What was asked, what was answered, and whether that may be.
//!
//! Data are judged by [`Oracle`], one for each unit. Reservations are judged by a model of the persistent reservations of
//! unit 0 that follows the commands: one changes them at a time, and where the outcome of one is not known, they are
//! read back before the next. While the model is sure, every write of an initiator that must not write has to be refused,
//! and every write of one that may has to be let through.

use std::collections::BTreeMap;
use std::ops::Range;

use base::Entropy;
use base::random::SeededRandom;
use block::fault::{FlushToken, Oracle, ReadToken, WriteToken};

use crate::initiator::{Ask, End};
use crate::target::sense_key;
use crate::{Failure, fail};

/// Bytes of a logical block.
pub const BLOCK: u64 = 512;
/// The unit with reservations.
const RESERVED_UNIT: u32 = 0;

/// A change of reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Register,
    Unregister,
    Reserve(u8),
    Release(u8),
    Clear,
    Preempt { victim: usize, kind: u8, abort: bool },
}

enum Work {
    Read(ReadToken),
    Write { token: WriteToken, view: Option<(u64, bool)> },
    Flush(FlushToken),
    Ready,
    Change(Change),
    ReadKeys,
    ReadReservation,
}

struct Item {
    initiator: usize,
    unit: u32,
    work: Work,
}

/// Persistent reservations as they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reservations {
    registered: Vec<bool>,
    holder: Option<(usize, u8)>,
}

impl Reservations {
    fn may_write(&self, who: usize) -> bool {
        match self.holder {
            None => true,
            // WRITE EXCLUSIVE, and the same for registrants only (SPC-4 5.13.1).
            Some((holder, kind)) => holder == who || (kind == 5 && self.registered[who]),
        }
    }

    fn apply(&mut self, who: usize, change: Change) {
        match change {
            Change::Register => self.registered[who] = true,
            Change::Unregister => {
                self.registered[who] = false;
                if self.holder.is_some_and(|h| h.0 == who) {
                    self.holder = None;
                }
            }
            Change::Reserve(kind) => self.holder = Some((who, kind)),
            Change::Release(_) => self.holder = None,
            Change::Clear => {
                self.holder = None;
                self.registered.fill(false);
            }
            Change::Preempt { victim, kind, .. } => {
                self.registered[victim] = false;
                if self.holder.is_some_and(|h| h.0 == victim) {
                    self.holder = Some((who, kind));
                }
            }
        }
    }
}

/// What the world learns of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that concerns it.
    Fine,
    /// A TEST UNIT READY ended GOOD.
    Ready,
    /// Nobody knows what a TEST UNIT READY came to.
    Unknown,
    /// A TEST UNIT READY met a unit attention with this additional sense code.
    Attention(u8),
}

/// See the module.
pub struct Judge {
    oracles: Vec<Oracle>,
    items: BTreeMap<u64, Item>,
    next: u64,
    reservations: Reservations,
    /// The model is what the unit has.
    sure: bool,
    /// Moves whenever the reservations may.
    version: u64,
    /// A reservation command is under way.
    busy: bool,
    /// Who read the keys, and what they were.
    keys_read: Option<(usize, Vec<u64>)>,
    /// The reservation is being read.
    reading: bool,
    /// The disks may fail.
    pub errors_expected: bool,
    /// Commands that ended with each of these: GOOD, refused, failed, resolved.
    pub ends: [u64; 4],
}

impl Judge {
    /// For so many units and initiators.
    pub fn new(units: usize, initiators: usize) -> Self {
        Judge {
            oracles: (0..units).map(|_| Oracle::new(BLOCK as usize)).collect(),
            items: BTreeMap::new(),
            next: 0,
            reservations: Reservations { registered: vec![false; initiators], holder: None },
            sure: true,
            version: 0,
            busy: false,
            keys_read: None,
            reading: false,
            errors_expected: false,
            ends: [0; 4],
        }
    }

    fn item(&mut self, initiator: usize, unit: u32, work: Work) -> u64 {
        self.next += 1;
        self.items.insert(self.next, Item { initiator, unit, work });
        self.next
    }

    fn ask(
        &mut self,
        initiator: usize,
        unit: u32,
        work: Work,
        cdb: [u8; 16],
        read: u32,
        data: Vec<u8>,
    ) -> Ask {
        Ask { token: self.item(initiator, unit, work), unit, cdb, read, data }
    }

    /// READ(16).
    pub fn read(&mut self, initiator: usize, unit: u32, blocks: Range<u64>) -> Ask {
        let token = self.oracles[unit as usize].read(blocks.clone());
        let read = ((blocks.end - blocks.start) * BLOCK) as u32;
        self.ask(initiator, unit, Work::Read(token), transfer(0x88, 0, &blocks), read, Vec::new())
    }

    /// WRITE(16), with or without FUA.
    pub fn write(&mut self, initiator: usize, unit: u32, blocks: Range<u64>, fua: bool) -> Ask {
        self.oracles[unit as usize].set_owner(initiator as u32);
        let (token, data) = self.oracles[unit as usize].write(blocks.clone(), fua);
        let work = Work::Write { token, view: self.view(initiator, unit) };
        self.ask(initiator, unit, work, transfer(0x8a, if fua { 0x08 } else { 0 }, &blocks), 0, data)
    }

    /// WRITE SAME(16) of a block of zeroes.
    pub fn zero(&mut self, initiator: usize, unit: u32, blocks: Range<u64>) -> Ask {
        self.oracles[unit as usize].set_owner(initiator as u32);
        let token = self.oracles[unit as usize].zero(blocks.clone());
        let work = Work::Write { token, view: self.view(initiator, unit) };
        self.ask(initiator, unit, work, transfer(0x93, 0, &blocks), 0, vec![0; BLOCK as usize])
    }

    /// SYNCHRONIZE CACHE(10) of everything.
    pub fn flush(&mut self, initiator: usize, unit: u32) -> Ask {
        // With errors about, a success tells an initiator of its own writes alone: a failure that concerned another's may be
        // on its way to that one.
        let oracle = &mut self.oracles[unit as usize];
        let token = if self.errors_expected { oracle.flush_of(initiator as u32) } else { oracle.flush() };
        let mut cdb = [0; 16];
        cdb[0] = 0x35;
        self.ask(initiator, unit, Work::Flush(token), cdb, 0, Vec::new())
    }

    /// TEST UNIT READY.
    pub fn ready(&mut self, initiator: usize, unit: u32) -> Ask {
        self.ask(initiator, unit, Work::Ready, [0; 16], 0, Vec::new())
    }

    fn view(&self, initiator: usize, unit: u32) -> Option<(u64, bool)> {
        (unit == RESERVED_UNIT && self.sure && !self.busy)
            .then(|| (self.version, self.reservations.may_write(initiator)))
    }

    /// The next reservation command that `initiator` sends, where none is under way.
    pub fn reservation(&mut self, initiator: usize, random: &mut SeededRandom) -> Option<Ask> {
        if self.busy {
            return None;
        }
        self.busy = true;
        if !self.sure || random.below(3) == 0 {
            return Some(self.read_keys(initiator));
        }
        let kind = if random.below(2) == 0 { 1 } else { 5 };
        let change = match (self.reservations.registered[initiator], self.reservations.holder) {
            (false, _) => Change::Register,
            (true, None) if random.below(4) == 0 => Change::Unregister,
            (true, None) => Change::Reserve(kind),
            (true, Some((holder, _))) if holder != initiator => {
                Change::Preempt { victim: holder, kind, abort: random.below(2) == 0 }
            }
            (true, Some((_, kind))) => match random.below(8) {
                0 => Change::Clear,
                1 => Change::Unregister,
                2 | 3 => Change::Release(kind),
                _ => {
                    return Some(self.read_keys(initiator));
                }
            },
        };
        self.version += 1;
        let (action, kind, own, other) = match change {
            Change::Register => (6, 0, 0, key(initiator)),
            Change::Unregister => (6, 0, key(initiator), 0),
            Change::Reserve(kind) => (1, kind, key(initiator), 0),
            Change::Release(kind) => (2, kind, key(initiator), 0),
            Change::Clear => (3, 0, key(initiator), 0),
            Change::Preempt { victim, kind, abort } => {
                (4 + u8::from(abort), kind, key(initiator), key(victim))
            }
        };
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
        let mut data = vec![0; 24];
        data[..8].copy_from_slice(&own.to_be_bytes());
        data[8..16].copy_from_slice(&other.to_be_bytes());
        // APTPL: what is registered outlives a loss of power (SPC-4 5.13.5).
        data[20] = u8::from(action == 6);
        Some(self.ask(initiator, RESERVED_UNIT, Work::Change(change), cdb, 0, data))
    }

    fn read_keys(&mut self, initiator: usize) -> Ask {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[7]) = (0x5e, 0x00, 0x02);
        self.ask(initiator, RESERVED_UNIT, Work::ReadKeys, cdb, 512, Vec::new())
    }

    /// The second half of reading reservations back.
    pub fn read_reservation(&mut self, initiator: usize) -> Option<Ask> {
        if std::mem::replace(&mut self.reading, true) {
            return None;
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[8]) = (0x5e, 0x01, 64);
        Some(self.ask(initiator, RESERVED_UNIT, Work::ReadReservation, cdb, 64, Vec::new()))
    }

    /// Who read the keys, and reads the reservation next.
    pub fn reader(&self) -> Option<usize> {
        self.keys_read.as_ref().map(|k| k.0).filter(|_| !self.reading)
    }

    /// A command ended.
    pub fn end(&mut self, token: u64, end: &End) -> Result<Verdict, Failure> {
        let Some(item) = self.items.remove(&token) else { fail!("command {token} ended twice") };
        let Item { initiator, unit, work } = item;
        let key = match end {
            End::Status { status: 0x02, sense, .. } => sense_key(sense),
            _ => None,
        };
        let outcome = match end {
            End::Resolved => Outcome::Resolved,
            End::Status { status: 0, .. } => Outcome::Good,
            // RESERVATION CONFLICT, BUSY, TASK SET FULL, unit attention: nothing was done.
            End::Status { status: 0x18 | 0x08 | 0x28, .. } => Outcome::Refused,
            End::Status { status: 0x40, .. } => Outcome::Resolved,
            End::Status { status: 0x02, .. } if key == Some(6) => Outcome::Refused,
            End::Status { status: 0x02, .. } if self.errors_expected && key != Some(5) => Outcome::Failed,
            End::Status { status, sense, .. } => {
                fail!(
                    "initiator {initiator}, unit {unit}: status {status:#04x}, sense {sense:02x?} for {}",
                    work.name()
                )
            }
        };
        self.ends[outcome as usize] += 1;
        let conflict = matches!(end, End::Status { status: 0x18, .. });
        match work {
            Work::Read(t) => self.end_read(initiator, unit, t, outcome, end)?,
            Work::Write { token, view } => {
                self.end_write((initiator, unit), token, view, outcome, conflict)?;
            }
            Work::Flush(t) => {
                let oracle = &mut self.oracles[unit as usize];
                match outcome {
                    Outcome::Good => oracle.flush_done(t, true),
                    Outcome::Failed => oracle.flush_done(t, false),
                    Outcome::Refused | Outcome::Resolved => oracle.flush_lost(t),
                }
            }
            Work::Ready => {
                return Ok(match (end, outcome) {
                    (_, Outcome::Good) => Verdict::Ready,
                    (End::Status { sense, .. }, Outcome::Refused) if key == Some(6) => {
                        Verdict::Attention(additional(sense))
                    }
                    _ => Verdict::Unknown,
                });
            }
            Work::Change(change) => self.end_change(initiator, change, outcome, conflict)?,
            Work::ReadKeys => match (outcome, end) {
                (Outcome::Good, End::Status { data, .. }) => self.keys_read = Some((initiator, keys(data)?)),
                _ => self.busy = false,
            },
            Work::ReadReservation => {
                let (_, keys) = self.keys_read.take().unwrap_or_default();
                self.reading = false;
                self.busy = false;
                if let (Outcome::Good, End::Status { data, .. }) = (outcome, end) {
                    self.read_back(&keys, data)?;
                }
            }
        }
        Ok(Verdict::Fine)
    }

    fn end_write(
        &mut self,
        (initiator, unit): (usize, u32),
        token: WriteToken,
        view: Option<(u64, bool)>,
        outcome: Outcome,
        conflict: bool,
    ) -> Result<(), Failure> {
        if let Some((_, may)) = view.filter(|v| v.0 == self.version && !self.busy) {
            if may && conflict {
                fail!("initiator {initiator} may write and was refused; {:?}", self.reservations);
            }
            if !may && outcome == Outcome::Good {
                fail!("initiator {initiator} wrote in spite of {:?}", self.reservations);
            }
        }
        let oracle = &mut self.oracles[unit as usize];
        match outcome {
            Outcome::Refused => oracle.write_refused(token),
            o => oracle.write_done(token, o == Outcome::Good),
        }
        Ok(())
    }

    fn end_read(
        &mut self,
        initiator: usize,
        unit: u32,
        token: ReadToken,
        outcome: Outcome,
        end: &End,
    ) -> Result<(), Failure> {
        let oracle = &mut self.oracles[unit as usize];
        match (outcome, end) {
            (Outcome::Good, End::Status { data, .. }) => oracle
                .read_done(token, data)
                .map_err(|v| Failure(format!("initiator {initiator}, unit {unit}: {v}"))),
            _ => {
                oracle.read_failed(token);
                Ok(())
            }
        }
    }

    fn end_change(
        &mut self,
        initiator: usize,
        change: Change,
        outcome: Outcome,
        conflict: bool,
    ) -> Result<(), Failure> {
        self.busy = false;
        self.version += 1;
        match outcome {
            Outcome::Good => self.reservations.apply(initiator, change),
            Outcome::Refused if conflict => {
                fail!("initiator {initiator}: {change:?} was refused at {:?}", self.reservations);
            }
            Outcome::Refused => {}
            Outcome::Failed | Outcome::Resolved => self.sure = false,
        }
        Ok(())
    }

    fn read_back(&mut self, keys: &[u64], data: &[u8]) -> Result<(), Failure> {
        let mut found =
            Reservations { registered: vec![false; self.reservations.registered.len()], holder: None };
        for &k in keys {
            let Some(who) = (0..found.registered.len()).find(|&i| key(i) == k) else {
                fail!("a key that nobody registered: {k:#x}");
            };
            found.registered[who] = true;
        }
        if data.len() >= 24 && u32::from_be_bytes([data[4], data[5], data[6], data[7]]) == 16 {
            let k = data[8..16].iter().fold(0, |k, &b| k << 8 | u64::from(b));
            let Some(who) = (0..found.registered.len()).find(|&i| key(i) == k) else {
                fail!("the reservation's key is nobody's: {k:#x}");
            };
            found.holder = Some((who, data[21] & 0x0f));
        }
        if self.sure && found != self.reservations {
            fail!("reservations are {found:?}, not {:?}", self.reservations);
        }
        self.reservations = found;
        self.sure = true;
        self.version += 1;
        Ok(())
    }

    /// The power of a unit's disk went. `medium` gives the bytes of a block.
    pub fn crashed(
        &mut self,
        unit: usize,
        blocks: u64,
        medium: impl Fn(u64, &mut [u8]),
    ) -> Result<(), Failure> {
        let mut bytes = vec![0; BLOCK as usize];
        for b in 0..blocks {
            medium(b, &mut bytes);
            if let Err(v) = self.oracles[unit].check_after_crash(b, &bytes) {
                fail!("unit {unit} after the crash: {v}");
            }
        }
        self.oracles[unit].crashed();
        Ok(())
    }

    /// The target was killed. What it knew of failed flushes is gone with it, and what every initiator is told instead, by
    /// the unit attention for power on, is that volatile caches may have lost what they held (SPC-4 5.8).
    pub fn killed(&mut self) {
        if self.errors_expected {
            self.oracles.iter_mut().for_each(Oracle::doubt);
        }
    }

    /// Commands that did not end.
    pub fn open(&self) -> usize {
        self.items.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Good,
    Refused,
    Failed,
    Resolved,
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Work::Read(_) => "a read",
            Work::Write { .. } => "a write",
            Work::Flush(_) => "a flush",
            Work::Ready => "TEST UNIT READY",
            Work::Change(_) => "PERSISTENT RESERVE OUT",
            Work::ReadKeys | Work::ReadReservation => "PERSISTENT RESERVE IN",
        }
    }
}

fn key(initiator: usize) -> u64 {
    0x504c_494e_0000_0001 + initiator as u64
}

fn keys(data: &[u8]) -> Result<Vec<u64>, Failure> {
    let Some(len) = data.get(4..8).map(|l| l.iter().fold(0, |n, &b| n << 8 | usize::from(b))) else {
        fail!("READ KEYS with {} bytes", data.len());
    };
    let Some(list) = data.get(8..8 + len) else {
        fail!("READ KEYS with {len} bytes of keys in {}", data.len())
    };
    Ok(list.chunks_exact(8).map(|k| k.iter().fold(0, |n, &b| n << 8 | u64::from(b))).collect())
}

/// The additional sense code, of either format.
fn additional(sense: &[u8]) -> u8 {
    let at = if sense.first().is_some_and(|b| b & 0x7f >= 0x72) { 2 } else { 12 };
    sense.get(at).copied().unwrap_or(0)
}

fn transfer(opcode: u8, flags: u8, blocks: &Range<u64>) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&blocks.start.to_be_bytes());
    cdb[10..14].copy_from_slice(&((blocks.end - blocks.start) as u32).to_be_bytes());
    cdb
}
