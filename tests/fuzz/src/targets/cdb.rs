//! SCSI commands on logical units in memory: no command panics, stays for ever, waits for nobody, or says more than the
//! initiator takes, alone or beside others, on thin, removable, read-only and plain units, with reservations and copies.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Mono;
use block::{BlockDevice, Buf, Bufs, Channel, ChannelContext, Complete, Geometry, MemoryDevice, Op, Request};
use scsi::{
    Attribute, Command, DataIn, InitiatorPort, Input, Inventory, IoOp, ItNexusLun, LogicalUnit, LuConfig,
    Nexus, NexusId, Reply, Status, Step, StepContext, TargetPort, Task, Victims, Waker,
};

use crate::Target;

/// A byte that chooses the unit; then for each command a byte (nexus, whether it runs beside the next ones), the bytes that
/// it takes (in units of 64), the length of its CDB, and of its data (in units of 8), and both.
pub const TARGET: Target = Target {
    name: "cdb",
    about: "SCSI commands with their parameter lists, on units in memory",
    input_bytes_max: 8192,
    run,
};

const BYTES: u64 = 256 * 1024;
const NEXUSES: u64 = 3;
const TASKS_MAX: usize = 4;
const STEPS_MAX: u32 = 100_000;

struct Luns(Vec<Arc<LogicalUnit>>);

impl Inventory for Luns {
    fn luns(&self) -> Vec<u64> {
        (0..self.0.len() as u64).map(|n| n << 48).collect()
    }

    fn unit_by_designator(&self, matches: &dyn Fn(&LogicalUnit) -> bool) -> Option<Arc<LogicalUnit>> {
        self.0.iter().find(|unit| matches(unit)).cloned()
    }
}

#[derive(Default)]
struct Sink(RefCell<Option<Request>>);

impl Complete for Sink {
    fn complete(&self, _: u64, request: Request) {
        *self.0.borrow_mut() = Some(request);
    }
}

struct Running {
    task: Task,
    nexus: u64,
    expected_in: u32,
    /// What it is resumed with; none while it waits.
    input: Option<Input>,
    woken: Arc<AtomicBool>,
    replied: bool,
}

struct Engine {
    units: Luns,
    channels: Vec<Rc<dyn Channel>>,
    context: ChannelContext,
    paths: Vec<ItNexusLun>,
    tasks: Vec<Running>,
    now: Mono,
}

fn run(input: &[u8]) {
    let Some((&choice, mut rest)) = input.split_first() else { return };
    let mut engine = Engine::new(choice);
    while let [how, takes, cdb_len, data_len, tail @ ..] = rest {
        let (cdb, after) = tail.split_at(tail.len().min(usize::from(*cdb_len)));
        let (data, after) = after.split_at(after.len().min(usize::from(*data_len) * 8));
        rest = after;
        if cdb.is_empty() {
            continue;
        }
        engine.start(u64::from(how & 3) % NEXUSES, cdb, data, u32::from(*takes) * 64);
        if how & 0x80 == 0 || engine.tasks.len() >= TASKS_MAX {
            engine.drain();
        }
    }
    engine.drain();
    engine.durable();
}

