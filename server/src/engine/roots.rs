//! The engine's directories on the host. An open [`Roots`] belongs to one engine alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use berth_runtime::{Error, Result, error::Context, failpoint::hit};

use crate::config::Config;

/// How files that are being written are called, before something random.
const NEW: &str = ".new-";

/// Where instance names are held; the same for all engines of a host.
const INSTANCE_LOCKS: &str = "/run/lock";

/// Directories of the data root and their modes: nobody but root gets any further.
const DATA: [(&str, u32); 5] = [
    ("containers", 0o710),
    ("images", 0o700),
    ("networks", 0o700),
    ("volumes", 0o701),
    ("tmp", 0o700),
];
/// Directories of the exec root.
const RUN: [(&str, u32); 1] = [("containers", 0o700)];

/// The data root, which persists, and the exec root, which lasts until the next boot.
#[derive(Debug)]
pub struct Roots {
    data: PathBuf,
    run: PathBuf,
    _locks: [Lock; 2],
}

impl Roots {
    /// Makes the directories and takes them, and the instance name, for this process.
    ///
    /// # Errors
    /// [`Kind::Conflict`](berth_runtime::Kind::Conflict) if another engine has one of them, else internal.
    pub fn take(config: &Config) -> Result<Self> {
        let (data, run) = (config.data_root.clone(), config.exec_root.clone());
        make_dir(&data, 0o710)?;
        // The unix socket is here by default, and its group has to get to it.
        make_dir(&run, 0o711)?;
        let root = Lock::take(&data.join("engine.lock"), || {
            format!("data root {}", data.display())
        })?;
        fs::create_dir_all(INSTANCE_LOCKS).context(|| format!("cannot create {INSTANCE_LOCKS}"))?;
        let name = Path::new(INSTANCE_LOCKS).join(format!("berth-{}.lock", config.instance));
        let instance = Lock::take(&name, || format!("instance name {:?}", config.instance))?;
        for (root, dirs) in [(&data, DATA.as_slice()), (&run, RUN.as_slice())] {
            for (name, mode) in dirs {
                make_dir(&root.join(name), *mode)?;
            }
        }
        let roots = Self {
            data,
            run,
            _locks: [root, instance],
        };
        roots.clear_tmp()?;
        clear_new(&roots.data);
        Ok(roots)
    }

    /// The data root itself.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// One directory a container.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// One file a network.
    pub fn networks(&self) -> PathBuf {
        self.data.join("networks")
    }

    /// One directory a volume.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// What builds keep between them.
    pub fn build(&self) -> PathBuf {
        self.data().join("build")
    }

    /// Files that are only worked with; empty at every start.
    pub fn tmp(&self) -> PathBuf {
        self.data.join("tmp")
    }

    /// The exec root itself.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// One bundle directory a container that runs.
    pub fn run_containers(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// The id of the engine, made when the data root is used for the first time, or when it was damaged.
    ///
    /// # Errors
    /// Internal, if it can neither be read nor written.
    pub fn engine_id(&self) -> Result<String> {
        let path = self.data.join("engine-id");
        match fs::read(&path) {
            Ok(bytes) => match std::str::from_utf8(&bytes).map(str::trim) {
                Ok(text) if is_id(text) => return Ok(text.to_owned()),
                _ => {
                    tracing::error!(path = %path.display(), "not the id of an engine; there will be a new one")
                }
            },
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).context(|| format!("cannot read {}", path.display()));
            }
            Err(_) => {}
        }
        let id = new_uuid();
        write_file(&path, format!("{id}\n").as_bytes())?;
        Ok(id)
    }

    fn clear_tmp(&self) -> Result<()> {
        let tmp = self.tmp();
        let say = || format!("cannot clear {}", tmp.display());
        for entry in fs::read_dir(&tmp).context(say)? {
            let entry = entry.context(say)?;
            let path = entry.path();
            let is_dir = entry.file_type().context(say)?.is_dir();
            let removed = if is_dir {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// Replaces the file at `path` as a whole, or leaves it as it was: a temporary file, synced and renamed. Mode 0600.
///
/// # Errors
/// Internal, naming the path.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    let write = || -> io::Result<()> {
        hit("file.create")?;
        let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(dir)?;
        hit("file.write")?;
        file.write_all(bytes)?;
        hit("file.sync")?;
        file.as_file().sync_all()?;
        hit("file.rename")?;
        file.persist(path).map_err(|e| e.error)?;
        hit("file.sync-dir")?;
        File::open(dir)?.sync_all()
    };
    write().context(|| format!("cannot write {}", path.display()))
}

/// Replaces the file at `path` as a whole, or leaves it as it was, as far as processes can die. Not synced: for files that
/// need not outlive the host's boot. Mode 0600.
///
/// # Errors
/// Internal, naming the path.
pub fn write_fleeting(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new)?.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().context(|| format!("cannot write {}", path.display()))
}

