//! target/session
