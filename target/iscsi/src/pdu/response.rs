//! What a target sends.

use super::request::{bit, isid, read_stages, stage_bits};
use super::wire::{Reader, Writer};
use super::{
    AsyncEvent, Bhs, LoginStage, LoginStatus, LogoutResponse, Opcode, PduError, RejectReason,
    ScsiResponseCode, Tag, TargetNumbers, TmfResponse,
};
use crate::serial::Serial;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
const BIDI_OVERFLOW: u8 = 0x10;
const BIDI_UNDERFLOW: u8 = 0x08;
const STATUS: u8 = 0x01;

/// A PDU from a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Response {
    NopIn(NopIn),
    Scsi(ScsiResponse),
    Tmf(TmfResponsePdu),
    Login(LoginResponse),
    Text(TextResponse),
    DataIn(DataIn),
    Logout(LogoutResponsePdu),
    R2t(R2t),
    Async(AsyncMessage),
    Reject(Reject),
}

impl Response {
    /// Reads a header that came from a target.
    #[inline]
    pub fn parse(bhs: &Bhs) -> Result<Response, PduError> {
        let r = Reader::new(bhs)?;
        if r.opcode.is_request() {
            return Err(PduError::WrongDirection(r.opcode));
        }
        r.no_ahs()?;
        match r.opcode {
            Opcode::NopIn => NopIn::read(&r).map(Response::NopIn),
            Opcode::ScsiResponse => ScsiResponse::read(&r).map(Response::Scsi),
            Opcode::TmfResponse => TmfResponsePdu::read(&r).map(Response::Tmf),
            Opcode::LoginResponse => LoginResponse::read(&r).map(Response::Login),
            Opcode::TextResponse => TextResponse::read(&r).map(Response::Text),
            Opcode::DataIn => DataIn::read(&r).map(Response::DataIn),
            Opcode::LogoutResponse => LogoutResponsePdu::read(&r).map(Response::Logout),
            Opcode::R2t => R2t::read(&r).map(Response::R2t),
            Opcode::AsyncMessage => AsyncMessage::read(&r).map(Response::Async),
            Opcode::Reject => Reject::read(&r).map(Response::Reject),
            other => Err(PduError::WrongDirection(other)),
        }
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        match self {
            Response::NopIn(p) => p.encode(out),
            Response::Scsi(p) => p.encode(out),
            Response::Tmf(p) => p.encode(out),
            Response::Login(p) => p.encode(out),
            Response::Text(p) => p.encode(out),
            Response::DataIn(p) => p.encode(out),
            Response::Logout(p) => p.encode(out),
            Response::R2t(p) => p.encode(out),
            Response::Async(p) => p.encode(out),
            Response::Reject(p) => p.encode(out),
        }
    }

    /// Its opcode.
    pub fn opcode(&self) -> Opcode {
        match self {
            Response::NopIn(_) => Opcode::NopIn,
            Response::Scsi(_) => Opcode::ScsiResponse,
            Response::Tmf(_) => Opcode::TmfResponse,
            Response::Login(_) => Opcode::LoginResponse,
            Response::Text(_) => Opcode::TextResponse,
            Response::DataIn(_) => Opcode::DataIn,
            Response::Logout(_) => Opcode::LogoutResponse,
            Response::R2t(_) => Opcode::R2t,
            Response::Async(_) => Opcode::AsyncMessage,
            Response::Reject(_) => Opcode::Reject,
        }
    }
}

/// How a transfer differs from what the initiator expected (RFC 7143 11.4.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// It does not.
    #[default]
    None,
    /// So many bytes were not transferred since they were not expected.
    Overflow(u32),
    /// So many bytes were expected and not transferred.
    Underflow(u32),
}

impl Residual {
    /// Of a command that would transfer `transfer_len` where `expected` bytes were expected.
    #[inline]
    pub fn of(expected: u32, transfer_len: u64) -> Residual {
        match transfer_len.cmp(&u64::from(expected)) {
            std::cmp::Ordering::Equal => Residual::None,
            std::cmp::Ordering::Less => Residual::Underflow(expected - transfer_len as u32),
            std::cmp::Ordering::Greater => {
                Residual::Overflow(u32::try_from(transfer_len - u64::from(expected)).unwrap_or(u32::MAX))
            }
        }
    }

    fn count(self) -> u32 {
        match self {
            Residual::None => 0,
            Residual::Overflow(n) | Residual::Underflow(n) => n,
        }
    }

