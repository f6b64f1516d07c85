//! TransportIDs of iSCSI initiator ports (SPC-4 7.6.4.6).

use crate::InitiatorPort;

/// PROTOCOL IDENTIFIER of iSCSI.
const ISCSI: u8 = 0x5;
/// Between the name and the ISID of a port's name.
const SEPARATOR: &str = ",i,0x";
/// Longest iSCSI name, bytes (RFC 7143 4.2.7.1).
const NAME_BYTES_MAX: usize = 223;

/// A TransportID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportId {
    /// TPID FORMAT 00b: an initiator device; all of its ports that are known.
    Device(String),
    /// TPID FORMAT 01b: one initiator port.
    Port(InitiatorPort),
}

/// What is wrong with a TransportID, and at which of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportIdError(pub usize);

impl TransportId {
    /// The longest TransportID: header, name, separator, ISID and NUL, padded.
    pub const BYTES_MAX: usize = 4 + (NAME_BYTES_MAX + SEPARATOR.len() + 12 + 1).next_multiple_of(4);

    /// Reads the TransportID at the start of `bytes`; also returns its length.
    pub fn parse(bytes: &[u8]) -> Result<(TransportId, usize), TransportIdError> {
        let [first, _, high, low, ..] = *bytes else { return Err(TransportIdError(0)) };
        if first & 0x0f != ISCSI {
            return Err(TransportIdError(0));
        }
        let additional = usize::from(u16::from_be_bytes([high, low]));
        // "at least 20 and a multiple of four" (SPC-4 table 505).
        if additional < 20 || additional % 4 != 0 {
            return Err(TransportIdError(2));
        }
        let field = bytes.get(4..4 + additional).ok_or(TransportIdError(2))?;
        let end = field.iter().position(|&b| b == 0).ok_or(TransportIdError(4))?;
        if field[end..].iter().any(|&b| b != 0) {
            return Err(TransportIdError(4 + end));
        }
        let text = std::str::from_utf8(&field[..end]).map_err(|_| TransportIdError(4))?;
        let id = match first >> 6 {
            0b00 => TransportId::Device(name(text)?),
            0b01 => port(text)?,
            _ => return Err(TransportIdError(0)),
        };
        Ok((id, 4 + additional))
    }

    /// The wire form of a port (format 01b).
    pub fn write_port(port: &InitiatorPort, out: &mut Vec<u8>) {
        let [a, b, c, d, e, f] = port.isid;
        let text = format!("{}{SEPARATOR}{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}", port.name);
        let padded = (text.len() + 1).next_multiple_of(4).max(20);
        out.extend([0x40 | ISCSI, 0]);
        out.extend(u16::try_from(padded).unwrap_or(u16::MAX).to_be_bytes());
        let end = out.len() + padded;
        out.extend(text.as_bytes());
        out.resize(end, 0);
    }
}

fn name(text: &str) -> Result<String, TransportIdError> {
    let valid = !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == ',');
    if valid { Ok(text.to_ascii_lowercase()) } else { Err(TransportIdError(4)) }
}

fn port(text: &str) -> Result<TransportId, TransportIdError> {
    let (before, hex) = text.split_once(SEPARATOR).ok_or(TransportIdError(4))?;
    let at = TransportIdError(4 + before.len());
    if hex.is_empty() || hex.len() > 12 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(at);
    }
    let number = u64::from_str_radix(hex, 16).map_err(|_| at)?;
    let [_, _, isid @ ..] = number.to_be_bytes();
    Ok(TransportId::Port(InitiatorPort { name: name(before)?, isid }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(format: u8, text: &str) -> Vec<u8> {
        let padded = (text.len() + 1).next_multiple_of(4).max(20);
        let mut v = vec![format << 6 | 5, 0, 0, padded as u8];
        v.extend(text.as_bytes());
        v.resize(4 + padded, 0);
        v
    }

    #[test]
    fn ports_round_trip() {
        let port = InitiatorPort { name: "iqn.2003-01.a:b".into(), isid: [0x40, 0, 1, 0x37, 0, 0xff] };
        let mut bytes = Vec::new();
        TransportId::write_port(&port, &mut bytes);
        assert_eq!(bytes, wire(1, "iqn.2003-01.a:b,i,0x4000013700ff"));
        let n = bytes.len();
        bytes.extend([1, 2, 3]);
        assert_eq!(TransportId::parse(&bytes), Ok((TransportId::Port(port), n)));
    }

    #[test]
    fn devices_and_short_isids() {
        let (id, n) = TransportId::parse(&wire(0, "iqn.A")).unwrap();
        assert_eq!((id, n), (TransportId::Device("iqn.a".into()), 24));
        let (id, _) = TransportId::parse(&wire(1, "iqn.a,i,0x17")).unwrap();
        assert_eq!(
            id,
            TransportId::Port(InitiatorPort { name: "iqn.a".into(), isid: [0, 0, 0, 0, 0, 0x17] })
        );
    }

    #[test]
    fn malformed_ones_are_refused() {
        let at = |b: &[u8]| TransportId::parse(b).unwrap_err().0;
        assert_eq!(at(&[5, 0, 0]), 0);
        assert_eq!(at(&wire(2, "iqn.a")), 0, "unknown format");
        let mut fc = wire(0, "iqn.a");
        fc[0] = 0;
        assert_eq!(at(&fc), 0, "another protocol");
        let mut short = wire(0, "iqn.a");
        short[3] = 16;
        assert_eq!(at(&short), 2, "below 20");
        let mut odd = wire(0, "iqn.a");
        odd[3] = 21;
        assert_eq!(at(&odd), 2, "not a multiple of 4");
        assert_eq!(at(&wire(0, "iqn.a")[..20]), 2, "cut off");
        let mut open = wire(0, "iqn.a");
        open[4..].fill(b'x');
        assert_eq!(at(&open), 4, "not terminated");
        let mut tail = wire(0, "iqn.a");
        tail[20] = 1;
        assert_eq!(at(&tail), 9, "text after the terminator");
        for text in ["", "a,b", "a b"] {
            assert_eq!(at(&wire(0, text)), 4, "{text:?}");
        }
        for text in
            ["iqn.a", "iqn.a,i,0x", "iqn.a,i,0x1234567890123", "iqn.a,i,0x12g4", ",i,0x1", "iqn.a,i,0x+1"]
        {
            assert!(TransportId::parse(&wire(1, text)).is_err(), "{text:?}");
        }
    }
}
