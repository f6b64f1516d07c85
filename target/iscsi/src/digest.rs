//! Header and data digests (RFC 7143 11.2.3, 13.1): CRC32C over the bytes as they are on the wire, padding included,
//! sent with the least significant byte first.

use crate::pdu::{Bhs, DIGEST_LEN, padding};

/// A digest on the wire.
pub type DigestBytes = [u8; DIGEST_LEN];

/// A digest that is being computed over bytes that lie in several places.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of nothing yet.
    pub const fn new() -> Self {
        Crc32c(0)
    }

    /// Goes on over `bytes`.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// Goes on over the zero padding that this side sends after `data_len` bytes.
    #[inline]
    pub fn pad(&mut self, data_len: u32) {
        self.update(&[0; 3][..padding(data_len)]);
    }

    /// The digest.
    #[inline]
    pub fn finish(self) -> DigestBytes {
        self.0.to_le_bytes()
    }

    /// Whether `received` is the digest.
    #[inline]
    pub fn matches(self, received: DigestBytes) -> bool {
        self.finish() == received
    }
}

/// The header digest: over the BHS and its additional header segments.
#[inline]
pub fn header(bhs: &Bhs, ahs: &[u8]) -> DigestBytes {
    let mut crc = Crc32c::new();
    crc.update(bhs);
    crc.update(ahs);
    crc.finish()
}

/// The data digest of a data segment that lies in `parts` and is sent with zero padding. What was *received* is
/// checked with [`Crc32c`] over the padding that came, whatever it holds.
pub fn data<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> DigestBytes {
    let mut crc = Crc32c::new();
    let mut len = 0u32;
    for part in parts {
        crc.update(part);
        len = len.wrapping_add(part.len() as u32);
    }
    crc.pad(len);
    crc.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 A.4 (RFC 3720 B.4).
    #[test]
    fn rfc_vectors() {
        let zeroes = [0u8; 32];
        let ones = [0xffu8; 32];
        let up: [u8; 32] = std::array::from_fn(|i| i as u8);
        let down: [u8; 32] = std::array::from_fn(|i| 31 - i as u8);
        assert_eq!(data([&zeroes[..]]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(data([&ones[..]]), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(data([&up[..]]), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(data([&down[..]]), [0x5c, 0xdb, 0x3f, 0x11]);
        // "An iSCSI - SCSI Read (10) Command PDU"
        let mut command = [0u8; 48];
        command[..2].copy_from_slice(&[0x01, 0xc0]);
        command[16] = 0x14;
        command[22] = 0x04;
        command[27] = 0x14;
        command[31] = 0x18;
        command[32] = 0x28;
        command[40] = 0x02;
        assert_eq!(header(&command, &[]), [0x56, 0x3a, 0x96, 0xd9]);
    }

    #[test]
    fn split_and_padded() {
        let bytes: Vec<u8> = (0..=200u8).collect();
        for cut in 0..bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(data([a, b]), data([&bytes[..]]));
        }
        let mut padded = bytes.clone();
        padded.resize(204, 0);
        assert_eq!(data([&bytes[..]]), data([&padded[..]]));
        let mut crc = Crc32c::new();
        crc.update(&padded);
        assert!(crc.matches(data([&bytes[..]])));
        assert!(!crc.matches([0; 4]));
    }
}
