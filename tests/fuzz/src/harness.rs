//! The program that libFuzzer drives. The runner builds it, with coverage flags, and says in `PLINTH_FUZZ_TARGET` which target
//! the inputs are for.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program with an environment and files"
)]
#![no_main]

use std::sync::OnceLock;

use fuzz::Target;

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("PLINTH_FUZZ_TARGET").unwrap_or_default();
    match fuzz::target(&name) {
        Some(target) => target,
        None => panic!("PLINTH_FUZZ_TARGET={name:?} is not a target"),
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (TARGET.get_or_init(chosen).run)(input);
});
