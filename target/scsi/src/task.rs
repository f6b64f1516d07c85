//! A task: one command from its arrival to its status, and the background work of those that reply early.
//!
//! ```text
//!   Start ── gate frozen ──▶ wait ──┐
//!     │◀────────────────────────────┘
//!     ▼ checks in the order of SAM-5 5.3: gate, attention, reservation, sanitize, ready, writable, CDB
//!   handler ──▶ reply, or a Job that is stepped until it is done
//! ```
//!
//! A task may be dropped at any time but while an operation of it runs; it gives its ranges back.

use std::sync::Arc;

use block::GateState;

use crate::nexus::{Attached, ItNexusLun};
use crate::opcodes::{self, Entry};
use crate::range_lock::{Range, Ticket};
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::{Command, DataIn, Input, LogicalUnit, LuKind, Reply, Status, Step, StepContext};

/// Carries a command out, or says what to step.
pub(crate) type Handler = fn(&mut Call<'_>) -> Result<Outcome, Refusal>;

/// What a handler gets.
pub(crate) struct Call<'a> {
    pub(crate) at: &'a Arc<Attached>,
    pub(crate) command: &'a mut Command,
    /// What was asked of the target when the command arrived.
    pub(crate) prepared: &'a mut Prepared,
    pub(crate) cx: &'a StepContext<'a>,
    /// The range that the task holds or waits for; it is given back when the task ends.
    pub(crate) held: &'a mut Option<Ticket>,
}

impl Call<'_> {
    pub(crate) fn unit(&self) -> &Arc<LogicalUnit> {
        &self.at.unit
    }

    pub(crate) fn cdb(&self) -> &[u8] {
        &self.command.cdb
    }

    /// All write data in one piece, at most `max` bytes: for parameter lists.
    pub(crate) fn parameters(&self, max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for b in &self.command.data_out {
            out.extend_from_slice(&b[..b.len().min(max - out.len())]);
        }
        out
    }

    /// Asks for bytes `range` of the unit; true when they are held already, otherwise return [`Step::Wait`].
    pub(crate) fn hold(&mut self, range: Range, exclusive: bool) -> bool {
        let (ticket, held) = self.at.unit.ranges.acquire(range, exclusive, self.cx.waker);
        *self.held = Some(ticket);
        held
    }
}

/// What the engine's inventory said when the task was made.
#[derive(Debug, Default)]
pub(crate) enum Prepared {
    /// Nothing was asked.
    #[default]
    Nothing,
    /// The LUNs that the nexus may use.
    Luns(Vec<u64>),
}

/// What a handler came to.
pub(crate) enum Outcome {
    /// GOOD without data.
    Good,
    /// GOOD with parameter data, cut to the allocation length (SPC-4 4.2.5.6).
    Data {
        /// All of it.
        bytes: Vec<u8>,
        /// ALLOCATION LENGTH.
        allocation_len: u32,
    },
    /// Any other end.
    Done(Reply),
    /// Work that takes operations; stepped with [`Input::Start`] at once.
    Job(Box<dyn Job>),
}

/// Work in steps.
pub(crate) trait Job {
    /// The next step. An error ends the task with its status.
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal>;
}

/// Commands that concern the target and not one unit.
pub trait Inventory {
    /// The LUNs that the nexus may use, as 8-byte LUN fields (SAM-5 4.7).
    fn luns(&self) -> Vec<u64>;
    /// The unit of the target, usable by the nexus, for which `matches` holds ([`LogicalUnit::has_designator`]).
    fn unit_by_designator(&self, matches: &dyn Fn(&LogicalUnit) -> bool) -> Option<Arc<LogicalUnit>>;
}

enum Stage {
    Start,
    Job(Box<dyn Job>),
    Over,
}

/// One command. By value in the engine's slab.
pub struct Task {
    at: Arc<Attached>,
    command: Command,
    prepared: Prepared,
    held: Option<Ticket>,
    stage: Stage,
    replied: bool,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Task(cdb {:02x?})", self.command.cdb)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(ticket) = self.held.take() {
            self.at.unit.ranges.release(ticket);
        }
    }
}

impl Task {
    /// A task for `command`, which came by `at`.
    pub fn new(at: &mut ItNexusLun, command: Command, inventory: &dyn Inventory) -> Task {
        let prepared = match command.cdb.first() {
            Some(0xa0) => Prepared::Luns(inventory.luns()),
            _ => Prepared::Nothing,
        };
        let at = Arc::clone(&at.attached);
        Task { at, command, prepared, held: None, stage: Stage::Start, replied: false }
    }

