//! What a connection sends: a queue of PDUs that are made into bytes only when the engine asks for a batch.
//!
//! ```text
//!   push ──▶ queue ──gather──▶ batch (with the engine) ──done(all)──▶ gone, or kept until acknowledged (level > 0)
//!                                └──done(part)──▶ rest ──gather──▶ the same batch without what was sent
//! ```
//!
//! A read's reply is one entry, however many Data-In PDUs it becomes; it may be spread over several batches. Its buffers
//! move into the batch and, where they are needed again, back. StatSN is given when an entry is queued (the queue is
//! in order), ExpCmdSN and MaxCmdSN when its header is written.

use std::collections::VecDeque;

use base::Mono;
use block::{Buf, Bufs};
use iscsi::digest::{self, Crc32c};
use iscsi::pdu::{Bhs, DataIn, Opcode, Residual, Tag, TargetNumbers, padding, set_data_len};
use iscsi::serial::Serial;

use crate::api::{Segment, TxBatch};

/// Arena bytes that a batch keeps between sends.
const ARENA_KEEP: usize = 64 * 1024;

/// Data of a PDU.
#[derive(Debug, Default)]
pub(crate) enum Payload {
    #[default]
    None,
    Bytes(Vec<u8>),
    Bufs(Bufs),
}

impl Payload {
    pub fn len(&self) -> usize {
        match self {
            Payload::None => 0,
            Payload::Bytes(b) => b.len(),
            Payload::Bufs(b) => b.iter().map(|b| b.len()).sum(),
        }
    }
}

/// How a reply becomes Data-In PDUs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub itt: Tag,
    pub total: u32,
    pub max_burst: u32,
    /// Where the next PDU begins.
    pub at: u32,
    /// Where the last one ends.
    pub end: u32,
    pub data_sn: u32,
    /// Status in the last PDU.
    pub status: Option<(u8, Residual)>,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// One PDU with all of the payload.
    Whole(Bhs),
    /// Data-In.
    Data(Plan),
}

/// An entry of the queue.
#[derive(Debug)]
pub(crate) struct Out {
    pub shape: Shape,
    pub payload: Payload,
    pub stat_sn: Serial,
    /// Keep it until StatSN is acknowledged, or the command's status is.
    pub keep: bool,
    /// Without digests whatever was negotiated (Login Responses).
    pub plain: bool,
}

impl Out {
    pub fn whole(bhs: Bhs, payload: Payload, stat_sn: Serial) -> Self {
        Out { shape: Shape::Whole(bhs), payload, stat_sn, keep: false, plain: false }
    }

    /// The command that this answers: of Data-In and SCSI Responses.
    pub fn itt(&self) -> Option<Tag> {
        match &self.shape {
            Shape::Data(plan) => Some(plan.itt),
            Shape::Whole(bhs) if Opcode::of(bhs[0]) == Some(Opcode::ScsiResponse) => {
                Some(Tag(u32::from_be_bytes([bhs[16], bhs[17], bhs[18], bhs[19]])))
            }
            Shape::Whole(_) => None,
        }
    }

    fn cost(&self) -> usize {
        match &self.shape {
            Shape::Whole(_) => 48 + self.payload.len(),
            Shape::Data(p) => 48 + (p.end - p.at) as usize,
        }
    }
}

/// How a connection's PDUs look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub header_digest: bool,
    pub data_digest: bool,
    /// Data segment that the initiator takes.
    pub max_segment: u32,
    pub max_burst: u32,
}

/// A buffer that must come back from a batch.
#[derive(Clone, Copy, Debug)]
struct Lent {
    batch: u32,
    /// Which of `kept`; the queue's front without.
    owner: Option<u32>,
    slot: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tx {
    queue: VecDeque<Out>,
    queued_bytes: usize,
    rest: Option<TxBatch>,
    out: bool,
    /// Since when something waits without any progress.
    pub since: Option<Mono>,
    lent: Vec<Lent>,
    kept: Vec<Out>,
    /// PDUs made.
    pub pdus: u64,
    /// Bytes of Data-In made.
    pub data_bytes: u64,
}

impl Tx {
    pub fn push(&mut self, out: Out) {
        self.queued_bytes += out.cost();
        self.queue.push_back(out);
    }

    /// Forgets everything that is in no batch yet (of a connection that is given up: PDUs are never cut).
    pub fn clear_unsent(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.lent.retain(|l| l.owner.is_some());
    }

    /// Takes everything that is in no batch yet; entries whose data is partly in one are lost.
    pub fn take_queue(&mut self) -> Vec<Out> {
        let partly = self.lent.iter().any(|l| l.owner.is_none());
        let queue = std::mem::take(&mut self.queue);
        self.clear_unsent();
        queue.into_iter().skip(usize::from(partly)).collect()
    }

    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Everything is sent.
    pub fn idle(&self) -> bool {
        self.queue.is_empty() && self.rest.is_none() && !self.out
    }

    /// A batch could be made.
    pub fn ready(&self) -> bool {
        !self.out && (self.rest.is_some() || !self.queue.is_empty())
    }

