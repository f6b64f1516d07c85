//! What everyone stands on: time and randomness as arguments, identifiers, limits, the configuration root, and
//! the latency histogram. Nothing here reads a clock, a file or the environment.

pub mod histogram;
pub mod limits;
pub mod random;
pub mod root;
pub mod time;

pub use histogram::Histogram;
pub use random::Entropy;
pub use root::Root;
pub use time::Mono;
