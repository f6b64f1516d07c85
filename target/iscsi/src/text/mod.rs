//! Text: `key=value` pairs, each ended by a zero byte (RFC 7143 6.1), as login and text PDUs carry them.
//!
//! ```text
//!   data segment (C=1) ──┐
//!   data segment (C=1) ──┼─▶ Accumulator ─▶ Text ─▶ negotiate, chap
//!   data segment (C=0) ──┘   bounded         checked pairs
//!
//!   TextWriter ─▶ Outgoing ─▶ data segments of at most what the peer takes, C=1 in all but the last
//! ```
//!
//! What a peer sends is bounded in bytes and in keys before anything looks at it; a key or value that is longer than the
//! RFC allows is refused. [`value`] has the encodings of values.

pub mod value;

use std::ops::Range;

use base::limits::{TEXT_BYTES_MAX, TEXT_KEYS_MAX};

/// The longest key name, bytes (RFC 7143 6.1).
pub const KEY_BYTES_MAX: usize = 63;
/// The longest simple value, bytes (RFC 7143 6.1).
pub const VALUE_BYTES_MAX: usize = 255;
/// The longest value with elements or of large binary type, as text: 1024 bytes in hexadecimal need 2050, and whole
/// lists are bounded like the text that every implementation takes (RFC 7143 6.1).
pub const LONG_VALUE_BYTES_MAX: usize = 8192;

/// Bounds on what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLimits {
    /// Bytes of a whole sequence.
    pub bytes: usize,
    /// Pairs of a whole sequence.
    pub keys: usize,
}

impl TextLimits {
    /// For logins, and for text requests.
    pub const NEGOTIATION: TextLimits = TextLimits { bytes: TEXT_BYTES_MAX, keys: TEXT_KEYS_MAX };
    /// For an initiator that reads the answer to SendTargets: thousands of targets with several portals each.
    pub const DISCOVERY: TextLimits = TextLimits { bytes: 16 * 1024 * 1024, keys: 128 * 1024 };
}

/// Whether a key may be there more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// No (RFC 7143 6.2: a key is negotiated once).
    Refused,
    /// TargetName and TargetAddress, as in the answer to SendTargets and in redirections (RFC 7143 13.8, C).
    TargetRecords,
}

/// Why bytes are not text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Too many bytes in a sequence.
    #[error("text of more than {0} bytes")]
    TooLong(usize),
    /// Too many pairs in a sequence.
    #[error("more than {0} keys in one text")]
    TooManyKeys(usize),
    /// The last pair is not complete.
    #[error("the text does not end with a zero byte")]
    Unterminated,
    /// Not `key=value`.
    #[error("{0:?} is not key=value")]
    NoEqualsSign(String),
    /// Not a key name.
    #[error(
        "{0:?} is not a key name: 1 to {KEY_BYTES_MAX} letters, digits and any of . - + @ _ #, first a capital letter"
    )]
    BadKey(String),
    /// Too long a value.
    #[error("the value of {key} has {len} bytes, more than {max}")]
    ValueTooLong {
        /// The key.
        key: String,
        /// Its value's bytes.
        len: usize,
        /// What it may have.
        max: usize,
    },
    /// Not UTF-8.
    #[error("the value of {0} is not UTF-8")]
    NotUtf8(String),
    /// A key that is there twice.
    #[error("{0} is there more than once")]
    Repeated(String),
}

/// Text of a whole sequence, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    bytes: String,
    pairs: Vec<(Range<usize>, Range<usize>)>,
}

impl Text {
    /// Reads `bytes`. Zero bytes after the last pair are ignored: there are senders that count padding.
    pub fn parse(bytes: Vec<u8>, limits: TextLimits, repeats: Repeats) -> Result<Text, TextError> {
        if bytes.len() > limits.bytes {
            return Err(TextError::TooLong(limits.bytes));
        }
        if bytes.last().is_some_and(|&b| b != 0) {
            return Err(TextError::Unterminated);
        }
        let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        let mut pairs = Vec::new();
        let mut at = 0;
        while at < end {
            if pairs.len() == limits.keys {
                return Err(TextError::TooManyKeys(limits.keys));
            }
            let len = bytes[at..].iter().position(|&b| b == 0).unwrap_or(bytes.len() - at);
            let (key, value) = split_pair(&bytes[at..at + len])?;
            pairs.push((at..at + key, at + value..at + len));
            at += len + 1;
        }
        let bytes = String::from_utf8(bytes).map_err(|e| {
            let bad = e.utf8_error().valid_up_to();
            let key =
                pairs.iter().find(|(_, value)| value.contains(&bad)).map_or(0..0, |(key, _)| key.clone());
            TextError::NotUtf8(String::from_utf8_lossy(&e.as_bytes()[key]).into_owned())
        })?;
        let text = Text { bytes, pairs };
        text.check_repeats(repeats)?;
        Ok(text)
    }

