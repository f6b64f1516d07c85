//! What an operation owns while the kernel works on it.

use std::rc::Rc;

use block::{Buf, Request};
use smallvec::SmallVec;

use crate::Handle;

/// Buffers of one receive, filled in order.
pub type ReceiveBufs = SmallVec<[Buf; 2]>;

/// What one send is gathered from.
#[derive(Debug, Default)]
pub struct Gather {
    /// An arena of headers.
    pub headers: Vec<u8>,
    /// Payloads.
    pub bufs: Vec<Buf>,
}

/// One piece of a send, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `len` bytes of the headers from `start` on.
    Header {
        /// First byte.
        start: u32,
        /// Bytes.
        len: u32,
    },
    /// `len` bytes of payload `index` from `start` on.
    Buf {
        /// Which payload.
        index: u32,
        /// First byte.
        start: u32,
        /// Bytes.
        len: u32,
    },
}

impl Gather {
    /// The bytes of `part`, or none where it lies outside.
    pub fn bytes(&self, part: Part) -> Option<&[u8]> {
        let (from, start, len) = match part {
            Part::Header { start, len } => (&self.headers[..], start, len),
            Part::Buf { index, start, len } => (&self.bufs.get(index as usize)?[..], start, len),
        };
        let start = start as usize;
        from.get(start..start.checked_add(len as usize)?)
    }
}

/// A message header with its vectors, at an address that stays.
pub(crate) struct Message {
    pub header: libc::msghdr,
    pub vectors: Vec<libc::iovec>,
}

impl Message {
    pub fn new() -> Box<Self> {
        // SAFETY: msghdr is a plain C struct for which all zeroes (null pointers, zero lengths) is a valid value.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message { header, vectors: Vec::new() })
    }

    /// Points the header at the vectors; call after the last change of `vectors`.
    pub fn seal(&mut self) {
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len() as _;
    }
}

pub(crate) fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// A file request on its way, with what is needed to go on after a short transfer.
pub(crate) struct FileOp {
    pub request: Request,
    /// Bytes done so far.
    pub done: u64,
    pub vectors: Vec<libc::iovec>,
    /// An aligned copy that stands in for buffers a direct file would refuse.
    pub bounce: Option<Buf>,
    pub file: Rc<crate::file_channel::ChannelFile>,
}

/// What a slot of the ring's table holds. The fields that are never read keep memory and files alive.
pub(crate) enum Slot {
    Accept {
        token: u64,
        _handle: Rc<Handle>,
    },
    Receive {
        token: u64,
        bufs: ReceiveBufs,
        message: Option<Box<Message>>,
        _handle: Rc<Handle>,
    },
    Send {
        token: u64,
        gather: Gather,
        message: Box<Message>,
        _handle: Rc<Handle>,
    },
    File(Box<FileOp>),
    /// The read of the wake-up counter.
    Wake {
        _counter: Box<[u8; 8]>,
    },
    /// A cancellation of everything, while the ring is dropped.
    Cancel,
}
