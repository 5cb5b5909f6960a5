//! Images from and to registries, as streams of progress.

use std::sync::Arc;

use berth_api::{
    ImageCreateQuery, ImageSearchQuery, JsonStream,
    models::{
        AuthConfig, BuildInfo, CreateImageInfo, DistributionInspect, ImageSearchResponseItem, OCIDescriptor,
        OCIPlatform, ProgressDetail, PushImageInfo, PushResult, SystemAuthResponse,
    },
    progress,
};
use berth_runtime::{
    Error, Kind, Result,
    image::Reference,
    registry::{Credentials, Event, Listener, State},
};
use futures_util::stream::{self, StreamExt as _};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    engine::{
        Engine,
        images::{Images, platform},
    },
    failure::{Failure, Reply},
};

/// Records that wait for a slow client. What is over that is left out: the next one tells more.
const WAITING: usize = 1024;
/// How many results a search gives that does not say.
const RESULTS: i64 = 25;
const RESULTS_MAX: i64 = 100;

/// A task that ends with whoever waits for it.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Pulls, and answers when the first thing is known: a failure before that has a status of its own.
pub async fn pull(
    engine: &Engine,
    query: ImageCreateQuery,
    credentials: &str,
) -> Reply<JsonStream<CreateImageInfo>> {
    let name = Reference::parse(query.from_image.trim_end_matches(':'))?;
    let name = match query.tag.as_str() {
        "" => name,
        tag if tag.contains(':') => name.with_digest(tag.parse()?),
        tag => name.with_tag(tag)?,
    };
    let platform = platform(&query.platform)?;
    let credentials = lenient(credentials);
    let images = engine.images.clone();
    let (sender, mut records) = mpsc::channel(WAITING);
    let listener = listener(&sender, |event| Some(pull_record(event)));
    let task = tokio::spawn(async move {
        let is_one = name.tag().is_some() || name.digest().is_some();
        let result = if is_one {
            let pulled = images
                .pull(&name, platform.as_ref(), &credentials, listener)
                .await;
            pulled.map(drop)
        } else {
            images
                .pull_all(&name, platform.as_ref(), &credentials, listener)
                .await
        };
        report(&sender, result).await;
    });
    let owned = Owned(task);
    let first = match records.recv().await {
        Some(Ok(first)) => first,
        Some(Err(failure)) => return Err(failure),
        None => return Err(Failure::new(Kind::Internal, "the pull was broken off")),
    };
    let rest = stream::poll_fn(move |cx| {
        let _until_then = &owned;
        records.poll_recv(cx)
    });
    Ok(JsonStream::new(stream::iter([Ok(first)]).chain(rest)))
}

/// Pushes; everything but a malformed name is told in the stream.
pub fn push(engine: &Engine, name: &str, tag: &str, credentials: &str) -> Reply<JsonStream<PushImageInfo>> {
    let repository = Reference::parse(name)?;
    if !tag.is_empty() {
        repository.with_tag(tag)?;
    }
    let credentials = lenient(credentials);
    let images = engine.images.clone();
    let (name, tag) = (name.to_owned(), tag.to_owned());
    let (sender, mut records) = mpsc::channel(WAITING);
    let listener = listener(&sender, push_record);
    let task = tokio::spawn(async move {
        let result = push_all(&images, &name, &tag, &credentials, listener, &sender).await;
        report(&sender, result).await;
    });
    let owned = Owned(task);
    let first = PushImageInfo {
        status: format!("The push refers to repository [{}]", repository.name()),
        ..PushImageInfo::default()
    };
    let rest = stream::poll_fn(move |cx| {
        let _until_then = &owned;
        records.poll_recv(cx)
    });
    Ok(JsonStream::new(stream::iter([Ok(first)]).chain(rest)))
}

type Records<T> = mpsc::Sender<Result<T, Failure>>;

async fn push_all(
    images: &Images,
    name: &str,
    tag: &str,
    credentials: &Credentials,
    listener: Arc<dyn Listener>,
    sender: &Records<PushImageInfo>,
) -> Result<()> {
    for reference in images.to_push(name, tag)? {
        let pushed = images
            .push(&reference, credentials, Arc::clone(&listener))
            .await?;
        let (digest, size) = (pushed.digest.to_string(), signed(pushed.size));
        let line = PushImageInfo {
            status: format!("{}: digest: {digest} size: {size}", pushed.tag),
            ..PushImageInfo::default()
        };
        let result = PushImageInfo {
            progress_detail: Some(ProgressDetail::default()),
            aux: Some(PushResult {
                tag: pushed.tag,
                digest,
                size,
            }),
            ..PushImageInfo::default()
        };
        for record in [line, result] {
            // A client that has left has ended this task too.
            let _client_left = sender.send(Ok(record)).await;
        }
    }
    Ok(())
}

/// What a registry has under a name.
pub async fn inspect(engine: &Engine, name: &str, credentials: &str) -> Reply<DistributionInspect> {
    let credentials = Credentials::parse(credentials)?;
    let found = engine.images.inspect_remote(name, &credentials).await?;
    let platforms: Vec<OCIPlatform> = found
        .platforms
        .into_iter()
        .map(|platform| OCIPlatform {
            architecture: platform.architecture,
            os: platform.os,
            os_version: platform.os_version.unwrap_or_default(),
            variant: platform.variant.unwrap_or_default(),
            ..OCIPlatform::default()
        })
        .collect();
    Ok(DistributionInspect {
        descriptor: OCIDescriptor {
            media_type: found.descriptor.media_type,
            digest: found.descriptor.digest.to_string(),
            size: signed(found.descriptor.size),
            ..OCIDescriptor::default()
        },
        platforms: (!platforms.is_empty()).then_some(platforms),
    })
}

