//! The images that stages begin with.

use std::sync::Arc;

use berth_runtime::{Error, Kind, image::Hold};

use super::{
    job::Job,
    progress::{Failed, Out},
};

/// Finds an image, and keeps it while it is built upon.
///
/// # Errors
/// Not found, in Docker's words.
pub async fn find(job: &Job, name: &str, platform: &str, _: &Out) -> Result<Arc<Hold>, Failed> {
    let images = &job.engine.images;
    let image = match images.resolve(name) {
        Ok(image) => image,
        Err(error) if error.kind() == Kind::NotFound => {
            return Err(Error::not_found(format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login'"
            ))
            .into());
        }
        Err(error) => return Err(error.into()),
    };
    if !platform.is_empty() {
        let actual = image.platform();
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().unwrap_or_default(), parts.next());
        let fits = os.eq_ignore_ascii_case(&actual.os)
            && architecture.is_none_or(|wanted| known_as(wanted) == actual.architecture);
        if !fits {
            return Err(Error::not_found(format!(
                "image with reference {name} was found but does not match the specified platform: wanted {platform}, actual: {}/{}",
                actual.os, actual.architecture
            ))
            .into());
        }
    }
    Ok(Arc::new(images.store().hold(&image.id)?))
}

fn known_as(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
