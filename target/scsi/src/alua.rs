//! Asymmetric logical unit access (SPC-4 5.15): target port groups, their states, and what each state lets pass.
//!
//! A target port group is a portal group: it has one target port, whose relative identifier is the portal group tag. The
//! high-availability layer moves states with [`LogicalUnit::set_access_state`] (implicit), an initiator with SET TARGET
//! PORT GROUPS where that is allowed (explicit).
//!
//! ```text
//!   active/optimized ◀──▶ active/non-optimized ◀──▶ standby ◀──▶ unavailable      every one to every other,
//!          └──────────────── transitioning ◀──────────────────────────┘           transitioning implicitly alone
//! ```

use std::collections::BTreeMap;

use crate::cdb::{Builder, be16, be32, flag, u8_at};
use crate::opcodes::{Access, Entry, UNIT_ANY_TIME};
use crate::sense::{Asc, Key, Refusal, Sense};
use crate::task::{Call, Outcome};
use crate::{LogicalUnit, NexusId};

/// Target port groups of one unit: portal groups beyond this number have no state of their own (active/optimized).
pub const PORT_GROUPS_MAX: usize = 1024;

/// ASYMMETRIC ACCESS STATE (SPC-4 table 248).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AccessState {
    /// All commands, at full speed.
    #[default]
    ActiveOptimized = 0x0,
    /// All commands, on a longer way.
    ActiveNonOptimized = 0x1,
    /// Commands that manage, none to the medium.
    Standby = 0x2,
    /// Commands that tell who is there.
    Unavailable = 0x3,
    /// On the way from one state to another.
    Transitioning = 0xf,
}

impl AccessState {
    fn from_code(code: u8) -> Option<AccessState> {
        use AccessState::*;
        [ActiveOptimized, ActiveNonOptimized, Standby, Unavailable, Transitioning]
            .into_iter()
            .find(|&s| s as u8 == code)
    }

    /// Every command passes.
    pub fn is_active(self) -> bool {
        matches!(self, AccessState::ActiveOptimized | AccessState::ActiveNonOptimized)
    }

    /// The refusal of a command in this state (SPC-4 5.15.2.4 to 5.15.2.7); NOT READY with the state as reason.
    pub(crate) fn admit(self, cdb: &[u8]) -> Result<(), Sense> {
        let asc = match self {
            AccessState::ActiveOptimized | AccessState::ActiveNonOptimized => return Ok(()),
            AccessState::Standby => Asc::NOT_ACCESSIBLE_STANDBY,
            AccessState::Unavailable => Asc::NOT_ACCESSIBLE_UNAVAILABLE,
            AccessState::Transitioning => Asc::NOT_ACCESSIBLE_TRANSITION,
        };
        let passes = match (u8_at(cdb, 0), u8_at(cdb, 1) & 0x1f) {
            // REQUEST SENSE, INQUIRY, REPORT LUNS, REPORT TARGET PORT GROUPS
            (0x03 | 0x12 | 0xa0, _) | (0xa3, 0x0a) => true,
            // SET TARGET PORT GROUPS
            (0xa4, 0x0a) => self != AccessState::Transitioning,
            // MODE SELECT, MODE SENSE, RECEIVE DIAGNOSTIC RESULTS, SEND DIAGNOSTIC, LOG SELECT, LOG SENSE,
            // PERSISTENT RESERVE IN, PERSISTENT RESERVE OUT
            (0x15 | 0x55 | 0x1a | 0x5a | 0x1c | 0x1d | 0x4c | 0x4d | 0x5e | 0x5f, _) => {
                self == AccessState::Standby
            }
            // REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS tell of the device server alone.
            (0xa3, 0x0c | 0x0d) => self == AccessState::Standby,
            _ => false,
        };
        if passes { Ok(()) } else { Err(Sense::new(Key::NotReady, asc)) }
    }
}

/// STATUS CODE (SPC-4 table 249).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Cause {
    #[default]
    None = 0,
    Explicit = 1,
    Implicit = 2,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Group {
    state: AccessState,
    preferred: bool,
    cause: Cause,
}

/// The target port groups of a unit.
#[derive(Debug)]
pub(crate) struct Alua {
    groups: BTreeMap<u16, Group>,
    implicit: bool,
    explicit: bool,
}

impl Default for Alua {
    fn default() -> Self {
        Alua { groups: BTreeMap::new(), implicit: true, explicit: true }
    }
}

impl Alua {
    /// A group through which the unit is reached.
    pub(crate) fn know(&mut self, group: u16) {
        if self.groups.len() < PORT_GROUPS_MAX {
            self.groups.entry(group).or_default();
        }
    }

    /// The state of a group.
    pub(crate) fn state(&self, group: u16) -> AccessState {
        self.groups.get(&group).map_or(AccessState::ActiveOptimized, |g| g.state)
    }

