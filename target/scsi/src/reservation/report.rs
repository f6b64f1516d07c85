//! PERSISTENT RESERVE IN (SPC-4 6.15).

use super::{Kind, Refusal, Registrant, Reservations, TransportId};
use crate::Nexus;

/// Parameter data that is cut at the allocation length while it is made, but knows how long it would be.
struct Cut {
    bytes: Vec<u8>,
    room: usize,
    total: usize,
}

impl Cut {
    fn put(&mut self, data: &[u8]) {
        let keep = data.len().min(self.room - self.bytes.len());
        self.bytes.extend_from_slice(&data[..keep]);
        self.total += data.len();
    }
}

impl Reservations {
    /// PERSISTENT RESERVE IN: the parameter data, cut at the allocation length.
    pub fn persistent_in(&self, _who: &Nexus, cdb: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Some(cdb) = cdb.first_chunk::<10>() else { return Err(Refusal::InvalidFieldInCdb(0, None)) };
        // A SCSI-2 reservation excludes the whole of persistent reservations, for its holder too (SPC-2 5.5.1).
        if self.legacy.is_some() {
            return Err(Refusal::Conflict);
        }
        let room = usize::from(u16::from_be_bytes([cdb[7], cdb[8]]));
        let mut out = Cut { bytes: Vec::new(), room, total: 0 };
        match cdb[1] & 0x1f {
            0x00 => self.read_keys(&mut out),
            0x01 => self.read_reservation(&mut out),
            0x02 => self.report_capabilities(&mut out),
            0x03 => self.read_full_status(&mut out),
            _ => return Err(Refusal::InvalidFieldInCdb(1, Some(4))),
        }
        Ok(out.bytes)
    }

    fn header(&self, additional: usize, out: &mut Cut) {
        out.put(&self.generation.to_be_bytes());
        out.put(&u32::try_from(additional).unwrap_or(u32::MAX).to_be_bytes());
    }

    /// READ KEYS (6.15.2).
    fn read_keys(&self, out: &mut Cut) {
        self.header(self.registrants.len() * 8, out);
        for r in &self.registrants {
            out.put(&r.key.to_be_bytes());
        }
    }

    /// READ RESERVATION (6.15.3).
    fn read_reservation(&self, out: &mut Cut) {
        let Some(held) = &self.held else { return self.header(0, out) };
        self.header(16, out);
        // The all registrants types have no single holder: the key is zero.
        let key = match held.kind.all_registrants() {
            true => 0,
            false => self.registrants.iter().find(|r| self.is_holder(r)).map_or(0, |r| r.key),
        };
        out.put(&key.to_be_bytes());
        out.put(&[0, 0, 0, 0, 0, held.kind as u8, 0, 0]);
    }

    /// REPORT CAPABILITIES (6.15.4).
    fn report_capabilities(&self, out: &mut Cut) {
        // CRH, SIP_C, ATP_C, PTPL_C.
        const CAPABLE: u8 = 0x10 | 0x08 | 0x04 | 0x01;
        // TMV; ALLOW COMMANDS 001b: TEST UNIT READY passes every type.
        const VALID: u8 = 0x80 | 0x10;
        let mask = Kind::ALL.iter().fold(0u16, |m, &k| m | 1 << (k as u8)).to_le_bytes();
        out.put(&[0, 8, CAPABLE, VALID | u8::from(self.aptpl), mask[0], mask[1], 0, 0]);
    }

    /// READ FULL STATUS (6.15.5).
    fn read_full_status(&self, out: &mut Cut) {
        let mut descriptors = Cut { bytes: Vec::new(), room: out.room.saturating_sub(8), total: 0 };
        let mut one = Vec::new();
        for r in &self.registrants {
            one.clear();
            self.full_status(r, &mut one);
            descriptors.put(&one);
        }
        self.header(descriptors.total, out);
        out.put(&descriptors.bytes);
    }

    fn full_status(&self, r: &Registrant, out: &mut Vec<u8>) {
        out.extend(r.key.to_be_bytes());
        out.extend([0; 4]);
        match self.held.as_ref().filter(|_| self.is_holder(r)) {
            Some(held) => out.extend([0x01, held.kind as u8]),
            None => out.extend([0, 0]),
        }
        out.extend([0; 4]);
        out.extend(r.portal_group.to_be_bytes());
        let length_at = out.len();
        out.extend([0; 4]);
        TransportId::write_port(&r.initiator, out);
        let length = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX);
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
}
