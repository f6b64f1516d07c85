//! Additional header segments of a SCSI Command (RFC 7143 11.2.2).

use super::{Opcode, PduError};

/// The longest CDB (SPC-4 4.2.4: 8 bytes, and at most 252 more).
pub const CDB_BYTES_MAX: usize = 260;
/// The most that TotalAHSLength can say.
pub const AHS_BYTES_MAX: usize = 255 * 4;

const TYPE_EXTENDED_CDB: u8 = 1;
const TYPE_BIDI_READ_LENGTH: u8 = 2;

/// What a SCSI Command's additional header segments hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahs<'a> {
    /// The CDB from its byte 16 on.
    pub cdb_rest: &'a [u8],
    /// Bytes that the initiator takes of a bidirectional command.
    pub bidi_read_len: Option<u32>,
}

impl<'a> Ahs<'a> {
    /// Reads `bytes`, all of TotalAHSLength.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PduError> {
        let mut ahs = Ahs::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let &[hi, lo, kind, reserved, ..] = rest else {
                return bad("an additional header segment is shorter than its header");
            };
            let _ = reserved;
            let len = usize::from(u16::from_be_bytes([hi, lo]));
            // AHSLength counts from the reserved byte on, and each segment is padded to 4 (RFC 7143 11.2.2.1).
            let Some(body) = rest.get(3..3 + len) else {
                return bad("AHSLength goes past TotalAHSLength");
            };
            match (kind, body) {
                (TYPE_EXTENDED_CDB, [_, cdb @ ..]) if !cdb.is_empty() => {
                    if !ahs.cdb_rest.is_empty() {
                        return bad("a second extended CDB");
                    }
                    if cdb.len() > CDB_BYTES_MAX - 16 {
                        return bad("the extended CDB is longer than 260 bytes");
                    }
                    ahs.cdb_rest = cdb;
                }
                (TYPE_EXTENDED_CDB, _) => return bad("an empty extended CDB"),
                (TYPE_BIDI_READ_LENGTH, &[_, a, b, c, d]) => {
                    if ahs.bidi_read_len.is_some() {
                        return bad("a second bidirectional read length");
                    }
                    ahs.bidi_read_len = Some(u32::from_be_bytes([a, b, c, d]));
                }
                (TYPE_BIDI_READ_LENGTH, _) => {
                    return bad("AHSLength of a bidirectional read length must be 5");
                }
                _ => return bad("AHSType must be 1 (extended CDB) or 2 (bidirectional read length)"),
            }
            rest = rest.get((3 + len).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(ahs)
    }

    /// Bytes that [`Ahs::encode`] appends, a multiple of 4.
    pub fn encoded_len(&self) -> usize {
        let cdb = if self.cdb_rest.is_empty() { 0 } else { (4 + self.cdb_rest.len()).next_multiple_of(4) };
        cdb + if self.bidi_read_len.is_some() { 8 } else { 0 }
    }

    /// Appends the segments to `out`, padded. A CDB beyond [`CDB_BYTES_MAX`] is the caller's mistake and is refused.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), PduError> {
        if self.cdb_rest.len() > CDB_BYTES_MAX - 16 {
            return bad("the extended CDB is longer than 260 bytes");
        }
        if !self.cdb_rest.is_empty() {
            let len = self.cdb_rest.len() as u16 + 1;
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&[TYPE_EXTENDED_CDB, 0]);
            out.extend_from_slice(self.cdb_rest);
            out.resize(out.len() + super::padding(self.cdb_rest.len() as u32), 0);
        }
        if let Some(len) = self.bidi_read_len {
            out.extend_from_slice(&[0, 5, TYPE_BIDI_READ_LENGTH, 0]);
            out.extend_from_slice(&len.to_be_bytes());
        }
        Ok(())
    }
}

fn bad<T>(problem: &'static str) -> Result<T, PduError> {
    Err(PduError::Field { opcode: Opcode::ScsiCommand, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_round_trip() {
        for n in 1..=244 {
            let cdb: Vec<u8> = (0..n).map(|i| i as u8).collect();
            for bidi_read_len in [None, Some(0x0102_0304)] {
                let ahs = Ahs { cdb_rest: &cdb, bidi_read_len };
                let mut out = vec![];
                ahs.encode(&mut out).unwrap();
                assert_eq!(out.len(), ahs.encoded_len());
                assert_eq!(out.len() % 4, 0);
                assert_eq!(Ahs::parse(&out).unwrap(), ahs);
            }
        }
        assert_eq!(Ahs::parse(&[]).unwrap(), Ahs::default());
    }

    #[test]
    fn known_bytes() {
        // A 32-byte CDB: AHSLength = 32 - 15.
        let ahs = Ahs { cdb_rest: &[7; 16], bidi_read_len: Some(512) };
        let mut out = vec![];
        ahs.encode(&mut out).unwrap();
        assert_eq!(out[..4], [0, 17, 1, 0]);
        assert_eq!(out[20..], [0, 5, 2, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn refuses_malformed() {
        let long = {
            let mut b = vec![0, 246, 1, 0];
            b.resize(252, 0);
            b
        };
        let cases: &[&[u8]] = &[
            &[0, 1, 1],
            &[0, 1, 1, 0],                                     // empty CDB
            &[0, 0, 1, 0],                                     // no body at all
            &[0, 9, 1, 0, 1, 2, 3, 4],                         // past the end
            &[0xff, 0xff, 1, 0],                               // far past the end
            &[0, 5, 3, 0, 1, 2, 3, 4],                         // unknown type
            &[0, 4, 2, 0, 1, 2, 3, 4],                         // bidi of a wrong length
            &[0, 5, 2, 0, 0, 0, 0, 1, 0, 5, 2, 0, 0, 0, 0, 1], // two of them
            &[0, 5, 1, 0, 1, 2, 3, 4, 0, 5, 1, 0, 1, 2, 3, 4],
            &[0, 5, 2, 0, 0, 0, 0, 1, 0, 0],
            &long,
        ];
        for case in cases {
            assert!(Ahs::parse(case).is_err(), "{case:?}");
        }
        assert!(Ahs { cdb_rest: &[0; 245], bidi_read_len: None }.encode(&mut vec![]).is_err());
    }
}
