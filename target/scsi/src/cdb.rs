//! Big-endian fields of CDBs and parameter lists. A field beyond the end reads as zeroes: the dispatcher has checked the
//! length of the CDB, and whoever reads a parameter list checks the lengths that it declares.

/// The byte at `at`.
pub(crate) fn u8_at(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or(0)
}

fn field<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    at.checked_add(N).and_then(|end| b.get(at..end)).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}

/// Two bytes.
pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(field(b, at))
}

/// Three bytes.
pub(crate) fn be24(b: &[u8], at: usize) -> u32 {
    let [a, b, c] = field(b, at);
    u32::from_be_bytes([0, a, b, c])
}

/// Four bytes.
pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(b, at))
}

/// Eight bytes.
pub(crate) fn be64(b: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(b, at))
}

/// Whether bit `bit` of byte `at` is set.
pub(crate) fn flag(b: &[u8], at: usize, bit: u8) -> bool {
    u8_at(b, at) & (1 << bit) != 0
}

/// Parameter data as it is built: lengths are patched in when they are known.
#[derive(Debug, Default)]
pub(crate) struct Builder(pub(crate) Vec<u8>);

impl Builder {
    pub(crate) fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    pub(crate) fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }
    pub(crate) fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }
    pub(crate) fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }
    pub(crate) fn bytes(&mut self, v: &[u8]) {
        self.0.extend_from_slice(v);
    }
    pub(crate) fn zeroes(&mut self, n: usize) {
        self.0.resize(self.0.len() + n, 0);
    }
    /// `text` in a field of `n` bytes, padded with spaces; what is not printable ASCII becomes a space (SPC-4 4.4.1).
    pub(crate) fn ascii(&mut self, text: &str, n: usize) {
        let clean = |b: u8| if (0x20..0x7f).contains(&b) { b } else { b' ' };
        self.0.extend(text.bytes().map(clean).chain(std::iter::repeat(b' ')).take(n));
    }
    /// Puts the number of bytes that follow the 16-bit field at `at` into it.
    pub(crate) fn patch_len16(&mut self, at: usize) {
        let n = u16::try_from(self.0.len().saturating_sub(at + 2)).unwrap_or(u16::MAX);
        if let Some(f) = self.0.get_mut(at..at + 2) {
            f.copy_from_slice(&n.to_be_bytes());
        }
    }
    /// Puts the number of bytes that follow the 32-bit field at `at` into it.
    pub(crate) fn patch_len32(&mut self, at: usize) {
        let n = u32::try_from(self.0.len().saturating_sub(at + 4)).unwrap_or(u32::MAX);
        if let Some(f) = self.0.get_mut(at..at + 4) {
            f.copy_from_slice(&n.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_end_are_zero() {
        let b = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(be64(&b, 0), 0x0102_0304_0506_0708);
        assert_eq!(be24(&b, 5), 0x06_0708);
        assert_eq!((be16(&b, 7), be32(&b, 5), be24(&b, usize::MAX)), (0, 0, 0));
        assert!(flag(&b, 7, 3) && !flag(&b, 8, 0));
    }

    #[test]
    fn ascii_fields_are_padded_and_clean() {
        let mut b = Builder::default();
        b.ascii("a\u{e9}\n", 6);
        b.ascii("toolong", 3);
        assert_eq!(b.0, b"a     too");
    }
}
