//! Initiator session ids (RFC 7143 11.12.5).

use base::Entropy;

/// The 6-byte ISID: a type in its two highest bits, a naming authority, and a qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isid(pub [u8; 6]);

/// Who gave the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsidKind {
    /// An IEEE OUI.
    Oui,
    /// An IANA enterprise number.
    Enterprise,
    /// A random number.
    Random,
    /// Reserved.
    Reserved,
}

impl Isid {
    /// One with a random naming part, and `qualifier` to tell the sessions of one initiator apart.
    pub fn random(entropy: &mut dyn Entropy, qualifier: u16) -> Isid {
        let mut isid = [0; 6];
        entropy.fill(&mut isid[1..4]);
        isid[0] = 0x80;
        isid[4..].copy_from_slice(&qualifier.to_be_bytes());
        Isid(isid)
    }

    /// What its type says.
    pub const fn kind(self) -> IsidKind {
        match self.0[0] >> 6 {
            0 => IsidKind::Oui,
            1 => IsidKind::Enterprise,
            2 => IsidKind::Random,
            _ => IsidKind::Reserved,
        }
    }

    /// The qualifier.
    pub const fn qualifier(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }
}

/// Twelve hexadecimal digits, as persistent reservations report it (SPC-4 7.6.4.6).
impl std::fmt::Display for Isid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let isid = Isid::random(&mut base::random::SeededRandom::new(3), 0x0102);
        assert_eq!(isid.kind(), IsidKind::Random);
        assert_eq!(isid.qualifier(), 0x0102);
        assert_ne!(isid.0[1..4], [0, 0, 0]);
        assert_eq!(Isid([0, 0x02, 0x3d, 1, 2, 0xff]).to_string(), "00023d0102ff");
        assert_eq!([0x00, 0x40, 0x80, 0xc0].map(|b| Isid([b, 0, 0, 0, 0, 0]).kind()), {
            [IsidKind::Oui, IsidKind::Enterprise, IsidKind::Random, IsidKind::Reserved]
        });
    }
}
