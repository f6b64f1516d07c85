//! Two network namespaces and a link between them, with addresses of their own; gone when dropped.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use interop::command::Run;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The target's address.
pub const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// The target's second address.
pub const TARGET_2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3));
/// The target's IPv6 address.
pub const TARGET_6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));

/// A portal at the usual port.
pub fn portal(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 3260)
}

/// The two namespaces.
pub struct Net {
    /// The target's.
    pub target: String,
    /// The initiators'.
    pub initiator: String,
}

impl Net {
    /// Makes them; needs root.
    pub fn make() -> Result<Self> {
        let id = std::process::id();
        let net = Self { target: format!("plinth-{id}-t"), initiator: format!("plinth-{id}-i") };
        let (t, i) = (net.target.as_str(), net.initiator.as_str());
        for name in [t, i] {
            ip(&["netns", "add", name]).context("network namespaces need root")?;
        }
        ip(&["-n", t, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", i])?;
        for (name, addresses) in
            [(t, &["10.77.0.1/24", "10.77.0.3/24", "fd77::1/64"][..]), (i, &["10.77.0.2/24", "fd77::2/64"])]
        {
            for address in addresses {
                let mut args = vec!["-n", name, "addr", "add", address, "dev", "veth0"];
                args.extend(address.contains(':').then_some("nodad"));
                ip(&args)?;
            }
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", "veth0", "up"])?;
        }
        Ok(net)
    }

    /// Cuts or mends the link.
    pub fn link(&self, up: bool) -> Result<()> {
        ip(&["-n", &self.initiator, "link", "set", "veth0", if up { "up" } else { "down" }])?;
        if up {
            // IPv6 addresses go with the link.
            ip(&["-n", &self.initiator, "addr", "replace", "fd77::2/64", "dev", "veth0", "nodad"])?;
        }
        Ok(())
    }

    /// Runs `work` on a thread that lives in the initiators' namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().map_err(|_| anyhow!("a thread panicked"))?
        })
    }

    /// Moves the calling thread into the initiators' namespace.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.initiator);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {path}"))
    }

    /// A program to run in the initiators' namespace.
    pub fn program(&self, name: &str) -> Run {
        Run::new("ip").args(["netns", "exec", &self.initiator, name])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.target, &self.initiator] {
            if let Err(error) = ip(&["netns", "del", name]) {
                eprintln!("cannot remove the namespace {name}: {error:#}");
            }
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    Run::new("ip").args(args).limit(Duration::from_secs(10)).success().map(drop)
}
