//! What is run, in which order: the cheap and general first.

/// How a tier's successes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// The command as a whole is one test.
    Whole,
    /// cargo test's (or nextest's) summaries.
    Cargo,
    /// The runner's own last line, `tally: N passed, N failed, N skipped`.
    Tally,
}

/// One tier.
#[derive(Debug)]
pub struct Tier {
    /// Its name on the command line and in the log's name.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The command.
    pub command: &'static [&'static str],
    /// How long it may take, builds included.
    pub limit_s: u64,
    /// How it is counted.
    pub count: Count,
    /// Packages that it needs and does not look for itself, each with the program that it brings.
    pub needs: &'static [(&'static str, &'static str)],
}

impl Tier {
    /// The command as one would type it.
    pub fn shown(&self) -> String {
        self.command.join(" ")
    }
}

const INTEROP: &str = "plinth-interop";

/// All tiers.
pub const TIERS: &[Tier] = &[
    Tier {
        name: "format",
        about: "the source is formatted",
        command: &["cargo", "fmt", "--all", "--check"],
        limit_s: 60,
        count: Count::Whole,
        needs: &[],
    },
    Tier {
        name: "layers",
        about: "each crate uses only what stands below it",
        command: &["cargo", "run", "-q", "-p", "plinth-layers"],
        limit_s: 300,
        count: Count::Whole,
        needs: &[],
    },
    Tier {
        name: "lint",
        about: "clippy finds nothing",
        command: &["cargo", "clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"],
        limit_s: 900,
        count: Count::Whole,
        needs: &[],
    },
    Tier {
        name: "build",
        about: "everything builds",
        command: &["cargo", "build", "-q", "--workspace"],
        limit_s: 900,
        count: Count::Whole,
        needs: &[],
    },
    Tier {
        name: "unit",
        about: "unit tests, property tests and simulations beside the code",
        command: &["cargo", "test", "--workspace", "--no-fail-fast"],
        limit_s: 900,
        count: Count::Cargo,
        needs: &[],
    },
    Tier {
        name: "simulator",
        about: "simulated targets, disks and networks: seeds that are always the same",
        command: &["cargo", "run", "-q", "-p", "plinth-sim", "--", "--seed", "1", "--seeds", "200"],
        limit_s: 600,
        count: Count::Whole,
        needs: &[],
    },
    Tier {
        name: "fresh-seeds",
        about: "the same with seeds that nobody ran before; a failing one is printed",
        command: &["cargo", "run", "-q", "-p", "plinth-sim", "--", "--seeds", "100"],
        limit_s: 600,
        count: Count::Whole,
        needs: &[],
    },
    Tier {
        name: "fuzz",
        about: "every parser of bytes from outside, briefly",
        command: &["cargo", "run", "-q", "-p", "plinth-fuzz", "--", "--self-check", "--seconds", "10"],
        limit_s: 900,
        count: Count::Tally,
        needs: &[("g++", "c++")],
    },
    Tier {
        name: "tools",
        about: "libiscsi's tools against the target",
        command: &["cargo", "run", "-q", "-p", INTEROP, "--", "libiscsi"],
        limit_s: 180,
        count: Count::Tally,
        needs: &[],
    },
    Tier {
        name: "transcript",
<<<<<<< HEAD
        about: "tgtadm and tgt-admin, ours and stock, call by call",
        command: &["cargo", "run", "-q", "-p", INTEROP, "--", "transcript"],
        limit_s: 300,
=======
        about: "tgtadm, tgt-admin and tgtimg, call by call, beside stock tgt's",
        command: &["cargo", "run", "-q", "-p", INTEROP, "--", "transcript"],
        limit_s: 600,
>>>>>>> w-control
        count: Count::Tally,
        needs: &[],
    },
    Tier {
        name: "qemu-img",
        about: "qemu's block driver against the target",
        command: &["cargo", "run", "-q", "-p", INTEROP, "--", "qemu-img"],
        limit_s: 300,
        count: Count::Tally,
        needs: &[],
    },
    Tier {
        name: "conformance",
        about: "iscsi-test-cu, suite by suite, over each kind of logical unit",
        command: &["cargo", "run", "-q", "-p", INTEROP, "--", "conformance", "--quick"],
        limit_s: 600,
        count: Count::Tally,
        needs: &[],
    },
    Tier {
        name: "e2e",
        about: "real processes in network namespaces, killed and cut off",
        command: &["cargo", "run", "-q", "-p", "plinth-e2e"],
        limit_s: 600,
        count: Count::Tally,
        needs: &[],
    },
    Tier {
        name: "kernel",
        about: "a stock kernel's initiator, its file system and its multipath",
        command: &["cargo", "run", "-q", "-p", INTEROP, "--", "kernel"],
        limit_s: 900,
        count: Count::Tally,
        needs: &[],
    },
];
