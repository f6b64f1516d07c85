//! The one place where engines read the clock.

use base::Mono;

/// Now, by CLOCK_MONOTONIC.
pub fn now() -> Mono {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Mono::from_nanos((t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64))
}
