//! What takes how much of the data root.

use std::{fs, path::Path};

use berth_api::models::{StorageUsage, StorageUsageKind as Kind};
use berth_runtime::{
    Result,
    disk_usage::{DiskUsage, measure},
    error::Context,
    image::Part,
};

use super::Engine;

/// In front of the names of containers that are being removed.
const GONE: &str = ".gone-";

/// Everything below the data root by what it is for. Reads all of it but layers, which are measured once. Blocks.
///
/// # Errors
/// Internal, if the file system fails.
pub fn storage(engine: &Engine) -> Result<Vec<StorageUsage>> {
    let roots = &engine.roots;
    let mut all = Parts::default();
    for (part, usage) in engine.images.store().disk_usage()? {
        let kind = match part {
            Part::Content => Kind::ImageContent,
            Part::Layers => Kind::ImageLayers,
            Part::Partial => Kind::ImagePartial,
            Part::Building => Kind::Building,
            Part::Trash => Kind::Trash,
            Part::Records => Kind::ImageRecords,
        };
        all.add(kind, usage);
    }
    all.add(Kind::Engine, alone(roots.data()));
    for (name, path) in entries(roots.data())? {
        match name.as_str() {
            "images" => {}
            "containers" => containers(&path, &mut all)?,
            "networks" => all.add(Kind::Networks, at(&path)?),
            "volumes" => all.add(Kind::Volumes, at(&path)?),
            "build" => all.add(Kind::BuildCache, at(&path)?),
            "tmp" | "engine-id" | "engine.lock" => all.add(Kind::Engine, at(&path)?),
            _ => all.add(Kind::Other, at(&path)?),
        }
    }
    Ok(all.shown())
}

fn containers(dir: &Path, all: &mut Parts) -> Result<()> {
    all.add(Kind::ContainerRecords, alone(dir));
    for (id, path) in entries(dir)? {
        if id.starts_with(GONE) {
            all.add(Kind::Trash, at(&path)?);
            continue;
        }
        all.add(Kind::ContainerRecords, alone(&path));
        for (name, path) in entries(&path)? {
            let kind = match name.as_str() {
                "upper" | "work" => Kind::ContainerLayers,
                name if name.contains(".log") => Kind::ContainerLogs,
                _ => Kind::ContainerRecords,
            };
            all.add(kind, at(&path)?);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Parts(Vec<(Kind, DiskUsage)>);

impl Parts {
    fn add(&mut self, kind: Kind, usage: DiskUsage) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, all)) => *all += usage,
            None => self.0.push((kind, usage)),
        }
    }

    fn shown(self) -> Vec<StorageUsage> {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let kinds = Kind::ALL.iter().map(|kind| {
            let known = self.0.iter().find(|(known, _)| known == kind);
            let usage = known.map_or_else(DiskUsage::default, |(_, usage)| *usage);
            StorageUsage {
                kind: *kind,
                bytes: signed(usage.bytes),
                files: signed(usage.files),
            }
        });
        kinds.collect()
    }
}

fn at(path: &Path) -> Result<DiskUsage> {
    measure(path).context(|| format!("cannot measure {}", path.display()))
}

/// A directory without what is in it.
fn alone(path: &Path) -> DiskUsage {
    berth_runtime::disk_usage::one(path).unwrap_or_default()
}

/// The names and paths in a directory; nothing if it has gone.
fn entries(dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e).context(|| format!("cannot read {}", dir.display())),
    };
    let named = files.filter_map(|file| {
        let file = file.ok()?;
        Some((file.file_name().to_string_lossy().into_owned(), file.path()))
    });
    Ok(named.collect())
}
