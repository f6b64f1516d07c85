//! The codes in PDU fields.

/// An enumeration of one wire byte that keeps values that it does not know.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A value that RFC 7143 does not give.
            Other(u8),
        }

        impl $name {
            /// Every value that has a name.
            pub const NAMED: &'static [$name] = &[$($name::$variant,)*];

            /// The code on the wire.
            pub const fn code(self) -> u8 {
                match self {
                    $($name::$variant => $value,)*
                    $name::Other(v) => v,
                }
            }

            /// What `code` means.
            pub const fn from_code(code: u8) -> Self {
                match code {
                    $($value => $name::$variant,)*
                    v => $name::Other(v),
                }
            }
        }
    };
}

codes! {
    /// Task management functions (RFC 7143 11.5.1, RFC 7144 4.1).
    TmfFunction {
        /// ABORT TASK
        AbortTask = 1,
        /// ABORT TASK SET
        AbortTaskSet = 2,
        /// CLEAR ACA
        ClearAca = 3,
        /// CLEAR TASK SET
        ClearTaskSet = 4,
        /// LOGICAL UNIT RESET
        LogicalUnitReset = 5,
        /// TARGET WARM RESET
        TargetWarmReset = 6,
        /// TARGET COLD RESET
        TargetColdReset = 7,
        /// TASK REASSIGN
        TaskReassign = 8,
        /// QUERY TASK
        QueryTask = 9,
        /// QUERY TASK SET
        QueryTaskSet = 10,
        /// I_T NEXUS RESET
        ItNexusReset = 11,
        /// QUERY ASYNCHRONOUS EVENT
        QueryAsyncEvent = 12,
    }
}

codes! {
    /// Task management responses (RFC 7143 11.6.1, RFC 7144 4.2).
    TmfResponse {
        /// Function complete.
        Complete = 0,
        /// Task does not exist.
        NoTask = 1,
        /// LUN does not exist.
        NoLun = 2,
        /// Task still allegiant.
        StillAllegiant = 3,
        /// Task allegiance reassignment not supported.
        ReassignNotSupported = 4,
        /// Task management function not supported.
        NotSupported = 5,
        /// Function authorization failed.
        NotAuthorized = 6,
        /// Function succeeded (what a QUERY asks about is there).
        Succeeded = 7,
        /// Function rejected.
        Rejected = 255,
    }
}

codes! {
    /// Reject reasons (RFC 7143 11.17.1).
    RejectReason {
        /// Data (payload) digest error.
        DataDigestError = 0x02,
        /// SNACK reject.
        SnackReject = 0x03,
        /// Protocol error.
        ProtocolError = 0x04,
        /// Command not supported.
        CommandNotSupported = 0x05,
        /// Immediate command reject: too many immediate commands.
        ImmediateCommandReject = 0x06,
        /// Task in progress.
        TaskInProgress = 0x07,
        /// Invalid data ACK.
        InvalidDataAck = 0x08,
        /// Invalid PDU field.
        InvalidPduField = 0x09,
        /// Long operation reject: out of resources for a long text negotiation.
        LongOperationReject = 0x0a,
        /// Negotiation reset (deprecated).
        NegotiationReset = 0x0b,
        /// Waiting for logout.
        WaitingForLogout = 0x0c,
    }
}

codes! {
    /// Asynchronous events (RFC 7143 11.9.1).
    AsyncEvent {
        /// A SCSI asynchronous event is reported in the sense data.
        Scsi = 0,
        /// The target requests logout within Parameter3 seconds.
        LogoutRequest = 1,
        /// The target will drop or has dropped the connection of Parameter1.
        ConnectionDrop = 2,
        /// The target will drop all connections of the session.
        SessionDrop = 3,
        /// The target requests parameter negotiation on this connection within Parameter3 seconds.
        NegotiationRequest = 4,
        /// Every task of the logical unit was terminated (FastAbort, RFC 7143 4.2.3.4).
        TasksTerminated = 5,
        /// Vendor-specific.
        Vendor = 255,
    }
}

codes! {
    /// Why an initiator logs out (RFC 7143 11.14.1).
    LogoutReason {
        /// Close the session.
        CloseSession = 0,
        /// Close the connection of the CID.
        CloseConnection = 1,
        /// Remove the connection of the CID for recovery.
        RemoveForRecovery = 2,
    }
}

codes! {
    /// How a logout ended (RFC 7143 11.15.1).
    LogoutResponse {
        /// The connection or session is closed.
        Success = 0,
        /// No such CID.
        CidNotFound = 1,
        /// Connection recovery is not supported.
        RecoveryNotSupported = 2,
        /// Cleanup failed for another reason.
        CleanupFailed = 3,
    }
}

