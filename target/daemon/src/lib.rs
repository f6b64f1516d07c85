//! The iSCSI target daemon: the control plane that stands in tgtd's place, and the engine that carries the sessions.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod config;
pub mod control;
pub mod engine;
pub mod logging;
mod metrics;
pub mod mgmt;
mod notify;
pub mod persist;
mod syslog;
pub mod tgtd;
