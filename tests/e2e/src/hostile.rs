//! What a broken or malicious initiator does, and what the others may notice of it: nothing.

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base::limits;
use interop::cases::Cases;
use interop::target::Target;

use crate::client::{Client, Pdu, rw};
use crate::daemon::{IQN, World, resident_kib};
use crate::net::{TARGET, portal};

/// All of them.
pub fn all(world: &World, cases: &mut Cases) {
    cases.run("garbage instead of PDUs", || garbage(world));
    cases.run("mutated PDUs in a session", || mutated(world));
    cases.run("a flood of connections that never log in", || flood(world));
    cases.run("a connection that stops reading is dropped, and starves nobody", || stops_reading(world));
    cases.run("a slow initiator does not slow the other", || slow(world));
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// The daemon lives, has not grown, and serves a proper initiator.
fn healthy(target: &mut Target, initiator: u32, before_kib: u64) -> Result<()> {
    ensure!(target.runs(), "the daemon died; its log:\n{}", interop::target::tail(&target.log(), 20));
    let mut client =
        Client::login(portal(TARGET), initiator, IQN).context("a proper initiator afterwards")?;
    client.settle(1)?;
    client.read(1, 0, 8)?;
    let after_kib = resident_kib(target.pid()?)?;
    ensure!(after_kib < before_kib + (32 << 10), "it grew from {before_kib} to {after_kib} KiB");
    Ok(())
}

fn garbage(world: &World) -> Result<()> {
    let mut target = world.target("garbage", &[portal(TARGET)], 64 << 20, "")?;
    let before = resident_kib(target.pid()?)?;
    world.net.inside(|| {
        let mut random = Random(0x5eed);
        for round in 0..300 {
            let mut client = Client::connect(portal(TARGET))?;
            let mut bytes = match round % 4 {
                // Anything at all.
                0 => random.bytes(1 + random.0 as usize % 3000),
                // A login that announces the largest data segment, and some of it.
                1 => {
                    let mut pdu = Pdu::new(0x43, 0x87).bytes();
                    pdu[5..8].copy_from_slice(&[0xff; 3]);
                    pdu.extend(random.bytes(2000));
                    pdu
                }
                // A login with keys that are none.
                2 => {
                    let mut pdu = Pdu::new(0x43, 0x87);
                    pdu.data = random.bytes(512);
                    pdu.bytes()
                }
                // Any PDU but a login.
                _ => Pdu::new((random.next() % 64) as u8, 0x80).bytes(),
            };
            bytes.truncate(8000);
            // The target may close before everything is sent.
            let _ = client.send_bytes(&bytes);
        }
        healthy(&mut target, 30, before)
    })
}

fn mutated(world: &World) -> Result<()> {
    let mut target = world.target("mutated", &[portal(TARGET)], 64 << 20, "")?;
    let before = resident_kib(target.pid()?)?;
    world.net.inside(|| {
        let mut random = Random(0xfeed);
        for round in 0..400 {
            let mut client = Client::login(portal(TARGET), 40 + round % 8, IQN)?;
            client.stream().set_read_timeout(Some(Duration::from_millis(20)))?;
            let templates = [0x01, 0x41, 0x00, 0x40, 0x02, 0x42, 0x04, 0x05, 0x06, 0x10, 0x43, 0x3f];
            for number in 0..20 {
                let mut pdu = Pdu::new(templates[random.below(templates.len())], 0x80)
                    .set(24, 1 + number)
                    .set(16, 5 + number);
                pdu.head[9] = 1;
                pdu.head[32] =
                    [0x2a, 0x28, 0x12, 0x42, 0x89, 0x83, 0x5f, 0x41, 0x15, 0x9e, 0xa3][random.below(11)];
                for _ in 0..random.below(6) {
                    let at = random.below(48);
                    pdu.head[at] = (random.next() >> 16) as u8;
                }
                let size = random.below(700);
                pdu.data = random.bytes(size);
                if client.send(&pdu).is_err() {
                    break;
                }
            }
            let mut rest = [0; 4096];
            // What it answers, if it does, is of no interest here.
            let _ = client.stream().read(&mut rest);
        }
        healthy(&mut target, 50, before)
    })
}

fn flood(world: &World) -> Result<()> {
    let mut target = world.target("flood", &[portal(TARGET)], 64 << 20, "")?;
    let before = resident_kib(target.pid()?)?;
    world.net.inside(|| {
        let mut proper = Client::login(portal(TARGET), 60, IQN)?;
        proper.settle(1)?;
        let began = Instant::now();
        let count = limits::CONNECTIONS_UNAUTHENTICATED_MAX + 300;
        let flood: Vec<TcpStream> = (0..count)
            .map(|_| Ok(TcpStream::connect_timeout(&portal(TARGET), Duration::from_secs(5))?))
            .collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_secs(1));
        let refused = closed(&flood)?;
        ensure!(
            refused >= 200,
            "{refused} of {count} connections were refused, with a limit of {}",
            limits::CONNECTIONS_UNAUTHENTICATED_MAX
        );
        let slowest = (0..200).try_fold(Duration::ZERO, |slowest, lba| -> Result<Duration> {
            let before = Instant::now();
            proper.read(1, lba * 8, 8)?;
            Ok(slowest.max(before.elapsed()))
        })?;
        ensure!(slowest < Duration::from_millis(500), "a read took {slowest:?} during the flood");
        let until = began + Duration::from_secs(limits::LOGIN_SECONDS_MAX + 8);
        while closed(&flood)? < count {
            ensure!(
                Instant::now() < until,
                "{} connections still are open after {:?}",
                count - closed(&flood)?,
                began.elapsed()
            );
            std::thread::sleep(Duration::from_millis(250));
        }
        drop(flood);
        healthy(&mut target, 61, before)
    })
}

