//! The registry of named devices: what any layer can stand on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::BlockDevice;

/// Devices by name: `/dev/drbd0`, `/dev/VG/LV`, a path. Shared between threads.
#[derive(Debug, Default)]
pub struct Registry(Mutex<BTreeMap<String, Arc<dyn BlockDevice>>>);

impl Registry {
    /// Adds `device` as `name`. Returns it back where the name is taken.
    pub fn insert(&self, name: &str, device: Arc<dyn BlockDevice>) -> Result<(), Arc<dyn BlockDevice>> {
        let mut map = self.lock();
        if map.contains_key(name) {
            return Err(device);
        }
        map.insert(name.to_owned(), device);
        Ok(())
    }

    /// The device called `name`.
    pub fn get(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        self.lock().get(name).cloned()
    }

    /// Takes the device called `name` out; those who hold it keep it.
    pub fn remove(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        self.lock().remove(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<dyn BlockDevice>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NullDevice;

    #[test]
    fn names_are_unique() {
        let r = Registry::default();
        assert!(r.insert("/dev/a", Arc::new(NullDevice::new(4096, 512))).is_ok());
        assert!(r.insert("/dev/a", Arc::new(NullDevice::new(4096, 512))).is_err());
        assert_eq!(r.names(), ["/dev/a"]);
        assert!(r.remove("/dev/a").is_some() && r.get("/dev/a").is_none());
    }
}
