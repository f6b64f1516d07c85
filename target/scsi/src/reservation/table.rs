//! Which commands a reservation excludes: SPC-4 table 66, SBC-3 table 13, and for SCSI-2 reservations SPC-2 table 10.
//!
//! A nexus sees one of three columns: another nexus has a SCSI-2 reservation; a write exclusive or an exclusive access
//! reservation excludes it. Those who are registered under a registrants only or all registrants type see no column at all.
//! What is not in the table conflicts.

use super::View;

/// What of a CDB a rule applies to, beyond its operation code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Every CDB of the operation code.
    Any,
    /// The service action in byte 1.
    Action(u8),
    /// The service action of a variable-length CDB (bytes 8 and 9).
    Variable(u16),
    /// CDBs where this byte, masked, is zero.
    Zero {
        /// Which byte.
        byte: usize,
        /// Which bits.
        mask: u8,
    },
    /// START STOP UNIT that only starts: START 1, LOEJ 0, POWER CONDITION 0.
    Starts,
}

impl Selector {
    fn matches(self, cdb: &[u8]) -> bool {
        let byte = |i: usize| cdb.get(i).copied();
        match self {
            Selector::Any => true,
            Selector::Action(a) => byte(1).is_some_and(|b| b & 0x1f == a),
            Selector::Variable(a) => {
                byte(8).zip(byte(9)).is_some_and(|(h, l)| u16::from_be_bytes([h, l]) == a)
            }
            Selector::Zero { byte: i, mask } => byte(i).is_some_and(|b| b & mask == 0),
            Selector::Starts => byte(4).is_some_and(|b| b & 0xf3 == 0x01),
        }
    }
}

/// A row: which columns let the command pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Operation code.
    pub opcode: u8,
    /// Which CDBs of it.
    pub selector: Selector,
    /// Passes a SCSI-2 reservation.
    pub legacy: bool,
    /// Passes write exclusive.
    pub write_exclusive: bool,
    /// Passes exclusive access.
    pub exclusive_access: bool,
}

const fn rule(opcode: u8, selector: Selector, columns: [bool; 3]) -> Rule {
    Rule { opcode, selector, legacy: columns[0], write_exclusive: columns[1], exclusive_access: columns[2] }
}

use Selector::{Action, Any, Starts, Variable, Zero};

/// Passes everything.
const ALWAYS: [bool; 3] = [true, true, true];
/// Passes persistent reservations, not SCSI-2 ones.
const PERSISTENT: [bool; 3] = [false, true, true];
/// Passes write exclusive alone.
const READS: [bool; 3] = [false, true, false];
/// Passes nothing.
const NEVER: [bool; 3] = [false, false, false];

