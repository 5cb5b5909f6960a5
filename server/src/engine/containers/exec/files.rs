//! The records of execs, in the bundle of their container: they are of no use without it.
//!
//! ```text
//! <bundle>/execs/<id>.json    what the exec is, written by the engine when it is created
//! <bundle>/exec-<id>.json     how it ended, written by the supervisor
//! ```
//!
//! Everything here blocks.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use berth_runtime::{Result, error::Context, failpoint::hit, supervisor::ExitStatus};

use super::Setup;

const DIRECTORY: &str = "execs";
const SUFFIX: &str = ".json";
const EXIT_PREFIX: &str = "exec-";

fn record(bundle: &Path, id: &str) -> PathBuf {
    bundle.join(DIRECTORY).join(format!("{id}{SUFFIX}"))
}

fn exit_file(bundle: &Path, id: &str) -> PathBuf {
    bundle.join(format!("{EXIT_PREFIX}{id}{SUFFIX}"))
}

/// Writes what exec `id` is.
pub(super) fn store(bundle: &Path, id: &str, setup: &Setup) -> Result<()> {
    let path = record(bundle, id);
    let message = || format!("cannot write {}", path.display());
    let text = serde_json::to_vec(setup).context(message)?;
    // Under another name first: a restarted engine never finds half of it.
    let new = path.with_extension("new");
    match hit("exec.record").and_then(|()| fs::write(&new, &text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = bundle.join(DIRECTORY);
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).context(message)?,
                _ => fs::write(&new, &text).context(message)?,
            }
        }
        written => written.context(message)?,
    }
    hit("exec.rename")
        .and_then(|()| fs::rename(&new, &path))
        .context(message)
}

/// The execs that are recorded, and how they ended as far as they did.
pub(super) fn load(bundle: &Path) -> Result<Vec<(String, Setup, Option<ExitStatus>)>> {
    let directory = bundle.join(DIRECTORY);
    let message = || format!("cannot read {}", directory.display());
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(message)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.context(message)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else {
            continue;
        };
        match read(&record(bundle, id)) {
            Ok(Some(setup)) => found.push((id.to_owned(), setup, exit_status(bundle, id))),
            Ok(None) => {}
            Err(error) => tracing::warn!(exec = id, %error, "the record of an exec could not be read"),
        }
    }
    Ok(found)
}

/// How exec `id` ended, if it did.
pub(super) fn exit_status(bundle: &Path, id: &str) -> Option<ExitStatus> {
    read(&exit_file(bundle, id)).unwrap_or_else(|error| {
        tracing::warn!(exec = id, %error, "the end of an exec could not be read");
        None
    })
}

/// Writes that exec `id` could not be run, in place of the supervisor, which does not record that.
pub(super) fn store_failure(bundle: &Path, id: &str, status: &ExitStatus) -> Result<()> {
    let path = exit_file(bundle, id);
    let message = || format!("cannot write {}", path.display());
    fs::write(&path, serde_json::to_vec(status).context(message)?).context(message)
}

/// Removes all that is written of exec `id`.
pub(super) fn remove(bundle: &Path, id: &str) {
    for path in [record(bundle, id), exit_file(bundle, id)] {
        match fs::remove_file(&path) {
            // The bundle may have gone meanwhile.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "the record of an exec could not be removed");
            }
            _ => {}
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let message = || format!("cannot read {}", path.display());
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => serde_json::from_slice(&bytes.context(message)?)
            .map(Some)
            .context(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_found_again() {
        let bundle = tempfile::tempdir().unwrap();
        assert!(load(bundle.path()).unwrap().is_empty());
        let setup = Setup {
            args: vec!["ls".to_owned()],
            console_size: Some((24, 80)),
            ..Setup::default()
        };
        store(bundle.path(), "ab", &setup).unwrap();
        fs::write(bundle.path().join("execs/broken.json"), "{").unwrap();
        fs::write(bundle.path().join("execs/cd.new"), "{").unwrap();
        let found = load(bundle.path()).unwrap();
        assert_eq!(found, [("ab".to_owned(), setup, None)]);
        remove(bundle.path(), "ab");
        assert!(load(bundle.path()).unwrap().is_empty());
    }
}
