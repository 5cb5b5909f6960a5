//! Network namespaces that are made ahead: making one takes the kernel about half a millisecond, which is a fair part of
//! what the start of a container takes.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use nix::sched::{CloneFlags, setns};

use super::Namespace;
use crate::{Result, error::Context};

/// A few namespaces nobody has been in yet, and the thread that makes them.
#[derive(Debug)]
pub struct Pool {
    ready: Arc<Mutex<Vec<Namespace>>>,
    /// Wakes the thread; none once it is to end.
    wanted: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// A pool that is filled up to `size` whenever [`Pool::refill`] is called, and empty until then.
    ///
    /// # Errors
    /// Internal, if there can be no thread.
    pub fn new(size: usize) -> Result<Self> {
        let ready = Arc::<Mutex<Vec<Namespace>>>::default();
        let (wanted, asked) = sync_channel(1);
        let filled = Arc::clone(&ready);
        let thread = thread::Builder::new()
            .name("berth-net".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || serve(&asked, &filled, size))
            .context(|| "cannot start the thread that makes network namespaces")?;
        Ok(Self {
            ready,
            wanted: Some(wanted),
            thread: Some(thread),
        })
    }

    /// One of them, if there is one.
    pub fn take(&self) -> Option<Namespace> {
        lock(&self.ready).pop()
    }

    /// Lets the thread make what is missing; does not wait for it.
    pub fn refill(&self) {
        match self.wanted.as_ref().map(|wanted| wanted.try_send(())) {
            // It has been asked already.
            None | Some(Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(()))) => {}
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // It never panics, and nothing of it is needed any more.
            let _ = thread.join();
        }
    }
}

/// The thread's life. It is in each namespace while it makes it and goes home afterwards, so as not to keep one alive.
fn serve(asked: &Receiver<()>, ready: &Mutex<Vec<Namespace>>, size: usize) {
    let Ok(home) = Namespace::of_this_thread() else {
        return;
    };
    while asked.recv().is_ok() {
        while lock(ready).len() < size {
            let made = Namespace::enter_new();
            if setns(&home, CloneFlags::CLONE_NEWNET).is_err() {
                // Whoever wants one makes it without this thread.
                return;
            }
            match made {
                Ok(namespace) => lock(ready).push(namespace),
                Err(_) => break,
            }
        }
    }
}

fn lock(ready: &Mutex<Vec<Namespace>>) -> MutexGuard<'_, Vec<Namespace>> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use super::*;

    fn wait_for_one(pool: &Pool) -> Namespace {
        pool.refill();
        loop {
            if let Some(namespace) = pool.take() {
                return namespace;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn each_is_new_and_has_its_loopback_interface_up() {
        let pool = Pool::new(2).unwrap();
        assert!(pool.take().is_none());
        let (mut one, other) = (wait_for_one(&pool), wait_for_one(&pool));
        let id = |path: &Path| fs::read_link(path).unwrap();
        assert_ne!(id(&one.path()), id(&other.path()));
        assert_ne!(id(&one.path()), id(Path::new("/proc/self/ns/net")));
        assert!(one.links.get("lo").unwrap().up);
    }
}
