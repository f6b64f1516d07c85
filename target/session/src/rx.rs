//! The receive path: bytes into PDUs (RFC 7143 11.2).
//!
//! ```text
//!   Header ──BHS, AHS, digest──▶ Data ──all of the segment──▶ Trailer ──padding, digest──▶ on_pdu, Header
//!     └──────────no data segment───────────────────────────────────────────────────────────▲
//! ```
//!
//! The staging buffer is one page for a quiet connection and 64 KiB for a busy one. The data segment of a large write
//! goes straight into the command's memory; the staging buffer then only takes what follows it.

use block::{Buf, PAGE_BYTES};
use iscsi::digest::Crc32c;
use iscsi::pdu::{BHS_LEN, Bhs, DIGEST_LEN, Frame, Request};

use crate::api::{ConnId, Cx, RxBatch, TaskId};
use crate::conn::Phase;
use crate::machine::{Ending, Machine};

/// Staging of a quiet connection.
const STAGING_QUIET: usize = PAGE_BYTES;
/// Staging of a busy one.
const STAGING_BUSY: usize = 64 * 1024;
/// What is left of a data segment for it to be received in place.
const DIRECT_MIN: u32 = 16 * 1024;
/// Small receives in a row after which a staging buffer shrinks.
const SMALL_RECEIVES: u8 = 4;

/// Where a data segment goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sink {
    /// Into `gathered`.
    Gather,
    /// Into a command's write data.
    Task { task: TaskId, at: u32 },
    /// Nowhere.
    #[default]
    Discard,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Header,
    Data,
    Trailer,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Rx {
    staging: Option<Buf>,
    /// What of the staging buffer is received and not looked at.
    start: usize,
    end: usize,
    out: bool,
    /// A command's memory is out, from this offset on.
    direct: Option<(TaskId, u32)>,
    busy: bool,
    small: u8,
    stage: Stage,
    bhs: Bhs48,
    ahs: Vec<u8>,
    pub request: Option<Request>,
    pub sink: Sink,
    /// The command whose PDU this is.
    pub arriving: Option<TaskId>,
    left: u32,
    crc: Crc32c,
    gathered: Vec<u8>,
    /// Nobody reads until a resume; the engine was told so.
    pub paused: bool,
    /// Input is not to be looked at: the login waits for something.
    pub hold: bool,
}

/// A header with a `Default`.
struct Bhs48(Bhs);

impl Default for Bhs48 {
    fn default() -> Self {
        Bhs48([0; BHS_LEN])
    }
}

impl Rx {
    fn bytes(&self) -> &[u8] {
        self.staging.as_ref().map_or(&[], |b| &b[self.start..self.end])
    }

    /// The header of the current PDU.
    pub fn bhs(&self) -> &Bhs {
        &self.bhs.0
    }

    pub fn ahs(&self) -> &[u8] {
        &self.ahs
    }

    pub fn held_bytes(&self) -> usize {
        self.staging.as_ref().map_or(0, Buf::capacity) + self.gathered.capacity() + self.ahs.capacity()
    }

    /// Everything received that was not looked at.
    pub fn unread(&self) -> Vec<u8> {
        self.bytes().to_vec()
    }

    /// The room for the next receive in the staging buffer.
    fn room(&mut self, cx: &Cx<'_>, beside_direct: bool) -> Buf {
        let want = if self.busy { STAGING_BUSY } else { STAGING_QUIET };
        let have = self.end - self.start;
        let mut buf = match self.staging.take() {
            Some(mut b) if b.capacity() == want || have > want => {
                b.widen();
                if self.start > 0 {
                    b.copy_within(self.start..self.end, 0);
                }
                b
            }
            old => {
                let mut b = cx.pool.get(want);
                b.widen();
                if let Some(old) = old {
                    b[..have].copy_from_slice(&old[self.start..self.end]);
                }
                b
            }
        };
        (self.start, self.end) = (0, have);
        let end = if beside_direct { buf.len().min(have + STAGING_QUIET) } else { buf.len() };
        buf.narrow(have..end);
        buf
    }

