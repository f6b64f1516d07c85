//! Nothing to do must cost nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use interop::cases::Cases;

use crate::client::Client;
use crate::daemon::{IQN, World, cpu_ticks, resident_kib};
use crate::net::{TARGET, portal};

const IDLE: Duration = Duration::from_secs(3);
/// A tick is 10 ms; one may fall on the edge.
const TICKS_MAX: u64 = 1;

/// All of them.
pub fn all(world: &World, cases: &mut Cases) {
    cases.run("idle: no CPU in 3 seconds, with one session", || one_session(world));
    cases.run("idle: 1,000 sessions cost no CPU and less than 64 MiB", || many_sessions(world));
}

fn one_session(world: &World) -> Result<()> {
    let target = world.target("idle", &[portal(TARGET)], 64 << 20, "")?;
    world.net.inside(|| {
        let mut client = Client::login(portal(TARGET), 20, IQN)?;
        client.settle(1)?;
        for lba in 0..1000 {
            client.read(1, lba * 8, 8)?;
        }
        std::thread::sleep(Duration::from_millis(500));
        let before = cpu_ticks(target.pid()?)?;
        std::thread::sleep(IDLE);
        let used = cpu_ticks(target.pid()?)? - before;
        ensure!(used <= TICKS_MAX, "{used} ticks (10 ms each) in {} idle seconds", IDLE.as_secs());
        client.read(1, 0, 8).map(drop)
    })
}

fn many_sessions(world: &World) -> Result<()> {
    let target = world.target("many", &[portal(TARGET)], 64 << 20, "")?;
    world.net.inside(|| {
        let mut clients = Vec::new();
        for number in 0..1000 {
            let mut client = Client::login(portal(TARGET), 1000 + number, IQN)?;
            client.settle(1)?;
            clients.push(client);
        }
        std::thread::sleep(Duration::from_millis(500));
        let before = cpu_ticks(target.pid()?)?;
        std::thread::sleep(IDLE);
        let used = cpu_ticks(target.pid()?)? - before;
        let resident = resident_kib(target.pid()?)?;
        ensure!(resident < 64 << 10, "{resident} KiB resident with 1,000 idle sessions");
        ensure!(
            used <= TICKS_MAX,
            "{used} ticks (10 ms each) in {} seconds of 1,000 idle sessions",
            IDLE.as_secs()
        );
        for client in &mut clients {
            client.read(1, 0, 1)?;
        }
        Ok(())
    })
}
