//! The host's part of each scenario.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::guest::Guest;
use super::image::Image;
use super::relay::Relay;
use crate::command::Run;
use crate::target::{Lun, Options, Programs, Target, sparse_file};

const IQN: &str = "iqn.2026-11.org.plinth.kernel:1";
const SIZE_BYTES: u64 = 1 << 30;
/// A guest's whole life; emulated, it needs about a minute.
const LIFE: Duration = Duration::from_secs(400);
const STEP: Duration = Duration::from_secs(150);

/// What all scenarios need.
pub struct Round {
    /// What guests boot from.
    pub image: Image,
    /// The target's programs.
    pub programs: Programs,
    /// Where LUNs and sockets are.
    pub scratch: PathBuf,
    /// Where logs are kept.
    pub logs: PathBuf,
}

/// One scenario's target, with one LUN.
struct Stage {
    target: Target,
    file: PathBuf,
    logs: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // For whoever reads why it failed; there may be no log yet.
        let _ = std::fs::copy(self.target.log(), self.logs.join("tgtd.log"));
    }
}

impl Round {
    fn stage(&self, name: &str, portals: usize, params: &str) -> Result<Stage> {
        let dir = self.scratch.join(name);
        let logs = self.logs.join(name);
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let options = Options { persist: true, ..Options::loopback(portals)? };
        let mut target = Target::start(&self.programs, &dir, options)?;
        let file = dir.join("lun.img");
        sparse_file(&file, SIZE_BYTES)?;
        target.add_target(1, IQN)?;
        target.add_lun(
            1,
            &Lun { number: 1, path: file.clone(), params: params.to_owned(), ..Lun::default() },
        )?;
        Ok(Stage { target, file, logs })
    }

    fn boot(&self, stage: &Stage, script: &str, values: &[(&str, String)]) -> Result<Guest> {
        let mut all = vec![("iqn", IQN.to_owned())];
        all.extend(values.iter().cloned());
        Guest::boot(&self.image, &stage.logs, &all, script, LIFE)
    }

    /// A file system under load, the target killed in the middle and started again.
    pub fn recovery(&self) -> Result<()> {
        let mut stage = self.stage("recovery", 1, "")?;
        let account = ["--mode", "account", "--op"];
        for (user, secret) in [("bob", "in-the-kernel-round"), ("carol", "said-by-the-target")] {
            stage.target.admin(&[&account[..], &["new", "--user", user, "--password", secret]].concat())?;
        }
        stage.target.admin(&[&account[..], &["bind", "--tid", "1", "--user", "bob"]].concat())?;
        stage
            .target
            .admin(&[&account[..], &["bind", "--tid", "1", "--user", "carol", "--outgoing"]].concat())?;
        for digest in ["HeaderDigest", "DataDigest"] {
            let update =
                ["--mode", "target", "--op", "update", "--tid", "1", "--name", digest, "--value", "CRC32C"];
            stage.target.admin(&update)?;
        }
        let port = stage.target.portals()[0].port().to_string();
        let mut guest = self.boot(&stage, include_str!("../../guest/recovery.sh"), &[("port", port)])?;
        for cut in ["written 10", "written 30"] {
            guest.mark(cut, STEP)?;
            stage.target.kill()?;
            std::thread::sleep(Duration::from_secs(3));
            stage.target.restart()?;
        }
        guest.finish()?;
        clean(&stage.file)
    }

    /// Two paths of one unit; each is lost in turn while files are written.
    pub fn multipath(&self) -> Result<()> {
        let stage = self.stage("multipath", 2, "")?;
        let relays = [Relay::start(stage.target.portals()[0])?, Relay::start(stage.target.portals()[1])?];
        let values = [("port1", relays[0].port().to_string()), ("port2", relays[1].port().to_string())];
        let mut guest = self.boot(&stage, include_str!("../../guest/multipath.sh"), &values)?;
        guest.mark("both paths", STEP)?;
        for relay in &relays {
            guest.mark("wrote", STEP)?;
            relay.cut();
            guest.say("cut")?;
            guest.mark("one path", STEP)?;
            guest.mark("wrote", STEP)?;
            relay.mend();
            guest.say("mended")?;
            guest.mark("both paths", STEP)?;
        }
        guest.finish()?;
        clean(&stage.file)
    }

    /// A registration and a reservation with APTPL are there after kill -9 and a restart.
    pub fn reservations(&self) -> Result<()> {
        let mut stage = self.stage("reservations", 1, "")?;
        let port = stage.target.portals()[0].port().to_string();
        let mut guest = self.boot(&stage, include_str!("../../guest/reservations.sh"), &[("port", port)])?;
        guest.mark("reserved", STEP)?;
        stage.target.kill()?;
        stage.target.restart()?;
        guest.say("restarted")?;
        guest.finish()
    }
}

/// The file behind the LUN, as our own e2fsck sees it.
fn clean(file: &Path) -> Result<()> {
    let check = Run::new("e2fsck").args(["-f", "-n"]).arg(file).limit(Duration::from_secs(120)).output()?;
    ensure!(check.ok(), "e2fsck -fn on the host: exit code {:?}\n{}", check.code, check.text());
    Ok(())
}