    fn check_repeats(&self, repeats: Repeats) -> Result<(), TextError> {
        let mut keys: Vec<&str> = self.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        for pair in keys.windows(2) {
            let record = matches!(pair[0], "TargetName" | "TargetAddress");
            if pair[0] == pair[1] && !(record && repeats == Repeats::TargetRecords) {
                return Err(TextError::Repeated(pair[0].to_owned()));
            }
        }
        Ok(())
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.pairs.iter().map(|(key, value)| (&self.bytes[key.clone()], &self.bytes[value.clone()]))
    }

    /// The value of `key`, the first one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|&(k, _)| k == key).map(|(_, value)| value)
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Where the key ends and where the value begins.
fn split_pair(pair: &[u8]) -> Result<(usize, usize), TextError> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(KEY_BYTES_MAX)]).into_owned();
    let Some(key_len) = pair.iter().position(|&b| b == b'=') else {
        return Err(TextError::NoEqualsSign(lossy(pair)));
    };
    let (key, value) = (&pair[..key_len], &pair[key_len + 1..]);
    if !is_key(key) {
        return Err(TextError::BadKey(lossy(key)));
    }
    let long_element = value.split(|&b| b == b',').any(|element| element.len() > VALUE_BYTES_MAX);
    let (len, max) = match long_element && !is_large_binary(value) {
        true => (value.len(), VALUE_BYTES_MAX),
        false => (value.len(), LONG_VALUE_BYTES_MAX),
    };
    if len > max {
        return Err(TextError::ValueTooLong { key: lossy(key), len, max });
    }
    Ok((key_len, key_len + 1))
}

/// A key name (RFC 7143 6.1): `#` is what X#, Y# and Z# extensions have. The first letter is a capital one, but for
/// iSCSIProtocolLevel.
fn is_key(key: &[u8]) -> bool {
    let inside = |&b: &u8| b.is_ascii_alphanumeric() || b".-+@_#".contains(&b);
    key.len() <= KEY_BYTES_MAX && key.first().is_some_and(u8::is_ascii_alphabetic) && key.iter().all(inside)
}

fn is_large_binary(value: &[u8]) -> bool {
    matches!(value, [b'0', b'x' | b'X' | b'b' | b'B', ..])
}

/// Gathers the data segments of a sequence that is joined by the C bit.
#[derive(Debug)]
pub struct Accumulator {
    bytes: Vec<u8>,
    limits: TextLimits,
}

impl Accumulator {
    /// An empty one.
    pub fn new(limits: TextLimits) -> Self {
        Accumulator { bytes: Vec::new(), limits }
    }

    /// Adds a data segment; with `continues` (C) nothing comes yet, without it the whole text does and the accumulator
    /// is empty again, as it is after an error.
    pub fn push(
        &mut self,
        segment: &[u8],
        continues: bool,
        repeats: Repeats,
    ) -> Result<Option<Text>, TextError> {
        if segment.len() > self.limits.bytes - self.bytes.len() {
            self.clear();
            return Err(TextError::TooLong(self.limits.bytes));
        }
        self.bytes.extend_from_slice(segment);
        if continues {
            return Ok(None);
        }
        Text::parse(std::mem::take(&mut self.bytes), self.limits, repeats).map(Some)
    }

    /// Whether a sequence has begun.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what came.
    pub fn clear(&mut self) {
        self.bytes = Vec::new();
    }
}

/// Writes pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextWriter {
    bytes: Vec<u8>,
}

impl TextWriter {
    /// An empty one.
    pub fn new() -> Self {
        TextWriter::default()
    }

    /// Adds a pair. A zero byte in a value would end it, so what follows it is left out; values that come from
    /// configuration are checked where they are configured.
    pub fn pair(&mut self, key: &str, value: impl std::fmt::Display) {
        use std::io::Write;
        debug_assert!(is_key(key.as_bytes()), "{key}");
        let start = self.bytes.len();
        // Writing into memory does not fail; a Display that does has written what it could.
        let _ = write!(self.bytes, "{key}={value}");
        if let Some(zero) = self.bytes[start..].iter().position(|&b| b == 0) {
            self.bytes.truncate(start + zero);
        }
        self.bytes.push(0);
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// To be sent in pieces.
    pub fn finish(self) -> Outgoing {
        Outgoing { bytes: self.bytes, sent: 0 }
    }
}

/// Text on its way out in data segments of limited size.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// The next data segment, of at most `max` bytes, and whether more follow (C).
    pub fn next_segment(&mut self, max: u32) -> (&[u8], bool) {
        let start = self.sent;
        self.sent = self.bytes.len().min(start.saturating_add(max.max(1) as usize));
        (&self.bytes[start..self.sent], self.sent < self.bytes.len())
    }

    /// Whether everything was taken.
    pub fn is_done(&self) -> bool {
        self.sent == self.bytes.len()
    }
}

#[cfg(test)]
mod tests;
