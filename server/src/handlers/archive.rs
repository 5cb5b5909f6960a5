//! Files of containers on their way in and out.

use std::sync::{Arc, Mutex, PoisonError};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use berth_api::{ByteStream, ContainerArchiveReply, PutContainerArchiveQuery, RawBody};
use berth_runtime::{Error, Kind, files::PathStat};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::io::SyncIoBridge;

use super::chunks::Chunks;
use crate::{
    engine::{Engine, containers::ArchiveIn, time},
    failure::{Failure, Reply},
};

/// What a path is.
pub async fn info(engine: &Engine, id: &str, path: &str) -> Reply<String> {
    let container = engine.containers.find(id)?;
    Ok(header(&engine.containers.stat_path(&container, id, path).await?))
}

/// An archive of what a path leads to.
pub async fn get(engine: &Engine, id: &str, path: &str) -> Reply<ContainerArchiveReply> {
    let container = engine.containers.find(id)?;
    let (chunks, body) = Chunks::channel();
    let (sender, stat) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let (engine, id, path) = (engine.clone(), id.to_owned(), path.to_owned());
    tokio::task::spawn_blocking(move || {
        let answer = |result| {
            let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The client may have left.
            sender.map(|sender| sender.send(result).is_ok())
        };
        chunks.fill(|out| {
            let told = |stat| {
                let _client_left = answer(Ok(stat));
            };
            match engine.containers.archive_out(&container, &id, &path, told, out) {
                Err(error) => match answer(Err(Error::new(error.kind(), error.to_string()))) {
                    Some(_) => Ok(()),
                    None => Err(error),
                },
                Ok(()) => Ok(()),
            }
        });
    });
    let stat = stat
        .await
        .map_err(|_| Failure::new(Kind::Internal, "an archive was broken off"))??;
    Ok(ContainerArchiveReply {
        x_docker_container_path_stat: header(&stat),
        body,
    })
}

/// Takes an archive into a directory.
pub async fn put(engine: &Engine, id: &str, query: PutContainerArchiveQuery, body: RawBody) -> Reply<()> {
    let container = engine.containers.find(id)?;
    let how = ArchiveIn {
        path: query.path,
        keep_kinds: is_true(&query.no_overwrite_dir_non_dir),
        own: is_true(&query.copy_uid_gid),
    };
    let archive = SyncIoBridge::new(body.into_reader());
    Ok(engine.containers.archive_in(&container, id, how, archive).await?)
}

/// Everything in a container, without what is mounted in it.
pub async fn export(engine: &Engine, id: &str) -> Reply<ByteStream> {
    let container = engine.containers.find(id)?;
    engine.containers.may_export(&container)?;
    let containers = engine.containers.clone();
    Chunks::begun(move |out| containers.export(&container, out)).await
}

/// Docker's reading of a boolean in a query: everything but a few words is true.
fn is_true(text: &str) -> bool {
    !matches!(
        text.trim().to_lowercase().as_str(),
        "" | "0" | "no" | "false" | "none"
    )
}

/// The header `X-Docker-Container-Path-Stat`.
fn header(stat: &PathStat) -> String {
    let (seconds, nanoseconds) = stat.mtime;
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or_default();
    let mtime = Timestamp::new(seconds, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let value = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": time::rfc3339(mtime),
        "linkTarget": stat.link_target,
    });
    BASE64_STANDARD.encode(value.to_string())
}

/// `st_mode` of stat(2) as Go's `os.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let bits = bits
        .iter()
        .filter(|(bit, _)| mode & bit != 0)
        .map(|(_, flag)| flag);
    kind | bits.sum::<u32>() | mode & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (mode, go) in [
            (0o100_644, 0o644),
            (0o104_755, 1 << 23 | 0o755),
            (0o041_777, 1 << 31 | 1 << 20 | 0o777),
            (0o120_777, 1 << 27 | 0o777),
            (0o020_600, 1 << 26 | 1 << 21 | 0o600),
        ] {
            assert_eq!(go_mode(mode), go, "{mode:o}");
        }
    }

    #[test]
    fn booleans() {
        for (text, value) in [
            ("", false),
            ("0", false),
            ("False", false),
            ("1", true),
            ("true", true),
            ("x", true),
        ] {
            assert_eq!(is_true(text), value, "{text}");
        }
    }
}