    /// Goes on with `input`. After [`Step::Done`] or [`Step::Finished`] the task is over.
    pub fn step(&mut self, cx: &StepContext<'_>, input: Input) -> Step {
        let at = Arc::clone(&self.at);
        let mut call = Call {
            at: &at,
            command: &mut self.command,
            prepared: &mut self.prepared,
            cx,
            held: &mut self.held,
        };
        let result = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Start => match begin(&mut call) {
                Ok(Begun::Wait) => {
                    self.stage = Stage::Start;
                    return Step::Wait;
                }
                Ok(Begun::Outcome(Outcome::Job(mut job))) => {
                    let step = job.step(&mut call, Input::Start);
                    self.stage = Stage::Job(job);
                    step
                }
                Ok(Begun::Outcome(outcome)) => Ok(Step::Done(finish(outcome, call.command.expected_in))),
                Err(refusal) => Err(refusal),
            },
            Stage::Job(mut job) => {
                let step = job.step(&mut call, input);
                self.stage = Stage::Job(job);
                step
            }
            Stage::Over => Ok(Step::Finished),
        };
        self.settle(result)
    }

    fn settle(&mut self, result: Result<Step, Refusal>) -> Step {
        let step = match result {
            Ok(step) => step,
            Err(_) if self.replied => Step::Finished,
            Err(refusal) => {
                let len = u64::from(self.command.expected_in.max(self.command.expected_out));
                Step::Done(refusal.reply(self.at.unit.descriptor_sense(), len))
            }
        };
        match step {
            Step::Reply(_) => self.replied = true,
            Step::Done(_) | Step::Finished => {
                self.stage = Stage::Over;
                if let Some(ticket) = self.held.take() {
                    self.at.unit.ranges.release(ticket);
                }
            }
            _ => {}
        }
        step
    }
}

enum Begun {
    Wait,
    Outcome(Outcome),
}

fn begin(call: &mut Call<'_>) -> Result<Begun, Refusal> {
    let entry = opcodes::find(&call.command.cdb);
    if !call.unit().gate().is_open() && !entry.is_some_and(|e| e.needs.passes_gate) {
        match call.unit().gate().state() {
            GateState::Open { .. } => {}
            GateState::Frozen { .. } => {
                if call.unit().wait_for_gate((call.cx.waker)()) {
                    return Ok(Begun::Wait);
                }
                return begin(call);
            }
            GateState::Fenced { .. } => {
                return Err(Sense::new(Key::NotReady, Asc::NOT_ACCESSIBLE_UNAVAILABLE).into());
            }
        }
    }
    admit(call, entry)?;
    let Some(entry) = entry else { return Err(unknown(&call.command.cdb)) };
    check_cdb(entry, &call.command.cdb)?;
    Ok(Begun::Outcome((entry.handler)(call)?))
}

/// Unit attentions, reservations, sanitize, ready, write protection.
fn admit(call: &mut Call<'_>, entry: Option<&Entry>) -> Result<(), Refusal> {
    let unit = call.unit();
    let needs = entry.map(|e| e.needs).unwrap_or_default();
    let mut state = unit.lock();
    if !needs.ignores_attention {
        let pending = state.nexuses.get_mut(&call.at.nexus.id).and_then(|n| n.attentions.take());
        if let Some(asc) = pending {
            return Err(Sense::new(Key::UnitAttention, asc).into());
        }
    }
    let Some(entry) = entry else { return Ok(()) };
    if unit.kind == LuKind::Controller && !entry.needs.any_kind {
        return Err(Sense::illegal(Asc::INVALID_OPERATION_CODE).into());
    }
    if needs.medium {
        state.ready()?;
    }
    Ok(())
}

/// The refusal for a CDB that no entry has.
fn unknown(cdb: &[u8]) -> Refusal {
    match cdb.first() {
        Some(&opcode) if opcodes::known_opcode(opcode) => Sense::field_bit(1, 4).into(),
        _ => Sense::illegal(Asc::INVALID_OPERATION_CODE).into(),
    }
}

/// Length, reserved bits and NACA (SPC-4 4.2.5, SAM-5 5.2). Bits of the control byte other than NACA are ignored.
fn check_cdb(entry: &Entry, cdb: &[u8]) -> Result<(), Sense> {
    let n = entry.usage.len();
    if cdb.len() < n {
        return Err(Sense::field(cdb.len()));
    }
    for at in 1..n - 1 {
        let extra = cdb[at] & !entry.usage[at];
        if extra != 0 {
            return Err(Sense::field_bit(at, extra.ilog2() as u8));
        }
    }
    if cdb[n - 1] & 0x04 != 0 {
        return Err(Sense::field_bit(n - 1, 2));
    }
    Ok(())
}

fn finish(outcome: Outcome, expected_in: u32) -> Reply {
    match outcome {
        Outcome::Data { mut bytes, allocation_len } => {
            bytes.truncate(allocation_len as usize);
            let transfer_len = bytes.len() as u64;
            bytes.truncate(expected_in as usize);
            Reply { status: Status::Good, sense: None, data_in: DataIn::Bytes(bytes), transfer_len }
        }
        Outcome::Done(reply) => reply,
        Outcome::Good | Outcome::Job(_) => {
            Reply { status: Status::Good, sense: None, data_in: DataIn::None, transfer_len: 0 }
        }
    }
}