/// How many of the connections the target has closed.
fn closed(connections: &[TcpStream]) -> Result<usize> {
    let mut count = 0;
    for mut stream in connections {
        stream.set_nonblocking(true)?;
        match stream.read(&mut [0; 64]) {
            Ok(0) => count += 1,
            Ok(_) => bail!("the target speaks first"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => count += 1,
        }
    }
    Ok(count)
}

/// Reads per second of one session, over `time`.
fn pace(client: &mut Client, time: Duration) -> Result<f64> {
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < time {
        client.read(1, count % 1000 * 8, 8)?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

fn stops_reading(world: &World) -> Result<()> {
    let mut target = world.target("stops", &[portal(TARGET)], 256 << 20, "")?;
    let before = resident_kib(target.pid()?)?;
    world.net.inside(|| {
        let mut proper = Client::login(portal(TARGET), 70, IQN)?;
        proper.settle(1)?;
        let alone = pace(&mut proper, Duration::from_secs(1))?;
        let mut stuck = Client::login(portal(TARGET), 71, IQN)?;
        stuck.settle(1)?;
        // 64 reads of 256 KiB: more than the sockets hold.
        for number in 0..64 {
            stuck.start(1, &rw(0x28, number * 512, 512, 0), &[], 256 << 10)?;
        }
        let beside = pace(&mut proper, Duration::from_secs(2))?;
        ensure!(beside * 4.0 > alone, "{beside:.0} reads a second beside it, {alone:.0} alone");
        let held = resident_kib(target.pid()?)?;
        ensure!(
            held < before + (128 << 10),
            "it holds {held} KiB for a connection that does not read, from {before}"
        );
        // Dropped when a send has made no progress for the limit's time: then the daemon has no connection 71 any more.
        let began = Instant::now();
        let limit = Duration::from_secs(limits::TX_STALL_SECONDS_MAX + 10);
        while connections(&target)? > 1 {
            ensure!(began.elapsed() < limit, "it is still there after {:?}", began.elapsed());
            proper.read(1, 0, 8)?;
            std::thread::sleep(Duration::from_millis(250));
        }
        drop(stuck);
        proper.read(1, 0, 8).map(drop)
    })?;
    world.net.inside(|| healthy(&mut target, 72, before + (32 << 10)))
}

/// How many sessions tgtadm shows.
fn connections(target: &Target) -> Result<usize> {
    let output = target.admin_output(&["--mode", "conn", "--op", "show", "--tid", "1"])?;
    ensure!(output.ok(), "{}", output.text());
    Ok(output.stdout.lines().filter(|l| l.starts_with("Session: ")).count())
}

/// One initiator keeps a deep queue of large reads and takes its time; the other must keep its pace.
fn slow(world: &World) -> Result<()> {
    let _target = world.target("slow", &[portal(TARGET)], 256 << 20, "")?;
    world.net.inside(|| {
        let mut proper = Client::login(portal(TARGET), 80, IQN)?;
        proper.settle(1)?;
        let alone = pace(&mut proper, Duration::from_secs(1))?;
        let over = AtomicBool::new(false);
        let beside = std::thread::scope(|scope| -> Result<f64> {
            let hog = scope.spawn(|| -> Result<()> {
                world.net.enter()?;
                let mut hog = Client::login(portal(TARGET), 81, IQN)?;
                hog.settle(1)?;
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    hog.read(1, number % 900 * 512, 512)?;
                    std::thread::sleep(Duration::from_millis(5));
                    number += 1;
                }
                Ok(())
            });
            let beside = pace(&mut proper, Duration::from_secs(2));
            over.store(true, Ordering::Relaxed);
            hog.join().map_err(|_| anyhow::anyhow!("the slow initiator panicked"))??;
            beside
        })?;
        ensure!(beside * 3.0 > alone, "{beside:.0} reads a second beside a slow one, {alone:.0} alone");
        Ok(())
    })
}
