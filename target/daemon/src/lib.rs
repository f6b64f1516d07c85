//! target/daemon
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod control;
pub mod engine;
pub mod logging;
//mod metrics;
pub mod mgmt;
mod notify;
//pub mod tgtd;