/// The table, by operation code; the first row that matches counts.
pub const RULES: &[Rule] = &[
    rule(0x00, Any, PERSISTENT),                      // TEST UNIT READY
    rule(0x03, Any, ALWAYS),                          // REQUEST SENSE
    rule(0x04, Any, NEVER),                           // FORMAT UNIT
    rule(0x07, Any, NEVER),                           // REASSIGN BLOCKS
    rule(0x08, Any, READS),                           // READ(6)
    rule(0x0a, Any, NEVER),                           // WRITE(6)
    rule(0x12, Any, ALWAYS),                          // INQUIRY
    rule(0x15, Any, NEVER),                           // MODE SELECT(6)
    rule(0x16, Any, ALWAYS),                          // RESERVE(6): judged by the machine
    rule(0x17, Any, ALWAYS),                          // RELEASE(6): judged by the machine
    rule(0x1a, Any, READS),                           // MODE SENSE(6)
    rule(0x1b, Starts, ALWAYS),                       // START STOP UNIT, start
    rule(0x1b, Any, NEVER),                           // START STOP UNIT, anything else
    rule(0x1c, Any, READS),                           // RECEIVE DIAGNOSTIC RESULTS
    rule(0x1d, Any, NEVER),                           // SEND DIAGNOSTIC
    rule(0x1e, Zero { byte: 4, mask: 0x03 }, ALWAYS), // PREVENT ALLOW MEDIUM REMOVAL, allow
    rule(0x1e, Any, NEVER),                           // PREVENT ALLOW MEDIUM REMOVAL, prevent
    rule(0x25, Any, ALWAYS),                          // READ CAPACITY(10)
    rule(0x28, Any, READS),                           // READ(10)
    rule(0x2a, Any, NEVER),                           // WRITE(10)
    rule(0x2e, Any, NEVER),                           // WRITE AND VERIFY(10)
    rule(0x2f, Any, READS),                           // VERIFY(10)
    rule(0x34, Any, READS),                           // PRE-FETCH(10)
    rule(0x35, Any, NEVER),                           // SYNCHRONIZE CACHE(10)
    rule(0x37, Any, READS),                           // READ DEFECT DATA(10)
    rule(0x3b, Any, NEVER),                           // WRITE BUFFER
    rule(0x3c, Any, READS),                           // READ BUFFER(10)
    rule(0x3e, Any, NEVER),                           // READ LONG(10)
    rule(0x3f, Any, NEVER),                           // WRITE LONG(10)
    rule(0x41, Any, NEVER),                           // WRITE SAME(10)
    rule(0x42, Any, NEVER),                           // UNMAP
    rule(0x48, Any, NEVER),                           // SANITIZE
    rule(0x4c, Any, NEVER),                           // LOG SELECT
    rule(0x4d, Any, ALWAYS),                          // LOG SENSE
    rule(0x55, Any, NEVER),                           // MODE SELECT(10)
    rule(0x56, Any, ALWAYS),                          // RESERVE(10): judged by the machine
    rule(0x57, Any, ALWAYS),                          // RELEASE(10): judged by the machine
    rule(0x5a, Any, READS),                           // MODE SENSE(10)
    rule(0x5e, Any, ALWAYS),                          // PERSISTENT RESERVE IN: judged by the machine
    rule(0x5f, Any, ALWAYS),                          // PERSISTENT RESERVE OUT: judged by the machine
    rule(0x7f, Variable(0x0009), READS),              // READ(32)
    rule(0x7f, Variable(0x000a), READS),              // VERIFY(32)
    rule(0x7f, Any, NEVER),                           // WRITE(32), WRITE SAME(32), ORWRITE(32) ...
    rule(0x83, Any, NEVER),                           // EXTENDED COPY, all service actions
    rule(0x84, Any, NEVER),                           // RECEIVE COPY RESULTS, all service actions
    rule(0x88, Any, READS),                           // READ(16)
    rule(0x89, Any, NEVER),                           // COMPARE AND WRITE
    rule(0x8a, Any, NEVER),                           // WRITE(16)
    rule(0x8b, Any, NEVER),                           // ORWRITE(16)
    rule(0x8e, Any, NEVER),                           // WRITE AND VERIFY(16)
    rule(0x8f, Any, READS),                           // VERIFY(16)
    rule(0x90, Any, READS),                           // PRE-FETCH(16)
    rule(0x91, Any, NEVER),                           // SYNCHRONIZE CACHE(16)
    rule(0x93, Any, NEVER),                           // WRITE SAME(16)
    rule(0x9c, Any, NEVER),                           // WRITE ATOMIC(16)
    rule(0x9e, Action(0x10), ALWAYS),                 // READ CAPACITY(16)
    rule(0x9e, Action(0x12), READS),                  // GET LBA STATUS
    rule(0x9e, Action(0x13), PERSISTENT),             // REPORT REFERRALS
    rule(0x9e, Any, NEVER),
    rule(0xa0, Any, ALWAYS),              // REPORT LUNS
    rule(0xa3, Action(0x05), PERSISTENT), // REPORT IDENTIFYING INFORMATION
    rule(0xa3, Action(0x0a), PERSISTENT), // REPORT TARGET PORT GROUPS
    rule(0xa3, Action(0x0b), PERSISTENT), // REPORT ALIASES
    rule(0xa3, Action(0x0c), READS),      // REPORT SUPPORTED OPERATION CODES
    rule(0xa3, Action(0x0d), READS),      // REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
    rule(0xa3, Action(0x0e), PERSISTENT), // REPORT PRIORITY
    rule(0xa3, Action(0x0f), PERSISTENT), // REPORT TIMESTAMP
    rule(0xa3, Any, NEVER),
    rule(0xa4, Any, NEVER), // SET TARGET PORT GROUPS and other MAINTENANCE OUT
    rule(0xa8, Any, READS), // READ(12)
    rule(0xaa, Any, NEVER), // WRITE(12)
    rule(0xab, Action(0x01), PERSISTENT), // READ MEDIA SERIAL NUMBER
    rule(0xae, Any, NEVER), // WRITE AND VERIFY(12)
    rule(0xaf, Any, READS), // VERIFY(12)
    rule(0xb7, Any, READS), // READ DEFECT DATA(12)
];