/// Removes what those who died in [`write_file`] have left in a directory.
pub fn clear_new(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let named = entry.file_name().to_string_lossy().starts_with(NEW);
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if named
            && is_file
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "a half-written file could not be removed");
        }
    }
}

/// Makes sure that `path` is a directory of `mode`.
fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let make = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        match DirBuilder::new().mode(mode).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
        if fs::metadata(path)?.mode() & 0o7777 != mode {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    make().context(|| format!("cannot make directory {} with mode {mode:o}", path.display()))
}

/// A file that one process at a time holds by flock(2); it goes away with its holder, however that ends.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(path: &Path, what: impl Fn() -> String) -> Result<Self> {
        let say = || format!("cannot lock {}", path.display());
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .context(say)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    // Only to say who it is.
                    let _ = file.read_to_string(&mut pid);
                    let pid = pid.trim();
                    return Err(Error::conflict(format!(
                        "{} is in use by another engine (process {pid}); stop it, or choose another one",
                        what()
                    )));
                }
                Err(TryLockError::Error(e)) => return Err(e).context(say),
            }
            // Its last holder may have removed it between the opening and the locking.
            let same = |there: fs::Metadata| file.metadata().is_ok_and(|ours| ours.ino() == there.ino());
            if fs::metadata(path).is_ok_and(same) {
                file.set_len(0).context(say)?;
                writeln!(file, "{}", std::process::id()).context(say)?;
                return Ok(Self {
                    path: path.to_owned(),
                    _file: file,
                });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked, so nobody else can hold the file that is removed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether it is one word of letters, digits and hyphens, as short as ids are.
fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A random UUID (RFC 9562, version 4).
fn new_uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use berth_runtime::Kind;

    use super::*;
    use crate::config::settings::Settings;

    fn config(dir: &Path) -> Config {
        Config::resolve(Settings {
            data_root: Some(dir.join("data")),
            exec_root: Some(dir.join("run")),
            ..Settings::default()
        })
        .unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn one_engine_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let first = Roots::take(&config).unwrap();
        let error = Roots::take(&config).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        drop(Roots::take(&config).unwrap());
    }

    #[test]
    fn one_engine_an_instance_name() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, mut two] = dirs.each_ref().map(|dir| config(dir.path()));
        assert_ne!(one.instance, two.instance);
        two.instance.clone_from(&one.instance);
        let _first = Roots::take(&one).unwrap();
        assert_eq!(Roots::take(&two).unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn modes_keep_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        fs::create_dir(&config.data_root).unwrap();
        fs::set_permissions(&config.data_root, Permissions::from_mode(0o777)).unwrap();
        let roots = Roots::take(&config).unwrap();
        for (path, wanted) in [
            (roots.data().to_owned(), 0o710),
            (roots.containers(), 0o710),
            (roots.volumes(), 0o701),
            (roots.images(), 0o700),
            (roots.networks(), 0o700),
            (roots.tmp(), 0o700),
            (roots.run().to_owned(), 0o711),
            (roots.run_containers(), 0o700),
        ] {
            assert_eq!(mode(&path), wanted, "{}", path.display());
        }
    }

    #[test]
    fn the_id_stays_and_temporary_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let roots = Roots::take(&config).unwrap();
        let id = roots.engine_id().unwrap();
        assert_eq!(id.len(), 36);
        fs::create_dir_all(roots.tmp().join("a/b")).unwrap();
        fs::write(roots.tmp().join("c"), "").unwrap();
        drop(roots);
        let roots = Roots::take(&config).unwrap();
        assert_eq!(roots.engine_id().unwrap(), id);
        assert_eq!(fs::read_dir(roots.tmp()).unwrap().count(), 0);
    }
}
