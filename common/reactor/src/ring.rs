//! The ring: submission, waiting, and handing out what completed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::Mono;
use block::{ChannelContext, CompletionQueue, Pool};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use crate::clock;
use crate::handle::Handle;
use crate::mailbox::{Mailbox, Wake};
use crate::slot::{FileOp, Gather, Message, Part, ReceiveBufs, Slot, vector};

/// Longest time that a thread spins for work before it sleeps, nanoseconds.
pub const SPIN_NS_MAX: u64 = 50_000;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
/// Message headers kept for reuse.
const SPARE_MESSAGES_MAX: usize = 1024;
/// Looks at the completion queue between two looks at the clock while spinning.
const SPIN_LOOKS: u32 = 32;

/// Something that happened on a socket or in the mail.
#[derive(Debug)]
pub enum Event {
    /// A listening socket took a connection, or failed to.
    Accepted {
        /// As given with the operation.
        token: u64,
        /// The new socket.
        result: io::Result<OwnedFd>,
    },
    /// A receive ended; 0 bytes are the end of the stream.
    Received {
        /// As given with the operation.
        token: u64,
        /// The buffers, as given.
        bufs: ReceiveBufs,
        /// Bytes received over all buffers.
        result: io::Result<usize>,
    },
    /// A send ended, perhaps before its last byte.
    Sent {
        /// As given with the operation.
        token: u64,
        /// What was sent from.
        gather: Gather,
        /// Bytes sent.
        result: io::Result<usize>,
    },
    /// There may be mail.
    Woken,
}

/// The ring's table of registered files.
pub(crate) struct FileTable {
    ring: Rc<RefCell<IoUring>>,
    free: RefCell<Vec<u32>>,
}

impl FileTable {
    pub fn insert(&self, fd: RawFd) -> Option<u32> {
        let slot = self.free.borrow_mut().pop()?;
        match self.ring.borrow().submitter().register_files_update(slot, &[fd]) {
            Ok(_) => Some(slot),
            Err(_) => {
                self.free.borrow_mut().push(slot);
                None
            }
        }
    }

    pub fn remove(&self, slot: u32) {
        if self.ring.borrow().submitter().register_files_update(slot, &[-1]).is_ok() {
            self.free.borrow_mut().push(slot);
        }
    }
}

/// A map or other job that left the ring's thread and came back.
pub(crate) struct Offloaded {
    pub key: u64,
    pub extents: Result<Vec<block::Extent>, block::IoError>,
}

/// One thread's io_uring. It is not `Send`: whoever makes it uses it.
pub struct Ring {
    ring: Rc<RefCell<IoUring>>,
    slots: RefCell<Slab<Slot>>,
    overflow: RefCell<VecDeque<squeue::Entry>>,
    events: RefCell<VecDeque<Event>>,
    context: ChannelContext,
    files: Rc<FileTable>,
    wake: Arc<Wake>,
    // Boxed, since the kernel keeps the address of a header while its slot may move in the table.
    #[allow(clippy::vec_box)]
    spare: RefCell<Vec<Box<Message>>>,
    gap_ns: Cell<u64>,
    spins: Cell<bool>,
    offloaded: RefCell<Option<Mailbox<Offloaded>>>,
    parked: RefCell<Slab<block::Request>>,
}

impl Ring {
    /// A ring for the calling thread. Fails where the kernel has no io_uring or forbids it.
    pub fn new() -> io::Result<Rc<Ring>> {
        let ring = Rc::new(RefCell::new(build()?));
        let table_size = file_table_size();
        let free = match ring.borrow().submitter().register_files_sparse(table_size) {
            Ok(()) => (0..table_size).rev().collect(),
            Err(_) => Vec::new(),
        };
        let files = Rc::new(FileTable { ring: Rc::clone(&ring), free: RefCell::new(free) });
        let context =
            ChannelContext { completions: CompletionQueue::default(), pool: Pool::default(), host: None };
        let this = Rc::new(Ring {
            ring,
            slots: RefCell::default(),
            overflow: RefCell::default(),
            events: RefCell::default(),
            context,
            files,
            wake: Arc::new(Wake::new()?),
            spare: RefCell::default(),
            gap_ns: Cell::new(u64::MAX),
            spins: Cell::new(true),
            offloaded: RefCell::default(),
            parked: RefCell::default(),
        });
        *this.offloaded.borrow_mut() = Some(Mailbox::new(&this, base::limits::MAILBOX_MAX));
        this.arm_wake();
        Ok(this)
    }

