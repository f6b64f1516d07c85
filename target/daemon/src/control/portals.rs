//! Portals, and the text that names them on tgtd's command line and in requests.

use super::Control;
use super::backend::{Backend, Portal};
use super::error::{Refusal, TgtError};
use super::number::atoi;
use crate::mgmt::{Op, Request, Response};

/// The port of iSCSI.
pub const PORT_DEFAULT: u16 = 3260;
const PORTALS_MAX: usize = 256;

/// One word of `portal=host:port,nop_interval=5,...`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Portal { host: String, port: u16 },
    NopInterval(i32),
    NopCount(i32),
}

impl Control {
    pub(super) fn portal_request(
        &mut self,
        op: Op,
        request: &Request,
        backend: &mut dyn Backend,
    ) -> Response {
        match op {
            Op::Show => return Ok(self.show_portals()),
            Op::New => self.apply_portal_text(portal_text(request)?, backend)?,
            Op::Delete => self.delete_portals(portal_text(request)?, backend)?,
            _ => return Err(TgtError::InvalidRequest.into()),
        }
        Ok(String::new())
    }

    /// What `tgtd --iscsi TEXT` says: `portal=host:port`, `nop_interval=N`, `nop_count=N`, by commas.
    pub fn start_driver_options(&mut self, text: &str, backend: &mut dyn Backend) -> Result<(), Refusal> {
        self.apply_portal_text(text, backend)
    }

    /// Where there is no portal yet, opens the iSCSI port on every address. Publishes.
    pub fn start_default_portal(&mut self, backend: &mut dyn Backend) -> Result<(), Refusal> {
        if self.portals.is_empty() {
            self.open_portal(None, PORT_DEFAULT, backend)?;
        }
        self.publish(backend);
        Ok(())
    }

    /// All or nothing: what was opened is closed again where a later one fails.
    fn apply_portal_text(&mut self, text: &str, backend: &mut dyn Backend) -> Result<(), Refusal> {
        let words = parse(text)?;
        let before = self.portals.len();
        let mut failure = None;
        for word in &words {
            if let Word::Portal { host, port } = word
                && let Err(refusal) = self.open_portal(Some(host), *port, backend)
            {
                failure = Some(refusal);
                break;
            }
        }
        if let Some(refusal) = failure {
            while self.portals.len() > before {
                backend.close_portal(self.portals.remove(0).address)?;
            }
            return Err(refusal);
        }
        for word in words {
            match word {
                Word::NopInterval(n) => self.system.nop_interval = n,
                Word::NopCount(n) => self.system.nop_count = n,
                Word::Portal { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn open_portal(
        &mut self,
        host: Option<&str>,
        port: u16,
        backend: &mut dyn Backend,
    ) -> Result<(), Refusal> {
        if self.portals.len() >= PORTALS_MAX {
            return Err(Refusal::invalid(format!("there are {PORTALS_MAX} portals already")));
        }
        let tag = 1;
        let opened = backend.open_portal(host, port, tag)?;
        opened.into_iter().for_each(|address| self.portals.insert(0, Portal { address, tag }));
        Ok(())
    }

    fn delete_portals(&mut self, text: &str, backend: &mut dyn Backend) -> Result<(), Refusal> {
        for word in parse(text)? {
            let Word::Portal { host, port } = word else { continue };
            let same = |p: &Portal| p.address.port() == port && p.address.ip().to_string() == host;
            if let Some(at) = self.absent_portals.iter().position(same) {
                self.absent_portals.remove(at);
                continue;
            }
            let at = self
                .portals
                .iter()
                .position(same)
                .ok_or_else(|| Refusal::invalid(format!("no portal {host}:{port}")))?;
            let address = self.portals.get(at).map(|p| p.address).ok_or(TgtError::InvalidRequest)?;
            backend.close_portal(address)?;
            self.portals.remove(at);
        }
        Ok(())
    }
}

fn portal_text(request: &Request) -> Result<&str, Refusal> {
    let at = request
        .payload
        .find("portal=")
        .ok_or_else(|| Refusal::invalid("no portal= in the request; say portal=address:port"))?;
    Ok(request.payload.get(at..).unwrap_or_default())
}

fn parse(text: &str) -> Result<Vec<Word>, Refusal> {
    let mut words = Vec::new();
    for word in text.split(',').filter(|w| !w.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "portal" => words.push(portal(value)?),
            "nop_interval" => words.push(Word::NopInterval(atoi(value))),
            "nop_count" => words.push(Word::NopCount(atoi(value))),
            _ => {
                return Err(Refusal::invalid(format!(
                    "{word}: known are portal=, nop_interval= and nop_count="
                )));
            }
        }
    }
    Ok(words)
}

/// `address`, `address:port`, `[address]`, `[address]:port`, or an IPv6 address without port or brackets.
fn portal(text: &str) -> Result<Word, Refusal> {
    let wrong = |why: &str| Refusal::invalid(format!("portal={text}: {why}"));
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or_else(|| wrong("no ] for the ["))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(wrong("after ] comes : and a port")),
        };
        (host, port)
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        None => PORT_DEFAULT,
        Some(port) => port.parse().map_err(|_| wrong("a port is a number from 0 to 65535"))?,
    };
    if host.is_empty() {
        return Err(wrong("no address"));
    }
    Ok(Word::Portal { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_in_every_form() {
        let one = |text: &str| match parse(text).map(|mut w| w.remove(0)) {
            Ok(Word::Portal { host, port }) => Some((host, port)),
            _ => None,
        };
        let is = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(one("portal=1.2.3.4:99"), is("1.2.3.4", 99));
        assert_eq!(one("portal=1.2.3.4"), is("1.2.3.4", 3260));
        assert_eq!(one("portal=[::1]:99"), is("::1", 99));
        assert_eq!(one("portal=[::1]"), is("::1", 3260));
        assert_eq!(one("portal=::1"), is("::1", 3260));
        for wrong in
            ["portal=", "portal=:3", "portal=[::1", "portal=[::1]x", "portal=a:70000", "portal=a:b", "zork=1"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let all = parse("portal=a:1,nop_interval=5,nop_count=3,").unwrap();
        assert_eq!(all.get(1..), Some(&[Word::NopInterval(5), Word::NopCount(3)][..]));
    }
}
