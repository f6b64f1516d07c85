//! target/daemon
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod config;
pub mod control;
pub mod mgmt;
pub mod persist;