    /// What block channels of this thread are opened with.
    pub fn channel_context(self: &Rc<Self>) -> ChannelContext {
        let host: Rc<dyn std::any::Any> = Rc::clone(self) as _;
        ChannelContext { host: Some(host), ..self.context.clone() }
    }

    /// The thread's buffers.
    pub fn pool(&self) -> &Pool {
        &self.context.pool
    }

    /// Finished block requests; the engine runs it once a turn.
    pub fn completions(&self) -> &CompletionQueue {
        &self.context.completions
    }

    /// Whether the thread may spin before it sleeps (it may by default).
    pub fn set_spins(&self, spins: bool) {
        self.spins.set(spins);
    }

    pub(crate) fn file_table(&self) -> &Rc<FileTable> {
        &self.files
    }

    pub(crate) fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// Takes the next connection of a listening socket.
    pub fn accept(&self, handle: &Rc<Handle>, token: u64) {
        let (fd, flags) = target(handle);
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .flags(flags);
        self.push(entry, Slot::Accept { token, _handle: Rc::clone(handle) });
    }

    /// Receives into `bufs`, in order, what there is. An empty `bufs` or buffer of no length is a caller's mistake that
    /// reads as the end of the stream.
    pub fn receive(&self, handle: &Rc<Handle>, token: u64, mut bufs: ReceiveBufs) {
        if let [only] = &mut bufs[..] {
            let (at, len) = (only.as_mut_ptr(), only.len() as u32);
            let (fd, flags) = target(handle);
            let entry = opcode::Recv::new(fd, at, len).build().flags(flags);
            self.push(entry, Slot::Receive { token, bufs, message: None, _handle: Rc::clone(handle) });
            return;
        }
        let mut message = self.message();
        message.vectors.extend(bufs.iter_mut().map(|b| vector(b)));
        message.seal();
        let header: *mut libc::msghdr = &raw mut message.header;
        let (fd, flags) = target(handle);
        let entry = opcode::RecvMsg::new(fd, header).build().flags(flags);
        self.push(entry, Slot::Receive { token, bufs, message: Some(message), _handle: Rc::clone(handle) });
    }

    /// Sends `parts` of `gather` in one message. Parts outside of `gather` are left out (and asserted in debug).
    pub fn send(&self, handle: &Rc<Handle>, token: u64, gather: Gather, parts: impl Iterator<Item = Part>) {
        let mut message = self.message();
        for part in parts {
            let bytes = gather.bytes(part);
            debug_assert!(bytes.is_some(), "{part:?} lies outside of what is sent");
            message.vectors.extend(bytes.map(vector));
        }
        message.seal();
        let header: *const libc::msghdr = &raw const message.header;
        let (fd, flags) = target(handle);
        let entry = opcode::SendMsg::new(fd, header).flags(libc::MSG_NOSIGNAL as u32).build().flags(flags);
        self.push(entry, Slot::Send { token, gather, message, _handle: Rc::clone(handle) });
    }

    pub(crate) fn submit_file(&self, op: Box<FileOp>) {
        let entry = crate::file_channel::entry(&op);
        self.push(entry, Slot::File(op));
    }

    /// Parks a request whose job runs on the blocking lane; [`Offloaded`] with its key brings it back.
    pub(crate) fn park(&self, request: block::Request) -> (u64, Option<crate::Post<Offloaded>>) {
        let key = self.parked.borrow_mut().insert(request) as u64;
        (key, self.offloaded.borrow().as_ref().map(Mailbox::post))
    }

    pub(crate) fn unpark(&self, key: u64) -> Option<block::Request> {
        self.parked.borrow_mut().try_remove(key as usize)
    }

