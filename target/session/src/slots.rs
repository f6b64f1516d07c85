//! A table whose ids carry a generation: an id of something that is gone finds nothing, also after its slot was used
//! again. Slots are reused, so a table that reached its working size allocates no more.

use std::marker::PhantomData;

/// An id made of slot and generation.
pub(crate) trait SlotId: Copy {
    fn make(index: u32, generation: u32) -> Self;
    fn parts(self) -> (usize, u32);
}

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// See the module.
pub(crate) struct Slots<I, T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    id: PhantomData<I>,
}

impl<I: SlotId, T> Slots<I, T> {
    pub fn new() -> Self {
        Slots { entries: Vec::new(), free: Vec::new(), id: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Puts in what `make` makes of the new id.
    pub fn insert_with(&mut self, make: impl FnOnce(I) -> T) -> I {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            let id = I::make(index, entry.generation);
            entry.value = Some(make(id));
            return id;
        }
        // Every table is bounded far below 2^32 by the limits on connections, sessions and commands.
        let index = self.entries.len() as u32;
        let id = I::make(index, 1);
        self.entries.push(Entry { generation: 1, value: Some(make(id)) });
        id
    }

    #[inline]
    pub fn get(&self, id: I) -> Option<&T> {
        let (index, generation) = id.parts();
        self.entries.get(index).filter(|e| e.generation == generation)?.value.as_ref()
    }

    #[inline]
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let (index, generation) = id.parts();
        self.entries.get_mut(index).filter(|e| e.generation == generation)?.value.as_mut()
    }

    pub fn remove(&mut self, id: I) -> Option<T> {
        let (index, generation) = id.parts();
        let entry = self.entries.get_mut(index).filter(|e| e.generation == generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1).max(1);
        self.free.push(index as u32);
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|e| e.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskId;

    #[test]
    fn stale_ids_find_nothing() {
        let mut slots: Slots<TaskId, u32> = Slots::new();
        let a = slots.insert_with(|_| 1);
        assert_eq!(slots.remove(a), Some(1));
        let b = slots.insert_with(|_| 2);
        assert_eq!(a.index(), b.index());
        assert_eq!(slots.remove(a), None);
        assert_eq!((slots.get(a), slots.get(b)), (None, Some(&2)));
        assert_eq!((slots.len(), slots.iter().count()), (1, 1));
        assert_eq!(slots.get(TaskId(77)), None);
    }
}
