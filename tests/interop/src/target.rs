//! An iSCSI target under test: stock tgtd or ours, on ports and a control socket of its own.
//!
//! Stock tgtd forgets everything when it ends; ours is started with `--persist` where a test asks for it. What was configured
//! is recorded here and replayed after a restart of a daemon that does not keep it, so that scenarios read the same for both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{Guard, Output, Run, find_program, until};
use crate::packages;

/// Which implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Debian's tgt.
    Stock,
    /// This project's.
    Ours,
}

/// The programs of one implementation.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Which one it is.
    pub kind: Kind,
    /// The folder with `tgtd`, `tgtadm` and `tgt-admin`.
    pub dir: PathBuf,
}

impl Programs {
    /// Finds (or, for stock tgt, installs) the programs. Links to our binary are made in `scratch`.
    pub fn locate(kind: Kind, scratch: &Path) -> Result<Self> {
        let dir = match kind {
            Kind::Stock => {
                packages::require(&[("tgt", "/usr/sbin/tgtd")])?;
                PathBuf::from("/usr/sbin")
            }
            Kind::Ours => {
                let links = scratch.join("bin");
                std::fs::create_dir_all(&links)?;
                Run::new(our_binary()?)
                    .arg("links")
                    .arg(&links)
                    .success()
                    .context("plinth cannot make its links")?;
                links
            }
        };
        for name in ["tgtd", "tgtadm"] {
            if !dir.join(name).exists() {
                bail!("no {name} in {}", dir.display());
            }
        }
        Ok(Self { kind, dir })
    }
}

/// Our binary: `$PLINTH_BINARY`, or the one built beside this program.
pub fn our_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PLINTH_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let me = std::env::current_exe()?;
    // build/PROFILE/plinth-interop, or build/PROFILE/deps/TEST
    let found = me.ancestors().skip(1).take(2).map(|dir| dir.join("plinth")).find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "no plinth binary beside {}; build it (cargo build -p plinth) or set PLINTH_BINARY",
            me.display()
        )
    })
}

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens. The first is given on its command line, the others are added.
    pub portals: Vec<SocketAddr>,
    /// Whether ours keeps its configuration over a restart.
    pub persist: bool,
    /// A network namespace to run it in.
    pub namespace: Option<String>,
    /// More arguments for the daemon.
    pub extra: Vec<String>,
}

impl Options {
    /// On `count` free ports of 127.0.0.1.
    pub fn loopback(count: usize) -> Result<Self> {
        let portals = (0..count).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        Ok(Self { portals, persist: false, namespace: None, extra: Vec::new() })
    }
}

fn free_port() -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}

/// A logical unit to make.
#[derive(Clone, Debug, Default)]
pub struct Lun {
    /// Its number.
    pub number: u64,
    /// The file behind it.
    pub path: PathBuf,
    /// `--blocksize`, if not the default.
    pub block_size: Option<u32>,
    /// `--params` of an update after it is made.
    pub params: String,
}

/// A running daemon.
pub struct Target {
    programs: Programs,
    options: Options,
    control: u16,
    dir: PathBuf,
    child: Option<Guard>,
    recorded: Vec<Vec<String>>,
}

impl Target {
    /// Starts a daemon whose files (socket, log, and our root) are in `dir`.
    pub fn start(programs: &Programs, dir: &Path, options: Options) -> Result<Self> {
        std::fs::create_dir_all(dir.join("root"))?;
        let first = options.portals.first().context("a target needs a portal")?;
        // Control ports are names here, not ports; a listening port's number is unique on this machine.
        let control = first.port() / 2;
        let mut target = Self {
            programs: programs.clone(),
            options,
            control,
            dir: dir.to_owned(),
            child: None,
            recorded: Vec::new(),
        };
        target.launch()?;
        let more: Vec<SocketAddr> = target.options.portals.iter().skip(1).copied().collect();
        for portal in more {
            target.admin(&["--mode", "portal", "--op", "new", "--param", &format!("portal={portal}")])?;
        }
        Ok(target)
    }

