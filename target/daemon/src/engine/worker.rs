//! One reactor thread: its ring, its session machine, its tasks, and the loop that drives them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use base::{Entropy, Mono};
use block::{Channel, ChannelContext, Complete, Request};
use reactor::{Event, Handle, Mailbox, Post, Ring, clock};
use slab::Slab;
use target_session::{Action, ConnId, Machine, MachineConfig, SessionId};

use super::connections::Conn;
use super::directory::SharedDirectory;
use super::mail::Mail;
use super::manage::Jobs;
use super::shared::Shared;
use super::tasks::{Running, SessionState, Throttled};
use crate::control::backend::LunHandle;

/// Longest sleep without anything to do.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// A listening socket of this worker.
pub(super) struct Listener {
    pub address: SocketAddr,
    pub tag: u16,
    pub handle: Rc<Handle>,
    pub open: bool,
}

/// Finished block requests with the key of their task.
#[derive(Default)]
pub(super) struct Finished(RefCell<Vec<(u64, Request)>>);

impl Complete for Finished {
    fn complete(&self, token: u64, request: Request) {
        self.0.borrow_mut().push((token, request));
    }
}

/// The system's random source.
pub(super) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        if let Err(e) = getrandom::fill(out) {
            // Without randomness no challenge can be made; going on would make every login forgeable.
            tracing::error!("the system gives no random bytes: {e}");
            std::process::abort();
        }
    }
}

/// See the module.
pub(super) struct Worker {
    pub index: u32,
    pub shared: Arc<Shared>,
    pub ring: Rc<Ring>,
    pub context: ChannelContext,
    pub machine: Machine,
    pub directory: SharedDirectory,
    pub entropy: SystemEntropy,
    pub now: Mono,
    pub mailbox: Mailbox<Mail>,
    pub post: Post<Mail>,
    pub listeners: Vec<Listener>,
    /// Listeners that rest, and until when.
    pub accept_again: Vec<(Mono, usize)>,
    pub conns: Vec<Option<Conn>>,
    /// Connections whose receive may be armed again.
    pub rearm: Vec<ConnId>,
    /// Connections with something to send.
    pub transmit: Vec<ConnId>,
    pub sessions: HashMap<SessionId, SessionState>,
    pub channels: HashMap<LunHandle, Rc<dyn Channel>>,
    pub tasks: Slab<Running>,
    /// Keys of tasks by the index of their [`target_session::TaskId`].
    pub by_task: Vec<usize>,
    pub throttled: std::collections::BinaryHeap<Throttled>,
    /// Reads that wait for buffers: key and serial.
    pub starved: std::collections::VecDeque<(usize, u64)>,
    pub serial: u64,
    pub finished: Rc<Finished>,
    pub jobs: Jobs,
    pub stopping: bool,
    slow_logged: (u64, u32),
}

/// The thread's body.
pub(super) fn run(index: u32, shared: &Arc<Shared>, ready: &SyncSender<io::Result<(u32, Post<Mail>)>>) {
    let mut worker = match Worker::new(index, shared) {
        Ok(worker) => worker,
        Err(e) => {
            let _ = ready.send(Err(e));
            return;
        }
    };
    let _ = ready.send(Ok((index, worker.post.clone())));
    worker.work();
}

/// Calls a method of the machine with the worker's context.
macro_rules! with_machine {
    ($self:ident, $method:ident $(, $arg:expr)*) => {{
        let mut cx = target_session::Cx {
            now: $self.now,
            pool: $self.ring.pool(),
            entropy: &mut $self.entropy,
            directory: &mut $self.directory,
        };
        $self.machine.$method(&mut cx $(, $arg)*)
    }};
}
pub(super) use with_machine;

impl Worker {
    fn new(index: u32, shared: &Arc<Shared>) -> io::Result<Self> {
        let ring = Ring::new()?;
        ring.set_spins(shared.config.spin);
        let mailbox = Mailbox::new(&ring, base::limits::MAILBOX_MAX);
        let share = |all: usize| all.div_ceil(shared.load.len()).max(1);
        let machine = Machine::new(MachineConfig {
            thread: index,
            connections_max: share(base::limits::CONNECTIONS_MAX),
            unauthenticated_max: share(base::limits::CONNECTIONS_UNAUTHENTICATED_MAX),
            ..MachineConfig::default()
        });
        Ok(Worker {
            index,
            shared: Arc::clone(shared),
            context: ring.channel_context(),
            post: mailbox.post(),
            mailbox,
            ring,
            machine,
            directory: SharedDirectory(Arc::clone(shared)),
            entropy: SystemEntropy,
            now: clock::now(),
            listeners: Vec::new(),
            accept_again: Vec::new(),
            conns: Vec::new(),
            rearm: Vec::new(),
            transmit: Vec::new(),
            sessions: HashMap::new(),
            channels: HashMap::new(),
            tasks: Slab::new(),
            by_task: Vec::new(),
            throttled: std::collections::BinaryHeap::new(),
            starved: std::collections::VecDeque::new(),
            serial: 0,
            finished: Rc::default(),
            jobs: Jobs::default(),
            stopping: false,
            slow_logged: (0, 0),
        })
    }

