//! target/ctl
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
