//! What an initiator sends.

use super::wire::{Reader, Writer};
use super::{Bhs, LoginStage, LogoutReason, Opcode, PduError, SnackType, Tag, TaskAttribute, TmfFunction};
use crate::serial::Serial;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// A PDU from an initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    NopOut(NopOut),
    ScsiCommand(ScsiCommand),
    Tmf(TmfRequest),
    Login(LoginRequest),
    Text(TextRequest),
    DataOut(DataOut),
    Logout(LogoutRequest),
    Snack(Snack),
}

impl Request {
    /// Reads a header that came from an initiator.
    #[inline]
    pub fn parse(bhs: &Bhs) -> Result<Request, PduError> {
        let r = Reader::new(bhs)?;
        if r.opcode != Opcode::ScsiCommand && r.opcode.is_request() {
            r.no_ahs()?;
        }
        match r.opcode {
            Opcode::NopOut => NopOut::read(&r).map(Request::NopOut),
            Opcode::ScsiCommand => ScsiCommand::read(&r).map(Request::ScsiCommand),
            Opcode::TmfRequest => TmfRequest::read(&r).map(Request::Tmf),
            Opcode::LoginRequest => LoginRequest::read(&r).map(Request::Login),
            Opcode::TextRequest => TextRequest::read(&r).map(Request::Text),
            Opcode::DataOut => Ok(Request::DataOut(DataOut::read(&r))),
            Opcode::LogoutRequest => LogoutRequest::read(&r).map(Request::Logout),
            Opcode::Snack => Snack::read(&r).map(Request::Snack),
            other => Err(PduError::WrongDirection(other)),
        }
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        match self {
            Request::NopOut(p) => p.encode(out),
            Request::ScsiCommand(p) => p.encode(out),
            Request::Tmf(p) => p.encode(out),
            Request::Login(p) => p.encode(out),
            Request::Text(p) => p.encode(out),
            Request::DataOut(p) => p.encode(out),
            Request::Logout(p) => p.encode(out),
            Request::Snack(p) => p.encode(out),
        }
    }

    /// Its opcode.
    pub fn opcode(&self) -> Opcode {
        match self {
            Request::NopOut(_) => Opcode::NopOut,
            Request::ScsiCommand(_) => Opcode::ScsiCommand,
            Request::Tmf(_) => Opcode::TmfRequest,
            Request::Login(_) => Opcode::LoginRequest,
            Request::Text(_) => Opcode::TextRequest,
            Request::DataOut(_) => Opcode::DataOut,
            Request::Logout(_) => Opcode::LogoutRequest,
            Request::Snack(_) => Opcode::Snack,
        }
    }
}

/// NOP-Out (RFC 7143 11.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    /// Delivered at once, CmdSN not consumed.
    pub immediate: bool,
    /// LUN field; that of the NOP-In that it answers.
    pub lun: u64,
    /// Reserved where no answer is wanted.
    pub itt: Tag,
    /// Reserved where this is not the answer to a NOP-In.
    pub ttt: Tag,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// Bytes of ping data.
    pub data_len: u32,
}

impl NopOut {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        let itt = r.tag(16);
        if itt.is_reserved() && !r.immediate() {
            return r.bad("a NOP-Out without Initiator Task Tag must be immediate");
        }
        Ok(NopOut {
            immediate: r.immediate(),
            lun: r.lun(),
            itt,
            ttt: r.tag(20),
            cmd_sn: r.serial(24),
            exp_stat_sn: r.serial(28),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::NopOut, FINAL)
            .immediate(self.immediate)
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .serial(24, self.cmd_sn)
            .serial(28, self.exp_stat_sn);
    }
}

