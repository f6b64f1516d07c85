//! Why a request failed.

use std::fmt;

/// The kind to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoErrorKind {
    /// The medium could not be read or written (EIO on data).
    Medium,
    /// The device, or the file system below it, is full (ENOSPC, EDQUOT).
    NoSpace,
    /// The device does not take writes.
    ReadOnly,
    /// The request reaches beyond the end of the device.
    OutOfRange,
    /// Offset, length or buffer are not what the device takes.
    Misaligned,
    /// The device does not know the operation.
    Unsupported,
    /// Another holder's reservation excludes the request.
    ReservationConflict,
    /// The gate refused the request's epoch.
    Fenced,
    /// The device is gone and will not come back under this channel.
    Gone,
    /// No answer within the time that was allowed.
    TimedOut,
    /// Anything else the system reported.
    Other,
}

/// A failed request: its kind, where, and the system's error number where there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoError {
    /// What went wrong.
    pub kind: IoErrorKind,
    /// The first byte of the device that is concerned, where known.
    pub offset: Option<u64>,
    /// The system's errno, where it came from a system call.
    pub errno: Option<i32>,
}

impl IoError {
    /// An error of `kind` without a place.
    pub const fn new(kind: IoErrorKind) -> Self {
        IoError { kind, offset: None, errno: None }
    }

    /// An error of `kind` at byte `offset` of the device.
    pub const fn at(kind: IoErrorKind, offset: u64) -> Self {
        IoError { kind, offset: Some(offset), errno: None }
    }
}

impl From<IoErrorKind> for IoError {
    fn from(kind: IoErrorKind) -> Self {
        IoError::new(kind)
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            IoErrorKind::Medium => "medium error",
            IoErrorKind::NoSpace => "no space left on the backing store",
            IoErrorKind::ReadOnly => "the device is read-only",
            IoErrorKind::OutOfRange => "beyond the end of the device",
            IoErrorKind::Misaligned => "not aligned to the device's blocks",
            IoErrorKind::Unsupported => "not supported by the device",
            IoErrorKind::ReservationConflict => "reservation conflict",
            IoErrorKind::Fenced => "refused: fenced",
            IoErrorKind::Gone => "the device is gone",
            IoErrorKind::TimedOut => "timed out",
            IoErrorKind::Other => "input/output error",
        })?;
        if let Some(at) = self.offset {
            write!(f, " at byte {at}")?;
        }
        if let Some(errno) = self.errno {
            write!(f, " (errno {errno})")?;
        }
        Ok(())
    }
}

impl std::error::Error for IoError {}
