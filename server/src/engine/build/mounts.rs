//! `RUN --mount`.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_api::models;
use berth_runtime::{
    Error, Result,
    error::Context as _,
    image::{
        Scratch,
        build::{self, Merged},
    },
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{
    cache::{Kept, Sharing},
    dockerfile::Heredoc,
    expand::{self, Variables},
    job::Job,
    metadata::working_directory,
    progress::{Failed, Out},
    state::State,
};

/// What one `--mount` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    kind: String,
    id: String,
    from: String,
    source: String,
    target: String,
    environment: String,
    size: String,
    sharing: Sharing,
    writable: Option<bool>,
    required: bool,
    mode: Option<u32>,
    uid: u32,
    gid: u32,
}

impl Wish {
    /// Reads the value of `--mount`.
    ///
    /// # Errors
    /// Invalid for an unknown field or a malformed value.
    pub fn parse(text: &str, escape: char, variables: &Variables) -> Result<Self> {
        let mut wish = Self {
            kind: "bind".to_owned(),
            ..Self::default()
        };
        for field in fields(text) {
            let (name, value) = field.split_once('=').unwrap_or((&field, ""));
            let value = expand::word(value, escape, variables)?;
            let number = || {
                value
                    .parse()
                    .map_err(|_| Error::invalid(format!("invalid value for {name}: {value}")))
            };
            let flag = || match value.as_str() {
                "" | "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(Error::invalid(format!("invalid value for {name}: {value}"))),
            };
            match name.to_ascii_lowercase().as_str() {
                "type" => wish.kind = value,
                "id" => wish.id = value,
                "from" => wish.from = value,
                "source" | "src" => wish.source = value,
                "target" | "dst" | "destination" => wish.target = value,
                "env" => wish.environment = value,
                "size" | "tmpfs-size" => wish.size = value,
                "sharing" => {
                    wish.sharing = match value.as_str() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        _ => return Err(Error::invalid(format!("unsupported sharing value {value:?}"))),
                    }
                }
                "rw" | "readwrite" => wish.writable = Some(flag()?),
                "ro" | "readonly" => wish.writable = Some(!flag()?),
                "required" => wish.required = flag()?,
                "mode" => {
                    let mode = u32::from_str_radix(&value, 8).ok().filter(|mode| *mode <= 0o7777);
                    wish.mode =
                        Some(mode.ok_or_else(|| Error::invalid(format!("invalid value for mode: {value}")))?);
                }
                "uid" => wish.uid = number()?,
                "gid" => wish.gid = number()?,
                other => return Err(Error::invalid(format!("unexpected key '{other}' in '{field}'"))),
            }
        }
        if !matches!(wish.kind.as_str(), "bind" | "cache" | "tmpfs" | "secret" | "ssh") {
            return Err(Error::invalid(format!("unsupported mount type {:?}", wish.kind)));
        }
        if wish.target.is_empty() && matches!(wish.kind.as_str(), "bind" | "cache" | "tmpfs") {
            return Err(Error::invalid(format!(
                "mount target of type {} is required",
                wish.kind
            )));
        }
        Ok(wish)
    }

    /// Whether what it shows of the context or of another stage decides what the step makes.
    pub fn shows(&self) -> Option<(&str, &str)> {
        let counts = self.kind == "bind" || (self.kind == "cache" && !self.from.is_empty());
        counts.then_some((self.from.as_str(), self.source.as_str()))
    }

    /// The name under which a kept directory is known.
    fn kept_name(&self, target: &str) -> String {
        let id = if self.id.is_empty() { target } else { &self.id };
        format!("{id}\0{}\0{}", self.from, self.source)
    }
}