/// SCSI Command (RFC 7143 11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Delivered at once, CmdSN not consumed.
    pub immediate: bool,
    /// No unsolicited Data-Out follows.
    pub final_: bool,
    /// The command is expected to bring data in.
    pub read: bool,
    /// The command is expected to take data out.
    pub write: bool,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Command priority (RFC 7144 4.3), 0 for none; 4 bits.
    pub priority: u8,
    /// LUN field.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: Tag,
    /// Expected Data Transfer Length; of a bidirectional command, that of its write.
    pub expected_len: u32,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// The CDB's first 16 bytes.
    pub cdb: [u8; 16],
    /// Bytes of additional header segments, a multiple of 4 up to 1020 (see [`super::Ahs`]).
    pub ahs_len: u16,
    /// Bytes of immediate data.
    pub data_len: u32,
}

impl ScsiCommand {
    #[inline]
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        let (final_, read, write) = (r.flag(FINAL), r.flag(0x40), r.flag(0x20));
        let Some(attribute) = TaskAttribute::from_code(r.u8(1) & 0x07) else {
            return r.bad("ATTR must be 0 to 4");
        };
        if !final_ && !write {
            return r.bad("F and W are both 0: only a write has unsolicited data to follow");
        }
        if !write && r.data_len() != 0 {
            return r.bad("immediate data in a command whose W bit is 0");
        }
        let itt = r.tag(16);
        if itt.is_reserved() {
            return r.bad("the Initiator Task Tag must not be 0xffffffff");
        }
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&r.bhs[32..48]);
        Ok(ScsiCommand {
            immediate: r.immediate(),
            final_,
            read,
            write,
            attribute,
            priority: r.u8(2) & 0x0f,
            lun: r.lun(),
            itt,
            expected_len: r.u32(20),
            cmd_sn: r.serial(24),
            exp_stat_sn: r.serial(28),
            cdb,
            ahs_len: u16::from(r.u8(4)) * 4,
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        debug_assert!(self.ahs_len.is_multiple_of(4) && self.ahs_len <= 1020);
        let flags =
            bit(self.final_, FINAL) | bit(self.read, 0x40) | bit(self.write, 0x20) | self.attribute.code();
        let w = Writer::new(out, Opcode::ScsiCommand, flags)
            .immediate(self.immediate)
            .u8(2, self.priority & 0x0f)
            .u8(4, (self.ahs_len / 4) as u8)
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, self.itt)
            .u32(20, self.expected_len)
            .serial(24, self.cmd_sn)
            .serial(28, self.exp_stat_sn);
        w.0[32..48].copy_from_slice(&self.cdb);
    }
}

/// Task Management Function Request (RFC 7143 11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmfRequest {
    /// Delivered at once, CmdSN not consumed.
    pub immediate: bool,
    /// What to do.
    pub function: TmfFunction,
    /// LUN field.
    pub lun: u64,
    /// Initiator task tag of this request.
    pub itt: Tag,
    /// The task that it is about, or reserved.
    pub ref_itt: Tag,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// CmdSN of the task to abort.
    pub ref_cmd_sn: Serial,
    /// Of a task to reassign: the next DataSN (or R2TSN) that is expected.
    pub exp_data_sn: Serial,
}

impl TmfRequest {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        r.no_data()?;
        let itt = r.tag(16);
        if itt.is_reserved() {
            return r.bad("the Initiator Task Tag must not be 0xffffffff");
        }
        Ok(TmfRequest {
            immediate: r.immediate(),
            function: TmfFunction::from_code(r.u8(1) & 0x7f),
            lun: r.lun(),
            itt,
            ref_itt: r.tag(20),
            cmd_sn: r.serial(24),
            exp_stat_sn: r.serial(28),
            ref_cmd_sn: r.serial(32),
            exp_data_sn: r.serial(36),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::TmfRequest, FINAL | (self.function.code() & 0x7f))
            .immediate(self.immediate)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ref_itt)
            .serial(24, self.cmd_sn)
            .serial(28, self.exp_stat_sn)
            .serial(32, self.ref_cmd_sn)
            .serial(36, self.exp_data_sn);
    }
}

