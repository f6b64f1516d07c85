//! TargetAddress (RFC 7143 13.8): `host[:port][,portal group tag]`, IPv6 in brackets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The port of iSCSI (RFC 7143 13.8).
pub const PORT: u16 = 3260;
/// The longest domain name (RFC 1035 2.3.4).
const DOMAIN_BYTES_MAX: usize = 255;

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By number.
    Ip(IpAddr),
    /// By DNS name.
    Domain(String),
}

/// A portal as it stands in a TargetAddress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetAddress {
    /// Host.
    pub host: Host,
    /// TCP port.
    pub port: u16,
    /// Portal group tag; absent in a redirection.
    pub group: Option<u16>,
}

/// Why a string is not a TargetAddress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: a TargetAddress is host[:port][,portal group tag], with an IPv6 address in brackets")]
pub struct AddressError(pub &'static str);

impl TargetAddress {
    /// That of a socket address in a portal group.
    pub fn of(at: SocketAddr, group: Option<u16>) -> Self {
        TargetAddress { host: Host::Ip(at.ip()), port: at.port(), group }
    }

    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (place, group) = match text.rsplit_once(',') {
            Some((place, group)) => (place, Some(number(group, "bad portal group tag")?)),
            None => (text, None),
        };
        if let Some(inside) = place.strip_prefix('[') {
            let Some((ip, rest)) = inside.split_once(']') else {
                return Err(AddressError("no closing bracket"));
            };
            let ip = ip.parse().map_err(|_| AddressError("bad IPv6 address"))?;
            let port = match rest.strip_prefix(':') {
                Some(port) => number(port, "bad port")?,
                None if rest.is_empty() => PORT,
                None => return Err(AddressError("text after the closing bracket")),
            };
            return Ok(TargetAddress { host: Host::Ip(IpAddr::V6(ip)), port, group });
        }
        let (host, port) = match place.split_once(':') {
            Some((host, port)) => (host, number(port, "bad port")?),
            None => (place, PORT),
        };
        Ok(TargetAddress { host: host_of(host)?, port, group })
    }
}

fn host_of(host: &str) -> Result<Host, AddressError> {
    if let Ok(ip) = host.parse() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || host.len() > DOMAIN_BYTES_MAX || !host.bytes().all(label) {
        return Err(AddressError("bad host name"));
    }
    Ok(Host::Domain(host.to_owned()))
}

fn number(digits: &str, problem: &'static str) -> Result<u16, AddressError> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
        .ok_or(AddressError(problem))
}

impl fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}")?,
            Host::Domain(name) => f.write_str(name)?,
        }
        write!(f, ":{}", self.port)?;
        self.group.map_or(Ok(()), |group| write!(f, ",{group}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for text in ["10.0.0.1:3260,1", "[2001:db8::1]:3261,65535", "san.example.com:860", "[::]:3260,0"] {
            assert_eq!(TargetAddress::parse(text).unwrap().to_string(), text);
        }
        for (short, full) in
            [("10.0.0.1", "10.0.0.1:3260"), ("[::1],2", "[::1]:3260,2"), ("host,7", "host:3260,7")]
        {
            assert_eq!(TargetAddress::parse(short).unwrap().to_string(), full);
        }
        let at = "[fe80::1]:3260".parse().unwrap();
        assert_eq!(TargetAddress::of(at, Some(3)).to_string(), "[fe80::1]:3260,3");
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            ",1",
            ":3260",
            "10.0.0.1:",
            "10.0.0.1:65536",
            "10.0.0.1:+1",
            "10.0.0.1,",
            "10.0.0.1,65536",
            "10.0.0.1,-1",
            "[::1",
            "[::1]3260",
            "[10.0.0.1]",
            "::1",
            "a b",
            "a/b:3260,1",
            "a\n:3260",
        ] {
            assert!(TargetAddress::parse(text).is_err(), "{text:?}");
        }
        assert!(TargetAddress::parse(&"a".repeat(256)).is_err());
    }
}
