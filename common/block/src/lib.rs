//! Block devices: what backs a logical unit, a replica or a volume.
//!
//! ```text
//!   user of a device ── submit(Request) ──▶ layer ── submit ──▶ layer ── submit ──▶ device
//!        ▲                                    │ pushes its frame                     │
//!        └──────── complete(Request) ◀────────┴────────◀──── CompletionQueue ◀───────┘
//! ```
//!
//! A [`BlockDevice`] is shared between threads; [`BlockDevice::open`] makes a [`Channel`] that belongs to one thread.
//! A [`Request`] is an owned object that carries its buffers and its completion frames. `submit` never blocks and never
//! completes inside itself: a finished request goes to the thread's [`CompletionQueue`], and the thread runs that
//! queue once a turn. A layer pushes a frame of its own before it passes a request down and gets it back first.
//!
//! Invariants: every request that was submitted is completed exactly once, by the thread that submitted it (a request
//! dropped with frames left panics in debug builds); a completed read has all of its bytes; a completed flush means
//! that every write completed before the flush was submitted is on the medium, as does a completed FUA write for itself.

mod buf;
mod device;
mod error;
pub mod fault;
mod gate;
mod memory;
mod null;
mod registry;
mod request;

pub use buf::{Buf, PAGE_BYTES, Pool};
pub use device::{BlockDevice, Channel, ChannelContext, Features, Geometry, ResizeWatcher, Watchers, check};
pub use error::{IoError, IoErrorKind};
pub use fault::{FaultConfig, FaultDevice};
pub use gate::{Gate, GateState};
pub use memory::MemoryDevice;
pub use null::NullDevice;
pub use registry::Registry;
pub use request::{Bufs, Complete, CompletionQueue, Extent, ExtentState, Op, Request};
