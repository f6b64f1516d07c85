//! SCSI tasks on their way: from the session machine to a channel and back.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::Mono;
use block::{Channel, Complete, IoErrorKind, Op, Request};
use scsi::{
    DataIn, Input, Inventory, IoOp, ItNexusLun, LogicalUnit, Nexus, Reply, Step, StepContext, Task, Victims,
};
use target_session::{SessionId, TaskId};

use super::counters::{Counters, Way};
use super::mail::Mail;
use super::shared::Unit;
use super::worker::{Worker, with_machine};
use crate::control::backend::{LunHandle, Tid};

/// A unit as one session sees it.
pub(super) struct Place {
    pub lun: u64,
    pub unit: Arc<Unit>,
    pub itl: RefCell<ItNexusLun>,
    /// None until the session moves data: most units of most sessions never see any.
    pub counters: RefCell<Option<Box<Counters>>>,
}

/// What the engine keeps of a session.
pub(super) struct SessionState {
    pub tid: Tid,
    pub nexus: Nexus,
    pub tsih: u16,
    /// By LUN.
    pub places: Vec<Rc<Place>>,
}

impl SessionState {
    pub fn place(&self, lun: u64) -> Option<&Rc<Place>> {
        at_lun(&self.places, lun)
    }
}

fn at_lun(places: &[Rc<Place>], lun: u64) -> Option<&Rc<Place>> {
    places.binary_search_by_key(&lun, |p| p.lun).ok().and_then(|i| places.get(i))
}

/// What the target has, as the session sees it.
struct SessionInventory<'a>(&'a [Rc<Place>]);

impl Inventory for SessionInventory<'_> {
    fn luns(&self) -> Vec<u64> {
        self.0.iter().filter_map(|p| iscsi::lun::encode(u32::try_from(p.lun).ok()?)).collect()
    }

    fn unit_by_designator(&self, matches: &dyn Fn(&LogicalUnit) -> bool) -> Option<Arc<LogicalUnit>> {
        self.0.iter().find(|p| matches(&p.unit.lu)).map(|p| Arc::clone(&p.unit.lu))
    }
}

/// A task and who waits for it.
pub(super) struct Running {
    /// None once it replied: it goes on in the background.
    pub id: Option<TaskId>,
    pub session: SessionId,
    pub place: Rc<Place>,
    /// None while the throttle holds it back, or while it is being stepped.
    task: Option<Task>,
    serial: u64,
    began: Mono,
    way: Way,
    bytes: u64,
    /// The initiator is not to be answered; the machine is told when nothing runs any more.
    aborted: bool,
    /// A request is in the kernel, or state is being written: the task cannot be dropped yet.
    busy: bool,
    cdb: [u8; 16],
}

impl Running {
    pub fn is_on(&self, unit: LunHandle) -> bool {
        self.place.unit.handle == unit
    }
}

/// A task that the throttle holds back.
#[derive(PartialEq, Eq)]
pub(super) struct Throttled {
    pub at: Mono,
    key: usize,
    serial: u64,
}

impl PartialOrd for Throttled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Throttled {
    /// The heap gives the earliest first, in the order of arrival.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

impl Worker {
    pub fn execute(&mut self, id: TaskId, session: SessionId, lun: u64, command: scsi::Command) {
        // A session that the engine does not know (its target went away during the login) has no units.
        let places = self.sessions.get(&session).map_or(&[][..], |s| &s.places);
        let inventory = SessionInventory(places);
        let place = iscsi::lun::decode(lun).ok().and_then(|n| at_lun(places, u64::from(n)));
        let Some(place) = place.map(Rc::clone) else {
            let reply = scsi::no_such_lun(&command, &inventory);
            with_machine!(self, task_done, id, reply);
            return;
        };
        let (way, bytes) = way_of(&command);
        let mut cdb = [0; 16];
        let n = command.cdb.len().min(16);
        cdb[..n].copy_from_slice(&command.cdb[..n]);
        let task = Task::new(&mut place.itl.borrow_mut(), command, &inventory);
        if way != Way::Other {
            place.counters.borrow_mut().get_or_insert_default().began(way, bytes);
        }
        self.serial += 1;
        let throttle = way != Way::Other && place.unit.throttle.is_on();
        let start = if throttle { place.unit.throttle.reserve(self.now, bytes) } else { self.now };
        let key = self.tasks.insert(Running {
            id: Some(id),
            session,
            place,
            task: Some(task),
            serial: self.serial,
            began: self.now,
            way,
            bytes,
            aborted: false,
            busy: false,
            cdb,
        });
        let index = id.index();
        if self.by_task.len() <= index {
            self.by_task.resize(index + 1, usize::MAX);
        }
        self.by_task[index] = key;
        if start > self.now {
            self.throttled.push(Throttled { at: start, key, serial: self.serial });
        } else if way == Way::Read && self.lacks_memory() {
            self.starved.push_back((key, self.serial));
        } else {
            self.drive(key, Input::Start);
        }
    }