/// Login Request (RFC 7143 11.12). It is always immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// The text goes on in the next Login Request (C).
    pub continues: bool,
    /// Current stage (CSG).
    pub stage: LoginStage,
    /// The stage to go to (T and NSG).
    pub transit: Option<LoginStage>,
    /// Highest version.
    pub version_max: u8,
    /// Lowest version.
    pub version_min: u8,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// Target session handle; 0 for a new session.
    pub tsih: u16,
    /// Initiator task tag.
    pub itt: Tag,
    /// Connection id.
    pub cid: u16,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// Bytes of text.
    pub data_len: u32,
}

impl LoginRequest {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        let (stage, transit, continues) = read_stages(r)?;
        Ok(LoginRequest {
            continues,
            stage,
            transit,
            version_max: r.u8(2),
            version_min: r.u8(3),
            isid: isid(r),
            tsih: r.u16(14),
            itt: r.tag(16),
            cid: r.u16(20),
            cmd_sn: r.serial(24),
            exp_stat_sn: r.serial(28),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        let w = Writer::new(out, Opcode::LoginRequest, stage_bits(self.stage, self.transit, self.continues))
            .immediate(true)
            .u8(2, self.version_max)
            .u8(3, self.version_min)
            .data_len(self.data_len)
            .u16(14, self.tsih)
            .tag(16, self.itt)
            .u16(20, self.cid)
            .serial(24, self.cmd_sn)
            .serial(28, self.exp_stat_sn);
        w.0[8..14].copy_from_slice(&self.isid);
    }
}

/// Text Request (RFC 7143 11.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// Delivered at once, CmdSN not consumed.
    pub immediate: bool,
    /// The initiator has no more to say.
    pub final_: bool,
    /// The text goes on in the next Text Request (C).
    pub continues: bool,
    /// LUN field, of the answer that this goes on after.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: Tag,
    /// Reserved in the first request of an exchange; then as the target gave it.
    pub ttt: Tag,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// Bytes of text.
    pub data_len: u32,
}

impl TextRequest {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        let (final_, continues) = (r.flag(FINAL), r.flag(CONTINUE));
        if final_ && continues {
            return r.bad("F and C are both 1: text that goes on is not final");
        }
        let itt = r.tag(16);
        if itt.is_reserved() {
            return r.bad("the Initiator Task Tag must not be 0xffffffff");
        }
        Ok(TextRequest {
            immediate: r.immediate(),
            final_,
            continues,
            lun: r.lun(),
            itt,
            ttt: r.tag(20),
            cmd_sn: r.serial(24),
            exp_stat_sn: r.serial(28),
            data_len: r.data_len(),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::TextRequest, bit(self.final_, FINAL) | bit(self.continues, CONTINUE))
            .immediate(self.immediate)
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .serial(24, self.cmd_sn)
            .serial(28, self.exp_stat_sn);
    }
}

/// SCSI Data-Out (RFC 7143 11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// Last of its sequence.
    pub final_: bool,
    /// LUN field, as in the R2T; reserved in unsolicited data.
    pub lun: u64,
    /// The command's tag.
    pub itt: Tag,
    /// The R2T's tag; reserved in unsolicited data.
    pub ttt: Tag,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// Number within its sequence.
    pub data_sn: Serial,
    /// Where the data goes in the command's transfer.
    pub offset: u32,
    /// Bytes of data.
    pub data_len: u32,
}

impl DataOut {
    #[inline]
    fn read(r: &Reader<'_>) -> Self {
        DataOut {
            final_: r.flag(FINAL),
            lun: r.lun(),
            itt: r.tag(16),
            ttt: r.tag(20),
            exp_stat_sn: r.serial(28),
            data_sn: r.serial(36),
            offset: r.u32(40),
            data_len: r.data_len(),
        }
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::DataOut, bit(self.final_, FINAL))
            .data_len(self.data_len)
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .serial(28, self.exp_stat_sn)
            .serial(36, self.data_sn)
            .u32(40, self.offset);
    }
}

