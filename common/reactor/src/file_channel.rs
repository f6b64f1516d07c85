//! One thread's channel to a [`crate::FileDevice`].
//!
//! Everything goes through the ring, with one exception. Where a file system has no buffered operation that must not
//! wait (ext4's writes, tmpfs), the ring hands it to a kernel thread, which costs four times what the copy into the page
//! cache costs. There the channel does a plain system call itself, for as long as such calls return at once: one that
//! took longer than [`INLINE_NS_MAX`] (dirty pages are being throttled, the journal commits) sends those of the next
//! [`INLINE_PAUSE`] through the ring.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::Mono;
use block::{Buf, Channel, Extent, ExtentState, IoError, IoErrorKind, Op, Request, check};
use io_uring::{opcode, squeue, types};

use crate::file::FileShared;
use crate::handle::Handle;
use crate::ring::{Offloaded, Ring, target};
use crate::slot::{FileOp, vector};
use crate::{Post, clock, offload};

/// A system call of the channel's own may take this long, nanoseconds.
const INLINE_NS_MAX: u64 = 1_000_000;
/// How long the ring is used after one took longer.
const INLINE_PAUSE: Duration = Duration::from_millis(100);
/// Zeroes written at a time where the file system cannot zero a range itself.
const ZEROES_BYTES: usize = 256 * 1024;
/// Extents that one [`Op::Map`] reports at most; what lies behind them is reported as mapped.
const EXTENTS_MAX: usize = 4096;
/// Vectors that one system call takes.
const VECTORS_MAX: usize = 1024;

/// The file as one ring sees it.
pub(crate) struct ChannelFile {
    pub shared: Arc<FileShared>,
    handle: Rc<Handle>,
}

pub(crate) struct FileChannel {
    ring: std::rc::Weak<Ring>,
    file: Rc<ChannelFile>,
    /// Until then the ring does everything.
    ring_until: Cell<Mono>,
}

impl FileChannel {
    pub fn new(ring: &Rc<Ring>, shared: Arc<FileShared>) -> Self {
        let handle = Handle::new(ring, Arc::clone(&shared.fd));
        FileChannel {
            ring: Rc::downgrade(ring),
            file: Rc::new(ChannelFile { shared, handle }),
            ring_until: Cell::new(Mono::ZERO),
        }
    }

    /// Does the first transfer of a read or write with a plain system call. Gives how many bytes it moved; none where
    /// the ring is to do it, also after an error, which then meets the ring's own handling.
    fn inline(&self, request: &mut Request) -> Option<u64> {
        let inline = self.file.shared.inline;
        let wanted = match request.op {
            Op::Read => inline.reads,
            Op::Write { fua } => inline.writes && !fua,
            _ => false,
        };
        if !wanted || request.bufs.len() > VECTORS_MAX {
            return None;
        }
        let began = clock::now();
        if began < self.ring_until.get() {
            return None;
        }
        let fd = &*self.file.shared.fd;
        let moved = match (request.op, &mut request.bufs[..]) {
            (Op::Read, [only]) => rustix::io::pread(fd, &mut only[..], request.offset),
            (Op::Read, many) => {
                let mut slices: Vec<IoSliceMut<'_>> = many.iter_mut().map(|b| IoSliceMut::new(b)).collect();
                rustix::io::preadv(fd, &mut slices, request.offset)
            }
            (_, [only]) => rustix::io::pwrite(fd, only, request.offset),
            (_, many) => {
                let slices: Vec<IoSlice<'_>> = many.iter().map(|b| IoSlice::new(b)).collect();
                rustix::io::pwritev(fd, &slices, request.offset)
            }
        };
        let ended = clock::now();
        if ended.since(began) > Duration::from_nanos(INLINE_NS_MAX) {
            self.ring_until.set(ended + INLINE_PAUSE);
        }
        moved.ok().map(|n| n as u64).filter(|&n| n > 0)
    }
}

impl Channel for FileChannel {
    fn submit(&self, mut request: Request) {
        let Some(ring) = self.ring.upgrade() else {
            // The thread's ring is gone, and with it everybody who could be told.
            request.abandon();
            return;
        };
        let shared = &self.file.shared;
        let checked = check(&request, &shared.geometry(), shared.features);
        let durable = matches!(request.op, Op::Flush | Op::Write { fua: true });
        if let Err(e) = checked {
            ring.completions().push(request, Err(e));
        } else if durable && shared.writes_in_doubt.load(Ordering::Acquire) {
            ring.completions().push(request, Err(IoErrorKind::Medium.into()));
        } else if request.len == 0 && !matches!(request.op, Op::Flush) {
            ring.completions().push(request, Ok(()));
        } else if matches!(request.op, Op::Map) {
            map(&ring, &self.file, request);
        } else {
            let done = self.inline(&mut request).unwrap_or(0);
            if done > 0 && done >= request.len {
                ring.completions().push(request, Ok(()));
                return;
            }
            let (vectors, bounce, file) = (Vec::new(), None, Rc::clone(&self.file));
            let op = FileOp { request, done, vectors, bounce, file };
            start(&ring, Box::new(op));
        }
    }
}

