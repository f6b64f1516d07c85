//! Sense data (SPC-4 4.5): built once, written in the fixed or the descriptor format as the unit's D_SENSE says.

use block::{IoError, IoErrorKind};

use crate::{DataIn, Reply, Status};

/// Sense keys (SPC-4 4.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Key {
    NoSense = 0x0,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    CopyAborted = 0xa,
    AbortedCommand = 0xb,
    Miscompare = 0xe,
}

/// Additional sense code and qualifier (SPC-4 annex F), code in the high byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asc(pub(crate) u16);

impl Asc {
    pub(crate) const NONE: Asc = Asc(0x0000);
    pub(crate) const NOT_READY_FORMAT: Asc = Asc(0x0404);
    pub(crate) const NOT_ACCESSIBLE_TRANSITION: Asc = Asc(0x040a);
    pub(crate) const NOT_ACCESSIBLE_STANDBY: Asc = Asc(0x040b);
    pub(crate) const NOT_ACCESSIBLE_UNAVAILABLE: Asc = Asc(0x040c);
    pub(crate) const NOT_READY_OFFLINE: Asc = Asc(0x0412);
    pub(crate) const NOT_READY_SANITIZE: Asc = Asc(0x041b);
    pub(crate) const UNIT_FAILURE: Asc = Asc(0x3e01);
    pub(crate) const WRITE_ERROR: Asc = Asc(0x0c00);
    pub(crate) const INVALID_FIELD_IN_INFORMATION_UNIT: Asc = Asc(0x0e03);
    pub(crate) const UNRECOVERED_READ_ERROR: Asc = Asc(0x1100);
    pub(crate) const PARAMETER_LIST_LENGTH: Asc = Asc(0x1a00);
    pub(crate) const INTERNAL_TARGET_FAILURE: Asc = Asc(0x4400);
    pub(crate) const MISCOMPARE_DURING_VERIFY: Asc = Asc(0x1d00);
    pub(crate) const INVALID_OPERATION_CODE: Asc = Asc(0x2000);
    pub(crate) const LBA_OUT_OF_RANGE: Asc = Asc(0x2100);
    pub(crate) const INVALID_FIELD_IN_CDB: Asc = Asc(0x2400);
    pub(crate) const LOGICAL_UNIT_NOT_SUPPORTED: Asc = Asc(0x2500);
    pub(crate) const INVALID_FIELD_IN_PARAMETER_LIST: Asc = Asc(0x2600);
    pub(crate) const WRITE_PROTECTED: Asc = Asc(0x2700);
    pub(crate) const SOFTWARE_WRITE_PROTECTED: Asc = Asc(0x2702);
    pub(crate) const SPACE_ALLOCATION_FAILED: Asc = Asc(0x2707);
    pub(crate) const MEDIUM_MAY_HAVE_CHANGED: Asc = Asc(0x2800);
    pub(crate) const RESET_OCCURRED: Asc = Asc(0x2900);
    pub(crate) const POWER_ON: Asc = Asc(0x2901);
    pub(crate) const TARGET_RESET: Asc = Asc(0x2902);
    pub(crate) const UNIT_RESET: Asc = Asc(0x2903);
    pub(crate) const MODE_PARAMETERS_CHANGED: Asc = Asc(0x2a01);
    pub(crate) const ALUA_STATE_CHANGED: Asc = Asc(0x2a06);
    pub(crate) const CAPACITY_CHANGED: Asc = Asc(0x2a09);
    pub(crate) const COMMANDS_CLEARED: Asc = Asc(0x2f00);
    pub(crate) const FORMAT_CORRUPTED: Asc = Asc(0x3100);
    pub(crate) const SANITIZE_FAILED: Asc = Asc(0x3103);
    pub(crate) const MEDIUM_NOT_PRESENT: Asc = Asc(0x3a00);
    pub(crate) const SAVING_NOT_SUPPORTED: Asc = Asc(0x3900);
    pub(crate) const INQUIRY_DATA_CHANGED: Asc = Asc(0x3f03);
    pub(crate) const LUNS_DATA_CHANGED: Asc = Asc(0x3f0e);
    pub(crate) const REMOVAL_PREVENTED: Asc = Asc(0x5302);
    pub(crate) const INSUFFICIENT_REGISTRATION_RESOURCES: Asc = Asc(0x5504);
}