    fn bits(self, overflow: u8, underflow: u8) -> u8 {
        match self {
            Residual::None => 0,
            Residual::Overflow(_) => overflow,
            Residual::Underflow(_) => underflow,
        }
    }

    fn read(r: &Reader<'_>, overflow: u8, underflow: u8, at: usize) -> Result<Self, PduError> {
        match (r.flag(overflow), r.flag(underflow)) {
            (false, false) => Ok(Residual::None),
            (true, false) => Ok(Residual::Overflow(r.u32(at))),
            (false, true) => Ok(Residual::Underflow(r.u32(at))),
            (true, true) => r.bad("both residual overflow and underflow"),
        }
    }
}

/// NOP-In (RFC 7143 11.19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopIn {
    /// LUN field; meaningful with a target transfer tag.
    pub lun: u64,
    /// That of the NOP-Out that it answers, or reserved.
    pub itt: Tag,
    /// Reserved where no answer is wanted.
    pub ttt: Tag,
    /// Numbers.
    pub sn: TargetNumbers,
    /// Bytes of ping data.
    pub data_len: u32,
}

impl NopIn {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        Ok(NopIn {
            lun: r.lun(),
            itt: r.tag(16),
            ttt: r.tag(20),
            sn: TargetNumbers::read(r),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::NopIn, FINAL)
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .numbers(self.sn);
    }
}

/// SCSI Response (RFC 7143 11.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// iSCSI service response.
    pub response: ScsiResponseCode,
    /// SCSI status.
    pub status: u8,
    /// The command's tag.
    pub itt: Tag,
    /// SNACK tag; 0 where the initiator needs none.
    pub snack_tag: u32,
    /// Numbers.
    pub sn: TargetNumbers,
    /// Data-In and R2T PDUs that were sent for the command.
    pub exp_data_sn: Serial,
    /// Residual of the read of a bidirectional command.
    pub bidi_residual: Residual,
    /// Residual.
    pub residual: Residual,
    /// Bytes of sense and response data.
    pub data_len: u32,
}

impl ScsiResponse {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        Ok(ScsiResponse {
            response: ScsiResponseCode::from_code(r.u8(2)),
            status: r.u8(3),
            itt: r.tag(16),
            snack_tag: r.u32(20),
            sn: TargetNumbers::read(r),
            exp_data_sn: r.serial(36),
            bidi_residual: Residual::read(r, BIDI_OVERFLOW, BIDI_UNDERFLOW, 40)?,
            residual: Residual::read(r, OVERFLOW, UNDERFLOW, 44)?,
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        let flags = FINAL
            | self.bidi_residual.bits(BIDI_OVERFLOW, BIDI_UNDERFLOW)
            | self.residual.bits(OVERFLOW, UNDERFLOW);
        Writer::new(out, Opcode::ScsiResponse, flags)
            .u8(2, self.response.code())
            .u8(3, self.status)
            .data_len(self.data_len)
            .tag(16, self.itt)
            .u32(20, self.snack_tag)
            .numbers(self.sn)
            .serial(36, self.exp_data_sn)
            .u32(40, self.bidi_residual.count())
            .u32(44, self.residual.count());
    }
}

/// Task Management Function Response (RFC 7143 11.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmfResponsePdu {
    /// How it went.
    pub response: TmfResponse,
    /// The request's tag.
    pub itt: Tag,
    /// Numbers.
    pub sn: TargetNumbers,
}

impl TmfResponsePdu {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        r.no_data()?;
        Ok(TmfResponsePdu {
            response: TmfResponse::from_code(r.u8(2)),
            itt: r.tag(16),
            sn: TargetNumbers::read(r),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::TmfResponse, FINAL)
            .u8(2, self.response.code())
            .tag(16, self.itt)
            .numbers(self.sn);
    }
}

/// Login Response (RFC 7143 11.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginResponse {
    /// The text goes on in the next Login Response (C).
    pub continues: bool,
    /// Current stage (CSG).
    pub stage: LoginStage,
    /// The stage that is entered (T and NSG).
    pub transit: Option<LoginStage>,
    /// Highest version.
    pub version_max: u8,
    /// Version in use.
    pub version_active: u8,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// Target session handle; given in the last response of a session's first login.
    pub tsih: u16,
    /// Initiator task tag.
    pub itt: Tag,
    /// Numbers.
    pub sn: TargetNumbers,
    /// Status class and detail.
    pub status: LoginStatus,
    /// Bytes of text.
    pub data_len: u32,
}

