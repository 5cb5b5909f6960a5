//! Namespaces of a sandbox: which are new, which are joined.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use nix::{sched::CloneFlags, unistd::Pid};
use oci_spec::runtime::{LinuxNamespaceType as Type, Spec};

use crate::{Error, Result, error::Context, ids::IdMap, sys::clone};

/// What `linux.namespaces` comes to.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Flags for clone3(2); a new cgroup namespace is not among them, see [`new_cgroup`](Self::new_cgroup).
    pub flags: u64,
    /// To be made once the process is in its cgroup, which becomes the root of what it sees.
    pub new_cgroup: bool,
    /// Namespaces of other processes to join: kind and descriptor.
    pub joined: Vec<(Type, OwnedFd)>,
    /// User namespace to join, in which the new namespaces then are.
    pub joined_user: Option<OwnedFd>,
    /// Pid namespace to join, which only takes effect for children.
    pub joined_pid: Option<OwnedFd>,
    /// Whether these are new, or joined and not the caller's.
    pub own_ipc: bool,
    pub own_net: bool,
    pub own_uts: bool,
    pub new_net: bool,
    pub new_uts: bool,
    pub new_user: bool,
}

impl Namespaces {
    /// Reads them from `spec` and opens those to be joined.
    pub fn of(spec: &Spec) -> Result<Self> {
        let mut found = Self::default();
        let linux = spec.linux().as_ref();
        let list = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
        for namespace in list {
            let kind = namespace.typ();
            match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
                None => found.add_new(kind),
                Some(path) => {
                    let fd = File::open(path)
                        .context(|| format!("cannot open the {kind} namespace {}", path.display()))?;
                    let own = is_foreign(&fd, kind)
                        .context(|| format!("cannot examine the {kind} namespace {}", path.display()))?;
                    found.add_joined(kind, fd.into(), own);
                }
            }
        }
        if found.flags & libc::CLONE_NEWNS as u64 == 0 {
            return Err(Error::invalid(
                "the specification must ask for a new mount namespace",
            ));
        }
        Ok(found)
    }

    fn add_new(&mut self, kind: Type) {
        let flag = match kind {
            Type::Mount => libc::CLONE_NEWNS as u64,
            Type::Uts => {
                (self.own_uts, self.new_uts) = (true, true);
                libc::CLONE_NEWUTS as u64
            }
            Type::Ipc => {
                self.own_ipc = true;
                libc::CLONE_NEWIPC as u64
            }
            Type::User => {
                self.new_user = true;
                libc::CLONE_NEWUSER as u64
            }
            Type::Pid => libc::CLONE_NEWPID as u64,
            Type::Network => {
                (self.own_net, self.new_net) = (true, true);
                libc::CLONE_NEWNET as u64
            }
            Type::Time => clone::CLONE_NEWTIME,
            Type::Cgroup => {
                self.new_cgroup = true;
                0
            }
        };
        self.flags |= flag;
    }

    fn add_joined(&mut self, kind: Type, fd: OwnedFd, own: bool) {
        match kind {
            Type::Pid => {
                self.joined_pid = Some(fd);
                return;
            }
            Type::User => {
                // Nobody can join the one he is in.
                self.joined_user = own.then_some(fd);
                return;
            }
            Type::Ipc => self.own_ipc = own,
            Type::Network => self.own_net = own,
            Type::Uts => self.own_uts = own,
            _ => {}
        }
        self.joined.push((kind, fd));
    }

    /// Flags for the process's clone3(2).
    pub fn clone_flags(&self) -> u64 {
        self.flags & !(self.ipc_of_root().bits() as u64)
    }

    /// What the root of a new user namespace makes himself.
    pub fn ipc_of_root(&self) -> CloneFlags {
        let ipc = libc::CLONE_NEWIPC as u64;
        if self.new_user && self.flags & ipc != 0 {
            CloneFlags::CLONE_NEWIPC
        } else {
            CloneFlags::empty()
        }
    }

    /// Whether the sandbox has another user namespace than the caller.
    pub fn other_user(&self) -> bool {
        self.new_user || self.joined_user.is_some()
    }

    /// Joins those of other processes. The pid and the user namespace are not among them.
    pub fn join(&self) -> Result<()> {
        for (kind, fd) in &self.joined {
            nix::sched::setns(fd, clone_flag(*kind))
                .context(|| format!("cannot join the {kind} namespace"))?;
        }
        Ok(())
    }
}

