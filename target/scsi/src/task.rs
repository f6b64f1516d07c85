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

use block::{GateState, IoError};

use crate::forcing::Forcing;
use crate::nexus::{Attached, ItNexusLun};
use crate::opcodes::{self, Entry};
use crate::range_lock::{Range, Ticket};
use crate::rw::Transfer;
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::{Command, DataIn, Input, LogicalUnit, Reply, Status, Step, StepContext};

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
    /// What the command transfers in its direction, once known; for the residual of a command that fails.
    pub(crate) transfer_len: Option<u64>,
}

impl Call<'_> {
    pub(crate) fn unit(&self) -> &Arc<LogicalUnit> {
        &self.at.unit
    }

    pub(crate) fn cdb(&self) -> &[u8] {
        &self.command.cdb
    }

    /// A parameter list of `len` bytes, at most `max`, in one piece. An initiator that sends less than it declares is
    /// refused (SPC-4 4.3.1, FCP-4 9.4.2).
    pub(crate) fn parameter_list(&mut self, len: usize, max: usize) -> Result<Vec<u8>, Sense> {
        self.transfer_len = Some(len as u64);
        if len > max {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH));
        }
        let mut out = Vec::with_capacity(len);
        for b in &self.command.data_out {
            out.extend_from_slice(&b[..b.len().min(len - out.len())]);
        }
        if out.len() < len { Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH)) } else { Ok(out) }
    }

    /// Asks for bytes `range` of the unit; true when they are held already, otherwise return [`Step::Wait`].
    pub(crate) fn hold(&mut self, range: Range, exclusive: bool) -> bool {
        self.let_go();
        let (ticket, held) = self.at.unit.ranges.acquire(range, exclusive, self.cx.waker);
        *self.held = Some(ticket);
        held
    }

    /// Whether what was asked for with [`Call::hold`] is held by now.
    pub(crate) fn holds(&self) -> bool {
        self.held.is_some_and(|t| self.at.unit.ranges.granted(t))
    }

    /// GOOD with parameter data, cut to the allocation length (SPC-4 4.2.5.6) and to what the initiator takes.
    pub(crate) fn data(&self, mut bytes: Vec<u8>, allocation_len: u32) -> Reply {
        bytes.truncate(allocation_len as usize);
        let transfer_len = bytes.len() as u64;
        bytes.truncate(self.command.expected_in as usize);
        Reply { status: Status::Good, sense: None, data_in: DataIn::Bytes(bytes), transfer_len }
    }

    /// GOOD without data. What the command takes counts as transferred.
    pub(crate) fn good(&self) -> Reply {
        let transfer_len = self.transfer_len.unwrap_or(0);
        Reply { status: Status::Good, sense: None, data_in: DataIn::None, transfer_len }
    }

    /// Gives back what is held.
    pub(crate) fn let_go(&mut self) {
        if let Some(ticket) = self.held.take() {
            self.at.unit.ranges.release(ticket);
        }
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
    /// The parameter list of an EXTENDED COPY with its units, or why it is refused; none where it is empty.
    Copy(Box<Result<Option<crate::copy::List>, Sense>>),
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
    /// A READ or WRITE.
    Transfer(Transfer),
    /// Work that takes operations; stepped with [`Input::Start`] at once.
    Job(Box<dyn Job>),
}

/// Work in steps.
pub(crate) trait Job {
    /// The next step. An error ends the task with its status.
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal>;

