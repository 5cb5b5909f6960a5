//! `RUN`: a container of the image so far, whose changes become the next layer.

use std::sync::{Arc, OnceLock};

use berth_api::{
    ApiVersion,
    models::{ContainerCreateRequest, ContainerWaitCondition, HealthConfig},
};
use berth_runtime::{
    Error, Result,
    error::Context,
    failpoint::hit,
    image::{
        Hold, ImageConfig,
        build::{self, Fingerprint, Merged},
    },
    supervisor::Streams,
};
use tokio::{
    io::{AsyncReadExt as _, BufReader},
    net::UnixStream,
    sync::oneshot,
};

use super::{
    cache::Cache,
    dockerfile::{self, Command},
    job::{Changed, Job, blocking, use_cached},
    metadata::{command_words, working_directory},
    mounts::{Mounts, Wish},
    progress::{Failed, Out},
    state::State,
};
use crate::engine::containers::{Containers, Removal, model::Container, run::Pending};

/// Where the sandbox makes what it needs if it is not there.
const OWN_PLACES: [&str; 6] = [
    "/dev",
    "/proc",
    "/sys",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
];
/// Bytes of output that are told at once.
const CHUNK: usize = 16 << 10;

/// Carries `RUN` out.
pub async fn run(
    job: &Arc<Job>,
    state: &mut State,
    run: &dockerfile::Run,
    index: usize,
    out: &Out,
) -> Result<(), Failed> {
    let variables = state.variables();
    let wishes = run
        .mounts
        .iter()
        .map(|text| Wish::parse(text, job.escape, &variables))
        .collect::<Result<Vec<_>>>()?;
    let network = network(job, run)?;
    if run
        .security
        .as_deref()
        .is_some_and(|security| security != "sandbox")
    {
        return Err(Error::invalid(
            "granting entitlement security.insecure is not allowed by build daemon configuration",
        )
        .into());
    }
    let (words, script) = command(state, run);
    let (recorded, silent) = state.build_environment(&job.options.arguments);
    let shown = words.join(" ");
    let created_by = match recorded.len() {
        0 => shown.clone(),
        count => format!("|{count} {} {shown}", recorded.join(" ")),
    };
    let shown_digest = shown_files(job, &wishes, index, out).await?;
    let details = format!("{:?}{network}{script:?}{shown_digest}", run.mounts);
    let key = job.key(state, &created_by, &[b"RUN", details.as_bytes()]);
    if let Some(hold) = job.cached(state, &key, &created_by) {
        return use_cached(state, hold, key, out).await;
    }
    // Of builds that come to the same step at the same time, one works.
    let _alone = match job.options.no_cache {
        true => None,
        false => Some(job.engine.build_cache.alone(&key).await),
    };
    if let Some(hold) = job.cached(state, &key, &created_by) {
        return use_cached(state, hold, key, out).await;
    }

    let mut mounts = Mounts::new(job)?;
    mounts.add_all(job, state, wishes, index, out).await?;
    let (words, mut mounts) = match script {
        Some(content) => {
            let heredoc = run.heredocs.first().cloned().unwrap_or_default();
            blocking(move || {
                let path = mounts.script(&heredoc, &content)?;
                Ok((vec![path], mounts))
            })
            .await?
        }
        None => (words, mounts),
    };
    let base = image(job, state).await?;
    let lowers = job.store().lower_dirs(base.image());
    let volumes: Vec<String> = state
        .config
        .volumes
        .iter()
        .flatten()
        .map(|(path, _)| working_directory("/", path))
        .collect();
    let scratch = job.store().scratch()?;
    let (mut mounts, below) = blocking(move || {
        let below = Merged::new(&lowers, None, &scratch.path())?;
        for path in &volumes {
            mounts.volume(Some(&below), path)?;
        }
        Ok((mounts, below))
    })
    .await?;
    let environment = recorded.into_iter().chain(silent);
    let request = ContainerCreateRequest {
        image: base.image().id.to_string(),
        cmd: Some(words),
        entrypoint: Some(Vec::new()),
        env: Some(environment.collect()),
        healthcheck: Some(HealthConfig {
            test: vec!["NONE".to_owned()],
            ..HealthConfig::default()
        }),
        host_config: Some(berth_api::models::HostConfig {
            network_mode: network,
            mounts: mounts.mounts.clone(),
            ..job.options.host_config.clone()
        }),
        ..ContainerCreateRequest::default()
    };
    let mut step = Step::create(job, request).await?;
    step.container.current().secret_environment = std::mem::take(&mut mounts.secret_environment);
    out.text(format!(" ---> Running in {}\n", step.container.short_id()))
        .await?;
    let code = match step.run(out).await {
        Ok(code) => code,
        Err(error) => {
            // It may be that it was not even started. Why is what the client is told, not that it could not be put away.
            let _ = step.put_away().await;
            return Err(error.into());
        }
    };
    if code != 0 {
        if !job.options.force_remove {
            step.stays();
        } else {
            step.remove(out).await?;
        }
        return Err(Failed {
            code,
            message: format!("The command '{shown}' returned a non-zero code: {code}"),
        });
    }
    hit("build.ended").context(|| "cannot take the changes of a step")?;
    let upper = step.containers.upper_directory(&step.container);
    let places: Vec<String> = OWN_PLACES
        .iter()
        .map(|place| (*place).to_owned())
        .chain(mounts.places.iter().cloned())
        .collect();
    let upper = blocking(move || build::take_away_stubs(&upper, &below, &places).map(|()| upper)).await?;
    // The layer of a container that goes is taken as it is.
    let changed = Changed {
        upper,
        taken: job.options.remove,
    };
    let hold = job.commit(state, &created_by, Some(changed)).await?;
    drop(mounts);
    if job.options.remove {
        step.remove(out).await?;
    } else {
        step.stays();
    }
    job.keep(state, key, &created_by, &hold).await?;
    state.image = Some(hold);
    out.text(format!(" ---> {}\n", state.short_id())).await?;
    Ok(())
}

