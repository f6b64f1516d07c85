//! A device in memory. It is its own medium: there is no volatile cache in front of it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::{
    BlockDevice, Channel, ChannelContext, CompletionQueue, Extent, ExtentState, Features, Geometry, IoError,
    Op, PAGE_BYTES, Request, ResizeWatcher, Watchers, check,
};

/// Pages by number; a page that is missing is a hole.
#[derive(Clone, Debug, Default)]
pub(crate) struct SparseBytes(BTreeMap<u64, Box<[u8; PAGE_BYTES]>>);

const PAGE: u64 = PAGE_BYTES as u64;

impl SparseBytes {
    /// Copies from `offset` on into `out`; holes are zeroes.
    pub(crate) fn read(&self, mut offset: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (page, at) = (offset / PAGE, (offset % PAGE) as usize);
            let n = out.len().min(PAGE_BYTES - at);
            let (now, rest) = out.split_at_mut(n);
            match self.0.get(&page) {
                Some(p) => now.copy_from_slice(&p[at..at + n]),
                None => now.fill(0),
            }
            out = rest;
            offset += n as u64;
        }
    }

    /// Copies `data` to `offset` on.
    pub(crate) fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (page, at) = (offset / PAGE, (offset % PAGE) as usize);
            let n = data.len().min(PAGE_BYTES - at);
            let p = self.0.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            p[at..at + n].copy_from_slice(&data[..n]);
            data = &data[n..];
            offset += n as u64;
        }
    }

    /// Makes `len` bytes at `offset` read as zeroes; whole pages become holes.
    pub(crate) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let (first, last) = (offset / PAGE, end.div_ceil(PAGE));
        let pages: Vec<u64> = self.0.range(first..last).map(|(&p, _)| p).collect();
        for p in pages {
            let (from, to) = (offset.max(p * PAGE), end.min((p + 1) * PAGE));
            if to - from == PAGE {
                self.0.remove(&p);
            } else if let Some(page) = self.0.get_mut(&p) {
                page[(from - p * PAGE) as usize..(to - p * PAGE) as usize].fill(0);
            }
        }
    }

    /// What is mapped from `offset` on, `len` bytes; neighbours of one state are joined.
    pub(crate) fn map(&self, offset: u64, len: u64) -> Vec<Extent> {
        let mut out: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let page = at / PAGE;
            let n = ((page + 1) * PAGE).min(offset + len) - at;
            let state = if self.0.contains_key(&page) { ExtentState::Mapped } else { ExtentState::Hole };
            match out.last_mut() {
                Some(e) if e.state == state => e.len += n,
                _ => out.push(Extent { offset: at, len: n, state }),
            }
            at += n;
        }
        out
    }
}

#[derive(Debug)]
struct State {
    geometry: Geometry,
    bytes: SparseBytes,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    watchers: Watchers,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct MemoryDevice(Arc<Shared>);

impl MemoryDevice {
    /// A zeroed device of these sizes; memory is taken as it is written.
    pub fn new(size_bytes: u64, block_bytes: u32) -> Self {
        MemoryDevice(Arc::new(Shared {
            state: Mutex::new(State {
                geometry: Geometry {
                    size_bytes,
                    logical_block_bytes: block_bytes,
                    physical_block_bytes: block_bytes,
                    optimal_io_bytes: 0,
                    discard_granularity_bytes: PAGE_BYTES as u32,
                },
                bytes: SparseBytes::default(),
            }),
            watchers: Watchers::default(),
        }))
    }

    /// Gives the device another size and tells its watchers; what is cut off is gone.
    pub fn resize(&self, size_bytes: u64) {
        let geometry = {
            let mut s = self.0.lock();
            let old = s.geometry.size_bytes;
            if size_bytes < old {
                s.bytes.zero(size_bytes, old - size_bytes);
            }
            s.geometry.size_bytes = size_bytes;
            s.geometry
        };
        self.0.watchers.notify(geometry);
    }
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        self.0.lock().geometry
    }

    fn features(&self) -> Features {
        Features { discard: true, maps: true, ..Features::default() }
    }

    fn open(&self, context: &ChannelContext) -> Result<Rc<dyn Channel>, IoError> {
        Ok(Rc::new(MemoryChannel {
            shared: Arc::clone(&self.0),
            features: self.features(),
            completions: context.completions.clone(),
        }))
    }

    fn watch(&self, watcher: Weak<dyn ResizeWatcher>) {
        self.0.watchers.add(watcher);
    }
}