    /// The next thing that happened.
    pub fn next_event(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    /// Submits what was queued, waits until something completes or `until` is reached, and takes what completed. Does
    /// not wait where block requests or events are already at hand.
    pub fn turn(&self, until: Mono) -> io::Result<()> {
        let busy = !self.context.completions.is_empty() || !self.events.borrow().is_empty();
        self.flush_overflow();
        self.submit(0, None)?;
        if self.reap() > 0 || busy {
            return Ok(());
        }
        if until == Mono::ZERO {
            return Ok(());
        }
        self.wait(until)?;
        self.reap();
        Ok(())
    }

    fn wait(&self, until: Mono) -> io::Result<()> {
        let began = clock::now();
        if self.spins.get() && self.gap_ns.get() < SPIN_NS_MAX && self.spin(began)? {
            self.note_gap(clock::now().since(began));
            return Ok(());
        }
        let timeout = until.since(clock::now());
        if !timeout.is_zero() {
            self.submit(1, Some(timeout))?;
        }
        self.note_gap(clock::now().since(began));
        Ok(())
    }

    /// A moving average of how long work was waited for: spinning pays only where gaps are short.
    fn note_gap(&self, gap: Duration) {
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX).min(SPIN_NS_MAX * 8);
        let old = self.gap_ns.get().min(SPIN_NS_MAX * 8);
        self.gap_ns.set((old * 7 + gap) / 8);
    }

    fn spin(&self, began: Mono) -> io::Result<bool> {
        loop {
            for _ in 0..SPIN_LOOKS {
                let mut ring = self.ring.borrow_mut();
                if !ring.completion().is_empty() || ring.submission().taskrun() {
                    drop(ring);
                    self.submit(0, None)?;
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            if self.wake.is_pending() {
                return Ok(false);
            }
            if clock::now().since(began) > Duration::from_nanos(SPIN_NS_MAX) {
                return Ok(false);
            }
        }
    }

    /// Enters the kernel: submits, runs pending task work, waits for `want` completions at most `timeout` long.
    fn submit(&self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        let ring = self.ring.borrow();
        let submitter = ring.submitter();
        let result = match timeout {
            Some(t) => {
                let spec = types::Timespec::new().sec(t.as_secs()).nsec(t.subsec_nanos());
                submitter.submit_with_args(want, &types::SubmitArgs::new().timespec(&spec))
            }
            None => {
                drop(ring);
                return self.enter();
            }
        };
        quiet(result)
    }

    /// Submits without waiting; skips the system call where there is nothing to submit and no task work to run.
    fn enter(&self) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        let (queued, taskrun) = {
            let submission = ring.submission();
            (submission.len(), submission.taskrun())
        };
        if queued == 0 && !taskrun {
            return Ok(());
        }
        const GETEVENTS: u32 = 1;
        // SAFETY: no argument struct is passed (null, size 0 by the `()` type), `queued` entries were written through the
        // safe queue, and each entry's buffers are owned by a slot until its completion was taken.
        quiet(unsafe { ring.submitter().enter::<()>(queued as u32, 0, GETEVENTS, None) })
    }

    /// Takes completions; returns how many.
    fn reap(&self) -> usize {
        let mut n = 0;
        loop {
            let Some(entry) = self.ring.borrow_mut().completion().next() else { return n };
            n += 1;
            self.completed(&entry);
        }
    }

    fn completed(&self, entry: &cqueue::Entry) {
        let slot = self.slots.borrow_mut().remove(entry.user_data() as usize);
        let result = entry.result();
        match slot {
            Slot::Accept { token, _handle } => {
                // SAFETY: a non-negative result of an accept is a new descriptor that nobody else owns.
                let result = check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                self.events.borrow_mut().push_back(Event::Accepted { token, result });
            }
            Slot::Receive { token, bufs, message, _handle } => {
                self.recycle(message);
                let result = check(result).map(|n| n as usize);
                self.events.borrow_mut().push_back(Event::Received { token, bufs, result });
            }
            Slot::Send { token, gather, message, _handle } => {
                self.recycle(Some(message));
                let result = check(result).map(|n| n as usize);
                self.events.borrow_mut().push_back(Event::Sent { token, gather, result });
            }
            Slot::File(op) => crate::file_channel::completed(self, op, result),
            Slot::Wake { .. } => {
                self.wake.clear();
                self.arm_wake();
                self.take_offloaded();
                self.events.borrow_mut().push_back(Event::Woken);
            }
            Slot::Cancel => {}
        }
    }

    fn take_offloaded(&self) {
        let mailbox = self.offloaded.borrow();
        let Some(mailbox) = mailbox.as_ref() else { return };
        while let Some(done) = mailbox.take() {
            if let Some(mut request) = self.unpark(done.key) {
                let result = done.extents.map(|e| request.extents = e);
                self.context.completions.push(request, result);
            }
        }
    }

    fn arm_wake(&self) {
        let mut buffer = Box::new([0u8; 8]);
        let entry = opcode::Read::new(types::Fd(self.wake.fd.as_raw_fd()), buffer.as_mut_ptr(), 8)
            .offset(u64::MAX)
            .build();
        self.push(entry, Slot::Wake { _counter: buffer });
    }

    /// Queues `entry`, whose memory `slot` owns.
    fn push(&self, entry: squeue::Entry, slot: Slot) {
        let key = self.slots.borrow_mut().insert(slot) as u64;
        let entry = entry.user_data(key);
        let mut overflow = self.overflow.borrow_mut();
        if !overflow.is_empty() {
            overflow.push_back(entry);
            return;
        }
        let mut ring = self.ring.borrow_mut();
        // SAFETY: the entry's buffers, vectors, header and file are owned by `slot`, which stays in the table at heap
        // addresses that do not move until the completion with this key was taken.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            overflow.push_back(entry);
        }
    }

