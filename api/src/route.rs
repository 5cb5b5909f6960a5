//! From a request to its operation: path, version, operation, and the headers every known route carries.

use std::{borrow::Cow, cmp::Ordering, convert::Infallible, panic::AssertUnwindSafe, pin::Pin};

use axum::{Router, body::Body, extract::Request};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tower::service_fn;

use crate::{
    body::{self, RawBody},
    context::{Ctx, OperationInfo},
    error::{ErrorReply, Fault},
    generated::{
        api::Engine,
        router::{OPERATIONS, Op, dispatch, find},
    },
    query::Query,
    reply::Reply,
    takeover::{Takeover, TakeoverSlot},
    version::ApiVersion,
};

/// The whole API over `engine`, ready to be served or nested into a larger router as its fallback.
pub fn router<E: Engine>(engine: E) -> Router {
    Router::new().fallback_service(service_fn(move |request: Request| {
        let engine = engine.clone();
        async move { Ok::<_, Infallible>(answer(engine, request).await) }
    }))
}

/// The answer to come from a handler, boxed so that the router's own future stays small.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Result<Reply, ErrorReply>> + Send>>;

/// Everything of a request that generated code reads its arguments from.
pub(crate) struct Call {
    pub(crate) ctx: Ctx,
    names: std::vec::IntoIter<String>,
    pub(crate) query: Query,
    headers: HeaderMap,
    body: Body,
    slot: Option<TakeoverSlot>,
}

impl Call {
    pub(crate) fn name(&mut self) -> String {
        self.names.next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    }

    pub(crate) async fn json<T: DeserializeOwned + Default>(
        &mut self,
        required: bool,
    ) -> Result<T, ErrorReply> {
        let body = std::mem::take(&mut self.body);
        body::json(&self.headers, body, required, self.ctx.version).await
    }

    pub(crate) fn raw_body(&mut self) -> RawBody {
        RawBody::new(&self.headers, std::mem::take(&mut self.body))
    }

    /// What is needed to reply by a takeover, kept while the handler runs.
    pub(crate) fn takeover(&mut self) -> PendingTakeover {
        PendingTakeover {
            headers: std::mem::take(&mut self.headers),
            slot: self.slot.take(),
            version: self.ctx.version,
        }
    }
}

/// See [`Call::takeover`].
pub(crate) struct PendingTakeover {
    headers: HeaderMap,
    slot: Option<TakeoverSlot>,
    version: ApiVersion,
}

impl PendingTakeover {
    pub(crate) fn reply(self, takeover: Takeover) -> Result<Reply, ErrorReply> {
        takeover.reply(&self.headers, self.slot.as_ref(), self.version)
    }
}

/// A handler's result with its error as it goes out.
pub(crate) fn settle<T, E: Fault>(result: Result<T, E>) -> Result<T, ErrorReply> {
    result.map_err(|error| error.reply())
}

/// Runs a handler that must not be dropped midway in a task of its own: a client that goes away does not stop it.
pub(crate) fn to_the_end(
    handler: impl Future<Output = Result<Reply, ErrorReply>> + Send + 'static,
) -> Pending {
    let handler = tokio::spawn(handler);
    Box::pin(async move {
        handler.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a handler did not end");
            Err(panicked())
        })
    })
}

/// What a client hears of a handler that panicked; the panic itself is in the log.
fn panicked() -> ErrorReply {
    ErrorReply::internal("the engine failed while it worked on this request; its log says why")
}

