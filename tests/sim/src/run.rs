//! Runs seeds: one, many, and one again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Failure;
use crate::scenario::Scenario;
use crate::target::Mutation;
use crate::world::{Summary, World};

/// A seed that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What must not be.
    pub failure: Failure,
    /// What had happened until then.
    pub summary: Summary,
}

/// Runs one seed. A panic of anything in the world is a failure too.
pub fn one(
    scenario: &Scenario,
    seed: u64,
    mutation: Option<Mutation>,
    verbose: bool,
) -> Result<Summary, Box<Failed>> {
    let failed = |failure, summary| Box::new(Failed { seed, failure, summary });
    let run = || match World::new(scenario, seed, mutation, verbose) {
        Ok(mut world) => world.run(),
        Err(e) => Err((e, Summary::default())),
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err((failure, summary))) => Err(failed(failure, summary)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let text = text.unwrap_or_else(|| "a panic without words".to_owned());
            Err(failed(Failure(format!("panic: {text}")), Summary::default()))
        }
    }
}

/// The first of `seeds` that fails.
pub fn first_failure(
    scenario: &Scenario,
    seeds: impl IntoIterator<Item = u64>,
    mutation: Option<Mutation>,
) -> Option<Box<Failed>> {
    seeds.into_iter().find_map(|seed| one(scenario, seed, mutation, false).err())
}
