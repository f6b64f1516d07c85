//! The request: an owned object with its buffers and the frames of those who wait for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::{Buf, IoError};

/// The buffers of a request, in the order of the bytes on the device.
pub type Bufs = SmallVec<[Buf; 1]>;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill the buffers from `offset`.
    Read,
    /// Write the buffers at `offset`; with `fua`, on the medium before completion.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Put every write that was completed before on the medium.
    Flush,
    /// The bytes are no longer needed; they read as zeroes or as before, and their space may be freed.
    Discard,
    /// The bytes read as zeroes afterwards; with `unmap` their space is freed where the device can.
    WriteZeroes {
        /// Free the space where that still reads as zeroes.
        unmap: bool,
    },
    /// Report in `extents` what is mapped from `offset` on, for at most `len` bytes.
    Map,
}

/// Whether an extent has space behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Data are stored.
    Mapped,
    /// Nothing is stored; the bytes read as zeroes.
    Hole,
}

/// A run of bytes of one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
    /// Its state.
    pub state: ExtentState,
}

/// Somebody who waits for a request.
pub trait Complete {
    /// Takes the request back. `token` is what was given with the frame; `request.result` says how it went.
    fn complete(&self, token: u64, request: Request);
}

struct Frame {
    to: Rc<dyn Complete>,
    token: u64,
}

/// One operation on a device.
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First byte on the device.
    pub offset: u64,
    /// Length, bytes; for reads and writes the sum of the buffers' lengths.
    pub len: u64,
    /// The data; untouched by operations without data.
    pub bufs: Bufs,
    /// The outcome, once completed.
    pub result: Result<(), IoError>,
    /// The answer of [`Op::Map`].
    pub extents: Vec<Extent>,
    frames: Frames,
}

/// Those who wait for a request; the last is told first.
#[derive(Default)]
struct Frames(SmallVec<[Frame; 2]>);

impl Drop for Frames {
    fn drop(&mut self) {
        debug_assert!(
            self.0.is_empty() || std::thread::panicking(),
            "a request was dropped without completion"
        );
    }
}

impl Request {
    /// A request for `op` on `len` bytes at `offset`, without buffers.
    pub fn new(op: Op, offset: u64, len: u64) -> Self {
        Request {
            op,
            offset,
            len,
            bufs: Bufs::new(),
            result: Ok(()),
            extents: Vec::new(),
            frames: Frames::default(),
        }
    }

    /// A read into `bufs`.
    pub fn read(offset: u64, bufs: Bufs) -> Self {
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        Request { bufs, ..Request::new(Op::Read, offset, len) }
    }

    /// A write of `bufs`.
    pub fn write(offset: u64, bufs: Bufs, fua: bool) -> Self {
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        Request { bufs, ..Request::new(Op::Write { fua }, offset, len) }
    }

    /// A flush.
    pub fn flush() -> Self {
        Request::new(Op::Flush, 0, 0)
    }

    /// Adds somebody to be told before those who are there already.
    pub fn push_frame(&mut self, to: Rc<dyn Complete>, token: u64) {
        self.frames.0.push(Frame { to, token });
    }

    /// Hands the request to whoever pushed the last frame; with no frame left it is dropped.
    pub fn complete(mut self, result: Result<(), IoError>) {
        self.result = result;
        self.run();
    }

    /// The first byte after the request, if it does not overflow.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    fn run(mut self) {
        if let Some(Frame { to, token }) = self.frames.0.pop() {
            to.complete(token, self);
        }
    }

    /// Gives the request up without telling anybody: for a thread that stops.
    pub fn abandon(mut self) {
        self.frames.0.clear();
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?} {}+{}, {:?})", self.op, self.offset, self.len, self.result)
    }
}

/// Requests that finished but were not handed back yet. Cloning gives another handle on the same queue.
#[derive(Clone, Default)]
pub struct CompletionQueue(Rc<RefCell<VecDeque<Request>>>);

impl CompletionQueue {
    /// Queues `request`, finished with `result`.
    pub fn push(&self, mut request: Request, result: Result<(), IoError>) {
        request.result = result;
        self.0.borrow_mut().push_back(request);
    }

    /// Hands back everything that is queued, and what gets queued meanwhile; returns how many there were.
    pub fn run(&self) -> usize {
        let mut n = 0;
        loop {
            let Some(request) = self.0.borrow_mut().pop_front() else { return n };
            n += 1;
            request.run();
        }
    }

    /// Gives everything that is queued up without telling anybody: for a simulated thread that was killed.
    pub fn abandon(&self) {
        std::mem::take(&mut *self.0.borrow_mut()).into_iter().for_each(Request::abandon);
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}