impl Engine {
    fn new(choice: u8) -> Engine {
        let context = ChannelContext::hostless();
        let mut engine = Engine {
            units: Luns(Vec::new()),
            channels: Vec::new(),
            context,
            paths: Vec::new(),
            tasks: Vec::new(),
            now: Mono::from_nanos(1),
        };
        for n in 0..2u8 {
            let block_bytes = if choice & 0x40 != 0 { 4096 } else { 512 };
            let device = MemoryDevice::new(BYTES, block_bytes);
            let geometry = Geometry { physical_block_bytes: 4096, ..device.geometry() };
            let mut naa = [n + 1; 16];
            naa[0] = 0x60;
            let config = LuConfig {
                naa,
                serial: format!("fuzz{n}"),
                block_bytes,
                thin: choice & 1 != 0,
                removable: choice & 2 != 0,
                read_only: choice & 4 != 0,
                descriptor_sense: choice & 8 != 0,
                write_cache: choice & 16 == 0,
                swp: choice & 32 != 0,
                ..LuConfig::default()
            };
            engine.units.0.push(LogicalUnit::new(config, geometry, device.features()));
            let Ok(channel) = device.open(&engine.context) else { panic!("a memory device opens") };
            engine.channels.push(channel);
        }
        for id in 0..NEXUSES {
            let initiator = InitiatorPort {
                name: format!("iqn.2001-04.com.example:i{id}"),
                isid: [0, 0, 0, 0, 0, id as u8],
            };
            let target = TargetPort { name: "iqn.2001-04.com.example:t".into(), portal_group: 1 };
            let nexus = Nexus { id: NexusId(id), initiator: Arc::new(initiator), target: Arc::new(target) };
            engine.paths.push(engine.units.0[0].attach(&nexus));
            drop(engine.units.0[1].attach(&nexus));
        }
        // Past the attention that every nexus meets first.
        for id in 0..NEXUSES {
            engine.start(id, &[0; 6], &[], 0);
            engine.drain();
        }
        engine
    }

    fn start(&mut self, nexus: u64, cdb: &[u8], data: &[u8], expected_in: u32) {
        let mut data_out = Bufs::new();
        for piece in data.chunks(300) {
            data_out.push(Buf::copy_of(piece));
        }
        let command = Command {
            cdb: cdb.into(),
            attribute: Attribute::Simple,
            expected_in,
            expected_out: data.len() as u32,
            data_out,
        };
        let task = Task::new(&mut self.paths[nexus as usize], command, &self.units);
        let woken = Arc::new(AtomicBool::new(false));
        self.tasks.push(Running {
            task,
            nexus,
            expected_in,
            input: Some(Input::Start),
            woken,
            replied: false,
        });
    }

