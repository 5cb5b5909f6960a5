//! Which execs there are, and for how long.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::Exec;

/// Exit code of an exec of which nothing is known but that it is over.
pub(super) const UNKNOWN_EXIT: i64 = 137;
/// How long an exec that is over can be inspected.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// How many execs that are over are kept; beyond that the oldest go earlier.
const KEPT_MAX: usize = 10_000;
/// How long an exec may wait to be started.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// The execs, by id and by container. Locked for look-ups in memory only.
#[derive(Debug, Default)]
pub struct Execs {
    table: Mutex<Table>,
    /// Whether a task forgets those whose time is over.
    swept: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<Arc<str>, Arc<Exec>>,
    /// Those of each container, oldest first.
    by_container: HashMap<Arc<str>, Vec<Arc<Exec>>>,
    /// Those that have not been started, and until when they may be.
    unstarted: HashMap<Arc<str>, Instant>,
    /// Those that are over, in the order of their ends, and until when they are kept.
    over: VecDeque<(Instant, Arc<Exec>)>,
}

impl Execs {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change leaves the maps usable at any point.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller is to see to those whose time is over.
    pub(super) fn take_broom(&self) -> bool {
        !self.swept.swap(true, Ordering::AcqRel)
    }

    /// The caller does so no more.
    pub(super) fn give_broom_back(&self) {
        self.swept.store(false, Ordering::Release);
    }

    /// The exec of that full id.
    pub fn get(&self, id: &str) -> Option<Arc<Exec>> {
        self.table().by_id.get(id).cloned()
    }

    /// The execs of a container, oldest first.
    pub fn of(&self, container: &str) -> Vec<Arc<Exec>> {
        self.table()
            .by_container
            .get(container)
            .cloned()
            .unwrap_or_default()
    }

    /// Adds one.
    pub(super) fn insert(&self, exec: &Arc<Exec>, now: Instant) {
        let mut table = self.table();
        let id = Arc::clone(&exec.id);
        table.unstarted.insert(Arc::clone(&id), now + PATIENCE);
        table.by_id.insert(id, Arc::clone(exec));
        let container = Arc::clone(&exec.container);
        table
            .by_container
            .entry(container)
            .or_default()
            .push(Arc::clone(exec));
    }

    /// Notes that one has been started.
    pub(super) fn started(&self, exec: &Exec) {
        self.table().unstarted.remove(&exec.id);
    }

    /// Notes that one is over.
    pub(super) fn over(&self, exec: &Arc<Exec>, now: Instant) {
        let mut table = self.table();
        table.unstarted.remove(&exec.id);
        if table.by_id.contains_key(&exec.id) {
            table.over.push_back((now + KEPT, Arc::clone(exec)));
        }
    }

    /// Forgets one.
    pub(super) fn remove(&self, exec: &Exec) {
        self.table().remove(exec);
    }

    /// Forgets all of a container.
    pub(in super::super) fn remove_all(&self, container: &str) {
        let mut table = self.table();
        for exec in table.by_container.remove(container).unwrap_or_default() {
            table.by_id.remove(&exec.id);
            table.unstarted.remove(&exec.id);
        }
        table.over.retain(|(_, exec)| *exec.container != *container);
    }

    /// Takes out those whose time is over, and tells when to look again, if ever.
    pub(super) fn expire(&self, now: Instant) -> (Vec<Arc<Exec>>, Option<Instant>) {
        let mut table = self.table();
        let mut gone = table.late(now);
        while let Some((until, exec)) = table.over.front()
            && (*until <= now || table.over.len() > KEPT_MAX)
        {
            gone.push(Arc::clone(exec));
            table.over.pop_front();
        }
        for exec in &gone {
            table.remove(exec);
        }
        let next = table.over.front().map(|(until, _)| *until);
        let next = table.unstarted.values().copied().chain(next).min();
        (gone, next)
    }
}

impl Table {
    fn remove(&mut self, exec: &Exec) {
        self.by_id.remove(&exec.id);
        self.unstarted.remove(&exec.id);
        if let Some(execs) = self.by_container.get_mut(&exec.container) {
            execs.retain(|other| other.id != exec.id);
            if execs.is_empty() {
                self.by_container.remove(&exec.container);
            }
        }
    }

    /// Those that nobody has started in time; from now on nobody can.
    fn late(&self, now: Instant) -> Vec<Arc<Exec>> {
        let late = self.unstarted.iter().filter(|(_, until)| **until <= now);
        late.filter_map(|(id, _)| self.by_id.get(id))
            .filter(|exec| exec.give_up())
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Setup, *};

    fn exec(id: &str) -> Arc<Exec> {
        Exec::new(id.into(), "c".into(), Setup::default(), false)
    }

    #[test]
    fn what_is_over_is_kept_for_five_minutes() {
        let execs = Execs::default();
        let (one, two) = (exec("1"), exec("2"));
        let start = Instant::now();
        execs.insert(&one, start);
        execs.insert(&two, start);
        assert!(one.begin());
        execs.started(&one);
        one.end(0);
        execs.over(&one, start);

        let (gone, next) = execs.expire(start + KEPT - Duration::from_secs(1));
        assert!(gone.is_empty() && execs.get("1").is_some());
        assert_eq!(next, Some(start + KEPT));
        let (gone, next) = execs.expire(start + KEPT);
        assert_eq!(gone.len(), 1);
        assert!(execs.get("1").is_none() && execs.of("c").len() == 1);

        assert_eq!(next, Some(start + PATIENCE));
        let (gone, next) = execs.expire(start + PATIENCE);
        assert_eq!((gone.len(), next), (1, None), "nobody has started it");
        assert!(execs.of("c").is_empty() && !two.begin());
    }

    #[test]
    fn all_go_with_their_container() {
        let execs = Execs::default();
        let now = Instant::now();
        execs.insert(&exec("1"), now);
        execs.insert(&exec("2"), now);
        execs.remove_all("c");
        assert!(execs.get("1").is_none() && execs.of("c").is_empty());
        assert_eq!(execs.expire(now).1, None);
    }
}