    /// Whether so many buffers are out (to slow readers, mostly) that further reads wait.
    fn lacks_memory(&self) -> bool {
        !self.starved.is_empty() || self.ring.pool().used_bytes() > base::limits::REACTOR_BUFFER_BYTES_MAX
    }

    /// Starts reads that waited for buffers.
    pub fn feed_starved(&mut self) {
        while self.ring.pool().used_bytes() <= base::limits::REACTOR_BUFFER_BYTES_MAX {
            let Some((key, serial)) = self.starved.pop_front() else { return };
            if self.tasks.get(key).is_some_and(|t| t.serial == serial) {
                self.drive(key, Input::Start);
            }
        }
    }

    /// Starts what the throttle lets go, and goes on with what paused; a task that has not begun begins whatever wakes it.
    pub fn start_throttled(&mut self) {
        while self.throttled.peek().is_some_and(|t| t.at <= self.now) {
            let Some(next) = self.throttled.pop() else { return };
            if self.tasks.get(next.key).is_some_and(|t| t.serial == next.serial) {
                self.drive(next.key, Input::Woken);
            }
        }
    }

    /// Steps the task at `key` until it waits for something or is over.
    fn drive(&mut self, key: usize, input: Input) {
        let mut input = input;
        loop {
            let Some(running) = self.tasks.get_mut(key) else { return };
            let Some(mut task) = running.task.take() else { return };
            let serial = running.serial;
            let post = &self.post;
            let waker = || -> scsi::Waker {
                let post = post.clone();
                Box::new(move || {
                    if post.send(Mail::Wake { key, serial }).is_err() {
                        tracing::error!("a task could not be woken: the reactor's mailbox is full");
                    }
                })
            };
            let cx = StepContext { now: self.now, pool: self.ring.pool(), waker: &waker };
            let step = task.step(&cx, input);
            running.task = Some(task);
            match step {
                Step::Io { on, op } => return self.submit(key, on.as_ref(), op),
                Step::Abort(victims) => return self.abort_for(key, &victims),
                Step::Persist => return self.persist(key, serial),
                Step::Wait => return,
                Step::Pause(at) => return self.throttled.push(Throttled { at, key, serial }),
                Step::Reply(reply) => {
                    if let Some(id) = running.id.take() {
                        self.deliver(key, id, reply);
                    }
                    input = Input::Replied;
                }
                Step::Done(reply) => {
                    if let Some(id) = running.id.take() {
                        self.deliver(key, id, reply);
                    }
                    self.remove(key);
                    return;
                }
                Step::Finished => {
                    self.remove(key);
                    return;
                }
            }
        }
    }

    fn remove(&mut self, key: usize) {
        self.tasks.try_remove(key);
        self.check_unit_closings();
    }

