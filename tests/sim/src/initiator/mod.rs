//! An initiator that believes nothing: it logs in, sends commands and task management functions, serves R2Ts, and checks
//! every PDU that it gets against RFC 7143 and against what it asked.
//!
//! ```text
//!   Idle ── connect ──▶ Login ── final response ──▶ Up ── link over ──▶ Idle (what was in flight waits in limbo)
//!                                                    └── logout ──▶ Leaving ──▶ Idle
//! ```
//!
//! What was in flight when a link ended is *resolved* (it will not be done any more) by the next login of the same
//! initiator port: that reinstates the session, and the target ends its tasks before it answers (RFC 7143 6.3.5).

mod answers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::random::SeededRandom;
use base::{Entropy, Mono};
use iscsi::digest;
use iscsi::pdu::{
    BHS_LEN, Bhs, DataOut, LoginRequest, LoginStage, LogoutReason, LogoutRequest, ScsiCommand, Tag,
    TaskAttribute, TmfFunction, TmfRequest,
};
use iscsi::serial::Serial;

use crate::net::{LinkId, Net, Side};
use crate::target::TARGET;

/// A command is given up (aborted) after so long.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// A task management function, login or logout that takes longer costs the connection its life.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a status.
    Status {
        /// SAM status.
        status: u8,
        /// Sense data, for CHECK CONDITION.
        sense: Vec<u8>,
        /// What was read.
        data: Vec<u8>,
    },
    /// Without: aborted, reset, or its session reinstated. It will not be done any more.
    Resolved,
}

/// What an initiator tells the world.
#[derive(Debug)]
pub enum Told {
    /// It is logged in.
    Up,
    /// Its connection is gone; commands may still be under way at the target.
    Down,
    /// A command ended.
    Ended {
        /// As given with the command.
        token: u64,
        /// Its unit.
        unit: u32,
        /// How.
        end: End,
    },
    /// A task management function was answered with Function Complete.
    Managed {
        /// Which.
        function: TmfFunction,
        /// The unit.
        unit: u32,
    },
}

/// A command to send.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Comes back with its end.
    pub token: u64,
    /// The unit.
    pub unit: u32,
    /// CDB.
    pub cdb: [u8; 16],
    /// Bytes to read.
    pub read: u32,
    /// Bytes to write.
    pub data: Vec<u8>,
}

struct Pending {
    ask: Ask,
    cmd_sn: Serial,
    got: Vec<u8>,
    data_sn: u32,
    r2t_sn: u32,
    deadline: Mono,
    aborting: bool,
}

struct Managing {
    function: TmfFunction,
    unit: u32,
    reference: Option<u32>,
    /// Commands before this one are concerned.
    before: Serial,
}

/// What the login agreed on.
#[derive(Clone, Copy, Debug)]
struct Settings {
    header_digest: bool,
    data_digest: bool,
    initial_r2t: bool,
    immediate: bool,
    first_burst: u32,
    max_burst: u32,
    /// What the target takes in one PDU.
    out_segment: u32,
    /// What this side takes in one PDU.
    in_segment: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle { at: Mono },
    Login { link: LinkId, deadline: Mono },
    Up { link: LinkId },
    Leaving { link: LinkId, deadline: Mono },
    Gone,
}

/// See the module.
pub struct Initiator {
    /// Its number.
    pub index: usize,
    random: SeededRandom,
    phase: Phase,
    rx: Vec<u8>,
    out: Vec<u8>,
    offer: Settings,
    settings: Settings,
    cmd_sn: Serial,
    exp_stat_sn: Serial,
    max_cmd_sn: Serial,
    next_itt: u32,
    tasks: BTreeMap<u32, Pending>,
    managing: BTreeMap<u32, (Managing, Mono)>,
    limbo: Vec<(u64, u32)>,
    told: Vec<Told>,
    /// Units that the session sent a command to.
    greeted: BTreeSet<u32>,
    leave: bool,
}

