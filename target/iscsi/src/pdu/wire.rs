//! Big-endian fields at fixed offsets of a header.

use super::{Bhs, Opcode, PduError, Tag};
use crate::serial::Serial;

pub(super) const fn u16_at(b: &Bhs, at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

pub(super) const fn u24_at(b: &Bhs, at: usize) -> u32 {
    u32::from_be_bytes([0, b[at], b[at + 1], b[at + 2]])
}

pub(super) const fn u32_at(b: &Bhs, at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub(super) const fn put_u16(b: &mut Bhs, at: usize, v: u16) {
    let v = v.to_be_bytes();
    b[at] = v[0];
    b[at + 1] = v[1];
}

pub(super) const fn put_u24(b: &mut Bhs, at: usize, v: u32) {
    debug_assert!(v <= super::DATA_SEGMENT_MAX);
    let v = v.to_be_bytes();
    b[at] = v[1];
    b[at + 1] = v[2];
    b[at + 2] = v[3];
}

pub(super) const fn put_u32(b: &mut Bhs, at: usize, v: u32) {
    let v = v.to_be_bytes();
    b[at] = v[0];
    b[at + 1] = v[1];
    b[at + 2] = v[2];
    b[at + 3] = v[3];
}

/// Reads the fields of one header.
pub(super) struct Reader<'a> {
    pub(super) bhs: &'a Bhs,
    pub(super) opcode: Opcode,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn new(bhs: &'a Bhs) -> Result<Self, PduError> {
        match Opcode::of(bhs[0]) {
            Some(opcode) => Ok(Reader { bhs, opcode }),
            None => Err(PduError::UnknownOpcode(bhs[0] & 0x3f)),
        }
    }

    pub(super) fn bad<T>(&self, problem: &'static str) -> Result<T, PduError> {
        Err(PduError::Field { opcode: self.opcode, problem })
    }

    pub(super) fn immediate(&self) -> bool {
        self.bhs[0] & 0x40 != 0
    }

    pub(super) fn flag(&self, mask: u8) -> bool {
        self.bhs[1] & mask != 0
    }

    pub(super) fn data_len(&self) -> u32 {
        u24_at(self.bhs, 5)
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        self.bhs[at]
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16_at(self.bhs, at)
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32_at(self.bhs, at)
    }

    pub(super) fn serial(&self, at: usize) -> Serial {
        Serial(self.u32(at))
    }

    pub(super) fn tag(&self, at: usize) -> Tag {
        Tag(self.u32(at))
    }

    pub(super) fn lun(&self) -> u64 {
        (u64::from(self.u32(8)) << 32) | u64::from(self.u32(12))
    }

    pub(super) fn no_ahs(&self) -> Result<(), PduError> {
        if self.bhs[4] != 0 {
            return self.bad("TotalAHSLength must be 0: only a SCSI Command has additional header segments");
        }
        Ok(())
    }

    pub(super) fn no_data(&self) -> Result<(), PduError> {
        if self.data_len() != 0 {
            return self.bad("DataSegmentLength must be 0: this PDU has no data segment");
        }
        Ok(())
    }

    pub(super) fn must_be_final(&self) -> Result<(), PduError> {
        if !self.flag(0x80) {
            return self.bad("bit 7 of byte 1 (final) must be 1");
        }
        Ok(())
    }
}

/// Writes the fields of one header.
pub(super) struct Writer<'a>(pub(super) &'a mut Bhs);

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn new(out: &'a mut Bhs, opcode: Opcode, flags: u8) -> Self {
        *out = [0; super::BHS_LEN];
        out[0] = opcode as u8;
        out[1] = flags;
        Writer(out)
    }

    pub(super) fn immediate(self, yes: bool) -> Self {
        if yes {
            self.0[0] |= 0x40;
        }
        self
    }

    pub(super) fn u8(self, at: usize, v: u8) -> Self {
        self.0[at] = v;
        self
    }

    pub(super) fn u16(self, at: usize, v: u16) -> Self {
        put_u16(self.0, at, v);
        self
    }

    pub(super) fn u32(self, at: usize, v: u32) -> Self {
        put_u32(self.0, at, v);
        self
    }

    pub(super) fn data_len(self, v: u32) -> Self {
        put_u24(self.0, 5, v);
        self
    }

    pub(super) fn tag(self, at: usize, v: Tag) -> Self {
        self.u32(at, v.0)
    }

    pub(super) fn serial(self, at: usize, v: Serial) -> Self {
        self.u32(at, v.0)
    }

    pub(super) fn lun(self, v: u64) -> Self {
        self.u32(8, (v >> 32) as u32).u32(12, v as u32)
    }

    pub(super) fn numbers(self, v: super::TargetNumbers) -> Self {
        v.stamp(self.0);
        self
    }
}
