//! The engine itself: liveness, version, information, events, and its own documentation.

mod disk;
mod events;
mod info;
mod version;

use berth_api::{
    Ctx, Format, JsonStream, JsonText, SystemApi, SystemAuthReply, SystemDataUsageQuery, SystemEventsQuery,
    SystemPingHeadReply, SystemPingReply, document_for,
    models::{AuthConfig, EventMessage, SystemDataUsageResponse, SystemInfo, SystemVersion},
};

use super::{docs, registry};
use crate::{engine::Engine, failure::Reply};

const NO_CACHE: &str = "no-cache, no-store, must-revalidate";
/// The classic builder; clients then build without BuildKit.
const BUILDER: &str = "1";
const SWARM: &str = "inactive";

impl SystemApi for Engine {
    async fn system_ping(&self, _: Ctx) -> Reply<SystemPingReply> {
        Ok(SystemPingReply {
            builder_version: BUILDER.into(),
            cache_control: NO_CACHE.into(),
            pragma: "no-cache".into(),
            swarm: SWARM.into(),
            body: "OK".into(),
        })
    }

    async fn system_ping_head(&self, _: Ctx) -> Reply<SystemPingHeadReply> {
        Ok(SystemPingHeadReply {
            builder_version: BUILDER.into(),
            cache_control: NO_CACHE.into(),
            pragma: "no-cache".into(),
            swarm: SWARM.into(),
            body: (),
        })
    }

    async fn system_version(&self, _: Ctx) -> Reply<SystemVersion> {
        Ok(version::version(self))
    }

    async fn system_info(&self, _: Ctx) -> Reply<SystemInfo> {
        Ok(info::info(self))
    }

    async fn system_events(&self, ctx: Ctx, query: SystemEventsQuery) -> Reply<JsonStream<EventMessage>> {
        events::events(self, ctx.version, query)
    }

    async fn openapi_yaml(&self, ctx: Ctx) -> Reply<String> {
        let text = document_for(ctx.version, Format::Yaml);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn openapi_json(&self, ctx: Ctx) -> Reply<JsonText> {
        Ok(JsonText(document_for(ctx.version, Format::Json)))
    }

    async fn docs_page(&self, _: Ctx) -> Reply<String> {
        Ok(docs::PAGE.into())
    }

    async fn system_data_usage(
        &self,
        ctx: Ctx,
        query: SystemDataUsageQuery,
    ) -> Reply<SystemDataUsageResponse> {
        disk::usage(self, ctx.version, query).await
    }

    async fn system_auth(&self, _: Ctx, body: AuthConfig) -> Reply<SystemAuthReply> {
        Ok(SystemAuthReply::Ok(registry::login(self, body).await?))
    }
}