    /// TPGS of standard INQUIRY data (SPC-4 table 145), in bits 5 and 4 of byte 5.
    pub(crate) fn tpgs(&self) -> u8 {
        u8::from(self.explicit) << 5 | u8::from(self.implicit) << 4
    }

    fn set(&mut self, group: u16, state: AccessState, cause: Cause) -> bool {
        let Some(g) = self.groups.get_mut(&group) else { return false };
        let changes = g.state != state;
        g.state = state;
        if changes {
            g.cause = cause;
        }
        changes
    }

    /// The parameter data of REPORT TARGET PORT GROUPS (SPC-4 6.37).
    fn report(&self, extended: bool) -> Vec<u8> {
        // T_SUP, U_SUP, S_SUP, AN_SUP, AO_SUP.
        const SUPPORTED: u8 = 0x80 | 0x08 | 0x04 | 0x02 | 0x01;
        let mut b = Builder::default();
        b.u32(0);
        if extended {
            b.bytes(&[0x10, 0, 0, 0]);
        }
        for (&id, g) in &self.groups {
            b.u8(u8::from(g.preferred) << 7 | g.state as u8);
            b.u8(SUPPORTED);
            b.u16(id);
            b.u8(0);
            b.u8(g.cause as u8);
            b.u8(0);
            b.u8(1);
            b.u16(0);
            b.u16(id);
        }
        b.patch_len32(0);
        b.0
    }

    /// Carries a SET TARGET PORT GROUPS parameter list out, wholly or not at all (SPC-4 6.45); says whether a state
    /// changed.
    fn set_explicitly(&mut self, list: &[u8]) -> Result<bool, Sense> {
        let descriptors = list.get(4..).unwrap_or_default();
        if !descriptors.len().is_multiple_of(4) || list.len() < 4 {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH));
        }
        let mut wanted = Vec::with_capacity(descriptors.len() / 4);
        for (i, d) in descriptors.chunks_exact(4).enumerate() {
            let at = 4 + 4 * i;
            let state = AccessState::from_code(d[0] & 0x0f)
                .filter(|&s| s != AccessState::Transitioning)
                .ok_or(Sense::parameter_bit(at, 3))?;
            let group = be16(d, 2);
            if !self.groups.contains_key(&group) || wanted.iter().any(|&(g, _)| g == group) {
                return Err(Sense::parameter(at + 2));
            }
            wanted.push((group, state));
        }
        let mut changed = false;
        for (group, state) in wanted {
            changed |= self.set(group, state, Cause::Explicit);
        }
        Ok(changed)
    }
}

impl LogicalUnit {
    /// The portal groups through which the unit is reached: its target ports, and its target port groups. Those that are
    /// new are active/optimized; those that are gone are forgotten.
    pub fn set_port_groups(&self, groups: &[u16]) {
        let mut state = self.lock();
        state.reservations.set_ports(groups.to_vec());
        state.alua.groups.retain(|g, _| groups.contains(g));
        for &g in groups {
            state.alua.know(g);
        }
        drop(state);
        self.moved();
    }

    /// Gives a target port group a state. Every nexus is told by a unit attention where it changed.
    pub fn set_access_state(&self, group: u16, to: AccessState, preferred: bool) {
        let mut state = self.lock();
        state.alua.know(group);
        let changed = state.alua.set(group, to, Cause::Implicit);
        if let Some(g) = state.alua.groups.get_mut(&group) {
            g.preferred = preferred;
        }
        if changed {
            state.raise(Asc::ALUA_STATE_CHANGED, None);
        }
        drop(state);
        if changed {
            self.moved();
        }
    }

    /// The state of a target port group.
    pub fn access_state(&self, group: u16) -> AccessState {
        self.lock().alua.state(group)
    }

    /// Whether the unit says that its states change by themselves, and whether initiators may change them.
    pub fn set_access_modes(&self, implicit: bool, explicit: bool) {
        let mut state = self.lock();
        state.alua.implicit = implicit;
        state.alua.explicit = explicit;
        state.raise(Asc::INQUIRY_DATA_CHANGED, None);
        drop(state);
        self.moved();
    }

    fn set_groups_for(&self, by: NexusId, list: &[u8]) -> Result<(), Sense> {
        let mut state = self.lock();
        if !state.alua.explicit {
            return Err(Sense::field_bit(1, 4));
        }
        let changed = state.alua.set_explicitly(list)?;
        if changed {
            state.raise(Asc::ALUA_STATE_CHANGED, Some(by));
        }
        drop(state);
        if changed {
            self.moved();
        }
        Ok(())
    }
}

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        opcode: 0xa3,
        service_action: Some(0x0a),
        name: "REPORT TARGET PORT GROUPS",
        usage: &[0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04],
        access: Access::Always,
        needs: UNIT_ANY_TIME,
        seconds: 10,
        handler: report,
    },
    Entry {
        opcode: 0xa4,
        service_action: Some(0x0a),
        name: "SET TARGET PORT GROUPS",
        usage: &[0xa4, 0x0a, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04],
        access: Access::Write,
        needs: UNIT_ANY_TIME,
        seconds: 10,
        handler: set,
    },
];

