//! The volumes that a container refers to, from its creation to its removal, and has mounted while it runs.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_runtime::{
    Error, Result,
    error::Context,
    ids::IdMap,
    image::Hold,
    sandbox::{Found, ImageView},
};

use super::{
    Containers, blocking,
    model::Container,
    validate::{MountPoint, MountSource, VolumeSource},
};
use crate::engine::volumes::{Volumes, Wanted};

/// The volumes of a container that is being made: given back, and removed if they are new, unless it is kept.
#[must_use]
#[derive(Debug)]
pub(super) struct Acquired<'a> {
    volumes: &'a Volumes,
    container: &'a str,
    names: Vec<String>,
    new: Vec<String>,
}

impl Acquired<'_> {
    /// The container exists from now on.
    pub fn keep(mut self) {
        self.names.clear();
        self.new.clear();
    }
}

impl Drop for Acquired<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            self.volumes.release(name, self.container);
        }
        self.volumes.remove_quietly(&self.new);
    }
}

/// A mount of a container as others on the host find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMount {
    /// Absolute path in the container, cleaned.
    pub destination: PathBuf,
    /// What is mounted there; none for a memory file system.
    pub source: Option<PathBuf>,
    /// What of the source is mounted: a relative path, which must not be followed out of the source.
    pub subpath: Option<PathBuf>,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

