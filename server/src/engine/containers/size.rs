//! How much a container takes on disk.

use std::{collections::HashSet, fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use berth_runtime::{Result, error::Context};

use super::{Containers, blocking, model::Container};

/// Bytes of a container's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Of its writable layer.
    pub own: i64,
    /// Of everything, image included.
    pub root_fs: i64,
}

impl Containers {
    /// Adds up the sizes. This reads the whole writable layer.
    ///
    /// # Errors
    /// Internal, if it can't be read.
    pub async fn size(&self, container: &Arc<Container>) -> Result<Size> {
        let image = container.image.as_ref().map_or(0, |hold| hold.image().size());
        let upper = self.store.writable_layer(container.id()).upper;
        let own = blocking(move || {
            let own = tree_size(&upper, &mut HashSet::new());
            own.context(|| format!("cannot measure {}", upper.display()))
        })
        .await?;
        Ok(Size {
            own,
            root_fs: own.saturating_add_unsigned(image),
        })
    }
}

/// Bytes of all files below `path`, each counted once; directories count nothing. What vanishes meanwhile is left out.
pub fn tree_size(path: &Path, seen: &mut HashSet<(u64, u64)>) -> io::Result<i64> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut total = 0i64;
    for entry in entries {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            total = total.saturating_add(tree_size(&entry.path(), seen)?);
        } else if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
            total = total.saturating_add(i64::try_from(metadata.size()).unwrap_or(i64::MAX));
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_directories_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("x"), [0; 100]).unwrap();
        fs::hard_link(dir.join("x"), root.path().join("y")).unwrap();
        fs::write(root.path().join("z"), [0; 11]).unwrap();
        assert_eq!(tree_size(root.path(), &mut HashSet::new()).unwrap(), 111);
        assert_eq!(
            tree_size(&root.path().join("none"), &mut HashSet::new()).unwrap(),
            0
        );
    }
}
