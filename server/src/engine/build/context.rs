//! The build context: what `COPY` and `ADD` take files from, and where the Dockerfile is.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use berth_runtime::{
    Error, Kind, Result,
    error::Context as _,
    image::{ImageStore, Limits, Scratch, build},
};

use super::{dockerfile::Dockerfile, ignore::Patterns};

/// How long a Dockerfile and a `.dockerignore` may be, in bytes.
const TEXT_MAX: u64 = 4 << 20;
const IGNORE_FILE: &str = ".dockerignore";

/// A context on disk. It vanishes when it is dropped.
#[derive(Debug)]
pub struct Context {
    scratch: Scratch,
    root: File,
}

impl Context {
    /// An empty one.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn empty(store: &ImageStore) -> Result<Self> {
        let scratch = store.scratch()?;
        let path = scratch.path().join("context");
        std::fs::create_dir(&path).context(|| "cannot make a build context")?;
        let root = File::open(&path).context(|| "cannot open a build context")?;
        Ok(Self { scratch, root })
    }

    /// Unpacks an archive. Blocks.
    ///
    /// # Errors
    /// Invalid and too large for archives that are refused.
    pub fn of_archive(store: &ImageStore, archive: impl Read + Send) -> Result<Self> {
        let context = Self::empty(store)?;
        build::extract(archive, context.root(), &Limits::default())?;
        Ok(context)
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("context")
    }

    /// Reads the Dockerfile and takes out of the context what is not to be seen: what `.dockerignore` leaves out, the
    /// Dockerfile and `.dockerignore` among it. Blocks.
    ///
    /// # Errors
    /// Invalid if there is no Dockerfile of that name or it is wrong.
    pub fn dockerfile(&self, name: &str) -> Result<Dockerfile> {
        let mut name = name.to_owned();
        let mut bytes = self.read(&name)?;
        if bytes.is_none() && name == "Dockerfile" {
            bytes = self.read("dockerfile")?;
            if bytes.is_some() {
                name = "dockerfile".to_owned();
            }
        }
        let bytes =
            bytes.ok_or_else(|| Error::invalid(format!("Cannot locate specified Dockerfile: {name}")))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::invalid(format!("the Dockerfile ({name}) cannot be empty")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::invalid(format!("the Dockerfile ({name}) is not a UTF-8 text")))?;
        let dockerfile = Dockerfile::parse(&text)?;
        self.leave_out(&name)?;
        Ok(dockerfile)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let relative = name.trim_start_matches("./");
        if relative.split('/').any(|part| part == "..") {
            return Err(Error::invalid(format!(
                "Forbidden path outside the build context: {name}"
            )));
        }
        build::read_file(self.root(), relative, TEXT_MAX).map_err(|error| match error.kind() {
            Kind::Internal => error,
            _ => Error::invalid(format!("Cannot locate specified Dockerfile: {}", error.message())),
        })
    }

    fn leave_out(&self, dockerfile: &str) -> Result<()> {
        let own = self.read(&format!("{dockerfile}{IGNORE_FILE}"))?;
        let bytes = match own {
            Some(bytes) => Some(bytes),
            None => self.read(IGNORE_FILE)?,
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let patterns = Patterns::read(&String::from_utf8_lossy(&bytes));
        if patterns.is_empty() {
            return Ok(());
        }
        let leave_out = |path: &[u8]| patterns.leave_out(&String::from_utf8_lossy(path));
        build::prune(self.root(), patterns.has_exceptions(), &leave_out)
    }
}
