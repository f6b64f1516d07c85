//! The data of one write command as it arrives: immediate data, unsolicited Data-Out, and the sequences that R2Ts ask
//! for (RFC 7143 11.7, 11.8). Data is always in order here (DataPDUInOrder and DataSequenceInOrder are negotiated to
//! Yes), so `received` is all there is to say about what came.
//!
//! ```text
//!   Flowing ──data lost, recovery level > 0──▶ Again ──every open sequence over──▶ Flowing, R2Ts from `received`
//!      └─────data lost at level 0, or wrong───▶ Failed(fault) ──every open sequence over──▶ CHECK CONDITION
//! ```
//!
//! Memory is taken chunk by chunk as data arrives, never by what a header promises.

use block::{Buf, Bufs, Pool};
use iscsi::pdu::{DataOut, Tag};
use iscsi::serial::Serial;
use smallvec::SmallVec;

/// The first chunk holds no more than unsolicited data can be, so that commands that wait for room hold little.
const FIRST_CHUNK: u32 = 256 * 1024;
/// Every later chunk; the greatest buffer that a pool keeps.
const CHUNK: u32 = 1024 * 1024;

/// Why the data of a command cannot be had (RFC 7143 11.4.7.2 gives the sense codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Unsolicited data where none was agreed.
    UnexpectedUnsolicited,
    /// Not the bytes that were agreed.
    WrongAmount,
    /// Lost or damaged on the way.
    Lost,
    /// More than a command may carry.
    TooLong,
    /// Data in both directions.
    Bidirectional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Flowing,
    Again,
    Failed(Fault),
}

/// A run of Data-Out PDUs.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    ttt: Tag,
    start: u32,
    end: u32,
    r2t_sn: u32,
    data_sn: Serial,
}

/// What becomes of a Data-Out's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// It belongs at this offset.
    Store(u32),
    /// It is thrown away, but its end counts.
    Discard,
    /// It belongs to nothing that is open.
    Stray,
}

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub r2t_sn: u32,
    pub offset: u32,
    pub len: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct WriteData {
    len: u32,
    chunks: Bufs,
    received: u32,
    unsolicited: Option<Sequence>,
    asked: SmallVec<[Sequence; 2]>,
    next: u32,
    r2t_sn: u32,
    flow: Flow,
    /// Bytes that the session's budget has granted.
    pub granted: u32,
}

impl Default for WriteData {
    fn default() -> Self {
        WriteData::new(0, 0, false)
    }
}