/// Whether a nexus with this view gets RESERVATION CONFLICT for the command.
pub fn conflicts(view: View, cdb: &[u8]) -> bool {
    let Some(&opcode) = cdb.first() else { return view != View::Free };
    let row = RULES.iter().find(|r| r.opcode == opcode && r.selector.matches(cdb));
    match view {
        View::Free => false,
        View::Legacy => !row.is_some_and(|r| r.legacy),
        View::WriteExclusive => !row.is_some_and(|r| r.write_exclusive),
        View::ExclusiveAccess => !row.is_some_and(|r| r.exclusive_access),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints the table as columns and checks the whole of it against the standards' rows.
    #[test]
    fn the_table_is_sorted_and_complete_where_it_branches() {
        for pair in RULES.windows(2) {
            assert!(
                pair[0].opcode <= pair[1].opcode,
                "{:#04x} after {:#04x}",
                pair[1].opcode,
                pair[0].opcode
            );
            assert!(
                pair[0].opcode != pair[1].opcode || pair[0].selector != Any,
                "a row after Any of {:#04x} is never reached",
                pair[0].opcode
            );
        }
        for r in RULES {
            // Who may not even write may not do more under exclusive access, and SCSI-2 reservations exclude the most.
            assert!(!r.exclusive_access || r.write_exclusive, "{:#04x}", r.opcode);
            assert!(!r.legacy || r.exclusive_access, "{:#04x}", r.opcode);
        }
    }

    #[test]
    fn columns_differ_as_the_standards_say() {
        let views = [View::Legacy, View::WriteExclusive, View::ExclusiveAccess];
        let row = |cdb: &[u8]| views.map(|v| conflicts(v, cdb));
        assert_eq!(row(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), [true, false, true], "READ(10)");
        assert_eq!(row(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]), [true, true, true], "WRITE(10)");
        assert_eq!(row(&[0; 6]), [true, false, false], "TEST UNIT READY");
        assert_eq!(row(&[0x12, 0, 0, 0, 36, 0]), [false; 3], "INQUIRY");
        assert_eq!(row(&[0x1a, 0, 0x3f, 0, 255, 0]), [true, false, true], "MODE SENSE(6)");
        assert_eq!(row(&[0x1b, 0, 0, 0, 1, 0]), [false; 3], "start");
        for cdb4 in [0, 2, 3, 0x11, 0x10] {
            assert_eq!(row(&[0x1b, 0, 0, 0, cdb4, 0]), [true; 3], "START STOP UNIT {cdb4:#x}");
        }
        assert_eq!(row(&[0x1e, 0, 0, 0, 0, 0]), [false; 3], "allow");
        assert_eq!(row(&[0x1e, 0, 0, 0, 1, 0]), [true; 3], "prevent");
        assert_eq!(row(&[0x9e, 0x12]), [true, false, true], "GET LBA STATUS");
        assert_eq!(row(&[0x9e, 0x1f]), [true; 3], "unknown service action");
        assert_eq!(row(&[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 9]), [true, false, true], "READ(32)");
        assert_eq!(row(&[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0xb]), [true; 3], "WRITE(32)");
        assert_eq!(row(&[0x7f]), [true; 3], "a cut CDB");
        assert_eq!(row(&[0xff]), [true; 3], "unknown operation code");
        assert_eq!(row(&[]), [true; 3], "no CDB");
        assert!(RULES.iter().all(|r| !conflicts(View::Free, &[r.opcode])));
    }
}
