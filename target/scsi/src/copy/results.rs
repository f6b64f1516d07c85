//! What became of copies: RECEIVE COPY RESULTS (SPC-4 6.24 to 6.31, the LID1 formats).

use super::{
    CSCDS_MAX, DESCRIPTOR_BYTES_MAX, DESCRIPTOR_TYPES, GRANULARITY, HELD_MAX, RUNNING_MAX, SEGMENT_BYTES_MAX,
    SEGMENTS_MAX,
};
use crate::NexusId;
use crate::cdb::{Builder, be32, u8_at};
use crate::sense::{Asc, Refusal, Sense};
use crate::task::{Call, Outcome};

const OPERATION_IN_PROGRESS: Asc = Asc(0x0016);
const INSUFFICIENT_RESOURCES: Asc = Asc(0x5503);

/// Names a record for the job that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordId(u64);

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Running,
    Finished,
    /// With sense data in the fixed format.
    Failed(Vec<u8>),
}

#[derive(Debug)]
struct Record {
    id: RecordId,
    nexus: NexusId,
    list_id: Option<u8>,
    discards: bool,
    segments: u16,
    bytes: u64,
    end: End,
}

/// The copies of a unit that run, and the results of those that ended: until the same list identifier is used again, the
/// nexus is lost, the unit is reset, or too many others came after it.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    records: Vec<Record>,
    ids: u64,
}

impl Copies {
    /// A copy begins. A list identifier names one copy of its nexus at a time (SPC-4 5.16.7.2).
    pub(crate) fn begin(
        &mut self,
        nexus: NexusId,
        list_id: Option<u8>,
        discards: bool,
    ) -> Result<RecordId, Sense> {
        let same = |r: &Record| list_id.is_some() && r.nexus == nexus && r.list_id == list_id;
        if self.records.iter().any(|r| same(r) && r.end == End::Running) {
            return Err(Sense::illegal(OPERATION_IN_PROGRESS));
        }
        if self.records.iter().filter(|r| r.end == End::Running).count() >= RUNNING_MAX {
            return Err(Sense::illegal(INSUFFICIENT_RESOURCES));
        }
        self.records.retain(|r| !same(r));
        if self.records.len() >= HELD_MAX
            && let Some(oldest) = self.records.iter().position(|r| r.end != End::Running)
        {
            self.records.remove(oldest);
        }
        self.ids += 1;
        let id = RecordId(self.ids);
        self.records.push(Record { id, nexus, list_id, discards, segments: 0, bytes: 0, end: End::Running });
        Ok(id)
    }

    /// How far a copy is.
    pub(super) fn progress(&mut self, id: RecordId, segments: usize, bytes: u64) {
        if let Some(r) = self.records.iter_mut().find(|r| r.id == id) {
            r.segments = u16::try_from(segments).unwrap_or(u16::MAX);
            r.bytes = bytes;
        }
    }

    /// A copy ended, with this sense where it failed.
    pub(super) fn end(&mut self, id: RecordId, failed: Option<Sense>) {
        let end = failed.map_or(End::Finished, |s| End::Failed(s.to_bytes(false)));
        if let Some(r) = self.records.iter_mut().find(|r| r.id == id) {
            r.end = end;
        }
        self.records.retain(|r| r.id != id || r.list_id.is_some());
    }

    /// A copy was aborted: nothing is told of it.
    pub(super) fn forget(&mut self, id: RecordId) {
        self.records.retain(|r| r.id != id);
    }

    /// The nexus is lost.
    pub(crate) fn detach(&mut self, nexus: NexusId) {
        self.records.retain(|r| r.nexus != nexus || r.end == End::Running);
    }

    /// The unit was reset.
    pub(crate) fn reset(&mut self) {
        self.records.retain(|r| r.end == End::Running);
    }

    fn find(&self, nexus: NexusId, list_id: u8) -> Result<&Record, Sense> {
        self.records.iter().find(|r| r.nexus == nexus && r.list_id == Some(list_id)).ok_or(Sense::field(2))
    }
}

fn parameter_data(call: &Call<'_>, mut b: Builder) -> Outcome {
    b.patch_len32(0);
    Outcome::Data { bytes: b.0, allocation_len: be32(call.cdb(), 10) }
}

