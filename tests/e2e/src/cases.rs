//! What a user lives through: restarts, lost links, full disks, growing disks, several portals.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use interop::cases::Cases;
use interop::command::{Run, until};
use interop::target::Target;

use crate::client::Client;
use crate::daemon::{IQN, World};
use crate::net::{TARGET, TARGET_2, TARGET_6, portal};

const MIB: u64 = 1 << 20;

/// All of them.
pub fn all(world: &World, cases: &mut Cases) {
    cases.run("several portals, IPv4 and IPv6", || portals(world));
    cases.run("what was configured is there after kill -9", || configuration(world));
    cases.run("what was acknowledged as synced is there after kill -9", || synced(world));
    cases.run("an initiator goes on after kill -9 and restart", || goes_on(world));
    cases.run("the link is cut and comes back", || link(world));
    cases.run("a full disk: SPACE ALLOCATION FAILED, nothing corrupt", || full_disk(world));
    cases.run("a disk grows without an offline step", || grows(world));
}

fn portals(world: &World) -> Result<()> {
    let all = [portal(TARGET), portal(TARGET_2), portal(TARGET_6)];
    let target = world.target("portals", &all, 64 * MIB, "")?;
    for (number, at) in target.portals().iter().enumerate() {
        let listed = world.net.program("iscsi-ls").arg(format!("iscsi://{at}")).success()?;
        ensure!(listed.stdout.contains(&format!("Target:{IQN} Portal:{at},1")), "{at}: {}", listed.text());
        world.net.inside(|| {
            let mut client = Client::login(*at, 100 + u32::try_from(number)?, IQN)?;
            client.settle(1)?;
            client.read(1, 0, 8).map(drop)
        })?;
    }
    Ok(())
}

/// What tgtadm shows, without the sessions of the moment.
fn shown(target: &Target) -> Result<String> {
    let output = target.admin_output(&["--mode", "target", "--op", "show"])?;
    ensure!(output.ok(), "{}", output.text());
    let mut lines: Vec<&str> = Vec::new();
    let mut in_sessions = false;
    for line in output.stdout.lines() {
        if line.starts_with("    ") && !line.starts_with("        ") {
            in_sessions = line.trim() == "I_T nexus information:";
        }
        if !in_sessions {
            lines.push(line);
        }
    }
    Ok(lines.join("\n"))
}

fn configuration(world: &World) -> Result<()> {
    let mut target =
        world.target("configuration", &[portal(TARGET)], 64 * MIB, "vendor_id=ACME,thin_provisioning=1")?;
    let account = ["--mode", "account", "--op"];
    target.admin(&[&account[..], &["new", "--user", "bob", "--password", "a-secret-of-bob"]].concat())?;
    target.admin(&[&account[..], &["bind", "--tid", "1", "--user", "bob"]].concat())?;
    target.admin(&[
        "--mode",
        "target",
        "--op",
        "bind",
        "--tid",
        "1",
        "-Q",
        "iqn.2026-11.org.plinth.e2e:friend",
    ])?;
    target.admin(&[
        "--mode",
        "target",
        "--op",
        "new",
        "--tid",
        "7",
        "-T",
        "iqn.2026-11.org.plinth.e2e:empty",
    ])?;
    target.admin(&[
        "--mode",
        "target",
        "--op",
        "update",
        "--tid",
        "7",
        "--name",
        "MaxBurstLength",
        "--value",
        "65536",
    ])?;
    let parameters = ["--mode", "target", "--op", "show", "--tid", "7"];
    let before = (shown(&target)?, target.admin_output(&parameters)?.stdout);
    ensure!(before.0.contains("bob") && before.1.contains("MaxBurstLength=65536"), "{before:?}");
    target.kill()?;
    target.restart()?;
    let after = (shown(&target)?, target.admin_output(&parameters)?.stdout);
    ensure!(before == after, "before:\n{}\n{}\nafter:\n{}\n{}", before.0, before.1, after.0, after.1);
    Ok(())
}

/// The block that is written as number `n`.
fn block(n: u32) -> Vec<u8> {
    n.to_be_bytes().iter().copied().cycle().take(4096).collect()
}

/// Writes and syncs one block after the other until the target is killed, three times over.
fn synced(world: &World) -> Result<()> {
    let mut target = world.target("synced", &[portal(TARGET)], 64 * MIB, "")?;
    let mut from = 0;
    for round in 0..3 {
        let acknowledged = AtomicU32::new(from);
        world.net.inside(|| {
            let mut client = Client::login(portal(TARGET), 200 + round, IQN)?;
            client.settle(1)?;
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| -> Result<()> {
                    // Ends with an error when the target is killed: that is the case.
                    for n in from.. {
                        client.write(1, n * 8, &block(n))?.good()?;
                        client.sync(1)?.good()?;
                        acknowledged.store(n + 1, Ordering::SeqCst);
                    }
                    Ok(())
                });
                std::thread::sleep(Duration::from_millis(300));
                target.kill()?;
                ensure!(writer.join().is_ok_and(|r| r.is_err()), "the writer did not notice");
                Ok(())
            })
        })?;
        let count = acknowledged.into_inner();
        ensure!(count > from, "nothing was written in 300 ms");
        target.restart()?;
        world.net.inside(|| {
            let mut client = Client::login(portal(TARGET), 300 + round, IQN)?;
            client.settle(1)?;
            for n in 0..count {
                ensure!(client.read(1, n * 8, 8)? == block(n), "block {n} of {count} is not what was synced");
            }
            Ok(())
        })?;
        from = count;
    }
    Ok(())
}