async fn answer<E: Engine>(engine: E, request: Request) -> Reply {
    let (call, op) = match understand(request) {
        Ok(understood) => understood,
        Err(refused) => return *refused,
    };
    let operation = call.ctx.operation;
    let version = call.ctx.version;
    let mut reply = match gate(&call.ctx) {
        Ok(()) => {
            let handled = AssertUnwindSafe(dispatch(op, engine, call)).catch_unwind().await;
            handled
                .unwrap_or_else(|_| Err(panicked()))
                .unwrap_or_else(ErrorReply::into_response)
        }
        Err(refused) => refused.into_response(),
    };
    if operation.takes_over && reply.status().as_u16() >= 400 {
        // Who waits for a raw stream reads to the end of the connection.
        reply
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
        .extensions_mut()
        .insert(OperationInfo { operation, version });
    known_route(&mut reply);
    reply
}

/// Finds the operation of a request; what has none is answered here.
fn understand(request: Request) -> Result<(Call, Op), Box<Reply>> {
    let (parts, body) = request.into_parts();
    if parts.method == Method::OPTIONS {
        let mut reply = Reply::new(Body::empty());
        known_route(&mut reply);
        return Err(Box::new(reply));
    }
    let path = parts.uri.path();
    if let Some(clean) = cleaned(path) {
        return Err(Box::new(moved(&clean, parts.uri.query())));
    }
    let (prefix, rest) = split_version(path);
    let segments = decode(rest).map_err(|error| Box::new(error.into_response()))?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let Some((op, names)) = find(parts.method.as_str(), &segments) else {
        return Err(Box::new(page_not_found()));
    };
    let version = match prefix.map_or(Ok(ApiVersion::NEWEST), ApiVersion::negotiate) {
        Ok(version) => version,
        Err(place) => {
            let mut reply = refuse_version(prefix.unwrap_or_default(), place).into_response();
            known_route(&mut reply);
            return Err(Box::new(reply));
        }
    };
    let call = Call {
        ctx: Ctx {
            operation: &OPERATIONS[op as usize],
            version,
            upgrade: parts.headers.contains_key(header::UPGRADE),
            body_length: body.size_hint().exact(),
        },
        names: names.into_iter(),
        query: Query::parse(parts.uri.query().unwrap_or_default(), version),
        slot: parts.extensions.get::<TakeoverSlot>().cloned(),
        headers: parts.headers,
        body,
    };
    Ok((call, op))
}

/// Refuses an operation that the version asked for does not have.
fn gate(ctx: &Ctx) -> Result<(), ErrorReply> {
    let operation = ctx.operation;
    if ctx.version.within(operation.since, operation.until) {
        return Ok(());
    }
    let bound = match (operation.since, operation.until) {
        (Some(since), _) if ctx.version < since => format!("requires minimum API version {since}"),
        (_, Some(until)) => format!("exists only below API version {until}"),
        _ => "does not exist in this API version".to_owned(),
    };
    let message = format!("{} {} {bound}", operation.method, operation.path);
    Err(ErrorReply::invalid(message).code("version"))
}

fn refuse_version(asked: &str, place: Ordering) -> ErrorReply {
    let message = match place {
        Ordering::Greater => format!(
            "client version {asked} is too new. Maximum supported API version is {}",
            ApiVersion::NEWEST
        ),
        _ => format!(
            "client version {asked} is too old. Minimum supported API version is {}, \
             please upgrade your client to a newer version",
            ApiVersion::OLDEST
        ),
    };
    ErrorReply::invalid(message).code("version")
}

fn page_not_found() -> Reply {
    ErrorReply::new(StatusCode::NOT_FOUND, "page not found").into_response()
}

/// The headers by which clients know the engine; they are on every reply of a known route.
fn known_route(reply: &mut Reply) {
    const HEADERS: [(HeaderName, HeaderValue); 4] = [
        (
            HeaderName::from_static("api-version"),
            HeaderValue::from_static("1.43"),
        ),
        (
            HeaderName::from_static("docker-experimental"),
            HeaderValue::from_static("false"),
        ),
        (
            HeaderName::from_static("ostype"),
            HeaderValue::from_static("linux"),
        ),
        (
            header::SERVER,
            HeaderValue::from_static(concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)")),
        ),
    ];
    for (name, value) in HEADERS {
        reply.headers_mut().insert(name, value);
    }
}

/// Where to find a path with empty, `.` or `..` segments instead; none if it has none.
fn cleaned(path: &str) -> Option<String> {
    let segments = path.strip_prefix('/')?.split('/');
    let last = segments.clone().count() - 1;
    if !segments.clone().enumerate().any(|(at, segment)| match segment {
        "" => at != last,
        "." | ".." => true,
        _ => false,
    }) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in segments {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    Some(format!("/{}{slash}", kept.join("/")))
}

fn moved(path: &str, query: Option<&str>) -> Reply {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let Ok(target) = HeaderValue::from_str(&target) else {
        return page_not_found();
    };
    let mut reply = Reply::new(Body::empty());
    *reply.status_mut() = StatusCode::MOVED_PERMANENTLY;
    reply.headers_mut().insert(header::LOCATION, target);
    reply
}

/// Splits `/v1.43/rest` into version and `/rest`. What is not `v`, digits and dots is no version.
fn split_version(path: &str) -> (Option<&str>, &str) {
    let Some(after) = path.strip_prefix("/v") else {
        return (None, path);
    };
    let end = after.find('/').unwrap_or(after.len());
    let (version, rest) = after.split_at(end);
    match !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        true => (Some(version), rest),
        false => (None, path),
    }
}

/// The decoded segments of a path that starts with `/`. The slash at the end counts for nothing at `/networks/`,
/// which clients use; elsewhere it leaves an empty segment that no route has.
fn decode(path: &str) -> Result<Vec<Cow<'_, str>>, ErrorReply> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = if path == "networks/" { "networks" } else { path };
    path.split('/')
        .map(|segment| {
            percent_decode_str(segment).decode_utf8().map_err(|_| {
                ErrorReply::invalid(format!(
                    "the path segment {segment:?} is not percent-encoded UTF-8"
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::generated::router::echo;

    /// Whether `whole` has all that `part` has; examples leave out what is of no interest.
    fn holds(whole: &Value, part: &Value) -> bool {
        match (whole, part) {
            (Value::Object(whole), Value::Object(part)) => part
                .iter()
                .all(|(key, part)| whole.get(key).is_some_and(|whole| holds(whole, part))),
            (Value::Array(whole), Value::Array(part)) => {
                whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| holds(whole, part))
            }
            (whole, part) => whole == part,
        }
    }

    /// The document's own examples of replies come out of the models as they went in.
    #[test]
    fn examples_of_replies_are_what_the_models_write() {
        let document: Value = serde_json::from_str(crate::OPENAPI_JSON).expect("JSON");
        let mut wrong = Vec::new();
        let mut seen = 0;
        for operation in &OPERATIONS {
            let method = operation.method.as_str().to_lowercase();
            let responses = &document["paths"][operation.path][method.as_str()]["responses"];
            let example = ["200", "201"].iter().find_map(|status| {
                responses[status]["content"]["application/json"]
                    .get("example")
                    .cloned()
            });
            let segments: Vec<&str> = operation.path[1..].split('/').collect();
            let found = find(operation.method.as_str(), &segments);
            let (Some(example), Some((op, _))) = (example, found) else {
                continue;
            };
            if let Some(echo) = echo(op, example.clone()) {
                seen += 1;
                if !echo.as_ref().is_ok_and(|echo| holds(echo, &example)) {
                    wrong.push(format!("{}:\n  {example}\n  {echo:?}", operation.id));
                }
            }
        }
        assert!(seen > 40, "only {seen} replies have an example");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
