//! The reservation commands as tasks, and the unit's durable state.

use block::IoError;
use serde::{Deserialize, Serialize};

use super::{Effect, Image, Refusal as Refused, TransportId};
use crate::cdb::{be16, be32};
use crate::opcodes::{Access, Entry, Needs, UNIT};
use crate::sanitize::Interrupted;
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::task::{Call, Job, Outcome, finish};
use crate::unit::State;
use crate::{ConfigError, Input, LogicalUnit, Step, Victims};

/// Disks alone can be reserved.
const NEEDS: Needs = Needs { any_kind: false, ..UNIT };
/// Bytes of a PERSISTENT RESERVE OUT parameter list: as many TransportIDs as there can be registrations.
const PARAMETERS_MAX: usize = 28 + base::limits::REGISTRATIONS_MAX * TransportId::BYTES_MAX;

const fn entry(
    opcode: u8,
    service_action: Option<u16>,
    name: &'static str,
    usage: &'static [u8],
    handler: crate::task::Handler,
) -> Entry {
    Entry { opcode, service_action, name, usage, access: Access::Own, needs: NEEDS, seconds: 10, handler }
}

/// Entries of PERSISTENT RESERVE IN or OUT; in CDB USAGE DATA the service action stands as it is.
macro_rules! persistent {
    (in $action:literal, $name:literal) => {
        entry(
            0x5e,
            Some($action),
            concat!("PERSISTENT RESERVE IN, ", $name),
            &[0x5e, $action, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04],
            persistent_in,
        )
    };
    (out $action:literal, $name:literal) => {
        entry(
            0x5f,
            Some($action),
            concat!("PERSISTENT RESERVE OUT, ", $name),
            &[0x5f, $action, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x04],
            persistent_out,
        )
    };
}

/// What an extent reservation would use is ignored where EXTENT is 0 (SPC-2 7.21).
const SHORT: [u8; 4] = [0, 0xff, 0xff, 0xff];

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    entry(0x16, None, "RESERVE(6)", &[0x16, SHORT[0], SHORT[1], SHORT[2], SHORT[3], 0x04], reserve),
    entry(0x17, None, "RELEASE(6)", &[0x17, SHORT[0], SHORT[1], SHORT[2], SHORT[3], 0x04], release),
    entry(0x56, None, "RESERVE(10)", &[0x56, 0, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x04], reserve),
    entry(0x57, None, "RELEASE(10)", &[0x57, 0, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x04], release),
    persistent!(in 0x00, "READ KEYS"),
    persistent!(in 0x01, "READ RESERVATION"),
    persistent!(in 0x02, "REPORT CAPABILITIES"),
    persistent!(in 0x03, "READ FULL STATUS"),
    persistent!(out 0x00, "REGISTER"),
    persistent!(out 0x01, "RESERVE"),
    persistent!(out 0x02, "RELEASE"),
    persistent!(out 0x03, "CLEAR"),
    persistent!(out 0x04, "PREEMPT"),
    persistent!(out 0x05, "PREEMPT AND ABORT"),
    persistent!(out 0x06, "REGISTER AND IGNORE EXISTING KEY"),
    persistent!(out 0x07, "REGISTER AND MOVE"),
];

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let sense = match refused {
            Refused::Conflict => return Refusal::Status(crate::Status::ReservationConflict),
            Refused::InvalidFieldInCdb(byte, None) => Sense::field(usize::from(byte)),
            Refused::InvalidFieldInCdb(byte, Some(bit)) => Sense::field_bit(usize::from(byte), bit),
            Refused::InvalidFieldInParameters(byte, None) => Sense::parameter(usize::from(byte)),
            Refused::InvalidFieldInParameters(byte, Some(bit)) => {
                Sense::parameter_bit(usize::from(byte), bit)
            }
            Refused::ParameterListLength => Sense::illegal(Asc::PARAMETER_LIST_LENGTH),
            // INVALID RELEASE OF PERSISTENT RESERVATION
            Refused::InvalidRelease => Sense::illegal(Asc(0x2604)),
            Refused::NoRegistrationResources => Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES),
        };
        sense.into()
    }
}

/// Changes the reservations, and moves the unit's epoch where that changes what anybody may do or is told.
fn change<T>(call: &Call<'_>, f: impl FnOnce(&mut State) -> Result<T, Refused>) -> Result<T, Refusal> {
    let mut state = call.unit().lock();
    let before = state.reservations.epoch();
    let result = f(&mut state);
    let moved = state.reservations.epoch() != before;
    drop(state);
    if moved {
        call.unit().moved();
    }
    Ok(result?)
}

