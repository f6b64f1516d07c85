//! iSCSI names (RFC 7143 4.2.7): `iqn.`, `eui.` and `naa.`, checked and in the form in which they are compared.

use std::fmt;

/// The longest name, bytes (RFC 7143 4.2.7.1).
pub const NAME_BYTES_MAX: usize = 223;

/// A checked name in its normal form: two names are the same where these are equal byte by byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(Box<str>);

/// Why a string is not an iSCSI name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or too long.
    #[error("an iSCSI name has 1 to {NAME_BYTES_MAX} bytes, this has {0}")]
    Length(usize),
    /// Another type.
    #[error("an iSCSI name begins with iqn., eui. or naa.")]
    Kind,
    /// A character that RFC 3722 prohibits.
    #[error("{0:?} must not be in an iSCSI name (RFC 3722)")]
    Character(char),
    /// `iqn.` is not followed by a date and a naming authority.
    #[error(
        "after iqn. come a year and month and the reversed domain name, as in iqn.2001-04.com.example:disk1"
    )]
    Iqn,
    /// `eui.` is not followed by 16 hexadecimal digits.
    #[error("after eui. come 16 hexadecimal digits")]
    Eui,
    /// `naa.` is not followed by 16 or 32 hexadecimal digits.
    #[error("after naa. come 16 or 32 hexadecimal digits")]
    Naa,
}

impl IscsiName {
    /// Checks `name` and folds its case (RFC 3722 3.1).
    ///
    /// RFC 3722 6.3 prohibits all ASCII punctuation but `-`, `.` and `:`. The underscore and `+ @ % ~` are taken
    /// nevertheless: names with them are in use, and none of them has a meaning in text, lists or addresses.
    pub fn parse(name: &str) -> Result<IscsiName, NameError> {
        let folded: String = name.chars().flat_map(char::to_lowercase).collect();
        for len in [name.len(), folded.len()] {
            if len == 0 || len > NAME_BYTES_MAX {
                return Err(NameError::Length(len));
            }
        }
        if let Some(bad) = folded.chars().find(|&c| !allowed(c)) {
            return Err(NameError::Character(bad));
        }
        let hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(rest) = folded.strip_prefix("iqn.") {
            if !is_iqn(rest) {
                return Err(NameError::Iqn);
            }
        } else if let Some(digits) = folded.strip_prefix("eui.") {
            if digits.len() != 16 || !hex(digits) {
                return Err(NameError::Eui);
            }
        } else if let Some(digits) = folded.strip_prefix("naa.") {
            if !matches!(digits.len(), 16 | 32) || !hex(digits) {
                return Err(NameError::Naa);
            }
        } else {
            return Err(NameError::Kind);
        }
        Ok(IscsiName(folded.into()))
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn allowed(c: char) -> bool {
    match c {
        'a'..='z' | '0'..='9' | '-' | '.' | ':' | '_' | '+' | '@' | '%' | '~' => true,
        c if c.is_ascii() => false,
        // Marks and the like that case folding leaves behind are part of words; controls and spaces are not.
        c => !c.is_control() && !c.is_whitespace(),
    }
}

/// `yyyy-mm.authority[:anything]`
fn is_iqn(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else { return false };
    let [y1, y2, y3, y4, b'-', m1, m2] = date.as_bytes() else { return false };
    let month = matches!((m1, m2), (b'0', b'1'..=b'9') | (b'1', b'0'..=b'2'));
    let domain = authority.split(':').next().unwrap_or_default();
    [y1, y2, y3, y4].iter().all(|b| b.is_ascii_digit()) && month && !domain.is_empty()
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for IscsiName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_folds() {
        for (name, normal) in [
            ("iqn.2001-04.com.Example:Storage.Disk1", "iqn.2001-04.com.example:storage.disk1"),
            ("IQN.1993-08.org.debian:01:abcdef", "iqn.1993-08.org.debian:01:abcdef"),
            ("iqn.2001-04.com.example", "iqn.2001-04.com.example"),
            ("eui.02004567A425678D", "eui.02004567a425678d"),
            ("naa.52004567BA64678D", "naa.52004567ba64678d"),
            ("naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"),
            ("iqn.2007-10.com.github:sahlberg:my_disk", "iqn.2007-10.com.github:sahlberg:my_disk"),
            ("iqn.2001-04.com.example:\u{c4}pfel", "iqn.2001-04.com.example:\u{e4}pfel"),
        ] {
            assert_eq!(IscsiName::parse(name).unwrap().as_str(), normal);
            assert_eq!(IscsiName::parse(normal).unwrap().as_str(), normal, "the normal form is stable");
        }
        let longest = format!("iqn.2001-04.com.example:{}", "a".repeat(NAME_BYTES_MAX - 24));
        assert_eq!(longest.len(), NAME_BYTES_MAX);
        assert!(IscsiName::parse(&longest).is_ok());
        assert_eq!(IscsiName::parse(&(longest + "a")), Err(NameError::Length(224)));
    }

    #[test]
    fn refuses() {
        for (name, error) in [
            ("", NameError::Length(0)),
            ("disk1", NameError::Kind),
            ("iqn2001-04.com.example", NameError::Kind),
            ("iqn.2001-13.com.example", NameError::Iqn),
            ("iqn.2001-00.com.example", NameError::Iqn),
            ("iqn.201-04.com.example", NameError::Iqn),
            ("iqn.2001-04", NameError::Iqn),
            ("iqn.2001-04.:disk", NameError::Iqn),
            ("iqn.2001-04.com.example:a b", NameError::Character(' ')),
            ("iqn.2001-04.com.example:a,b", NameError::Character(',')),
            ("iqn.2001-04.com.example:../../etc", NameError::Character('/')),
            ("iqn.2001-04.com.example:a\nb", NameError::Character('\n')),
            ("iqn.2001-04.com.example:a\u{3000}b", NameError::Character('\u{3000}')),
            ("eui.02004567A425678", NameError::Eui),
            ("eui.02004567A425678X", NameError::Eui),
            ("naa.52004567BA64678D0", NameError::Naa),
        ] {
            assert_eq!(IscsiName::parse(name), Err(error), "{name:?}");
        }
    }
}
