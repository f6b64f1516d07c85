//! The table test by test, and the judgement.

use super::known;
use super::parse::Outcome;
use super::run::Results;
use super::{Args, LunKind};

/// How a test did over all kinds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Fails,
    NeverWhole,
}

struct Row<'a> {
    test: &'a str,
    cells: Vec<(LunKind, Option<&'a Outcome>)>,
}

impl Row<'_> {
    fn excused(&self, kind: LunKind) -> bool {
        known::contradiction(self.test, kind).is_some()
    }

    fn verdict(&self) -> Verdict {
        let fails = |(kind, outcome): &(LunKind, Option<&Outcome>)| match outcome {
            Some(Outcome::Failed(_)) => !self.excused(*kind),
            None => true,
            _ => false,
        };
        if self.cells.iter().any(fails) {
            Verdict::Fails
        } else if self.cells.iter().any(|(_, o)| matches!(o, Some(Outcome::Passed))) {
            Verdict::Good
        } else {
            Verdict::NeverWhole
        }
    }

    /// What to say about one cell, beginning with the word for it.
    fn reason(&self, kind: LunKind, outcome: Option<&Outcome>) -> Option<String> {
        match outcome {
            None => Some("FAILED it never ran".to_owned()),
            Some(Outcome::Failed(why)) => Some(match known::contradiction(self.test, kind) {
                None => format!("FAILED {why}"),
                Some(c) => format!("AGAINST {}: {}", c.clause, c.why),
            }),
            Some(Outcome::Skipped(why) | Outcome::InPart(why)) if self.verdict() == Verdict::NeverWhole => {
                Some(format!("SKIPPED {why}"))
            }
            _ => None,
        }
    }

    fn symbol(&self, kind: LunKind, outcome: Option<&Outcome>) -> &'static str {
        match outcome {
            Some(Outcome::Passed) => ".",
            Some(Outcome::InPart(_)) => "p",
            Some(Outcome::Skipped(_)) => "s",
            Some(Outcome::Failed(_)) if self.excused(kind) => "C",
            Some(Outcome::Failed(_)) | None => "F",
            Some(Outcome::NotApplicable(_)) => "-",
        }
    }
}

/// Prints everything; true if the judgement is good.
pub fn print(args: &Args, results: &Results) -> bool {
    let rows: Vec<Row<'_>> = results
        .tests
        .iter()
        .map(|test| Row {
            test,
            cells: results.columns.iter().map(|(kind, c)| (*kind, c.get(test))).collect(),
        })
        .collect();
    table(&rows, results);
    details(&rows);
    for death in &results.deaths {
        println!("the target died in {death}");
    }
    if args.baseline {
        baseline(&rows);
    }
    let good = judgement(&rows, results) && results.deaths.is_empty();
    println!("logs: {}; {:.0} s", args.logs.display(), results.took.as_secs_f32());
    good
}

fn table(rows: &[Row<'_>], results: &Results) {
    let width = rows.iter().map(|r| r.test.len()).max().unwrap_or(0);
    print!("{:width$} ", "test");
    results.columns.iter().for_each(|(kind, _)| print!(" {:>9}", kind.name()));
    println!("   stock tgt");
    for row in rows {
        print!("{:width$} ", row.test);
        row.cells.iter().for_each(|(kind, o)| print!(" {:>9}", row.symbol(*kind, *o)));
        println!("   {:>9}", known::stock(row.test));
    }
    println!(
        ". passed whole   p passed, with steps left out   s skipped   F failed   C failed against the standard   - not run"
    );
    for (kind, column) in &results.columns {
        let count = |wanted: fn(&Outcome) -> bool| column.values().filter(|o| wanted(o)).count();
        println!(
            "{:10} {:3} passed, {:2} in part, {:2} skipped, {:2} failed, {:2} not run",
            kind.name(),
            count(|o| matches!(o, Outcome::Passed)),
            count(|o| matches!(o, Outcome::InPart(_))),
            count(|o| matches!(o, Outcome::Skipped(_))),
            count(|o| matches!(o, Outcome::Failed(_))),
            count(|o| matches!(o, Outcome::NotApplicable(_))),
        );
    }
}

/// Why each test that is not good is not, and what excuses those that are excused: one line for each different reason.
fn details(rows: &[Row<'_>]) {
    for row in rows {
        let mut said: Vec<(String, Vec<&str>)> = Vec::new();
        for (kind, outcome) in &row.cells {
            let Some(reason) = row.reason(*kind, *outcome) else { continue };
            match said.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, kinds)) => kinds.push(kind.name()),
                None => said.push((reason, vec![kind.name()])),
            }
        }
        for (reason, kinds) in said {
            let (what, why) = reason.split_once(' ').unwrap_or((&reason, ""));
            println!("{what:7} {} on {}: {why}", row.test, kinds.join(", "));
        }
    }
}

fn baseline(rows: &[Row<'_>]) {
    for (name, wanted) in [("FAILS", Verdict::Fails), ("SKIPS", Verdict::NeverWhole)] {
        println!("const STOCK_{name}: &[&str] = &[");
        rows.iter().filter(|r| r.verdict() == wanted).for_each(|r| println!("    \"{}\",", r.test));
        println!("];");
    }
}

fn judgement(rows: &[Row<'_>], results: &Results) -> bool {
    let count = |wanted: Verdict| rows.iter().filter(|r| r.verdict() == wanted).count();
    let (good, never, fails) = (count(Verdict::Good), count(Verdict::NeverWhole), count(Verdict::Fails));
    println!(
        "{} tests on {} kinds: {good} pass whole on at least one kind and fail on none, {never} only skipped, {fails} fail",
        rows.len(),
        results.columns.len()
    );
    let ok = good == rows.len();
    println!("tally: {good} passed, {} failed", never + fails);
    println!("conformance: {}", if ok { "good" } else { "NOT good" });
    ok
}