/// The mounts of one step. What was made for them goes when it is dropped.
#[derive(Debug)]
pub struct Mounts {
    scratch: Scratch,
    attached: Vec<PathBuf>,
    kept: BTreeMap<String, Kept>,
    keep: Vec<Arc<State>>,
    /// For the container.
    pub mounts: Vec<models::Mount>,
    /// Where they are, so that what was made for them can be taken away.
    pub places: Vec<String>,
    /// Variables that only the process of the step gets.
    pub secret_environment: Vec<String>,
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in &self.attached {
            if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
                tracing::warn!(path = %path.display(), %error, "a mount of a build step stays");
            }
        }
    }
}

impl Mounts {
    /// None so far.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn new(job: &Job) -> Result<Self> {
        Ok(Self {
            scratch: job.store().scratch()?,
            attached: Vec::new(),
            kept: BTreeMap::new(),
            keep: Vec::new(),
            mounts: Vec::new(),
            places: Vec::new(),
            secret_environment: Vec::new(),
        })
    }

    /// Makes what the `--mount` flags of a step ask for.
    ///
    /// # Errors
    /// Invalid for a secret that is required and was not given, and a source that is not there.
    pub async fn add_all(
        &mut self,
        job: &Arc<Job>,
        state: &State,
        wishes: Vec<Wish>,
        index: usize,
        out: &Out,
    ) -> Result<(), Failed> {
        // All steps claim what they share in one order, so that none waits for another that waits for it.
        let caches = wishes.iter().filter(|wish| wish.kind == "cache");
        let claims: BTreeMap<String, Sharing> = caches
            .map(|wish| {
                let target = working_directory(&state.config.working_dir, &wish.target);
                (wish.kept_name(&target), wish.sharing)
            })
            .collect();
        for (name, sharing) in claims {
            let kept = job.engine.build_cache.directory(&name, sharing).await?;
            self.kept.insert(name, kept);
        }
        for wish in wishes {
            self.add(job, state, wish, index, out).await?;
        }
        Ok(())
    }

    async fn add(
        &mut self,
        job: &Arc<Job>,
        state: &State,
        wish: Wish,
        index: usize,
        out: &Out,
    ) -> Result<(), Failed> {
        let target = working_directory(&state.config.working_dir, &wish.target);
        match wish.kind.as_str() {
            "tmpfs" => self.tmpfs(target, &wish)?,
            "secret" => self.secret(job, &wish, &state.config.working_dir)?,
            "ssh" if wish.required => {
                return Err(Error::invalid(
                    "ssh is required by a mount, and a build has no agent to forward to",
                )
                .into());
            }
            "ssh" => {}
            "cache" => self.cache(job, target, &wish, index, out).await?,
            _ => self.bind(job, target, &wish, index, out).await?,
        }
        Ok(())
    }

    fn push(&mut self, source: &Path, target: String, read_only: bool) {
        self.places.push(target.clone());
        self.mounts.push(models::Mount {
            r#type: Some(models::MountType::Bind),
            source: source.to_string_lossy().into_owned(),
            target,
            read_only,
            ..models::Mount::default()
        });
    }

    fn directory(&self) -> Result<PathBuf> {
        let path = self
            .scratch
            .path()
            .join(format!("{:016x}", rand::random::<u64>()));
        fs::create_dir(&path).context(|| "cannot make a directory for a build step")?;
        Ok(path)
    }

    /// Mounts memory at a new directory, so that what is in it never reaches a disk.
    fn memory(&mut self) -> Result<PathBuf> {
        let path = self.directory()?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            flags,
            Some("mode=0700,size=64m"),
        )
        .context(|| "cannot mount memory for a secret")?;
        self.attached.push(path.clone());
        Ok(path)
    }

    fn tmpfs(&mut self, target: String, wish: &Wish) -> Result<()> {
        let size = match wish.size.as_str() {
            "" => 0,
            text => bytes(text).ok_or_else(|| Error::invalid(format!("invalid value for size: {text}")))?,
        };
        self.places.push(target.clone());
        self.mounts.push(models::Mount {
            r#type: Some(models::MountType::Tmpfs),
            target,
            tmpfs_options: Some(models::MountTmpfsOptions {
                size_bytes: size,
                ..models::MountTmpfsOptions::default()
            }),
            ..models::Mount::default()
        });
        Ok(())
    }

    fn secret(&mut self, job: &Job, wish: &Wish, working_dir: &str) -> Result<()> {
        let named = if wish.source.is_empty() {
            &wish.target
        } else {
            &wish.source
        };
        let id = match wish.id.as_str() {
            "" => named.rsplit('/').next().unwrap_or_default().to_owned(),
            id => id.to_owned(),
        };
        if id.is_empty() {
            return Err(Error::invalid("a secret needs an id"));
        }
        let Some(value) = job.options.secrets.get(&id) else {
            return match wish.required {
                true => Err(Error::invalid(format!("secret {id}: not found"))),
                false => Ok(()),
            };
        };
        if !wish.environment.is_empty() {
            let text = std::str::from_utf8(value)
                .ok()
                .filter(|text| !text.contains('\0') && !wish.environment.contains(['=', '\0']))
                .ok_or_else(|| Error::invalid(format!("secret {id}: cannot be the value of a variable")))?;
            self.secret_environment
                .push(format!("{}={text}", wish.environment));
            if wish.target.is_empty() {
                return Ok(());
            }
        }
        let target = match wish.target.as_str() {
            "" => format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(&id)),
            target => working_directory(working_dir, target),
        };
        let file = self.memory()?.join("secret");
        fs::write(&file, value).context(|| "cannot write a secret")?;
        build::set_mode(&file, wish.mode.unwrap_or(0o400))?;
        std::os::unix::fs::chown(&file, Some(wish.uid), Some(wish.gid))
            .context(|| "cannot give a secret its owner")?;
        self.push(&file, target, true);
        Ok(())
    }

    async fn cache(
        &mut self,
        job: &Arc<Job>,
        target: String,
        wish: &Wish,
        index: usize,
        out: &Out,
    ) -> Result<(), Failed> {
        let path = match self.kept.get(&wish.kept_name(&target)) {
            Some(kept) => kept.path.clone(),
            None => return Err(Error::internal("a kept directory was not claimed").into()),
        };
        let fresh = fs::read_dir(&path)
            .context(|| "cannot look at a kept directory")?
            .next()
            .is_none();
        if fresh {
            if !wish.from.is_empty() {
                let base = job.source(index, &wish.from, out).await?;
                self.fill(job, &base, &wish.source, &path)?;
            }
            build::set_mode(&path, wish.mode.unwrap_or(0o755))?;
            std::os::unix::fs::chown(&path, Some(wish.uid), Some(wish.gid))
                .context(|| "cannot give a directory its owner")?;
        }
        self.push(&path, target, wish.writable == Some(false));
        Ok(())
    }

    /// Copies the content of `source` in a stage into a kept directory.
    fn fill(&self, job: &Job, base: &State, source: &str, to: &Path) -> Result<()> {
        let lowers = base.lowers(job.store());
        if lowers.is_empty() {
            return Ok(());
        }
        let merged = Merged::new(&lowers, None, &self.directory()?)?;
        let found = build::resolve(merged.root(), source.as_bytes())?;
        if found.kind != Some(build::Kind::Directory) {
            return Ok(());
        }
        let to = fs::File::open(to).context(|| "cannot open a kept directory")?;
        build::copy(merged.root(), &found.path, to.as_fd(), b"/", true, &plain()).map(drop)
    }

    async fn bind(
        &mut self,
        job: &Arc<Job>,
        target: String,
        wish: &Wish,
        index: usize,
        out: &Out,
    ) -> Result<(), Failed> {
        let writable = wish.writable == Some(true);
        let lowers = match wish.from.as_str() {
            "" => vec![job.context.path()],
            from => {
                let base = job.source(index, from, out).await?;
                let lowers = base.lowers(job.store());
                self.keep.push(base);
                lowers
            }
        };
        let root = match (lowers.as_slice(), writable) {
            ([], _) => self.directory()?,
            ([only], false) => only.clone(),
            (lowers, writable) => {
                let place = self.directory()?;
                let (upper, work, aside) = (self.directory()?, self.directory()?, self.directory()?);
                build::set_mode(&upper, 0o755)?;
                let upper = writable.then_some((upper.as_path(), work.as_path()));
                match job.engine.containers.user_namespace() {
                    Some(user) => Merged::mapped(lowers, upper, &user)?,
                    None => Merged::new(lowers, upper, &aside)?,
                }
                .attach(&place)?;
                self.attached.push(place.clone());
                place
            }
        };
        let source = inside(&root, &wish.source)?;
        self.push(&source, target, !writable);
        Ok(())
    }

    /// A copy of what the image has at `path`, for a step to work on: what it changes there does not last.
    pub fn volume(&mut self, root: Option<&Merged>, path: &str) -> Result<()> {
        let place = self.directory()?;
        build::set_mode(&place, 0o755)?;
        if let Some(root) = root {
            let found = build::resolve(root.root(), path.as_bytes())?;
            if found.kind == Some(build::Kind::Directory) {
                let to = fs::File::open(&place).context(|| "cannot open a directory")?;
                build::copy(root.root(), &found.path, to.as_fd(), b"/", true, &plain())?;
                build::copy_attributes(root.root(), &found.path, &place)?;
            }
        }
        self.push(&place, path.to_owned(), false);
        Ok(())
    }

    /// The script that a heredoc with a `#!` line is, as a program of the container. Returns its path there.
    pub fn script(&mut self, heredoc: &Heredoc, content: &str) -> Result<String> {
        let file = self.directory()?.join("script");
        fs::write(&file, content).context(|| "cannot write a script")?;
        build::set_mode(&file, 0o755)?;
        let target = format!("/dev/pipes/{}", heredoc.name.replace('/', "_"));
        self.push(&file, target.clone(), true);
        Ok(target)
    }
}