fn reserve(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    change(call, |state| state.reservations.reserve(&call.at.nexus, call.cdb()))?;
    Ok(Outcome::Good)
}

fn release(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    change(call, |state| state.reservations.release(&call.at.nexus, call.cdb()))?;
    Ok(Outcome::Good)
}

fn persistent_in(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let state = call.unit().lock();
    let bytes = state.reservations.persistent_in(&call.at.nexus, call.cdb())?;
    let unwritten = state.reservations.unwritten();
    drop(state);
    let allocation_len = u32::from(be16(call.cdb(), 7));
    match unwritten {
        None => Ok(Outcome::Data { bytes, allocation_len }),
        Some(ticket) => Ok(Outcome::Job(Box::new(Tell { bytes, allocation_len, ticket }))),
    }
}

/// A report of a state that is on its way to the medium: it is told once a crash cannot take it back any more.
#[derive(Debug)]
struct Tell {
    bytes: Vec<u8>,
    allocation_len: u32,
    ticket: u64,
}

impl Job for Tell {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        let Input::Persisted(result) = input else { return Ok(Step::Persist) };
        written(call, self.ticket, result)?;
        let outcome =
            Outcome::Data { bytes: std::mem::take(&mut self.bytes), allocation_len: self.allocation_len };
        Ok(Step::Done(finish(outcome, call)))
    }
}

/// A write of the state ended.
fn written(call: &Call<'_>, ticket: u64, result: Result<(), IoError>) -> Result<(), Refusal> {
    if let Err(error) = result {
        tracing::error!(%error, "persistent reservations could not be made durable");
        return Err(Sense::new(Key::HardwareError, Asc::INTERNAL_TARGET_FAILURE).into());
    }
    call.unit().lock().reservations.persisted(ticket);
    Ok(())
}

fn persistent_out(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let len = be32(call.cdb(), 5) as usize;
    let data = call.parameter_list(len, PARAMETERS_MAX)?;
    let effect = change(call, |state| {
        let effect = state.reservations.persistent_out(&call.at.nexus, call.cdb(), &data)?;
        for &(nexus, what) in &effect.attentions {
            let (asc, ascq) = what.code();
            state.raise_for(nexus, Asc(u16::from_be_bytes([asc, ascq])));
        }
        Ok(effect)
    })?;
    if effect.abort.is_empty() && effect.persist.is_none() {
        return Ok(Outcome::Good);
    }
    Ok(Outcome::Job(Box::new(Settle(effect))))
}

/// What must have happened before GOOD: first the change is durable, then the preempted nexuses' tasks are gone. The
/// change was made already: it becomes durable also where the command is aborted.
#[derive(Debug)]
struct Settle(Effect);

impl Job for Settle {
    fn step(&mut self, call: &mut Call<'_>, input: Input) -> Result<Step, Refusal> {
        if let Input::Persisted(result) = input
            && let Some(ticket) = self.0.persist.take()
        {
            written(call, ticket, result)?;
        }
        if self.0.persist.is_some() {
            return Ok(Step::Persist);
        }
        if !self.0.abort.is_empty() {
            return Ok(Step::Abort(Victims::Nexuses(std::mem::take(&mut self.0.abort))));
        }
        Ok(Step::Done(call.good()))
    }

    fn outlives_abort(&self) -> bool {
        true
    }
}

/// What a unit keeps over a restart of the daemon.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Durable {
    persistent_reservations: Option<Image>,
    /// A sanitize or format operation that has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interrupted: Option<Interrupted>,
}

impl LogicalUnit {
    /// What must be on the medium before [`crate::Input::Persisted`]: persistent reservations, where APTPL is set. Whoever
    /// writes it writes the states in the order in which they were taken.
    pub fn durable_state(&self) -> Vec<u8> {
        let state = self.lock();
        let (image, interrupted) = (state.reservations.image(), state.activity.interrupted());
        drop(state);
        // Texts, numbers and lists: there is nothing in it that serde_json refuses.
        serde_json::to_vec(&Durable { persistent_reservations: image, interrupted }).unwrap_or_default()
    }

    /// Takes over what [`LogicalUnit::durable_state`] gave, before the first command.
    pub fn restore(&self, bytes: &[u8]) -> Result<(), ConfigError> {
        let durable: Durable = serde_json::from_slice(bytes)
            .map_err(|e| ConfigError::State(format!("not a unit's state: {e}")))?;
        if let Some(interrupted) = durable.interrupted {
            self.lock().activity = interrupted.into();
            self.moved();
        }
        if let Some(image) = durable.persistent_reservations {
            self.lock().reservations.restore(&image).map_err(|e| ConfigError::State(e.to_string()))?;
            self.moved();
        }
        Ok(())
    }
}
