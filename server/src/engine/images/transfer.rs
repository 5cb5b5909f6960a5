//! Archives that come in and go out, with what clients are told meanwhile.

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use berth_api::{
    models::{ImageLoadInfo, ProgressDetail},
    progress,
};
use berth_runtime::{
    Error, Result,
    image::{Digest, History, Image, ImageConfig, Loaded, Progress, Reference, Selected},
};
use jiff::Timestamp;

use super::{Images, changes, named, removal::short, target};

/// How often progress of one layer is told at most.
const PACE: Duration = Duration::from_millis(100);

/// What hears the records of a transfer; gives false when nobody listens any more.
pub type Listener<'a> = dyn Fn(ImageLoadInfo) -> bool + std::marker::Sync + 'a;

/// What an import makes of an archive (API operation `ImageCreate` with `fromSrc`).
#[derive(Debug, Default)]
pub struct Import<'a> {
    /// Where it comes from: an address, or `-` for the request's body.
    pub source: &'a str,
    /// Name of the image, perhaps with a tag; empty for an image without a name.
    pub repository: &'a str,
    /// Tag, if it is not in `repository`.
    pub tag: &'a str,
    /// What is said about the import in the image's history.
    pub message: &'a str,
    /// `os[/architecture[/variant]]`; this host's if empty.
    pub platform: &'a str,
    /// Dockerfile instructions that describe how to run it.
    pub changes: &'a [String],
}

impl Images {
    /// Makes an image of one layer from the archive of a root file system. Returns its id.
    ///
    /// # Errors
    /// Invalid for a malformed name, change or archive.
    pub fn import(&self, archive: impl Read, import: &Import<'_>) -> Result<String> {
        let names = match import.repository {
            "" => Vec::new(),
            repository => vec![target(repository, import.tag)?],
        };
        let now = Timestamp::now().to_string();
        let comment = match import.message {
            "" => &*format!("Imported from {}", import.source),
            message => message,
        };
        let mut config = ImageConfig {
            created: Some(now.clone()),
            comment: comment.to_owned(),
            history: vec![History {
                created: Some(now),
                comment: comment.to_owned(),
                ..History::default()
            }],
            ..ImageConfig::default()
        };
        set_platform(&mut config, import.platform)?;
        changes::apply(&mut config.config, import.changes)?;
        let loaded = self.store.import(archive, config, &names)?;
        if let Some(image) = self.store.get(&loaded.id) {
            self.publish("import", &image, &loaded.id.to_string());
        }
        Ok(loaded.id.to_string())
    }

    /// What an archive of the images called `names` holds: an image under the name it was asked by, under all tags of
    /// a repository without a tag, or without a name if asked by id (API operations `ImageGet` and `ImageGetAll`).
    ///
    /// # Errors
    /// Not found and invalid as [`Self::resolve`]; invalid if nothing is named.
    pub fn select(&self, names: &[String]) -> Result<Vec<Selected>> {
        if names.is_empty() {
            return Err(Error::invalid("no image to save: name at least one"));
        }
        let mut selected: Vec<Selected> = Vec::new();
        for name in names {
            for (image, name) in self.meant(name)? {
                let known = selected.iter().position(|s| s.image.id == image.id);
                let index = known.unwrap_or_else(|| {
                    selected.push(Selected {
                        image,
                        names: Vec::new(),
                    });
                    selected.len() - 1
                });
                let names = &mut selected[index].names;
                names.extend(name.filter(|name| !names.contains(name)));
            }
        }
        Ok(selected)
    }

    fn meant(&self, text: &str) -> Result<Vec<(Arc<Image>, Option<Reference>)>> {
        if let Ok(repository) = Reference::parse(text)
            && repository.tag().is_none()
            && repository.digest().is_none()
        {
            let all = self.store.list();
            let tags = all
                .iter()
                .flat_map(|image| image.names.iter().map(move |name| (image, name)));
            let tags: Vec<_> = tags
                .filter(|(_, name)| name.same_repository(&repository) && name.digest().is_none())
                .map(|(image, name)| (Arc::clone(image), Some(name.clone())))
                .collect();
            if !tags.is_empty() {
                return Ok(tags);
            }
        }
        let image = self.resolve(text)?;
        let name = named(text, &image);
        Ok(vec![(image, name)])
    }

