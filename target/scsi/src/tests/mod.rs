//! A small engine for tests: runs one task after the other, or several interleaved by hand, on a memory device.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::Mono;
use block::{
    BlockDevice, Buf, Bufs, Channel, ChannelContext, Complete, Geometry, IoError, MemoryDevice, Op, Pool,
    Request,
};

use crate::*;

mod basics;
mod copy;
mod forcing;
mod hostile;
mod media;
mod reserve;

/// The LUNs of the test target.
pub(crate) struct TestInventory(pub(crate) Vec<u64>, pub(crate) Vec<Arc<LogicalUnit>>);

impl Inventory for TestInventory {
    fn luns(&self) -> Vec<u64> {
        self.0.clone()
    }
    fn unit_by_designator(&self, matches: &dyn Fn(&LogicalUnit) -> bool) -> Option<Arc<LogicalUnit>> {
        self.1.iter().find(|u| matches(u)).cloned()
    }
}

#[derive(Default)]
struct Sink(RefCell<Option<Request>>);
impl Complete for Sink {
    fn complete(&self, _: u64, request: Request) {
        *self.0.borrow_mut() = Some(request);
    }
}

/// A unit on a memory device, and what its tests share.
pub(crate) struct Rig {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) device: MemoryDevice,
    channel: Rc<dyn Channel>,
    context: ChannelContext,
    pub(crate) inventory: TestInventory,
    pub(crate) wakes: Arc<AtomicUsize>,
    /// What is injected into the next operation.
    pub(crate) fail: RefCell<Option<IoError>>,
    /// Operations that ran, as text.
    pub(crate) log: RefCell<Vec<String>>,
    pub(crate) persisted: RefCell<usize>,
}

/// A reply with its bytes joined.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) sense: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) transfer_len: u64,
}

impl From<Reply> for Answer {
    fn from(r: Reply) -> Self {
        let data = match r.data_in {
            DataIn::None => Vec::new(),
            DataIn::Bytes(b) => b,
            DataIn::Bufs(bufs) => bufs.iter().flat_map(|b| b.iter().copied()).collect(),
        };
        Answer { status: r.status, sense: r.sense.unwrap_or_default(), data, transfer_len: r.transfer_len }
    }
}

impl Answer {
    /// Key, and additional sense code with qualifier, of fixed sense data.
    pub(crate) fn fixed(&self) -> (u8, u16) {
        assert_eq!(self.status, Status::CheckCondition, "{self:?}");
        assert_eq!(self.sense[0] & 0x7f, 0x70);
        (self.sense[2], u16::from_be_bytes([self.sense[12], self.sense[13]]))
    }
    #[track_caller]
    pub(crate) fn good(self) -> Vec<u8> {
        assert_eq!(self.status, Status::Good, "{self:02x?}");
        self.data
    }
    #[track_caller]
    pub(crate) fn sense_is(&self, key: u8, asc: u16) {
        assert_eq!(self.fixed(), (key, asc), "{self:02x?}");
    }
}

pub(crate) fn nexus(n: u64) -> Nexus {
    Nexus {
        id: NexusId(n),
        initiator: Arc::new(InitiatorPort {
            name: format!("iqn.2026-01.test:i{n}"),
            isid: [0, 0, 0, 0, 0, n as u8],
        }),
        target: Arc::new(TargetPort { name: "iqn.2026-01.test:t".into(), portal_group: 1 }),
    }
}

impl Rig {
    pub(crate) fn new(config: LuConfig) -> Rig {
        Rig::sized(config, 8 << 20)
    }

    pub(crate) fn sized(config: LuConfig, bytes: u64) -> Rig {
        let device = MemoryDevice::new(bytes, 512);
        let geometry = Geometry { physical_block_bytes: 4096, ..device.geometry() };
        let context = ChannelContext::hostless();
        let unit = LogicalUnit::new(config, geometry, device.features());
        Rig {
            inventory: TestInventory(vec![0, 1 << 48], vec![Arc::clone(&unit)]),
            unit,
            channel: device.open(&context).unwrap(),
            device,
            context,
            wakes: Arc::new(AtomicUsize::new(0)),
            fail: RefCell::new(None),
            log: RefCell::new(Vec::new()),
            persisted: RefCell::new(0),
        }
    }

    pub(crate) fn plain() -> Rig {
        Rig::new(LuConfig::default())
    }

    /// A nexus whose attach attention is cleared.
    pub(crate) fn attach(&self, n: u64) -> ItNexusLun {
        let mut at = self.unit.attach(&nexus(n));
        self.run(&mut at, &[0, 0, 0, 0, 0, 0], b"", 0).sense_is(6, 0x2900);
        at
    }

    /// A nexus whose attach attention is taken without a command, whatever is reserved.
    pub(crate) fn attach_quietly(&self, n: u64) -> ItNexusLun {
        let at = self.unit.attach(&nexus(n));
        if let Some(entry) = self.unit.lock().nexuses.get_mut(&NexusId(n)) {
            entry.attentions.take();
        }
        at
    }

    /// A nexus of a unit that may not be ready.
    pub(crate) fn attach_anyhow(&self, n: u64) -> ItNexusLun {
        let mut at = self.unit.attach(&nexus(n));
        self.run(&mut at, &[3, 0, 0, 0, 18, 0], b"", 18).good();
        at
    }