    fn submit(&mut self, key: usize, on: Option<&Arc<LogicalUnit>>, op: IoOp) {
        let Some(running) = self.tasks.get_mut(key) else { return };
        let unit = match on {
            None => Arc::clone(&running.place.unit),
            Some(lu) => match self.shared.units().into_iter().find(|u| Arc::ptr_eq(&u.lu, lu)) {
                Some(unit) => unit,
                None => return self.drive(key, failed(IoErrorKind::Gone)),
            },
        };
        running.busy = true;
        let mut request = self.request(op);
        let Some(channel) = self.channel(&unit) else {
            if let Some(running) = self.tasks.get_mut(key) {
                running.busy = false;
            }
            return self.drive(key, failed(IoErrorKind::Gone));
        };
        request.push_frame(Rc::clone(&self.finished) as Rc<dyn Complete>, key as u64);
        channel.submit(request);
    }

    fn request(&self, op: IoOp) -> Request {
        match op {
            IoOp::Read { offset, len } => {
                Request::read(offset, std::iter::once(self.ring.pool().get(len as usize)).collect())
            }
            IoOp::Write { offset, bufs, fua } => Request::write(offset, bufs, fua),
            IoOp::Flush => Request::flush(),
            IoOp::Discard { offset, len } => Request::new(Op::Discard, offset, len),
            IoOp::WriteZeroes { offset, len, unmap } => Request::new(Op::WriteZeroes { unmap }, offset, len),
            IoOp::Map { offset, len } => Request::new(Op::Map, offset, len),
        }
    }

    /// This worker's channel to the unit's device.
    fn channel(&mut self, unit: &Arc<Unit>) -> Option<Rc<dyn Channel>> {
        if let Some(channel) = self.channels.get(&unit.handle) {
            return Some(Rc::clone(channel));
        }
        let channel = match unit.device()?.open(&self.context) {
            Ok(channel) => channel,
            Err(e) => {
                tracing::error!("{} lun {}: no channel to its device: {e}", unit.target, unit.lun);
                return None;
            }
        };
        self.channels.insert(unit.handle, Rc::clone(&channel));
        Some(channel)
    }

    pub fn request_done(&mut self, key: usize, request: Request) {
        let Some(running) = self.tasks.get_mut(key) else { return };
        running.busy = false;
        if running.aborted {
            if let Some(task) = &mut running.task {
                task.ended_aborted(request.result);
            }
            return self.finish_aborted(key);
        }
        if let Err(e) = request.result {
            let place = &running.place;
            place.counters.borrow_mut().get_or_insert_default().errors += 1;
            if !matches!(e.kind, IoErrorKind::ReadOnly | IoErrorKind::Unsupported | IoErrorKind::OutOfRange) {
                tracing::error!("{} lun {}: {:?} failed: {e}", place.unit.target, place.lun, request.op);
            }
        }
        self.drive(key, Input::Io { result: request.result, bufs: request.bufs, extents: request.extents });
    }

    /// Goes on with a task that waited for something outside of the ring.
    pub fn wake(&mut self, key: usize, serial: u64, input: Input) {
        let Some(running) = self.tasks.get_mut(key).filter(|t| t.serial == serial) else { return };
        running.busy = false;
        if running.aborted {
            self.finish_aborted(key);
        } else {
            self.drive(key, input);
        }
    }

    /// The tasks that a task of this worker wanted aborted are gone.
    pub fn aborted_for(&mut self, key: usize, serial: u64) {
        self.wake(key, serial, Input::Aborted);
    }

    fn persist(&mut self, key: usize, serial: u64) {
        let Some(running) = self.tasks.get_mut(key) else { return };
        running.busy = true;
        let unit = Arc::clone(&running.place.unit);
        let post = self.post.clone();
        let done = move |result| {
            if post.send(Mail::Persisted { key, serial, result }).is_err() {
                tracing::error!("a reservation's end got lost: the reactor's mailbox is full");
            }
        };
        let lu = Arc::clone(&unit.lu);
        self.shared.writer.write(&unit.state_name, Box::new(move || lu.durable_state()), Box::new(done));
    }