fn report(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    // PARAMETER DATA FORMAT: length only, or extended header.
    if u8_at(cdb, 1) >> 5 > 1 {
        return Err(Sense::field_bit(1, 7).into());
    }
    let extended = flag(cdb, 1, 5);
    let allocation_len = be32(cdb, 6);
    let bytes = call.unit().lock().alua.report(extended);
    Ok(Outcome::Data { bytes, allocation_len })
}

fn set(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let len = be32(call.cdb(), 6) as usize;
    let list = call.parameter_list(len, 4 + 4 * PORT_GROUPS_MAX)?;
    if list.is_empty() {
        return Ok(Outcome::Good);
    }
    call.unit().set_groups_for(call.at.nexus.id, &list)?;
    Ok(Outcome::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Alua {
        let mut a = Alua::default();
        a.know(1);
        a.know(2);
        a
    }

    #[test]
    fn both_report_formats() {
        let mut a = two();
        assert!(a.set(2, AccessState::Standby, Cause::Implicit));
        assert!(!a.set(2, AccessState::Standby, Cause::Explicit), "no change");
        let group = |id: u8, state, cause| [state, 0x8f, 0, id, 0, cause, 0, 1, 0, 0, 0, id];
        let (one, other) = (group(1, 0, 0), group(2, 2, 2));
        assert_eq!(a.report(false), [&[0, 0, 0, 24][..], &one, &other].concat());
        assert_eq!(a.report(true), [&[0, 0, 0, 28, 0x10, 0, 0, 0][..], &one, &other].concat());
    }

    #[test]
    fn explicit_changes_are_checked_first() {
        let mut a = two();
        let list = |d: &[[u8; 4]]| [&[0; 4][..], &d.concat()].concat();
        assert_eq!(a.set_explicitly(&list(&[[1, 0, 0, 1], [2, 0, 0, 3]])), Err(Sense::parameter(10)));
        assert_eq!(a.set_explicitly(&list(&[[1, 0, 0, 1], [0xf, 0, 0, 2]])), Err(Sense::parameter_bit(8, 3)));
        assert_eq!(a.set_explicitly(&list(&[[4, 0, 0, 1]])), Err(Sense::parameter_bit(4, 3)));
        assert_eq!(
            a.set_explicitly(&list(&[[1, 0, 0, 1], [0, 0, 0, 1]])),
            Err(Sense::parameter(10)),
            "twice"
        );
        for n in [1, 3, 5, 7] {
            let e = a.set_explicitly(&list(&[[1, 0, 0, 1]])[..n]).unwrap_err();
            assert_eq!(e.asc, Asc::PARAMETER_LIST_LENGTH);
        }
        assert_eq!(a.state(1), AccessState::ActiveOptimized, "nothing was changed");
        assert_eq!(a.set_explicitly(&list(&[[1, 0, 0, 1], [3, 0, 0, 2]])), Ok(true));
        assert_eq!((a.state(1), a.state(2)), (AccessState::ActiveNonOptimized, AccessState::Unavailable));
        assert_eq!(a.set_explicitly(&list(&[[1, 0, 0, 1]])), Ok(false));
    }

    #[test]
    fn states_let_through_what_they_should() {
        use AccessState::*;
        let states = [ActiveOptimized, ActiveNonOptimized, Standby, Unavailable, Transitioning];
        let row = |cdb: &[u8]| states.map(|s| s.admit(cdb).is_ok());
        assert_eq!(row(&[0x12, 0]), [true; 5], "INQUIRY");
        assert_eq!(row(&[0xa3, 0x0a]), [true; 5], "REPORT TARGET PORT GROUPS");
        assert_eq!(row(&[0xa3, 0x2a]), [true; 5], "and with the extended header");
        assert_eq!(row(&[0xa4, 0x0a]), [true, true, true, true, false], "SET TARGET PORT GROUPS");
        assert_eq!(row(&[0x5f, 0]), [true, true, true, false, false], "PERSISTENT RESERVE OUT");
        for cdb in [[0x00, 0], [0x28, 0], [0x2a, 0], [0x25, 0], [0x9e, 0x10], [0x16, 0]] {
            assert_eq!(row(&cdb), [true, true, false, false, false], "{cdb:02x?}");
        }
        let why = states.map(|s| s.admit(&[0x00]).err().map(|e| (e.key, e.asc.0)));
        let not_ready = |asc| Some((Key::NotReady, asc));
        assert_eq!(why, [None, None, not_ready(0x040b), not_ready(0x040c), not_ready(0x040a)]);
    }
}