struct MemoryChannel {
    shared: Arc<Shared>,
    features: Features,
    completions: CompletionQueue,
}

impl Channel for MemoryChannel {
    fn submit(&self, mut request: Request) {
        let mut state = self.shared.lock();
        let result = check(&request, &state.geometry, self.features);
        if result.is_ok() {
            apply(&mut state.bytes, &mut request);
        }
        drop(state);
        self.completions.push(request, result);
    }
}

/// Does a request that was checked on `bytes`.
fn apply(bytes: &mut SparseBytes, request: &mut Request) {
    let mut at = request.offset;
    match request.op {
        Op::Read => {
            for b in &mut request.bufs {
                bytes.read(at, b);
                at += b.len() as u64;
            }
        }
        Op::Write { .. } => {
            for b in &request.bufs {
                bytes.write(at, b);
                at += b.len() as u64;
            }
        }
        Op::Discard | Op::WriteZeroes { .. } => bytes.zero(request.offset, request.len),
        Op::Map => request.extents = bytes.map(request.offset, request.len),
        Op::Flush => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{Buf, Complete, IoErrorKind};

    #[derive(Default)]
    struct Sink(RefCell<Vec<(u64, Request)>>);
    impl Complete for Sink {
        fn complete(&self, token: u64, request: Request) {
            self.0.borrow_mut().push((token, request));
        }
    }

    fn run(device: &MemoryDevice, mut request: Request) -> Request {
        let context = ChannelContext::hostless();
        let channel = device.open(&context).unwrap();
        let sink = Rc::new(Sink::default());
        request.push_frame(Rc::clone(&sink) as Rc<dyn Complete>, 7);
        channel.submit(request);
        assert!(sink.0.borrow().is_empty(), "completed inside submit");
        assert_eq!(context.completions.run(), 1);
        let (token, request) = sink.0.borrow_mut().pop().unwrap();
        assert_eq!(token, 7);
        request
    }

    fn bufs(bytes: &[u8]) -> crate::Bufs {
        std::iter::once(Buf::copy_of(bytes)).collect()
    }

    #[test]
    fn reads_back_what_was_written_and_zeroes_elsewhere() {
        let d = MemoryDevice::new(1 << 20, 512);
        assert!(run(&d, Request::write(4096 - 512, bufs(&[7; 1024]), false)).result.is_ok());
        let r = run(&d, Request::read(4096 - 1024, bufs(&[9; 2048])));
        assert_eq!(&r.bufs[0][..512], &[0; 512]);
        assert_eq!(&r.bufs[0][512..1536], &[7; 1024]);
        assert_eq!(&r.bufs[0][1536..], &[0; 512]);
    }

    #[test]
    fn discards_become_holes_and_the_map_says_so() {
        let d = MemoryDevice::new(1 << 20, 512);
        let _ = run(&d, Request::write(0, bufs(&[1; 4096 * 4]), false));
        let _ = run(&d, Request::new(Op::Discard, 4096, 8192));
        let m = run(&d, Request::new(Op::Map, 0, 1 << 20));
        let map: Vec<_> = m.extents.iter().map(|e| (e.offset, e.len, e.state)).collect();
        use ExtentState::{Hole, Mapped};
        assert_eq!(
            map,
            [(0, 4096, Mapped), (4096, 8192, Hole), (12288, 4096, Mapped), (16384, (1 << 20) - 16384, Hole)]
        );
    }

    #[test]
    fn refuses_what_lies_outside_or_across_blocks() {
        let d = MemoryDevice::new(8192, 512);
        let kind = |r: Request| run(&d, r).result.map_err(|e| e.kind);
        assert_eq!(kind(Request::new(Op::Discard, 8192, 512)), Err(IoErrorKind::OutOfRange));
        assert_eq!(kind(Request::new(Op::Discard, u64::MAX - 511, 512)), Err(IoErrorKind::OutOfRange));
        assert_eq!(kind(Request::read(1, bufs(&[0; 512]))), Err(IoErrorKind::Misaligned));
        let mut short = Request::read(0, bufs(&[0; 512]));
        short.len = 1024;
        assert_eq!(kind(short), Err(IoErrorKind::Misaligned));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "dropped without completion")]
    fn a_dropped_request_is_noticed() {
        let mut r = Request::flush();
        r.push_frame(Rc::new(Sink::default()), 0);
        drop(r);
    }
}