impl LoginResponse {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        let status = LoginStatus::from_code(r.u16(36));
        // A refused login is over: its stage bits mean nothing (RFC 7143 11.13.5), and targets put there what they like.
        let (stage, transit, continues) = match read_stages(r) {
            Err(_) if !status.is_success() => (LoginStage::Security, None, false),
            stages => stages?,
        };
        Ok(LoginResponse {
            continues,
            stage,
            transit,
            version_max: r.u8(2),
            version_active: r.u8(3),
            isid: isid(r),
            tsih: r.u16(14),
            itt: r.tag(16),
            sn: TargetNumbers::read(r),
            status,
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        let w = Writer::new(out, Opcode::LoginResponse, stage_bits(self.stage, self.transit, self.continues))
            .u8(2, self.version_max)
            .u8(3, self.version_active)
            .data_len(self.data_len)
            .u16(14, self.tsih)
            .tag(16, self.itt)
            .numbers(self.sn)
            .u16(36, self.status.code());
        w.0[8..14].copy_from_slice(&self.isid);
    }
}

/// Text Response (RFC 7143 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextResponse {
    /// The target has no more to say.
    pub final_: bool,
    /// The text goes on in the next Text Response (C).
    pub continues: bool,
    /// LUN field.
    pub lun: u64,
    /// The request's tag.
    pub itt: Tag,
    /// Reserved in the last response of an exchange.
    pub ttt: Tag,
    /// Numbers.
    pub sn: TargetNumbers,
    /// Bytes of text.
    pub data_len: u32,
}

impl TextResponse {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        let (final_, continues) = (r.flag(FINAL), r.flag(CONTINUE));
        if final_ && continues {
            return r.bad("F and C are both 1: text that goes on is not final");
        }
        let ttt = r.tag(20);
        if final_ != ttt.is_reserved() {
            return r.bad("the Target Transfer Tag must be 0xffffffff in the final response, and only there");
        }
        Ok(TextResponse {
            final_,
            continues,
            lun: r.lun(),
            itt: r.tag(16),
            ttt,
            sn: TargetNumbers::read(r),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::TextResponse, bit(self.final_, FINAL) | bit(self.continues, CONTINUE))
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .numbers(self.sn);
    }
}

/// SCSI Data-In (RFC 7143 11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// Last of its sequence (or of a burst).
    pub final_: bool,
    /// A DataACK SNACK is asked for (error recovery level 1 and 2).
    pub acknowledge: bool,
    /// SCSI status, where this PDU ends the command (S).
    pub status: Option<u8>,
    /// Residual; meaningful with a status.
    pub residual: Residual,
    /// LUN field; meaningful with a target transfer tag.
    pub lun: u64,
    /// The command's tag.
    pub itt: Tag,
    /// For the DataACK; otherwise reserved.
    pub ttt: Tag,
    /// Numbers; StatSN is meaningful with a status.
    pub sn: TargetNumbers,
    /// Number within the command.
    pub data_sn: Serial,
    /// Where the data goes in the command's transfer.
    pub offset: u32,
    /// Bytes of data.
    pub data_len: u32,
}

