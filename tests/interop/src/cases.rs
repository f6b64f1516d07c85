//! Named cases, run one after the other; the last line is the tally that `cargo test-all` reads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Result, anyhow};

/// A run of cases.
pub struct Cases {
    wanted: Vec<String>,
    passed: u32,
    failed: u32,
}

impl Cases {
    /// Only cases whose name contains one of `wanted` are run, all if it is empty.
    pub fn new(wanted: &[String]) -> Self {
        Self { wanted: wanted.to_vec(), passed: 0, failed: 0 }
    }

    /// Whether the case of that name is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|w| name.contains(w.as_str()))
    }

    /// Runs a case and says how it went.
    pub fn run(&mut self, name: &str, case: impl FnOnce() -> Result<()>) {
        if !self.wants(name) {
            return;
        }
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|_| Err(anyhow!("it panicked")));
        let took = began.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok     {name} ({took:.1} s)");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED {name} ({took:.1} s): {error:#}");
            }
        }
    }

    /// Prints the tally; true if something ran and nothing failed.
    pub fn finish(self) -> bool {
        if self.passed + self.failed == 0 {
            println!("no case has a name with any of {:?} in it", self.wanted);
        }
        println!("tally: {} passed, {} failed", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_failures() {
        let mut cases = Cases::new(&[]);
        cases.run("good", || Ok(()));
        cases.run("bad", || Err(anyhow!("no")));
        cases.run("panics", || panic!("on purpose"));
        assert_eq!((cases.passed, cases.failed), (1, 2));
        assert!(!cases.finish());
    }

    #[test]
    fn a_run_of_nothing_is_no_success() {
        let mut cases = Cases::new(&["no such".to_owned()]);
        cases.run("good", || Ok(()));
        assert!(!cases.finish());
    }
}
