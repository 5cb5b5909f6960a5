//! Archives that come in and go out, with what clients are told meanwhile.

use std::{io::Read, time::Duration};

use berth_api::{
    models::{ImageLoadInfo, ProgressDetail},
    progress,
};
use berth_runtime::{
    Result,
    image::{Digest, Loaded, Progress},
};
use std::{sync::Mutex, time::Instant};

use super::{Images, removal::short};

/// How often progress of one layer is told at most.
const PACE: Duration = Duration::from_millis(100);

/// What hears the records of a transfer; gives false when nobody listens any more.
pub type Listener<'a> = dyn Fn(ImageLoadInfo) -> bool + std::marker::Sync + 'a;

impl Images {
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
            let mut last = self
                .last
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
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