    fn work(&mut self) {
        while !self.stopping {
            if let Err(e) = self.ring.turn(self.deadline()) {
                tracing::error!("reactor {}: the ring failed: {e}", self.index);
                std::thread::sleep(Duration::from_millis(100));
            }
            self.now = clock::now();
            if self.machine.next_deadline() <= self.now {
                with_machine!(self, tick);
            }
            self.start_throttled();
            self.accept_due();
            while self.progress() {
                self.feed_starved();
            }
            self.arm_and_send();
            while self.progress() {
                self.arm_and_send();
            }
        }
        // Tasks hold requests in the kernel; the ring waits for them when it is dropped.
        self.sessions.clear();
    }

    fn deadline(&self) -> Mono {
        let throttled = self.throttled.peek().map_or(Mono::NEVER, |t| t.at);
        let accept = self.accept_again.iter().map(|&(when, _)| when).min().unwrap_or(Mono::NEVER);
        self.machine.next_deadline().min(throttled).min(accept).min(self.now + SLEEP_MAX)
    }

    /// Handles what is at hand; false where nothing was.
    fn progress(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.ring.next_event() {
            any = true;
            self.event(event);
        }
        if self.ring.completions().run() > 0 {
            any = true;
            let mut finished = std::mem::take(&mut *self.finished.0.borrow_mut());
            for (key, request) in finished.drain(..) {
                self.request_done(key as usize, request);
            }
            // The vector goes back, so that its memory is reused; what came meanwhile stays.
            let mut slot = self.finished.0.borrow_mut();
            finished.append(&mut slot);
            *slot = finished;
        }
        while let Some(action) = self.machine.poll_action() {
            any = true;
            self.action(action);
        }
        any
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Accepted { token, result } => self.accepted(token as usize, result),
            Event::Received { token, bufs, result } => self.received(ConnId(token), bufs, result),
            Event::Sent { token, gather, result } => self.sent(ConnId(token), gather, result),
            Event::Woken => {
                while let Some(mail) = self.mailbox.take() {
                    self.mail(mail);
                }
            }
        }
    }

    fn action(&mut self, action: Action) {
        match action {
            Action::Transmit(conn) => self.transmit.push(conn),
            Action::Resume(conn) => self.rearm.push(conn),
            Action::Execute { task, session, lun, command } => self.execute(task, session, lun, command),
            Action::AbortTask { task } => self.abort_task(task),
            Action::Manage { tmf, session, lun, function } => self.manage(tmf, session, lun, function),
            Action::TasksAborted { token } => self.local_part_done(token),
            Action::SessionUp { session } => self.session_up(session),
            Action::SessionDown { session } => self.session_down(session),
            Action::Handover { conn, thread } => self.hand_over(conn, thread),
            Action::Close(conn) => self.close(conn),
        }
    }

    fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Connection { socket, peer } => self.take_connection(socket, peer),
            Mail::Adopt { socket, peer, transfer } => self.adopt(socket, peer, transfer),
            Mail::Wake { key, serial } => self.wake(key, serial, scsi::Input::Woken),
            Mail::Persisted { key, serial, result } => self.wake(key, serial, scsi::Input::Persisted(result)),
            Mail::Abort(order) => self.abort_part(&order),
            Mail::AbortDone { job } => self.job_part_done(job),
            Mail::Refresh(answer) => {
                self.refresh_sessions();
                let _ = answer.send(());
            }
            Mail::Listen { socket, address, tag, answer } => {
                self.listen(socket, address, tag);
                let _ = answer.send(());
            }
            Mail::Unlisten { address, answer } => {
                self.unlisten(address);
                let _ = answer.send(());
            }
            Mail::CountTasks { unit, answer } => {
                let n = self.tasks.iter().filter(|(_, t)| t.is_on(unit)).count();
                let _ = answer.send(n);
            }
            Mail::CloseUnit { unit, answer } => self.close_unit(unit, answer),
            Mail::ReopenUnit { unit, answer } => {
                self.reopen_unit(unit);
                let _ = answer.send(());
            }
            Mail::UnitStats { unit, answer } => {
                let _ = answer.send(self.unit_stats(unit));
            }
            Mail::Sessions { tid, answer } => {
                let _ = answer.send(self.session_views(tid));
            }
            Mail::DropConnection { tid, sid, cid, answer } => {
                let _ = answer.send(self.drop_connection(tid, sid, cid));
            }
            Mail::DropSessions { tid, answer } => self.drop_sessions(tid, answer),
            Mail::Stop => self.stopping = true,
        }
    }

    /// Sends `mail` to worker `to`, which may be this one. A full mailbox is waited out for a moment: its owner never
    /// waits for us, so it is emptied.
    pub fn send(&self, to: u32, mail: Mail) {
        let Some(post) = self.shared.posts().get(to as usize) else { return };
        let mut mail = mail;
        for _ in 0..1000 {
            match post.send(mail) {
                Ok(()) => return,
                Err(full) => mail = full.0,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        tracing::error!("reactor {to} does not take its mail");
    }

    /// Logs a slow command, a few a second at most.
    pub fn log_slow(&mut self, who: &str, unit: &str, cdb: &[u8], took: Duration) {
        const A_SECOND: u32 = 10;
        let second = self.now.as_nanos() / 1_000_000_000;
        if self.slow_logged.0 != second {
            if self.slow_logged.1 > A_SECOND {
                tracing::warn!("{} more slow commands in that second", self.slow_logged.1 - A_SECOND);
            }
            self.slow_logged = (second, 0);
        }
        self.slow_logged.1 += 1;
        if self.slow_logged.1 <= A_SECOND {
            tracing::warn!("slow command: {unit} from {who}: CDB {cdb:02x?} took {} ms", took.as_millis());
        }
    }
}