    /// Chooses the size of the staging buffer by what came.
    fn adapt(&mut self, n: usize, room: usize) {
        if n == room {
            (self.busy, self.small) = (true, 0);
        } else if n < STAGING_QUIET / 2 {
            self.small = self.small.saturating_add(1);
            if self.small >= SMALL_RECEIVES {
                self.busy = false;
            }
        } else {
            self.small = 0;
        }
    }

    /// The memory of the current data segment's command, where it is worth it.
    fn direct_at(&self) -> Option<(TaskId, u32, u32)> {
        match (self.stage, self.sink) {
            (Stage::Data, Sink::Task { task, at }) if self.left >= DIRECT_MIN => Some((task, at, self.left)),
            _ => None,
        }
    }

    fn trailer_len(&self, data_digest: bool) -> usize {
        Frame::of(&self.bhs.0).padding() + if data_digest { DIGEST_LEN } else { 0 }
    }
}

impl Machine {
    /// Where the next bytes go. None while a receive is out, while the connection must not be read
    /// ([`crate::Action::Resume`] follows), or where it is over.
    pub fn take_rx(&mut self, cx: &mut Cx<'_>, id: ConnId) -> Option<RxBatch> {
        let limit = self.config.connection_tx_bytes_max;
        let conn = self.conns.get_mut(id)?;
        if conn.rx.out || conn.phase == Phase::Closing {
            return None;
        }
        if conn.rx.hold || conn.tx.queued_bytes() > limit {
            conn.rx.paused = true;
            return None;
        }
        let direct = conn.rx.direct_at().and_then(|(task, at, left)| {
            // At recovery level 2 a command outlives its connection, and so must its memory.
            let session = self.sessions.get(conn.session?)?;
            if session.recovery_level() >= 2 {
                return None;
            }
            let buf = self.tasks.get_mut(task)?.write.lend(cx.pool, at, left)?;
            conn.rx.direct = Some((task, at));
            Some(buf)
        });
        conn.rx.out = true;
        conn.rx.paused = false;
        let staging = conn.rx.room(cx, direct.is_some());
        Some(RxBatch { direct, staging })
    }

    /// Takes back what [`Machine::take_rx`] gave, with `n` bytes in it; 0 is the end of the stream.
    pub fn rx_done(&mut self, cx: &mut Cx<'_>, id: ConnId, batch: RxBatch, n: usize) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let room = batch.staging.len();
        let mut staged = n;
        let rx = &mut conn.rx;
        rx.out = false;
        if let (Some(buf), Some((task, at))) = (batch.direct, rx.direct.take()) {
            let got = n.min(buf.len());
            if conn.format.data_digest {
                rx.crc.update(&buf[..got]);
            }
            if let Some(task) = self.tasks.get_mut(task) {
                task.write.give_back(at, buf);
            }
            rx.left = rx.left.saturating_sub(got as u32);
            rx.sink = Sink::Task { task, at: at + got as u32 };
            staged -= got;
        } else {
            rx.adapt(n, room);
        }
        let mut staging = batch.staging;
        staging.widen();
        rx.end = (rx.end + staged.min(room)).min(staging.len());
        rx.staging = Some(staging);
        if n == 0 {
            self.end_conn(cx, id, Ending::Lost);
            return;
        }
        conn.last_rx = cx.now;
        conn.pings = 0;
        self.pump(cx, id);
    }