/// The same initiator name and ISID logs in again and finds its data and its unit.
fn goes_on(world: &World) -> Result<()> {
    let mut target = world.target("goes-on", &[portal(TARGET)], 64 * MIB, "")?;
    world.net.inside(|| {
        let mut client = Client::login(portal(TARGET), 7, IQN)?;
        client.settle(1)?;
        let before = client.command(1, &[0x12, 1, 0x83, 0, 255, 0], &[], 255)?.good()?;
        client.write(1, 0, &block(1))?.good()?;
        target.kill()?;
        ensure!(client.read(1, 0, 8).is_err(), "a dead target answers");
        target.restart()?;
        let began = Instant::now();
        let mut again = until(Duration::from_secs(5), "logging in again", || {
            Ok(Client::login(portal(TARGET), 7, IQN).ok())
        })?;
        again.settle(1)?;
        ensure!(again.read(1, 0, 8)? == block(1), "other data");
        let after = again.command(1, &[0x12, 1, 0x83, 0, 255, 0], &[], 255)?.good()?;
        ensure!(before == after, "the unit has another identity after the restart");
        ensure!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
        Ok(())
    })
}

fn link(world: &World) -> Result<()> {
    let _target = world.target("link", &[portal(TARGET)], 64 * MIB, "")?;
    world.net.inside(|| {
        let mut client = Client::login(portal(TARGET), 8, IQN)?;
        client.settle(1)?;
        client.write(1, 0, &block(1))?.good()?;
        world.net.link(false)?;
        std::thread::scope(|scope| -> Result<()> {
            // Sent into the cut; TCP carries it once the link is back.
            let write = scope.spawn(|| -> Result<()> { client.write(1, 8, &block(2))?.good().map(drop) });
            std::thread::sleep(Duration::from_secs(3));
            ensure!(!write.is_finished(), "a write was answered over a cut link");
            world.net.link(true)?;
            write.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
        })?;
        ensure!(client.read(1, 0, 16)? == [block(1), block(2)].concat(), "other data");
        Ok(())
    })
}

/// A small file system of its own, unmounted when dropped.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size_mib: u32) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        Run::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"])
            .arg(at)
            .success()?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = Run::new("umount").arg("-l").arg(&self.0).success() {
            eprintln!("cannot unmount {}: {error:#}", self.0.display());
        }
    }
}

fn full_disk(world: &World) -> Result<()> {
    let disk = Tmpfs::mount(&world.scratch.join("small"), 16)?;
    let file = disk.0.join("lun.img");
    interop::target::sparse_file(&file, 64 * MIB)?;
    let _target = world.target_on("full", &[portal(TARGET)], &file, "thin_provisioning=1")?;
    world.net.inside(|| {
        let mut client = Client::login(portal(TARGET), 9, IQN)?;
        client.settle(1)?;
        let mut written = 0;
        let refused = loop {
            ensure!(u64::from(written) * 4096 < 64 * MIB, "64 MiB went onto a disk of 16");
            let answer = client.write(1, written * 8, &block(written))?;
            if answer.status != 0 {
                break answer;
            }
            written += 1;
        };
        // SPC-4 and SBC-3 4.7.3.6: DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT.
        ensure!((refused.status, refused.sense) == (2, Some((7, 0x27, 7))), "{refused:02x?}");
        for n in 0..written {
            ensure!(
                client.read(1, n * 8, 8)? == block(n),
                "block {n} of {written} changed when the disk became full"
            );
        }
        let after = client.read(1, written * 8, 8)?;
        ensure!(
            after == vec![0; 4096] || after == block(written),
            "the refused block is neither old nor new"
        );
        // UNMAP of the first 4 MiB makes room.
        let mut list = [0; 24];
        list[1] = 22;
        list[3] = 16;
        list[16..20].copy_from_slice(&8192_u32.to_be_bytes());
        client.command(1, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0)?.good()?;
        client.write(1, written * 8, &block(written))?.good().context("there is room again")?;
        ensure!(client.read(1, written * 8, 8)? == block(written), "other data");
        Ok(())
    })
}

fn grows(world: &World) -> Result<()> {
    let target = world.target("grows", &[portal(TARGET)], 64 * MIB, "")?;
    let file = world.scratch.join("grows/lun1.img");
    world.net.inside(|| {
        let mut client = Client::login(portal(TARGET), 10, IQN)?;
        client.settle(1)?;
        ensure!(capacity(&mut client)? == 64 * MIB, "it does not begin with 64 MiB");
        std::fs::File::options().write(true).open(&file)?.set_len(96 * MIB)?;
        // SBC-3 4.10: UNIT ATTENTION, CAPACITY DATA HAS CHANGED.
        let sense = until(Duration::from_secs(15), "the unit attention", || {
            let answer = client.command(1, &[0; 6], &[], 0)?;
            Ok((answer.status != 0).then_some(answer.sense))
        })?;
        ensure!(sense == Some((6, 0x2a, 9)), "{sense:02x?} instead of CAPACITY DATA HAS CHANGED");
        ensure!(capacity(&mut client)? == 96 * MIB, "READ CAPACITY does not see it");
        let last = u32::try_from(96 * MIB / 512 - 8)?;
        client.write(1, last, &block(5))?.good()?;
        ensure!(client.read(1, last, 8)? == block(5), "other data at the new end");
        let text = target.admin_output(&["--mode", "target", "--op", "show"])?.stdout;
        ensure!(text.contains("Size: 101 MB"), "tgtadm does not see it:\n{text}");
        Ok(())
    })
}

fn capacity(client: &mut Client) -> Result<u64> {
    let data = client.command(1, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8)?.good()?;
    let Some((last, size)) = data.split_first_chunk::<4>() else { bail!("READ CAPACITY gave nothing") };
    ensure!(size[..4] == 512_u32.to_be_bytes(), "another block size");
    Ok((u64::from(u32::from_be_bytes(*last)) + 1) * 512)
}