/// RECEIVE COPY STATUS(LID1) (SPC-4 6.30).
pub(super) fn status(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let state = call.unit().lock();
    let r = state.copies.find(call.at.nexus.id, u8_at(call.cdb(), 2))?;
    let code = match r.end {
        End::Running => 0x00,
        End::Finished => 0x01,
        End::Failed(_) => 0x02,
    };
    // The smallest unit in which the count fits: bytes, KiB, MiB ...
    let mut unit = 0;
    let mut count = r.bytes;
    while count > u64::from(u32::MAX) {
        unit += 1;
        count >>= 10;
    }
    let mut b = Builder::default();
    b.u32(0);
    b.u8(u8::from(r.discards) << 7 | code);
    b.u16(r.segments);
    b.u8(unit);
    b.u32(count as u32);
    drop(state);
    Ok(parameter_data(call, b))
}

/// RECEIVE COPY DATA(LID1) (SPC-4 6.25): no segment type that is supported holds data.
pub(super) fn data(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let running = {
        let state = call.unit().lock();
        state.copies.find(call.at.nexus.id, u8_at(call.cdb(), 2))?.end == End::Running
    };
    if running {
        return Err(Sense::field(2).into());
    }
    let mut b = Builder::default();
    b.u32(0);
    Ok(parameter_data(call, b))
}

/// RECEIVE COPY OPERATING PARAMETERS (SPC-4 6.28).
pub(super) fn operating_parameters(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let mut b = Builder::default();
    b.u32(0);
    b.u8(0x01); // SNLID: a list without an identifier is possible
    b.zeroes(3);
    b.u16(CSCDS_MAX as u16);
    b.u16(SEGMENTS_MAX as u16);
    b.u32(DESCRIPTOR_BYTES_MAX as u32);
    b.u32(SEGMENT_BYTES_MAX);
    b.u32(0); // MAXIMUM INLINE DATA LENGTH
    b.u32(0); // HELD DATA LIMIT
    b.u32(0); // MAXIMUM STREAM DEVICE TRANSFER SIZE
    b.u16(0);
    b.u16(RUNNING_MAX as u16); // TOTAL CONCURRENT COPIES
    b.u8(RUNNING_MAX as u8); // MAXIMUM CONCURRENT COPIES
    b.u8(GRANULARITY);
    b.u8(0); // INLINE DATA GRANULARITY
    b.u8(0); // HELD DATA GRANULARITY
    b.zeroes(3);
    b.u8(DESCRIPTOR_TYPES.len() as u8);
    b.bytes(&DESCRIPTOR_TYPES);
    Ok(parameter_data(call, b))
}

/// RECEIVE COPY FAILURE DETAILS(LID1) (SPC-4 6.26).
pub(super) fn failure_details(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let state = call.unit().lock();
    let mut b = Builder::default();
    b.u32(0);
    match &state.copies.find(call.at.nexus.id, u8_at(call.cdb(), 2))?.end {
        End::Running => return Err(Sense::field(2).into()),
        End::Finished => {}
        End::Failed(sense) => {
            b.zeroes(56 - 4);
            b.u8(crate::Status::CheckCondition as u8);
            b.u8(0);
            b.u16(sense.len() as u16);
            b.bytes(sense);
        }
    }
    drop(state);
    Ok(parameter_data(call, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_unique_while_they_run_and_records_are_bounded() {
        let mut c = Copies::default();
        let a = c.begin(NexusId(1), Some(7), false).unwrap();
        assert_eq!(c.begin(NexusId(1), Some(7), false).unwrap_err().asc, OPERATION_IN_PROGRESS);
        let b = c.begin(NexusId(2), Some(7), false).unwrap();
        c.end(a, None);
        let again = c.begin(NexusId(1), Some(7), false).unwrap();
        assert_eq!(c.records.len(), 2, "the old result made room");
        c.end(again, Some(Sense::illegal(Asc::NONE)));
        c.forget(b);
        for n in 0..300u64 {
            let id = c.begin(NexusId(100 + n), Some(1), false).unwrap();
            c.end(id, None);
        }
        assert_eq!(c.records.len(), HELD_MAX);
        let anonymous = c.begin(NexusId(1), None, true).unwrap();
        c.begin(NexusId(1), None, true).unwrap();
        c.end(anonymous, None);
        assert_eq!(c.records.iter().filter(|r| r.list_id.is_none()).count(), 1);
        for _ in 1..RUNNING_MAX {
            c.begin(NexusId(1), None, true).unwrap();
        }
        assert_eq!(c.begin(NexusId(1), None, true).unwrap_err().asc, INSUFFICIENT_RESOURCES);
        c.reset();
        assert_eq!(c.records.len(), RUNNING_MAX);
    }
}
