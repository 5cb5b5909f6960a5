//! Images: what is listed, named, removed, and carried in and out.

use std::io;

use berth_api::{
    BuildPruneQuery, ByteStream, Ctx, ImageApi, ImageBuildHeaders, ImageBuildQuery, ImageCommitQuery,
    ImageCreateHeaders, ImageCreateQuery, ImageDeleteQuery, ImageGetAllQuery, ImageListQuery, ImageLoadQuery,
    ImagePruneQuery, ImagePushHeaders, ImagePushQuery, ImageSearchHeaders, ImageSearchQuery, ImageTagQuery,
    JsonStream, RawBody,
    models::{
        BuildInfo, BuildPruneResponse, ContainerConfig, CreateImageInfo, EventMessageType, IdResponse,
        ImageDeleteResponseItem, ImageHistoryResponseItem, ImageInspect, ImageLoadInfo, ImagePruneResponse,
        ImageSearchResponseItem, ImageSummary, PushImageInfo,
    },
};
use berth_runtime::{Error, Kind};
use futures_util::stream::poll_fn;
use tokio::sync::mpsc::Sender;
use tokio_util::io::SyncIoBridge;

use super::{chunks::Chunks, registry};
use crate::{
    engine::{
        Engine,
        build::{self, options::Options},
        containers::CommitRequest,
        download,
        events::Attributes,
        images::{Images, Import, ListRequest, User},
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

    async fn image_build(
        &self,
        _: Ctx,
        query: ImageBuildQuery,
        headers: ImageBuildHeaders,
        body: RawBody,
    ) -> Reply<JsonStream<BuildInfo>> {
        build::check_session(&query.session)?;
        let mut options = Options::read(query, headers.x_registry_config, &headers.x_build_secrets)?;
        options.told = Some(registry::build_record);
        let mut records = self.build(options, body).await?;
        Ok(JsonStream::of(poll_fn(move |cx| records.poll_recv(cx))))
    }

    async fn build_prune(&self, _: Ctx, query: BuildPruneQuery) -> Reply<BuildPruneResponse> {
        let engine = self.clone();
        let keep = query
            .keep_storage
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or_default();
        let (removed, bytes) =
            blocking(move || engine.build_cache.prune(query.all, keep, &query.filters)).await?;
        let reclaimed = Attributes::from([("reclaimed".to_owned(), bytes.to_string())]);
        self.events
            .publish(EventMessageType::Builder, "prune", "", reclaimed);
        Ok(BuildPruneResponse {
            caches_deleted: (!removed.is_empty()).then_some(removed),
            space_reclaimed: i64::try_from(bytes).unwrap_or(i64::MAX),
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
        Ok(records.begun().await)
    }

    async fn image_create(
        &self,
        _: Ctx,
        query: ImageCreateQuery,
        headers: ImageCreateHeaders,
        body: RawBody,
    ) -> Reply<JsonStream<CreateImageInfo>> {
        match query.from_src.as_str() {
            "-" => {
                let input = SyncIoBridge::new(body.into_reader());
                // Nothing is told before the end, so a failure has a status of its own.
                let imported = import(self.images.clone(), query, input).await?;
                Ok(JsonStream::once(async { Ok::<_, Failure>(imported) }))
            }
            "" if query.from_image.is_empty() => Err(Failure::new(
                Kind::Invalid,
                "nothing to create an image from: give fromImage or fromSrc",
            )),
            "" => registry::pull(self, query, &headers.x_registry_auth).await,
            source => {
                let input = download::read(&download::address_of(source)).await?;
                let input = SyncIoBridge::new(input);
                let imported = import(self.images.clone(), query, input).await?;
                Ok(JsonStream::once(async { Ok::<_, Failure>(imported) }))
            }
        }
    }

    async fn image_get(&self, _: Ctx, name: String) -> Reply<ByteStream> {
        save(self, &[name]).await
    }

    async fn image_get_all(&self, _: Ctx, query: ImageGetAllQuery) -> Reply<ByteStream> {
        save(self, &query.names).await
    }

    async fn image_push(
        &self,
        _: Ctx,
        name: String,
        query: ImagePushQuery,
        headers: ImagePushHeaders,
    ) -> Reply<JsonStream<PushImageInfo>> {
        registry::push(self, &name, &query.tag, &headers.x_registry_auth)
    }

    async fn image_search(
        &self,
        _: Ctx,
        query: ImageSearchQuery,
        headers: ImageSearchHeaders,
    ) -> Reply<Vec<ImageSearchResponseItem>> {
        registry::search(self, query, &headers.x_registry_auth).await
    }

    async fn image_commit(
        &self,
        _: Ctx,
        query: ImageCommitQuery,
        body: ContainerConfig,
    ) -> Reply<IdResponse> {
        let container = self.containers.find(&query.container)?;
        let request = CommitRequest {
            repository: query.repo,
            tag: query.tag,
            author: query.author,
            comment: query.comment,
            pause: query.pause,
            changes: query.changes,
            config: body,
        };
        let id = self.containers.commit(&self.images, &container, request).await?;
        Ok(IdResponse { id })
    }
}

/// Makes an image of an archive.
async fn import(
    images: Images,
    query: ImageCreateQuery,
    input: impl io::Read + Send + 'static,
) -> Result<CreateImageInfo, Failure> {
    let status = blocking(move || {
        let imported = images.import(
            input,
            &Import {
                source: &query.from_src,
                repository: &query.repo,
                tag: &query.tag,
                message: &query.message,
                platform: &query.platform,
                changes: &query.changes,
            },
        );
        // It is the archive that is too large, not the request.
        imported.map_err(|error| match error.kind() {
            Kind::TooLarge => Error::invalid(error.to_string()),
            _ => error,
        })
    })
    .await?;
    Ok(CreateImageInfo {
        status,
        ..CreateImageInfo::default()
    })
}

/// An archive of images, made while it is sent.
async fn save(engine: &Engine, names: &[String]) -> Reply<ByteStream> {
    let selected = engine.images.select(names)?;
    let images = engine.images.clone();
    Chunks::begun(move |out| images.save(&selected, out)).await
}

/// The last record of a transfer that failed says why. There is nobody to tell if the client has left.
fn finish<T>(sender: &Sender<Result<T, Failure>>, result: Result<(), Error>) {
    if let Err(error) = result {
        let _client_left = sender.blocking_send(Err(error.into()));
    }
}

/// The containers that use an image.
fn users(engine: &Engine, image: &str) -> Vec<User> {
    let containers = engine.containers.made_from(image);
    let mut users: Vec<User> = containers
        .iter()
        .map(|container| User {
            container: container.id().to_owned(),
            running: container.now().state.is_running(),
        })
        .collect();
    users.sort_by_key(|user| !user.running);
    users
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