/// Images that a registry offers.
pub async fn search(
    engine: &Engine,
    query: ImageSearchQuery,
    credentials: &str,
) -> Reply<Vec<ImageSearchResponseItem>> {
    let limit = match query.limit {
        0 => RESULTS,
        limit if (1..=RESULTS_MAX).contains(&limit) => limit,
        limit => {
            return Err(Failure::new(
                Kind::Invalid,
                format!("limit {limit} is outside the range of [1, {RESULTS_MAX}]"),
            ));
        }
    };
    if query.term.trim().is_empty() {
        return Err(Failure::new(Kind::Invalid, "no term to search for: give one"));
    }
    let official = query.filters.boolean("is-official")?;
    let automated = query.filters.boolean("is-automated")?;
    let mut stars = 0;
    for value in query.filters.values("stars") {
        let least: i64 = value.parse().map_err(|_| query.filters.bad_value("stars"))?;
        stars = stars.max(least);
    }
    // Nothing is marked so any more.
    if automated == Some(true) {
        return Ok(Vec::new());
    }
    let limit = u64::try_from(limit).unwrap_or_default();
    let found = engine
        .images
        .search(query.term.trim(), limit, &lenient(credentials))
        .await?;
    Ok(found
        .into_iter()
        .filter(|item| item.star_count >= stars && official.is_none_or(|o| o == item.is_official))
        .map(|item| ImageSearchResponseItem {
            description: item.description,
            is_automated: false,
            is_official: item.is_official,
            name: item.name,
            star_count: item.star_count,
        })
        .collect())
}

/// Checks credentials.
pub async fn login(engine: &Engine, body: AuthConfig) -> Reply<SystemAuthResponse> {
    let credentials = Credentials {
        username: body.username,
        password: body.password,
        auth: body.auth,
        serveraddress: body.serveraddress,
        identitytoken: body.identitytoken,
        registrytoken: body.registrytoken,
    }
    .completed()?;
    Ok(SystemAuthResponse {
        identity_token: engine.images.login(&credentials).await?,
        status: "Login Succeeded".to_owned(),
    })
}

/// Credentials that cannot be read are nobody's here, as clients expect.
fn lenient(header: &str) -> Credentials {
    Credentials::parse(header).unwrap_or_else(|error| {
        tracing::debug!(%error, "going on without credentials");
        Credentials::default()
    })
}

async fn report<T>(sender: &Records<T>, result: Result<(), Error>) {
    if let Err(error) = result {
        // There is nobody to tell if the client has left.
        let _client_left = sender.send(Err(error.into())).await;
    }
}

fn listener<T: Send + 'static>(
    sender: &Records<T>,
    record: impl Fn(Event) -> Option<T> + Send + Sync + 'static,
) -> Arc<dyn Listener> {
    let sender = sender.clone();
    Arc::new(move |event: Event| {
        if let Some(record) = record(event) {
            // Full: a slow client. Closed: it has left, and the task ends.
            let _ = sender.try_send(Ok(record));
        }
    })
}

fn pull_record(event: Event) -> CreateImageInfo {
    match event {
        Event::Line(status) => CreateImageInfo {
            status,
            ..CreateImageInfo::default()
        },
        Event::Pulling { id, repository } => CreateImageInfo {
            status: format!("Pulling from {repository}"),
            id,
            ..CreateImageInfo::default()
        },
        Event::Layer { digest, state, done } => CreateImageInfo {
            status: words(&state),
            id: digest.hex().chars().take(12).collect(),
            progress: bar(done),
            progress_detail: Some(detail(done)),
            ..CreateImageInfo::default()
        },
    }
}

/// The progress of a pull in the output of a build.
pub fn build_record(event: Event) -> BuildInfo {
    let record = pull_record(event);
    BuildInfo {
        status: record.status,
        id: record.id,
        progress: record.progress,
        progress_detail: record.progress_detail,
        ..BuildInfo::default()
    }
}

fn push_record(event: Event) -> Option<PushImageInfo> {
    match event {
        Event::Layer { digest, state, done } => Some(PushImageInfo {
            status: words(&state),
            id: digest.hex().chars().take(12).collect(),
            progress: bar(done),
            progress_detail: Some(detail(done)),
            ..PushImageInfo::default()
        }),
        Event::Line(_) | Event::Pulling { .. } => None,
    }
}

/// The words that clients know.
fn words(state: &State) -> String {
    let text = match state {
        State::Pulling => "Pulling fs layer",
        State::Waiting => "Waiting",
        State::Downloading => "Downloading",
        State::Verifying => "Verifying Checksum",
        State::Downloaded => "Download complete",
        State::Extracting => "Extracting",
        State::Pulled => "Pull complete",
        State::Exists => "Already exists",
        State::Retrying(1) => "Retrying in 1 second",
        State::Retrying(seconds) => return format!("Retrying in {seconds} seconds"),
        State::Preparing => "Preparing",
        State::Pushing => "Pushing",
        State::Pushed => "Pushed",
        State::Known => "Layer already exists",
        State::Mounted(repository) => return format!("Mounted from {repository}"),
    };
    text.to_owned()
}

fn bar((current, total): (u64, u64)) -> String {
    match total {
        0 => String::new(),
        total => progress::bar(current, total),
    }
}

fn detail((current, total): (u64, u64)) -> ProgressDetail {
    ProgressDetail {
        current: signed(current),
        total: signed(total),
        ..ProgressDetail::default()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