    /// Looks at everything that was received.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        loop {
            let Some(conn) = self.conns.get_mut(id) else { return };
            if conn.phase == Phase::Closing || conn.rx.hold {
                return;
            }
            let more = match conn.rx.stage {
                Stage::Header => self.on_header(cx, id),
                Stage::Data => self.on_data(cx, id),
                Stage::Trailer => self.on_trailer(cx, id),
            };
            if !more {
                return;
            }
        }
    }

    fn on_header(&mut self, cx: &mut Cx<'_>, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let rx = &mut conn.rx;
        let Some(staging) = &rx.staging else { return false };
        let bytes = &staging[rx.start..rx.end];
        let Some(bhs) = bytes.first_chunk::<BHS_LEN>() else { return false };
        let frame = Frame::of(bhs);
        let digest = if conn.format.header_digest { DIGEST_LEN } else { 0 };
        let Some(header) = bytes.get(..frame.header_len() + digest) else { return false };
        let ahs = &header[BHS_LEN..frame.header_len()];
        let intact = digest == 0 || iscsi::digest::header(bhs, ahs) == header[frame.header_len()..];
        rx.bhs.0 = *bhs;
        rx.ahs.clear();
        rx.ahs.extend_from_slice(ahs);
        rx.start += header.len();
        conn.pdus_in += 1;
        if !intact {
            // The length cannot be trusted either: there is no next PDU to go on with (RFC 7143 7.8).
            self.count_digest_error(id);
            self.end_conn(cx, id, Ending::Protocol("header digest error"));
            return false;
        }
        rx.request = None;
        rx.sink = Sink::Discard;
        rx.arriving = None;
        rx.left = frame.data_len;
        rx.crc = Crc32c::new();
        rx.gathered = Vec::new();
        if frame.data_len > conn.max_recv_segment {
            self.count_format_error(id);
            self.end_conn(cx, id, Ending::Protocol("data segment longer than MaxRecvDataSegmentLength"));
            return false;
        }
        match conn.phase {
            Phase::Login => self.login_header(cx, id),
            Phase::Full => self.full_header(cx, id),
            Phase::Closing => return false,
        }
        let Some(conn) = self.conns.get_mut(id) else { return false };
        if frame.data_len > 0 {
            conn.rx.stage = Stage::Data;
        } else if conn.phase != Phase::Closing {
            self.on_pdu(cx, id, true);
        }
        true
    }

    fn on_data(&mut self, cx: &mut Cx<'_>, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let digest = conn.format.data_digest;
        let rx = &mut conn.rx;
        let Some(staging) = &rx.staging else { return false };
        let n = (rx.end - rx.start).min(rx.left as usize);
        if n > 0 {
            let bytes = &staging[rx.start..rx.start + n];
            if digest {
                rx.crc.update(bytes);
            }
            match &mut rx.sink {
                Sink::Gather => rx.gathered.extend_from_slice(bytes),
                Sink::Task { task, at } => {
                    if let Some(task) = self.tasks.get_mut(*task) {
                        task.write.store(cx.pool, *at, bytes);
                    }
                    *at += n as u32;
                }
                Sink::Discard => {}
            }
            rx.start += n;
            rx.left -= n as u32;
        }
        if rx.left == 0 {
            rx.stage = Stage::Trailer;
        }
        rx.left == 0
    }

    fn on_trailer(&mut self, cx: &mut Cx<'_>, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let digest = conn.format.data_digest;
        let rx = &mut conn.rx;
        let len = rx.trailer_len(digest);
        let pad = Frame::of(&rx.bhs.0).padding();
        let mut intact = true;
        if len > 0 {
            let Some(staging) = &rx.staging else { return false };
            let Some(trailer) = staging[rx.start..rx.end].get(..len) else { return false };
            if digest {
                rx.crc.update(&trailer[..pad]);
                intact = rx.crc.finish() == trailer[pad..];
            }
            rx.start += len;
        }
        rx.stage = Stage::Header;
        self.on_pdu(cx, id, intact);
        true
    }

    /// A whole PDU is here; `intact`: its data digest is right.
    fn on_pdu(&mut self, cx: &mut Cx<'_>, id: ConnId, intact: bool) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let data = std::mem::take(&mut conn.rx.gathered);
        let Some(request) = conn.rx.request.take() else { return };
        let sink = std::mem::take(&mut conn.rx.sink);
        if !intact {
            self.count_digest_error(id);
        }
        match self.conns.get(id).map(|c| c.phase) {
            Some(Phase::Login) => self.login_pdu(cx, id, &request, &data),
            Some(Phase::Full) => self.full_pdu(cx, id, request, sink, data, intact),
            _ => {}
        }
    }

    /// Lets the engine read a connection again that it was kept from.
    pub(crate) fn resume(&mut self, id: ConnId) {
        let limit = self.config.connection_tx_bytes_max / 2;
        if let Some(conn) = self.conns.get_mut(id)
            && conn.rx.paused
            && !conn.rx.hold
            && conn.tx.queued_bytes() <= limit
        {
            conn.rx.paused = false;
            self.actions.push_back(crate::Action::Resume(id));
        }
    }
}