codes! {
    /// SCSI Response: iSCSI service response (RFC 7143 11.4.3).
    ScsiResponseCode {
        /// Command completed at target.
        Completed = 0x00,
        /// Target failure.
        TargetFailure = 0x01,
    }
}

codes! {
    /// SNACK types (RFC 7143 11.16.1).
    SnackType {
        /// Data-In or R2T that is missing.
        DataOrR2t = 0,
        /// Status that is missing.
        Status = 1,
        /// DataACK.
        DataAck = 2,
        /// Data-In again from the start, resegmented.
        RData = 3,
    }
}

/// Task attributes (RFC 7143 11.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TaskAttribute {
    /// Untagged.
    Untagged,
    /// SIMPLE.
    #[default]
    Simple,
    /// ORDERED.
    Ordered,
    /// HEAD OF QUEUE.
    HeadOfQueue,
    /// ACA.
    Aca,
}

impl TaskAttribute {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What `code` means; 5 to 7 are reserved.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => TaskAttribute::Untagged,
            1 => TaskAttribute::Simple,
            2 => TaskAttribute::Ordered,
            3 => TaskAttribute::HeadOfQueue,
            4 => TaskAttribute::Aca,
            _ => return None,
        })
    }
}

/// Login stages (RFC 7143 11.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LoginStage {
    /// SecurityNegotiation.
    Security = 0,
    /// LoginOperationalNegotiation.
    Operational = 1,
    /// FullFeaturePhase.
    FullFeature = 3,
}

impl LoginStage {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What `code` means; 2 is reserved.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => LoginStage::Security,
            1 => LoginStage::Operational,
            3 => LoginStage::FullFeature,
            _ => return None,
        })
    }
}

macro_rules! login_status {
    ($($(#[$vdoc:meta])* $variant:ident = $value:literal, $text:literal;)*) => {
        /// Login status: class in the high byte, detail in the low byte (RFC 7143 11.13.5).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum LoginStatus {
            $($(#[$vdoc])* $variant,)*
            /// A value that RFC 7143 does not give.
            Other(u16),
        }

        impl LoginStatus {
            /// Every value that has a name.
            pub const NAMED: &'static [LoginStatus] = &[$(LoginStatus::$variant,)*];

            /// Class and detail.
            pub const fn code(self) -> u16 {
                match self {
                    $(LoginStatus::$variant => $value,)*
                    LoginStatus::Other(v) => v,
                }
            }

            /// What `code` means.
            pub const fn from_code(code: u16) -> Self {
                match code {
                    $($value => LoginStatus::$variant,)*
                    v => LoginStatus::Other(v),
                }
            }

            /// In words.
            pub const fn text(self) -> &'static str {
                match self {
                    $(LoginStatus::$variant => $text,)*
                    LoginStatus::Other(_) => "unknown login status",
                }
            }
        }
    };
}

login_status! {
    /// Success.
    Success = 0x0000, "success";
    /// Target moved temporarily.
    MovedTemporarily = 0x0101, "target moved temporarily";
    /// Target moved permanently.
    MovedPermanently = 0x0102, "target moved permanently";
    /// Initiator error.
    InitiatorError = 0x0200, "initiator error";
    /// Authentication failure.
    AuthenticationFailure = 0x0201, "authentication failure";
    /// Authorization failure: this initiator may not use this target.
    AuthorizationFailure = 0x0202, "authorization failure";
    /// Target not found.
    NotFound = 0x0203, "target not found";
    /// Target removed.
    TargetRemoved = 0x0204, "target removed";
    /// Unsupported version.
    UnsupportedVersion = 0x0205, "unsupported version";
    /// Too many connections on this session.
    TooManyConnections = 0x0206, "too many connections";
    /// Missing parameter.
    MissingParameter = 0x0207, "missing parameter";
    /// Cannot include the connection in the session.
    CannotIncludeInSession = 0x0208, "cannot include in session";
    /// Session type not supported.
    SessionTypeNotSupported = 0x0209, "session type not supported";
    /// Session does not exist.
    SessionDoesNotExist = 0x020a, "session does not exist";
    /// Invalid request during login.
    InvalidDuringLogin = 0x020b, "invalid during login";
    /// Target error.
    TargetError = 0x0300, "target error";
    /// Service unavailable.
    ServiceUnavailable = 0x0301, "service unavailable";
    /// Out of resources.
    OutOfResources = 0x0302, "out of resources";
}

impl LoginStatus {
    /// Whether the login may go on.
    pub const fn is_success(self) -> bool {
        self.class() == 0
    }

    /// The class.
    pub const fn class(self) -> u8 {
        (self.code() >> 8) as u8
    }

    /// The detail.
    pub const fn detail(self) -> u8 {
        self.code() as u8
    }
}