impl WriteData {
    /// `len` bytes, of which up to `unsolicited_end` may come unasked, by Data-Out if `open`.
    pub fn new(len: u32, unsolicited_end: u32, open: bool) -> Self {
        let sequence = Sequence {
            ttt: Tag::RESERVED,
            start: 0,
            end: unsolicited_end.min(len),
            r2t_sn: 0,
            data_sn: Serial(0),
        };
        WriteData {
            len,
            chunks: Bufs::new(),
            received: 0,
            unsolicited: open.then_some(sequence),
            asked: SmallVec::new(),
            next: 0,
            r2t_sn: 0,
            flow: Flow::Flowing,
            granted: 0,
        }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// Memory that was taken.
    pub fn held_bytes(&self) -> usize {
        self.chunks.iter().map(Buf::capacity).sum()
    }

    /// What it may hold at most before anything was asked for.
    pub fn unasked(&self) -> u32 {
        self.unsolicited.map_or(self.received, |s| s.end)
    }

    /// R2Ts sent.
    pub fn r2ts(&self) -> u32 {
        self.r2t_sn
    }

    /// Whether R2Ts are out that nobody answers.
    pub fn waits_for_answer(&self) -> bool {
        !self.asked.is_empty()
    }

    pub fn fail(&mut self, fault: Fault) {
        if !matches!(self.flow, Flow::Failed(_)) {
            self.flow = Flow::Failed(fault);
        }
    }

    /// Nothing went wrong so far.
    pub fn healthy(&self) -> bool {
        self.flow == Flow::Flowing
    }

    /// All is here.
    pub fn complete(&self) -> bool {
        self.flow == Flow::Flowing && self.unsolicited.is_none() && self.received == self.len
    }

    /// It failed, and the initiator sends no more of it.
    pub fn failed(&self) -> Option<Fault> {
        match self.flow {
            Flow::Failed(fault) if self.unsolicited.is_none() && self.asked.is_empty() => Some(fault),
            _ => None,
        }
    }

    /// The immediate data of the command arrived.
    pub fn immediate(&mut self, len: u32) {
        self.received = len;
        self.next = len;
    }

    fn find(&mut self, ttt: Tag) -> Option<&mut Sequence> {
        if ttt.is_reserved() {
            self.unsolicited.as_mut()
        } else {
            self.asked.iter_mut().find(|s| s.ttt == ttt)
        }
    }

    /// Decides about a Data-Out from its header. `recovers`: the recovery level allows asking again for what was lost.
    pub fn begin(&mut self, pdu: &DataOut, recovers: bool) -> Take {
        let (received, flow) = (self.received, self.flow);
        let Some(sequence) = self.find(pdu.ttt) else {
            if pdu.ttt.is_reserved() {
                self.fail(Fault::UnexpectedUnsolicited);
            }
            return Take::Stray;
        };
        if flow != Flow::Flowing {
            return Take::Discard;
        }
        let end = u64::from(pdu.offset) + u64::from(pdu.data_len);
        let solicited = !pdu.ttt.is_reserved();
        if pdu.data_sn != sequence.data_sn {
            // RFC 7143 7.9: a number out of order means that an earlier PDU was lost.
            self.lost(recovers);
            return Take::Discard;
        }
        if pdu.offset != received
            || end > u64::from(sequence.end)
            || (solicited && pdu.final_ && end != u64::from(sequence.end))
        {
            self.fail(Fault::WrongAmount);
            return Take::Discard;
        }
        sequence.data_sn = sequence.data_sn.next();
        Take::Store(received)
    }

    /// Data did not arrive as it was sent.
    pub fn lost(&mut self, recovers: bool) {
        if self.flow == Flow::Flowing {
            self.flow = if recovers { Flow::Again } else { Flow::Failed(Fault::Lost) };
        }
    }

    /// The end of a Data-Out that [`WriteData::begin`] looked at; `stored`: its data is in place.
    pub fn end(&mut self, pdu: &DataOut, stored: bool) {
        if stored && self.flow == Flow::Flowing {
            self.received += pdu.data_len;
        }
        let received = self.received;
        let over = self.find(pdu.ttt).is_some_and(|s| pdu.final_ || received == s.end);
        if over {
            if pdu.ttt.is_reserved() {
                self.unsolicited = None;
                self.next = self.next.max(self.received);
            } else {
                self.asked.retain(|s| s.ttt != pdu.ttt);
            }
        }
        self.settle();
    }

    /// Gives up waiting for what was announced or asked for, to ask again or to fail at last.
    pub fn stop_waiting(&mut self) {
        self.lost(true);
        self.unsolicited = None;
        self.asked.clear();
        self.settle();
    }

    fn settle(&mut self) {
        if self.flow == Flow::Again && self.unsolicited.is_none() && self.asked.is_empty() {
            self.flow = Flow::Flowing;
            self.next = self.received;
        }
    }

    /// The next R2T, if one may go out now. `tag` makes its target transfer tag from its number.
    pub fn ask(
        &mut self,
        max_burst: u32,
        max_outstanding: u32,
        tag: impl Fn(u32) -> Tag,
    ) -> Option<(Tag, Ask)> {
        let end = self.len.min(self.granted);
        if self.flow != Flow::Flowing
            || self.unsolicited.is_some()
            || self.next >= end
            || self.asked.len() >= max_outstanding as usize
        {
            return None;
        }
        let ask = Ask { r2t_sn: self.r2t_sn, offset: self.next, len: (end - self.next).min(max_burst) };
        let ttt = tag(ask.r2t_sn);
        self.asked.push(Sequence {
            ttt,
            start: ask.offset,
            end: ask.offset + ask.len,
            r2t_sn: ask.r2t_sn,
            data_sn: Serial(0),
        });
        self.next += ask.len;
        self.r2t_sn = self.r2t_sn.wrapping_add(1);
        Some((ttt, ask))
    }

    /// R2Ts that are out.
    pub fn outstanding(&self) -> impl Iterator<Item = (Tag, Ask)> + '_ {
        self.asked.iter().map(|s| (s.ttt, Ask { r2t_sn: s.r2t_sn, offset: s.start, len: s.end - s.start }))
    }

