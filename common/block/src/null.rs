//! A device that stores nothing: writes vanish, reads are zeroes.

use std::rc::Rc;
use std::sync::Weak;

use crate::{
    BlockDevice, Channel, ChannelContext, CompletionQueue, Extent, ExtentState, Features, Geometry, IoError,
    Op, Request, ResizeWatcher, check,
};

/// See the module.
#[derive(Debug)]
pub struct NullDevice(Geometry);

impl NullDevice {
    /// A null device of these sizes.
    pub fn new(size_bytes: u64, block_bytes: u32) -> Self {
        NullDevice(Geometry {
            size_bytes,
            logical_block_bytes: block_bytes,
            physical_block_bytes: block_bytes,
            optimal_io_bytes: 0,
            discard_granularity_bytes: block_bytes,
        })
    }
}

impl BlockDevice for NullDevice {
    fn geometry(&self) -> Geometry {
        self.0
    }

    fn features(&self) -> Features {
        Features { discard: true, maps: true, ..Features::default() }
    }

    fn open(&self, context: &ChannelContext) -> Result<Rc<dyn Channel>, IoError> {
        Ok(Rc::new(NullChannel {
            geometry: self.0,
            features: self.features(),
            completions: context.completions.clone(),
        }))
    }

    fn watch(&self, _: Weak<dyn ResizeWatcher>) {}
}

struct NullChannel {
    geometry: Geometry,
    features: Features,
    completions: CompletionQueue,
}

impl Channel for NullChannel {
    fn submit(&self, mut request: Request) {
        let result = check(&request, &self.geometry, self.features);
        if result.is_ok() {
            match request.op {
                Op::Read => request.bufs.iter_mut().for_each(|b| b.fill(0)),
                Op::Map => {
                    request.extents =
                        vec![Extent { offset: request.offset, len: request.len, state: ExtentState::Hole }];
                }
                _ => {}
            }
        }
        self.completions.push(request, result);
    }
}