    /// The daemon's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("tgtd.log")
    }

    /// Which implementation this is.
    pub fn kind(&self) -> Kind {
        self.programs.kind
    }

    /// The portals.
    pub fn portals(&self) -> &[SocketAddr] {
        &self.options.portals
    }

    /// The daemon's process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the daemon does not run")?.pid())
    }

    /// The control port, as `-C` takes it.
    pub fn control(&self) -> u16 {
        self.control
    }

    /// Gives a command what it needs to find the daemon.
    pub fn environment(&self, run: Run) -> Run {
        run.env("TGT_IPC_SOCKET", self.dir.join("socket")).env("PLINTH_ROOT", self.dir.join("root"))
    }

    fn launch(&mut self) -> Result<()> {
        let tgtd = self.programs.dir.join("tgtd");
        let run = match &self.options.namespace {
            None => Run::new(tgtd),
            Some(name) => Run::new("ip").args(["netns", "exec", name]).arg(tgtd),
        };
        let control = self.control.to_string();
        let mut run =
            run.args(["-f", "-C", &control, "--iscsi", &format!("portal={}", self.options.portals[0])]);
        if self.keeps_configuration() {
            run = run.arg("--persist");
        }
        let run = run.args(&self.options.extra);
        let mut child = self.environment(run).background(&self.log())?;
        let ready = until(Duration::from_secs(15), "the daemon answers tgtadm", || {
            if !child.runs() {
                bail!("the daemon ended at once; its log:\n{}", tail(&self.log(), 20));
            }
            let shown = self.admin_output(&["--mode", "system", "--op", "show"])?;
            Ok(shown.ok().then_some(()))
        });
        ready.with_context(|| {
            format!("cannot start {:?}; log:\n{}", self.programs.kind, tail(&self.log(), 20))
        })?;
        self.child = Some(child);
        Ok(())
    }

    fn keeps_configuration(&self) -> bool {
        self.options.persist && self.programs.kind == Kind::Ours
    }

    /// Runs tgtadm against this daemon, whatever it answers.
    pub fn admin_output(&self, args: &[&str]) -> Result<Output> {
        let run = Run::new(self.programs.dir.join("tgtadm"))
            .args(["-C", &self.control.to_string(), "--lld", "iscsi"])
            .args(args);
        self.environment(run).output()
    }

    /// Runs tgtadm, demands success, and remembers the call for a restart.
    pub fn admin(&mut self, args: &[&str]) -> Result<String> {
        let output = self.admin_output(args)?;
        if !output.ok() {
            bail!("tgtadm {}: exit code {:?}: {}", args.join(" "), output.code, output.text());
        }
        self.recorded.push(args.iter().map(ToString::to_string).collect());
        Ok(output.stdout)
    }

    /// Makes a target that every address may use.
    pub fn add_target(&mut self, tid: u32, iqn: &str) -> Result<()> {
        let tid = tid.to_string();
        self.admin(&["--mode", "target", "--op", "new", "--tid", &tid, "-T", iqn])?;
        self.admin(&["--mode", "target", "--op", "bind", "--tid", &tid, "-I", "ALL"])?;
        Ok(())
    }

    /// Makes a logical unit.
    pub fn add_lun(&mut self, tid: u32, lun: &Lun) -> Result<()> {
        let (tid, number) = (tid.to_string(), lun.number.to_string());
        let path = lun.path.to_str().context("the path of a LUN must be UTF-8")?;
        let unit = ["--mode", "logicalunit", "--tid", &tid, "--lun", &number];
        let size = lun.block_size.map(|b| b.to_string());
        let mut new = [&unit[..], &["--op", "new", "-b", path]].concat();
        if let Some(size) = &size {
            new.extend(["--blocksize", size]);
        }
        self.admin(&new)?;
        if !lun.params.is_empty() {
            self.admin(&[&unit[..], &["--op", "update", "--params", &lun.params]].concat())?;
        }
        Ok(())
    }

    /// Whether the daemon still runs.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(Guard::runs)
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.0.kill()?;
        child.0.wait()?;
        Ok(())
    }

    /// Starts it again, with what was configured before.
    pub fn restart(&mut self) -> Result<()> {
        if let Some(child) = self.child.take() {
            drop(child);
        }
        self.launch()?;
        if !self.keeps_configuration() {
            for args in std::mem::take(&mut self.recorded) {
                self.admin(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    /// The URL of a unit through the portal of that index.
    pub fn url(&self, portal: usize, iqn: &str, lun: u64) -> String {
        format!("iscsi://{}/{iqn}/{lun}", self.options.portals[portal])
    }
}

/// The last `count` lines of a file, for messages.
pub fn tail(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A sparse file of that size.
pub fn sparse_file(path: &Path, size_bytes: u64) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(size_bytes)?;
    Ok(())
}

/// Fails unless the program is installed.
pub fn need_program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} is not installed"))
}
