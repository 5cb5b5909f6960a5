//! Repositories as build contexts and as sources of `ADD`, by the host's git.
//!
//! Addresses, references and directories come from whoever builds, and what is fetched from anywhere: git gets none of the
//! host's configuration, asks nobody, runs no hook or helper, and speaks to the network only.

use std::{os::unix::process::ExitStatusExt as _, path::Path, process::Stdio, sync::Arc, time::Duration};

use berth_runtime::{Error, Result, error::Context as _, image::build};

use super::{context::Context, job::blocking};
use crate::engine::Engine;

/// How long git may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// What a shell gives for a program that is not there.
const NOT_FOUND: i32 = 127;
/// How git may fetch. It takes neither local repositories nor commands for addresses then.
const PROTOCOLS: &str = "http:https:git:ssh";
/// What of the environment git sees: proxies, and whom to trust.
const ENVIRONMENT: [&str; 8] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Whether `text` names a git repository (Docker's rule for `remote`).
pub fn is_git(text: &str) -> bool {
    let path = text.split('#').next().unwrap_or_default();
    let http = text.starts_with("http://") || text.starts_with("https://");
    (http && path.ends_with(".git"))
        || text.starts_with("git://")
        || text.starts_with("git@")
        || text.starts_with("ssh://")
        || text.starts_with("github.com/")
}

/// What is fetched of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    repository: String,
    reference: String,
    directory: String,
}