impl Containers {
    /// Finds and makes the volumes of a new container, and fills those that are empty from its image.
    ///
    /// # Errors
    /// Invalid for a bad name or option, and where the image has a file in the place of a volume; not found is never
    /// given, as clients take it for a missing image.
    pub(super) fn acquire_volumes<'a>(
        &'a self,
        id: &'a str,
        mounts: &mut [MountPoint],
        image: Option<&Hold>,
        ids: Option<&IdMap>,
    ) -> Result<Acquired<'a>> {
        let mut acquired = Acquired {
            volumes: &self.volumes,
            container: id,
            names: Vec::new(),
            new: Vec::new(),
        };
        for point in mounts.iter_mut() {
            if let MountSource::Volume(volume) = &mut point.source {
                self.acquire(&mut acquired, volume)
                    .map_err(super::validate::mounts::as_invalid)?;
            }
        }
        self.fill_volumes(id, mounts, image, ids)?;
        Ok(acquired)
    }

    fn acquire(&self, acquired: &mut Acquired<'_>, volume: &mut VolumeSource) -> Result<()> {
        let (record, new) = self.volumes.create(Wanted {
            name: volume.name.clone(),
            driver: volume.driver.clone(),
            options: volume.driver_options.clone(),
            labels: volume.labels.clone(),
            container: Some(acquired.container.to_owned()),
        })?;
        acquired.names.push(record.name.clone());
        if new {
            acquired.new.push(record.name.clone());
        }
        volume.path = Some(self.volumes.path(&record));
        volume.name.clone_from(&record.name);
        volume.driver.clone_from(&record.driver);
        Ok(())
    }

    /// Copies what the image has at the places of volumes into those that are empty.
    fn fill_volumes(
        &self,
        id: &str,
        mounts: &[MountPoint],
        image: Option<&Hold>,
        ids: Option<&IdMap>,
    ) -> Result<()> {
        let Some(hold) = image else {
            return Ok(());
        };
        let wanting = mounts.iter().filter_map(|point| match &point.source {
            MountSource::Volume(volume) if volume.copy_up && volume.subpath.is_none() => {
                Some((point, volume))
            }
            _ => None,
        });
        let mut view = None;
        for (point, volume) in wanting {
            if view.is_none() {
                let spare = self.store.writable_layer(id).work;
                view = ImageView::open(&self.images.lower_dirs(hold.image()), &spare)?;
            }
            let Some(view) = &view else {
                return Ok(());
            };
            let content = view
                .look(Path::new(&point.destination))
                .context(|| format!("cannot look at {} of the image", point.destination))?;
            if let Some(content) = content_of(content, point, volume)? {
                self.volumes.fill(&volume.name, id, &content, ids)?;
            }
        }
        Ok(())
    }

    /// Makes the volumes of a container that starts usable; gives its mounts with the places where they are now. Blocks.
    ///
    /// # Errors
    /// Internal, with what the kernel or a plugin says. None is left mounted then.
    pub(super) fn mount_volumes(&self, container: &Container) -> Result<Vec<MountPoint>> {
        let mut mounts = (*container.now().mounts).clone();
        for point in &mut mounts {
            let MountSource::Volume(volume) = &mut point.source else {
                continue;
            };
            let path = self
                .volumes
                .mount(&volume.name, container.id())
                .inspect_err(|_| self.unmount_volumes(container))
                // What is missing is not what the request is about.
                .map_err(|error| Error::internal(error.to_string()))?;
            volume.path = Some(path);
        }
        Ok(mounts)
    }

    /// Tells that the volumes among `mounts` are mounted for a container.
    pub(super) fn tell_mounted(&self, container: &Container, mounts: &[MountPoint]) {
        for point in mounts {
            let MountSource::Volume(volume) = &point.source else {
                continue;
            };
            let event = [
                ("container", container.id()),
                ("destination", &point.destination),
                ("read/write", if point.read_only { "false" } else { "true" }),
                ("propagation", ""),
            ];
            self.volumes
                .publish("mount", &volume.name, &volume.driver, &event);
        }
    }

    /// Undoes [`Containers::mount_volumes`] after a run or a failed start. Blocks.
    pub(super) fn unmount_volumes(&self, container: &Container) {
        for point in container.now().mounts.iter() {
            let MountSource::Volume(volume) = &point.source else {
                continue;
            };
            match self.volumes.unmount(&volume.name, container.id()) {
                Ok(true) => {
                    let event = [("container", container.id())];
                    self.volumes
                        .publish("unmount", &volume.name, &volume.driver, &event);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(volume = volume.name, %error, "a volume could not be unmounted");
                }
            }
        }
    }

    /// [`Containers::unmount_volumes`], if there are any.
    pub(super) async fn let_go_of_volumes(&self, container: &Arc<Container>) {
        if !has_volumes(container) {
            return;
        }
        let (this, of) = (self.clone(), Arc::clone(container));
        let done = blocking(move || {
            this.unmount_volumes(&of);
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::warn!(container = container.id(), %error, "its volumes stay mounted");
        }
    }

    /// Deletes a container's files, and with `anonymous` the volumes that were made for it without a name. Blocks.
    ///
    /// # Errors
    /// Internal, if something cannot be deleted.
    pub(super) fn delete_with_volumes(&self, container: &Container, anonymous: bool) -> Result<()> {
        let details = container.details();
        let volumes = || {
            details.mounts.iter().filter_map(|point| match &point.source {
                MountSource::Volume(volume) => Some(volume),
                _ => None,
            })
        };
        let doomed = volumes().filter(|volume| anonymous && volume.anonymous);
        let doomed: Vec<String> = doomed.map(|volume| volume.name.clone()).collect();
        // Once the directory has gone, nothing but this mark tells an engine that starts what was under way.
        self.store.retire(container.id(), !doomed.is_empty())?;
        for volume in volumes() {
            self.volumes.release(&volume.name, container.id());
        }
        self.volumes.remove_quietly(&doomed);
        self.store.remove(container.id())
    }

    /// The mounts of a container as they are found on the host, those of `HostConfig.Tmpfs` included. Volumes that are
    /// mounted while they are used are there only while a container that has them runs.
    pub fn host_mounts(&self, container: &Container) -> Vec<HostMount> {
        let details = container.details();
        let points = details.mounts.iter().map(|point| {
            let (source, subpath) = match &point.source {
                MountSource::Bind(bind) => (Some(PathBuf::from(&bind.path)), None),
                MountSource::Volume(volume) => {
                    (volume.path.clone(), volume.subpath.clone().map(PathBuf::from))
                }
                MountSource::Tmpfs { .. } => (None, None),
            };
            HostMount {
                destination: point.destination.clone().into(),
                source,
                subpath,
                read_only: point.read_only,
            }
        });
        let tmpfs = details.host_config.tmpfs.keys().map(|destination| HostMount {
            destination: super::validate::path::clean(destination).into(),
            source: None,
            subpath: None,
            read_only: false,
        });
        points.chain(tmpfs).collect()
    }

    /// Tells the volumes, while the engine starts, which containers there are.
    pub(super) fn adopt_volumes(&self, container: &Container) {
        let details = container.now();
        for point in details.mounts.iter() {
            if let MountSource::Volume(volume) = &point.source {
                self.volumes
                    .adopt(&volume.name, container.id(), details.state.is_running());
            }
        }
    }
}

fn has_volumes(container: &Container) -> bool {
    let is_volume = |point: &MountPoint| matches!(point.source, MountSource::Volume(_));
    container.now().mounts.iter().any(is_volume)
}

/// What a volume gets from the image. A volume that only a configuration asks for cannot be where the image has a file.
fn content_of(found: Found, point: &MountPoint, volume: &VolumeSource) -> Result<Option<OwnedFd>> {
    match found {
        Found::Directory(content) => Ok(Some(content)),
        Found::File if volume.anonymous => Err(Error::invalid(format!(
            "cannot mount volume over existing file, file exists {}",
            point.destination
        ))),
        Found::File | Found::Nothing => Ok(None),
    }
}
