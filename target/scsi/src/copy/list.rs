//! The parameter list of EXTENDED COPY(LID1) (SPC-4 5.16.7 and 6.4).

use std::sync::Arc;

use block::Bufs;

use super::{CSCDS_MAX, DESCRIPTOR_BYTES_MAX, SEGMENTS_MAX};
use crate::LogicalUnit;
use crate::cdb::{be16, be24, be32, be64, flag, u8_at};
use crate::sense::{Asc, Sense};
use crate::task::Inventory;

/// Segment descriptor: block device to block device (SPC-4 6.4.6.4).
pub(super) const BLOCK_TO_BLOCK: u8 = 0x02;
/// Segment descriptor: block device to block device with offset (SPC-4 6.4.6.8).
pub(super) const BLOCK_TO_BLOCK_OFFSET: u8 = 0x0a;
/// CSCD descriptor: identification descriptor (SPC-4 6.4.5.3).
pub(super) const IDENTIFICATION: u8 = 0xe4;
/// CSCD ID of the logical unit that contains the copy manager.
pub(super) const THIS_UNIT: u16 = 0xffff;

const HEADER: usize = 16;
const CSCD: usize = 32;

const TOO_MANY_CSCDS: Asc = Asc(0x2606);
const UNSUPPORTED_CSCD: Asc = Asc(0x2607);
const TOO_MANY_SEGMENTS: Asc = Asc(0x2608);
const UNSUPPORTED_SEGMENT: Asc = Asc(0x2609);
const INLINE_DATA_LENGTH_EXCEEDED: Asc = Asc(0x260b);

/// A copy source or destination.
#[derive(Debug)]
pub(crate) struct Cscd {
    designator_type: u8,
    designator: Vec<u8>,
    /// PERIPHERAL DEVICE TYPE.
    pub(super) device_type: u8,
    /// DISK BLOCK LENGTH.
    pub(super) block_bytes: u32,
    /// The unit, where the nexus may use one of this name.
    pub(super) unit: Option<Arc<LogicalUnit>>,
}

/// How much a segment copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// Blocks, of the destination's size where DC is set, else of the source's.
    Blocks {
        /// How many.
        count: u16,
        /// DC.
        of_destination: bool,
    },
    /// Bytes, each from an offset into a block.
    Bytes {
        /// How many.
        count: u32,
        /// Into the source's first block.
        source_offset: u16,
        /// Into the destination's first block.
        destination_offset: u16,
    },
}

/// A segment descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) source_lba: u64,
    pub(super) destination_lba: u64,
    pub(super) amount: Amount,
}

/// A parameter list.
#[derive(Debug)]
pub(crate) struct List {
    /// LIST IDENTIFIER, where the results can be asked for.
    pub(super) id: Option<u8>,
    /// LIST ID USAGE 10b: no data are held.
    pub(super) discards: bool,
    pub(super) cscds: Vec<Cscd>,
    pub(super) segments: Vec<Segment>,
}

/// The parameter list in one piece.
pub(super) fn gather(bufs: &Bufs, len: usize) -> Result<Vec<u8>, Sense> {
    if len > HEADER + DESCRIPTOR_BYTES_MAX {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH));
    }
    let mut out = Vec::with_capacity(len);
    for b in bufs {
        out.extend_from_slice(&b[..b.len().min(len - out.len())]);
    }
    if out.len() < len { Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH)) } else { Ok(out) }
}

/// A refusal that points at a byte of the list.
fn at(asc: Asc, byte: usize) -> Sense {
    Sense { asc, ..Sense::parameter(byte) }
}