/// Logout Request (RFC 7143 11.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    /// Delivered at once, CmdSN not consumed.
    pub immediate: bool,
    /// What is to be closed.
    pub reason: LogoutReason,
    /// Initiator task tag.
    pub itt: Tag,
    /// The connection, where the reason is about one.
    pub cid: u16,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
}

impl LogoutRequest {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        r.no_data()?;
        let itt = r.tag(16);
        if itt.is_reserved() {
            return r.bad("the Initiator Task Tag must not be 0xffffffff");
        }
        Ok(LogoutRequest {
            immediate: r.immediate(),
            reason: LogoutReason::from_code(r.u8(1) & 0x7f),
            itt,
            cid: r.u16(20),
            cmd_sn: r.serial(24),
            exp_stat_sn: r.serial(28),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::LogoutRequest, FINAL | (self.reason.code() & 0x7f))
            .immediate(self.immediate)
            .tag(16, self.itt)
            .u16(20, self.cid)
            .serial(24, self.cmd_sn)
            .serial(28, self.exp_stat_sn);
    }
}

/// SNACK Request (RFC 7143 11.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snack {
    /// What is missing.
    pub kind: SnackType,
    /// LUN field.
    pub lun: u64,
    /// The task, or reserved.
    pub itt: Tag,
    /// Target transfer tag of a DataACK, SNACK tag of an R-Data SNACK.
    pub ttt: Tag,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// First number that is missing; of a DataACK, the next DataSN that is expected.
    pub begin: Serial,
    /// How many; 0 for all.
    pub run_len: u32,
}

impl Snack {
    fn read(r: &Reader<'_>) -> Result<Self, PduError> {
        r.must_be_final()?;
        r.no_data()?;
        Ok(Snack {
            kind: SnackType::from_code(r.u8(1) & 0x0f),
            lun: r.lun(),
            itt: r.tag(16),
            ttt: r.tag(20),
            exp_stat_sn: r.serial(28),
            begin: r.serial(40),
            run_len: r.u32(44),
        })
    }

    /// Writes every byte of the header.
    pub fn encode(&self, out: &mut Bhs) {
        Writer::new(out, Opcode::Snack, FINAL | (self.kind.code() & 0x0f))
            .lun(self.lun)
            .tag(16, self.itt)
            .tag(20, self.ttt)
            .serial(28, self.exp_stat_sn)
            .serial(40, self.begin)
            .u32(44, self.run_len);
    }
}

#[inline]
pub(super) fn bit(yes: bool, mask: u8) -> u8 {
    if yes { mask } else { 0 }
}

pub(super) fn isid(r: &Reader<'_>) -> [u8; 6] {
    let mut isid = [0; 6];
    isid.copy_from_slice(&r.bhs[8..14]);
    isid
}

/// CSG, T with NSG, and C (RFC 7143 11.12.1 to 11.12.3).
pub(super) fn read_stages(r: &Reader<'_>) -> Result<(LoginStage, Option<LoginStage>, bool), PduError> {
    let continues = r.flag(CONTINUE);
    let stage = match LoginStage::from_code((r.u8(1) >> 2) & 3) {
        Some(stage @ (LoginStage::Security | LoginStage::Operational)) => stage,
        _ => return r.bad("CSG must be 0 (security) or 1 (operational)"),
    };
    if !r.flag(FINAL) {
        return Ok((stage, None, continues));
    }
    if continues {
        return r.bad("T and C are both 1: text that goes on does not end a stage");
    }
    match LoginStage::from_code(r.u8(1) & 3) {
        Some(next) if next > stage => Ok((stage, Some(next), false)),
        _ => r.bad("NSG must be a stage after CSG"),
    }
}

pub(super) fn stage_bits(stage: LoginStage, transit: Option<LoginStage>, continues: bool) -> u8 {
    let next = transit.map_or(0, |next| FINAL | next.code());
    next | bit(continues, CONTINUE) | (stage.code() << 2)
}
