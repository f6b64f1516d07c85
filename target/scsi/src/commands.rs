//! The tables of all modules with commands.

use crate::opcodes::Entry;

/// All of them.
pub(crate) const TABLES: &[&[Entry]] = &[
    crate::primary::COMMANDS,
    crate::inquiry::COMMANDS,
    crate::capacity::COMMANDS,
    crate::rw::COMMANDS,
    crate::mode::COMMANDS,
    crate::reservation::COMMANDS,
    crate::alua::COMMANDS,
    crate::copy::COMMANDS,
    crate::atomic::COMMANDS,
    crate::verify::COMMANDS,
    crate::provisioning::COMMANDS,
    crate::cache::COMMANDS,
    crate::removable::COMMANDS,
    crate::report::COMMANDS,
    crate::diagnostics::COMMANDS,
    crate::sanitize::COMMANDS,
];
