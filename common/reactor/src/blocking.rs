//! A device for code that waits: tools, metadata, tests.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use block::{BlockDevice, Buf, Channel, Complete, Extent, Geometry, IoError, IoErrorKind, Op, Request};

use crate::{Ring, clock};

/// One thread's blocking way to a device, with a ring of its own.
pub struct Blocking {
    ring: Rc<Ring>,
    device: Arc<dyn BlockDevice>,
    channel: Rc<dyn Channel>,
    sink: Rc<Sink>,
}

#[derive(Default)]
struct Sink(RefCell<Option<Request>>);

impl Complete for Sink {
    fn complete(&self, _: u64, request: Request) {
        *self.0.borrow_mut() = Some(request);
    }
}

impl Blocking {
    /// Opens `device` for the calling thread.
    pub fn open(device: Arc<dyn BlockDevice>) -> io::Result<Self> {
        let ring = Ring::new()?;
        ring.set_spins(false);
        let channel = device.open(&ring.channel_context()).map_err(io::Error::other)?;
        Ok(Blocking { ring, device, channel, sink: Rc::default() })
    }

    /// The device's sizes.
    pub fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    /// Reads `len` bytes at `offset`.
    pub fn read(&self, offset: u64, len: usize) -> Result<Buf, IoError> {
        let mut done =
            self.run(Request::read(offset, std::iter::once(self.ring.pool().get(len)).collect()))?;
        done.bufs.pop().ok_or(IoErrorKind::Other.into())
    }

    /// Writes `data` at `offset`.
    pub fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), IoError> {
        self.run(Request::write(offset, std::iter::once(Buf::copy_of(data)).collect(), fua)).map(drop)
    }

    /// Puts completed writes on the medium.
    pub fn flush(&self) -> Result<(), IoError> {
        self.run(Request::flush()).map(drop)
    }

    /// Runs any operation without data.
    pub fn apply(&self, op: Op, offset: u64, len: u64) -> Result<Vec<Extent>, IoError> {
        self.run(Request::new(op, offset, len)).map(|r| r.extents)
    }

    fn run(&self, mut request: Request) -> Result<Request, IoError> {
        request.push_frame(Rc::clone(&self.sink) as Rc<dyn Complete>, 0);
        self.channel.submit(request);
        loop {
            self.ring.completions().run();
            if let Some(done) = self.sink.0.borrow_mut().take() {
                return done.result.map(|()| done);
            }
            let later = clock::now() + std::time::Duration::from_secs(1);
            self.ring
                .turn(later)
                .map_err(|e| IoError { errno: e.raw_os_error(), ..IoError::new(IoErrorKind::Other) })?;
            while self.ring.next_event().is_some() {}
        }
    }
}
