//! Encodings of values (RFC 7143 6.1).

use std::fmt::{self, Write};

/// The value of a key that a responder does not know (RFC 7143 6.2).
pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
/// The answer to a proposal that is not admissible.
pub const REJECT: &str = "Reject";
/// The answer to a proposal without meaning under what is already agreed.
pub const IRRELEVANT: &str = "Irrelevant";
/// The list element that stands for nothing.
pub const NONE: &str = "None";
/// Boolean true.
pub const YES: &str = "Yes";
/// Boolean false.
pub const NO: &str = "No";

/// A boolean value.
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        YES => Some(true),
        NO => Some(false),
        _ => None,
    }
}

/// `Yes` or `No`.
pub const fn boolean_text(value: bool) -> &'static str {
    if value { YES } else { NO }
}

/// A numerical value: decimal without leading zeroes, or hexadecimal after `0x`.
pub fn number(value: &str) -> Option<u64> {
    if let Some(digits) = strip_hex(value) {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        return if plain { u64::from_str_radix(digits, 16).ok() } else { None };
    }
    let plain = value == "0" || (!value.starts_with('0') && value.bytes().all(|b| b.is_ascii_digit()));
    if plain { value.parse().ok() } else { None }
}

/// A numerical range: two numbers joined by a tilde, the first not above the second.
pub fn number_range(value: &str) -> Option<(u64, u64)> {
    let (low, high) = value.split_once('~')?;
    let (low, high) = (number(low)?, number(high)?);
    (low <= high).then_some((low, high))
}

/// The elements of a list; none where one of them is empty.
pub fn list(value: &str) -> Option<impl Iterator<Item = &str> + Clone> {
    let elements = value.split(',');
    elements.clone().all(|element| !element.is_empty()).then_some(elements)
}

/// A binary value of at most `max` bytes: hexadecimal after `0x` (an odd number of digits has a zero before it), or
/// base64 after `0b`.
pub fn binary(value: &str, max: usize) -> Option<Vec<u8>> {
    if let Some(digits) = strip_hex(value) {
        return hex(digits.as_bytes(), max);
    }
    let digits = value.strip_prefix("0b").or_else(|| value.strip_prefix("0B"))?;
    base64(digits.as_bytes(), max)
}

fn strip_hex(value: &str) -> Option<&str> {
    value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"))
}

fn hex(digits: &[u8], max: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || digits.len().div_ceil(2) > max {
        return None;
    }
    let nibble = |b: u8| char::from(b).to_digit(16).map(|n| n as u8);
    let mut out = Vec::with_capacity(digits.len().div_ceil(2));
    let (odd, pairs) = digits.split_at(digits.len() % 2);
    if let [first] = odd {
        out.push(nibble(*first)?);
    }
    for pair in pairs.chunks_exact(2) {
        out.push(nibble(pair[0])? << 4 | nibble(pair[1])?);
    }
    Some(out)
}

/// RFC 4648 4, with its padding.
fn base64(digits: &[u8], max: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(4) || digits.len() / 4 * 3 > max + 2 {
        return None;
    }
    let sextet = |b: u8| -> Option<u32> {
        Some(u32::from(match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let pad = digits.iter().rev().take(2).take_while(|&&b| b == b'=').count();
    let mut out = Vec::with_capacity(digits.len() / 4 * 3);
    let plain = &digits[..digits.len() - pad];
    for group in plain.chunks(4) {
        let mut bits = 0;
        for &digit in group {
            bits = bits << 6 | sextet(digit)?;
        }
        match group.len() {
            4 => out.extend_from_slice(&bits.to_be_bytes()[1..]),
            // The bits that padding leaves over must be zero, or two texts would stand for the same bytes.
            3 if bits & 3 == 0 => out.extend_from_slice(&(bits >> 2).to_be_bytes()[2..]),
            2 if bits & 15 == 0 => out.push((bits >> 4) as u8),
            _ => return None,
        }
    }
    (out.len() <= max).then_some(out)
}

/// Bytes that are written as a hexadecimal binary value.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Bytes that are written as a base64 binary value.
pub struct Base64<'a>(pub &'a [u8]);

impl fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        f.write_str("0b")?;
        for group in self.0.chunks(3) {
            let mut bytes = [0; 4];
            bytes[1..=group.len()].copy_from_slice(group);
            let bits = u32::from_be_bytes(bytes);
            for i in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
                f.write_char(if i > group.len() { '=' } else { char::from(digit) })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers() {
        for (text, n) in
            [("0", 0), ("8192", 8192), ("0x2000", 8192), ("0XfF", 255), ("0x0", 0), ("0x00ff", 255)]
        {
            assert_eq!(number(text), Some(n), "{text}");
        }
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for text in
            ["", "00", "01", "+1", "-1", "1 ", " 1", "0x", "0x+1", "0xg", "1.0", "18446744073709551616"]
        {
            assert_eq!(number(text), None, "{text:?}");
        }
        assert_eq!(number_range("512~0x400"), Some((512, 1024)));
        for text in ["2~1", "1", "~", "1~", "~1", "1~2~3"] {
            assert_eq!(number_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn lists_and_booleans() {
        assert_eq!(list("CRC32C,None").unwrap().collect::<Vec<_>>(), ["CRC32C", "None"]);
        assert!(list("").is_none() && list("a,").is_none() && list(",").is_none());
        assert_eq!(
            [boolean("Yes"), boolean("No"), boolean("yes"), boolean("")],
            [Some(true), Some(false), None, None]
        );
    }

    #[test]
    fn binaries() {
        assert_eq!(binary("0xabc", 8), Some(vec![0x0a, 0xbc]));
        assert_eq!(binary("0X00Ff", 8), Some(vec![0, 255]));
        for (text, bytes) in [("0bZg==", "f"), ("0bZm8=", "fo"), ("0BZm9v", "foo"), ("0bZm9vYmFy", "foobar")]
        {
            assert_eq!(binary(text, 6), Some(bytes.as_bytes().to_vec()), "{text}");
        }
        for text in [
            "",
            "0x",
            "0b",
            "0xfg",
            "0b=",
            "0b====",
            "0bZg=",
            "0bZ===",
            "0bZh==",
            "0bZm9=",
            "0bZg==Zg==",
            "0bZm 9",
            "12",
            "0b Zg==",
        ] {
            assert_eq!(binary(text, 100), None, "{text:?}");
        }
        assert_eq!(binary("0x010203", 2), None);
        assert_eq!(binary("0bZm9v", 2), None);
    }

    proptest! {
        #[test]
        fn binary_round_trips(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            prop_assert_eq!(binary(&Hex(&bytes).to_string(), bytes.len()), Some(bytes.clone()));
            prop_assert_eq!(binary(&Base64(&bytes).to_string(), bytes.len()), Some(bytes.clone()));
            prop_assert_eq!(binary(&Base64(&bytes).to_string(), bytes.len() - 1), None);
            prop_assert_eq!(binary(&Hex(&bytes).to_string(), bytes.len() - 1), None);
        }

        #[test]
        fn nothing_panics(text in any::<String>(), max in 0usize..64) {
            let _ = (number(&text), number_range(&text), boolean(&text), list(&text).map(Iterator::count));
            for prefix in ["", "0x", "0b"] {
                if let Some(bytes) = binary(&format!("{prefix}{text}"), max) {
                    prop_assert!(bytes.len() <= max);
                }
            }
        }
    }
}
