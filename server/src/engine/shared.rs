//! Work that equal requests share.

use std::sync::{Arc, Mutex, PoisonError};

use berth_runtime::{Error, Kind, Result};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

type Work<T> = BoxFuture<'static, Result<T, Told>>;

/// A failure as all who wait for it are told.
type Told = (Kind, Arc<str>);

/// One calculation at a time: who asks while it is under way gets its result. It ends when nobody waits any more.
pub struct OneAtATime<T>(Mutex<Option<WeakShared<Work<T>>>>);

impl<T> Default for OneAtATime<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> std::fmt::Debug for OneAtATime<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneAtATime")
    }
}

impl<T: Clone + Send + Sync + 'static> OneAtATime<T> {
    /// The result of the calculation under way, or of `work` if there is none.
    ///
    /// # Errors
    /// The calculation's own.
    pub async fn join<F>(&self, work: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.under_way(work)
            .await
            .map_err(|(kind, message)| Error::new(kind, &*message))
    }

    fn under_way<F>(&self, work: impl FnOnce() -> F) -> Shared<Work<T>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = slot.as_ref().and_then(WeakShared::upgrade);
        if let Some(running) = running.filter(|running| running.peek().is_none()) {
            return running;
        }
        let work = work().map(|result| result.map_err(|error| (error.kind(), error.to_string().into())));
        let new = work.boxed().shared();
        *slot = new.downgrade();
        new
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_asks_meanwhile_shares_and_who_asks_later_does_not() {
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let one = OneAtATime::<usize>::default();
        let work = || {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let run = runs.fetch_add(1, Ordering::Relaxed);
                let _open = gate.acquire().await;
                Ok(run)
            }
        };
        let open = async {
            tokio::task::yield_now().await;
            gate.add_permits(1);
        };
        let (first, second, ()) = tokio::join!(one.join(work), one.join(work), open);
        assert_eq!((first.unwrap(), second.unwrap()), (0, 0));
        assert_eq!(one.join(work).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn failures_are_shared_too() {
        let one = OneAtATime::<()>::default();
        let error = one
            .join(|| async { Err(Error::conflict("no")) })
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::Conflict, "no"));
    }
}