    fn flush_overflow(&self) {
        let mut overflow = self.overflow.borrow_mut();
        while let Some(entry) = overflow.front() {
            let mut ring = self.ring.borrow_mut();
            // SAFETY: as in `push`: the slot of this entry is in the table.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                overflow.pop_front();
                continue;
            }
            if ring.submit().is_err() {
                return;
            }
        }
    }

    fn message(&self) -> Box<Message> {
        self.spare.borrow_mut().pop().unwrap_or_else(Message::new)
    }

    fn recycle(&self, message: Option<Box<Message>>) {
        if let Some(mut m) = message {
            let mut spare = self.spare.borrow_mut();
            if spare.len() < SPARE_MESSAGES_MAX {
                m.vectors.clear();
                spare.push(m);
            }
        }
    }
}

impl Drop for Ring {
    /// Cancels everything and waits for it: the kernel must not write into freed memory.
    fn drop(&mut self) {
        self.flush_overflow();
        self.push(opcode::AsyncCancel2::new(types::CancelBuilder::any()).build(), Slot::Cancel);
        let mut last = self.slots.borrow().len();
        let mut idle = 0;
        while !self.slots.borrow().is_empty() {
            let _ = self.submit(1, Some(Duration::from_millis(100)));
            loop {
                let Some(entry) = self.ring.borrow_mut().completion().next() else { break };
                let slot = self.slots.borrow_mut().remove(entry.user_data() as usize);
                if let Slot::File(op) = slot {
                    op.request.abandon();
                }
            }
            let now = self.slots.borrow().len();
            idle = if now == last { idle + 1 } else { 0 };
            last = now;
            if idle > 50 {
                // An operation that the kernel neither finishes nor cancels keeps its memory for ever.
                for slot in self.slots.borrow_mut().drain() {
                    let _ = std::mem::ManuallyDrop::new(slot);
                }
                return;
            }
        }
        for request in self.parked.borrow_mut().drain() {
            request.abandon();
        }
        // The kernel takes a closed ring apart in its own time, and would keep registered files open until then.
        let _ = self.ring.borrow().submitter().unregister_files();
    }
}

/// How an operation names its file: by its place in the ring's table, or by its number.
pub(crate) fn target(handle: &Handle) -> (types::Fd, squeue::Flags) {
    match handle.slot() {
        Some(slot) => (types::Fd(slot as RawFd), squeue::Flags::FIXED_FILE),
        None => (types::Fd(handle.raw()), squeue::Flags::empty()),
    }
}

fn build() -> io::Result<IoUring> {
    let best = IoUring::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS);
    // Kernels before 6.1 know neither a single issuer nor deferred task work.
    best.or_else(|_| {
        IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(SUBMISSIONS)
    })
    .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS))
}

/// Half of the descriptors that the process may open, within reason.
fn file_table_size() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024);
    (limit / 2).clamp(16, 16 * 1024) as u32
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// An interrupted wait, a timeout and a busy completion queue are no errors: the caller looks at what completed.
fn quiet(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(e)
            if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)) =>
        {
            Ok(())
        }
        Err(e) => Err(e),
    }
}
