//! Randomness as an argument.

/// A source of unpredictable bytes: the system's in a daemon, a seeded one in a simulation.
pub trait Entropy {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]);

    /// A random 64-bit number.
    fn next_u64(&mut self) -> u64 {
        let mut b = [0; 8];
        self.fill(&mut b);
        u64::from_le_bytes(b)
    }

    /// A random number below `bound` (which is not 0), without bias that matters for scheduling.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// A small deterministic generator (xoshiro256**) for simulations and tests; not for secrets.
#[derive(Clone, Debug)]
pub struct SeededRandom([u64; 4]);

impl SeededRandom {
    /// The generator of `seed`: the same seed gives the same bytes for ever.
    pub fn new(seed: u64) -> Self {
        let mut z = seed;
        SeededRandom(std::array::from_fn(|_| {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = z;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        }))
    }
}

impl Entropy for SeededRandom {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_bytes_other_seed_other_bytes() {
        let bytes = |seed| {
            let mut b = [0; 37];
            SeededRandom::new(seed).fill(&mut b);
            b
        };
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn below_stays_below() {
        let mut r = SeededRandom::new(1);
        assert!((0..1000).all(|_| r.below(3) < 3));
        assert!((0..100).all(|_| r.below(1) == 0));
    }
}