    /// Whether the work goes on when its command is aborted.
    fn outlives_abort(&self) -> bool {
        false
    }
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
    Transfer(Transfer),
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
    /// What the operation that runs puts on the medium.
    forcing: Option<Forcing>,
    transfer_len: Option<u64>,
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
            Some(0x83) => crate::copy::prepare(&command, inventory),
            _ => Prepared::Nothing,
        };
        let at = Arc::clone(&at.attached);
        Task {
            at,
            command,
            prepared,
            held: None,
            stage: Stage::Start,
            replied: false,
            forcing: None,
            transfer_len: None,
        }
    }

    /// Goes on with `input`. After [`Step::Done`] or [`Step::Finished`] the task is over.
    pub fn step(&mut self, cx: &StepContext<'_>, input: Input) -> Step {
        let input = match self.forcing.take() {
            None => input,
            Some(forcing) => forcing.judge(&self.at, input),
        };
        let mut call = Call {
            at: &self.at,
            command: &mut self.command,
            prepared: &mut self.prepared,
            cx,
            held: &mut self.held,
            transfer_len: self.transfer_len,
        };
        let result = advance(&mut self.stage, &mut call, input);
        self.transfer_len = call.transfer_len;
        let step = self.settle(result);
        self.forcing = Forcing::of(&step);
        step
    }

    /// How the operation of a task ended that was aborted meanwhile and is not stepped any more: a flush that failed
    /// concerns the others all the same, who have to hear of it.
    pub fn ended_aborted(&mut self, result: Result<(), IoError>) {
        if let (Some(forcing), Err(_)) = (self.forcing.take(), &result) {
            forcing.failed_unheard(&self.at);
        }
    }

    /// Whether the task must be stepped on although its command was aborted, its session ended or its unit was reset
    /// (SBC-3 4.11: a sanitize operation goes on). Its reply then goes nowhere.
    pub fn outlives_abort(&self) -> bool {
        matches!(&self.stage, Stage::Job(job) if job.outlives_abort())
    }

    fn settle(&mut self, result: Result<Step, Refusal>) -> Step {
        let step = match result {
            Ok(step) => step,
            Err(_) if self.replied => Step::Finished,
            Err(refusal) => {
                let out = self.command.expected_out;
                let len = match self.transfer_len {
                    Some(len) if out > 0 => len,
                    _ => u64::from(out),
                };
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

/// One step of the stage, which may move on.
fn advance(stage: &mut Stage, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
    if matches!(stage, Stage::Start) {
        *stage = match begin(call)? {
            Begun::Wait => return Ok(Step::Wait),
            Begun::Outcome(Outcome::Transfer(transfer)) => Stage::Transfer(transfer),
            Begun::Outcome(Outcome::Job(job)) => Stage::Job(job),
            Begun::Outcome(outcome) => return Ok(Step::Done(finish(outcome, call))),
        };
        return continued(stage, call, Input::Start);
    }
    continued(stage, call, input)
}

fn continued(stage: &mut Stage, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
    match stage {
        Stage::Transfer(transfer) => transfer.step(call, input),
        Stage::Job(job) => job.step(call, input),
        Stage::Start | Stage::Over => Ok(Step::Finished),
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
    let Some(entry) = entry else { return Err(unknown(call.command.cdb.first().copied())) };
    check_cdb(entry, &call.command.cdb)?;
    Ok(Begun::Outcome((entry.handler)(call)?))
}

/// Unit attentions, reservations, sanitize, ready, write protection. A nexus that passed all of it at the unit's
/// present epoch passes with one load.
fn admit(call: &mut Call<'_>, entry: Option<&Entry>) -> Result<(), Refusal> {
    let unit = call.unit();
    let epoch = unit.epoch();
    let class = entry.and_then(Entry::class);
    if class.is_some_and(|write| call.at.is_clear(write, epoch)) {
        return Ok(());
    }
    let needs = entry.map(|e| e.needs).unwrap_or_default();
    let mut state = unit.lock();
    let conflicts = entry.is_some() && state.reservations.view(&call.at.nexus).conflicts(call.cdb());
    if !needs.ignores_attention
        && let Some(attentions) = state.nexuses.get_mut(&call.at.nexus.id).map(|n| &mut n.attentions)
    {
        // A reservation comes after resets and before every other condition (SAM-5 5.3.3).
        let pending = if conflicts { attentions.take_reset() } else { attentions.take() };
        if let Some(asc) = pending {
            return Err(Sense::new(Key::UnitAttention, asc).into());
        }
    }
    if conflicts {
        return Err(Refusal::Status(Status::ReservationConflict));
    }
    let Some(entry) = entry else { return Ok(()) };
    if !entry.exists(unit.kind, state.config.thin) {
        return Err(unknown(entry.service_action.map(|_| entry.opcode)));
    }
    let deferred = state
        .nexuses
        .get_mut(&call.at.nexus.id)
        .and_then(|n| n.deferred.take_if(|_| !needs.ignores_attention));
    if let Some(sense) = deferred {
        return Err(sense.into());
    }
    state.alua.state(call.at.nexus.target.portal_group).admit(call.cdb())?;
    if needs.medium {
        state.loaded()?;
    }
    if !needs.during_sanitize {
        state.activity.refusal()?;
    }
    if needs.writable {
        state.writable(unit.features.read_only)?;
    }
    if let Some(write) = class {
        call.at.set_clear(write, epoch);
    }
    Ok(())
}

/// The refusal of a command that there is not. `known` is its operation code where that has other service actions.
fn unknown(known: Option<u8>) -> Refusal {
    match known {
        Some(opcode) if opcodes::known_opcode(opcode) => Sense::field_bit(1, 4).into(),
        _ => Sense::illegal(Asc::INVALID_OPERATION_CODE).into(),
    }
}

/// Length, reserved bits and NACA (SPC-4 4.2.5, SAM-5 5.2). Bits of the control byte other than NACA are ignored.
fn check_cdb(entry: &Entry, cdb: &[u8]) -> Result<(), Sense> {
    let n = entry.usage.len();
    if cdb.len() < n {
        return Err(Sense::field(cdb.len()));
    }
    for (at, (byte, used)) in cdb.iter().zip(entry.usage).enumerate().take(n - 1).skip(1) {
        let extra = byte & !used;
        if extra != 0 {
            return Err(Sense::field_bit(at, extra.ilog2() as u8));
        }
    }
    if cdb[n - 1] & 0x04 != 0 {
        return Err(Sense::field_bit(n - 1, 2));
    }
    Ok(())
}

pub(crate) fn finish(outcome: Outcome, call: &Call<'_>) -> Reply {
    match outcome {
        Outcome::Data { bytes, allocation_len } => call.data(bytes, allocation_len),
        Outcome::Done(reply) => reply,
        Outcome::Good | Outcome::Transfer(_) | Outcome::Job(_) => call.good(),
    }
}