    pub(crate) fn command(cdb: &[u8], out: &[u8], expected_in: u32) -> Command {
        let mut data_out = Bufs::new();
        if !out.is_empty() {
            // In two pieces, as they come from a network.
            let half = out.len() / 2;
            for piece in [&out[..half], &out[half..]].into_iter().filter(|p| !p.is_empty()) {
                data_out.push(Buf::copy_of(piece));
            }
        }
        let expected_out = out.len() as u32;
        Command { cdb: cdb.into(), attribute: Attribute::Simple, expected_in, expected_out, data_out }
    }

    pub(crate) fn task(&self, at: &mut ItNexusLun, cdb: &[u8], out: &[u8], expected_in: u32) -> Task {
        Task::new(at, Self::command(cdb, out, expected_in), &self.inventory)
    }

    pub(crate) fn step(&self, task: &mut Task, input: Input) -> Step {
        let wakes = Arc::clone(&self.wakes);
        let waker = move || -> Waker {
            let wakes = Arc::clone(&wakes);
            Box::new(move || {
                wakes.fetch_add(1, Ordering::SeqCst);
            })
        };
        let pool = Pool::default();
        task.step(&StepContext { now: Mono::from_nanos(1), pool: &pool, waker: &waker }, input)
    }

    /// Runs an operation on the device.
    pub(crate) fn io(&self, op: IoOp) -> Input {
        self.log.borrow_mut().push(match &op {
            IoOp::Write { offset, bufs, fua } => {
                format!("write {offset}+{} fua={fua}", bufs.iter().map(|b| b.len()).sum::<usize>())
            }
            op => format!("{op:?}"),
        });
        let mut request = match op {
            IoOp::Read { offset, len } => {
                Request::read(offset, std::iter::once(self.context.pool.get(len as usize)).collect())
            }
            IoOp::Write { offset, bufs, fua } => Request::write(offset, bufs, fua),
            IoOp::Flush => Request::flush(),
            IoOp::Discard { offset, len } => Request::new(Op::Discard, offset, len),
            IoOp::WriteZeroes { offset, len, unmap } => Request::new(Op::WriteZeroes { unmap }, offset, len),
            IoOp::Map { offset, len } => Request::new(Op::Map, offset, len),
        };
        if let Some(error) = self.fail.borrow_mut().take() {
            return Input::Io {
                result: Err(error),
                bufs: std::mem::take(&mut request.bufs),
                extents: Vec::new(),
            };
        }
        let sink = Rc::new(Sink::default());
        request.push_frame(Rc::clone(&sink) as Rc<dyn Complete>, 0);
        self.channel.submit(request);
        assert_eq!(self.context.completions.run(), 1);
        let mut request = sink.0.borrow_mut().take().unwrap();
        Input::Io {
            result: request.result,
            bufs: std::mem::take(&mut request.bufs),
            extents: std::mem::take(&mut request.extents),
        }
    }

    /// Runs a task to its reply, and what it does afterwards to its end.
    pub(crate) fn finish(&self, task: &mut Task) -> Answer {
        let mut input = Input::Start;
        let mut reply = None;
        for _ in 0..100_000 {
            input = match self.step(task, input) {
                Step::Io { op, .. } => self.io(op),
                Step::Abort(_) => Input::Aborted,
                Step::Persist => {
                    *self.persisted.borrow_mut() += 1;
                    Input::Persisted(Ok(()))
                }
                Step::Wait => panic!("{task:?} waits for nobody"),
                Step::Pause(_) => Input::Woken,
                Step::Reply(r) => {
                    reply = Some(r);
                    Input::Replied
                }
                Step::Done(r) => return r.into(),
                Step::Finished => return reply.expect("finished without a reply").into(),
            };
        }
        panic!("{task:?} does not end");
    }

    pub(crate) fn run(&self, at: &mut ItNexusLun, cdb: &[u8], out: &[u8], expected_in: u32) -> Answer {
        let mut task = self.task(at, cdb, out, expected_in);
        let answer = self.finish(&mut task);
        assert!(answer.data.len() <= expected_in as usize, "more than the initiator takes: {task:?}");
        answer
    }

    /// What lies on the device.
    pub(crate) fn peek(&self, offset: u64, len: u32) -> Vec<u8> {
        match self.io(IoOp::Read { offset, len }) {
            Input::Io { bufs, .. } => bufs.iter().flat_map(|b| b.to_vec()).collect(),
            _ => unreachable!(),
        }
    }

    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.borrow_mut())
    }
}

/// A 16-byte CDB in the usual layout.
pub(crate) fn cdb16(opcode: u8, byte1: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut c = vec![opcode, byte1];
    c.extend_from_slice(&lba.to_be_bytes());
    c.extend_from_slice(&blocks.to_be_bytes());
    c.extend_from_slice(&[0, 0]);
    c
}

/// A 10-byte CDB in the usual layout.
pub(crate) fn cdb10(opcode: u8, byte1: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut c = vec![opcode, byte1];
    c.extend_from_slice(&lba.to_be_bytes());
    c.push(0);
    c.extend_from_slice(&blocks.to_be_bytes());
    c.push(0);
    c
}
