//! Unit attention conditions of one I_T nexus (SAM-5 5.14): a short queue without duplicates.

use base::limits::UNIT_ATTENTIONS_MAX;
use smallvec::SmallVec;

use crate::sense::Asc;

/// The conditions that wait to be reported, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Attentions(SmallVec<[Asc; 4]>);

impl Attentions {
    /// Adds a condition. A reset replaces what was established before it (SAM-5 5.14); an overflow drops the oldest that
    /// is not a reset, since later ones tell of the present state.
    pub(crate) fn raise(&mut self, asc: Asc) {
        if is_reset(asc) {
            self.0.clear();
        }
        if self.0.contains(&asc) {
            return;
        }
        if self.0.len() >= UNIT_ATTENTIONS_MAX {
            let oldest = self.0.iter().position(|&a| !is_reset(a)).unwrap_or(0);
            self.0.remove(oldest);
        }
        self.0.push(asc);
    }

    /// Takes the oldest.
    pub(crate) fn take(&mut self) -> Option<Asc> {
        if self.0.is_empty() { None } else { Some(self.0.remove(0)) }
    }

    /// Takes the oldest where it tells of a reset: that comes before everything else (SAM-5 5.3.3).
    pub(crate) fn take_reset(&mut self) -> Option<Asc> {
        self.first().filter(|&a| is_reset(a)).and_then(|_| self.take())
    }

    /// Takes back a condition that has been reported by other means.
    pub(crate) fn withdraw(&mut self, asc: Asc) {
        self.0.retain(|a| *a != asc);
    }

    /// The oldest.
    pub(crate) fn first(&self) -> Option<Asc> {
        self.0.first().copied()
    }
}

fn is_reset(asc: Asc) -> bool {
    asc.0 >> 8 == 0x29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_without_duplicates_and_resets_win() {
        let mut a = Attentions::default();
        a.raise(Asc::CAPACITY_CHANGED);
        a.raise(Asc::UNIT_RESET);
        assert_eq!(a.first(), Some(Asc::UNIT_RESET));
        for n in 0..20 {
            a.raise(Asc(0x2a00 + n));
            a.raise(Asc(0x2a00 + n));
        }
        let all: Vec<Asc> = std::iter::from_fn(|| a.take()).collect();
        assert_eq!(all.len(), UNIT_ATTENTIONS_MAX);
        assert_eq!((all[0], all[7]), (Asc::UNIT_RESET, Asc(0x2a13)));
        assert_eq!(a.first(), None);
    }
}