    /// The next batch, made in `spare`.
    pub fn gather(
        &mut self,
        spare: impl FnOnce() -> TxBatch,
        numbers: TargetNumbers,
        format: Format,
        limits: (usize, usize),
    ) -> Option<TxBatch> {
        if self.out {
            return None;
        }
        if let Some(rest) = self.rest.take() {
            self.out = true;
            return Some(rest);
        }
        if self.queue.is_empty() {
            return None;
        }
        let mut batch = spare();
        while !full(&batch, limits) {
            let Some(mut entry) = self.queue.pop_front() else { break };
            let before = entry.cost();
            if self.write_entry(&mut batch, &mut entry, numbers, format, limits) {
                self.queued_bytes -= before;
                if entry.keep {
                    self.kept.push(entry);
                }
            } else {
                self.queued_bytes -= (before - entry.cost()).min(self.queued_bytes);
                self.queue.push_front(entry);
                break;
            }
        }
        self.out = true;
        Some(batch)
    }

    /// Writes what fits of an entry; true when that was all of it.
    fn write_entry(
        &mut self,
        batch: &mut TxBatch,
        entry: &mut Out,
        numbers: TargetNumbers,
        format: Format,
        limits: (usize, usize),
    ) -> bool {
        let stat_sn = entry.stat_sn;
        let plan = match &mut entry.shape {
            Shape::Whole(bhs) => {
                TargetNumbers { stat_sn, ..numbers }.stamp(bhs);
                set_data_len(bhs, entry.payload.len() as u32);
                put_header(batch, bhs, format.header_digest && !entry.plain);
                if let Payload::Bytes(bytes) = &entry.payload {
                    put_bytes(batch, bytes, format.data_digest && !entry.plain);
                }
                self.pdus += 1;
                return true;
            }
            Shape::Data(plan) => plan,
        };
        let mut cursor = Cursor::at(&entry.payload, plan.at as usize);
        let first_lent = self.lent.len();
        let over = loop {
            let len = segment_len(plan.at, plan.end, format);
            put_data_in(batch, plan, len, TargetNumbers { stat_sn, ..numbers }, format.header_digest);
            match &mut entry.payload {
                Payload::Bufs(bufs) => {
                    cursor.put(batch, bufs, len as usize, format.data_digest, &mut self.lent);
                }
                Payload::Bytes(bytes) => {
                    let at = plan.at as usize;
                    put_bytes(batch, &bytes[at..at + len as usize], format.data_digest);
                }
                Payload::None => {}
            }
            self.pdus += 1;
            self.data_bytes += u64::from(len);
            plan.at += len;
            plan.data_sn = plan.data_sn.wrapping_add(1);
            if plan.at >= plan.end {
                break true;
            }
            if full(batch, limits) {
                break false;
            }
        };
        if over && !entry.keep {
            self.lent.truncate(first_lent);
        } else if over {
            let owner = Some(self.kept.len() as u32);
            self.lent[first_lent..].iter_mut().for_each(|l| l.owner = owner);
        }
        over
    }

