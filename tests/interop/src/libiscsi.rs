//! libiscsi's small tools: discovery, INQUIRY, capacity, and CHAP with the right and the wrong secret.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::cases::Cases;
use crate::command::{Output, Run};
use crate::packages;
use crate::target::{Kind, Lun, Options, Programs, Target, sparse_file};

const OPEN: &str = "iqn.2026-11.org.plinth.tools:open";
const LOCKED: &str = "iqn.2026-11.org.plinth.tools:locked";
const SIZE_BYTES: u64 = 64 << 20;
/// RFC 7143 12.1.3 wants at least 96 bits of secret.
const SECRET: &str = "in-the-round-of-tools";
const OTHER_SECRET: &str = "the-target-says-this";

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The implementation to test
    #[arg(long, value_enum, default_value = "ours")]
    pub target: Kind,
    /// Only cases whose name contains one of these
    pub names: Vec<String>,
}

/// Runs the round; true if all is well.
pub fn main(args: &Args) -> Result<bool> {
    packages::require(&[("libiscsi-bin", "iscsi-ls")])?;
    let scratch = tempfile::Builder::new().prefix("plinth-tools-").tempdir()?;
    let programs = Programs::locate(args.target, scratch.path())?;
    let target = configure(&programs, scratch.path())?;
    let mut cases = Cases::new(&args.names);
    cases.run("discovery lists every target at each portal", || discovery(&target));
    cases.run("iscsi-ls -s lists the units", || units(&target));
    cases.run("iscsi-inq: standard data and pages", || inquiry(&target));
    cases.run("iscsi-readcapacity16", || capacity(&target));
    cases.run("a target or unit that is not there", || absent(&target));
    cases.run("CHAP: the right secret", || chap(&target, "bob", SECRET, true));
    cases.run("CHAP: a wrong secret", || chap(&target, "bob", "not-the-right-secret", false));
    cases.run("CHAP: an unknown name", || chap(&target, "eve", SECRET, false));
    cases.run("CHAP: no name at all", || no_name(&target));
    cases.run("CHAP: mutual, the right secret", || mutual(&target, OTHER_SECRET, true));
    cases.run("CHAP: mutual, the target's secret is not what we expect", || {
        mutual(&target, "something-else-entirely", false)
    });
    Ok(cases.finish())
}

fn configure(programs: &Programs, dir: &Path) -> Result<Target> {
    let mut target = Target::start(programs, &dir.join("tools"), Options::loopback(2)?)?;
    for (tid, iqn) in [(1, OPEN), (2, LOCKED)] {
        let path = dir.join(format!("{tid}.img"));
        sparse_file(&path, SIZE_BYTES)?;
        target.add_target(tid, iqn)?;
        target.add_lun(tid, &Lun { number: 1, path, ..Lun::default() })?;
    }
    for (user, secret) in [("bob", SECRET), ("carol", OTHER_SECRET)] {
        target.admin(&["--mode", "account", "--op", "new", "--user", user, "--password", secret])?;
    }
    let bind = ["--mode", "account", "--op", "bind", "--tid", "2", "--user"];
    target.admin(&[&bind[..], &["bob"]].concat())?;
    target.admin(&[&bind[..], &["carol", "--outgoing"]].concat())?;
    Ok(target)
}

fn tool(name: &str) -> Run {
    Run::new(name).limit(Duration::from_secs(20))
}

fn says(output: &Output, wanted: &str) -> Result<()> {
    ensure!(output.ok(), "exit code {:?}: {}", output.code, output.text());
    ensure!(output.stdout.contains(wanted), "it does not say {wanted:?}:\n{}", output.text());
    Ok(())
}

fn discovery(target: &Target) -> Result<()> {
    for portal in target.portals() {
        let output = tool("iscsi-ls").arg(format!("iscsi://{portal}")).output()?;
        for iqn in [OPEN, LOCKED] {
            says(&output, &format!("Target:{iqn} Portal:{portal},1"))?;
        }
    }
    Ok(())
}

fn units(target: &Target) -> Result<()> {
    let output =
        tool("iscsi-ls").args(["-s", &format!("iscsi://bob%{SECRET}@{}", target.portals()[0])]).output()?;
    says(&output, "Type:DIRECT_ACCESS")?;
    // iscsi-ls reckons with the last block's number, not with the count.
    says(&output, "Size:63M").or_else(|_| says(&output, "Size:64M"))
}

fn inquiry(target: &Target) -> Result<()> {
    let url = target.url(0, OPEN, 1);
    let standard = tool("iscsi-inq").arg(&url).output()?;
    says(&standard, "Peripheral Device Type:DIRECT_ACCESS")?;
    let pages = tool("iscsi-inq").args(["-e", "1", "-c", "0", &url]).output()?;
    for page in ["SUPPORTED_VPD_PAGES", "UNIT_SERIAL_NUMBER", "DEVICE_IDENTIFICATION", "BLOCK_LIMITS"] {
        says(&pages, page)?;
    }
    for page in ["128", "131", "176", "177"] {
        let output = tool("iscsi-inq").args(["-e", "1", "-c", page, &url]).output()?;
        ensure!(output.ok(), "page {page}: {}", output.text());
    }
    Ok(())
}

fn capacity(target: &Target) -> Result<()> {
    let output = tool("iscsi-readcapacity16").arg(target.url(1, OPEN, 1)).output()?;
    says(&output, &format!("Total size:{SIZE_BYTES}"))?;
    says(&output, "LOGICAL BLOCK LENGTH IN BYTES:512")
}

fn absent(target: &Target) -> Result<()> {
    for url in [target.url(0, "iqn.2026-11.org.plinth.tools:none", 1), target.url(0, OPEN, 77)] {
        let output = tool("iscsi-readcapacity16").arg(&url).output()?;
        ensure!(!output.ok() && !output.timed_out, "{url}: {:?} {}", output.code, output.text());
    }
    Ok(())
}

fn expect(output: &Output, good: bool) -> Result<()> {
    if output.timed_out {
        bail!("it never ended: {}", output.text());
    }
    ensure!(
        output.ok() == good,
        "exit code {:?}, expected {}: {}",
        output.code,
        if good { "0" } else { "a refusal" },
        output.text()
    );
    ensure!(good || !output.stdout.contains("Total size"), "it was refused and let in:\n{}", output.text());
    Ok(())
}

fn chap(target: &Target, user: &str, secret: &str, good: bool) -> Result<()> {
    let url = target.url(0, LOCKED, 1).replace("iscsi://", &format!("iscsi://{user}%{secret}@"));
    // The secret of a mutual login may be asked for only by the initiator: one way works on a target that could do both.
    expect(&tool("iscsi-readcapacity16").arg(url).output()?, good)
}

fn no_name(target: &Target) -> Result<()> {
    expect(&tool("iscsi-readcapacity16").arg(target.url(0, LOCKED, 1)).output()?, false)
}

fn mutual(target: &Target, expected: &str, good: bool) -> Result<()> {
    let url = target.url(0, LOCKED, 1).replace("iscsi://", &format!("iscsi://bob%{SECRET}@"));
    let url = format!("{url}?target_user=carol&target_password={expected}");
    expect(&tool("iscsi-readcapacity16").arg(url).output()?, good)
}
