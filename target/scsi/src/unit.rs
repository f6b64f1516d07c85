//! The logical unit.

/// A logical unit, shared by all threads.
#[derive(Debug)]
pub struct LogicalUnit {}
