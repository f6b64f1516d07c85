//! Numbers as the C library reads them: tgt takes what strtol and atoi take, and scripts rely on it.

/// What `strtol(text, NULL, 0)` gives: blanks, a sign, 0x for hexadecimal, 0 for octal, up to the first other character.
pub fn strtol(text: &str) -> i64 {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let (radix, digits) = radix(digits);
    let value = accumulate(digits, radix).map_or(i64::MAX, |v| i64::try_from(v).unwrap_or(i64::MAX));
    if negative { -value } else { value }
}

/// What `atoi(text)` gives: decimal only.
pub fn atoi(text: &str) -> i32 {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let value = accumulate(digits, 10).map_or(i64::MAX, |v| i64::try_from(v).unwrap_or(i64::MAX));
    let value = if negative { -value } else { value };
    i32::try_from(value).unwrap_or(if negative { i32::MIN } else { i32::MAX })
}

/// The radix that base 0 means, and the digits after its prefix. A bare `0x` is a zero.
pub fn radix(digits: &str) -> (u32, &str) {
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, hex),
        _ if digits.starts_with('0') => (8, digits),
        _ => (10, digits),
    }
}

/// The leading digits as a number; None where it overflows.
pub fn accumulate(digits: &str, radix: u32) -> Option<u64> {
    digits
        .chars()
        .map_while(|c| c.to_digit(radix))
        .try_fold(0u64, |n, d| n.checked_mul(u64::from(radix))?.checked_add(u64::from(d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_c() {
        let cases =
            [("12", 12), (" -3x", -3), ("0x1fg", 31), ("010", 8), ("0x", 0), ("", 0), ("abc", 0), ("+7", 7)];
        for (text, value) in cases {
            assert_eq!(strtol(text), value, "{text}");
        }
        assert_eq!(strtol("99999999999999999999"), i64::MAX);
        for (text, value) in [("12", 12), ("010", 10), ("0x10", 0), ("-5 ", -5), ("99999999999", i32::MAX)] {
            assert_eq!(atoi(text), value, "{text}");
        }
    }
}
