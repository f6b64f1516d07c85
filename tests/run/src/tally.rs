//! Counting what the tiers say.

use std::fmt;
use std::ops::AddAssign;

use crate::tiers::Count;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were not run.
    pub skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// The tally of a tier's whole output. A command that failed without naming a failure counts as one, and so does one that
/// should have counted and did not.
pub fn of(count: Count, output: &str, success: bool) -> Tally {
    let mut tally = match count {
        Count::Whole => Tally { passed: u64::from(success), ..Tally::default() },
        Count::Cargo => cargo(output),
        Count::Tally => last_tally(output),
    };
    let counted = tally.passed + tally.failed > 0;
    if tally.failed == 0 && (!success || !counted) {
        tally.failed = 1;
    }
    tally
}

/// The number right before the word that begins with `word`.
fn number_before(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    words
        .windows(2)
        .find(|pair| pair[1].trim_end_matches([';', ',']) == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

fn counted(line: &str, skipped: &str) -> Tally {
    Tally {
        passed: number_before(line, "passed"),
        failed: number_before(line, "failed"),
        skipped: number_before(line, skipped),
    }
}

fn cargo(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output.lines().filter(|l| l.starts_with("test result: ")) {
        tally += counted(line, "ignored");
    }
    // A test binary that does not build or dies says no result.
    let broken =
        output.lines().filter(|l| l.starts_with("error: could not compile") || l.contains("(signal:"));
    tally.failed += broken.count() as u64;
    tally
}

fn last_tally(output: &str) -> Tally {
    output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("tally: "))
        .map_or_else(Tally::default, |line| counted(line, "skipped"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped }
    }

    #[test]
    fn cargo_results_are_added_up() {
        let output = "running 2 tests\n\
            test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(of(Count::Cargo, output, false), tally(15, 2, 1));
    }

    #[test]
    fn a_test_that_does_not_build_is_a_failure() {
        let output = "error: could not compile `plinth-base` (lib test) due to 1 previous error\n";
        assert_eq!(of(Count::Cargo, output, false), tally(0, 1, 0));
    }

    #[test]
    fn the_last_tally_counts() {
        let output = "ok one\ntally: 1 passed, 0 failed\nFAILED two\ntally: 5 passed, 1 failed, 2 skipped\n";
        assert_eq!(of(Count::Tally, output, false), tally(5, 1, 2));
    }

    #[test]
    fn nothing_counted_is_a_failure() {
        assert_eq!(of(Count::Tally, "no such thing\n", true), tally(0, 1, 0));
        assert_eq!(of(Count::Cargo, "", true), tally(0, 1, 0));
    }

    #[test]
    fn a_bad_exit_is_a_failure_whatever_was_counted() {
        assert_eq!(of(Count::Tally, "tally: 3 passed, 0 failed\n", false), tally(3, 1, 0));
        assert_eq!(of(Count::Whole, "", false), tally(0, 1, 0));
        assert_eq!(of(Count::Whole, "", true), tally(1, 0, 0));
    }

    #[test]
    fn the_last_line_reads_as_promised() {
        assert_eq!(tally(7, 0, 0).to_string(), "7 passed, 0 failed");
        assert_eq!(tally(7, 1, 2).to_string(), "7 passed, 1 failed, 2 skipped");
    }
}
