//! What a container uses: samples, one or a stream of them.
//!
//! As long as anybody watches a container, one task reads its counters once a second for all who do; see [`sampler`].
//! [`sample`] reads them, [`view`] writes them as clients know them.

mod sample;
mod sampler;
mod view;

use std::sync::Arc;

use berth_api::models::ContainerStatsResponse;
use futures_util::{Stream, StreamExt, stream};

use self::sample::Sample;
pub use self::sampler::Samplers;
use super::{Containers, blocking, model::Container};

/// How a client wants its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// One each second until it leaves or the container is gone.
    Stream,
    /// One, after two that are a second apart.
    Once,
    /// One, at once.
    OneShot,
}

impl Containers {
    /// The samples of a container. One that does not run has none of its own: then they are empty.
    pub fn stats(
        &self,
        container: &Arc<Container>,
        watch: Watch,
    ) -> impl Stream<Item = ContainerStatsResponse> + Send + 'static {
        let (this, container) = (self.clone(), Arc::clone(container));
        let runs = container.now().state.has_process();
        match watch {
            Watch::Once if !runs => stream::once(async move { view::empty(&container) }).boxed(),
            Watch::OneShot => stream::once(async move {
                match this.sample(&container).await {
                    Some(sample) => view::response(&container, &sample, None),
                    None => view::empty(&container),
                }
            })
            .boxed(),
            Watch::Once => this.sampled(container).skip(1).take(1).boxed(),
            Watch::Stream => this.sampled(container).boxed(),
        }
    }

    /// The samples of the container's sampler, each with the one before.
    fn sampled(&self, container: Arc<Container>) -> impl Stream<Item = ContainerStatsResponse> + use<> {
        let samples = self.samplers.follow(self, &container);
        stream::unfold((samples, None::<Arc<Sample>>), move |(mut samples, before)| {
            let container = Arc::clone(&container);
            async move {
                let sample = samples.next().await?;
                let response = match &sample {
                    Some(sample) => view::response(&container, sample, before.as_deref()),
                    None => view::empty(&container),
                };
                Some((response, (samples, sample)))
            }
        })
    }

    /// Reads the counters of a container; none if it does not run.
    async fn sample(&self, container: &Arc<Container>) -> Option<Arc<Sample>> {
        let state = &container.now().state;
        let pid = state.has_process().then_some(state.pid)?;
        let own_network = view::has_own_network(container);
        let (this, of) = (self.clone(), Arc::clone(container));
        let sample = blocking(move || {
            let cgroup = this.cgroup(&of)?;
            Sample::read(&cgroup, own_network.then_some(pid))
        });
        match sample.await {
            Ok(sample) => Some(Arc::new(sample)),
            Err(error) => {
                // It has ended meanwhile, most of the time.
                tracing::debug!(container = container.id(), %error, "what a container uses could not be read");
                None
            }
        }
    }
}
