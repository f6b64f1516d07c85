//! `iscsi-test-cu`, suite by suite, over several kinds of logical unit and two portals.
//!
//! The judgement: each test passes whole on at least one kind, and fails on none. What decides whether a test runs at all
//! (read from the test tool of libiscsi 1.19):
//!
//! | a test is skipped unless | which kinds give it |
//! |---|---|
//! | `--dataloss`, `--allow-sanitize` | all but read-only |
//! | a second URL to the same unit (its designators in VPD page 83h are compared) | all: two portals |
//! | READ CAPACITY(16) says LBPME; VPD B2h says LBPU, LBPWS, LBPWS10 | thin, phys |
//! | ... and there are at least two logical blocks in a physical one | phys |
//! | INQUIRY says RMB | removable |
//! | MODE SENSE says WP | read-only |
//! | REPORT SUPPORTED OPERATION CODES lists each SANITIZE service action; BLOCK ERASE and CRYPTO ERASE only where LBPME is set, with WABEREQ and WACEREQ in VPD B1h | thin, phys |
//! | SANITIZE OVERWRITE of the whole unit still runs after 5 s | all |
//! | atomic alignment and granularity of at least 2 in VPD B0h | phys |
//! | WSNZ is 0 and MAXIMUM WRITE SAME LENGTH is below the capacity | all |
//! | the opcode is implemented: COMPARE AND WRITE, EXTENDED COPY, RECEIVE COPY RESULTS, WRITE ATOMIC(16), READ DEFECT DATA, SANITIZE | all |
//! | task management does TARGET WARM RESET and TARGET COLD RESET and answers before the connection goes | all |
//! | the unit has at most 1fffffh blocks, for READ(6) | all |
//! | INQUIRY's VERSION is below 6, for the NUL bit of EXTENDED COPY (left out silently) | all |
//!
//! Each suite is a process of its own: a hook that a skipped test installed would spoil the commands of later suites. A suite
//! that hangs or dies is continued test by test.

pub mod known;
pub mod parse;
pub mod report;
pub mod run;

use std::path::PathBuf;

use anyhow::Result;

use crate::target::Kind as TargetKind;

/// A kind of logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum LunKind {
    /// Fully provisioned, 512-byte blocks.
    Plain,
    /// Thin, 512-byte blocks, one in a physical block.
    Thin,
    /// Thin, eight logical blocks in a physical one.
    Phys,
    /// Removable medium.
    Removable,
    /// Write-protected.
    ReadOnly,
    /// 4096-byte blocks.
    Native4k,
}

impl LunKind {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Thin, Self::Phys, Self::Removable, Self::ReadOnly, Self::Native4k];

    /// The name of its column and of its target.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Thin => "thin",
            Self::Phys => "phys",
            Self::Removable => "removable",
            Self::ReadOnly => "readonly",
            Self::Native4k => "4k",
        }
    }

    /// Its parameters, as tgtadm takes them.
    pub fn params(self) -> &'static str {
        match self {
            Self::Plain | Self::Native4k => "",
            Self::Thin => "thin_provisioning=1,lbppbe=0",
            Self::Phys => "thin_provisioning=1,lbppbe=3",
            Self::Removable => "removable=1,thin_provisioning=1,lbppbe=0",
            Self::ReadOnly => "readonly=1,thin_provisioning=1,lbppbe=0",
        }
    }

    /// Its block size, if it is not the default.
    pub fn block_size(self) -> Option<u32> {
        (self == Self::Native4k).then_some(4096)
    }
}

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The implementation to test
    #[arg(long, value_enum, default_value = "ours")]
    pub target: TargetKind,
    /// Only these kinds of logical unit
    #[arg(long, value_enum, value_delimiter = ',')]
    pub kind: Vec<LunKind>,
    /// Only suites or tests whose name contains one of these (`Unmap`, `Write10.Simple`)
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How many kinds at a time
    #[arg(long, default_value_t = 2)]
    pub parallel: usize,
    /// The round for every day: the slow SANITIZE suite on the thin unit only
    #[arg(long)]
    pub quick: bool,
    /// Where the logs go
    #[arg(long, default_value = "build/logs/conformance")]
    pub logs: PathBuf,
    /// Print the tests that did not pass whole, in the form of the baseline in known.rs
    #[arg(long)]
    pub baseline: bool,
}

/// Runs the round; true if the judgement is good.
pub fn main(args: &Args) -> Result<bool> {
    let results = run::run(args)?;
    Ok(report::print(args, &results))
}
