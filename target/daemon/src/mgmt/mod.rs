//! The management socket of tgt, byte for byte: what a stock tgtadm sends and what it takes for an answer.
//!
//! One request a connection. A request is a header of 120 bytes and a payload of at most
//! [`MANAGEMENT_PAYLOAD_MAX`](base::limits::MANAGEMENT_PAYLOAD_MAX) bytes; a response is a header of 8 bytes and text.
//! Numbers are in the machine's byte order, texts end with a NUL that the length counts.
//!
//! ```text
//! request   mode u32 | op u32 | lld [64] | len u32 | tid i32 | sid u64 | lun u64 | cid u32 | host_no u32
//!           | device_type u32 | ac_dir u32 | pack u32 | force u32 | payload
//! response  err u32 | len u32 | text
//! ```
//!
//! Two things go beyond tgt, and neither disturbs a stock tool: a response with an error may carry a text that says
//! why (a stock tgtadm does not read it), and [`Mode::Plinth`] asks for what tgt cannot give (a stock tgtd answers
//! "invalid request").

mod codec;
pub mod socket;

pub use codec::{HEADER_BYTES, Malformed, RESPONSE_BYTES, Request, RequestHeader, Response, ResponseHeader};

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The daemon.
    System,
    /// A target.
    Target,
    /// A logical unit.
    Device,
    /// A portal.
    Portal,
    /// A low-level driver.
    Lld,
    /// A session.
    Session,
    /// A connection.
    Connection,
    /// An account.
    Account,
    /// Plinth's own: the payload is one of [`verb`].
    Plinth,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // tgtadm's words
pub enum Op {
    New,
    Delete,
    Show,
    Bind,
    Unbind,
    Update,
    Stats,
    Start,
    Stop,
    Plinth,
}

/// Payloads of [`Mode::Plinth`]. The fields of the header narrow down what is asked for, as they do in tgt's requests.
pub mod verb {
    /// Everything that was configured, with secrets, in JSON: what `--persist` keeps and `tgt-admin` works with.
    pub const STATE: &str = "state";
    /// Counters, rates and latencies of units by initiator, as text.
    pub const STAT_TEXT: &str = "stat-text";
    /// `show` or `stat` of a mode in JSON: followed by a blank and the mode and op, as in `json target show`.
    pub const JSON: &str = "json";
}

/// "All targets", and the discovery accounts.
pub const TID_ALL: i32 = -1;

const MODES: [(u32, Mode); 9] = [
    (0, Mode::System),
    (1, Mode::Target),
    (2, Mode::Device),
    (3, Mode::Portal),
    (4, Mode::Lld),
    (5, Mode::Session),
    (6, Mode::Connection),
    (7, Mode::Account),
    (0x504c, Mode::Plinth),
];

const OPS: [(u32, Op); 10] = [
    (0, Op::New),
    (1, Op::Delete),
    (2, Op::Show),
    (3, Op::Bind),
    (4, Op::Unbind),
    (5, Op::Update),
    (6, Op::Stats),
    (7, Op::Start),
    (8, Op::Stop),
    (0x504c, Op::Plinth),
];

impl Mode {
    /// The mode of a number on the wire.
    pub fn from_wire(number: u32) -> Option<Self> {
        MODES.iter().find(|(n, _)| *n == number).map(|(_, m)| *m)
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> u32 {
        MODES.iter().find(|(_, m)| *m == self).map_or(u32::MAX, |(n, _)| *n)
    }
}

impl Op {
    /// The operation of a number on the wire.
    pub fn from_wire(number: u32) -> Option<Self> {
        OPS.iter().find(|(n, _)| *n == number).map(|(_, o)| *o)
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> u32 {
        OPS.iter().find(|(_, o)| *o == self).map_or(u32::MAX, |(n, _)| *n)
    }
}

/// SCSI peripheral device type numbers that tgtadm sends.
pub mod device_type {
    /// disk
    pub const DISK: u32 = 0x00;
    /// tape, ssc
    pub const TAPE: u32 = 0x01;
    /// cd
    pub const CD: u32 = 0x05;
    /// changer
    pub const CHANGER: u32 = 0x08;
    /// osd
    pub const OSD: u32 = 0x11;
    /// pt
    pub const PASS_THROUGH: u32 = 0xff;

    /// What to call a number in a message.
    pub fn name(number: u32) -> &'static str {
        match number {
            DISK => "disk",
            TAPE => "tape",
            CD => "cd",
            CHANGER => "changer",
            OSD => "osd",
            PASS_THROUGH => "pass-through",
            _ => "unknown",
        }
    }
}
