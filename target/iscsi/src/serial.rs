//! Serial number arithmetic (RFC 1982 with SERIAL_BITS = 32, RFC 7143 4.2.2.1) for CmdSN, StatSN, DataSN and R2TSN.

/// A 32-bit serial number. It has no total order, so it does not implement `Ord`; compare with [`Serial::precedes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Serial(pub u32);

impl Serial {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Serial(self.0.wrapping_add(1))
    }

    /// This number plus `n`.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Serial(self.0.wrapping_add(n))
    }

    /// This number less `n`.
    #[must_use]
    pub const fn minus(self, n: u32) -> Self {
        Serial(self.0.wrapping_sub(n))
    }

    /// How far `self` lies after `earlier`; negative where it lies before. Exactly 2^31 apart counts as before, in
    /// either direction (RFC 1982 leaves that undefined; such a number is outside every window).
    pub const fn since(self, earlier: Serial) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// Whether this number comes before `other`.
    pub const fn precedes(self, other: Serial) -> bool {
        self.since(other) < 0
    }

    /// Whether this number comes before `other` or is it.
    pub const fn precedes_or_is(self, other: Serial) -> bool {
        self.0 == other.0 || self.precedes(other)
    }

    /// Whether this number lies in the window from `first` to `last`, both included. An empty window is
    /// `last == first - 1` (RFC 7143 4.2.2.1: MaxCmdSN = ExpCmdSN - 1 closes the command window).
    pub const fn within(self, first: Serial, last: Serial) -> bool {
        let width = last.0.wrapping_sub(first.0).wrapping_add(1);
        self.0.wrapping_sub(first.0) < width
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_across_the_wrap() {
        assert!(Serial(0xffff_ffff).precedes(Serial(0)));
        assert!(!Serial(0).precedes(Serial(0xffff_ffff)));
        assert!(Serial(5).precedes_or_is(Serial(5)));
        assert_eq!(Serial(2).since(Serial(0xffff_fffe)), 4);
        assert_eq!(Serial(0xffff_ffff).next(), Serial(0));
        assert_eq!(Serial(1).minus(3), Serial(0xffff_fffe));
    }

    #[test]
    fn windows() {
        let (first, last) = (Serial(0xffff_fffe), Serial(1));
        for inside in [0xffff_fffe, 0xffff_ffff, 0, 1] {
            assert!(Serial(inside).within(first, last));
        }
        assert!(!Serial(2).within(first, last));
        assert!(!Serial(0xffff_fffd).within(first, last));
        assert!(!Serial(7).within(Serial(7), Serial(6)), "a closed window takes nothing");
    }
}
