//! The simulator run on itself: seeds pass and replay, and each mutation of the target is found.

use plinth_sim::run::{first_failure, one};
use plinth_sim::scenario::{ALL, by_name};
use plinth_sim::target::Mutation;

/// Seeds that are tried for a mutation.
const SEEDS: u64 = 150;

#[test]
fn some_seeds_of_every_scenario_pass() {
    for scenario in ALL {
        if let Some(failed) = first_failure(scenario, 0..12, None) {
            panic!("{}: seed {}: {}", scenario.name, failed.seed, failed.failure);
        }
    }
}

#[test]
fn a_seed_replays_exactly_and_another_does_not() {
    for scenario in ALL {
        let run = |seed| one(scenario, seed, None, false).unwrap();
        assert_eq!(run(7), run(7), "{}", scenario.name);
        assert_ne!(run(7).hash, run(8).hash, "{}", scenario.name);
    }
}

#[test]
fn a_failing_seed_replays_exactly() {
    let scenario = by_name("power").unwrap();
    let first = first_failure(scenario, 0..SEEDS, Some(Mutation::AckFlushEarly)).unwrap();
    let again = one(scenario, first.seed, Some(Mutation::AckFlushEarly), false).unwrap_err();
    assert_eq!(first, again);
}

/// The first seed that finds `mutation`, and what it says.
fn found(name: &str, mutation: Mutation) -> String {
    let scenario = by_name(name).expect("the scenario is one of ours");
    assert!(Mutation::ALL.contains(&mutation));
    let Some(failed) = first_failure(scenario, 0..SEEDS, Some(mutation)) else {
        panic!("{mutation:?} was not found in {SEEDS} seeds of {name}");
    };
    println!("{mutation:?}: {name}, seed {}: {}", failed.seed, failed.failure);
    failed.failure.0
}

macro_rules! mutations {
    ($($test:ident: $mutation:ident in $scenario:literal says $says:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let said = found($scenario, Mutation::$mutation);
                assert!(said.contains($says), "found, but for another reason: {said}");
            }
        )*

        #[test]
        fn every_mutation_has_a_test() {
            let tested = [$(Mutation::$mutation),*];
            assert!(Mutation::ALL.iter().all(|m| tested.contains(m)));
        }
    };
}

mutations! {
    flushes_that_are_acknowledged_early: AckFlushEarly in "power" says "after the crash";
    fua_that_is_ignored: IgnoreFua in "power" says "after the crash";
    writes_that_are_acknowledged_early: AckWriteEarly in "calm" says "holds";
    writes_that_are_lost: LoseWrite in "calm" says "holds";
    errors_that_are_swallowed: SwallowErrors in "disk" says "holds";
    unit_attentions_that_are_dropped: DropUnitAttention in "calm" says "no unit attention";
    reservations_that_do_not_count: SkipReservations in "reservations" says "in spite of";
    reservations_that_a_crash_takes: ForgetReservations in "reservations" says "reservations are";
    responses_that_come_twice: CompleteTwice in "calm" says "StatSN";
    tasks_that_go_on_after_their_abort: AbortTooEarly in "network" says "holds";
    data_of_another_read: WrongBuffer in "calm" says "holds";
    buffers_that_leak: LeakBuffers in "calm" says "bytes of buffers";
    wake_ups_that_are_lost: LoseWakeup in "calm" says "do not end";
}
