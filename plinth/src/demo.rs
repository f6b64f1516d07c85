//! `plinth demo`: a target with a disk of its own in a folder of its own, from examples/targets.conf, with nothing to
//! configure.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use base::Root;
use clap::Parser;
use target_daemon::tgtd::{Daemon, Options};

const EXAMPLE: &str = include_str!("../../examples/targets.conf");
/// The example's disk, which the demo replaces by its own.
const EXAMPLE_DISK: &str = "/srv/plinth/disk1.img";
const TARGET: &str = "iqn.2026-01.com.example:disk1";
/// The port of iSCSI, where it is free.
const PORT: u16 = 3260;

/// Starts an iSCSI target with a disk, in the foreground, and says how to reach it.
#[derive(Debug, Parser)]
#[command(name = "plinth demo", version)]
struct Arguments {
    /// where its files are kept
    #[arg(long, value_name = "DIR", default_value = "plinth-demo")]
    dir: PathBuf,
    /// size of the disk, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    size: u64,
    /// the port on 127.0.0.1; without it 3260, or any that is free
    #[arg(long)]
    port: Option<u16>,
}

/// Runs the command; gives its exit code.
pub fn main(arguments: &[OsString]) -> i32 {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(e) => {
            // Where not even the message can be printed, the exit code says enough.
            let _ = e.print();
            return if e.use_stderr() { 2 } else { 0 };
        }
    };
    match run(&parsed) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("plinth demo: {e:#}");
            1
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    target_daemon::logging::start(false);
    fs::create_dir_all(&arguments.dir).with_context(|| arguments.dir.display().to_string())?;
    let dir = arguments.dir.canonicalize().with_context(|| arguments.dir.display().to_string())?;
    let disk = dir.join("disk1.img");
    make_disk(&disk, arguments.size)?;
    let conf = dir.join("etc/tgt/targets.conf");
    fs::create_dir_all(dir.join("etc/tgt"))?;
    fs::write(&conf, EXAMPLE.replace(EXAMPLE_DISK, &disk.to_string_lossy()))
        .with_context(|| conf.display().to_string())?;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(arguments.port)?));
    let daemon = Daemon::start(Options {
        foreground: true,
        control_port: 0,
        threads: 0,
        pid_file: None,
        debug: false,
        iscsi: format!("portal={at}"),
        persist: false,
        metrics: None,
        slow_request_ms: 2000,
        spin: true,
        root: Root::new(&dir),
    })?;
    let admin = Command::new(std::env::current_exe().context("cannot find the program's own file")?)
        .args(["tgt-admin", "-e", "-c"])
        .arg(&conf)
        .env(base::root::ROOT_VARIABLE, &dir)
        .env_remove(target_daemon::mgmt::socket::PATH_VARIABLE)
        .status()
        .context("cannot run tgt-admin")?;
    if !admin.success() {
        daemon.stop();
        bail!("tgt-admin could not apply {} ({admin})", conf.display());
    }
    print!("{}", welcome(at, &disk, &dir, arguments.size));
    let ended = daemon.wait();
    daemon.stop();
    ended
}

fn make_disk(disk: &Path, mib: u64) -> Result<()> {
    let file = File::options().write(true).create(true).truncate(false).open(disk);
    let file = file.with_context(|| disk.display().to_string())?;
    // What is there already keeps its size and its data.
    if file.metadata()?.len() == 0 {
        file.set_len(mib << 20).with_context(|| disk.display().to_string())?;
    }
    Ok(())
}

fn free_port(wanted: Option<u16>) -> Result<u16> {
    if let Some(port) = wanted {
        return Ok(port);
    }
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no free port on 127.0.0.1")?;
    Ok(bound.local_addr()?.port())
}

fn welcome(at: SocketAddr, disk: &Path, dir: &Path, mib: u64) -> String {
    let root = format!("PLINTH_ROOT={}", dir.display());
    let program = std::env::current_exe().map_or_else(|_| "plinth".into(), |p| p.display().to_string());
    format!(
        "\nAn iSCSI target is ready.\n\n  portal   {at}\n  target   {TARGET}\n  LUN 1    {} ({mib} MiB)\n\n\
         Discover it:   iscsi-ls -s iscsi://{at}\n\
         or:            iscsiadm -m discovery -t sendtargets -p {at}\n\
         Look at it:    {root} {program} tgtadm --lld iscsi --mode target --op show\n\
         End it:        Ctrl-C\n\n",
        disk.display()
    )
}
