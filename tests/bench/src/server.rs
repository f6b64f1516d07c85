//! The servers that are measured: stock tgtd, ours, and the bare ring; each pinned to one core.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::Advice;

use crate::cpu;
use crate::load::Wire;
use crate::wire::{Bare, Iscsi};

/// The core of every server.
pub const SERVER_CORE: usize = 0;
/// The core of every client.
pub const CLIENT_CORE: usize = 1;
/// The one target.
pub const TARGET: &str = "iqn.2026-11.bench.plinth:target";

/// The unit that is read.
pub const UNIT_READ: u32 = 1;
/// The unit that is written.
pub const UNIT_WRITE: u32 = 2;
/// The first of 64 small units.
pub const UNITS_FIRST: u32 = 3;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Stock tgtd.
    Tgt,
    /// Ours.
    Plinth,
    /// The limit.
    Bare,
}

impl Kind {
    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tgt => "tgt",
            Kind::Plinth => "plinth",
            Kind::Bare => "bare ring",
        }
    }
}

/// A program, and what comes before its own arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Arguments that choose what it is.
    pub first: Vec<String>,
}

impl Program {
    fn command(&self) -> Command {
        let mut c = Command::new(&self.path);
        c.args(&self.first);
        c
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// Stock tgtd and tgtadm.
    pub stock: (Program, Program),
    /// Ours, where it is built.
    pub plinth: Option<(Program, Program)>,
    /// The files behind the units.
    pub files: Vec<PathBuf>,
    /// A folder for logs.
    pub dir: PathBuf,
}

impl Places {
    /// Makes the files, all of them in the page cache: one of `mib` MiB to be read, one of 128 to be written, 64 of 16.
    ///
    /// The second is brought there in pages of 4 KiB. As it was written, it would lie there in folios of up to 2 MiB, and
    /// each small write to one costs ext4 a walk over its 512 buffers: tens of microseconds that belong to no server.
    pub fn make_files(dir: &Path, mib: u64) -> Result<Vec<PathBuf>> {
        let mut chunk = vec![0_u8; 1 << 20];
        for (i, b) in chunk.iter_mut().enumerate() {
            *b = ((i as u32).wrapping_mul(0x9e37_79b9) >> 23) as u8;
        }
        let one = |i: usize| -> Result<PathBuf> {
            let path = dir.join(format!("unit-{i}"));
            let mut file = File::create_new(&path)?;
            let size = [mib, 128].get(i).copied().unwrap_or(16);
            for _ in 0..size {
                file.write_all(&chunk)?;
            }
            if i == 1 {
                file.sync_all()?;
                rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
                let file = File::open(&path)?;
                rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
                let mut page = [0; 4096];
                for at in 0..size * 256 {
                    file.read_exact_at(&mut page, at * 4096)?;
                }
            }
            Ok(path)
        };
        (0..UNITS_FIRST as usize - 1 + 64).map(one).collect()
    }
}

/// A running server.
pub struct Server {
    /// Which.
    pub kind: Kind,
    child: Child,
    portal: SocketAddr,
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The URL of a unit, for libiscsi's tools.
    pub fn url(&self, lun: u32) -> String {
        format!("iscsi://{}/{TARGET}/{lun}", self.portal)
    }

    /// Starts a target with one unit a file, numbered from 1.
    pub fn target(kind: Kind, places: &Places) -> Result<Server> {
        let (daemon, adm) = match kind {
            Kind::Tgt => &places.stock,
            Kind::Plinth => places.plinth.as_ref().context("our daemon is not built")?,
            Kind::Bare => bail!("the bare ring is no target"),
        };
        let port = free_port()?;
        // tgtd takes control ports up to 32767.
        let control = (port % 30_000 + 1_000).to_string();
        let log = File::create(places.dir.join(format!("{}.log", kind.name())))?;
        let mut command = daemon.command();
        command.args(["-f", "-C", &control, "--iscsi", &format!("portal=127.0.0.1:{port}")]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn_pinned(&mut command)?;
        let mut server = Server { kind, child, portal: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) };
        let end = Instant::now() + Duration::from_secs(5);
        let lld = ["--lld", "iscsi", "--mode"];
        let new = ["target", "--op", "new", "--tid", "1", "-T", TARGET];
        while let Err(e) = run(adm, &control, &[&lld[..], &new[..]].concat()) {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended at once with {status}: {}", kind.name(), places.log(kind));
            }
            if Instant::now() > end {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for (i, file) in places.files.iter().enumerate() {
            let (lun, file) = ((i + 1).to_string(), file.display().to_string());
            let unit = ["logicalunit", "--op", "new", "--tid", "1", "--lun", &lun, "-b", &file];
            run(adm, &control, &[&lld[..], &unit[..]].concat())?;
        }
        let bind = ["target", "--op", "bind", "--tid", "1", "-I", "ALL"];
        run(adm, &control, &[&lld[..], &bind[..]].concat())?;
        Ok(server)
    }

    /// Starts the bare ring for so many connections.
    pub fn bare(places: &Places, lun: u32, connections: usize, spin_us: u64) -> Result<Server> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").args(["--port", &port.to_string(), "--connections", &connections.to_string()]);
        command.arg("--file").arg(&places.files[lun as usize - 1]).args(["--spin-us", &spin_us.to_string()]);
        let child = spawn_pinned(&mut command)?;
        Ok(Server { kind: Kind::Bare, child, portal: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) })
    }

    /// A session for the load generator: socket, wire and the unit's size.
    pub fn session(&self, who: u32, lun: u32, places: &Places) -> Result<(TcpStream, Box<dyn Wire>, u64)> {
        if self.kind != Kind::Bare {
            let (socket, wire, size) = Iscsi::login(self.portal, TARGET, lun, who)?;
            return Ok((socket, Box::new(wire), size));
        }
        let size = fs::metadata(&places.files[lun as usize - 1])?.len();
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            match TcpStream::connect(self.portal) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    return Ok((socket, Box::new(Bare), size));
                }
                Err(e) if Instant::now() > end => return Err(e).context("connect to the bare ring"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Places {
    fn log(&self, kind: Kind) -> String {
        let text = fs::read_to_string(self.dir.join(format!("{}.log", kind.name()))).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_pinned(command: &mut Command) -> Result<Child> {
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| cpu::pin(None, SERVER_CORE));
    }
    command.spawn().with_context(|| format!("start {:?}", command.get_program()))
}

fn run(adm: &Program, control: &str, arguments: &[&str]) -> Result<()> {
    let out = adm.command().args(["-C", control]).args(arguments).output().context("start tgtadm")?;
    if !out.status.success() {
        bail!("tgtadm {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