impl Wanted {
    /// Reads `ADDRESS#REFERENCE:DIRECTORY`.
    fn parse(address: &str) -> Result<Self> {
        let (repository, fragment) = address.split_once('#').unwrap_or((address, ""));
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let strange = |text: &str| {
            text.starts_with('-') || text.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if strange(reference) || reference.contains(':') || reference.starts_with('+') {
            return Err(Error::invalid(format!("invalid refspec: {reference}")));
        }
        if strange(repository) {
            return Err(Error::invalid(format!(
                "invalid address of a repository: {repository:?}"
            )));
        }
        Ok(Self {
            repository: match repository.starts_with("github.com/") {
                true => format!("https://{repository}"),
                false => repository.to_owned(),
            },
            reference: match reference {
                "" => "HEAD".to_owned(),
                reference => reference.to_owned(),
            },
            directory: directory.to_owned(),
        })
    }
}

/// Fetches one commit of a repository: `ADDRESS#REFERENCE:DIRECTORY`, its submodules included. With `commit` it has to be
/// the one whose name begins so.
///
/// # Errors
/// Invalid if it cannot be had, or git is not installed.
pub async fn clone(engine: &Engine, address: &str, keep_git: bool, commit: Option<&str>) -> Result<Context> {
    let wanted = Wanted::parse(address)?;
    let store = Arc::clone(engine.images.store());
    let context = blocking(move || Context::empty(&store)).await?;
    let path = context.path();
    git(&path, &["init", "-q", "--template="]).await?;
    git(&path, &["remote", "add", "origin", &wanted.repository]).await?;
    check_out(&path, &wanted.reference).await?;
    if let Some(commit) = commit {
        let found = git(&path, &["rev-parse", "HEAD"]).await?;
        let found = found.trim();
        if commit.is_empty() || !found.starts_with(commit) {
            return Err(Error::invalid(format!(
                "expected checksum to match {commit}, got {found}"
            )));
        }
    }
    if path.join(".gitmodules").exists() {
        submodules(&path).await?;
    }
    let store = Arc::clone(engine.images.store());
    blocking(move || {
        if !keep_git {
            remove_git(&context)?;
        }
        match wanted.directory.as_str() {
            "" => Ok(context),
            directory => inner(&store, &context, directory),
        }
    })
    .await
}

/// Fetches a branch, a tag or a commit and checks it out: alone if the server lets it, else with everything.
async fn check_out(path: &Path, reference: &str) -> Result<()> {
    let only = ["fetch", "-q", "--no-recurse-submodules", "--no-tags"];
    let shallow = [&only[..], &["--depth", "1", "--", "origin", reference]].concat();
    if git(path, &shallow).await.is_ok() {
        git(path, &["checkout", "-q", "FETCH_HEAD", "--"]).await?;
        return Ok(());
    }
    // Some servers give no single commits, and some give all of a branch or nothing.
    let whole = [&only[..], &["--", "origin", reference]].concat();
    let Err(first) = git(path, &whole).await else {
        git(path, &["checkout", "-q", "FETCH_HEAD", "--"]).await?;
        return Ok(());
    };
    let everything = [
        &only[..],
        &["--", "origin", "+refs/heads/*:refs/remotes/origin/*"],
    ]
    .concat();
    git(path, &everything).await.map_err(|_| first)?;
    git(path, &["checkout", "-q", reference, "--"]).await.map(drop)
}

async fn submodules(path: &Path) -> Result<()> {
    let all = ["submodule", "-q", "update", "--init", "--recursive"];
    if git(path, &[&all[..], &["--depth", "1"]].concat()).await.is_ok() {
        return Ok(());
    }
    git(path, &all).await.map(drop)
}

/// Takes away what git has written for itself, in submodules too.
fn remove_git(context: &Context) -> Result<()> {
    let is_git = |path: &[u8]| path == b".git" || path.ends_with(b"/.git");
    build::prune(context.root(), false, &is_git)
}

/// The directory `directory` of a checked out repository, which no link leads out of.
fn inner(store: &berth_runtime::image::ImageStore, context: &Context, directory: &str) -> Result<Context> {
    let found = build::resolve(context.root(), directory.as_bytes())?;
    if found.kind != Some(build::Kind::Directory) {
        return Err(Error::invalid(format!(
            "{directory:?} is no directory of the repository"
        )));
    }
    let inner = Context::empty(store)?;
    let options = build::CopyOptions {
        name: None,
        owner: Some((0, 0)),
        chmod: None,
        leave_out: &|_| false,
        go_on: &|| true,
    };
    build::copy(context.root(), &found.path, inner.root(), b"/", true, &options)?;
    Ok(inner)
}

/// Runs git. Gives what it prints.
async fn git(directory: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new("sh");
    // What it makes is to have the modes that it knows, whatever the engine's own files have.
    command
        .args(["-c", "umask 022; exec git \"$@\"", "git"])
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
        .args(["-c", "core.symlinks=true", "-c", "advice.detachedHead=false"])
        .args(["-c", "credential.helper=", "-c", "gc.auto=0"])
        .args(["-c", "core.attributesFile=/dev/null"])
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "true")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", directory)
        .env("HOME", "/nonexistent")
        .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let child = command.spawn().context(|| "cannot run git")?;
    let group = Group(child.id());
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_| Error::invalid("git took too long"))?
        .context(|| "cannot run git")?;
    group.let_be();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    if output.status.code() == Some(NOT_FOUND) {
        return Err(Error::invalid(
            "git is not installed on this host, which contexts of repositories need",
        ));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::invalid(format!(
        "error fetching the repository: git {}: {}{}",
        arguments.first().unwrap_or(&""),
        said.trim(),
        output
            .status
            .signal()
            .map_or_else(String::new, |signal| format!(" (signal {signal})")),
    )))
}

/// What git has started. It goes with it.
struct Group(Option<u32>);

impl Group {
    /// It has ended by itself.
    fn let_be(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group.filter(|id| *id > 1) {
            // It may be over already.
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(group),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
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
        for other in ["https://x/y.tar.gz", "ext::sh", "file:///x.git", "/x.git", "-u"] {
            assert!(!is_git(other), "{other}");
        }
    }

    #[test]
    fn what_is_fetched() {
        let wanted = Wanted::parse("github.com/x/y#v1:a/b").unwrap();
        assert_eq!(
            (&*wanted.repository, &*wanted.reference, &*wanted.directory),
            ("https://github.com/x/y", "v1", "a/b")
        );
        assert_eq!(Wanted::parse("git://x/y").unwrap().reference, "HEAD");
        for hostile in [
            "git://x/y#--upload-pack=touch /x",
            "git://x/y#a b",
            "git://x/y#+refs/heads/*",
            "-oProxyCommand=x",
            "git@x:y\nz",
        ] {
            assert!(Wanted::parse(hostile).is_err(), "{hostile}");
        }
    }
}
