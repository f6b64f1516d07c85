//! Who may see a target and log in.
//!
//! Address rules (`-I`): `ALL`, an address, or a network as address/bits; IPv6 with or without brackets. Name rules
//! (`-Q`): an iSCSI initiator name. Without any rule nobody is admitted. With rules of one kind, one of them must match.
//! With rules of both kinds one of each must: tgt joins the kinds with OR, so that a target with a name rule and the
//! usual `ALL` is open to the world (docs/compatibility.md).

use std::net::IpAddr;

use super::error::TgtError;

/// The rules of one target, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    addresses: Vec<AddressRule>,
    names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AddressRule {
    text: String,
    matcher: Matcher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matcher {
    All,
    Network(IpAddr, u8),
    /// A rule that cannot match anybody: tgt takes any text and then matches nothing with it.
    Nobody,
}

impl Acl {
    /// Adds an address rule.
    pub fn add_address(&mut self, text: &str) -> Result<(), TgtError> {
        if self.addresses.iter().any(|r| r.text == text) {
            return Err(TgtError::AclExists);
        }
        self.addresses.push(AddressRule { text: text.to_owned(), matcher: Matcher::parse(text) });
        Ok(())
    }

    /// Adds a name rule.
    pub fn add_name(&mut self, name: &str) -> Result<(), TgtError> {
        if self.names.iter().any(|n| n == name) {
            return Err(TgtError::AclExists);
        }
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Takes an address rule away.
    pub fn remove_address(&mut self, text: &str) -> Result<(), TgtError> {
        let at = self.addresses.iter().position(|r| r.text == text).ok_or(TgtError::NoAcl)?;
        self.addresses.remove(at);
        Ok(())
    }

    /// Takes a name rule away.
    pub fn remove_name(&mut self, name: &str) -> Result<(), TgtError> {
        let at = self.names.iter().position(|n| n == name).ok_or(TgtError::NoAcl)?;
        self.names.remove(at);
        Ok(())
    }

    /// The address rules as they were given.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.addresses.iter().map(|r| r.text.as_str())
    }

    /// The name rules.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether the initiator called `initiator` may come from `peer`.
    pub fn admits(&self, initiator: &str, peer: IpAddr) -> bool {
        if self.addresses.is_empty() && self.names.is_empty() {
            return false;
        }
        let by_address = self.addresses.is_empty() || self.addresses.iter().any(|r| r.matcher.admits(peer));
        let by_name = self.names.is_empty() || self.names.iter().any(|n| n == initiator);
        by_address && by_name
    }
}

impl Matcher {
    fn parse(text: &str) -> Matcher {
        if text == "ALL" {
            return Matcher::All;
        }
        let (address, rest) = match text.strip_prefix('[') {
            Some(inner) => match inner.split_once(']') {
                Some((address, rest)) => (address, rest),
                None => return Matcher::Nobody,
            },
            None => match text.find('/') {
                Some(at) => text.split_at(at),
                None => (text, ""),
            },
        };
        let Ok(address) = address.parse::<IpAddr>() else { return Matcher::Nobody };
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match rest.strip_prefix('/') {
            None if rest.is_empty() => width,
            Some(bits) => match bits.parse::<u8>() {
                Ok(bits) if bits <= width => bits,
                _ => return Matcher::Nobody,
            },
            None => return Matcher::Nobody,
        };
        // Bits to the right of the mask: a slip of the pen that tgt never matches for IPv4; neither do we.
        if value(address) & !mask(bits, width) != 0 {
            return Matcher::Nobody;
        }
        Matcher::Network(address, bits)
    }

    fn admits(self, peer: IpAddr) -> bool {
        match self {
            Matcher::All => true,
            Matcher::Nobody => false,
            Matcher::Network(network, bits) => {
                let peer = peer.to_canonical();
                let width = if network.is_ipv4() { 32 } else { 128 };
                network.is_ipv4() == peer.is_ipv4() && value(peer) & mask(bits, width) == value(network)
            }
        }
    }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn mask(bits: u8, width: u8) -> u128 {
    let ones = if width == 128 { u128::MAX } else { (1 << width) - 1 };
    let host = width.saturating_sub(bits);
    if host >= 128 { 0 } else { ones & !((1 << host) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(addresses: &[&str], names: &[&str]) -> Acl {
        let mut acl = Acl::default();
        addresses.iter().for_each(|a| acl.add_address(a).unwrap());
        names.iter().for_each(|n| acl.add_name(n).unwrap());
        acl
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_rule_admits_nobody() {
        assert!(!acl(&[], &[]).admits("iqn.a", ip("127.0.0.1")));
    }

    #[test]
    fn kinds_are_joined_with_and() {
        let names = acl(&[], &["iqn.a"]);
        assert!(names.admits("iqn.a", ip("10.0.0.1")) && !names.admits("iqn.b", ip("10.0.0.1")));
        let both = acl(&["10.0.0.0/8", "ALL"], &["iqn.a"]);
        assert!(both.admits("iqn.a", ip("11.0.0.1")) && !both.admits("iqn.b", ip("10.0.0.1")));
        let both = acl(&["10.0.0.0/8"], &["iqn.a"]);
        assert!(!both.admits("iqn.a", ip("11.0.0.1")));
    }

    #[test]
    fn addresses_and_networks() {
        let yes = |rule: &str, peer: &str| acl(&[rule], &[]).admits("", ip(peer));
        assert!(yes("192.168.0.0/16", "192.168.7.9") && !yes("192.168.0.0/16", "192.169.0.1"));
        assert!(yes("10.1.2.3", "10.1.2.3") && !yes("10.1.2.3", "10.1.2.4"));
        assert!(yes("10.1.2.3/32", "10.1.2.3") && !yes("10.1.2.3/32", "10.1.2.2"));
        assert!(yes("0.0.0.0/0", "1.2.3.4") && !yes("0.0.0.0/0", "::1") && yes("::/0", "fe80::1"));
        assert!(yes("10.0.0.0/8", "::ffff:10.1.1.1"), "an IPv4 peer on a dual socket");
        assert!(yes("[2001:db8::]/32", "2001:db8:1::2") && yes("2001:db8::/32", "2001:db8:1::2"));
        assert!(yes("[::1]", "::1") && yes("::1", "::1") && !yes("[::1", "::1"));
        for nobody in ["", "host", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/x", "[::1]x", "10.0.0"] {
            assert!(!yes(nobody, "10.0.0.1"), "{nobody}");
        }
    }

    #[test]
    fn rules_are_unique_and_keep_their_order() {
        let mut a = acl(&["b", "a"], &["n"]);
        assert_eq!(a.add_address("a"), Err(TgtError::AclExists));
        assert_eq!(a.add_name("n"), Err(TgtError::AclExists));
        assert_eq!(a.remove_address("x"), Err(TgtError::NoAcl));
        assert_eq!(a.remove_name("x"), Err(TgtError::NoAcl));
        assert_eq!(a.addresses().collect::<Vec<_>>(), ["b", "a"]);
        a.remove_address("b").unwrap();
        a.remove_name("n").unwrap();
        assert_eq!((a.addresses().count(), a.names().count()), (1, 0));
    }
}
