//! What a simulated world is like: who, how much, and which accidents.

use std::time::Duration;

/// What is switched on.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Initiators.
    pub initiators: usize,
    /// Logical units, each on a disk of its own.
    pub units: usize,
    /// Virtual time of load.
    pub time: Duration,
    /// Links are cut, by both sides' and by one side's knowledge.
    pub cuts: bool,
    /// Bits flip on links with digests.
    pub flips: bool,
    /// The node loses power: target and disks.
    pub power: bool,
    /// The target's process is killed; the disks go on.
    pub kills: bool,
    /// Disks stall.
    pub stalls: bool,
    /// Disks fail reads, writes and flushes.
    pub errors: bool,
    /// Persistent reservations on unit 0.
    pub reservations: bool,
    /// Task management functions.
    pub management: bool,
}

const CALM: Scenario = Scenario {
    name: "calm",
    about: "nothing goes wrong: the protocol, the data, task management",
    initiators: 3,
    units: 2,
    time: Duration::from_millis(150),
    cuts: false,
    flips: false,
    power: false,
    kills: false,
    stalls: false,
    errors: false,
    reservations: false,
    management: true,
};

/// All scenarios.
pub const ALL: &[Scenario] = &[
    CALM,
    Scenario {
        name: "network",
        about: "links are cut, slow and flip bits",
        cuts: true,
        flips: true,
        stalls: true,
        ..CALM
    },
    Scenario {
        name: "power",
        about: "the node loses power, disks tear and forget",
        power: true,
        cuts: true,
        ..CALM
    },
    Scenario {
        name: "kill",
        about: "the target is killed and started again",
        kills: true,
        cuts: true,
        ..CALM
    },
    Scenario { name: "disk", about: "disks fail and stall", errors: true, stalls: true, power: true, ..CALM },
    Scenario {
        name: "reservations",
        about: "persistent reservations under cuts, kills and losses of power",
        initiators: 4,
        reservations: true,
        cuts: true,
        kills: true,
        power: true,
        ..CALM
    },
    Scenario {
        name: "everything",
        about: "all of it",
        initiators: 4,
        cuts: true,
        flips: true,
        power: true,
        kills: true,
        stalls: true,
        errors: true,
        reservations: true,
        ..CALM
    },
];

/// The scenario of this name.
pub fn by_name(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|s| s.name == name)
}