/// The network of a step. The host's own is only given to those who asked for it for the whole build.
fn network(job: &Job, run: &dockerfile::Run) -> Result<String> {
    let whole = job.options.host_config.network_mode.as_str();
    match run.network.as_deref() {
        None | Some("default") => Ok(whole.to_owned()),
        Some("none") => Ok("none".to_owned()),
        Some("host") if whole == "host" => Ok("host".to_owned()),
        Some("host") => Err(Error::invalid(
            "granting entitlement network.host is not allowed by build daemon configuration",
        )),
        Some(other) => Err(Error::invalid(format!(
            "unsupported network mode {other:?}: use default, none or host"
        ))),
    }
}

/// What is run, and the script that a heredoc with a `#!` line is.
fn command(state: &State, run: &dockerfile::Run) -> (Vec<String>, Option<String>) {
    let Command::Shell(line) = &run.command else {
        return (command_words(state, &run.command), None);
    };
    let text = match run.heredocs.as_slice() {
        [] => line.clone(),
        [only] if line.split_whitespace().count() == 1 && line.starts_with("<<") => {
            if only.content.starts_with("#!") {
                return (vec![line.clone()], Some(only.content.clone()));
            }
            only.content.clone()
        }
        several => {
            let mut text = format!("{line}\n");
            for heredoc in several {
                text.push_str(&heredoc.content);
                text.push_str(&heredoc.name);
                text.push('\n');
            }
            text
        }
    };
    (command_words(state, &Command::Shell(text)), None)
}

/// What decides of the files that bind mounts show: those of the context by their content, those of other stages and of
/// images by their layers.
async fn shown_files(job: &Arc<Job>, wishes: &[Wish], index: usize, out: &Out) -> Result<String, Failed> {
    let mut all = Fingerprint::default();
    for (from, source) in wishes.iter().filter_map(Wish::shows) {
        if from.is_empty() {
            let (job, source) = (Arc::clone(job), source.to_owned());
            let digest = blocking(move || {
                let mut files = Fingerprint::default();
                let found = build::resolve(job.context.root(), source.as_bytes())?;
                if found.kind.is_some() {
                    files.path(job.context.root(), &found.path, &|_| false)?;
                }
                Ok(files.finish())
            });
            all.text(digest.await?.as_bytes());
        } else {
            let source = job.source(index, from, out).await?;
            for layer in source.image.iter().flat_map(|hold| &hold.image().layers) {
                all.text(layer.diff_id.to_string().as_bytes());
            }
        }
    }
    Ok(all.finish())
}

/// The image so far; an empty one if there is none.
async fn image(job: &Job, state: &State) -> Result<Arc<Hold>> {
    if let Some(hold) = &state.image {
        return Ok(Arc::clone(hold));
    }
    let (store, config) = (Arc::clone(job.store()), state.config.clone());
    blocking(move || {
        let config = ImageConfig {
            config,
            ..ImageConfig::default()
        };
        store.compose_kept(None, None, config).map(Arc::new)
    })
    .await
}

/// A container of a build. It is removed when it is dropped, unless it stays.
struct Step {
    cache: Cache,
    containers: Containers,
    container: Arc<Container>,
    stays: bool,
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let (containers, container) = (self.containers.clone(), Arc::clone(&self.container));
        let cache = self.cache.clone();
        tokio::spawn(async move {
            if let Err(error) = containers.remove(&container, REMOVAL).await {
                tracing::warn!(container = container.id(), %error, "a container of a build stays");
            }
            cache.forget(container.id());
        });
    }
}

