//! Images: what is listed, named, removed, and carried in and out.

use berth_api::{
    Ctx, ImageApi, ImageDeleteQuery, ImageListQuery, ImageLoadQuery, ImagePruneQuery, ImageTagQuery,
    JsonStream, RawBody, later,
    models::{
        ImageDeleteResponseItem, ImageHistoryResponseItem, ImageInspect, ImageLoadInfo, ImagePruneResponse,
        ImageSummary,
    },
};
use berth_runtime::{Error, Kind};
use tokio::sync::mpsc::Sender;
use tokio_util::io::SyncIoBridge;

use crate::{
    engine::{
        Engine,
        images::{ListRequest, User},
    },
    failure::{Failure, Reply},
};

/// Records of a transfer that wait for a slow client.
const WAITING: usize = 64;

impl ImageApi for Engine {
    async fn image_list(&self, ctx: Ctx, query: ImageListQuery) -> Reply<Vec<ImageSummary>> {
        // Until 1.41 one pattern could be given by itself.
        let filters = match query.filter.is_empty() {
            true => query.filters,
            false => query.filters.with("reference", &query.filter),
        };
        Ok(self.images.list(&ListRequest {
            filters: &filters,
            shared_size: query.shared_size,
            version: ctx.version,
        })?)
    }

    async fn image_inspect(&self, _: Ctx, name: String) -> Reply<ImageInspect> {
        Ok(self.images.inspect(&name)?)
    }

    async fn image_history(&self, _: Ctx, name: String) -> Reply<Vec<ImageHistoryResponseItem>> {
        Ok(self.images.history(&name)?)
    }

    async fn image_tag(&self, _: Ctx, name: String, query: ImageTagQuery) -> Reply<()> {
        let engine = self.clone();
        blocking(move || engine.images.tag(&name, &query.repo, &query.tag)).await
    }

    async fn image_delete(
        &self,
        _: Ctx,
        name: String,
        query: ImageDeleteQuery,
    ) -> Reply<Vec<ImageDeleteResponseItem>> {
        let engine = self.clone();
        blocking(move || engine.images.remove(&name, query.force, &|id| users(&engine, id))).await
    }

    async fn image_prune(&self, _: Ctx, query: ImagePruneQuery) -> Reply<ImagePruneResponse> {
        let engine = self.clone();
        let pruned = blocking(move || engine.images.prune(&query.filters, &|id| users(&engine, id))).await?;
        Ok(ImagePruneResponse {
            images_deleted: (!pruned.items.is_empty()).then_some(pruned.items),
            space_reclaimed: i64::try_from(pruned.reclaimed).unwrap_or(i64::MAX),
        })
    }

    async fn image_load(
        &self,
        _: Ctx,
        query: ImageLoadQuery,
        body: RawBody,
    ) -> Reply<JsonStream<ImageLoadInfo>> {
        let (sender, records) = JsonStream::channel::<Failure>(WAITING);
        let input = SyncIoBridge::new(body.into_reader());
        let images = self.images.clone();
        tokio::task::spawn_blocking(move || {
            let tell = |record| sender.blocking_send(Ok(record)).is_ok();
            finish(&sender, images.load(input, !query.quiet, &tell));
        });
        Ok(records)
    }

    later!(
        build_prune,
        image_build,
        image_commit,
        image_create,
        image_get,
        image_get_all,
        image_push,
        image_search
    );
}

/// The last record of a transfer that failed says why. There is nobody to tell if the client has left.
fn finish<T>(sender: &Sender<Result<T, Failure>>, result: Result<(), Error>) {
    if let Err(error) = result {
        let _client_left = sender.blocking_send(Err(error.into()));
    }
}

/// The containers that use an image: none as long as none can be made.
fn users(_: &Engine, _: &str) -> Vec<User> {
    Vec::new()
}

/// Work that waits for the disk, where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Reply<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Failure::new(
            Kind::Internal,
            format!("a piece of work was broken off: {error}"),
        )),
    }
}