    /// Steps all tasks in turn until they are over.
    fn drain(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.tasks.is_empty() {
                return;
            }
            let mut moved = false;
            let mut i = 0;
            while i < self.tasks.len() {
                let input = match self.tasks[i].input.take() {
                    Some(input) => input,
                    None if self.tasks[i].woken.swap(false, Ordering::SeqCst) => Input::Woken,
                    None => {
                        i += 1;
                        continue;
                    }
                };
                moved = true;
                if self.step(i, input) {
                    self.tasks.remove(i);
                } else {
                    i += 1;
                }
            }
            assert!(
                moved,
                "all wait for one another: {:?}",
                self.tasks.iter().map(|t| &t.task).collect::<Vec<_>>()
            );
        }
        panic!("no end: {:?}", self.tasks.iter().map(|t| &t.task).collect::<Vec<_>>());
    }

    /// One step of a task; whether it is over.
    fn step(&mut self, i: usize, input: Input) -> bool {
        let running = &mut self.tasks[i];
        let woken = Arc::clone(&running.woken);
        let waker = move || -> Waker {
            let woken = Arc::clone(&woken);
            Box::new(move || woken.store(true, Ordering::SeqCst))
        };
        let cx = StepContext { now: self.now, pool: &self.context.pool, waker: &waker };
        let step = running.task.step(&cx, input);
        let next = match step {
            Step::Io { on, op } => self.io(on.as_ref(), op),
            Step::Abort(victims) => {
                self.abort(i, &victims);
                // Indices moved: the task that asked is found by having no input.
                Input::Aborted
            }
            Step::Persist => {
                self.durable();
                Input::Persisted(Ok(()))
            }
            Step::Wait => return false,
            Step::Pause(at) => {
                self.now = self.now.max(at);
                Input::Woken
            }
            Step::Reply(reply) => {
                check(&self.tasks[i], &reply);
                assert!(!std::mem::replace(&mut self.tasks[i].replied, true), "a second reply");
                Input::Replied
            }
            Step::Done(reply) => {
                check(&self.tasks[i], &reply);
                assert!(!self.tasks[i].replied, "a second reply");
                return true;
            }
            Step::Finished => {
                assert!(self.tasks[i].replied, "no reply");
                return true;
            }
        };
        self.tasks[i].input = Some(next);
        false
    }

    /// What the engine does for PREEMPT AND ABORT: the victims' tasks are gone without a reply. They keep their places in the
    /// list, so that the caller's indices hold, as tasks that are asked for nothing but to be over.
    fn abort(&mut self, by: usize, victims: &Victims) {
        let id = NexusId(self.tasks[by].nexus);
        for i in 0..self.tasks.len() {
            let nexus = self.tasks[i].nexus;
            let hit = match victims {
                Victims::All => true,
                Victims::Nexuses(list) => list.contains(&NexusId(nexus)),
            };
            if i == by || !hit {
                continue;
            }
            let command = Command { cdb: [0; 6][..].into(), ..Command::default() };
            let task = Task::new(&mut self.paths[nexus as usize], command, &self.units);
            let woken = Arc::new(AtomicBool::new(false));
            self.tasks[i] =
                Running { task, nexus, expected_in: 0, input: Some(Input::Start), woken, replied: false };
        }
        self.units.0[0].tasks_cleared(id, victims);
    }

    fn io(&self, on: Option<&Arc<LogicalUnit>>, op: IoOp) -> Input {
        let device = match on {
            Some(unit) if Arc::ptr_eq(unit, &self.units.0[1]) => 1,
            _ => 0,
        };
        let mut request = match op {
            IoOp::Read { offset, len } => {
                assert!(offset + u64::from(len) <= BYTES, "a read beyond the unit");
                Request::read(offset, std::iter::once(self.context.pool.get(len as usize)).collect())
            }
            IoOp::Write { offset, bufs, fua } => Request::write(offset, bufs, fua),
            IoOp::Flush => Request::flush(),
            IoOp::Discard { offset, len } => Request::new(Op::Discard, offset, len),
            IoOp::WriteZeroes { offset, len, unmap } => Request::new(Op::WriteZeroes { unmap }, offset, len),
            IoOp::Map { offset, len } => Request::new(Op::Map, offset, len),
        };
        let sink = Rc::new(Sink::default());
        request.push_frame(Rc::clone(&sink) as Rc<dyn Complete>, 0);
        self.channels[device].submit(request);
        assert_eq!(self.context.completions.run(), 1);
        let request = sink.0.borrow_mut().take();
        let Some(mut request) = request else { panic!("the request did not come back") };
        // What a task asks of its device, the device can do: refusals come before.
        assert!(request.result.is_ok(), "{:?}", request.result);
        Input::Io {
            result: Ok(()),
            bufs: std::mem::take(&mut request.bufs),
            extents: std::mem::take(&mut request.extents),
        }
    }

    /// What APTPL keeps can be read back.
    fn durable(&self) {
        let state = self.units.0[0].durable_state();
        let device = MemoryDevice::new(BYTES, 512);
        let again = LogicalUnit::new(self.units.0[0].config(), device.geometry(), device.features());
        let restored = again.restore(&state);
        assert!(restored.is_ok(), "{restored:?}");
        assert_eq!(again.durable_state(), state);
    }
}

fn check(running: &Running, reply: &Reply) {
    let task = &running.task;
    let len = match &reply.data_in {
        DataIn::None => 0,
        DataIn::Bytes(bytes) => bytes.len(),
        DataIn::Bufs(bufs) => bufs.iter().map(|buf| buf.len()).sum(),
    };
    assert!(
        len <= running.expected_in as usize,
        "{task:?}: {len} bytes where {} are taken",
        running.expected_in
    );
    match (&reply.sense, reply.status) {
        (Some(sense), Status::CheckCondition) => {
            assert!((8..=252).contains(&sense.len()), "{task:?}: {sense:02x?}");
            assert!(matches!(sense[0] & 0x7f, 0x70..=0x73), "{task:?}: {sense:02x?}");
        }
        (sense, status) => {
            assert!(sense.is_none() && status != Status::CheckCondition, "{task:?}: {reply:?}");
        }
    }
}
