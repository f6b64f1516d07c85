//! What is known beforehand: tests that a kind rules out, tests that contradict the standard, and stock tgt's outcome.

use super::LunKind;

/// A test that demands what the standard forbids, on some kinds.
pub struct Contradiction {
    /// `Suite.Test`, or what several begin with.
    pub tests: &'static str,
    /// Where it does.
    pub kinds: &'static [LunKind],
    /// The clause.
    pub clause: &'static str,
    /// In what way.
    pub why: &'static str,
}

/// All of them. Each still has to pass on another kind.
pub const CONTRADICTIONS: &[Contradiction] = &[
    Contradiction {
        tests: "GetLBAStatus.UnmapSingle",
        kinds: &[LunKind::Phys],
        clause: "SBC-3 5.4.2.3",
        why: "it asks for LBA i+1 and wants the first descriptor to begin at i+lbppb; the first descriptor begins at the \
              LBA that was asked for (both are the same with one logical block in a physical one)",
    },
    Contradiction {
        tests: "ProutReserve.Access",
        kinds: &[LunKind::Native4k],
        clause: "SBC-3 4.5",
        why: "to see that a reservation lets it write, it sends 512 bytes for a WRITE(10) of one block, whatever the block \
              size, and wants GOOD; a logical block is written whole, and 512 bytes are none of 4096",
    },
];

/// The contradiction that excuses `test` on `kind`.
pub fn contradiction(test: &str, kind: LunKind) -> Option<&'static Contradiction> {
    CONTRADICTIONS.iter().find(|c| test.starts_with(c.tests) && c.kinds.contains(&kind))
}

/// Whether the suite is run with `--dataloss` and `--allow-sanitize` on `kind`. Without the first, the tool skips what writes
/// to the medium, but also refuses to send PERSISTENT RESERVE OUT.
pub fn data_loss(suite: &str, kind: LunKind) -> bool {
    kind != LunKind::ReadOnly
        || suite == "ReadOnly"
        || suite.starts_with("Prin")
        || suite.starts_with("Prout")
}

/// Whether each test of the suite needs a process, and so sessions, of its own: Sanitize.Reservations leaves its RESERVE(6) on the
/// second session, and what follows it in the same process would meet a conflict.
pub fn one_by_one(suite: &str) -> bool {
    suite == "Sanitize"
}

/// Why `test` is not run on `kind`, if it is not.
pub fn not_applicable(test: &str, kind: LunKind, quick: bool) -> Option<&'static str> {
    let writes = ["ProutReserve.Access", "WriteVerify10.Dpo", "WriteVerify12.Dpo", "WriteVerify16.Dpo"];
    if kind == LunKind::ReadOnly && writes.iter().any(|name| test.starts_with(name)) {
        return Some("it writes, whatever the options, and demands that the write succeeds");
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

const STOCK_FAILS: &[&str] = &[
    "GetLBAStatus.BeyondEol",
    "MultipathIO.CompareAndWriteAsync",
    "Prefetch10.BeyondEol",
    "Prefetch10.Flags",
    "Prefetch10.Simple",
    "Prefetch10.ZeroBlocks",
    "Prefetch16.BeyondEol",
    "Prefetch16.Flags",
    "Prefetch16.Simple",
    "Prefetch16.ZeroBlocks",
    "PreventAllow.2ITNexuses",
    "PreventAllow.Eject",
    "PrinServiceactionRange.Range",
    "ProutReserve.OwnershipEA",
    "ProutReserve.OwnershipEARO",
    "ProutReserve.OwnershipWE",
    "ProutReserve.OwnershipWERO",
    "Reserve6.2Initiators",
    "Unmap.ZeroBlocks",
    "iSCSIdatasn.iSCSIDataSnInvalid",
];

const STOCK_SKIPS: &[&str] = &[
    "CompareAndWrite.Simple",
    "CompareAndWrite.DpoFua",
    "CompareAndWrite.Miscompare",
    "CompareAndWrite.Unwritten",
    "CompareAndWrite.InvalidDataOutSize",
    "ExtendedCopy.Simple",
    "ExtendedCopy.ParamHdr",
    "ExtendedCopy.DescrLimits",
    "ExtendedCopy.DescrType",
    "ExtendedCopy.ValidTgtDescr",
    "ExtendedCopy.ValidSegDescr",
    "NoMedia.NoMediaSBC",
    "PreventAllow.WarmReset",
    "PreventAllow.ColdReset",
    "ReadDefectData10.Simple",
    "ReadDefectData12.Simple",
    "ReadOnly.ReadOnlySBC",
    "ReceiveCopyResults.CopyStatus",
    "ReceiveCopyResults.OpParams",
    "ReportSupportedOpcodes.OneCommand",
    "Reserve6.TargetColdReset",
    "Reserve6.TargetWarmReset",
    "Sanitize.BlockErase",
    "Sanitize.BlockEraseReserved",
    "Sanitize.CryptoErase",
    "Sanitize.CryptoEraseReserved",
    "Sanitize.ExitFailureMode",
    "Sanitize.InvalidServiceAction",
    "Sanitize.Overwrite",
    "Sanitize.OverwriteReserved",
    "Sanitize.Readonly",
    "Sanitize.Reservations",
    "Sanitize.Reset",
    "WriteAtomic16.Simple",
    "WriteAtomic16.BeyondEol",
    "WriteAtomic16.ZeroBlocks",
    "WriteAtomic16.WriteProtect",
    "WriteAtomic16.DpoFua",
    "WriteAtomic16.VPD",
    "WriteSame10.ZeroBlocks",
    "WriteSame16.ZeroBlocks",
    "MultipathIO.CompareAndWrite",
];
