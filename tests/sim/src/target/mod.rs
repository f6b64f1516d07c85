//! A target node: what the daemon's engine is, on a virtual clock. It drives the session machine, runs tasks on channels
//! of virtual disks, carries task management out and keeps the units' persistent state.
//!
//! [`Mutation`]s make it do one thing wrong each: they are how the simulator is tested.

mod directory;
mod manage;
mod mutation;
mod sockets;

pub use mutation::Mutation;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::random::SeededRandom;
use base::{Entropy, Mono};
use block::{BlockDevice, Channel, ChannelContext, Complete, FaultDevice, Op, Pool, Request};
use iscsi::params::Settings;
use scsi::{
    Command, Input, Inventory, IoOp, ItNexusLun, LogicalUnit, LuConfig, Nexus, NexusId, Reply, Step,
    StepContext, Task, Victims,
};
use target_session::{
    Action, ConnId, Machine, MachineConfig, PeerInfo, RxBatch, SessionId, TaskId, TmfId, TxBatch,
};

use directory::SimDirectory;

use crate::net::{LinkId, Net, Side};
use crate::trace::Trace;

/// Calls the machine with the node's context.
macro_rules! machine {
    ($self:ident, $method:ident $(, $arg:expr)*) => {{
        let mut cx = target_session::Cx {
            now: $self.now,
            pool: &$self.pool,
            entropy: &mut $self.entropy,
            directory: &mut $self.directory,
        };
        $self.machine.$method(&mut cx $(, $arg)*)
    }};
}
use machine;

/// The one target's name.
pub const TARGET: &str = "iqn.2026-11.plinth.sim:target";
/// Its portal group.
const PORTAL_GROUP: u16 = 1;

/// What a target node is made of.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// What it negotiates.
    pub params: Settings,
    /// Seconds between signs of life; 0: none.
    pub nop_interval: u32,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// What it does wrong.
    pub mutation: Option<Mutation>,
}

struct Unit {
    lu: Arc<LogicalUnit>,
    channel: Rc<dyn Channel>,
}

struct Session {
    nexus: Nexus,
    places: Vec<ItNexusLun>,
}

struct Running {
    id: Option<TaskId>,
    unit: usize,
    task: Task,
    aborted: bool,
    busy: bool,
    /// For the mutations.
    session: SessionId,
    retry: Option<Command>,
    tried: SessionId,
}

struct Conn {
    id: ConnId,
    inbox: VecDeque<u8>,
    ended: bool,
    failed: bool,
    armed: Option<RxBatch>,
    /// Ask for room at the next turn.
    rearm: bool,
    sending: Option<TxBatch>,
    transmit: bool,
}

enum After {
    Tmf(TmfId),
    Task(u64),
}

struct Job {
    open: usize,
    after: After,
}

/// Persistent state on its way to the node's own disk.
struct Persisting {
    at: Mono,
    key: u64,
    unit: usize,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Finished(RefCell<Vec<(u64, Request)>>);

impl Complete for Finished {
    fn complete(&self, token: u64, request: Request) {
        self.0.borrow_mut().push((token, request));
    }
}

/// See the module.
pub struct Target {
    machine: Machine,
    directory: SimDirectory,
    entropy: SeededRandom,
    random: SeededRandom,
    pool: Pool,
    context: ChannelContext,
    finished: Rc<Finished>,
    units: Vec<Unit>,
    sessions: BTreeMap<SessionId, Session>,
    tasks: BTreeMap<u64, Running>,
    by_id: BTreeMap<TaskId, u64>,
    wakes: Arc<Mutex<Vec<u64>>>,
    persisting: Vec<Persisting>,
    /// What is on the node's own disk, by unit.
    durable: Vec<Vec<u8>>,
    /// Tasks that go on at a time.
    pauses: Vec<(Mono, u64)>,
    jobs: BTreeMap<u64, Job>,
    conns: BTreeMap<LinkId, Conn>,
    links: BTreeMap<ConnId, LinkId>,
    next: u64,
    now: Mono,
    mutation: Option<Mutation>,
    swapped: Option<Vec<u8>>,
    leaked: Vec<block::Buf>,
}

impl Target {
    /// A node that starts, with a disk and what its own disk kept for each unit.
    pub fn start(
        now: Mono,
        config: &TargetConfig,
        disks: &[FaultDevice],
        durable: &[Vec<u8>],
        seed: u64,
    ) -> Result<Self, crate::Failure> {
        let context = ChannelContext::hostless();
        let pool = context.pool.clone();
        let mut units = Vec::new();
        for (i, disk) in disks.iter().enumerate() {
            let lu_config = LuConfig {
                block_bytes: config.block_bytes,
                serial: format!("sim{i}"),
                scsi_id: format!("sim{i}"),
                naa: [0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, i as u8],
                thin: true,
                ..LuConfig::default()
            };
            let lu = LogicalUnit::new(lu_config, disk.geometry(), disk.features());
            if let Some(state) = durable.get(i).filter(|s| !s.is_empty())
                && let Err(e) = lu.restore(state)
            {
                crate::fail!("unit {i} does not take its own persistent state: {e}");
            }
            let channel = match disk.open(&context) {
                Ok(channel) => channel,
                Err(e) => crate::fail!("no channel to disk {i}: {e}"),
            };
            units.push(Unit { lu, channel });
        }
        Ok(Target {
            machine: Machine::new(MachineConfig::default()),
            directory: SimDirectory { config: config.clone(), sessions: BTreeMap::new(), last_tsih: 0 },
            entropy: SeededRandom::new(seed ^ 0x656e_7472),
            random: SeededRandom::new(seed ^ 0x676c_7565),
            pool,
            context,
            finished: Rc::default(),
            durable: (0..units.len()).map(|i| durable.get(i).cloned().unwrap_or_default()).collect(),
            units,
            sessions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            by_id: BTreeMap::new(),
            wakes: Arc::default(),
            persisting: Vec::new(),
            pauses: Vec::new(),
            jobs: BTreeMap::new(),
            conns: BTreeMap::new(),
            links: BTreeMap::new(),
            next: 0,
            now,
            mutation: config.mutation,
            swapped: None,
            leaked: Vec::new(),
        })
    }

