//! Protocol data units (RFC 7143 11).
//!
//! ```text
//!   BHS 48 bytes | AHS 0..1020 | header digest 0/4 | data 0..2^24-1 | padding to 4 | data digest 0/4
//! ```
//!
//! [`Frame`] reads the lengths of any header, also of one that does not parse, so that the stream stays in step.
//! [`Request`] is what an initiator sends, [`Response`] what a target sends, [`Pdu`] either. Parsing allocates nothing;
//! reserved fields are ignored as RFC 7143 11 asks of a receiver, and written as zero. Fields whose meaning depends on
//! the session (numbers, tags, lengths that were negotiated) are checked by the session machine.

mod ahs;
mod codes;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod wire;

pub use ahs::{AHS_BYTES_MAX, Ahs, CDB_BYTES_MAX};
pub use codes::{
    AsyncEvent, LoginStage, LoginStatus, LogoutReason, LogoutResponse, RejectReason, ScsiResponseCode,
    SnackType, TaskAttribute, TmfFunction, TmfResponse,
};
pub use request::{
    DataOut, LoginRequest, LogoutRequest, NopOut, Request, ScsiCommand, Snack, TextRequest, TmfRequest,
};
pub use response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponsePdu, NopIn, R2t, Reject, Residual, Response,
    ScsiResponse, TextResponse, TmfResponsePdu,
};

use crate::serial::Serial;
use wire::{Reader, u24_at};

/// Bytes of a basic header segment.
pub const BHS_LEN: usize = 48;
/// A basic header segment.
pub type Bhs = [u8; BHS_LEN];
/// Bytes of a digest.
pub const DIGEST_LEN: usize = 4;
/// The largest DataSegmentLength (24 bits).
pub const DATA_SEGMENT_MAX: u32 = 0x00ff_ffff;
/// The version that this crate speaks, for Version-max, Version-min and Version-active (RFC 7143 11.12.4).
pub const VERSION: u8 = 0;

/// An initiator task tag, target transfer tag or SNACK tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u32);

impl Tag {
    /// "No tag" (0xffffffff).
    pub const RESERVED: Tag = Tag(0xffff_ffff);

    /// Whether this stands for no tag.
    pub const fn is_reserved(self) -> bool {
        self.0 == Tag::RESERVED.0
    }
}

/// What a header's first byte says it is (RFC 7143 11.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Opcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TmfRequest = 0x02,
    LoginRequest = 0x03,
    TextRequest = 0x04,
    DataOut = 0x05,
    LogoutRequest = 0x06,
    Snack = 0x10,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TmfResponse = 0x22,
    LoginResponse = 0x23,
    TextResponse = 0x24,
    DataIn = 0x25,
    LogoutResponse = 0x26,
    R2t = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}

impl Opcode {
    /// Every opcode.
    pub const ALL: [Opcode; 18] = [
        Opcode::NopOut,
        Opcode::ScsiCommand,
        Opcode::TmfRequest,
        Opcode::LoginRequest,
        Opcode::TextRequest,
        Opcode::DataOut,
        Opcode::LogoutRequest,
        Opcode::Snack,
        Opcode::NopIn,
        Opcode::ScsiResponse,
        Opcode::TmfResponse,
        Opcode::LoginResponse,
        Opcode::TextResponse,
        Opcode::DataIn,
        Opcode::LogoutResponse,
        Opcode::R2t,
        Opcode::AsyncMessage,
        Opcode::Reject,
    ];

    /// The opcode in a header's first byte (its low 6 bits), if it is one.
    pub const fn of(byte: u8) -> Option<Opcode> {
        Some(match byte & 0x3f {
            0x00 => Opcode::NopOut,
            0x01 => Opcode::ScsiCommand,
            0x02 => Opcode::TmfRequest,
            0x03 => Opcode::LoginRequest,
            0x04 => Opcode::TextRequest,
            0x05 => Opcode::DataOut,
            0x06 => Opcode::LogoutRequest,
            0x10 => Opcode::Snack,
            0x20 => Opcode::NopIn,
            0x21 => Opcode::ScsiResponse,
            0x22 => Opcode::TmfResponse,
            0x23 => Opcode::LoginResponse,
            0x24 => Opcode::TextResponse,
            0x25 => Opcode::DataIn,
            0x26 => Opcode::LogoutResponse,
            0x31 => Opcode::R2t,
            0x32 => Opcode::AsyncMessage,
            0x3f => Opcode::Reject,
            _ => return None,
        })
    }

