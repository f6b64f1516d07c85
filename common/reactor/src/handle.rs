//! An open file or socket that a ring works on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::ring::{FileTable, Ring};

/// A descriptor registered with a ring's file table where there was room, so that an operation on it takes no reference.
/// Operations in flight keep their handle, so a number is never reused under them.
pub struct Handle {
    fd: Arc<OwnedFd>,
    slot: Option<u32>,
    table: Weak<FileTable>,
}

impl Handle {
    /// Registers `fd` with `ring`.
    pub fn new(ring: &Ring, fd: impl Into<Arc<OwnedFd>>) -> Rc<Handle> {
        let fd = fd.into();
        let table = ring.file_table();
        let slot = table.insert(fd.as_raw_fd());
        Rc::new(Handle { fd, slot, table: Rc::downgrade(table) })
    }

    /// The descriptor, to be moved to another thread's ring.
    pub fn share(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let (Some(slot), Some(table)) = (self.slot, self.table.upgrade()) {
            table.remove(slot);
        }
    }
}
