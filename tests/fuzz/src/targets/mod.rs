//! The targets.

mod cdb;
mod chap;
mod config;
mod mgmt;
mod pdu;
mod session;
mod text;

use crate::Target;

/// Every target.
pub const TARGETS: &[Target] =
    &[pdu::TARGET, text::TARGET, chap::TARGET, cdb::TARGET, session::TARGET, config::TARGET, mgmt::TARGET];

/// Has a bug that only a fuzzer which sees comparisons and coverage finds soon: shows that the runner does.
pub const SELF_CHECK: Target = Target {
    name: "self-check",
    about: "a planted bug, which the runner must find",
    input_bytes_max: 64,
    run: |input| {
        let [a, b, c, d, rest @ ..] = input else { return };
        let planted =
            u32::from_be_bytes([*a, *b, *c, *d]) == 0x504c_4e54 && rest.first().is_some_and(|&b| b > 0xf0);
        assert!(!planted, "found the planted bug");
    },
};