    /// Whether an initiator sends it.
    pub const fn is_request(self) -> bool {
        (self as u8) < 0x20
    }
}

/// A header that is not a PDU of the direction that it was read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// No such opcode.
    #[error("opcode {0:#04x} is not one of RFC 7143 11.2.1.2")]
    UnknownOpcode(u8),
    /// An opcode of the other end.
    #[error("{0:?} came from the wrong end of the connection")]
    WrongDirection(Opcode),
    /// A field holds what it must not.
    #[error("{opcode:?}: {problem}")]
    Field {
        /// Which PDU.
        opcode: Opcode,
        /// Which field, and what would be right.
        problem: &'static str,
    },
}

impl PduError {
    /// The reason of the Reject that answers it (RFC 7143 11.17.1). A bad Login Request is answered by a Login
    /// Response instead.
    pub const fn reject_reason(self) -> RejectReason {
        match self {
            PduError::UnknownOpcode(_) => RejectReason::CommandNotSupported,
            PduError::WrongDirection(_) => RejectReason::ProtocolError,
            PduError::Field { .. } => RejectReason::InvalidPduField,
        }
    }
}

/// The lengths in a header (RFC 7143 11.2.1.5, 11.2.1.6): readable whether or not the header parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of additional header segments, a multiple of 4.
    pub ahs_len: usize,
    /// DataSegmentLength, without padding.
    pub data_len: u32,
}

impl Frame {
    /// Those of `bhs`.
    #[inline]
    pub const fn of(bhs: &Bhs) -> Frame {
        Frame { ahs_len: bhs[4] as usize * 4, data_len: u24_at(bhs, 5) }
    }

    /// Bytes from the first of the BHS to before the header digest.
    #[inline]
    pub const fn header_len(self) -> usize {
        BHS_LEN + self.ahs_len
    }

    /// Bytes of padding after the data.
    #[inline]
    pub const fn padding(self) -> usize {
        padding(self.data_len)
    }

    /// Bytes of the whole PDU. A PDU without data has no data digest (RFC 7143 11.2.3).
    #[inline]
    pub const fn wire_len(self, header_digest: bool, data_digest: bool) -> usize {
        let header = self.header_len() + if header_digest { DIGEST_LEN } else { 0 };
        if self.data_len == 0 {
            return header;
        }
        header + self.data_len as usize + self.padding() + if data_digest { DIGEST_LEN } else { 0 }
    }
}

/// Bytes that fill `len` up to a multiple of 4.
#[inline]
pub const fn padding(len: u32) -> usize {
    (len.wrapping_neg() & 3) as usize
}

/// Writes DataSegmentLength into a header that is encoded already.
#[inline]
pub const fn set_data_len(bhs: &mut Bhs, len: u32) {
    wire::put_u24(bhs, 5, len);
}

/// The three numbers in every PDU that a target sends (RFC 7143 11.4.8 to 11.4.10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetNumbers {
    /// StatSN (0 in a Data-In without status).
    pub stat_sn: Serial,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial,
}

impl TargetNumbers {
    /// Writes them into a header that is encoded already: numbers are given when a PDU is sent, not when it is made.
    #[inline]
    pub const fn stamp(self, bhs: &mut Bhs) {
        wire::put_u32(bhs, 24, self.stat_sn.0);
        wire::put_u32(bhs, 28, self.exp_cmd_sn.0);
        wire::put_u32(bhs, 32, self.max_cmd_sn.0);
    }

    fn read(r: &Reader<'_>) -> Self {
        TargetNumbers { stat_sn: r.serial(24), exp_cmd_sn: r.serial(28), max_cmd_sn: r.serial(32) }
    }
}

/// A PDU of either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pdu {
    /// From an initiator.
    Request(Request),
    /// From a target.
    Response(Response),
}

impl Pdu {
    /// Reads a header.
    pub fn parse(bhs: &Bhs) -> Result<Pdu, PduError> {
        match Opcode::of(bhs[0]) {
            Some(opcode) if opcode.is_request() => Request::parse(bhs).map(Pdu::Request),
            Some(_) => Response::parse(bhs).map(Pdu::Response),
            None => Err(PduError::UnknownOpcode(bhs[0] & 0x3f)),
        }
    }

    /// Writes every byte of a header.
    pub fn encode(&self, out: &mut Bhs) {
        match self {
            Pdu::Request(p) => p.encode(out),
            Pdu::Response(p) => p.encode(out),
        }
    }
}