/// How containers of builds go.
const REMOVAL: Removal = Removal {
    force: true,
    volumes: true,
};

impl Step {
    async fn create(job: &Job, request: ContainerCreateRequest) -> Result<Self> {
        let containers = job.engine.containers.clone();
        let cache = job.engine.build_cache.clone();
        // Whether the client is still there or not, what is made has an owner.
        let making = tokio::spawn(async move {
            let noted = Arc::new(OnceLock::new());
            let note = {
                let (cache, noted) = (cache.clone(), Arc::clone(&noted));
                move |id: &str| {
                    cache.note(id)?;
                    let _ = noted.set(id.to_owned());
                    Ok(())
                }
            };
            let made = containers
                .create_noted(request, ApiVersion::NEWEST, "", "", note)
                .await;
            if let (Err(_), Some(id)) = (&made, noted.get()) {
                cache.forget(id);
            }
            let container = containers.find(&made?.id)?;
            Ok(Self {
                cache,
                containers,
                container,
                stays: false,
            })
        });
        making
            .await
            .map_err(|error| Error::internal("a container of a build could not be made").caused_by(error))?
    }

    /// Runs it to its end, telling what it writes. Returns its exit code.
    async fn run(&mut self, out: &Out) -> Result<i64> {
        let (ready, stream) = oneshot::channel();
        let streams = Streams {
            stdin: false,
            stdout: true,
            stderr: true,
        };
        self.container.current().pending.push(Pending { streams, ready });
        let end = self
            .containers
            .wait(&self.container, ContainerWaitCondition::NextExit);
        let (containers, container) = (self.containers.clone(), Arc::clone(&self.container));
        let starting = tokio::spawn(async move { containers.start(&container).await });
        starting.await.map_err(|error| {
            Error::internal("a container of a build could not be started").caused_by(error)
        })??;
        if let Ok(stream) = stream.await {
            tell(stream, out).await?;
        }
        Ok(end.await.status_code)
    }

    fn stays(&mut self) {
        self.cache.forget(self.container.id());
        self.stays = true;
    }

    async fn remove(self, out: &Out) -> Result<()> {
        let id = self.container.short_id().to_owned();
        out.text(format!("Removing intermediate container {id}\n"))
            .await?;
        self.put_away().await
    }

    /// Removes the container, even if nobody waits for it any more.
    async fn put_away(mut self) -> Result<()> {
        self.stays = true;
        let (containers, container) = (self.containers.clone(), Arc::clone(&self.container));
        let cache = self.cache.clone();
        let removing = tokio::spawn(async move {
            containers.remove(&container, REMOVAL).await?;
            cache.forget(container.id());
            Ok(())
        });
        let removed = removing.await.unwrap_or_else(|error| {
            Err(Error::internal("a container of a build could not be removed").caused_by(error))
        });
        // It is tried once more then.
        self.stays = removed.is_ok();
        removed
    }
}

/// Tells what a container writes: frames of one byte for the stream, three of nothing and four for the length.
async fn tell(stream: UnixStream, out: &Out) -> Result<()> {
    let mut stream = BufReader::with_capacity(CHUNK, stream);
    let mut texts = [Text::default(), Text::default()];
    loop {
        let mut head = [0_u8; 8];
        // A stream that ends ends between two frames.
        if stream.read_exact(&mut head).await.is_err() {
            break;
        }
        let [source, _, _, _, length @ ..] = head;
        let mut left = u32::from_be_bytes(length) as usize;
        let is_error = source == 2;
        let text = &mut texts[usize::from(is_error)];
        while left > 0 {
            let mut chunk = vec![0; left.min(CHUNK)];
            if stream.read_exact(&mut chunk).await.is_err() {
                return Ok(());
            }
            left -= chunk.len();
            tell_chunk(text.take(&chunk), is_error, out).await?;
        }
    }
    for (is_error, text) in [false, true].into_iter().zip(&mut texts) {
        tell_chunk(text.rest(), is_error, out).await?;
    }
    Ok(())
}

async fn tell_chunk(text: String, is_error: bool, out: &Out) -> Result<()> {
    match (text.is_empty(), is_error) {
        (true, _) => Ok(()),
        (false, false) => out.text(text).await,
        (false, true) => out.text(format!("\u{1b}[91m{text}\u{1b}[0m")).await,
    }
}

/// Bytes that become text, whole characters at a time.
#[derive(Default)]
struct Text(Vec<u8>);

impl Text {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.0.extend(bytes);
        let whole = match std::str::from_utf8(&self.0) {
            Ok(_) => self.0.len(),
            // What may still become a character waits for the rest of it.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.0.len(),
        };
        let rest = self.0.split_off(whole);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }

    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}
