//! Where volumes come from.

use berth_runtime::{Error, Kind, Result};

use super::mount_point::{MountPoint, MountSource, VolumeSource};

/// Finds and makes volumes.
pub trait VolumeProvider {
    /// Finds the volume named in `volume`, or makes it (with a made-up name if it has none), and fills in name,
    /// driver and path. From then on the volume is in use by `container` (a full id).
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a bad name or options, [`Kind::NotFound`] for an unknown driver,
    /// [`Kind::NotImplemented`] if there are no volumes.
    fn resolve(&self, container: &str, volume: &mut VolumeSource) -> Result<()>;
}

/// An engine without volumes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVolumes;

impl VolumeProvider for NoVolumes {
    fn resolve(&self, _container: &str, volume: &mut VolumeSource) -> Result<()> {
        let what = if volume.name.is_empty() {
            "an anonymous volume".to_owned()
        } else {
            format!("volume {}", volume.name)
        };
        Err(Error::new(
            Kind::NotImplemented,
            format!(
                "{what} is needed, but this engine has no volumes yet: use a bind mount or a tmpfs instead"
            ),
        ))
    }
}

/// Makes sure that every volume of `points` exists.
///
/// # Errors
/// As [`VolumeProvider::resolve`]; volumes that were made before the failing one are left to the caller.
pub fn resolve(points: &mut [MountPoint], container: &str, provider: &dyn VolumeProvider) -> Result<()> {
    for point in points {
        if let MountSource::Volume(volume) = &mut point.source {
            provider.resolve(container, volume)?;
        }
    }
    Ok(())
}
