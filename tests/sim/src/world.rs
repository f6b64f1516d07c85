//! A world: the clock, the nodes, the load and the accidents. One step handles one point in time.
//!
//! The time of load is followed by a time of peace: faults are cleared, nothing breaks any more, and everything that was
//! asked has to end. Then all blocks are read, everybody logs out, and the target has to hold nothing any more.

use std::time::Duration;

use base::random::SeededRandom;
use base::{Entropy, Mono};
use block::fault::{Effect, Fault, FaultConfig, FaultId, InFlight, Latency, On, Timing};
use block::{FaultDevice, IoErrorKind};
use iscsi::params::Settings;
use iscsi::pdu::TmfFunction;

use crate::initiator::{Initiator, Told};
use crate::judge::{BLOCK, Judge, Verdict};
use crate::net::{Arrival, Net, NetConfig, Side};
use crate::scenario::Scenario;
use crate::target::{Mutation, Target, TargetConfig};
use crate::trace::Trace;
use crate::{Failure, fail};

/// Blocks of a unit that are used: few, so that everything meets.
const BLOCKS: u64 = 96;
/// Largest transfer, blocks.
const TRANSFER_MAX: u64 = 40;
/// Virtual time that peace may take.
const PEACE_MAX: Duration = Duration::from_secs(600);
/// Buffers that a target may have out.
const BUFFERS_MAX: usize = 64 << 20;

/// How far an initiator is with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    /// Not logged in, or nothing asked yet.
    No,
    /// The first TEST UNIT READY is under way: it must meet a unit attention.
    First,
    /// Another one is under way.
    Again,
    /// It may be used.
    Done,
}

/// What a run amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The hash over all events.
    pub hash: u64,
    /// Events.
    pub events: u64,
    /// Commands that ended GOOD, refused, failed, without an answer.
    pub ends: [u64; 4],
    /// Losses of power and kills.
    pub crashes: u64,
    /// Links that were cut.
    pub cuts: u64,
}

/// See the module.
pub struct World {
    scenario: Scenario,
    now: Mono,
    random: SeededRandom,
    trace: Trace,
    net: Net,
    disks: Vec<FaultDevice>,
    config: TargetConfig,
    target: Option<Target>,
    /// What the dead node's own disk kept, and when it starts again.
    resting: Option<(Mono, Vec<Vec<u8>>)>,
    initiators: Vec<Initiator>,
    /// By initiator and unit.
    greetings: Vec<Vec<Greeting>>,
    next_load: Vec<Mono>,
    next_accident: Mono,
    faults: Vec<(Mono, usize, FaultId)>,
    judge: Judge,
    seed: u64,
    starts: u64,
    peace: bool,
    summary: Summary,
}

