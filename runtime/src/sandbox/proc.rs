//! Writing to `/proc`, through a procfs that nobody else can reach: a container cannot put anything in its place.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::MountAttrFlags as Attr,
};

use super::{filesystem::NewFilesystem, mounts::PROC_MAGIC, namespaces::Namespaces, root};
use crate::{Error, Result, error::Context};

/// A procfs of the caller's pid namespace that is mounted nowhere.
#[derive(Debug)]
pub(super) struct Proc(OwnedFd);

impl Proc {
    /// A new one.
    pub fn new() -> Result<Self> {
        let attributes = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
        Ok(Self(NewFilesystem::open("proc")?.mount(attributes)?))
    }

    /// The one that was just made and mounted for the sandbox, in which nothing else runs yet.
    pub fn of(mount: &OwnedFd) -> Result<Self> {
        Ok(Self(mount.try_clone().context(|| "cannot keep the procfs")?))
    }

    /// Writes `value` to the file `path` below `/proc`.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let file = rustix::fs::openat2(&self.0, Path::new(path), flags, Mode::empty(), resolve)?;
        if !root::is_on(&file, PROC_MAGIC)? {
            return Err(io::Error::other("not a file of procfs"));
        }
        File::from(file).write_all(value.as_bytes())
    }

    /// Sets kernel parameters, after checking that each belongs to the sandbox alone.
    pub fn set_parameters(
        &self,
        parameters: &HashMap<String, String>,
        namespaces: &Namespaces,
    ) -> Result<()> {
        for (name, value) in parameters {
            let path = parameter_path(name);
            check(&path, namespaces)?;
            self.write(&format!("sys/{path}"), value)
                .context(|| format!("open sysctl {name}: cannot write {value:?}"))?;
        }
        Ok(())
    }
}

/// `net.ipv4.x` as `net/ipv4/x`. If the first separator is a slash, dots belong to the names (sysctl.d(5)).
fn parameter_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes().get(at) == Some(&b'.') => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

fn check(path: &str, namespaces: &Namespaces) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let name = path.replace('/', ".");
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(Error::invalid(format!(
            "sysctl {name:?} is not a kernel parameter"
        )));
    }
    let not_own = |kind: &str| {
        Err(Error::invalid(format!(
            "sysctl {name:?} is not allowed: the container shares the {kind} namespace of the host"
        )))
    };
    match path {
        _ if IPC.contains(&path) || path.starts_with("fs/mqueue/") => {
            if namespaces.own_ipc {
                Ok(())
            } else {
                not_own("ipc")
            }
        }
        _ if path.starts_with("net/") => {
            if namespaces.own_net {
                Ok(())
            } else {
                not_own("network")
            }
        }
        "kernel/domainname" => {
            if namespaces.own_uts {
                Ok(())
            } else {
                not_own("uts")
            }
        }
        "kernel/hostname" => Err(Error::invalid(
            "sysctl \"kernel.hostname\" conflicts with the hostname of the specification; use that",
        )),
        _ => Err(Error::invalid(format!(
            "sysctl {name:?} is not in a separate kernel namespace"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, own: bool) -> Result<()> {
        let namespaces = Namespaces {
            own_ipc: own,
            own_net: own,
            own_uts: own,
            ..Namespaces::default()
        };
        check(&parameter_path(name), &namespaces)
    }

    #[test]
    fn only_what_belongs_to_the_sandbox() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.100/x",
            "kernel.shmmax",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            assert!(verdict(name, true).is_ok(), "{name}");
            assert!(verdict(name, false).is_err(), "{name}");
        }
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "kernel.hostname",
            "net..x",
            "net/../kernel/x",
            "fs.file-max",
            "",
        ] {
            assert!(verdict(name, true).is_err(), "{name}");
        }
    }

    #[test]
    fn dots_and_slashes() {
        assert_eq!(
            parameter_path("net.ipv4.conf.eth0/100.x"),
            "net/ipv4/conf/eth0.100/x"
        );
        assert_eq!(
            parameter_path("net/ipv4/conf/eth0.100/x"),
            "net/ipv4/conf/eth0.100/x"
        );
    }

    #[test]
    fn writes_to_the_callers_own_files() {
        let proc = Proc::new().unwrap();
        let before = std::fs::read_to_string("/proc/self/coredump_filter").unwrap();
        proc.write("self/coredump_filter", &format!("0x{}", before.trim()))
            .unwrap();
        assert!(proc.write("../etc/passwd", "").is_err());
        assert!(proc.write("self/cwd/x", "").is_err());
    }
}
