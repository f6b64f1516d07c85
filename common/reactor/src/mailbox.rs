//! Mail from other threads: bounded queues whose arrival wakes the ring.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Ring;

/// The wake-up counter of a ring: one for all of its mailboxes.
#[derive(Debug)]
pub(crate) struct Wake {
    pub fd: OwnedFd,
    pending: AtomicBool,
}

impl Wake {
    pub fn new() -> std::io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        Ok(Wake { fd: rustix::event::eventfd(0, flags)?, pending: AtomicBool::new(false) })
    }

    /// Wakes the ring, with at most one system call between two looks at the mail.
    pub fn notify(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow: one is added per look at the mail.
            let _ = rustix::io::write(self.fd.as_fd(), &1u64.to_ne_bytes());
        }
    }

    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    pub fn clear(&self) {
        self.pending.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<VecDeque<T>>,
    capacity: usize,
    wake: Arc<Wake>,
}

impl<T> Shared<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end; belongs to a ring's thread.
#[derive(Debug)]
pub struct Mailbox<T>(Arc<Shared<T>>);

/// The sending end; any thread may hold it.
#[derive(Debug)]
pub struct Post<T>(Arc<Shared<T>>);

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Post(Arc::clone(&self.0))
    }
}

/// The mailbox is full; the mail comes back.
pub struct MailboxFull<T>(pub T);

impl<T> fmt::Debug for MailboxFull<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mailbox is full")
    }
}

impl<T> Mailbox<T> {
    /// A mailbox of `ring` for at most `capacity` pieces. [`crate::Event::Woken`] says that there may be mail.
    pub fn new(ring: &Ring, capacity: usize) -> Self {
        Mailbox(Arc::new(Shared { queue: Mutex::default(), capacity, wake: Arc::clone(ring.wake()) }))
    }

    /// A sending end.
    pub fn post(&self) -> Post<T> {
        Post(Arc::clone(&self.0))
    }

    /// The oldest piece of mail.
    pub fn take(&self) -> Option<T> {
        self.0.lock().pop_front()
    }
}

impl<T> Post<T> {
    /// Puts `mail` into the box and wakes its owner.
    pub fn send(&self, mail: T) -> Result<(), MailboxFull<T>> {
        {
            let mut queue = self.0.lock();
            if queue.len() >= self.0.capacity {
                return Err(MailboxFull(mail));
            }
            queue.push_back(mail);
        }
        self.0.wake.notify();
        Ok(())
    }
}
