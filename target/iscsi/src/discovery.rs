//! The answer to SendTargets (RFC 7143 appendix C): records of a TargetName and the TargetAddresses that it is at.

use crate::address::{AddressError, TargetAddress};
use crate::name::{IscsiName, NameError};
use crate::text::{Text, TextWriter};

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// Its name.
    pub name: IscsiName,
    /// Where it is; empty means: at the address that was asked.
    pub addresses: Vec<TargetAddress>,
}

/// Why text is not an answer to SendTargets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// A name that is none.
    #[error("TargetName={0}: {1}")]
    Name(String, NameError),
    /// An address that is none.
    #[error("TargetAddress={0}: {1}")]
    Address(String, AddressError),
    /// An address before any name.
    #[error("TargetAddress={0} comes before a TargetName")]
    NoName(String),
}

/// Writes one record.
pub fn write_record<'a>(
    out: &mut TextWriter,
    name: &str,
    addresses: impl IntoIterator<Item = &'a TargetAddress>,
) {
    out.pair("TargetName", name);
    for address in addresses {
        out.pair("TargetAddress", address);
    }
}

/// Reads all records; other keys are passed over.
pub fn parse_records(text: &Text) -> Result<Vec<TargetRecord>, DiscoveryError> {
    let mut records: Vec<TargetRecord> = Vec::new();
    for (key, value) in text.iter() {
        match key {
            "TargetName" => {
                let name = IscsiName::parse(value).map_err(|e| DiscoveryError::Name(value.to_owned(), e))?;
                records.push(TargetRecord { name, addresses: Vec::new() });
            }
            "TargetAddress" => {
                let address =
                    TargetAddress::parse(value).map_err(|e| DiscoveryError::Address(value.to_owned(), e))?;
                let record = records.last_mut().ok_or_else(|| DiscoveryError::NoName(value.to_owned()))?;
                record.addresses.push(address);
            }
            _ => {}
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Repeats, TextLimits};

    fn text(bytes: &[u8]) -> Text {
        Text::parse(bytes.to_vec(), TextLimits::DISCOVERY, Repeats::TargetRecords).unwrap()
    }

    #[test]
    fn records_round_trip() {
        let address = |s| TargetAddress::parse(s).unwrap();
        let mut out = TextWriter::new();
        let two = [address("10.0.0.1:3260,1"), address("[fe80::1]:3260,2")];
        write_record(&mut out, "iqn.2001-04.com.example:a", &two);
        write_record(&mut out, "iqn.2001-04.com.example:b", &[]);
        let records = parse_records(&text(out.as_bytes())).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].addresses, two);
        assert_eq!(records[1].name.as_str(), "iqn.2001-04.com.example:b");
        assert!(records[1].addresses.is_empty());
    }

    #[test]
    fn refuses() {
        for bytes in [
            &b"TargetAddress=10.0.0.1:3260,1\0"[..],
            b"TargetName=disk\0",
            b"TargetName=iqn.2001-04.com.example:a\0TargetAddress=a b\0",
        ] {
            assert!(parse_records(&text(bytes)).is_err());
        }
    }
}
