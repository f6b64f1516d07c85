//! What is known beforehand: tests that a kind rules out, tests that contradict the standard, and stock tgt's outcome.

use super::LunKind;

/// A test that demands what the standard forbids, on some kinds.
pub struct Contradiction {
    /// `Suite.Test`.
    pub test: &'static str,
    /// Where it does.
    pub kinds: &'static [LunKind],
    /// The clause.
    pub clause: &'static str,
    /// In what way.
    pub why: &'static str,
}

/// All of them. Each still has to pass on another kind.
pub const CONTRADICTIONS: &[Contradiction] = &[Contradiction {
    test: "GetLBAStatus.UnmapSingle",
    kinds: &[LunKind::Phys],
    clause: "SBC-3 5.4.2.2",
    why: "it asks for LBA i+1 and wants the first descriptor to begin at i+lbppb; the first descriptor begins at the \
          LBA that was asked for (both are the same with one logical block in a physical one)",
}];

/// The contradiction that excuses `test` on `kind`.
pub fn contradiction(test: &str, kind: LunKind) -> Option<&'static Contradiction> {
    CONTRADICTIONS.iter().find(|c| c.test == test && c.kinds.contains(&kind))
}

/// Why `test` is not run on `kind`, if it is not.
pub fn not_applicable(test: &str, kind: LunKind, quick: bool) -> Option<&'static str> {
    if kind == LunKind::ReadOnly && test.starts_with("ProutReserve.Access") {
        return Some("it writes, and demands that the write succeeds");
    }
    if quick && test.starts_with("Sanitize.") && kind != LunKind::Thin {
        return Some("minutes long; --quick runs it on the thin unit only");
    }
    None
}

/// What stock tgt 1.0.85 does in this round: `F` fails on some kind, `s` is skipped on every kind, nothing if it passes.
pub fn stock(test: &str) -> &'static str {
    if STOCK_FAILS.contains(&test) {
        "F"
    } else if STOCK_SKIPS.contains(&test) {
        "s"
    } else {
        "."
    }
}

const STOCK_FAILS: &[&str] = &[];

const STOCK_SKIPS: &[&str] = &[];
