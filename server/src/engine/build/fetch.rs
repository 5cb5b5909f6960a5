//! What comes by its address: contexts and files over HTTP.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use berth_runtime::{Error, Result, error::Context as _, image::build};
use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_DISPOSITION, ETAG, HeaderName, HeaderValue, LAST_MODIFIED};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    cache,
    context::Context,
    dockerfile::{self, Dockerfile},
    git,
    job::{Job, blocking},
    progress::{Failed, Out},
};
use crate::engine::{Engine, download};

/// How long a Dockerfile that comes by its address may be, in bytes.
const DOCKERFILE_MAX: usize = 4 << 20;
/// How many bytes one file may have.
const FILE_MAX: u64 = 64 << 30;
/// What is known of a kept download.
const RECORD: &str = "download.json";

/// Whether `text` is an address.
pub fn is_remote(text: &str) -> bool {
    is_http(text) || git::is_git(text)
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Fetches a source of `ADD`. A file gets the name it has at its address, or any if `needs_name` is not set.
///
/// # Errors
/// Invalid if it cannot be had, or is not what `--checksum` says.
pub async fn fetch(
    job: &Arc<Job>,
    address: &str,
    copy: &dockerfile::Copy,
    needs_name: bool,
    out: &Out,
) -> Result<Context, Failed> {
    if git::is_git(address) {
        out.text(format!("Fetching {address}\n")).await?;
        return Ok(git::clone(&job.engine, address, copy.keep_git, copy.checksum.as_deref()).await?);
    }
    out.text(format!("Downloading {address}\n")).await?;
    let kept = job.engine.build_cache.download(address).await?;
    let known = Known::read(&kept.path).filter(|_| !job.options.no_cache);
    let known = renew(address, &kept.path, known, authorization(job, address)?).await?;
    if let Some(expected) = &copy.checksum
        && *expected != known.digest
    {
        return Err(Error::invalid(format!("digest mismatch {}: expected {expected}", known.digest)).into());
    }
    let name = known.name.as_deref().or_else(|| file_name(address));
    let name = match name {
        Some(name) => name.to_owned(),
        None if !needs_name => "download".to_owned(),
        None => {
            return Err(Error::invalid(format!("cannot determine filename from URL: {address}")).into());
        }
    };
    let store = Arc::clone(job.store());
    let context = blocking(move || {
        let context = Context::empty(&store)?;
        let (body, path) = (kept.path.join(&known.digest), context.path().join(name));
        fs::hard_link(&body, &path)
            .or_else(|_| fs::copy(&body, &path).map(drop))
            .context(|| "cannot take a download")?;
        Ok(context)
    });
    Ok(context.await?)
}

/// What the secrets `HTTP_AUTH_HEADER_<host>` and `HTTP_AUTH_TOKEN_<host>` say to the host of an address.
fn authorization(job: &Job, address: &str) -> Result<Option<HeaderValue>> {
    let host = reqwest::Url::parse(address).ok();
    let host = host.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    let secret = |kind: &str| job.options.secrets.get(&format!("HTTP_AUTH_{kind}_{host}"));
    let value = match (secret("HEADER"), secret("TOKEN")) {
        (Some(header), _) => header.clone(),
        (None, Some(token)) => [b"Bearer ", token.as_slice()].concat(),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_bytes(value.trim_ascii())
        .map_err(|_| Error::invalid(format!("the secret for {host} cannot be sent in a header")))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A file as it was fetched; its content is a file named like its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    digest: String,
    /// `ETag` and `Last-Modified` as the server gave them.
    tag: String,
    modified: String,
    /// What the server calls it.
    name: Option<String>,
}

impl Known {
    fn read(directory: &Path) -> Option<Self> {
        let known: Self = serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()?;
        directory.join(&known.digest).is_file().then_some(known)
    }
}

/// What is at `address` now, in `directory`: what is known if the server says that it has not changed.
async fn renew(
    address: &str,
    directory: &Path,
    known: Option<Known>,
    authorization: Option<HeaderValue>,
) -> Result<Known> {
    let (tag, modified) = known
        .as_ref()
        .map_or(("", ""), |known| (known.tag.as_str(), known.modified.as_str()));
    let response = match download::get_if_changed(address, tag, modified, authorization).await? {
        Some(response) => response,
        None => return known.ok_or_else(|| Error::invalid(format!("{address}: the server gives nothing"))),
    };
    let header = |name: HeaderName| {
        let value = response.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let mut fresh = Known {
        tag: header(ETAG),
        modified: header(LAST_MODIFIED),
        name: disposition(&header(CONTENT_DISPOSITION)),
        ..Known::default()
    };
    let new = directory.join("new");
    fresh.digest = save(response, address, &new).await?;
    let directory = directory.to_owned();
    blocking(move || {
        build::set_mode(&new, 0o600)?;
        let time = jiff::fmt::rfc2822::parse(&fresh.modified)
            .ok()
            .and_then(|at| SystemTime::try_from(at.timestamp()).ok())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        fs::File::options()
            .write(true)
            .open(&new)
            .and_then(|file| file.set_modified(time))
            .context(|| "cannot date a download")?;
        fs::rename(&new, directory.join(&fresh.digest)).context(|| "cannot keep a download")?;
        cache::replace(&directory.join(RECORD), &fresh)?;
        if let Some(old) = known.filter(|old| old.digest != fresh.digest) {
            fs::remove_file(directory.join(old.digest)).context(|| "cannot remove an old download")?;
        }
        Ok(fresh)
    })
    .await
}

/// The last component of the path of an address.
fn file_name(address: &str) -> Option<&str> {
    let path = address.split_once("://")?.1.split(['?', '#']).next()?;
    sound_name(path.split_once('/')?.1.rsplit('/').next()?)
}

/// The name in a `Content-Disposition`.
fn disposition(value: &str) -> Option<String> {
    let parameter = value.split(';').skip(1).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("filename").then_some(value)
    });
    let name = parameter?.trim().trim_matches('"');
    sound_name(name.rsplit(['/', '\\']).next()?).map(str::to_owned)
}

fn sound_name(name: &str) -> Option<&str> {
    (!matches!(name, "" | "." | "..") && name.len() < 256 && !name.contains('\0')).then_some(name)
}

/// Writes an answer to `path`. Returns its digest.
async fn save(response: reqwest::Response, address: &str, path: &Path) -> Result<String> {
    let mut file = fs::File::create(path).context(|| format!("cannot write {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut body = response.bytes_stream();
    let mut length = 0_u64;
    while let Some(chunk) = body.next().await {
        let chunk =
            chunk.map_err(|e| Error::invalid(format!("{address} broke off")).caused_by(e.without_url()))?;
        length += chunk.len() as u64;
        if length > FILE_MAX {
            return Err(Error::invalid(format!(
                "{address} is larger than {FILE_MAX} bytes"
            )));
        }
        hash.update(&chunk);
        file.write_all(&chunk)
            .context(|| format!("cannot write {}", path.display()))?;
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{digest}"))
}

/// Makes a context of what `remote` names: a repository, an archive, or a single Dockerfile.
///
/// # Errors
/// Invalid if it cannot be had or is none of these.
pub async fn context(engine: &Engine, remote: &str, dockerfile: &str) -> Result<(Context, Dockerfile)> {
    if git::is_git(remote) {
        let context = git::clone(engine, remote, false, None).await?;
        let name = dockerfile.to_owned();
        return blocking(move || {
            let dockerfile = context.dockerfile(&name)?;
            Ok((context, dockerfile))
        })
        .await;
    }
    if !is_http(remote) {
        return Err(Error::invalid(format!(
            "remote URL {remote:?} is neither http, https nor a git repository"
        )));
    }
    let store = Arc::clone(engine.images.store());
    let holder = blocking(move || store.scratch()).await?;
    let path = holder.path().join("download");
    let response = download::get(remote);
    let saving = async { save(response.await?, remote, &path).await };
    saving.await.map_err(|error| {
        let message = format!("error downloading remote context {remote}");
        Error::new(error.kind(), message).caused_by(error)
    })?;
    let (store, name) = (Arc::clone(engine.images.store()), dockerfile.to_owned());
    blocking(move || {
        let _holder = holder;
        let mut file = fs::File::open(&path).context(|| "cannot open a download")?;
        if build::is_archive(&mut file, &berth_runtime::image::Limits::default())? {
            let file = fs::File::open(&path).context(|| "cannot open a download")?;
            let context = Context::of_archive(&store, file)?;
            let dockerfile = context.dockerfile(&name)?;
            return Ok((context, dockerfile));
        }
        let mut text = Vec::new();
        let file = fs::File::open(&path).context(|| "cannot open a download")?;
        file.take(DOCKERFILE_MAX as u64 + 1)
            .read_to_end(&mut text)
            .context(|| "cannot read a download")?;
        let text = String::from_utf8(text)
            .ok()
            .filter(|text| text.len() <= DOCKERFILE_MAX)
            .ok_or_else(|| {
                Error::invalid("the remote is neither an archive nor a text: it cannot be a build context")
            })?;
        Ok((Context::empty(&store)?, Dockerfile::parse(&text)?))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_remote("http://x/y"));
        assert!(!is_remote("x/y"));
        assert_eq!(file_name("http://x/y/z.tar?a=/b"), Some("z.tar"));
        for nameless in ["http://x", "http://x/", "http://x/a/", "http://x/.."] {
            assert_eq!(file_name(nameless), None, "{nameless}");
        }
        for (value, name) in [
            ("attachment; filename=\"a.txt\"", Some("a.txt")),
            ("attachment; filename=../../etc/b", Some("b")),
            ("attachment; FileName=..", None),
            ("inline", None),
        ] {
            assert_eq!(disposition(value).as_deref(), name, "{value}");
        }
    }
}
