//! Keeps content from being collected while somebody builds on it.
//!
//! Images refer to blobs and layers, and what no image refers to is removed. Whoever makes an image pins what it will
//! refer to before looking whether that is already there; whoever removes something first marks it as doomed, which
//! fails for pinned things and makes pinning wait. Both marks live in memory only: a new engine process has neither.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::digest::Digest;

/// Something on disk that images share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// A blob by its digest.
    Blob(Digest),
    /// A layer by its key.
    Layer(Digest),
}

/// Who needs what.
#[derive(Debug, Default)]
pub struct Pins {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pinned: HashMap<Resource, usize>,
    doomed: HashSet<Resource>,
}

impl Pins {
    /// A lease without anything in it.
    pub fn lease(self: &Arc<Self>) -> Lease {
        Lease {
            pins: Arc::clone(self),
            held: Mutex::default(),
        }
    }

    /// Marks those of `candidates` as doomed that nobody has pinned and that `is_used` does not know. `is_used` is
    /// asked while no pin can come or go.
    pub fn doom(
        self: &Arc<Self>,
        candidates: impl IntoIterator<Item = Resource>,
        is_used: impl FnOnce() -> HashSet<Resource>,
    ) -> Doomed {
        let mut state = self.lock();
        let used = is_used();
        let mut doomed = Vec::new();
        for candidate in candidates {
            let needed = state.pinned.contains_key(&candidate) || used.contains(&candidate);
            if !needed && state.doomed.insert(candidate) {
                doomed.push(candidate);
            }
        }
        Doomed {
            pins: Arc::clone(self),
            resources: doomed,
        }
    }

    /// Whether somebody has pinned `resource`, or it is just being removed.
    pub fn is_wanted_or_doomed(&self, resource: &Resource) -> bool {
        let state = self.lock();
        state.pinned.contains_key(resource) || state.doomed.contains(resource)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pins things until it is dropped.
#[derive(Debug)]
pub struct Lease {
    pins: Arc<Pins>,
    held: Mutex<HashSet<Resource>>,
}

impl Lease {
    /// Keeps `resource` from being removed from now on. Waits if it is just being removed.
    pub fn pin(&self, resource: Resource) {
        if !self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(resource)
        {
            return;
        }
        let mut state = self.pins.lock();
        while state.doomed.contains(&resource) {
            state = self
                .pins
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *state.pinned.entry(resource).or_default() += 1;
    }

    /// Everything pinned so far.
    pub fn resources(&self) -> Vec<Resource> {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.pins.lock();
        for resource in self.resources() {
            if let Some(count) = state.pinned.get_mut(&resource) {
                *count -= 1;
                if *count == 0 {
                    state.pinned.remove(&resource);
                }
            }
        }
    }
}

/// Things that may be removed now; dropped when that is done.
#[derive(Debug)]
pub struct Doomed {
    pins: Arc<Pins>,
    /// What they are.
    pub resources: Vec<Resource>,
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let mut state = self.pins.lock();
        for resource in &self.resources {
            state.doomed.remove(resource);
        }
        self.pins.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn pinned_and_used_things_are_not_doomed() {
        let pins = Arc::new(Pins::default());
        let [a, b, c] = [b"a", b"b", b"c"].map(|x| Resource::Blob(Digest::of(x)));
        let lease = pins.lease();
        lease.pin(a);
        lease.pin(a);
        let doomed = pins.doom([a, b, c], || HashSet::from([b]));
        assert_eq!(doomed.resources, [c]);
        assert!(pins.doom([c], HashSet::new).resources.is_empty());
        drop((doomed, lease));
        assert_eq!(pins.doom([a], HashSet::new).resources, [a]);
    }

    #[test]
    fn pinning_waits_for_a_removal() {
        let pins = Arc::new(Pins::default());
        let a = Resource::Layer(Digest::of(b"a"));
        let doomed = pins.doom([a], HashSet::new);
        let lease = Arc::new(pins.lease());
        let waiter = thread::spawn({
            let lease = Arc::clone(&lease);
            move || lease.pin(a)
        });
        // The waiter notes what it is about to pin before it waits.
        while lease.resources().is_empty() {
            thread::yield_now();
        }
        assert!(!pins.lock().pinned.contains_key(&a));
        drop(doomed);
        waiter.join().unwrap();
        assert!(pins.lock().pinned.contains_key(&a));
    }
}
