//! What is fetched by an address that a client names: contexts and files of builds, archives to import.

use std::{io, time::Duration};

use berth_runtime::{Error, Result};
use futures_util::TryStreamExt as _;
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH},
};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

/// How long a connection may take, and how long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer of what is at `address`.
///
/// # Errors
/// Invalid if it cannot be had.
pub async fn get(address: &str) -> Result<reqwest::Response> {
    let failed = |error: reqwest::Error| {
        Error::invalid(format!("cannot download {address}")).caused_by(error.without_url())
    };
    let response = client()?.get(address).send().await.map_err(failed)?;
    response.error_for_status().map_err(failed)
}

/// The answer of what is at `address`, unless the server says that it is what it was: what it gave then as `ETag` and
/// `Last-Modified` tells so. `authorization` goes to the host of the address only.
///
/// # Errors
/// As [`get`].
pub async fn get_if_changed(
    address: &str,
    tag: &str,
    modified: &str,
    authorization: Option<HeaderValue>,
) -> Result<Option<reqwest::Response>> {
    let failed = |error: reqwest::Error| {
        Error::invalid(format!("cannot download {address}")).caused_by(error.without_url())
    };
    let mut request = client()?.get(address);
    for (name, value) in [(IF_NONE_MATCH, tag), (IF_MODIFIED_SINCE, modified)] {
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    let response = request.send().await.map_err(failed)?;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    response.error_for_status().map(Some).map_err(failed)
}

/// What is at `address`, while it comes.
///
/// # Errors
/// As [`get`]; reading fails if it breaks off.
pub async fn read(address: &str) -> Result<impl AsyncRead + Send + Unpin + 'static> {
    let body = Box::pin(get(address).await?.bytes_stream());
    Ok(StreamReader::new(body.map_err(io::Error::other)))
}

/// An address as it is meant: a host and a path alone are http.
pub fn address_of(text: &str) -> String {
    match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    }
}

fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .build()
        .map_err(|error| Error::internal("cannot fetch anything").caused_by(error))
}
