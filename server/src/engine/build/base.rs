//! The images that stages begin with.

use std::{collections::HashMap, sync::Arc};

use berth_runtime::{
    Error, Kind, Result,
    image::{Hold, Image, Reference},
    registry::{Credentials, Event},
};

use super::{
    job::Job,
    options,
    progress::{Failed, Out},
};
use crate::engine::images;

/// How often an image is looked for that others remove at the same time.
const TRIES: u32 = 5;

/// Finds an image, fetches it if it is not here or `pull` is set, and keeps it while it is built upon.
///
/// # Errors
/// Not found, in Docker's words; what the registry says.
pub async fn find(job: &Job, name: &str, platform: &str, out: &Out) -> Result<Arc<Hold>, Failed> {
    let mut pull = job.options.pull;
    for _ in 1..TRIES {
        match try_find(job, name, platform, pull, out).await? {
            Some(hold) => return Ok(hold),
            // It was removed as soon as it was found, and is fetched now.
            None => pull = true,
        }
    }
    let image = try_find(job, name, platform, pull, out).await?;
    Ok(image.ok_or_else(|| Error::not_found(format!("No such image: {name}")))?)
}

/// [`find`]; `None` if the image was removed meanwhile.
async fn try_find(
    job: &Job,
    name: &str,
    platform: &str,
    pull: bool,
    out: &Out,
) -> Result<Option<Arc<Hold>>, Failed> {
    let images = &job.engine.images;
    let image = match images.resolve(name) {
        Ok(image) if !pull && fits(&image, platform) => image,
        // An id cannot be fetched.
        Ok(image) if Reference::parse(name).is_err() => image,
        Err(error) if error.kind() != Kind::NotFound => return Err(error.into()),
        _ => {
            fetch(job, name, platform, out).await?;
            match images.resolve(name) {
                Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                image => image?,
            }
        }
    };
    if !fits(&image, platform) {
        let actual = image.platform();
        return Err(Error::not_found(format!(
            "image with reference {name} was found but does not match the specified platform: wanted {platform}, actual: \
             {}/{}",
            actual.os, actual.architecture
        ))
        .into());
    }
    match images.store().hold(&image.id) {
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        hold => Ok(Some(Arc::new(hold?))),
    }
}

async fn fetch(job: &Job, name: &str, platform: &str, out: &Out) -> Result<()> {
    let reference = Reference::parse(name)?.normalized();
    let credentials = credentials(&job.options.registry_config, &reference);
    let platform = images::platform(platform)?;
    let (out, told) = (out.clone(), job.options.told);
    let listener = move |event: Event| {
        if let Some(told) = told {
            out.try_record(told(event));
        }
    };
    job.engine
        .images
        .pull(&reference, platform.as_ref(), &credentials, Arc::new(listener))
        .await
        .map(drop)
}

/// What the request knows for the registry of an image. What cannot be read is nothing.
fn credentials(header: &str, reference: &Reference) -> Credentials {
    let all: HashMap<String, Credentials> = options::decode(header)
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let domain = reference.domain();
    let hub = matches!(domain, "docker.io" | "index.docker.io");
    let fits = |key: &str| {
        let host = key.split_once("://").map_or(key, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default();
        host == domain || (hub && matches!(host, "index.docker.io" | "docker.io"))
    };
    let found = all.into_iter().find(|(key, _)| fits(key));
    let completed = found.and_then(|(_, credentials)| credentials.completed().ok());
    completed.unwrap_or_default()
}

fn fits(image: &Image, platform: &str) -> bool {
    if platform.is_empty() {
        return true;
    }
    let actual = image.platform();
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next());
    os.eq_ignore_ascii_case(&actual.os)
        && architecture.is_none_or(|wanted| known_as(wanted) == actual.architecture)
}

fn known_as(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
