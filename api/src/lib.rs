//! The Engine API, generated from `openapi.yaml`, and the HTTP conventions around it.
//!
//! # How a handler is written
//!
//! The document declares an operation; `build.rs` makes of it a method of the trait of its tag, and of its
//! parameters, bodies and replies the method's types. The engine implements all the traits:
//!
//! ```text
//! impl Api for Engine {
//!     type Error = Error;                                    // implements Fault
//! }
//!
//! impl ContainerApi for Engine {
//!     async fn container_list(&self, ctx: Ctx, query: ContainerListQuery) -> Result<Vec<ContainerSummary>, Error> {
//!         if query.all { … }
//!         query.filters.exact("status", "running")
//!     }
//!     async fn container_create(&self, ctx: Ctx, query: ContainerCreateQuery, body: ContainerCreateRequest)
//!         -> Result<ContainerCreateResponse, Error> { … }
//!     async fn container_stats(&self, ctx: Ctx, id: String, query: ContainerStatsQuery)
//!         -> Result<JsonStream<ContainerStatsResponse>, Error> { … }
//!     async fn container_attach(&self, ctx: Ctx, id: String, query: ContainerAttachQuery) -> Result<Takeover, Error> { … }
//!     later!(container_export, container_attach_websocket);               // 501, naming the operation
//! }
//!
//! let app: axum::Router = berth_api::router(engine);
//! ```
//!
//! A method that is missing or has another signature does not compile. Arguments come in this order: [`Ctx`], the
//! path's names, the query, the headers, the body; what an operation does not have is left out.
//!
//! # What the document says, and what a handler sees
//!
//! | in the document | in Rust |
//! |---|---|
//! | schema | a struct of [`models`]; every field is public, `Default` is the zero value |
//! | property | its type; `Option` where null is declared (`[T, null]`), and for structs and enums that may be left out |
//! | `x-unknown` of an enum | what is said about other values, with `{}` in their place |
//! | `required` or `x-always` property | always written (`None` as null) |
//! | other property | left out when zero |
//! | string enum | an enum with `as_str`, `FromStr`, `Display`, `ALL` |
//! | query parameters | `<Operation>Query`: `bool`, `String` (empty when absent), numbers (`Option` unless there is a default or they are required), enums, lists, [`Filters`] |
//! | header parameters | `<Operation>Headers`, all `String`, empty when absent |
//! | JSON request body | the schema's struct, read by Go's rules ([`read`]) |
//! | other request body | [`RawBody`], a stream and a reader |
//! | JSON reply | the schema's struct, `Vec` or text |
//! | reply without content | `()` |
//! | `x-stream: json` or `progress` | [`JsonStream`] |
//! | `x-stream: frames` or `bytes` | [`ByteStream`] |
//! | `x-hijack`, `x-websocket` | [`Takeover`] |
//! | declared reply headers | `<Operation>Reply { header…, body }` |
//! | several 2xx replies | `enum <Operation>Reply { Ok(…), NoContent, … }` |
//! | 304 and errors | the handler's error, through [`Fault`] |
//! | `x-since`, `x-until` | operations are refused with 400, parameters and fields are not read and not written; handlers always think in the newest version |
//!
//! Handlers of operations that change something run in a task of their own, so they end even if the client goes away;
//! `GET` and streams are dropped with their client.

#![forbid(unsafe_code)]

mod body;
mod context;
mod document;
mod error;
mod filters;
pub mod frames;
pub mod progress;
mod query;
pub mod read;
mod reply;
mod route;
mod stream;
mod takeover;
mod values;
mod version;

#[allow(
    missing_docs,
    unused_variables,
    unused_mut,
    dead_code,
    rustdoc::all,
    clippy::all,
    clippy::pedantic
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/generated.rs"));
}

pub use body::{JSON_LIMIT, RawBody};
pub use context::{Ctx, Operation, OperationInfo};
pub use document::{Format, OPENAPI_JSON, OPENAPI_YAML, document_for};
pub use error::{ERROR_CODE, ErrorReply, Fault};
pub use filters::Filters;
pub use generated::{api::*, models};
pub use query::is_true;
pub use reply::JsonText;
pub use route::router;
pub use stream::{ByteStream, Framing, JsonStream};
pub use takeover::{Duplex, Takeover, TakeoverSlot, Taker, Upgraded};
/// The message stream of [`Takeover::websocket`].
pub use tokio_tungstenite::{WebSocketStream, tungstenite};
pub use values::EmptyObject;
pub use version::{ApiVersion, write_as};

/// Every operation of the contract, in the document's order.
pub fn operations() -> &'static [Operation] {
    &generated::router::OPERATIONS
}
