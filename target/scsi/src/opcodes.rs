//! The command table: which commands there are, what their CDBs may carry, and what each needs before it may run.
//! Dispatch, the checks before it, and REPORT SUPPORTED OPERATION CODES all read this table.

use std::sync::LazyLock;

use crate::LuKind;
use crate::cdb::u8_at;
use crate::task::Handler;

/// What a command does to the medium, as reservations see it (SPC-4 table 67, SBC-3 table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Allowed whatever is reserved.
    Always,
    /// Reads the medium or the unit's state: conflicts with Exclusive Access of others.
    Read,
    /// Changes the medium or the unit's state: conflicts with every reservation of others.
    Write,
    /// Decides for itself (persistent reservation commands, RESERVE, RELEASE).
    Own,
}

/// What a command needs of the unit, and what it ignores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Runs although a unit attention is pending, and leaves it (SAM-5 5.14.2).
    pub(crate) ignores_attention: bool,
    /// Needs the medium: online, loaded, started.
    pub(crate) medium: bool,
    /// Refused where the unit is write-protected.
    pub(crate) writable: bool,
    /// Runs while a sanitize operation is in progress (SBC-3 4.11.2).
    pub(crate) during_sanitize: bool,
    /// Passes a gate that is not open: tells of the unit and never touches the medium.
    pub(crate) passes_gate: bool,
    /// Exists on a unit without medium too (controller).
    pub(crate) any_kind: bool,
    /// Exists on thin-provisioned units alone.
    pub(crate) thin: bool,
}

/// Inquiry-like: always answered.
pub(crate) const INFORM: Needs = Needs {
    ignores_attention: true,
    medium: false,
    writable: false,
    during_sanitize: true,
    passes_gate: true,
    any_kind: true,
    thin: false,
};
/// Tells of, or changes, the unit and not the medium.
pub(crate) const UNIT: Needs = Needs {
    ignores_attention: false,
    medium: false,
    writable: false,
    during_sanitize: false,
    passes_gate: false,
    any_kind: true,
    thin: false,
};
/// As [`UNIT`], and allowed during a sanitize operation.
pub(crate) const UNIT_ANY_TIME: Needs = Needs { during_sanitize: true, passes_gate: true, ..UNIT };
/// Reads the medium.
pub(crate) const READS: Needs = Needs { medium: true, any_kind: false, ..UNIT };
/// Changes the medium.
pub(crate) const WRITES: Needs = Needs { writable: true, ..READS };

/// One command.
pub(crate) struct Entry {
    pub(crate) opcode: u8,
    /// SERVICE ACTION, where the operation code has them: in bits 4-0 of byte 1.
    pub(crate) service_action: Option<u16>,
    pub(crate) name: &'static str,
    /// CDB USAGE DATA (SPC-4 6.35.3): the operation code, then the bits that are evaluated. As long as the CDB.
    pub(crate) usage: &'static [u8],
    pub(crate) access: Access,
    pub(crate) needs: Needs,
    /// Nominal and recommended time, seconds (SPC-4 6.35.4); 0: not reported.
    pub(crate) seconds: u16,
    pub(crate) handler: Handler,
}

impl Entry {
    /// Whether a unit of this kind has the command.
    pub(crate) fn exists(&self, kind: LuKind, thin: bool) -> bool {
        (self.needs.any_kind || kind == LuKind::Disk) && (thin || !self.needs.thin)
    }

    /// Whether the command is an ordinary read (false) or write (true) of the medium: all of a class pass the same checks.
    pub(crate) fn class(&self) -> Option<bool> {
        match (self.access, self.needs.writable) {
            _ if !self.needs.medium || self.needs.ignores_attention => None,
            _ if self.needs.thin || self.needs.during_sanitize => None,
            (Access::Read, false) => Some(false),
            (Access::Write, true) => Some(true),
            _ => None,
        }
    }
}

/// The commands by operation code, those of one code in order of service action.
static INDEX: LazyLock<Vec<Vec<&'static Entry>>> = LazyLock::new(|| {
    let mut index: Vec<Vec<&Entry>> = (0..256).map(|_| Vec::new()).collect();
    for entry in crate::commands::TABLES.iter().flat_map(|t| t.iter()) {
        index[usize::from(entry.opcode)].push(entry);
    }
    for of_code in &mut index {
        of_code.sort_by_key(|e| e.service_action);
    }
    index
});

/// The commands, in order of operation code and service action.
pub(crate) fn table() -> impl Iterator<Item = &'static Entry> {
    INDEX.iter().flatten().copied()
}

/// The entry for a CDB.
pub(crate) fn find(cdb: &[u8]) -> Option<&'static Entry> {
    let of_code = &INDEX[usize::from(u8_at(cdb, 0))];
    match of_code.as_slice() {
        [only] if only.service_action.is_none() => Some(only),
        several => {
            let action = Some(u16::from(u8_at(cdb, 1) & 0x1f));
            several.iter().find(|e| e.service_action == action).copied()
        }
    }
}

/// Whether any entry has this operation code.
pub(crate) fn known_opcode(opcode: u8) -> bool {
    !INDEX[usize::from(opcode)].is_empty()
}

/// What the standards call the command of a CDB.
pub fn command_name(cdb: &[u8]) -> Option<&'static str> {
    find(cdb).map(|e| e.name)
}
