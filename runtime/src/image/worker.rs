//! One thread that does small jobs in order, for an owner who need not wait.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Result, error::Context};

/// Jobs of type `T` and the thread that does them. Dropped, it ends after the job at hand; what is left is not done.
#[derive(Debug)]
pub struct Worker<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    jobs: VecDeque<T>,
    busy: bool,
    stopped: bool,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread `name`, which calls `work` with up to `most` jobs that wait.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(name: &str, most: usize, work: impl Fn(Vec<T>) + Send + 'static) -> Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                busy: false,
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || of_thread.run(most, work))
            .context(|| format!("cannot start the thread {name}"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Adds a job.
    pub fn push(&self, job: T) {
        self.shared.lock().jobs.push_back(job);
        self.shared.changed.notify_all();
    }

    /// Waits until all jobs are done, but no longer than `patience`.
    pub fn settle(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut queue = self.shared.lock();
        while queue.busy || !queue.jobs.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<T> Shared<T> {
    fn run(&self, most: usize, work: impl Fn(Vec<T>)) {
        let mut queue = self.lock();
        while !queue.stopped {
            let waiting = queue.jobs.len().min(most);
            if waiting == 0 {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let jobs = queue.jobs.drain(..waiting).collect();
            queue.busy = true;
            drop(queue);
            work(jobs);
            queue = self.lock();
            queue.busy = false;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panics only by a defect, and then nothing is left to do here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_are_done_in_order() {
        let (sender, done) = mpsc::channel();
        let worker = Worker::start("test", 3, move |batch: Vec<i32>| {
            assert!(batch.len() <= 3);
            batch.into_iter().for_each(|n| sender.send(n).unwrap());
        })
        .unwrap();
        for n in 0..100 {
            worker.push(n);
        }
        worker.settle(Duration::from_secs(60));
        assert!(done.try_iter().eq(0..100));
        drop(worker);
        assert!(done.recv().is_err());
    }
}