    /// Which chunk holds byte `at`, and where that chunk begins and ends.
    fn chunk_of(&self, at: u32) -> (usize, u32, u32) {
        if at < FIRST_CHUNK {
            return (0, 0, FIRST_CHUNK.min(self.len));
        }
        let n = (at - FIRST_CHUNK) / CHUNK;
        let start = FIRST_CHUNK + n * CHUNK;
        (n as usize + 1, start, self.len.min(start.saturating_add(CHUNK)))
    }

    fn chunk(&mut self, pool: &Pool, at: u32) -> (&mut Buf, u32) {
        let (index, start, end) = self.chunk_of(at);
        while self.chunks.len() < index {
            let at = match self.chunks.len() as u32 {
                0 => 0,
                n => FIRST_CHUNK + (n - 1) * CHUNK,
            };
            let (_, s, e) = self.chunk_of(at);
            self.chunks.push(pool.get((e - s) as usize));
        }
        if self.chunks.len() == index {
            self.chunks.push(pool.get((end - start) as usize));
        }
        (&mut self.chunks[index], start)
    }

    /// Puts `bytes` at `at`. What would go past the end is left out; headers were checked before.
    pub fn store(&mut self, pool: &Pool, mut at: u32, mut bytes: &[u8]) {
        while !bytes.is_empty() && at < self.len {
            let (chunk, start) = self.chunk(pool, at);
            let from = (at - start) as usize;
            let n = bytes.len().min(chunk.len().saturating_sub(from));
            if n == 0 {
                return;
            }
            chunk[from..from + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            at += n as u32;
        }
    }

    /// Lends the memory from `at` on, up to `len` bytes of one chunk, to receive into.
    pub fn lend(&mut self, pool: &Pool, at: u32, len: u32) -> Option<Buf> {
        if at >= self.len {
            return None;
        }
        let (chunk, start) = self.chunk(pool, at);
        let from = (at - start) as usize;
        let n = (len as usize).min(chunk.len().checked_sub(from)?);
        if n == 0 {
            return None;
        }
        let mut buf = std::mem::replace(chunk, Buf::zeroed(0));
        buf.narrow(from..from + n);
        Some(buf)
    }

    /// Takes back what was lent for `at`.
    pub fn give_back(&mut self, at: u32, mut buf: Buf) {
        let (index, start, end) = self.chunk_of(at);
        if let Some(slot) = self.chunks.get_mut(index) {
            buf.widen();
            buf.truncate((end - start) as usize);
            *slot = buf;
        }
    }

    /// The data, once it is complete.
    pub fn take(&mut self) -> Bufs {
        std::mem::take(&mut self.chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pdu(ttt: Tag, sn: u32, offset: u32, len: u32, final_: bool) -> DataOut {
        DataOut {
            final_,
            lun: 0,
            itt: Tag(1),
            ttt,
            exp_stat_sn: Serial(0),
            data_sn: Serial(sn),
            offset,
            data_len: len,
        }
    }

    fn feed(w: &mut WriteData, p: DataOut) -> Take {
        let take = w.begin(&p, false);
        w.end(&p, matches!(take, Take::Store(_)));
        take
    }

    #[test]
    fn immediate_then_unsolicited_then_r2ts() {
        let mut w = WriteData::new(10_000, 3000, true);
        w.immediate(1000);
        w.granted = 10_000;
        assert_eq!(w.ask(4000, 2, Tag), None, "unsolicited data is still coming");
        assert_eq!(feed(&mut w, pdu(Tag::RESERVED, 0, 1000, 1000, false)), Take::Store(1000));
        assert_eq!(feed(&mut w, pdu(Tag::RESERVED, 1, 2000, 500, true)), Take::Store(2000));
        assert_eq!(w.ask(4000, 2, Tag), Some((Tag(0), Ask { r2t_sn: 0, offset: 2500, len: 4000 })));
        assert_eq!(w.ask(4000, 2, Tag), Some((Tag(1), Ask { r2t_sn: 1, offset: 6500, len: 3500 })));
        assert_eq!(w.ask(4000, 2, Tag), None);
        assert_eq!(feed(&mut w, pdu(Tag(0), 0, 2500, 4000, true)), Take::Store(2500));
        assert!(!w.complete());
        assert_eq!(feed(&mut w, pdu(Tag(1), 0, 6500, 3500, true)), Take::Store(6500));
        assert!(w.complete());
    }

    #[test]
    fn wrong_numbers_offsets_and_lengths_fail_the_command_once_the_sequence_is_over() {
        for (bad, fault) in [
            (pdu(Tag(0), 1, 0, 500, false), Fault::Lost),
            (pdu(Tag(0), 0xffff_ffff, 0, 500, false), Fault::Lost),
            (pdu(Tag(0), 0, 1, 500, false), Fault::WrongAmount),
            (pdu(Tag(0), 0, 0, 1001, false), Fault::WrongAmount),
            (pdu(Tag(0), 0, 0, 999, true), Fault::WrongAmount),
            (pdu(Tag(0), 0, u32::MAX, u32::MAX >> 8, false), Fault::WrongAmount),
            (pdu(Tag::RESERVED, 0, 0, 10, false), Fault::UnexpectedUnsolicited),
        ] {
            let mut w = WriteData::new(1000, 0, false);
            w.granted = 1000;
            assert!(w.ask(1000, 1, Tag).is_some());
            assert!(!matches!(feed(&mut w, bad), Take::Store(_)));
            if !bad.final_ {
                assert_eq!(w.failed(), None, "the sequence is not over");
                assert_eq!(feed(&mut w, pdu(Tag(0), 0, 0, 1000, true)), Take::Discard);
            }
            assert_eq!(w.failed(), Some(fault), "{bad:?}");
            assert!(!w.complete());
        }
    }

    #[test]
    fn asks_again_for_what_was_lost() {
        let mut w = WriteData::new(3000, 0, false);
        w.granted = 3000;
        assert!(w.ask(1000, 2, Tag).is_some() && w.ask(1000, 2, Tag).is_some());
        let p = pdu(Tag(0), 0, 0, 400, false);
        assert_eq!(w.begin(&p, true), Take::Store(0));
        w.end(&p, true);
        let p = pdu(Tag(0), 1, 400, 600, true);
        assert_eq!(w.begin(&p, true), Take::Store(400));
        w.lost(true);
        w.end(&p, false);
        assert_eq!(w.ask(1000, 2, Tag), None, "the second sequence is still on its way");
        assert_eq!(feed(&mut w, pdu(Tag(1), 0, 1000, 1000, true)), Take::Discard);
        assert_eq!(w.ask(1000, 2, Tag), Some((Tag(2), Ask { r2t_sn: 2, offset: 400, len: 1000 })));
    }

    #[test]
    fn memory_follows_the_data() {
        let pool = Pool::default();
        let len = FIRST_CHUNK + CHUNK + 4096;
        let mut w = WriteData::new(len, 0, false);
        let bytes: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
        w.store(&pool, 0, &bytes[..100]);
        assert_eq!(w.chunks.len(), 1);
        let lent = w.lend(&pool, 100, len).unwrap();
        assert_eq!(lent.len(), FIRST_CHUNK as usize - 100);
        w.give_back(100, lent);
        for (i, part) in bytes.chunks(300_000).enumerate() {
            w.store(&pool, i as u32 * 300_000, part);
        }
        assert_eq!(w.lend(&pool, len, 1).map(|b| b.len()), None);
        let bufs = w.take();
        let all: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        assert!(all == bytes);
    }
}
