//! The little of io_uring that both ends of the bench need: one ring, one thread, registered sockets and file.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::squeue::Flags;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

/// A ring of one thread.
pub struct Ring {
    ring: IoUring,
    spin: Duration,
}

impl Ring {
    /// A ring with room for `entries` submissions. It spins for `spin` before it sleeps.
    pub fn new(entries: u32, spin: Duration) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(entries * 4)
            .build(entries)?;
        Ok(Ring { ring, spin })
    }

    /// Registers these descriptors; requests name them by their place.
    pub fn register(&self, fds: &[RawFd]) -> io::Result<()> {
        self.ring.submitter().register_files(fds)
    }

    /// Queues a submission, submitting first where there is no room.
    ///
    /// # Safety
    /// What the entry points to must stay where it is, and unused, until its completion.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller keeps what the entry points to.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Submits what is queued and waits until a completion is there; at most until `until`, where given.
    pub fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        if !self.spin.is_zero() {
            let end = Instant::now() + self.spin;
            loop {
                // With deferred task work the kernel completes only inside an enter that asks for events.
                self.enter(0)?;
                if !self.ring.completion().is_empty() {
                    return Ok(());
                }
                if Instant::now() >= end {
                    break;
                }
            }
        }
        match until {
            None => self.ring.submit_and_wait(1).map(drop),
            Some(at) => {
                let left = types::Timespec::from(at.saturating_duration_since(Instant::now()));
                let args = types::SubmitArgs::new().timespec(&left);
                match self.ring.submitter().submit_with_args(1, &args) {
                    Err(e) if e.raw_os_error() == Some(libc::ETIME) => Ok(()),
                    other => other.map(drop),
                }
            }
        }
        .or_else(|e| if e.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(e) })
    }

    fn enter(&mut self, want: u32) -> io::Result<()> {
        let n = {
            let mut queue = self.ring.submission();
            queue.sync();
            queue.len() as u32
        };
        // SAFETY: no argument is passed; what the queued entries point to is kept by those who pushed them.
        unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(n, want, 1 /* IORING_ENTER_GETEVENTS */, None)
        }
        .map(drop)
    }

    /// The next completion: its user data, its result and its flags.
    pub fn next(&mut self) -> Option<(u64, i32, u32)> {
        self.ring.completion().next().map(|c: cqueue::Entry| (c.user_data(), c.result(), c.flags()))
    }
}

/// A receive on registered file `file`.
pub fn recv(file: u32, to: &mut [u8], flags: i32, user_data: u64) -> squeue::Entry {
    let len = u32::try_from(to.len()).unwrap_or(u32::MAX);
    opcode::Recv::new(types::Fixed(file), to.as_mut_ptr(), len)
        .flags(flags)
        .ioprio(1)
        .build()
        .user_data(user_data)
}

/// A sendmsg on registered file `file` that sends everything.
pub fn sendmsg(file: u32, message: &libc::msghdr, user_data: u64) -> squeue::Entry {
    opcode::SendMsg::new(types::Fixed(file), message)
        .flags((libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32)
        .build()
        .user_data(user_data)
}

/// A read of registered file `file`.
pub fn read(file: u32, to: &mut [u8], offset: u64, user_data: u64) -> squeue::Entry {
    let len = u32::try_from(to.len()).unwrap_or(u32::MAX);
    opcode::Read::new(types::Fixed(file), to.as_mut_ptr(), len)
        .offset(offset)
        .build()
        .flags(Flags::empty())
        .user_data(user_data)
}

/// Messages of a send, kept until it is complete.
pub struct Message {
    iovecs: Vec<libc::iovec>,
    header: Box<libc::msghdr>,
}

impl Default for Message {
    fn default() -> Self {
        // SAFETY: a msghdr of zeroes is a valid empty message.
        Message { iovecs: Vec::new(), header: Box::new(unsafe { std::mem::zeroed() }) }
    }
}

impl Message {
    /// Forgets what it named.
    pub fn clear(&mut self) {
        self.iovecs.clear();
    }

    /// Adds bytes, which must stay until the send is complete.
    pub fn add(&mut self, bytes: &[u8]) {
        self.iovecs.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
    }

    /// How many pieces it has.
    pub fn len(&self) -> usize {
        self.iovecs.len()
    }

    /// The header that names them all.
    pub fn header(&mut self) -> &libc::msghdr {
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len();
        &self.header
    }
}