impl Initiator {
    /// An initiator that connects soon.
    pub fn new(index: usize, seed: u64) -> Self {
        let mut random = SeededRandom::new(seed ^ 0x696e_6974 ^ (index as u64) << 40);
        let offer = offer(&mut random);
        Initiator {
            index,
            phase: Phase::Idle { at: Mono::from_nanos(random.below(1_000_000)) },
            random,
            rx: Vec::new(),
            out: Vec::new(),
            offer,
            settings: defaults(),
            cmd_sn: Serial(1),
            exp_stat_sn: Serial(0),
            max_cmd_sn: Serial(0),
            next_itt: 1,
            tasks: BTreeMap::new(),
            managing: BTreeMap::new(),
            limbo: Vec::new(),
            told: Vec::new(),
            greeted: BTreeSet::new(),
            leave: false,
        }
    }

    /// What it has to tell.
    pub fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Whether it is logged in.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// Whether it logged out for good.
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Commands that did not end.
    pub fn in_flight(&self) -> usize {
        self.tasks.len() + self.limbo.len() + self.managing.len()
    }

    /// Its link.
    pub fn link(&self) -> Option<LinkId> {
        match self.phase {
            Phase::Login { link, .. } | Phase::Up { link } | Phase::Leaving { link, .. } => Some(link),
            Phase::Idle { .. } | Phase::Gone => None,
        }
    }

    /// Whether one more command may be sent.
    pub fn may_send(&self) -> bool {
        self.is_up() && self.cmd_sn.precedes_or_is(self.max_cmd_sn) && self.out.len() < 1 << 20
    }

    /// Whether the session has digests on.
    pub fn has_digests(&self) -> bool {
        self.settings.header_digest && self.settings.data_digest
    }

    /// Whether the next command to `unit` is the session's first.
    pub fn greets(&mut self, unit: u32) -> bool {
        self.greeted.insert(unit)
    }

    /// Logs out once nothing is in flight any more.
    pub fn leave(&mut self) {
        self.leave = true;
    }

    /// When it has something to do by itself.
    pub fn next_due(&self) -> Mono {
        match self.phase {
            Phase::Idle { at } => at,
            Phase::Login { deadline, .. } | Phase::Leaving { deadline, .. } => deadline,
            Phase::Up { .. } => {
                let tasks = self.tasks.values().filter(|t| !t.aborting).map(|t| t.deadline);
                tasks.chain(self.managing.values().map(|m| m.1)).min().unwrap_or(Mono::NEVER)
            }
            Phase::Gone => Mono::NEVER,
        }
    }

    /// Does what is due. Gives the link that it opened, if it did.
    pub fn tick(&mut self, now: Mono, net: &mut Net) -> Option<LinkId> {
        match self.phase {
            Phase::Idle { at } if at <= now => {
                let link = net.connect();
                self.phase = Phase::Login { link, deadline: now + REPLY_TIMEOUT };
                self.begin_login();
                self.flush(now, net);
                return Some(link);
            }
            Phase::Login { deadline, .. } | Phase::Leaving { deadline, .. } if deadline <= now => {
                self.drop_link(now, net);
            }
            Phase::Up { .. } => {
                if self.managing.values().any(|m| m.1 <= now) {
                    self.drop_link(now, net);
                    return None;
                }
                let late = |t: &Pending| t.deadline <= now && !t.aborting;
                let late: Vec<u32> = self.tasks.iter().filter(|(_, t)| late(t)).map(|(&i, _)| i).collect();
                for itt in late {
                    self.abort(now, itt);
                }
                if self.leave && self.in_flight() == 0 {
                    self.logout(now);
                }
            }
            _ => {}
        }
        self.flush(now, net);
        None
    }

    /// The link ended.
    pub fn link_over(&mut self, now: Mono) {
        let pause = Duration::from_micros(100 + self.random.below(200_000));
        let leaving = matches!(self.phase, Phase::Leaving { .. }) && self.in_flight() == 0;
        self.phase = if leaving { Phase::Gone } else { Phase::Idle { at: now + pause } };
        self.rx.clear();
        self.out.clear();
        let tasks = std::mem::take(&mut self.tasks);
        self.limbo.extend(tasks.into_values().map(|t| (t.ask.token, t.ask.unit)));
        self.managing.clear();
        self.told.push(Told::Down);
    }

    fn drop_link(&mut self, now: Mono, net: &mut Net) {
        if let Some(link) = self.link() {
            net.close(now, link, Side::Caller);
        }
        self.link_over(now);
    }