    /// Writes an archive of images; both this engine and others load it.
    ///
    /// # Errors
    /// What writing gave, or if the file system fails.
    pub fn save(&self, selected: &[Selected], out: impl Write) -> Result<()> {
        self.store.save(selected, out)?;
        for Selected { image, .. } in selected {
            self.publish("save", image, &image.id.to_string());
        }
        Ok(())
    }

    /// Loads the images of an archive (API operation `ImageLoad`); `listener` is told about them, and with `verbose`
    /// about each layer.
    ///
    /// # Errors
    /// Invalid and too large for archives that are refused; then nothing of them stays.
    pub fn load(&self, input: impl Read, verbose: bool, listener: &Listener<'_>) -> Result<()> {
        let layers = LayerProgress {
            listener,
            last: Mutex::new(None),
        };
        let loaded = match verbose {
            true => self.store.load(input, &layers)?,
            false => self.store.load(input, &())?,
        };
        for image in &loaded {
            self.announce(image, listener);
        }
        Ok(())
    }

    fn announce(&self, loaded: &Loaded, listener: &Listener<'_>) {
        for (name, old) in &loaded.moved {
            listener(line(format!(
                "The image {} already exists, renaming the old one with ID {old} to empty string\n",
                name.familiar()
            )));
        }
        for name in &loaded.names {
            listener(line(format!("Loaded image: {}\n", name.familiar())));
        }
        if loaded.names.is_empty() {
            listener(line(format!("Loaded image ID: {}\n", loaded.id)));
        }
        if let Some(image) = self.store.get(&loaded.id) {
            self.publish("load", &image, &loaded.id.to_string());
        }
    }
}

/// Words that are an operating system when they stand alone, and those that are an architecture of Linux.
const OPERATING_SYSTEMS: [&str; 6] = ["linux", "windows", "darwin", "freebsd", "openbsd", "netbsd"];
const ARCHITECTURES: [&str; 10] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm",
];

/// Takes `os[/architecture[/variant]]`, or an architecture alone, into a configuration.
pub(super) fn set_platform(config: &mut ImageConfig, text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
        return Err(Error::invalid(format!(
            "invalid platform {text:?}: write os/architecture, like linux/amd64"
        )));
    }
    if let [word] = parts[..]
        && !OPERATING_SYSTEMS.contains(&word)
    {
        if !ARCHITECTURES.contains(&word) {
            return Err(Error::invalid(format!(
                "{text:?}: unknown operating system or architecture: invalid argument"
            )));
        }
        "linux".clone_into(&mut config.os);
        word.clone_into(&mut config.architecture);
        return Ok(());
    }
    if parts[0] != "linux" {
        return Err(Error::invalid(format!(
            "operating system {:?} of platform {text:?} is not supported",
            parts[0]
        )));
    }
    config.os = parts[0].to_owned();
    config.architecture = parts.get(1).copied().unwrap_or_default().to_owned();
    config.variant = parts.get(2).map(|&variant| variant.to_owned());
    Ok(())
}

fn line(stream: String) -> ImageLoadInfo {
    ImageLoadInfo {
        stream,
        ..ImageLoadInfo::default()
    }
}

/// Tells how far each layer is, at a pace that a person can read.
struct LayerProgress<'a> {
    listener: &'a Listener<'a>,
    last: Mutex<Option<Instant>>,
}

impl Progress for LayerProgress<'_> {
    fn layer(&self, blob: &Digest, current: u64, total: u64) {
        let due = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let due = current >= total || last.is_none_or(|at| at.elapsed() >= PACE);
            if due {
                *last = Some(Instant::now());
            }
            due
        };
        if due {
            (self.listener)(ImageLoadInfo {
                id: short(&blob.to_string()).to_owned(),
                status: "Loading layer".to_owned(),
                progress: progress::bar(current, total),
                progress_detail: Some(ProgressDetail {
                    current: i64::try_from(current).unwrap_or(i64::MAX),
                    total: i64::try_from(total).unwrap_or(i64::MAX),
                    ..ProgressDetail::default()
                }),
                ..ImageLoadInfo::default()
            });
        }
    }
}
