//! Every seed through its target, as it is and mutated, without libFuzzer: what a change breaks at once is seen at once.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads its files")]

use std::fs;

use base::Entropy;
use base::random::SeededRandom;
use fuzz::{TARGETS, Target, seeds};

const MUTATIONS: u64 = 2000;

fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let dir = seeds(target.name);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Changes a few bytes, cuts, doubles or joins.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut SeededRandom) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() as u64 + 1) as usize;
        match random.below(6) {
            0 => input.truncate(at),
            1 => input.extend_from_slice(&other[..at.min(other.len())]),
            2 => input.insert(at, random.next_u64() as u8),
            3 if at < input.len() => drop(input.remove(at)),
            4 if at < input.len() => input[at] ^= 1 << random.below(8),
            _ if at < input.len() => {
                input[at] = [0, 1, 0x7f, 0x80, 0xff, b'=', b',', b'0'][random.below(8) as usize];
            }
            _ => {}
        }
    }
}

#[test]
fn seeds_and_their_neighbours() {
    for target in TARGETS {
        let inputs = inputs(target);
        assert!(inputs.len() >= 3, "{} has {} seeds", target.name, inputs.len());
        let mut random = SeededRandom::new(1);
        for (i, input) in inputs.iter().enumerate() {
            assert!(input.len() <= target.input_bytes_max, "seed {i} of {}", target.name);
            (target.run)(input);
            for _ in 0..MUTATIONS {
                let mut mutated = input.clone();
                let other = &inputs[random.below(inputs.len() as u64) as usize];
                mutate(&mut mutated, other, &mut random);
                (target.run)(&mutated);
            }
        }
        (target.run)(&[]);
    }
}

#[test]
fn the_corpus_is_small() {
    let bytes: usize = TARGETS.iter().flat_map(inputs).map(|input| input.len()).sum();
    assert!(bytes < 200 * 1024, "{bytes} bytes");
}

#[test]
fn names_are_distinct() {
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TARGETS.len());
    assert!(names.iter().all(|name| fuzz::target(name).is_some()));
}
