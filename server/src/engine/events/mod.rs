//! What happened: the record of events, and those who follow it.
//!
//! The latest events are kept in one ring, numbered without a gap. A follower is nothing but a position in
//! it: it costs no memory, a slow one never holds up the engine, replay and live events meet without loss or
//! repetition, and one that falls so far behind that its next event is gone is told how many it missed.

mod filter;
mod journal;

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use berth_api::Filters;
use berth_runtime::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::journal::Journal;
pub use berth_api::models::EventMessageType;

/// How many events are kept, for `since` and for slow followers.
const KEPT: usize = 1024;

/// Attributes of an event: facts and labels of the object as texts.
pub type Attributes = BTreeMap<String, String>;

/// Something that happened. All events of one engine are of local scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the order of all events of this engine's life.
    #[serde(skip)]
    pub number: u64,
    /// When; later than every event before.
    pub at: Timestamp,
    /// Type of the object.
    pub subject: EventMessageType,
    /// What happened, for example `start` or `exec_create: ls -l`.
    pub action: String,
    /// Id of the object, the name for volumes.
    pub id: String,
    /// Facts and labels of the object.
    pub attributes: Attributes,
}

/// The record of events.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<Ring>,
    /// Number of the next event; what followers wait on.
    next: watch::Sender<u64>,
    /// Followers that belong to the engine itself.
    own: AtomicUsize,
}

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Arc<Event>>,
    next: u64,
    last: Timestamp,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            next: watch::Sender::new(0),
            own: AtomicUsize::new(0),
        }
    }
}

impl Events {
    /// The events of which there is a journal in `directory`, and to which those to come are written, by a task.
    ///
    /// # Errors
    /// Internal, if it cannot be read or written.
    pub fn open(directory: &Path) -> Result<Arc<Self>> {
        let (journal, kept) = Journal::open(directory)?;
        let events = Arc::new(Self::default());
        {
            let mut ring = events.ring();
            for mut event in kept {
                event.number = ring.next;
                ring.next += 1;
                ring.last = ring.last.max(event.at);
                ring.kept.push_back(Arc::new(event));
            }
            events.next.send_replace(ring.next);
        }
        events.own.fetch_add(1, Ordering::Relaxed);
        let follower = events.follow(Filters::default(), None, None);
        tokio::spawn(write(follower, journal));
        Ok(events)
    }

    /// Records that `action` happened to the object `id`; never waits for a follower.
    pub fn publish(
        &self,
        subject: EventMessageType,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: Attributes,
    ) {
        let (action, id) = (action.into(), id.into());
        let next = {
            let mut ring = self.ring();
            // Strictly increasing, so that a time tells exactly where a follower left off.
            let after = ring
                .last
                .checked_add(jiff::SignedDuration::from_nanos(1))
                .unwrap_or(ring.last);
            let event = Event {
                number: ring.next,
                at: Timestamp::now().max(after),
                subject,
                action,
                id,
                attributes,
            };
            ring.last = event.at;
            ring.next += 1;
            if ring.kept.len() == KEPT {
                ring.kept.pop_front();
            }
            ring.kept.push_back(Arc::new(event));
            ring.next
        };
        self.next.send_if_modified(|sent| {
            let later = next > *sent;
            *sent = next.max(*sent);
            later
        });
    }

    /// Follows the events that fit `filter`: with `since` or `until` the kept ones between them first, both
    /// included, then those to come. [`Follower::next`] gives them one by one.
    pub fn follow(
        self: &Arc<Self>,
        filter: Filters,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Follower {
        // Before the position is taken, so that nothing between the two is missed.
        let news = self.next.subscribe();
        let ring = self.ring();
        let position = match (since, until) {
            (None, None) => ring.next,
            (None, Some(_)) => ring.first(),
            (Some(since), _) => ring.first() + ring.kept.partition_point(|event| event.at < since) as u64,
        };
        drop(ring);
        Follower {
            events: Arc::clone(self),
            news,
            position,
            until,
            filter,
        }
    }

    /// How many follow the events now.
    pub fn followers(&self) -> usize {
        let own = self.own.load(Ordering::Relaxed);
        self.next.receiver_count().saturating_sub(own)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is valid between any two of its statements that can panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Number of the oldest kept event.
    fn first(&self) -> u64 {
        self.next - self.kept.len() as u64
    }
}

/// Writes what `follower` gets, together what comes together. It ends with the engine.
async fn write(mut follower: Follower, mut journal: Journal) {
    while let Some(first) = follower.next().await {
        let mut items = vec![first];
        items.extend(std::iter::from_fn(|| follower.kept()));
        let events: Vec<Arc<Event>> = items
            .into_iter()
            .filter_map(|item| match item {
                Item::Event(event) => Some(event),
                Item::Missed(_) => None,
            })
            .collect();
        // A few hundred bytes into the page cache: less than it takes to wake another thread for it.
        if let Err(error) = journal.append(&events) {
            tracing::warn!(%error, "events are not kept for the next engine");
        }
    }
}

/// What a follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The next event that fits.
    Event(Arc<Event>),
    /// This many events, which may or may not have fitted, are gone: the follower was too slow.
    Missed(u64),
}

/// A position in the events. Dropping it ends it.
#[derive(Debug)]
pub struct Follower {
    events: Arc<Events>,
    news: watch::Receiver<u64>,
    position: u64,
    until: Option<Timestamp>,
    filter: Filters,
}

impl Follower {
    /// The next event, or `None` once `until` has passed. Safe to cancel: nothing is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            self.news.borrow_and_update();
            if let Some(item) = self.kept() {
                return self.within(item);
            }
            let changed = self.news.changed();
            let Some(until) = self.until else {
                changed.await.ok()?;
                continue;
            };
            let left = until.duration_since(Timestamp::now());
            let left = std::time::Duration::try_from(left).ok()?;
            match tokio::time::timeout(left, changed).await {
                Ok(result) => result.ok()?,
                // What was published before the deadline is still to be given.
                Err(_) => return self.kept().and_then(|item| self.within(item)),
            }
        }
    }

    /// The next one that is already there.
    fn kept(&mut self) -> Option<Item> {
        let ring = self.events.ring();
        let first = ring.first();
        if self.position < first {
            let missed = first - self.position;
            self.position = first;
            return Some(Item::Missed(missed));
        }
        let skip = usize::try_from(self.position - first).ok()?;
        for event in ring.kept.iter().skip(skip) {
            self.position = event.number + 1;
            let late = self.until.is_some_and(|until| event.at > until);
            if late || filter::fits(&self.filter, event) {
                return Some(Item::Event(Arc::clone(event)));
            }
        }
        None
    }

    fn within(&self, item: Item) -> Option<Item> {
        match &item {
            Item::Event(event) if self.until.is_some_and(|until| event.at > until) => None,
            _ => Some(item),
        }
    }
}

#[cfg(test)]
mod tests;