    fn abort_for(&mut self, key: usize, victims: &Victims) {
        let Some(running) = self.tasks.get_mut(key) else { return };
        running.busy = true;
        let (unit, serial, session) = (running.place.unit.handle, running.serial, running.session);
        let nexuses = match victims {
            Victims::All => None,
            Victims::Nexuses(list) => Some(list.as_slice().into()),
        };
        self.abort_everywhere_for_task(key, serial, session, unit, nexuses);
    }

    fn deliver(&mut self, key: usize, id: TaskId, reply: Reply) {
        let took = if let Some(running) = self.tasks.get_mut(key) {
            let took = self.now.since(running.began);
            let moved = match &reply.data_in {
                _ if reply.status != scsi::Status::Good => 0,
                DataIn::None => running.bytes,
                DataIn::Bytes(b) => b.len() as u64,
                DataIn::Bufs(b) => b.iter().map(|b| b.len() as u64).sum(),
            };
            if let Some(counters) = running.place.counters.borrow_mut().as_mut() {
                counters.ended(self.now, running.way, moved, took);
            }
            took
        } else {
            Duration::ZERO
        };
        let slow = self.shared.config.slow_request_ms;
        if slow > 0 && took.as_millis() >= u128::from(slow) {
            self.report_slow(key, took);
        }
        with_machine!(self, task_done, id, reply);
    }

    #[cold]
    fn report_slow(&mut self, key: usize, took: Duration) {
        let Some(running) = self.tasks.get(key) else { return };
        let cdb = running.cdb;
        let unit = format!("{} lun {}", running.place.unit.target, running.place.lun);
        let who = self.sessions.get(&running.session).map(|s| Arc::clone(&s.nexus.initiator));
        self.log_slow(who.as_ref().map_or("?", |w| w.name.as_str()), &unit, &cdb, took);
    }

    /// Stops a task. What is in the kernel cannot be called back: its end is waited for.
    pub fn abort_task(&mut self, id: TaskId) {
        let key = self.by_task.get(id.index()).copied().unwrap_or(usize::MAX);
        let Some(running) = self.tasks.get_mut(key).filter(|t| t.id == Some(id)) else {
            // It ended a moment ago, and the machine knows.
            return;
        };
        let closing = self.jobs.is_closing(running.place.unit.handle);
        if !closing && running.task.as_ref().is_some_and(Task::outlives_abort) {
            // A sanitize operation goes on without its command.
            running.id = None;
            with_machine!(self, task_aborted, id);
            return;
        }
        running.aborted = true;
        if !running.busy {
            self.finish_aborted(key);
        }
    }

    /// Ends what goes on in the background on a unit that is closed: a sanitize operation comes back as failed with the unit.
    pub fn end_background(&mut self, unit: LunHandle) {
        let keys: Vec<usize> =
            self.tasks.iter().filter(|(_, t)| t.id.is_none() && t.is_on(unit)).map(|(key, _)| key).collect();
        for key in keys {
            let Some(running) = self.tasks.get_mut(key) else { continue };
            running.aborted = true;
            if !running.busy {
                self.finish_aborted(key);
            }
        }
    }

    fn finish_aborted(&mut self, key: usize) {
        let Some(running) = self.tasks.try_remove(key) else { return };
        let id = running.id;
        // The range lock and the place are let go before anybody hears that the task is gone.
        drop(running);
        if let Some(id) = id {
            with_machine!(self, task_aborted, id);
        }
        self.check_unit_closings();
    }
}

fn failed(kind: IoErrorKind) -> Input {
    Input::Io { result: Err(kind.into()), bufs: block::Bufs::new(), extents: Vec::new() }
}

/// Which way the data of a command go and how many bytes were asked for, by what the initiator said.
fn way_of(command: &scsi::Command) -> (Way, u64) {
    match command.cdb.first() {
        Some(0x08 | 0x28 | 0xa8 | 0x88) => (Way::Read, u64::from(command.expected_in)),
        Some(0x0a | 0x2a | 0xaa | 0x8a | 0x2e | 0xae | 0x8e | 0x9c | 0x89) => {
            (Way::Write, u64::from(command.expected_out))
        }
        _ => (Way::Other, 0),
    }
}