/// Prepares buffers and vectors for what is left of `op` and submits it.
fn start(ring: &Ring, mut op: Box<FileOp>) {
    let alignment = op.file.shared.alignment as usize;
    if alignment > 1 && matches!(op.request.op, Op::Read | Op::Write { .. }) {
        let aligned =
            |b: &Buf| (b.as_ptr() as usize).is_multiple_of(alignment) && b.len().is_multiple_of(alignment);
        if op.bounce.is_none() && !op.request.bufs.iter().all(aligned) {
            let mut bounce = ring.pool().get(op.request.len as usize);
            if matches!(op.request.op, Op::Write { .. }) {
                let mut at = 0;
                for b in &op.request.bufs {
                    bounce[at..at + b.len()].copy_from_slice(b);
                    at += b.len();
                }
            }
            op.bounce = Some(bounce);
        }
    }
    ring.submit_file(prepared(op));
}

/// Points the vectors at the bytes that are still to be done.
fn prepared(mut op: Box<FileOp>) -> Box<FileOp> {
    let mut vectors = std::mem::take(&mut op.vectors);
    vectors.clear();
    let bufs: &[Buf] = match &op.bounce {
        Some(b) => std::slice::from_ref(b),
        None => &op.request.bufs,
    };
    // A single whole buffer needs no vector: see `entry`.
    if bufs.len() > 1 {
        let mut skip = op.done as usize;
        for b in bufs {
            let from = skip.min(b.len());
            skip -= from;
            if from < b.len() && vectors.len() < VECTORS_MAX {
                vectors.push(vector(&b[from..]));
            }
        }
    }
    op.vectors = vectors;
    op
}

/// The submission for what is left of `op`.
pub(crate) fn entry(op: &FileOp) -> squeue::Entry {
    let (fd, by_slot) = target(&op.file.handle);
    build(fd, op).flags(by_slot)
}

fn build(fd: types::Fd, op: &FileOp) -> squeue::Entry {
    let request = &op.request;
    let offset = request.offset + op.done;
    let flags = if matches!(request.op, Op::Write { fua: true }) { libc::RWF_DSYNC } else { 0 };
    let single = match (&op.bounce, &request.bufs[..]) {
        (Some(b), _) => Some(&b[op.done as usize..]),
        (None, [b]) => Some(&b[op.done as usize..]),
        _ => None,
    };
    let (vectors, count) = (op.vectors.as_ptr(), op.vectors.len() as u32);
    match request.op {
        Op::Read => match single {
            Some(b) => opcode::Read::new(fd, b.as_ptr().cast_mut(), b.len() as u32).offset(offset).build(),
            None => opcode::Readv::new(fd, vectors, count).offset(offset).build(),
        },
        Op::Write { .. } => match single {
            Some(b) => {
                opcode::Write::new(fd, b.as_ptr(), b.len() as u32).offset(offset).rw_flags(flags).build()
            }
            None => opcode::Writev::new(fd, vectors, count).offset(offset).rw_flags(flags).build(),
        },
        Op::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Op::WriteZeroes { .. } if op.bounce.is_some() => {
            let b = single.unwrap_or(&[]);
            let len = (b.len() as u64).min(request.len - op.done) as u32;
            opcode::Write::new(fd, b.as_ptr(), len).offset(offset).build()
        }
        Op::Discard | Op::WriteZeroes { unmap: true } => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            opcode::Fallocate::new(fd, request.len).offset(offset).mode(mode).build()
        }
        Op::WriteZeroes { unmap: false } => {
            let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
            opcode::Fallocate::new(fd, request.len).offset(offset).mode(mode).build()
        }
        Op::Map => opcode::Nop::new().build(),
    }
}

