//! The gate of a logical unit, replica or volume: open at an epoch, frozen, or fenced. The high-availability layer alone
//! moves it; a request pays one atomic load.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the gate says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Requests pass.
    Open {
        /// The membership epoch that opened it.
        epoch: u64,
    },
    /// Requests wait.
    Frozen {
        /// The membership epoch that froze it.
        epoch: u64,
    },
    /// Requests are refused.
    Fenced {
        /// The membership epoch that fenced it.
        epoch: u64,
    },
}

/// State and epoch in one word: the state in the two low bits. The epoch never goes back.
#[derive(Debug)]
pub struct Gate(AtomicU64);

const OPEN: u64 = 0;
const FROZEN: u64 = 1;
const FENCED: u64 = 2;

impl Default for Gate {
    fn default() -> Self {
        Gate(AtomicU64::new(OPEN))
    }
}

impl Gate {
    /// Whether a request may pass now. One load.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) & 3 == OPEN
    }

    /// The state.
    pub fn state(&self) -> GateState {
        let word = self.0.load(Ordering::Acquire);
        let epoch = word >> 2;
        match word & 3 {
            OPEN => GateState::Open { epoch },
            FROZEN => GateState::Frozen { epoch },
            _ => GateState::Fenced { epoch },
        }
    }

    /// Moves the gate. Returns false, and changes nothing, where `to` has an older epoch than the gate.
    #[must_use]
    pub fn set(&self, to: GateState) -> bool {
        let (epoch, bits) = match to {
            GateState::Open { epoch } => (epoch, OPEN),
            GateState::Frozen { epoch } => (epoch, FROZEN),
            GateState::Fenced { epoch } => (epoch, FENCED),
        };
        let word = (epoch << 2) | bits;
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| (old >> 2 <= epoch).then_some(word))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_never_goes_back() {
        let g = Gate::default();
        assert!(g.is_open());
        assert!(g.set(GateState::Fenced { epoch: 5 }));
        assert!(!g.is_open());
        assert!(!g.set(GateState::Open { epoch: 4 }));
        assert_eq!(g.state(), GateState::Fenced { epoch: 5 });
        assert!(g.set(GateState::Open { epoch: 6 }));
        assert!(g.is_open());
    }
}
