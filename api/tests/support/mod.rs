//! An engine that answers from its arguments, so that tests see what a handler gets and what becomes of its answer.

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use berth_api::{models::*, *};
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};
use tower::ServiceExt;

#[derive(Clone, Default)]
pub struct Fake {
    /// What handlers note.
    pub seen: Arc<Mutex<Vec<String>>>,
    /// Lets a handler that waits go on.
    pub go: Arc<Notify>,
    /// Tells that a handler waits, or has ended.
    pub at: Arc<Notify>,
}

impl Fake {
    fn note(&self, what: impl Into<String>) {
        self.seen.lock().expect("not poisoned").push(what.into());
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

impl Api for Fake {
    type Error = ErrorReply;
}

impl ContainerApi for Fake {
    async fn container_list(
        &self,
        _: Ctx,
        query: ContainerListQuery,
    ) -> Result<Vec<ContainerSummary>, ErrorReply> {
        self.note(format!("{query:?}"));
        Ok(Vec::new())
    }

    /// Answers what it read, as text.
    async fn container_create(
        &self,
        _: Ctx,
        query: ContainerCreateQuery,
        body: ContainerCreateRequest,
    ) -> Result<ContainerCreateResponse, ErrorReply> {
        Ok(ContainerCreateResponse {
            id: query.name,
            warnings: vec![
                serde_json::to_string(&body).map_err(|error| ErrorReply::internal(error.to_string()))?,
            ],
        })
    }

    /// An inspect full of markup, to be written as it is.
    async fn container_inspect(
        &self,
        _: Ctx,
        id: String,
        _: ContainerInspectQuery,
    ) -> Result<ContainerInspectResponse, ErrorReply> {
        Ok(ContainerInspectResponse {
            path: "<a> & b".into(),
            id,
            ..Default::default()
        })
    }

    async fn container_logs(
        &self,
        _: Ctx,
        id: String,
        _: ContainerLogsQuery,
    ) -> Result<ByteStream, ErrorReply> {
        let framing = match id.as_str() {
            "terminal" => Framing::Raw,
            _ => Framing::Multiplexed,
        };
        let chunks = [Ok(frames::frame(frames::Source::Stdout, b"hi"))];
        Ok(ByteStream::output(framing, stream::iter(chunks)))
    }

    async fn container_stop(&self, _: Ctx, _: String, query: ContainerStopQuery) -> Result<(), ErrorReply> {
        self.note(format!("{query:?}"));
        Err(ErrorReply::new(StatusCode::NOT_MODIFIED, "it does not run"))
    }

    /// Waits to be told to go on.
    async fn container_kill(&self, _: Ctx, id: String, _: ContainerKillQuery) -> Result<(), ErrorReply> {
        self.at.notify_one();
        self.go.notified().await;
        self.note(format!("killed {id}"));
        self.at.notify_one();
        Ok(())
    }

    async fn container_pause(&self, _: Ctx, _: String) -> Result<(), ErrorReply> {
        panic!("a handler panics");
    }

    async fn container_wait(
        &self,
        _: Ctx,
        _: String,
        query: ContainerWaitQuery,
    ) -> Result<JsonStream<ContainerWaitResponse>, ErrorReply> {
        self.note(format!("{query:?}"));
        let go = self.go.clone();
        Ok(JsonStream::once(async move {
            go.notified().await;
            Ok::<_, ErrorReply>(ContainerWaitResponse {
                status_code: 7,
                ..Default::default()
            })
        }))
    }

    /// Sends back what it gets, in capitals, then ends its half.
    async fn container_attach(
        &self,
        _: Ctx,
        id: String,
        _: ContainerAttachQuery,
    ) -> Result<Takeover, ErrorReply> {
        if id == "detached" {
            return Ok(Takeover::none());
        }
        if id == "gone" {
            return Err(ErrorReply::new(StatusCode::NOT_FOUND, "No such container: gone"));
        }
        Ok(Takeover::streams(
            Framing::Multiplexed,
            |mut connection| async move {
                let mut input = Vec::new();
                if connection.read_to_end(&mut input).await.is_ok() {
                    input.make_ascii_uppercase();
                    let _ = connection.write_all(&input).await;
                }
            },
        ))
    }

    async fn container_attach_websocket(
        &self,
        _: Ctx,
        _: String,
        _: ContainerAttachWebsocketQuery,
    ) -> Result<Takeover, ErrorReply> {
        Ok(Takeover::websocket(|socket| async { drop(socket) }))
    }

    async fn container_archive(
        &self,
        _: Ctx,
        _: String,
        query: ContainerArchiveQuery,
    ) -> Result<ContainerArchiveReply, ErrorReply> {
        Ok(ContainerArchiveReply {
            x_docker_container_path_stat: query.path,
            body: ByteStream::reader(io::Cursor::new(b"tar".to_vec())),
        })
    }

    async fn put_container_archive(
        &self,
        _: Ctx,
        _: String,
        _: PutContainerArchiveQuery,
        body: RawBody,
    ) -> Result<(), ErrorReply> {
        let content_type = body.content_type.clone();
        let mut bytes = Vec::new();
        let read = body.into_reader().read_to_end(&mut bytes).await;
        read.map_err(|error| ErrorReply::invalid(error.to_string()))?;
        self.note(format!("{content_type} {}", bytes.len()));
        Ok(())
    }

    async fn container_prune(
        &self,
        _: Ctx,
        query: ContainerPruneQuery,
    ) -> Result<ContainerPruneResponse, ErrorReply> {
        self.note(format!("{:?}", query.filters.values("label").collect::<Vec<_>>()));
        Ok(Default::default())
    }

    later!(
        container_top,
        container_changes,
        container_export,
        container_stats,
        container_resize,
        container_start,
        container_restart,
        container_update,
        container_rename,
        container_unpause,
        container_delete,
        container_archive_info,
    );
}

impl ImageApi for Fake {
    async fn image_inspect(&self, _: Ctx, name: String) -> Result<ImageInspect, ErrorReply> {
        Ok(ImageInspect {
            id: name,
            ..Default::default()
        })
    }

    /// Two records, the second of which is an error.
    async fn image_create(
        &self,
        _: Ctx,
        query: ImageCreateQuery,
        headers: ImageCreateHeaders,
        _: RawBody,
    ) -> Result<JsonStream<CreateImageInfo>, ErrorReply> {
        self.note(format!("{query:?} {headers:?}"));
        Ok(JsonStream::new(stream::iter([
            Ok(CreateImageInfo {
                status: "Pulling".into(),
                progress_detail: Some(ProgressDetail::default()),
                ..Default::default()
            }),
            Err(ErrorReply::internal("no such registry")),
        ])))
    }

    later!(
        build_prune,
        image_build,
        image_commit,
        image_delete,
        image_get,
        image_get_all,
        image_history,
        image_list,
        image_load,
        image_prune,
        image_push,
        image_search,
        image_tag,
    );
}

impl SystemApi for Fake {
    async fn system_auth(&self, _: Ctx, body: AuthConfig) -> Result<SystemAuthReply, ErrorReply> {
        Ok(match body.username.as_str() {
            "" => SystemAuthReply::NoContent,
            _ => SystemAuthReply::Ok(SystemAuthResponse::default()),
        })
    }

    async fn system_events(
        &self,
        _: Ctx,
        query: SystemEventsQuery,
    ) -> Result<JsonStream<EventMessage>, ErrorReply> {
        self.note(format!("{:?}", query.filters));
        Ok(JsonStream::of(stream::iter([
            EventMessage::default(),
            EventMessage::default(),
        ])))
    }

    async fn system_ping(&self, _: Ctx) -> Result<SystemPingReply, ErrorReply> {
        Ok(SystemPingReply {
            body: "OK".into(),
            ..Default::default()
        })
    }

    async fn openapi_json(&self, ctx: Ctx) -> Result<JsonText, ErrorReply> {
        Ok(JsonText(document_for(ctx.version, Format::Json)))
    }

    later!(
        system_data_usage,
        system_info,
        system_ping_head,
        system_version,
        openapi_yaml,
        docs_page,
    );
}

impl ConfigApi for Fake {
    later!(
        config_create,
        config_inspect,
        config_delete,
        config_list,
        config_update
    );
}

impl MaintenanceApi for Fake {
    later!(system_check, system_repair);
}

impl DistributionApi for Fake {
    later!(distribution_inspect);
}

impl ExecApi for Fake {
    later!(container_exec, exec_start, exec_resize, exec_inspect);
}

impl NetworkApi for Fake {
    later!(
        network_connect,
        network_create,
        network_inspect,
        network_delete,
        network_disconnect,
        network_list,
        network_prune
    );
}

impl NodeApi for Fake {
    later!(node_inspect, node_delete, node_list, node_update);
}

impl PluginApi for Fake {
    later!(
        get_plugin_privileges,
        plugin_create,
        plugin_delete,
        plugin_disable,
        plugin_enable,
        plugin_inspect,
        plugin_list,
        plugin_pull,
        plugin_push,
        plugin_set,
        plugin_upgrade
    );
}

impl SecretApi for Fake {
    later!(
        secret_create,
        secret_inspect,
        secret_delete,
        secret_list,
        secret_update
    );
}

impl ServiceApi for Fake {
    later!(
        service_create,
        service_inspect,
        service_delete,
        service_list,
        service_logs,
        service_update
    );
}

impl SessionApi for Fake {
    later!(session);
}

impl SwarmApi for Fake {
    later!(
        swarm_init,
        swarm_inspect,
        swarm_join,
        swarm_leave,
        swarm_unlock,
        swarm_unlockkey,
        swarm_update
    );
}

impl TaskApi for Fake {
    later!(task_inspect, task_list, task_logs);
}

impl VolumeApi for Fake {
    later!(
        volume_create,
        volume_inspect,
        volume_update,
        volume_delete,
        volume_list,
        volume_prune
    );
}

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub operation: Option<OperationInfo>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("a text"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }

    pub fn message(&self) -> String {
        let Value::Object(members) = self.json() else {
            panic!("no object: {}", self.body);
        };
        assert_eq!(members.len(), 1, "an error is its message alone");
        members["message"].as_str().expect("a text").to_owned()
    }
}

/// Sends a request through the router of `engine`.
pub async fn send(engine: &Fake, request: Request<Body>) -> Answer {
    let app: Router = router(engine.clone());
    let response = app.oneshot(request).await.expect("the router can't fail");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("the body ends well").to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        operation: parts.extensions.get::<OperationInfo>().copied(),
        body: String::from_utf8(body.to_vec()).expect("the body is text"),
    }
}

/// A request without a body.
pub async fn call(engine: &Fake, method: &str, uri: &str) -> Answer {
    let request = Request::builder().method(method).uri(uri).body(Body::empty());
    send(engine, request.expect("a request")).await
}

/// A request with a JSON body.
pub async fn call_json(engine: &Fake, method: &str, uri: &str, body: impl Into<Body>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/json")
        .body(body.into());
    send(engine, request.expect("a request")).await
}
