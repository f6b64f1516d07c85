//! The 8-byte LUN field (RFC 7143 11.2.1.7, SAM-5 4.7.7): single-level peripheral and flat space addressing, and the
//! extended flat form for numbers above 16383. The field travels as a big-endian `u64`.

/// Numbers below this are written in peripheral device addressing.
const PERIPHERAL_LIMIT: u32 = 1 << 8;
/// Numbers below this are written in flat space addressing.
const FLAT_LIMIT: u32 = 1 << 14;
/// Numbers below this are written in extended flat space addressing (24 bits).
const EXTENDED_FLAT_LIMIT: u32 = 1 << 24;

/// The REPORT LUNS well-known logical unit (SAM-5 4.7.7.5.4).
pub const REPORT_LUNS_WELL_KNOWN: u64 = 0xc101_0000_0000_0000;

/// A LUN field that names no single-level logical unit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("LUN field {0:#018x} is not a single-level peripheral or flat address")]
pub struct LunError(pub u64);

/// The field of logical unit `number`: peripheral below 256, flat below 16384, extended flat (SAM-5 4.7.7.5.5)
/// below 2^24; none above.
pub const fn encode(number: u32) -> Option<u64> {
    let n = number as u64;
    if number < PERIPHERAL_LIMIT {
        Some(n << 48)
    } else if number < FLAT_LIMIT {
        Some((0x4000 | n) << 48)
    } else if number < EXTENDED_FLAT_LIMIT {
        Some((0xd2 << 56) | (n << 32))
    } else {
        None
    }
}

/// The logical unit number in `field`. Any of the forms is taken for any number that it can hold; a bus other than
/// 0, several levels and well-known units are refused.
pub const fn decode(field: u64) -> Result<u32, LunError> {
    let first = (field >> 48) as u16;
    let rest = field & 0x0000_ffff_ffff_ffff;
    match first >> 14 {
        0b00 if rest == 0 && first >> 8 == 0 => Ok(first as u32),
        0b01 if rest == 0 => Ok((first & 0x3fff) as u32),
        // Extended logical unit addressing, flat: method 2, length 1 (4 bytes), 24 bits of number.
        0b11 if first >> 8 == 0xd2 && field & 0xffff_ffff == 0 => Ok(((field >> 32) & 0x00ff_ffff) as u32),
        _ => Err(LunError(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(encode(0), Some(0));
        assert_eq!(encode(255), Some(0x00ff_0000_0000_0000));
        assert_eq!(encode(256), Some(0x4100_0000_0000_0000));
        assert_eq!(encode(16383), Some(0x7fff_0000_0000_0000));
        assert_eq!(encode(16384), Some(0xd200_4000_0000_0000));
        assert_eq!(encode(1 << 24), None);
    }

    #[test]
    fn round_trips() {
        for n in (0..70_000).chain((1 << 24) - 3..1 << 24) {
            assert_eq!(decode(encode(n).unwrap()), Ok(n));
        }
        assert_eq!(decode(0x4001_0000_0000_0000), Ok(1), "flat addressing of a small number");
    }

    #[test]
    fn refuses_the_rest() {
        for field in [
            0x0100_0000_0000_0000,  // bus 1
            0x0001_0000_0000_0001,  // second level
            0x4001_0001_0000_0000,  // second level
            0x8001_0000_0000_0000,  // logical unit addressing
            REPORT_LUNS_WELL_KNOWN, // well-known
            0xd200_0001_0000_0001,  // second level after extended flat
            u64::MAX,
        ] {
            assert_eq!(decode(field), Err(LunError(field)));
        }
    }
}
