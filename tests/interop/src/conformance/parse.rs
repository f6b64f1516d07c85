//! What `iscsi-test-cu -V` prints, read truthfully.
//!
//! CUnit knows passed and failed only; libiscsi reports a skipped test as passed and says `[SKIPPED]` in its log. So a test's
//! outcome is read from its part of the log:
//!
//! ```text
//!   Test: Simple ...          the test begins
//!     Test basic UNMAP        what it does
//!     [SKIPPED] Logical ...   it, or a step of it, was skipped
//! passed    Send PRIN/...     or FAILED: the verdict, at the start of a line or right after the dots
//! ```

use std::collections::BTreeMap;

/// What became of one test on one LUN kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it ran and passed.
    Passed,
    /// It passed, but said that it left steps out that this LUN kind gives no occasion for.
    InPart(String),
    /// It was skipped, or gave up at a step.
    Skipped(String),
    /// It failed, crashed, or did not end.
    Failed(String),
    /// The kind rules it out, by the table in `known`.
    NotApplicable(&'static str),
}

/// Lines with which a test leaves out a step and goes on.
const STEPS_LEFT_OUT: &[&str] =
    &["[SKIPPING]", "Skipping assert", "No alignment restrictions", "No granularity restrictions"];

/// The outcomes in the log of one run, by `Suite.Test`, and the name of a test that began and did not end.
pub fn parse(log: &str) -> (BTreeMap<String, Outcome>, Option<String>) {
    let mut outcomes = BTreeMap::new();
    let mut suite = String::new();
    let mut open: Option<Open> = None;
    for line in log.lines() {
        if let Some(name) = line.strip_prefix("Suite: ") {
            suite = name.trim().to_owned();
            continue;
        }
        let mut rest = line;
        if let Some((name, after)) = line.strip_prefix("  Test: ").and_then(|l| l.split_once(" ...")) {
            open = Some(Open { name: format!("{suite}.{name}"), ..Open::default() });
            rest = after;
        }
        let Some(test) = &mut open else { continue };
        test.line(rest);
        let verdict = match rest {
            _ if rest.starts_with("passed") => test.outcome(),
            _ if rest.starts_with("FAILED") => Outcome::Failed(test.why_failed()),
            _ => continue,
        };
        outcomes.insert(test.name.clone(), verdict);
        open = None;
    }
    (outcomes, open.map(|test| test.name))
}

/// A test that has begun.
#[derive(Default)]
struct Open {
    name: String,
    skipped: Option<String>,
    left_out: Option<String>,
    failed: Option<String>,
    last_sent: String,
}

impl Open {
    fn line(&mut self, line: &str) {
        let text = line.trim();
        if text.starts_with("Send ") {
            text.clone_into(&mut self.last_sent);
        }
        if STEPS_LEFT_OUT.iter().any(|s| text.contains(s)) {
            self.left_out.get_or_insert_with(|| text.to_owned());
        } else if text.contains("[SKIPPED]") {
            self.skipped.get_or_insert_with(|| text.replace("[SKIPPED] ", ""));
        } else if text.contains("[FAILED]") {
            let after = text.replace("[FAILED] ", "");
            self.failed.get_or_insert_with(|| format!("{after} (after: {})", self.last_sent));
        }
    }

    fn outcome(&self) -> Outcome {
        match (&self.skipped, &self.left_out) {
            (Some(why), _) => Outcome::Skipped(why.clone()),
            (None, Some(what)) => Outcome::InPart(what.clone()),
            (None, None) => Outcome::Passed,
        }
    }

    fn why_failed(&self) -> String {
        self.failed.clone().unwrap_or_else(|| format!("an assertion failed (after: {})", self.last_sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
    Send PRIN/READ_KEYS
Suite: Unmap
  Test: Simple ...
    Test basic UNMAP
    [SKIPPED] Logical unit is fully provisioned. Skipping test
passed
  Test: VPD ...
    Send UNMAP (Expecting SUCCESS) list_len:1 anchor:0
passed
  Test: ZeroBlocks ...    [SKIPPED] Logical unit is fully provisioned. Skipping test
passed    Send PRIN/READ_KEYS
Suite: iSCSITMF
  Test: LUNResetSimpleAsync ...passed
  Test: Bad ...
    Send WRITE10 (Expecting SUCCESS) LBA:0
    [FAILED] WRITE10 command failed with status 2
FAILED
    1. test.c:50  - CU_ASSERT_EQUAL(ret,0)
  Test: Part ...
    [SKIPPED] No alignment restrictions on this LUN
passed
  Test: Hangs ...
    Send READ10 (Expecting SUCCESS)
";

    #[test]
    fn each_verdict_is_read_for_what_it_is() {
        let (outcomes, open) = parse(LOG);
        let got: Vec<(&str, &str)> = outcomes
            .iter()
            .map(|(name, outcome)| {
                let what = match outcome {
                    Outcome::Passed => "passed",
                    Outcome::InPart(_) => "in part",
                    Outcome::Skipped(_) => "skipped",
                    Outcome::Failed(_) => "failed",
                    Outcome::NotApplicable(_) => "n/a",
                };
                (name.as_str(), what)
            })
            .collect();
        let expected = [
            ("Unmap.Simple", "skipped"),
            ("Unmap.VPD", "passed"),
            ("Unmap.ZeroBlocks", "skipped"),
            ("iSCSITMF.Bad", "failed"),
            ("iSCSITMF.LUNResetSimpleAsync", "passed"),
            ("iSCSITMF.Part", "in part"),
        ];
        assert_eq!(got, expected);
        assert_eq!(open.as_deref(), Some("iSCSITMF.Hangs"));
    }

    #[test]
    fn a_failure_says_what_was_sent() {
        let (outcomes, _) = parse(LOG);
        let Some(Outcome::Failed(why)) = outcomes.get("iSCSITMF.Bad") else { panic!("not failed") };
        assert!(why.contains("status 2") && why.contains("WRITE10 (Expecting SUCCESS) LBA:0"), "{why}");
    }

    #[test]
    fn a_log_without_tests_has_no_outcomes() {
        assert_eq!(parse("Failed to connect to SCSI device 0\n"), (BTreeMap::new(), None));
    }
}