impl DataIn {
    #[inline]
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        let final_ = r.flag(FINAL);
        let status = r.flag(STATUS).then(|| r.u8(3));
        if status.is_some() && !final_ {
            return r.bad("F must be 1 where S is");
        }
        let residual = Residual::read(r, OVERFLOW, UNDERFLOW, 44)?;
        if status.is_none() && residual != Residual::None {
            return r.bad("a residual without status");
        }
        Ok(DataIn {
            final_,
            acknowledge: r.flag(0x40),
            status,
            residual,
            lun: r.lun(),
            itt: r.tag(16),
            ttt: r.tag(20),
            sn: TargetNumbers::read(r),
            data_sn: r.serial(36),
            offset: r.u32(40),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    #[inline]
    pub fn encode(&self, out: &mut Bhs) {
        let flags = bit(self.final_, FINAL)
            | bit(self.acknowledge, 0x40)
            | bit(self.status.is_some(), STATUS)
            | self.residual.bits(OVERFLOW, UNDERFLOW);
        Writer::new(out, Opcode::DataIn, flags)
            .u8(3, self.status.unwrap_or(0))
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .numbers(self.sn)
            .serial(36, self.data_sn)
            .u32(40, self.offset)
            .u32(44, self.residual.count());
    }
}

/// Logout Response (RFC 7143 11.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutResponsePdu {
    /// How it went.
    pub response: LogoutResponse,
    /// The request's tag.
    pub itt: Tag,
    /// Numbers.
    pub sn: TargetNumbers,
    /// Seconds to wait before a new login.
    pub time2wait: u16,
    /// Seconds after that in which tasks can be reassigned.
    pub time2retain: u16,
}

impl LogoutResponsePdu {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        r.no_data()?;
        Ok(LogoutResponsePdu {
            response: LogoutResponse::from_code(r.u8(2)),
            itt: r.tag(16),
            sn: TargetNumbers::read(r),
            time2wait: r.u16(40),
            time2retain: r.u16(42),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::LogoutResponse, FINAL)
            .u8(2, self.response.code())
            .tag(16, self.itt)
            .numbers(self.sn)
            .u16(40, self.time2wait)
            .u16(42, self.time2retain);
    }
}

/// Ready To Transfer (RFC 7143 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    /// LUN field.
    pub lun: u64,
    /// The command's tag.
    pub itt: Tag,
    /// To be repeated in the Data-Out PDUs; never reserved.
    pub ttt: Tag,
    /// Numbers; StatSN is the next one, not consumed.
    pub sn: TargetNumbers,
    /// Number within the command.
    pub r2t_sn: Serial,
    /// First byte that is wanted.
    pub offset: u32,
    /// Bytes that are wanted; never 0.
    pub desired_len: u32,
}

impl R2t {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        r.no_data()?;
        let (ttt, desired_len) = (r.tag(20), r.u32(44));
        if ttt.is_reserved() {
            return r.bad("the Target Transfer Tag must not be 0xffffffff");
        }
        if desired_len == 0 {
            return r.bad("the Desired Data Transfer Length must not be 0");
        }
        Ok(R2t {
            lun: r.lun(),
            itt: r.tag(16),
            ttt,
            sn: TargetNumbers::read(r),
            r2t_sn: r.serial(36),
            offset: r.u32(40),
            desired_len,
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::R2t, FINAL)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .numbers(self.sn)
            .serial(36, self.r2t_sn)
            .u32(40, self.offset)
            .u32(44, self.desired_len);
    }
}

/// Asynchronous Message (RFC 7143 11.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    /// What happened.
    pub event: AsyncEvent,
    /// Vendor code of [`AsyncEvent::Vendor`].
    pub vendor_code: u8,
    /// LUN field, where the event is about a logical unit.
    pub lun: u64,
    /// Numbers.
    pub sn: TargetNumbers,
    /// Parameter1: the CID of a connection that is dropped.
    pub parameter1: u16,
    /// Parameter2: Time2Wait of a drop.
    pub parameter2: u16,
    /// Parameter3: seconds to act, or Time2Retain of a drop.
    pub parameter3: u16,
    /// Bytes of sense and event data.
    pub data_len: u32,
}

impl AsyncMessage {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        Ok(AsyncMessage {
            event: AsyncEvent::from_code(r.u8(36)),
            vendor_code: r.u8(37),
            lun: r.lun(),
            sn: TargetNumbers::read(r),
            parameter1: r.u16(38),
            parameter2: r.u16(40),
            parameter3: r.u16(42),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::AsyncMessage, FINAL)
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, Tag::RESERVED)
            .numbers(self.sn)
            .u8(36, self.event.code())
            .u8(37, self.vendor_code)
            .u16(38, self.parameter1)
            .u16(40, self.parameter2)
            .u16(42, self.parameter3);
    }
}

/// Reject (RFC 7143 11.17). Its data is the header that is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// Numbers.
    pub sn: TargetNumbers,
    /// The next Data-In or R2T number, where it is about a data digest of a running command.
    pub data_sn: Serial,
    /// Bytes of the rejected header.
    pub data_len: u32,
}

impl Reject {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        Ok(Reject {
            reason: RejectReason::from_code(r.u8(2)),
            sn: TargetNumbers::read(r),
            data_sn: r.serial(36),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::Reject, FINAL)
            .u8(2, self.reason.code())
            .data_len(self.data_len)
            .tag(16, Tag::RESERVED)
            .numbers(self.sn)
            .serial(36, self.data_sn);
    }
}
