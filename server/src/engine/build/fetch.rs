//! What comes by its address: files over HTTP, repositories by git.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use berth_runtime::{Error, Result, error::Context as _, image::build};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::{
    context::Context,
    dockerfile::{self, Dockerfile},
    job::{Job, blocking},
    progress::{Failed, Out},
};
use crate::engine::{Engine, download};

/// How long git may take.
const GIT_PATIENCE: Duration = Duration::from_secs(600);
/// How long a Dockerfile that comes by its address may be, in bytes.
const DOCKERFILE_MAX: usize = 4 << 20;
/// How many bytes one file may have.
const FILE_MAX: u64 = 64 << 30;

/// Whether `text` is an address.
pub fn is_remote(text: &str) -> bool {
    is_http(text) || is_git(text)
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Whether `text` names a git repository (Docker's rule for `remote`).
pub fn is_git(text: &str) -> bool {
    let path = text.split('#').next().unwrap_or_default();
    (is_http(text) && path.ends_with(".git"))
        || text.starts_with("git://")
        || text.starts_with("git@")
        || text.starts_with("ssh://")
        || text.starts_with("github.com/")
}

/// Fetches a source of `ADD`.
///
/// # Errors
/// Invalid if it cannot be had, or is not what `--checksum` says.
pub async fn fetch(
    job: &Arc<Job>,
    address: &str,
    copy: &dockerfile::Copy,
    out: &Out,
) -> Result<Context, Failed> {
    if is_git(address) {
        return Ok(clone(&job.engine, address, copy.keep_git).await?);
    }
    let store = Arc::clone(job.store());
    let context = blocking(move || Context::empty(&store)).await?;
    let name = file_name(address)
        .ok_or_else(|| Error::invalid(format!("cannot determine filename from URL: {address}")))?;
    let path = context.path().join(name);
    out.text(format!("Downloading {address}\n")).await?;
    let (digest, modified) = save(address, &path).await?;
    if let Some(expected) = &copy.checksum
        && *expected != digest
    {
        return Err(Error::invalid(format!("digest mismatch {digest}: expected {expected}")).into());
    }
    blocking(move || {
        build::set_mode(&path, 0o600)?;
        let time = modified.unwrap_or(std::time::UNIX_EPOCH);
        let file = fs::File::options()
            .write(true)
            .open(&path)
            .context(|| "cannot open a download")?;
        file.set_modified(time).context(|| "cannot date a download")
    })
    .await?;
    Ok(context)
}

/// The last component of the path of an address.
fn file_name(address: &str) -> Option<&str> {
    let path = address.split_once("://")?.1.split(['?', '#']).next()?;
    let name = path.split_once('/')?.1.rsplit('/').next()?;
    (!matches!(name, "" | "." | "..") && name.len() < 256).then_some(name)
}

/// Writes what is at `address` to `path`. Returns its digest and when it was changed.
async fn save(address: &str, path: &Path) -> Result<(String, Option<std::time::SystemTime>)> {
    let response = download::get(address).await?;
    let modified = response
        .headers()
        .get("last-modified")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
        .and_then(|at| std::time::SystemTime::try_from(at.timestamp()).ok());
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
    Ok((format!("sha256:{digest}"), modified))
}

/// Makes a context of what `remote` names: a repository, an archive, or a single Dockerfile.
///
/// # Errors
/// Invalid if it cannot be had or is none of these.
pub async fn context(engine: &Engine, remote: &str, dockerfile: &str) -> Result<(Context, Dockerfile)> {
    if is_git(remote) {
        let context = clone(engine, remote, false).await?;
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
    save(remote, &path).await.map_err(|error| {
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

/// Fetches one commit of a repository: `ADDRESS#REF:DIRECTORY`.
async fn clone(engine: &Engine, address: &str, keep_git: bool) -> Result<Context> {
    let (repository, fragment) = address.split_once('#').unwrap_or((address, ""));
    let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let reference = if reference.is_empty() { "HEAD" } else { reference };
    if reference.starts_with('-') || reference.contains(char::is_whitespace) || repository.starts_with('-') {
        return Err(Error::invalid(format!("invalid refspec: {reference}")));
    }
    let repository = match repository.starts_with("github.com/") {
        true => format!("https://{repository}"),
        false => repository.to_owned(),
    };
    let store = Arc::clone(engine.images.store());
    let context = blocking(move || Context::empty(&store)).await?;
    let path = context.path();
    git(&path, &["init", "-q"]).await?;
    git(&path, &["remote", "add", "origin", &repository]).await?;
    git(
        &path,
        &[
            "fetch",
            "-q",
            "--depth",
            "1",
            "--no-recurse-submodules",
            "origin",
            reference,
        ],
    )
    .await?;
    git(&path, &["checkout", "-q", "FETCH_HEAD"]).await?;
    let directory = directory.to_owned();
    let store = Arc::clone(engine.images.store());
    blocking(move || {
        if !keep_git {
            let git = context.path().join(".git");
            fs::remove_dir_all(&git).context(|| "cannot remove .git")?;
        }
        if directory.is_empty() {
            return Ok(context);
        }
        let found = build::resolve(context.root(), directory.as_bytes())?;
        let plain = directory
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .collect::<Vec<_>>()
            .join("/");
        if found.kind != Some(build::Kind::Directory) || found.path != plain.as_bytes() {
            return Err(Error::invalid(format!(
                "{directory:?} is no directory of the repository"
            )));
        }
        let inner = Context::empty(&store)?;
        let options = build::CopyOptions {
            owner: Some((0, 0)),
            chmod: None,
            leave_out: &|_| false,
            go_on: &|| true,
        };
        build::copy(context.root(), &found.path, inner.root(), b"/", true, &options)?;
        Ok(inner)
    })
    .await
}

/// Runs git with nothing of the host's configuration, no helpers, no local repositories, and nobody to ask.
async fn git(directory: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = tokio::process::Command::new("git");
    command
        .args([
            "-c",
            "protocol.file.allow=never",
            "-c",
            "protocol.ext.allow=never",
            "-c",
            "core.hooksPath=/dev/null",
        ])
        .args(["-c", "core.symlinks=true", "-c", "advice.detachedHead=false"])
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in [
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTPS_PROXY",
        "SSL_CERT_FILE",
    ] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let output = tokio::time::timeout(GIT_PATIENCE, command.output())
        .await
        .map_err(|_| Error::invalid("git took too long"))?;
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            berth_runtime::Kind::Invalid,
            "git is not installed on this host, which contexts of repositories need",
        ),
        _ => Error::internal("cannot run git").caused_by(error),
    })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "error initializing submodules or fetching the repository: git {}: {}",
            arguments.first().unwrap_or(&""),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for git in [
            "https://x/y.git",
            "https://x/y.git#main:dir",
            "git@x:y",
            "git://x/y",
            "github.com/x/y",
        ] {
            assert!(is_git(git), "{git}");
        }
        assert!(!is_git("https://x/y.tar.gz"));
        assert!(is_remote("http://x/y"));
        assert!(!is_remote("x/y"));
        assert_eq!(file_name("http://x/y/z.tar?a=/b"), Some("z.tar"));
        for nameless in ["http://x", "http://x/", "http://x/a/", "http://x/.."] {
            assert_eq!(file_name(nameless), None, "{nameless}");
        }
    }
}
