//! What happened, as a hash; and in words, where somebody wants to read it.

use base::Mono;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    verbose: bool,
}

impl Trace {
    /// An empty trace; a verbose one prints each event.
    pub fn new(verbose: bool) -> Self {
        Trace { verbose, ..Trace::default() }
    }

    /// Takes an event in. `what` names it; the numbers tell it from others of its name.
    pub fn note(&mut self, now: Mono, what: &'static str, numbers: &[u64]) {
        self.events += 1;
        self.mix(now.as_nanos());
        for b in what.as_bytes() {
            self.mix(u64::from(*b));
        }
        numbers.iter().for_each(|&n| self.mix(n));
        if self.verbose {
            println!("{:>12.6} {what} {numbers:?}", now.as_nanos() as f64 / 1e9);
        }
    }

    fn mix(&mut self, n: u64) {
        let x = (self.hash ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = x ^ (x >> 29);
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}
