//! The control state: targets, logical units, accounts, access rules, portals and system parameters, with tgt's
//! semantics, error numbers and texts.

pub mod acl;
pub mod backend;
pub mod error;
pub mod number;
pub mod params;