impl List {
    /// Reads a list. What a segment asks of its units is checked when it is its turn.
    pub(crate) fn parse(bytes: &[u8]) -> Result<List, Sense> {
        let length_error = Sense::illegal(Asc::PARAMETER_LIST_LENGTH);
        if bytes.len() < HEADER {
            return Err(length_error);
        }
        let cscd_len = usize::from(be16(bytes, 2));
        let segment_len = be32(bytes, 8) as usize;
        let descriptors = cscd_len.saturating_add(segment_len);
        if descriptors > DESCRIPTOR_BYTES_MAX || HEADER + descriptors > bytes.len() {
            return Err(length_error);
        }
        // No descriptor type that is supported has inline data.
        if be32(bytes, 12) != 0 {
            return Err(at(INLINE_DATA_LENGTH_EXCEEDED, 12));
        }
        let (id, discards) = match (u8_at(bytes, 1) >> 3 & 3, u8_at(bytes, 0)) {
            (0, id) => (Some(id), false),
            (2, id) => (Some(id), true),
            (3, 0) => (None, true),
            (3, _) => return Err(Sense::parameter(0)),
            _ => return Err(Sense::parameter_bit(1, 4)),
        };
        let split = HEADER + cscd_len;
        let cscds = cscds(&bytes[HEADER..split])?;
        let segments = segments(&bytes[split..split + segment_len], split)?;
        Ok(List { id, discards, cscds, segments })
    }

    /// Finds the units.
    pub(super) fn resolve(&mut self, inventory: &dyn Inventory) {
        for c in &mut self.cscds {
            c.unit = inventory.unit_by_designator(&|u| {
                super::is_disk(u) && u.has_designator(c.designator_type, &c.designator)
            });
        }
    }
}

fn cscds(bytes: &[u8]) -> Result<Vec<Cscd>, Sense> {
    if bytes.len() > CSCDS_MAX * CSCD {
        return Err(at(TOO_MANY_CSCDS, 2));
    }
    let mut out = Vec::with_capacity(bytes.len() / CSCD);
    for (i, d) in bytes.chunks(CSCD).enumerate() {
        let place = HEADER + i * CSCD;
        if u8_at(d, 0) != IDENTIFICATION {
            return Err(at(UNSUPPORTED_CSCD, place));
        }
        if d.len() < CSCD {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH));
        }
        let len = usize::from(d[7]);
        // The designators of a logical unit; LU ID TYPE and NUL in byte 1 are obsolete and ignored.
        if len > 20 || d[5] & 0x30 != 0 {
            return Err(Sense::parameter(place + if len > 20 { 7 } else { 5 }));
        }
        out.push(Cscd {
            designator_type: d[5] & 0x0f,
            designator: d[8..8 + len].to_vec(),
            device_type: d[1] & 0x1f,
            block_bytes: be24(d, 29),
            unit: None,
        });
    }
    Ok(out)
}

fn segments(bytes: &[u8], base: usize) -> Result<Vec<Segment>, Sense> {
    let mut out = Vec::new();
    let mut place = 0;
    while place < bytes.len() {
        if out.len() == SEGMENTS_MAX {
            return Err(at(TOO_MANY_SEGMENTS, 8));
        }
        let d = &bytes[place..];
        let expected = match d[0] {
            BLOCK_TO_BLOCK => 0x18,
            BLOCK_TO_BLOCK_OFFSET => 0x1c,
            _ => return Err(at(UNSUPPORTED_SEGMENT, base + place)),
        };
        if d.len() < 4 + expected {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH));
        }
        if usize::from(be16(d, 2)) != expected {
            return Err(Sense::parameter(base + place + 2));
        }
        let amount = match d[0] {
            BLOCK_TO_BLOCK => Amount::Blocks { count: be16(d, 10), of_destination: flag(d, 1, 1) },
            _ => Amount::Bytes {
                count: be32(d, 8),
                source_offset: be16(d, 28),
                destination_offset: be16(d, 30),
            },
        };
        out.push(Segment {
            source: be16(d, 4),
            destination: be16(d, 6),
            source_lba: be64(d, 12),
            destination_lba: be64(d, 20),
            amount,
        });
        place += 4 + expected;
    }
    Ok(out)
}
