//! tgt's error numbers, as they travel on the management socket, and their texts.

/// What went wrong, in tgt's words and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[repr(u32)]
pub enum TgtError {
    /// 1
    #[error("unknown error")]
    Unknown = 1,
    /// 2
    #[error("out of memory")]
    NoMemory = 2,
    /// 3
    #[error("can't find the driver")]
    NoDriver = 3,
    /// 4
    #[error("can't find the target")]
    NoTarget = 4,
    /// 5
    #[error("can't find the logical unit")]
    NoLun = 5,
    /// 6
    #[error("can't find the session")]
    NoSession = 6,
    /// 7
    #[error("can't find the connection")]
    NoConnection = 7,
    /// 8
    #[error("can't find the binding")]
    NoBinding = 8,
    /// 9
    #[error("this target already exists")]
    TargetExists = 9,
    /// 10
    #[error("this logical unit number already exists")]
    LunExists = 10,
    /// 11
    #[error("this binding already exists")]
    BindingExists = 11,
    /// 12
    #[error("this access control rule already exists")]
    AclExists = 12,
    /// 13
    #[error("this access control rule does not exist")]
    NoAcl = 13,
    /// 14
    #[error("this account already exists")]
    UserExists = 14,
    /// 15
    #[error("can't find the account")]
    NoUser = 15,
    /// 16
    #[error("too many accounts")]
    TooManyUsers = 16,
    /// 17
    #[error("invalid request")]
    InvalidRequest = 17,
    /// 18
    #[error("this target already has an outgoing account")]
    OutgoingExists = 18,
    /// 19
    #[error("this target is still active")]
    TargetActive = 19,
    /// 20
    #[error("this logical unit is still active")]
    LunActive = 20,
    /// 21
    #[error("this driver is busy")]
    DriverActive = 21,
    /// 22
    #[error("this operation isn't supported")]
    Unsupported = 22,
    /// 23
    #[error("unknown parameter")]
    UnknownParameter = 23,
    /// 24
    #[error("this device has Prevent Removal set")]
    PreventRemoval = 24,
}

const ALL: [TgtError; 24] = [
    TgtError::Unknown,
    TgtError::NoMemory,
    TgtError::NoDriver,
    TgtError::NoTarget,
    TgtError::NoLun,
    TgtError::NoSession,
    TgtError::NoConnection,
    TgtError::NoBinding,
    TgtError::TargetExists,
    TgtError::LunExists,
    TgtError::BindingExists,
    TgtError::AclExists,
    TgtError::NoAcl,
    TgtError::UserExists,
    TgtError::NoUser,
    TgtError::TooManyUsers,
    TgtError::InvalidRequest,
    TgtError::OutgoingExists,
    TgtError::TargetActive,
    TgtError::LunActive,
    TgtError::DriverActive,
    TgtError::Unsupported,
    TgtError::UnknownParameter,
    TgtError::PreventRemoval,
];

impl TgtError {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The error of a number; None for 0 and for numbers that nobody defined.
    pub fn from_code(code: u32) -> Option<Self> {
        ALL.into_iter().find(|e| e.code() == code)
    }
}

/// A request that was refused: tgt's error, and what to say beside it. A stock tgtadm prints the error alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct Refusal {
    /// tgt's error.
    pub error: TgtError,
    /// What, where, and what would be right. May be empty.
    pub detail: String,
}

impl Refusal {
    /// A refusal that says why.
    pub fn new(error: TgtError, detail: impl Into<String>) -> Self {
        Refusal { error, detail: detail.into() }
    }

    /// "invalid request", and why.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Refusal::new(TgtError::InvalidRequest, detail)
    }
}

impl From<TgtError> for Refusal {
    fn from(error: TgtError) -> Self {
        Refusal { error, detail: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_from_1_to_24_has_its_error() {
        for code in 1..=24 {
            assert_eq!(TgtError::from_code(code).map(TgtError::code), Some(code));
        }
        assert_eq!(TgtError::from_code(0), None);
        assert_eq!(TgtError::from_code(25), None);
    }
}