/// The fields of a record of comma-separated values; quotes keep commas.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().into_iter().for_each(|field| field.push(c)),
        }
    }
    fields.iter().map(|field| field.trim().to_owned()).collect()
}

fn plain() -> build::CopyOptions<'static> {
    build::CopyOptions {
        name: None,
        owner: None,
        chmod: None,
        leave_out: &|_| false,
        go_on: &|| true,
    }
}

/// The real path on the host of `source` in the directory `root`, which nothing in it leads out of.
fn inside(root: &Path, source: &str) -> Result<PathBuf> {
    let dir = fs::File::open(root).context(|| "cannot open the source of a mount")?;
    let found = build::resolve(dir.as_fd(), source.as_bytes())?;
    if found.kind.is_none() {
        return Err(Error::invalid(format!(
            "failed to compute cache key: {source:?}: not found"
        )));
    }
    Ok(root.join(std::ffi::OsStr::from_bytes(&found.path)))
}

/// A number of bytes with Docker's units.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i64 = match lower
        .get(digits.len()..)?
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    digits
        .parse::<i64>()
        .ok()
        .filter(|n| *n >= 0)?
        .checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let parse = |text: &str| Wish::parse(text, '\\', &[("D".to_owned(), "/x".to_owned())].into());
        let wish = parse("type=cache,target=$D/y,id=a,sharing=locked,mode=0700,uid=5").unwrap();
        assert_eq!(
            (wish.kind.as_str(), wish.target.as_str(), wish.mode, wish.uid),
            ("cache", "/x/y", Some(0o700), 5)
        );
        assert_eq!(parse("target=/x,rw").unwrap().writable, Some(true));
        assert_eq!(parse("target=/x,readonly=false").unwrap().writable, Some(true));
        for text in [
            "type=npipe,target=/x",
            "type=cache",
            "what=1,target=/x",
            "target=/x,mode=9",
            "type=cache,target=/x,sharing=no",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(bytes("64m"), Some(64 << 20));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("x"), None);
    }
}
