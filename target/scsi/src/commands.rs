//! The tables of all modules with commands.

use crate::opcodes::Entry;

/// All of them.
pub(crate) const TABLES: &[&[Entry]] = &[crate::primary::COMMANDS];
