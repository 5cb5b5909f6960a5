//! Containers.

use berth_api::{
    ApiVersion, ByteStream, ContainerApi, ContainerArchiveInfoQuery, ContainerArchiveInfoReply,
    ContainerArchiveQuery, ContainerArchiveReply, ContainerAttachQuery, ContainerAttachWebsocketQuery,
    ContainerCreateQuery, ContainerDeleteQuery, ContainerInspectQuery, ContainerKillQuery,
    ContainerListQuery, ContainerLogsQuery, ContainerPruneQuery, ContainerRenameQuery, ContainerResizeQuery,
    ContainerRestartQuery, ContainerStartQuery, ContainerStatsQuery, ContainerStopQuery, ContainerTopQuery,
    ContainerWaitQuery, Ctx, JsonStream, PutContainerArchiveQuery, RawBody, Takeover,
    models::{
        ContainerCreateRequest, ContainerCreateResponse, ContainerInspectResponse, ContainerPruneResponse,
        ContainerStatsResponse, ContainerSummary, ContainerTopResponse, ContainerUpdateRequest,
        ContainerUpdateResponse, ContainerWaitResponse, FilesystemChange,
    },
};
use berth_runtime::{Error, Kind, supervisor::Streams};

use super::archive;
use crate::{
    engine::{
        Engine,
        containers::{AttachRequest, ListRequest, LogRequest, Messages, Removal, Watch, detach::DetachKeys},
    },
    failure::{Failure, Reply},
};

impl ContainerApi for Engine {
    async fn container_list(&self, _: Ctx, query: ContainerListQuery) -> Reply<Vec<ContainerSummary>> {
        let request = ListRequest {
            all: query.all,
            limit: query.limit.unwrap_or_default(),
            size: query.size,
            filters: query.filters,
        };
        Ok(self.containers.list(request).await?)
    }

    async fn container_create(
        &self,
        ctx: Ctx,
        query: ContainerCreateQuery,
        body: ContainerCreateRequest,
    ) -> Reply<ContainerCreateResponse> {
        Ok(self
            .containers
            .create(body, ctx.version, &query.name, &query.platform)
            .await?)
    }

    async fn container_inspect(
        &self,
        _: Ctx,
        id: String,
        query: ContainerInspectQuery,
    ) -> Reply<ContainerInspectResponse> {
        let container = self.containers.find(&id)?;
        let size = match query.size {
            true => Some(self.containers.size(&container).await?),
            false => None,
        };
        Ok(self.containers.inspect(&container, size))
    }

    async fn container_top(
        &self,
        _: Ctx,
        id: String,
        query: ContainerTopQuery,
    ) -> Reply<ContainerTopResponse> {
        let container = self.containers.find(&id)?;
        Ok(self.containers.top(&container, &query.ps_args).await?)
    }

    async fn container_logs(&self, _: Ctx, id: String, query: ContainerLogsQuery) -> Reply<ByteStream> {
        let container = self.containers.find(&id)?;
        let request = LogRequest {
            follow: query.follow,
            stdout: query.stdout,
            stderr: query.stderr,
            since: query.since,
            until: query.until,
            timestamps: query.timestamps,
            details: query.details,
            tail: query.tail,
        };
        let (framing, log) = self.containers.logs(&container, &request).await?;
        Ok(ByteStream::output(framing, log))
    }

    async fn container_stats(
        &self,
        _: Ctx,
        id: String,
        query: ContainerStatsQuery,
    ) -> Reply<JsonStream<ContainerStatsResponse>> {
        let container = self.containers.find(&id)?;
        let watch = match (query.stream, query.one_shot) {
            (true, false) => Watch::Stream,
            (false, false) => Watch::Once,
            (false, true) => Watch::OneShot,
            (true, true) => {
                let message = "cannot have stream=true and one-shot=true";
                return Err(Failure::new(Kind::Invalid, message));
            }
        };
        Ok(JsonStream::of(self.containers.stats(&container, watch)))
    }

    async fn container_resize(&self, _: Ctx, id: String, query: ContainerResizeQuery) -> Reply<()> {
        let container = self.containers.find(&id)?;
        Ok(self.containers.resize(&container, query.h, query.w).await?)
    }

    async fn container_start(&self, ctx: Ctx, id: String, query: ContainerStartQuery) -> Reply<()> {
        // What containers are started with is said when they are created. Up to 7 bytes may be an empty object.
        if ctx.body_length.is_none_or(|length| length > 7) {
            let message =
                "a start takes no configuration: send no body, and give it when the container is created";
            return Err(Failure::new(Kind::Invalid, message));
        }
        // Used by no one but checked like any other.
        DetachKeys::parse(&query.detach_keys)?;
        let container = self.containers.find(&id)?;
        Ok(self.containers.start(&container).await?)
    }

    async fn container_stop(&self, _: Ctx, id: String, query: ContainerStopQuery) -> Reply<()> {
        let container = self.containers.find(&id)?;
        Ok(self.containers.stop(&container, &query.signal, query.t).await?)
    }

