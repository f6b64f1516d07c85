//! The target of a case: our tgtd in its namespace, with one or more units, and what /proc says of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use interop::target::{Lun, Options, Programs, Target, sparse_file};

use crate::net::Net;

/// The target's name.
pub const IQN: &str = "iqn.2026-11.org.plinth.e2e:target";

/// What all cases share.
pub struct World {
    /// The namespaces.
    pub net: Net,
    /// Our programs.
    pub programs: Programs,
    /// Where files go.
    pub scratch: PathBuf,
}

impl World {
    /// A target with one unit of `size_bytes`, in a folder of that name.
    pub fn target(
        &self,
        name: &str,
        portals: &[SocketAddr],
        size_bytes: u64,
        params: &str,
    ) -> Result<Target> {
        let dir = self.scratch.join(name);
        std::fs::create_dir_all(&dir)?;
        let path = dir.join("lun1.img");
        sparse_file(&path, size_bytes)?;
        self.target_on(name, portals, &path, params)
    }

    /// A target with one unit on the file at `path`.
    pub fn target_on(&self, name: &str, portals: &[SocketAddr], path: &Path, params: &str) -> Result<Target> {
        let options = Options {
            portals: portals.to_vec(),
            persist: true,
            namespace: Some(self.net.target.clone()),
            extra: Vec::new(),
        };
        let mut target = Target::start(&self.programs, &self.scratch.join(name), options)?;
        target.add_target(1, IQN)?;
        target.add_lun(
            1,
            &Lun { number: 1, path: path.to_owned(), params: params.to_owned(), ..Lun::default() },
        )?;
        Ok(target)
    }
}

/// A number in /proc/PID/status, in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon is gone")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches("kB").trim().parse().context("VmRSS")
}

/// User and system time of the process, in clock ticks (10 ms).
pub fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon is gone")?;
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15 of the line.
    let after = stat.rsplit_once(") ").context("/proc/PID/stat")?.1;
    let fields: Vec<&str> = after.split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