    /// Takes a batch back with its first `n` bytes sent. Gives the empty batch on for reuse when all of it was;
    /// `keep` gets what is to be kept until it is acknowledged.
    pub fn done(&mut self, mut batch: TxBatch, n: usize, keep: impl FnMut(Out)) -> Option<TxBatch> {
        self.out = false;
        if n < batch.total {
            cut(&mut batch, n);
            self.rest = Some(batch);
            return None;
        }
        for l in self.lent.drain(..) {
            let owner = match l.owner {
                None => self.queue.front_mut(),
                Some(k) => self.kept.get_mut(k as usize),
            };
            let Some(Out { payload: Payload::Bufs(bufs), .. }) = owner else { continue };
            if let (Some(slot), Some(buf)) =
                (bufs.get_mut(l.slot as usize), batch.bufs.get_mut(l.batch as usize))
            {
                *slot = std::mem::replace(buf, Buf::zeroed(0));
            }
        }
        self.kept.drain(..).for_each(keep);
        batch.bufs.clear();
        batch.segments.clear();
        batch.headers.clear();
        batch.headers.shrink_to(ARENA_KEEP);
        batch.total = 0;
        Some(batch)
    }
}

/// Whether another PDU should wait for the next batch. A batch without anything takes one in any case.
fn full(batch: &TxBatch, (segments_max, bytes_max): (usize, usize)) -> bool {
    batch.total > 0 && (batch.segments.len() + 4 > segments_max || batch.total >= bytes_max)
}

/// The length of the Data-In that begins at `at`: not beyond the initiator's MaxRecvDataSegmentLength nor a burst.
pub(crate) fn segment_len(at: u32, end: u32, format: Format) -> u32 {
    (end - at).min(format.max_segment).min(format.max_burst - at % format.max_burst)
}

/// Data-In PDUs of a whole transfer.
pub(crate) fn segments_of(total: u32, format: Format) -> u32 {
    let per_burst = format.max_burst.div_ceil(format.max_segment);
    total / format.max_burst * per_burst + (total % format.max_burst).div_ceil(format.max_segment)
}

/// Where the Data-In with number `data_sn` begins.
pub(crate) fn segment_start(data_sn: u32, format: Format) -> u64 {
    let per_burst = format.max_burst.div_ceil(format.max_segment);
    u64::from(data_sn / per_burst) * u64::from(format.max_burst)
        + u64::from(data_sn % per_burst) * u64::from(format.max_segment)
}

fn put_data_in(batch: &mut TxBatch, plan: &Plan, len: u32, numbers: TargetNumbers, digest: bool) {
    let ends = plan.at + len == plan.total;
    let status = plan.status.filter(|_| ends);
    let pdu = DataIn {
        final_: ends || (plan.at + len).is_multiple_of(plan.max_burst),
        acknowledge: false,
        status: status.map(|(s, _)| s),
        residual: status.map_or(Residual::None, |(_, r)| r),
        lun: 0,
        itt: plan.itt,
        ttt: Tag::RESERVED,
        sn: TargetNumbers { stat_sn: if status.is_some() { numbers.stat_sn } else { Serial(0) }, ..numbers },
        data_sn: Serial(plan.data_sn),
        offset: plan.at,
        data_len: len,
    };
    let mut bhs = [0; 48];
    pdu.encode(&mut bhs);
    put_header(batch, &bhs, digest);
}

fn put_header(batch: &mut TxBatch, bhs: &Bhs, digest: bool) {
    arena(batch, bhs);
    if digest {
        arena(batch, &digest::header(bhs, &[]));
    }
}

/// Puts a data segment into the arena, with padding and digest.
fn put_bytes(batch: &mut TxBatch, bytes: &[u8], digest: bool) {
    if bytes.is_empty() {
        return;
    }
    arena(batch, bytes);
    let mut crc = Crc32c::new();
    if digest {
        crc.update(bytes);
    }
    end_data(batch, bytes.len(), digest.then_some(crc));
}

fn end_data(batch: &mut TxBatch, len: usize, digest: Option<Crc32c>) {
    arena(batch, &[0u8; 3][..padding(len as u32)]);
    if let Some(mut crc) = digest {
        crc.pad(len as u32);
        arena(batch, &crc.finish());
    }
}

/// Appends to the headers; neighbours become one segment.
fn arena(batch: &mut TxBatch, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let at = batch.headers.len() as u32;
    batch.headers.extend_from_slice(bytes);
    batch.total += bytes.len();
    if let Some(Segment::Header { start, len }) = batch.segments.last_mut()
        && *start + *len == at
    {
        *len += bytes.len() as u32;
        return;
    }
    batch.segments.push(Segment::Header { start: at, len: bytes.len() as u32 });
}

/// A place in a reply's buffers.
struct Cursor {
    slot: usize,
    offset: usize,
    /// Where the buffer of `slot` is, once it is in the batch.
    batch: Option<usize>,
}

impl Cursor {
    fn at(payload: &Payload, mut offset: usize) -> Self {
        let mut slot = 0;
        if let Payload::Bufs(bufs) = payload {
            while let Some(b) = bufs.get(slot).filter(|b| b.len() <= offset) {
                offset -= b.len();
                slot += 1;
            }
        }
        Cursor { slot, offset, batch: None }
    }

    /// Puts the next `len` bytes into the batch; buffers move there.
    fn put(&mut self, batch: &mut TxBatch, bufs: &mut Bufs, len: usize, digest: bool, lent: &mut Vec<Lent>) {
        let (mut left, mut crc) = (len, Crc32c::new());
        while left > 0 && self.slot < bufs.len() {
            let index = *self.batch.get_or_insert_with(|| {
                let index = batch.bufs.len();
                batch.bufs.push(std::mem::replace(&mut bufs[self.slot], Buf::zeroed(0)));
                lent.push(Lent { batch: index as u32, owner: None, slot: self.slot as u32 });
                index
            });
            let n = left.min(batch.bufs[index].len() - self.offset);
            if n > 0 {
                if digest {
                    crc.update(&batch.bufs[index][self.offset..self.offset + n]);
                }
                batch.segments.push(Segment::Buf {
                    index: index as u32,
                    start: self.offset as u32,
                    len: n as u32,
                });
                batch.total += n;
            }
            self.offset += n;
            left -= n;
            if self.offset == batch.bufs[index].len() {
                *self = Cursor { slot: self.slot + 1, offset: 0, batch: None };
            }
        }
        end_data(batch, len, digest.then_some(crc));
    }
}

/// Takes the first `n` bytes out of a batch.
fn cut(batch: &mut TxBatch, n: usize) {
    let mut left = n;
    let mut gone = 0;
    for s in &mut batch.segments {
        let (start, len) = match s {
            Segment::Header { start, len } | Segment::Buf { start, len, .. } => (start, len),
        };
        if left < *len as usize {
            *start += left as u32;
            *len -= left as u32;
            break;
        }
        left -= *len as usize;
        gone += 1;
    }
    batch.segments.drain(..gone);
    batch.total -= n;
}
