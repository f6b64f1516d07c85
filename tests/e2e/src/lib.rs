//! tests/e2e
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