impl World {
    /// A world from a seed.
    pub fn new(
        scenario: &Scenario,
        seed: u64,
        mutation: Option<Mutation>,
        verbose: bool,
    ) -> Result<Self, Failure> {
        let mut random = SeededRandom::new(seed ^ 0x776f_726c);
        let disk = |i: usize| {
            let mut config = FaultConfig::harsh(BLOCKS * BLOCK, BLOCK as u32, seed ^ (i as u64) << 32);
            config.timing = Timing::Timed(Latency { slow_one_in: 200, ..Latency::default() });
            // What the initiators learn late, an evicted page shows early: the oracle could not tell it from a loss.
            config.evict_after_flush_error = false;
            FaultDevice::new(config)
        };
        let disks: Vec<FaultDevice> = (0..scenario.units).map(disk).collect();
        let mut params = Settings { max_recv_len: 512 << random.below(8), ..Settings::default() };
        params.session.max_outstanding_r2t = 1 + random.below(4) as u16;
        let nop_interval = random.below(6) as u32;
        let config = TargetConfig { params, nop_interval, block_bytes: BLOCK as u32, mutation };
        let target = Target::start(Mono::ZERO, &config, &disks, &[], seed)?;
        let mut world = World {
            scenario: *scenario,
            now: Mono::ZERO,
            trace: Trace::new(verbose),
            net: Net::new(NetConfig::default(), seed),
            disks,
            config,
            target: Some(target),
            resting: None,
            initiators: (0..scenario.initiators).map(|i| Initiator::new(i, seed)).collect(),
            greetings: vec![vec![Greeting::No; scenario.units]; scenario.initiators],
            next_load: vec![Mono::ZERO; scenario.initiators],
            next_accident: Mono::ZERO,
            faults: Vec::new(),
            judge: Judge::new(scenario.units, scenario.initiators),
            random,
            seed,
            starts: 1,
            peace: false,
            summary: Summary::default(),
        };
        world.next_accident = world.soon(5_000, 40_000);
        world.judge.errors_expected = scenario.errors || scenario.flips;
        Ok(world)
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Result<Summary, (Failure, Summary)> {
        let outcome = self.live();
        self.summary.hash = self.trace.hash();
        self.summary.events = self.trace.events();
        self.summary.ends = self.judge.ends;
        outcome.map(|()| self.summary).map_err(|e| (e, self.summary))
    }

    fn live(&mut self) -> Result<(), Failure> {
        let end = Mono::ZERO + self.scenario.time;
        while self.now < end {
            self.step(true)?;
        }
        self.make_peace()?;
        let limit = self.now + PEACE_MAX;
        self.until(limit, "commands do not end", |w| {
            w.judge.open() == 0 && w.initiators.iter().all(|i| i.in_flight() == 0) && w.all_ready()
        })?;
        self.read_everything()?;
        self.until(limit, "the last reads do not end", |w| w.judge.open() == 0)?;
        self.initiators.iter_mut().for_each(Initiator::leave);
        self.until(limit, "logouts do not end", |w| w.initiators.iter().all(Initiator::is_gone))?;
        let over = self.now + Duration::from_secs(40);
        self.until(over, "sessions and connections do not end", |w| {
            w.target.as_ref().is_some_and(|t| t.sessions() + t.connections() == 0)
        })?;
        let Some(target) = &self.target else { fail!("the target does not live in peace") };
        if target.tasks() > 0 || target.used_bytes() > 0 {
            fail!(
                "after the last logout: {} tasks, {} bytes of buffers",
                target.tasks(),
                target.used_bytes()
            );
        }
        Ok(())
    }

    fn until(&mut self, limit: Mono, what: &str, done: impl Fn(&World) -> bool) -> Result<(), Failure> {
        while !done(self) {
            if self.now >= limit {
                let flight: Vec<usize> = self.initiators.iter().map(Initiator::in_flight).collect();
                let tasks = self.target.as_ref().map_or(0, Target::tasks);
                fail!(
                    "{what} in {PEACE_MAX:?} of peace: {flight:?} in flight, {tasks} tasks, {:?}",
                    self.greetings
                );
            }
            self.step(false)?;
        }
        Ok(())
    }

    fn all_ready(&self) -> bool {
        self.initiators.iter().all(Initiator::is_up)
            && self.greetings.iter().flatten().all(|&g| g == Greeting::Done)
    }

    fn make_peace(&mut self) -> Result<(), Failure> {
        self.peace = true;
        self.trace.note(self.now, "peace", &[]);
        self.disks.iter().for_each(FaultDevice::clear_all);
        self.faults.clear();
        self.net.config.slow_one_in = 0;
        self.net.flip_none();
        self.restart_if_due(true)
    }

    fn read_everything(&mut self) -> Result<(), Failure> {
        let reader = self.random.below(self.initiators.len() as u64) as usize;
        for unit in 0..self.scenario.units as u32 {
            for from in (0..BLOCKS).step_by(32) {
                let ask = self.judge.read(reader, unit, from..(from + 32).min(BLOCKS));
                self.initiators[reader].send(self.now, &mut self.net, ask);
            }
        }
        Ok(())
    }

    /// Goes to the next point in time where something happens, and lets it.
    fn step(&mut self, load: bool) -> Result<(), Failure> {
        let mut next = self.net.next_due();
        let mut or = |t: Mono| next = next.min(t);
        self.disks.iter().filter_map(FaultDevice::next_due).for_each(&mut or);
        self.target.iter().map(Target::next_due).for_each(&mut or);
        self.initiators.iter().map(Initiator::next_due).for_each(&mut or);
        self.resting.iter().map(|r| r.0).for_each(&mut or);
        if load {
            self.next_load.iter().copied().for_each(&mut or);
            self.faults.iter().map(|f| f.0).for_each(&mut or);
            or(self.next_accident);
        }
        // Time always moves, so that nothing that is due again at once holds it.
        self.now = next.max(self.now + Duration::from_nanos(1)).min(self.now + Duration::from_secs(1));
        for disk in &self.disks {
            disk.advance(self.now);
        }
        self.pump()?;
        for (link, side, arrival) in self.net.arrivals(self.now) {
            match (side, arrival) {
                (Side::Callee, Arrival::Bytes(b)) => {
                    self.target.iter_mut().for_each(|t| t.receive(link, &b));
                }
                (Side::Callee, Arrival::End) => {
                    let failed = self.random.below(2) == 0;
                    self.target.iter_mut().for_each(|t| t.ended(link, failed));
                }
                (Side::Caller, arrival) => self.deliver(link, &arrival)?,
            }
        }
        self.pump()?;
        for i in 0..self.initiators.len() {
            if self.initiators[i].next_due() <= self.now || self.initiators[i].is_up() {
                self.tick(i);
            }
            self.hear(i)?;
            self.greet(i);
            if load && self.next_load[i] <= self.now {
                self.load(i);
            }
            self.finish_reading_back(i);
        }
        self.clear_old_faults();
        self.restart_if_due(false)?;
        if load && self.next_accident <= self.now {
            self.accident()?;
        }
        Ok(())
    }

    fn pump(&mut self) -> Result<(), Failure> {
        let Some(target) = &mut self.target else { return Ok(()) };
        target.pump(self.now, &mut self.net, &mut self.trace)?;
        if target.used_bytes() > BUFFERS_MAX {
            fail!("the target has {} bytes of buffers out", target.used_bytes());
        }
        Ok(())
    }

    fn deliver(&mut self, link: crate::net::LinkId, arrival: &Arrival) -> Result<(), Failure> {
        let Some(i) = self.initiators.iter().position(|i| i.link() == Some(link)) else { return Ok(()) };
        match arrival {
            Arrival::Bytes(b) => {
                self.trace.note(self.now, "answer", &[i as u64, b.len() as u64]);
                self.initiators[i].receive(self.now, &mut self.net, b)?;
            }
            Arrival::End => {
                self.trace.note(self.now, "end", &[i as u64]);
                self.initiators[i].link_over(self.now);
            }
        }
        self.hear(i)
    }

    fn tick(&mut self, i: usize) {
        let opened = self.initiators[i].tick(self.now, &mut self.net);
        if let Some(link) = opened {
            self.trace.note(self.now, "connect", &[i as u64, link.0]);
            match &mut self.target {
                Some(target) => target.accept(self.now, link, &mut self.net),
                // Nobody listens.
                None => self.net.cut(link, self.now + Duration::from_micros(50), self.now),
            }
        }
    }

    /// What an initiator tells is judged.
    fn hear(&mut self, i: usize) -> Result<(), Failure> {
        for told in self.initiators[i].told() {
            match told {
                Told::Up => {
                    self.trace.note(self.now, "logged in", &[i as u64]);
                    self.greetings[i].fill(Greeting::No);
                    let flip = self.scenario.flips && !self.peace && self.initiators[i].has_digests();
                    if let Some(link) = self.initiators[i].link().filter(|_| flip) {
                        self.net.flip(link, 3000);
                    }
                }
                Told::Down => self.greetings[i].fill(Greeting::No),
                Told::Managed { function, unit } => {
                    self.trace.note(
                        self.now,
                        "managed",
                        &[i as u64, u64::from(function.code()), u64::from(unit)],
                    );
                }
                Told::Ended { token, unit, end } => {
                    let kind = match &end {
                        crate::initiator::End::Status { status, .. } => u64::from(*status),
                        crate::initiator::End::Resolved => 0x100,
                    };
                    self.trace.note(self.now, "ended", &[i as u64, token, kind]);
                    let verdict = self.judge.end(token, &end)?;
                    self.greeted(i, unit as usize, verdict)?;
                }
            }
        }
        Ok(())
    }

    fn greeted(&mut self, i: usize, unit: usize, verdict: Verdict) -> Result<(), Failure> {
        let greeting = &mut self.greetings[i][unit];
        match (*greeting, verdict) {
            // The first command of a nexus hears of a reset or power on (SAM-5 5.14, 29h).
            (Greeting::First, Verdict::Attention(0x29)) => *greeting = Greeting::No,
            (Greeting::First, v @ (Verdict::Ready | Verdict::Attention(_))) => {
                fail!(
                    "initiator {i}, unit {unit}: the first command of a new nexus gave {v:?}, no unit attention 29h"
                )
            }
            (Greeting::Again, Verdict::Ready) => *greeting = Greeting::Done,
            (Greeting::First, Verdict::Unknown)
            | (Greeting::Again, Verdict::Attention(_) | Verdict::Unknown) => *greeting = Greeting::No,
            _ => {}
        }
        Ok(())
    }

    /// Before a unit is used, its unit attentions are fetched.
    fn greet(&mut self, i: usize) {
        for unit in 0..self.scenario.units {
            if self.greetings[i][unit] == Greeting::No && self.initiators[i].may_send() {
                let first = self.initiators[i].greets(unit as u32);
                self.greetings[i][unit] = if first { Greeting::First } else { Greeting::Again };
                let ask = self.judge.ready(i, unit as u32);
                self.initiators[i].send(self.now, &mut self.net, ask);
            }
        }
    }

    fn soon(&mut self, least_us: u64, most_us: u64) -> Mono {
        self.now + Duration::from_micros(least_us + self.random.below(most_us - least_us))
    }

    /// One more command of an initiator, or a task management function.
    fn load(&mut self, i: usize) {
        self.next_load[i] = self.soon(5, 800);
        let unit = self.random.below(self.scenario.units as u64) as u32;
        let who = &mut self.initiators[i];
        if !who.may_send() || who.in_flight() >= 12 || who.is_managing() {
            return;
        }
        if self.greetings[i][unit as usize] != Greeting::Done {
            return;
        }
        if self.scenario.management && self.random.below(60) == 0 {
            let function = match self.random.below(12) {
                0 => TmfFunction::LogicalUnitReset,
                1 => TmfFunction::ClearTaskSet,
                2 => TmfFunction::AbortTaskSet,
                3 => TmfFunction::TargetWarmReset,
                _ => TmfFunction::AbortTask,
            };
            self.trace.note(self.now, "manage", &[i as u64, u64::from(function.code()), u64::from(unit)]);
            return who.manage(self.now, &mut self.net, function, unit);
        }
        let from = self.random.below(BLOCKS);
        let blocks = from..(from + 1 + self.random.below(TRANSFER_MAX)).min(BLOCKS);
        let ask = match self.random.below(100) {
            0..40 => self.judge.read(i, unit, blocks),
            40..75 => {
                let fua = self.random.below(4) == 0;
                self.judge.write(i, unit, blocks, fua)
            }
            75..80 => self.judge.zero(i, unit, blocks),
            80..92 if self.scenario.reservations && self.greetings[i][0] == Greeting::Done => {
                match self.judge.reservation(i, &mut self.random) {
                    Some(ask) => ask,
                    None => return,
                }
            }
            _ => self.judge.flush(i, unit),
        };
        self.trace.note(self.now, "ask", &[i as u64, ask.token, u64::from(ask.cdb[0])]);
        self.initiators[i].send(self.now, &mut self.net, ask);
    }

    fn finish_reading_back(&mut self, i: usize) {
        if self.judge.reader() == Some(i)
            && self.initiators[i].may_send()
            && let Some(ask) = self.judge.read_reservation(i)
        {
            self.initiators[i].send(self.now, &mut self.net, ask);
        }
    }

    /// Something goes wrong.
    fn accident(&mut self) -> Result<(), Failure> {
        self.next_accident = self.soon(2_000, 25_000);
        let s = self.scenario;
        match self.random.below(12) {
            0..4 if s.cuts => self.cut_some(),
            4 if s.power => self.crash(true)?,
            5 if s.kills => self.crash(false)?,
            6 | 7 if s.stalls => self.fault(Effect::Stall),
            8 | 9 if s.errors => {
                let kinds = [IoErrorKind::Medium, IoErrorKind::NoSpace, IoErrorKind::Other];
                let kind = kinds[self.random.below(3) as usize];
                self.fault(Effect::Fail(kind));
            }
            10 => {
                // A pause long enough for signs of life, timeouts, and everything that waits.
                let pause = self.soon(10_000, 200_000);
                self.next_load.fill(pause);
            }
            _ => {}
        }
        Ok(())
    }

    fn cut_some(&mut self) {
        let links: Vec<_> = self.net.links().collect();
        if links.is_empty() {
            return;
        }
        let link = links[self.random.below(links.len() as u64) as usize];
        self.summary.cuts += 1;
        self.trace.note(self.now, "cut", &[link.0]);
        let caller = self.soon(1, 500);
        // Now and then only one side knows for long: the other one's login meets the session that still lives.
        let most = if self.random.below(2) == 0 { 500 } else { 20_000_000 };
        let callee = self.soon(1, most);
        self.net.cut(link, caller, callee);
    }

    fn fault(&mut self, effect: Effect) {
        let disk = self.random.below(self.disks.len() as u64) as usize;
        let on = [On::Reads, On::Writes, On::Flushes, On::All][self.random.below(4) as usize];
        let from = self.random.below(BLOCKS);
        let to = (from + 1 + self.random.below(BLOCKS)).min(BLOCKS);
        let times = 1 + self.random.below(5) as u32;
        let fault = Fault::everywhere(on, effect).within(from * BLOCK..to * BLOCK).times(times);
        let id = self.disks[disk].inject(fault);
        self.trace.note(self.now, "fault", &[disk as u64, from, to]);
        let until = self.soon(1_000, 60_000);
        self.faults.push((until, disk, id));
    }

    fn clear_old_faults(&mut self) {
        let now = self.now;
        let (old, rest): (Vec<_>, Vec<_>) = self.faults.drain(..).partition(|f| f.0 <= now);
        self.faults = rest;
        old.into_iter().for_each(|(_, disk, id)| self.disks[disk].clear(id));
    }

    /// The node dies: with its disks' power, or the target's process alone.
    fn crash(&mut self, power: bool) -> Result<(), Failure> {
        let Some(target) = self.target.take() else { return Ok(()) };
        self.summary.crashes += 1;
        self.trace.note(self.now, "crash", &[u64::from(power)]);
        let links: Vec<_> = self.net.links().collect();
        for link in links {
            let heard = self.soon(1, 2_000);
            self.net.cut(link, heard, self.now);
        }
        if power {
            let kept = target.kill();
            for (unit, disk) in self.disks.iter().enumerate() {
                let report = disk.crash(InFlight::Die);
                self.trace.note(
                    self.now,
                    "lost",
                    &[unit as u64, report.unflushed, report.kept, report.older],
                );
                self.judge.crashed(unit, BLOCKS, |b, out| disk.medium(b * BLOCK, out))?;
            }
            self.rest(kept);
        } else {
            // What the process had given to the kernel is done before the process is gone.
            self.disks.iter().for_each(|d| {
                d.clear_all();
                d.release_all();
            });
            self.faults.clear();
            let kept = target.kill();
            self.judge.killed();
            self.rest(kept);
        }
        Ok(())
    }

    fn rest(&mut self, kept: Vec<Vec<u8>>) {
        let at = self.soon(500, 20_000);
        self.resting = Some((at, kept));
    }

    fn restart_if_due(&mut self, at_once: bool) -> Result<(), Failure> {
        if let Some((at, kept)) = self.resting.take() {
            if at > self.now && !at_once {
                self.resting = Some((at, kept));
                return Ok(());
            }
            self.starts += 1;
            self.trace.note(self.now, "start", &[self.starts]);
            let seed = self.seed ^ self.starts << 48;
            self.target = Some(Target::start(self.now, &self.config, &self.disks, &kept, seed)?);
        }
        Ok(())
    }
}