/// Sense data before they are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sense {
    pub(crate) key: Key,
    pub(crate) asc: Asc,
    /// INFORMATION.
    pub(crate) information: Option<u64>,
    /// COMMAND-SPECIFIC INFORMATION.
    pub(crate) command_specific: Option<u32>,
    /// SENSE KEY SPECIFIC, with its SKSV bit.
    pub(crate) specific: Option<[u8; 3]>,
    /// It tells of an earlier command that had its status already (SPC-4 4.5.7).
    pub(crate) deferred: bool,
}

impl Sense {
    pub(crate) const fn new(key: Key, asc: Asc) -> Self {
        Sense { key, asc, information: None, command_specific: None, specific: None, deferred: false }
    }

    pub(crate) const fn illegal(asc: Asc) -> Self {
        Sense::new(Key::IllegalRequest, asc)
    }

    /// INVALID FIELD IN CDB, at byte `byte`.
    pub(crate) fn field(byte: usize) -> Self {
        Sense { specific: Some(pointer(true, byte, None)), ..Sense::illegal(Asc::INVALID_FIELD_IN_CDB) }
    }

    /// INVALID FIELD IN CDB, at `bit` of byte `byte`.
    pub(crate) fn field_bit(byte: usize, bit: u8) -> Self {
        Sense { specific: Some(pointer(true, byte, Some(bit))), ..Sense::illegal(Asc::INVALID_FIELD_IN_CDB) }
    }

    /// INVALID FIELD IN PARAMETER LIST, at byte `byte`.
    pub(crate) fn parameter(byte: usize) -> Self {
        let specific = Some(pointer(false, byte, None));
        Sense { specific, ..Sense::illegal(Asc::INVALID_FIELD_IN_PARAMETER_LIST) }
    }

    /// INVALID FIELD IN PARAMETER LIST, at `bit` of byte `byte`.
    pub(crate) fn parameter_bit(byte: usize, bit: u8) -> Self {
        let specific = Some(pointer(false, byte, Some(bit)));
        Sense { specific, ..Sense::illegal(Asc::INVALID_FIELD_IN_PARAMETER_LIST) }
    }

    /// LOGICAL BLOCK ADDRESS OUT OF RANGE, with the first address that is.
    pub(crate) fn out_of_range(lba: u64) -> Self {
        Sense { information: Some(lba), ..Sense::illegal(Asc::LBA_OUT_OF_RANGE) }
    }

    /// With INFORMATION.
    pub(crate) fn at(self, information: u64) -> Self {
        Sense { information: Some(information), ..self }
    }

    /// With a progress indication, in 65536ths (SPC-4 4.5.2.4.4).
    pub(crate) fn progress(self, fraction: u16) -> Self {
        let [a, b] = fraction.to_be_bytes();
        Sense { specific: Some([0x80, a, b]), ..self }
    }

    /// What an error of the device means to an initiator. `shift` is log2 of the block size.
    pub(crate) fn from_io(error: &IoError, write: bool, shift: u32) -> Self {
        let sense = match error.kind {
            IoErrorKind::Medium | IoErrorKind::Other if write => {
                Sense::new(Key::MediumError, Asc::WRITE_ERROR)
            }
            IoErrorKind::Medium | IoErrorKind::Other => {
                Sense::new(Key::MediumError, Asc::UNRECOVERED_READ_ERROR)
            }
            IoErrorKind::NoSpace => Sense::new(Key::DataProtect, Asc::SPACE_ALLOCATION_FAILED),
            IoErrorKind::ReadOnly => Sense::new(Key::DataProtect, Asc::WRITE_PROTECTED),
            IoErrorKind::OutOfRange => Sense::illegal(Asc::LBA_OUT_OF_RANGE),
            IoErrorKind::Misaligned | IoErrorKind::Unsupported | IoErrorKind::ReservationConflict => {
                Sense::new(Key::HardwareError, Asc::INTERNAL_TARGET_FAILURE)
            }
            IoErrorKind::Fenced => Sense::new(Key::NotReady, Asc::NOT_ACCESSIBLE_UNAVAILABLE),
            IoErrorKind::Gone => Sense::new(Key::HardwareError, Asc::UNIT_FAILURE),
            IoErrorKind::TimedOut => Sense::new(Key::AbortedCommand, Asc::INTERNAL_TARGET_FAILURE),
        };
        Sense { information: error.offset.map(|o| o >> shift), ..sense }
    }