    async fn container_restart(&self, _: Ctx, id: String, query: ContainerRestartQuery) -> Reply<()> {
        let container = self.containers.find(&id)?;
        Ok(self
            .containers
            .restart(&container, &query.signal, query.t)
            .await?)
    }

    async fn container_kill(&self, _: Ctx, id: String, query: ContainerKillQuery) -> Reply<()> {
        let container = self
            .containers
            .find(&id)
            .map_err(|error| Error::new(error.kind(), format!("cannot kill container: {id}: {error}")))?;
        Ok(self.containers.kill(&container, &id, &query.signal).await?)
    }

    async fn container_update(
        &self,
        ctx: Ctx,
        id: String,
        mut body: ContainerUpdateRequest,
    ) -> Reply<ContainerUpdateResponse> {
        if ctx.version < ApiVersion::new(1, 40) {
            body.pids_limit = None;
        }
        let container = self.containers.find(&id)?;
        Ok(self.containers.update(&container, body).await?)
    }

    async fn container_rename(&self, _: Ctx, id: String, query: ContainerRenameQuery) -> Reply<()> {
        let container = self.containers.find(&id)?;
        Ok(self.containers.rename(&container, &query.name).await?)
    }

    async fn container_pause(&self, _: Ctx, id: String) -> Reply<()> {
        let container = self.containers.find(&id)?;
        Ok(self.containers.pause(&container).await?)
    }

    async fn container_unpause(&self, _: Ctx, id: String) -> Reply<()> {
        let container = self.containers.find(&id)?;
        Ok(self.containers.unpause(&container).await?)
    }

    async fn container_attach(&self, _: Ctx, id: String, query: ContainerAttachQuery) -> Reply<Takeover> {
        let container = self.containers.find(&id)?;
        let request = AttachRequest {
            logs: query.logs,
            stream: query.stream,
            streams: Streams {
                stdin: query.stdin,
                stdout: query.stdout,
                stderr: query.stderr,
            },
            detach_keys: query.detach_keys,
        };
        let attachment = self.containers.attach(&container, request).await?;
        let framing = attachment.framing();
        Ok(Takeover::streams(framing, |client| attachment.serve(client)))
    }

    async fn container_attach_websocket(
        &self,
        ctx: Ctx,
        id: String,
        query: ContainerAttachWebsocketQuery,
    ) -> Reply<Takeover> {
        let container = self.containers.find(&id)?;
        // Older clients get all streams, and text where they are older still.
        let all = ctx.version < ApiVersion::new(1, 42);
        let messages = match ctx.version < ApiVersion::new(1, 28) {
            true => Messages::Text,
            false => Messages::Binary,
        };
        let request = AttachRequest {
            logs: query.logs,
            stream: query.stream,
            streams: Streams {
                stdin: query.stdin || all,
                stdout: query.stdout || all,
                stderr: query.stderr || all,
            },
            detach_keys: query.detach_keys,
        };
        let attachment = self.containers.attach(&container, request).await?;
        Ok(Takeover::websocket(move |client| {
            attachment.serve_websocket(client, messages)
        }))
    }

    async fn container_wait(
        &self,
        _: Ctx,
        id: String,
        query: ContainerWaitQuery,
    ) -> Reply<JsonStream<ContainerWaitResponse>> {
        let container = self.containers.find(&id)?;
        let wait = self.containers.wait(&container, query.condition);
        Ok(JsonStream::of(futures_util::stream::once(wait)))
    }

    async fn container_delete(&self, _: Ctx, id: String, query: ContainerDeleteQuery) -> Reply<()> {
        if query.link {
            return Ok(self.containers.remove_link(&id).await?);
        }
        let container = self.containers.find(&id)?;
        let removal = Removal {
            force: query.force,
            volumes: query.v,
        };
        Ok(self.containers.remove(&container, removal).await?)
    }

    async fn container_prune(&self, _: Ctx, query: ContainerPruneQuery) -> Reply<ContainerPruneResponse> {
        Ok(self.containers.prune(&query.filters).await?)
    }

    async fn container_changes(&self, _: Ctx, id: String) -> Reply<Option<Vec<FilesystemChange>>> {
        let container = self.containers.find(&id)?;
        Ok(self.containers.changes(&container).await?)
    }

    async fn container_export(&self, _: Ctx, id: String) -> Reply<ByteStream> {
        archive::export(self, &id).await
    }

    async fn container_archive_info(
        &self,
        _: Ctx,
        id: String,
        query: ContainerArchiveInfoQuery,
    ) -> Reply<ContainerArchiveInfoReply> {
        Ok(ContainerArchiveInfoReply {
            x_docker_container_path_stat: archive::info(self, &id, &query.path).await?,
            body: (),
        })
    }

    async fn container_archive(
        &self,
        _: Ctx,
        id: String,
        query: ContainerArchiveQuery,
    ) -> Reply<ContainerArchiveReply> {
        archive::get(self, &id, &query.path).await
    }

    async fn put_container_archive(
        &self,
        _: Ctx,
        id: String,
        query: PutContainerArchiveQuery,
        body: RawBody,
    ) -> Reply<()> {
        archive::put(self, &id, query, body).await
    }
}