fn clone_flag(kind: Type) -> CloneFlags {
    match kind {
        Type::Mount => CloneFlags::CLONE_NEWNS,
        Type::Uts => CloneFlags::CLONE_NEWUTS,
        Type::Ipc => CloneFlags::CLONE_NEWIPC,
        Type::User => CloneFlags::CLONE_NEWUSER,
        Type::Pid => CloneFlags::CLONE_NEWPID,
        Type::Network => CloneFlags::CLONE_NEWNET,
        Type::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        Type::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
    }
}

/// Whether `fd` is another namespace than the caller's.
fn is_foreign(fd: &File, kind: Type) -> io::Result<bool> {
    let theirs = fd.metadata()?;
    let ours = fs::metadata(format!("/proc/self/ns/{kind}"))?;
    Ok((theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()))
}

/// Lets the caller's children begin in another pid namespace, until dropped.
#[derive(Debug)]
pub(super) struct PidNamespace {
    own: File,
}

impl PidNamespace {
    /// Enters `namespace`, if there is one.
    pub fn enter(namespace: Option<&OwnedFd>) -> Result<Option<Self>> {
        let Some(namespace) = namespace else {
            return Ok(None);
        };
        let own = File::open("/proc/self/ns/pid").context(|| "cannot open the caller's pid namespace")?;
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWPID).context(|| "cannot join the pid namespace")?;
        Ok(Some(Self { own }))
    }

    /// Goes back.
    pub fn leave(self) -> Result<()> {
        nix::sched::setns(&self.own, CloneFlags::CLONE_NEWPID)
            .context(|| "cannot go back to the own pid namespace")
    }
}

/// Joins every namespace of the process behind `target` (a pidfd) that the caller is not in. Returns whether the user
/// namespace was among them.
pub(super) fn join_all(target: impl AsFd) -> Result<bool> {
    let target = target.as_fd();
    let pid = pid_of(target.as_raw_fd()).context(|| "cannot find the container's first process")?;
    let kinds = [
        Type::User,
        Type::Mount,
        Type::Uts,
        Type::Ipc,
        Type::Pid,
        Type::Network,
        Type::Cgroup,
        Type::Time,
    ];
    let mut flags = CloneFlags::empty();
    for kind in kinds {
        let message = || format!("cannot open the container's {kind} namespace");
        let theirs = match File::open(format!("/proc/{pid}/ns/{kind}")) {
            // A kernel without this kind.
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_alive(pid) => continue,
            other => other.context(message)?,
        };
        if is_foreign(&theirs, kind).context(message)? {
            flags |= clone_flag(kind);
        }
    }
    // The pidfd, unlike the number, cannot have become another process: what was compared above only saves work.
    nix::sched::setns(target, flags).context(|| "cannot join the container's namespaces")?;
    Ok(flags.contains(CloneFlags::CLONE_NEWUSER))
}

/// Whether `spec` asks for a user namespace.
pub(super) fn with_user(spec: &Spec) -> bool {
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref());
    list.unwrap_or_default().iter().any(|n| n.typ() == Type::User)
}

fn is_alive(pid: Pid) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(false)
}

/// Number of the process that the pidfd with number `fd` refers to, in the caller's pid namespace.
pub(super) fn pid_of(fd: i32) -> io::Result<Pid> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let number = info
        .lines()
        .find_map(|l| l.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    match number {
        Some(pid @ 1..) => Ok(Pid::from_raw(pid)),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Gives the user namespace of process `pid`, a child of the caller, its id mappings.
pub(super) fn map_ids(pid: Pid, spec: &Spec) -> Result<()> {
    let map = IdMap::of_spec(spec)
        .ok_or_else(|| Error::invalid("a new user namespace needs uidMappings and gidMappings"))?;
    for (file, content) in [("uid_map", map.uid_lines()), ("gid_map", map.gid_lines())] {
        fs::write(format!("/proc/{pid}/{file}"), content)
            .context(|| format!("cannot set the {file} of the user namespace"))?;
    }
    Ok(())
}
