//! The operations of the API, one file a tag: check, call the engine, map the result.

mod archive;
mod chunks;
mod containers;
mod distribution;
mod docs;
mod execs;
mod images;
mod maintenance;
mod networks;
mod plugins;
mod registry;
mod session;
mod swarm;
mod system;
mod volumes;

use std::convert::Infallible;

use axum::{Router, extract::Request, response::Response};
use berth_api::Api;
use tower::{ServiceExt, service_fn};

use crate::{engine::Engine, failure::Failure};

impl Api for Engine {
    type Error = Failure;
}

/// Everything that is served: the API, and the files of its page.
pub fn app(engine: Engine) -> Router {
    let api = berth_api::router(engine);
    Router::new().fallback_service(service_fn(move |request: Request| {
        let api = api.clone();
        async move { Ok::<Response, Infallible>(answer(api, request).await) }
    }))
}

async fn answer(api: Router, request: Request) -> Response {
    if let Some(file) = docs::file(request.method(), request.uri().path()) {
        return file;
    }
    match api.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
