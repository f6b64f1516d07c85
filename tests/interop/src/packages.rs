//! Debian packages that a round needs: looked for by the programs that they bring, installed when we are root, and otherwise
//! named in the error. Nothing is skipped because a tool is missing.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{Run, find_program};

/// dpkg has one lock; so have we.
static APT: Mutex<()> = Mutex::new(());

/// A package, and what shows that it is there: a program's name, or a path that begins with `/`.
pub type Need = (&'static str, &'static str);

fn present(shown_by: &str) -> bool {
    if shown_by.starts_with('/') {
        std::path::Path::new(shown_by).exists()
    } else {
        find_program(shown_by).is_some()
    }
}

/// Makes sure that everything in `needs` is there.
pub fn require(needs: &[Need]) -> Result<()> {
    let _one_at_a_time = APT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let missing: Vec<Need> = needs.iter().copied().filter(|(_, shown_by)| !present(shown_by)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    if !rustix::process::geteuid().is_root() {
        bail!(
            "missing packages: {0}; install them (apt-get install {0}) or run this as root",
            names.join(" ")
        );
    }
    if find_program("apt-get").is_none() {
        bail!("missing: {}; there is no apt-get here to install them with", names.join(" "));
    }
    install(&names)?;
    match missing.iter().find(|(_, shown_by)| !present(shown_by)) {
        None => Ok(()),
        Some((package, shown_by)) => bail!("{package} was installed, but {shown_by} is still not there"),
    }
}

fn apt(args: &[&str]) -> Run {
    Run::new("apt-get")
        .args(["-o", "DPkg::Lock::Timeout=120"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .limit(Duration::from_secs(600))
}

/// Installs `names`. The qemu packages insist on one another's exact version, and a release and its security archive may
/// offer two: when a plain install finds no way, all of them are asked for in the version that the newest qemu-utils has.
fn install(names: &[&str]) -> Result<()> {
    eprintln!("installing: {}", names.join(" "));
    apt(&["update", "-qq"]).success().context("the package lists cannot be fetched")?;
    let options = ["install", "-y", "-qq", "--no-install-recommends", "--allow-downgrades"];
    let plain = apt(&[&options[..], names].concat()).output()?;
    if plain.ok() {
        return Ok(());
    }
    let pinned = same_release(names)?;
    let pinned: Vec<&str> = pinned.iter().map(String::as_str).collect();
    apt(&[&options[..], &pinned].concat()).success().with_context(|| {
        format!("cannot install {}; a plain install said:\n{}", names.join(" "), plain.text())
    })?;
    Ok(())
}

/// `names` with every qemu package in the version of the first qemu-utils that the archive offers, and the common packages
/// that must follow.
fn same_release(names: &[&str]) -> Result<Vec<String>> {
    let offered = Run::new("apt-cache").args(["madison", "qemu-utils"]).success()?.stdout;
    let version = offered.lines().next().and_then(|line| line.split('|').nth(1)).map(str::trim);
    let Some(version) = version else { bail!("apt-cache knows no qemu-utils") };
    let mut pinned: Vec<String> =
        names.iter().filter(|n| !n.starts_with("qemu-")).map(ToString::to_string).collect();
    let mut qemu: Vec<&str> = names.iter().copied().filter(|n| n.starts_with("qemu-")).collect();
    for installed in ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils"] {
        if !qemu.contains(&installed) && Run::new("dpkg").args(["-s", installed]).output()?.ok() {
            qemu.push(installed);
        }
    }
    for package in qemu {
        let all = Run::new("apt-cache").args(["madison", package]).success()?.stdout;
        // An architecture-independent package lacks the "+b3" of a rebuilt one.
        let source = version.split("+b").next().unwrap_or(version);
        let found = all
            .lines()
            .filter_map(|line| line.split('|').nth(1).map(str::trim))
            .find(|v| *v == version || *v == source)
            .with_context(|| format!("no {package} of version {version} is offered"))?;
        pinned.push(format!("{package}={found}"));
    }
    Ok(pinned)
}