    /// Sends what the link takes.
    pub fn flush(&mut self, now: Mono, net: &mut Net) {
        if let Some(link) = self.link() {
            let n = net.send(now, link, Side::Caller, &self.out);
            self.out.drain(..n);
        }
    }

    /// Sends a command. Ask [`Initiator::may_send`] before.
    pub fn send(&mut self, now: Mono, net: &mut Net, ask: Ask) {
        let itt = self.itt();
        let s = self.settings;
        let len = ask.data.len() as u32;
        let immediate = if s.immediate { len.min(s.first_burst).min(s.out_segment) } else { 0 };
        // With immediate data allowed a part of it is legal, and so is none.
        let immediate = if immediate > 512 && self.random.below(4) == 0 { 512 } else { immediate };
        let unsolicited = if s.initial_r2t { 0 } else { len.min(s.first_burst) - immediate };
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        let command = ScsiCommand {
            immediate: false,
            final_: unsolicited == 0,
            read: ask.read > 0,
            write: len > 0,
            attribute: TaskAttribute::Simple,
            priority: 0,
            lun: iscsi::lun::encode(ask.unit).unwrap_or(0),
            itt: Tag(itt),
            expected_len: ask.read.max(len),
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: ask.cdb,
            ahs_len: 0,
            data_len: immediate,
        };
        let mut bhs = [0; BHS_LEN];
        command.encode(&mut bhs);
        let data = ask.data[..immediate as usize].to_vec();
        self.put(&bhs, &data);
        let pending = Pending {
            ask,
            cmd_sn,
            got: Vec::new(),
            data_sn: 0,
            r2t_sn: 0,
            deadline: now + COMMAND_TIMEOUT,
            aborting: false,
        };
        self.tasks.insert(itt, pending);
        if unsolicited > 0 {
            self.data_out(itt, Tag::RESERVED, immediate, unsolicited);
        }
        self.flush(now, net);
    }

    /// Sends a task management function; an ABORT TASK for one of its own commands, by chance.
    pub fn manage(&mut self, now: Mono, net: &mut Net, function: TmfFunction, unit: u32) {
        if function == TmfFunction::AbortTask {
            let candidates: Vec<u32> =
                self.tasks.iter().filter(|(_, t)| !t.aborting).map(|(&itt, _)| itt).collect();
            if !candidates.is_empty() {
                let itt = candidates[self.random.below(candidates.len() as u64) as usize];
                self.abort(now, itt);
            }
        } else {
            self.tmf(now, function, unit, None);
        }
        self.flush(now, net);
    }

    fn abort(&mut self, now: Mono, itt: u32) {
        let Some(t) = self.tasks.get_mut(&itt) else { return };
        t.aborting = true;
        let (unit, cmd_sn) = (t.ask.unit, t.cmd_sn);
        self.tmf(now, TmfFunction::AbortTask, unit, Some((itt, cmd_sn)));
    }

    fn tmf(&mut self, now: Mono, function: TmfFunction, unit: u32, reference: Option<(u32, Serial)>) {
        let itt = self.itt();
        let request = TmfRequest {
            immediate: true,
            function,
            lun: iscsi::lun::encode(unit).unwrap_or(0),
            itt: Tag(itt),
            ref_itt: reference.map_or(Tag::RESERVED, |r| Tag(r.0)),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn: reference.map_or(Serial(0), |r| r.1),
            exp_data_sn: Serial(0),
        };
        let mut bhs = [0; BHS_LEN];
        request.encode(&mut bhs);
        self.put(&bhs, &[]);
        let managing = Managing { function, unit, reference: reference.map(|r| r.0), before: self.cmd_sn };
        self.managing.insert(itt, (managing, now + REPLY_TIMEOUT));
    }

