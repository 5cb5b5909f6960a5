//! Network namespaces of containers (network_namespaces(7)).

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use super::links::Links;
use crate::{
    Error, Result,
    error::Context,
    failpoint::hit,
    ids::IdMap,
    userns::{self, UserNamespace},
};

/// A network namespace, held by its descriptor, and a netlink socket inside it.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
    /// The user namespace that was made for it.
    user: Option<UserNamespace>,
    /// Its links.
    pub links: Links,
}

/// The user namespace that a network namespace belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A new one with these ids.
    New(&'a IdMap),
    /// The one at this path.
    Existing(&'a Path),
}

impl Namespace {
    /// A new namespace with nothing in it but a loopback interface, which is up. IPv6 is off for interfaces to come
    /// ([`Namespace::enable_ipv6`]).
    ///
    /// # Errors
    /// Internal.
    pub fn create() -> Result<Self> {
        on_a_thread(Self::enter_new)
    }

    /// [`Namespace::create`], with the calling thread inside afterwards.
    pub(super) fn enter_new() -> Result<Self> {
        hit("netns.create").context(|| "cannot make a network namespace")?;
        unshare(CloneFlags::CLONE_NEWNET).context(|| "cannot make a network namespace")?;
        let descriptor = Self::of_this_thread()?;
        Ok(Self {
            descriptor,
            user: None,
            links: prepare()?,
        })
    }

    /// That of the calling thread.
    pub(super) fn of_this_thread() -> Result<OwnedFd> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path).context(|| format!("cannot open {path}"))?;
        Ok(file.into())
    }

    /// The same in a user namespace, whose root may then change it.
    ///
    /// # Errors
    /// Internal.
    pub fn create_for(owner: Owner<'_>) -> Result<Self> {
        let (user, descriptor) = match owner {
            Owner::New(ids) => {
                let (user, descriptor) = UserNamespace::create_with_network(ids)?;
                (Some(user), descriptor)
            }
            Owner::Existing(path) => (None, userns::network_in(path)?),
        };
        let links = on_a_thread(|| {
            setns(&descriptor, CloneFlags::CLONE_NEWNET).context(|| "cannot enter a network namespace")?;
            prepare()
        })?;
        Ok(Self {
            descriptor,
            user,
            links,
        })
    }

    /// A path of the user namespace that was made for it, as [`Namespace::path`].
    pub fn user_path(&self) -> Option<PathBuf> {
        self.user.as_ref().map(UserNamespace::path)
    }

    /// The namespace at `path`, such as `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// Not found if there is none; internal.
    pub fn open(path: &Path) -> Result<Self> {
        let descriptor: OwnedFd = File::open(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::not_found(format!("{} is gone", path.display())),
                _ => Error::internal(format!("cannot open {}", path.display())).caused_by(error),
            })?
            .into();
        let links = on_a_thread(|| {
            setns(&descriptor, CloneFlags::CLONE_NEWNET).context(|| "cannot enter a network namespace")?;
            Links::open()
        })?;
        Ok(Self {
            descriptor,
            user: None,
            links,
        })
    }

    /// A path by which other processes of this host can open it as long as this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.descriptor.as_raw_fd()
        ))
    }

    /// Its descriptor's number, for requests that name it.
    pub fn number(&self) -> i32 {
        self.descriptor.as_fd().as_raw_fd()
    }

    /// Lets an interface have IPv6 addresses.
    ///
    /// # Errors
    /// Internal.
    pub fn enable_ipv6(&self, interface: &str) -> Result<()> {
        self.inside(|| {
            write_sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
            write_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")
        })
    }

    /// Runs `work` on a thread that is inside.
    ///
    /// # Errors
    /// Internal, and those of `work`.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&self.descriptor, CloneFlags::CLONE_NEWNET)
                .context(|| "cannot enter a network namespace")?;
            work()
        })
    }
}

/// Sets a new namespace, which the calling thread is in, to what all begin with.
fn prepare() -> Result<Links> {
    write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    let mut links = Links::open()?;
    links.set_up_loopback()?;
    Ok(links)
}

/// Runs `work` on a thread of its own, which may change what belongs to a thread.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("berth-net".to_owned())
            .spawn_scoped(scope, work)
            .context(|| "cannot start a thread")?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::internal("a thread in a network namespace ended early")))
    })
}

/// Sets a kernel parameter of the calling thread's namespace, given as a path below `/proc/sys`. One that this kernel
/// does not have is fine: what it would switch does not exist either.
///
/// # Errors
/// Internal.
pub fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.context(|| format!("cannot set {} to {value}", path.display())),
    }
}

/// Reads a kernel parameter, trimmed; none if this kernel does not have it.
pub fn read_sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}
