//! Who reads the counters of a container: one task for all who want to know.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    super::{Containers, model::Container},
    sample::Sample,
};

/// Time between two samples.
const PERIOD: Duration = Duration::from_secs(1);

/// The latest sample; none while the container does not run. The number tells samples apart.
type Latest = (u64, Option<Arc<Sample>>);

/// The containers that are watched, by id. Locked for look-ups in memory only.
#[derive(Debug, Default)]
pub struct Samplers(Mutex<HashMap<Arc<str>, watch::Sender<Latest>>>);

/// Somebody's place at a sampler. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Samples {
    latest: watch::Receiver<Latest>,
    seen: u64,
}

impl Samples {
    fn new(latest: watch::Receiver<Latest>) -> Self {
        Self { latest, seen: 0 }
    }

    /// The next sample, at once if there is one that was not seen yet; no more when the container is gone.
    pub async fn next(&mut self) -> Option<Option<Arc<Sample>>> {
        let seen = self.seen;
        let latest = self.latest.wait_for(|(number, _)| *number > seen).await.ok()?;
        self.seen = latest.0;
        Some(latest.1.clone())
    }
}

impl Samplers {
    fn samplers(&self) -> MutexGuard<'_, HashMap<Arc<str>, watch::Sender<Latest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place at the sampler of a container, which begins its work if it is the first.
    pub(super) fn follow(&self, containers: &Containers, container: &Arc<Container>) -> Samples {
        let mut samplers = self.samplers();
        if let Some(sampler) = samplers.get(container.id()) {
            return Samples::new(sampler.subscribe());
        }
        let (sender, receiver) = watch::channel((0, None));
        samplers.insert(Arc::clone(&container.identity.id), sender.clone());
        drop(samplers);
        let (containers, container) = (containers.clone(), Arc::clone(container));
        let tasks = containers.tasks.clone();
        tasks.spawn(async move { run(containers, container, sender).await });
        Samples::new(receiver)
    }

    /// Takes a sampler away if nobody is there.
    fn leave(&self, id: &str, sender: &watch::Sender<Latest>) -> bool {
        let mut samplers = self.samplers();
        let idle = sender.receiver_count() == 0;
        if idle {
            samplers.remove(id);
        }
        idle
    }
}

/// Reads until nobody watches any more or the container is gone.
async fn run(containers: Containers, container: Arc<Container>, sender: watch::Sender<Latest>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = container.progress.subscribe();
    for number in 1.. {
        tokio::select! {
            _ = ticks.tick() => {}
            removed = progress.wait_for(|progress| progress.removed) => {
                drop(removed);
                containers.samplers.samplers().remove(container.id());
                return;
            }
        }
        if containers.samplers.leave(container.id(), &sender) {
            return;
        }
        let sample = containers.sample(&container).await;
        // Whoever left meanwhile is noticed at the next tick.
        sender.send_replace((number, sample));
    }
}