    fn logout(&mut self, now: Mono) {
        let Phase::Up { link } = self.phase else { return };
        let request = LogoutRequest {
            immediate: true,
            reason: LogoutReason::CloseSession,
            itt: Tag(self.itt()),
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        let mut bhs = [0; BHS_LEN];
        request.encode(&mut bhs);
        self.put(&bhs, &[]);
        self.phase = Phase::Leaving { link, deadline: now + REPLY_TIMEOUT };
    }

    fn itt(&mut self) -> u32 {
        self.next_itt = self.next_itt.wrapping_add(1) & 0x7fff_ffff;
        self.next_itt
    }

    /// Puts a PDU behind what is to be sent.
    fn put(&mut self, bhs: &Bhs, data: &[u8]) {
        self.out.extend_from_slice(bhs);
        if self.settings.header_digest {
            self.out.extend_from_slice(&digest::header(bhs, &[]));
        }
        if data.is_empty() {
            return;
        }
        self.out.extend_from_slice(data);
        self.out.extend_from_slice(&[0; 3][..iscsi::pdu::padding(data.len() as u32)]);
        if self.settings.data_digest {
            self.out.extend_from_slice(&digest::data([data]));
        }
    }

    fn data_out(&mut self, itt: u32, ttt: Tag, offset: u32, len: u32) {
        let (mut at, mut number) = (offset, 0);
        while at < offset + len {
            let n = self.settings.out_segment.min(offset + len - at);
            let n = if n > 512 && self.random.below(3) == 0 { 512 } else { n };
            let Some(t) = self.tasks.get(&itt) else { return };
            let data = t.ask.data[at as usize..(at + n) as usize].to_vec();
            let mut bhs = [0; BHS_LEN];
            DataOut {
                final_: at + n == offset + len,
                lun: iscsi::lun::encode(t.ask.unit).unwrap_or(0),
                itt: Tag(itt),
                ttt,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: Serial(number),
                offset: at,
                data_len: n,
            }
            .encode(&mut bhs);
            self.put(&bhs, &data);
            at += n;
            number += 1;
        }
    }

    fn begin_login(&mut self) {
        self.settings = defaults();
        self.cmd_sn = Serial(self.random.next_u64() as u32);
        self.exp_stat_sn = Serial(0);
        self.max_cmd_sn = self.cmd_sn;
        self.offer = offer(&mut self.random);
        let o = self.offer;
        let yes = |b| if b { "Yes" } else { "No" };
        let digest = |b| if b { "CRC32C,None" } else { "None" };
        let name = format!("iqn.2026-11.plinth.sim:initiator-{}", self.index);
        let text = [
            format!("InitiatorName={name}"),
            format!("TargetName={TARGET}"),
            "SessionType=Normal".to_owned(),
            format!("HeaderDigest={}", digest(o.header_digest)),
            format!("DataDigest={}", digest(o.data_digest)),
            format!("InitialR2T={}", yes(o.initial_r2t)),
            format!("ImmediateData={}", yes(o.immediate)),
            format!("FirstBurstLength={}", o.first_burst),
            format!("MaxBurstLength={}", o.max_burst),
            format!("MaxRecvDataSegmentLength={}", o.in_segment),
            "MaxOutstandingR2T=4".to_owned(),
            "MaxConnections=1".to_owned(),
            "DefaultTime2Wait=0".to_owned(),
            "DefaultTime2Retain=0".to_owned(),
            "ErrorRecoveryLevel=0".to_owned(),
        ];
        let text: Vec<u8> = text.iter().flat_map(|t| t.bytes().chain([0])).collect();
        let request = LoginRequest {
            continues: false,
            stage: LoginStage::Operational,
            transit: Some(LoginStage::FullFeature),
            version_max: 0,
            version_min: 0,
            isid: [0x80, 0, 0, 0, 0, self.index as u8],
            tsih: 0,
            itt: Tag(0),
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Serial(0),
            data_len: text.len() as u32,
        };
        let mut bhs = [0; BHS_LEN];
        request.encode(&mut bhs);
        self.put(&bhs, &text);
    }
}

/// What holds during a login (RFC 7143 13).
fn defaults() -> Settings {
    Settings {
        header_digest: false,
        data_digest: false,
        initial_r2t: true,
        immediate: true,
        first_burst: 65536,
        max_burst: 262_144,
        out_segment: 8192,
        in_segment: 8192,
    }
}

fn offer(random: &mut SeededRandom) -> Settings {
    let mut coin = |n| random.below(n) == 0;
    let digests = coin(3);
    let (initial_r2t, immediate) = (coin(2), !coin(3));
    let max_burst = 2048 << random.below(6);
    Settings {
        header_digest: digests,
        data_digest: digests,
        initial_r2t,
        immediate,
        first_burst: (512_u32 << random.below(8)).min(max_burst),
        max_burst,
        out_segment: 8192,
        in_segment: 512 << random.below(6),
    }
}