/// Takes the kernel's result of `op`: done, failed, or to be continued.
pub(crate) fn completed(ring: &Ring, mut op: Box<FileOp>, result: i32) {
    let shared = Arc::clone(&op.file.shared);
    if result < 0 {
        if matches!(-result, libc::EINTR | libc::EAGAIN) {
            ring.submit_file(prepared(op));
        } else if zeroes_by_hand(&op, -result) {
            op.bounce = Some(ring.pool().get_zeroed(ZEROES_BYTES));
            ring.submit_file(op);
        } else {
            let error = error_of(&op, -result);
            if matches!(op.request.op, Op::Flush | Op::Write { fua: true })
                && error.kind != IoErrorKind::NoSpace
            {
                shared.writes_in_doubt.store(true, Ordering::Release);
            }
            finish(ring, op, Err(error));
        }
        return;
    }
    let moves_bytes = matches!(op.request.op, Op::Read | Op::Write { .. })
        || (matches!(op.request.op, Op::WriteZeroes { .. }) && op.bounce.is_some());
    if !moves_bytes {
        finish(ring, op, Ok(()));
        return;
    }
    if result == 0 {
        // The file was cut below the size that it had: nothing more can be read or written here.
        let at = op.request.offset + op.done;
        finish(ring, op, Err(IoError::at(IoErrorKind::Medium, at)));
        return;
    }
    op.done += result as u64;
    if op.done >= op.request.len {
        finish(ring, op, Ok(()));
    } else {
        ring.submit_file(prepared(op));
    }
}

fn zeroes_by_hand(op: &FileOp, errno: i32) -> bool {
    matches!(op.request.op, Op::WriteZeroes { .. })
        && op.bounce.is_none()
        && matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
}

fn finish(ring: &Ring, mut op: Box<FileOp>, result: Result<(), IoError>) {
    if let (Some(bounce), Op::Read) = (&op.bounce, op.request.op) {
        let mut at = 0;
        for b in &mut op.request.bufs {
            let n = b.len();
            b.copy_from_slice(&bounce[at..at + n]);
            at += n;
        }
    }
    let op = *op;
    ring.completions().push(op.request, result);
}

fn error_of(op: &FileOp, errno: i32) -> IoError {
    let kind = match errno {
        libc::EIO | libc::EREMOTEIO | libc::EILSEQ | libc::ENODATA => IoErrorKind::Medium,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => IoErrorKind::NoSpace,
        libc::EROFS | libc::EPERM => IoErrorKind::ReadOnly,
        libc::EOPNOTSUPP | libc::ENOSYS => IoErrorKind::Unsupported,
        libc::ENXIO | libc::ENODEV | libc::EBADF | libc::ESTALE => IoErrorKind::Gone,
        libc::ETIMEDOUT => IoErrorKind::TimedOut,
        libc::EBADE => IoErrorKind::ReservationConflict,
        libc::EINVAL => IoErrorKind::Misaligned,
        _ => IoErrorKind::Other,
    };
    IoError { kind, offset: Some(op.request.offset + op.done), errno: Some(errno) }
}

/// Asks the file system on the blocking lane what is mapped.
fn map(ring: &Rc<Ring>, file: &ChannelFile, mut request: Request) {
    let (offset, len) = (request.offset, request.len);
    if !file.shared.features.maps {
        request.extents = vec![Extent { offset, len, state: ExtentState::Mapped }];
        ring.completions().push(request, Ok(()));
        return;
    }
    let fd = Arc::clone(&file.shared.fd);
    let (key, post) = ring.park(request);
    let job = move || {
        let extents = extents(&*fd, offset, len);
        // Without room in the mailbox the ring is gone or hopelessly behind: the request is abandoned with it.
        let _ = post.map(|p: Post<Offloaded>| p.send(Offloaded { key, extents }));
    };
    if !offload::run(Box::new(job))
        && let Some(request) = ring.unpark(key)
    {
        ring.completions().push(request, Err(IoErrorKind::Other.into()));
    }
}

fn extents(fd: impl std::os::fd::AsFd, offset: u64, len: u64) -> Result<Vec<Extent>, IoError> {
    use rustix::fs::{SeekFrom, seek};
    let end = offset + len;
    let mut found: Vec<Extent> = Vec::new();
    let mut at = offset;
    while at < end {
        if found.len() >= EXTENTS_MAX {
            found.push(Extent { offset: at, len: end - at, state: ExtentState::Mapped });
            break;
        }
        let data = match seek(&fd, SeekFrom::Data(at)) {
            Ok(d) => d.min(end),
            // No data from here to the end of the file.
            Err(e) if e == rustix::io::Errno::NXIO => end,
            Err(e) => {
                return Err(IoError { errno: Some(e.raw_os_error()), ..IoError::new(IoErrorKind::Other) });
            }
        };
        if data > at {
            found.push(Extent { offset: at, len: data - at, state: ExtentState::Hole });
            at = data;
            continue;
        }
        let hole = seek(&fd, SeekFrom::Hole(at)).map_or(end, |h| h.clamp(at + 1, end));
        found.push(Extent { offset: at, len: hole - at, state: ExtentState::Mapped });
        at = hole;
    }
    Ok(found)
}