    /// The bytes: descriptor format (72h) or fixed format (70h), SPC-4 4.5.2 and 4.5.3.
    pub(crate) fn to_bytes(self, descriptor: bool) -> Vec<u8> {
        if descriptor { self.descriptor_format() } else { self.fixed_format() }
    }

    fn descriptor_format(self) -> Vec<u8> {
        let [asc, ascq] = self.asc.0.to_be_bytes();
        let mut b = vec![0x72 | u8::from(self.deferred), self.key as u8, asc, ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            b.extend_from_slice(&[0x00, 0x0a, 0x80, 0]);
            b.extend_from_slice(&information.to_be_bytes());
        }
        if let Some(specific) = self.command_specific {
            b.extend_from_slice(&[0x01, 0x0a, 0, 0, 0, 0, 0, 0]);
            b.extend_from_slice(&specific.to_be_bytes());
        }
        if let Some(specific) = self.specific {
            b.extend_from_slice(&[0x02, 0x06, 0, 0]);
            b.extend_from_slice(&specific);
            b.push(0);
        }
        b[7] = (b.len() - 8) as u8;
        b
    }

    fn fixed_format(self) -> Vec<u8> {
        let mut b = vec![0; 18];
        b[0] = 0x70 | u8::from(self.deferred);
        // INFORMATION has four bytes here; what does not fit is not valid (SPC-4 4.5.3).
        if let Some(Ok(information)) = self.information.map(u32::try_from) {
            b[0] |= 0x80;
            b[3..7].copy_from_slice(&information.to_be_bytes());
        }
        b[2] = self.key as u8;
        b[7] = 10;
        b[8..12].copy_from_slice(&self.command_specific.unwrap_or(0).to_be_bytes());
        b[12..14].copy_from_slice(&self.asc.0.to_be_bytes());
        if let Some(specific) = self.specific {
            b[15..18].copy_from_slice(&specific);
        }
        b
    }
}

/// Field pointer (SPC-4 4.5.2.4.2).
fn pointer(cdb: bool, byte: usize, bit: Option<u8>) -> [u8; 3] {
    let [a, b] = u16::try_from(byte).unwrap_or(u16::MAX).to_be_bytes();
    [0x80 | u8::from(cdb) << 6 | bit.map_or(0, |n| 0x08 | (n & 7)), a, b]
}

/// Why a command ends without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// CHECK CONDITION.
    Sense(Sense),
    /// Another status, without sense data.
    Status(Status),
}

impl From<Sense> for Refusal {
    fn from(s: Sense) -> Self {
        Refusal::Sense(s)
    }
}

impl Refusal {
    /// The reply that says so.
    pub(crate) fn reply(self, descriptor: bool, transfer_len: u64) -> Reply {
        let (status, sense) = match self {
            Refusal::Sense(s) => (Status::CheckCondition, Some(s.to_bytes(descriptor))),
            Refusal::Status(s) => (s, None),
        };
        Reply { status, sense, data_in: DataIn::None, transfer_len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats() {
        let s = Sense::field_bit(1, 4);
        assert_eq!(s.to_bytes(false), [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcc, 0, 1]);
        assert_eq!(s.to_bytes(true), [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcc, 0, 1, 0]);
        let far = Sense::out_of_range(1 << 40);
        assert_eq!(far.to_bytes(false)[0], 0x70, "does not fit: not valid");
        assert_eq!(far.to_bytes(true)[8..20], [0, 0x0a, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_device_error_has_its_sense() {
        let asc = |kind, write| Sense::from_io(&IoError::at(kind, 4096), write, 9);
        assert_eq!(asc(IoErrorKind::Medium, true), Sense::new(Key::MediumError, Asc::WRITE_ERROR).at(8));
        assert_eq!(asc(IoErrorKind::Medium, false).asc, Asc::UNRECOVERED_READ_ERROR);
        assert_eq!(asc(IoErrorKind::NoSpace, true).asc, Asc::SPACE_ALLOCATION_FAILED);
        assert_eq!(asc(IoErrorKind::Fenced, true).key, Key::NotReady);
    }
}
