//! Page-aligned buffers with an owner, and the per-thread pool they come from and go back to.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Alignment and granularity of buffers, bytes: enough for O_DIRECT on every device of today.
pub const PAGE_BYTES: usize = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// An owned, page-aligned run of bytes. Dropping it gives its memory back to the pool it came from.
///
/// A pooled buffer's bytes are whatever its last user left there: whoever hands them on fills them first.
pub struct Buf {
    pages: Vec<Page>,
    start: usize,
    len: usize,
    home: Option<Rc<Shelves>>,
}

impl Buf {
    /// A zeroed buffer of `len` bytes that belongs to no pool.
    pub fn zeroed(len: usize) -> Self {
        Buf { pages: new_pages(len.div_ceil(PAGE_BYTES)), start: 0, len, home: None }
    }

    /// A buffer with a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut b = Self::zeroed(bytes.len());
        b.copy_from_slice(bytes);
        b
    }

    /// Keeps the first `len` bytes; a `len` beyond the current length changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Drops the first `n` bytes (at most all) from view.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len);
        self.start += n;
        self.len -= n;
    }

    /// Narrows the view to `range` of the current view.
    ///
    /// # Panics
    /// If the range does not lie within the current view.
    pub fn narrow(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the buffer");
        self.start += range.start;
        self.len = range.end - range.start;
    }

    /// Undoes every narrowing: the whole of the buffer's memory is in view again.
    pub fn widen(&mut self) {
        self.start = 0;
        self.len = self.capacity();
    }

    /// Bytes of memory behind the buffer.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE_BYTES
    }
}

fn new_pages(n: usize) -> Vec<Page> {
    // An allocation failure of a few pages has no better answer than the allocator's own.
    Page::new_vec_zeroed(n)
        .unwrap_or_else(|_| std::alloc::handle_alloc_error(std::alloc::Layout::new::<Page>()))
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.pages.as_bytes()[self.start..self.start + self.len]
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_bytes()[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.put(std::mem::take(&mut self.pages));
        }
    }
}

/// Sizes of the shelves: 1, 2, 4 ... 256 pages.
const SHELVES: usize = 9;
/// Free bytes that one shelf keeps; what comes back beyond goes to the allocator.
const SHELF_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Default)]
struct Shelves {
    free: RefCell<[Vec<Vec<Page>>; SHELVES]>,
    /// Bytes behind the buffers that are out.
    used: Cell<usize>,
}

impl Shelves {
    fn put(&self, pages: Vec<Page>) {
        let n = pages.len();
        self.used.set(self.used.get().saturating_sub(n * PAGE_BYTES));
        if !n.is_power_of_two() {
            return;
        }
        let shelf = n.trailing_zeros() as usize;
        if shelf >= SHELVES {
            return;
        }
        let free = &mut self.free.borrow_mut()[shelf];
        if (free.len() + 1) * n * PAGE_BYTES <= SHELF_BYTES_MAX {
            free.push(pages);
        }
    }
}

/// A thread's free buffers by size. Cloning gives another handle on the same pool.
#[derive(Clone, Default)]
pub struct Pool(Rc<Shelves>);

impl Pool {
    /// A buffer of `len` bytes whose content is not defined.
    pub fn get(&self, len: usize) -> Buf {
        let pages = len.div_ceil(PAGE_BYTES).max(1).next_power_of_two();
        let shelf = pages.trailing_zeros() as usize;
        self.0.used.set(self.0.used.get() + pages * PAGE_BYTES);
        let memory = if shelf < SHELVES { self.0.free.borrow_mut()[shelf].pop() } else { None };
        Buf {
            pages: memory.unwrap_or_else(|| new_pages(pages)),
            start: 0,
            len,
            home: Some(Rc::clone(&self.0)),
        }
    }

    /// A buffer of `len` zero bytes.
    pub fn get_zeroed(&self, len: usize) -> Buf {
        let mut b = self.get(len);
        b.fill(0);
        b
    }

    /// Gives all free memory back to the allocator.
    pub fn trim(&self) {
        for shelf in self.0.free.borrow_mut().iter_mut() {
            *shelf = Vec::new();
        }
    }

    /// Bytes behind the buffers that are out: what a limit on memory is checked against.
    pub fn used_bytes(&self) -> usize {
        self.0.used.get()
    }

    /// Bytes that lie free in the pool.
    pub fn free_bytes(&self) -> usize {
        self.0.free.borrow().iter().enumerate().map(|(i, s)| (s.len() << i) * PAGE_BYTES).sum()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} bytes free)", self.free_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_reused() {
        let pool = Pool::default();
        let a = pool.get(5000);
        let at = a.as_ptr();
        assert_eq!(at as usize % PAGE_BYTES, 0);
        assert_eq!(pool.used_bytes(), 8192);
        drop(a);
        assert_eq!(pool.used_bytes(), 0);
        assert_eq!(pool.free_bytes(), 8192);
        let b = pool.get(6000);
        assert_eq!(b.as_ptr(), at);
        assert_eq!(b.len(), 6000);
        drop(b);
        pool.trim();
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn views_narrow_and_widen() {
        let mut b = Buf::copy_of(b"hello world");
        b.narrow(6..11);
        assert_eq!(&*b, b"world");
        b.advance(2);
        b.truncate(2);
        assert_eq!(&*b, b"rl");
        b.widen();
        assert_eq!(&b[..11], b"hello world");
        assert_eq!(b.len(), PAGE_BYTES);
    }

    #[test]
    fn huge_buffers_are_not_kept() {
        let pool = Pool::default();
        drop(pool.get(2 * 1024 * 1024));
        assert_eq!(pool.free_bytes(), 0);
    }
}