    /// The node dies here and now; what its own disk kept survives.
    pub fn kill(mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.durable)
    }

    /// When something is due without input.
    pub fn next_due(&self) -> Mono {
        let persisted = self.persisting.iter().map(|p| p.at).min().unwrap_or(Mono::NEVER);
        let pause = self.pauses.iter().map(|p| p.0).min().unwrap_or(Mono::NEVER);
        self.machine.next_deadline().min(persisted).min(pause)
    }

    /// Tasks that are not over.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Sessions that the machine has.
    pub fn sessions(&self) -> usize {
        self.machine.sessions().count()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Bytes of buffers that are out.
    pub fn used_bytes(&self) -> usize {
        self.pool.used_bytes()
    }

    /// A new connection.
    pub fn accept(&mut self, now: Mono, link: LinkId, net: &mut Net) {
        self.now = now;
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let peer = PeerInfo { peer: address(40_000), local: address(3260), portal_group: PORTAL_GROUP };
        match machine!(self, accept, peer) {
            Ok(id) => {
                self.links.insert(id, link);
                let conn = Conn {
                    id,
                    inbox: VecDeque::new(),
                    ended: false,
                    failed: false,
                    armed: None,
                    rearm: true,
                    sending: None,
                    transmit: false,
                };
                self.conns.insert(link, conn);
            }
            Err(_) => net.close(now, link, Side::Callee),
        }
    }

    /// Bytes came.
    pub fn receive(&mut self, link: LinkId, bytes: &[u8]) {
        if let Some(c) = self.conns.get_mut(&link) {
            c.inbox.extend(bytes);
        }
    }

    /// The link is over, in an orderly way or not.
    pub fn ended(&mut self, link: LinkId, failed: bool) {
        if let Some(c) = self.conns.get_mut(&link) {
            c.ended = true;
            c.failed = failed;
        }
    }

    /// Does everything that can be done now.
    pub fn pump(&mut self, now: Mono, net: &mut Net, trace: &mut Trace) -> Result<(), crate::Failure> {
        self.now = now;
        if self.machine.next_deadline() <= now {
            machine!(self, tick);
        }
        for turn in 0.. {
            if turn > 100_000 {
                crate::fail!("the target is busy for ever at one point in time");
            }
            let mut any = self.completions(trace);
            any |= self.persisted(trace);
            if let Some(at) = self.pauses.iter().position(|p| p.0 <= now) {
                any = true;
                let (_, key) = self.pauses.remove(at);
                self.resume(key, Input::Woken);
            }
            while let Some(action) = self.machine.poll_action() {
                any = true;
                self.action(action, net, trace);
            }
            any |= self.sockets(net, trace);
            if !any {
                break;
            }
        }
        let limit = self.sessions.len().max(1)
            * (base::limits::COMMANDS_PER_SESSION_MAX + base::limits::IMMEDIATE_COMMANDS_PER_SESSION_MAX)
                as usize;
        if self.tasks.len() > limit {
            crate::fail!("{} tasks of {} sessions", self.tasks.len(), self.sessions.len());
        }
        Ok(())
    }

    fn completions(&mut self, trace: &mut Trace) -> bool {
        let mut any = self.context.completions.run() > 0;
        let finished = std::mem::take(&mut *self.finished.0.borrow_mut());
        for (key, request) in finished {
            trace.note(
                self.now,
                "disk",
                &[key, request.offset, request.len, u64::from(request.result.is_ok())],
            );
            self.request_done(key, request);
        }
        let wakes = std::mem::take(&mut *self.wakes.lock().unwrap_or_else(PoisonError::into_inner));
        any |= !wakes.is_empty();
        for key in wakes {
            if self.mutation == Some(Mutation::LoseWakeup) {
                continue;
            }
            self.resume(key, Input::Woken);
        }
        any
    }

    fn persisted(&mut self, trace: &mut Trace) -> bool {
        let Some(at) = self.persisting.iter().position(|p| p.at <= self.now) else { return false };
        let p = self.persisting.remove(at);
        trace.note(self.now, "persisted", &[p.key, p.bytes.len() as u64]);
        if self.mutation != Some(Mutation::ForgetReservations) {
            self.durable[p.unit] = p.bytes;
        }
        if let Some(r) = self.tasks.get_mut(&p.key) {
            r.busy = false;
        }
        self.resume(p.key, Input::Persisted(Ok(())));
        true
    }

    fn action(&mut self, action: Action, net: &mut Net, trace: &mut Trace) {
        match action {
            Action::Transmit(id) => {
                if let Some(c) = self.conn(id) {
                    c.transmit = true;
                }
            }
            Action::Resume(id) => {
                if let Some(c) = self.conn(id) {
                    c.rearm = true;
                }
            }
            Action::Execute { task, session, lun, command } => {
                trace.note(self.now, "execute", &[task.0, lun, u64::from(command.cdb[0])]);
                self.execute(task, session, lun, command);
            }
            Action::AbortTask { task } => {
                trace.note(self.now, "abort", &[task.0]);
                self.abort(task);
            }
            Action::Manage { tmf, session, lun, function } => {
                trace.note(self.now, "manage", &[tmf.0, lun, function as u64]);
                self.manage(tmf, session, lun, function);
            }
            Action::TasksAborted { token } => self.part_done(token),
            Action::SessionUp { session } => {
                trace.note(self.now, "up", &[session.0]);
                self.session_up(session);
            }
            Action::SessionDown { session } => {
                trace.note(self.now, "down", &[session.0]);
                if let Some(s) = self.sessions.remove(&session) {
                    self.units.iter().for_each(|u| u.lu.detach(s.nexus.id));
                }
            }
            // There is one machine: no session lives elsewhere.
            Action::Handover { conn, .. } => machine!(self, drop_connection, conn),
            Action::Close(id) => {
                if let Some(link) = self.links.remove(&id) {
                    trace.note(self.now, "close", &[link.0]);
                    self.conns.remove(&link);
                    net.close(self.now, link, Side::Callee);
                }
            }
        }
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(self.links.get(&id)?)
    }

    fn session_up(&mut self, id: SessionId) {
        let Some(info) = self.machine.session(id) else { return };
        let key = Arc::clone(&info.key);
        self.next += 1;
        let initiator = scsi::InitiatorPort { name: key.initiator.clone(), isid: key.isid };
        let target = scsi::TargetPort { name: key.target.clone(), portal_group: key.portal_group };
        let nexus =
            Nexus { id: NexusId(self.next), initiator: Arc::new(initiator), target: Arc::new(target) };
        let places = self.units.iter().map(|u| u.lu.attach(&nexus)).collect();
        self.sessions.insert(id, Session { nexus, places });
    }

    fn execute(&mut self, id: TaskId, session: SessionId, lun: u64, command: Command) {
        let inventory = AllUnits(&self.units);
        let Some(state) = self.sessions.get_mut(&session) else {
            return machine!(self, task_aborted, id);
        };
        let unit = iscsi::lun::decode(lun).map_or(usize::MAX, |n| n as usize);
        let Some(place) = state.places.get_mut(unit) else {
            let reply = scsi::no_such_lun(&command, &inventory);
            return machine!(self, task_done, id, reply);
        };
        let again = matches!(self.mutation, Some(Mutation::DropUnitAttention | Mutation::SkipReservations));
        let retry = again.then(|| copy(&command));
        let task = Task::new(place, command, &inventory);
        self.next += 1;
        let key = self.next;
        self.by_id.insert(id, key);
        let running = Running {
            id: Some(id),
            unit,
            task,
            aborted: false,
            busy: false,
            session,
            retry,
            tried: SessionId(0),
        };
        self.tasks.insert(key, running);
        self.drive(key, Input::Start);
    }

    fn resume(&mut self, key: u64, input: Input) {
        let Some(r) = self.tasks.get(&key) else { return };
        if r.aborted {
            self.finish_aborted(key);
        } else {
            self.drive(key, input);
        }
    }

    fn drive(&mut self, key: u64, input: Input) {
        let mut input = input;
        loop {
            let Some(r) = self.tasks.get_mut(&key) else { return };
            let wakes = &self.wakes;
            let waker = || -> scsi::Waker {
                let wakes = Arc::clone(wakes);
                Box::new(move || wakes.lock().unwrap_or_else(PoisonError::into_inner).push(key))
            };
            let cx = StepContext { now: self.now, pool: &self.pool, waker: &waker };
            match r.task.step(&cx, input) {
                Step::Io { on, op } => {
                    let unit = match on {
                        None => Some(r.unit),
                        Some(lu) => self.units.iter().position(|u| Arc::ptr_eq(&u.lu, &lu)),
                    };
                    return self.submit(key, unit.unwrap_or(0), op);
                }
                Step::Abort(victims) => {
                    r.busy = true;
                    let (unit, session) = (r.unit, r.session);
                    let spare = self.sessions.get(&session).map(|s| s.nexus.id);
                    let nexuses = match victims {
                        Victims::All => None,
                        Victims::Nexuses(list) => Some(list),
                    };
                    return self.start_job(After::Task(key), &[unit], nexuses.as_deref(), spare, false);
                }
                Step::Persist => {
                    r.busy = true;
                    let bytes = self.units[r.unit].lu.durable_state();
                    let at = self.now + Duration::from_micros(100 + self.random.below(3000));
                    // One file after the other, as the daemon's writer does.
                    let at = self.persisting.iter().map(|p| p.at).max().unwrap_or(at).max(at);
                    let unit = r.unit;
                    return self.persisting.push(Persisting { at, key, unit, bytes });
                }
                Step::Wait => return,
                Step::Pause(at) => return self.pauses.push((at, key)),
                Step::Reply(reply) => {
                    if let Some(id) = r.id.take() {
                        self.deliver(key, id, reply);
                    }
                    input = Input::Replied;
                }
                Step::Done(reply) => {
                    if self.retry(key, &reply) {
                        return self.drive(key, Input::Start);
                    }
                    if let Some(id) = self.tasks.get_mut(&key).and_then(|r| r.id.take()) {
                        self.deliver(key, id, reply);
                    }
                    self.tasks.remove(&key);
                    return;
                }
                Step::Finished => {
                    self.tasks.remove(&key);
                    return;
                }
            }
        }
    }

    /// Runs a command again that should have been refused: [`Mutation::DropUnitAttention`] in its own name,
    /// [`Mutation::SkipReservations`] in that of the next session.
    fn retry(&mut self, key: u64, reply: &Reply) -> bool {
        let attention = reply.sense.as_ref().is_some_and(|s| sense_key(s) == Some(6));
        let conflict = reply.status == scsi::Status::ReservationConflict;
        let Some(r) = self.tasks.get_mut(&key) else { return false };
        let Some(command) = r.retry.as_ref().map(copy) else { return false };
        let session = match self.mutation {
            Some(Mutation::DropUnitAttention) if attention => Some(r.session),
            Some(Mutation::SkipReservations) if conflict => {
                let next = self.sessions.keys().copied().find(|&s| s > r.tried);
                r.tried = next.unwrap_or(r.tried);
                next
            }
            _ => None,
        };
        let unit = r.unit;
        let place = session.and_then(|s| self.sessions.get_mut(&s)).and_then(|s| s.places.get_mut(unit));
        let Some(place) = place else { return false };
        r.task = Task::new(place, command, &AllUnits(&self.units));
        true
    }

    fn deliver(&mut self, key: u64, id: TaskId, mut reply: Reply) {
        self.by_id.retain(|_, k| *k != key);
        if self.mutation == Some(Mutation::WrongBuffer)
            && let scsi::DataIn::Bufs(bufs) = &mut reply.data_in
            && let [buf] = &mut bufs[..]
            && self.random.below(8) == 0
        {
            let mine = buf.to_vec();
            if let Some(other) = self.swapped.replace(mine).filter(|o| o.len() == buf.len()) {
                buf.copy_from_slice(&other);
            }
        }
        if self.mutation == Some(Mutation::LeakBuffers) && self.random.below(50) == 0 {
            self.leaked.push(self.pool.get(4096));
        }
        machine!(self, task_done, id, reply);
    }

    fn submit(&mut self, key: u64, unit: usize, op: IoOp) {
        let write = matches!(op, IoOp::Write { .. });
        let mut request = match op {
            IoOp::Read { offset, len } => {
                Request::read(offset, std::iter::once(self.pool.get(len as usize)).collect())
            }
            IoOp::Write { offset, bufs, fua } => {
                Request::write(offset, bufs, fua && self.mutation != Some(Mutation::IgnoreFua))
            }
            IoOp::Flush => Request::flush(),
            IoOp::Discard { offset, len } => Request::new(Op::Discard, offset, len),
            IoOp::WriteZeroes { offset, len, unmap } => Request::new(Op::WriteZeroes { unmap }, offset, len),
            IoOp::Map { offset, len } => Request::new(Op::Map, offset, len),
        };
        if self.mutation == Some(Mutation::LoseWrite) && write && self.random.below(8) == 0 {
            let input = Input::Io { result: Ok(()), bufs: request.bufs, extents: Vec::new() };
            return self.drive(key, input);
        }
        let early = (self.mutation == Some(Mutation::AckWriteEarly) && write)
            || (self.mutation == Some(Mutation::AckFlushEarly) && request.op == Op::Flush);
        if early {
            request.push_frame(Rc::clone(&self.finished) as Rc<dyn Complete>, u64::MAX);
            self.units[unit].channel.submit(request);
            let bufs = block::Bufs::new();
            return self.drive(key, Input::Io { result: Ok(()), bufs, extents: Vec::new() });
        }
        if let Some(r) = self.tasks.get_mut(&key) {
            r.busy = true;
        }
        request.push_frame(Rc::clone(&self.finished) as Rc<dyn Complete>, key);
        self.units[unit].channel.submit(request);
    }

    fn request_done(&mut self, key: u64, mut request: Request) {
        let Some(r) = self.tasks.get_mut(&key) else { return };
        r.busy = false;
        if self.mutation == Some(Mutation::SwallowErrors) {
            request.result = Ok(());
        }
        if self.mutation == Some(Mutation::LoseWakeup) && self.random.below(200) == 0 {
            return;
        }
        if r.aborted {
            r.task.ended_aborted(request.result);
        }
        self.resume(key, Input::Io { result: request.result, bufs: request.bufs, extents: request.extents });
    }

    fn abort(&mut self, id: TaskId) {
        let Some(&key) = self.by_id.get(&id) else { return };
        let Some(r) = self.tasks.get_mut(&key) else { return };
        if r.task.outlives_abort() {
            r.id = None;
            self.by_id.remove(&id);
            return machine!(self, task_aborted, id);
        }
        r.aborted = true;
        if !r.busy || self.mutation == Some(Mutation::AbortTooEarly) {
            self.finish_aborted(key);
        }
    }

    fn finish_aborted(&mut self, key: u64) {
        let Some(r) = self.tasks.remove(&key) else { return };
        self.by_id.retain(|_, k| *k != key);
        let id = r.id;
        drop(r);
        if let Some(id) = id {
            machine!(self, task_aborted, id);
        }
    }
}

impl Drop for Target {
    /// What was in flight goes with it, and nobody is told.
    fn drop(&mut self) {
        self.units.clear();
        self.context.completions.abandon();
    }
}

struct AllUnits<'a>(&'a [Unit]);

impl Inventory for AllUnits<'_> {
    fn luns(&self) -> Vec<u64> {
        (0..self.0.len() as u32).filter_map(iscsi::lun::encode).collect()
    }

    fn unit_by_designator(&self, matches: &dyn Fn(&LogicalUnit) -> bool) -> Option<Arc<LogicalUnit>> {
        self.0.iter().find(|u| matches(&u.lu)).map(|u| Arc::clone(&u.lu))
    }
}

fn copy(command: &Command) -> Command {
    Command {
        cdb: command.cdb.clone(),
        attribute: command.attribute,
        expected_in: command.expected_in,
        expected_out: command.expected_out,
        data_out: command.data_out.iter().map(|b| block::Buf::copy_of(b)).collect(),
    }
}

/// The sense key, of either format (SPC-4 4.5).
pub fn sense_key(sense: &[u8]) -> Option<u8> {
    match sense.first()? & 0x7f {
        0x72 | 0x73 => sense.get(1).map(|b| b & 0x0f),
        _ => sense.get(2).map(|b| b & 0x0f),
    }
}
