//! The options of the driver `local`: a file system that is mounted while the volume is used (mount(8)).

use std::{
    collections::BTreeMap,
    io,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use crate::{Error, Result, error::Context};

/// Names of options.
const KNOWN: [&str; 4] = ["type", "o", "device", "size"];
/// Options that need others.
const NEEDS: [(&str, &[&str]); 3] = [
    ("device", &["type"]),
    ("type", &["device"]),
    ("o", &["device", "type"]),
];
/// Flags that a bind can only be given in a second step.
const REMOUNTED: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME)
    .union(MsFlags::MS_STRICTATIME);

/// What is mounted while a volume is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Type of the file system.
    kind: String,
    /// The device, directory or address.
    device: PathBuf,
    flags: MsFlags,
    propagation: MsFlags,
    /// What the file system itself is told, separated by commas.
    data: String,
}

impl MountOptions {
    /// Reads the options of a volume; none if nothing is to be mounted.
    ///
    /// # Errors
    /// Invalid for an unknown option, one that lacks another, and a `size`, which needs quotas.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Option<Self>> {
        if let Some(unknown) = options.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(Error::invalid(format!("invalid option: {unknown:?}")));
        }
        for (name, needs) in NEEDS {
            let missing = needs.iter().find(|needed| !options.contains_key(**needed));
            if let (true, Some(missing)) = (options.contains_key(name), missing) {
                return Err(Error::invalid(format!("missing required option: {missing:?}")));
            }
        }
        let (Some(kind), Some(device)) = (options.get("type"), options.get("device")) else {
            return Ok(None);
        };
        let mut read = Self {
            kind: kind.clone(),
            device: device.into(),
            flags: MsFlags::empty(),
            propagation: MsFlags::empty(),
            data: String::new(),
        };
        let mut data = Vec::new();
        for word in options.get("o").into_iter().flat_map(|list| list.split(',')) {
            read.word(word, &mut data);
        }
        read.data = data.join(",");
        Ok(Some(read))
    }

    fn word<'a>(&mut self, word: &'a str, data: &mut Vec<&'a str>) {
        if let Some(propagation) = propagation(word) {
            self.propagation = propagation;
            return;
        }
        match flag(word) {
            Some((flag, true)) => self.flags |= flag,
            Some((flag, false)) => self.flags -= flag,
            None if word.is_empty() || word == "defaults" => {}
            None => data.push(word),
        }
    }

    /// Mounts it on the directory `target`.
    ///
    /// # Errors
    /// Internal, with what was to be mounted and the kernel's reason.
    pub fn mount(&self, target: &Path) -> Result<()> {
        let failed = || {
            format!(
                "failed to mount local volume: mount {}:{}, flags: {:#x}{}",
                self.device.display(),
                target.display(),
                self.flags.bits(),
                self.shown_data(),
            )
        };
        let bind = self.flags.contains(MsFlags::MS_BIND);
        if bind && !self.device.is_absolute() {
            return Err(Error::internal(format!(
                "{}: the device of a bind must be an absolute path",
                failed()
            )));
        }
        let data = self.resolved_data()?;
        let data = (!data.is_empty()).then_some(data.as_str());
        mount(
            Some(&self.device),
            target,
            Some(self.kind.as_str()),
            self.flags,
            data,
        )
        .context(failed)?;
        let finish = || -> nix::Result<()> {
            let none = None::<&Path>;
            if bind && self.flags.intersects(REMOUNTED) {
                let flags = self.flags | MsFlags::MS_REMOUNT;
                mount(none, target, none, flags, none)?;
            }
            if !self.propagation.is_empty() {
                mount(none, target, none, self.propagation, none)?;
            }
            Ok(())
        };
        let finished = finish();
        if finished.is_err() {
            unmount(target)?;
        }
        finished.context(failed)
    }

    /// The data as messages show it: without passwords.
    fn shown_data(&self) -> String {
        if self.data.is_empty() {
            return String::new();
        }
        let hidden = self.data.split(',').map(|word| match word.split_once('=') {
            Some((name @ ("password" | "pass" | "password2"), _)) => format!("{name}=********"),
            _ => word.to_owned(),
        });
        format!(", data: {}", hidden.collect::<Vec<_>>().join(","))
    }

    /// The data with the address of the server in figures, which is all that the kernel understands.
    fn resolved_data(&self) -> Result<String> {
        let network = self.kind.starts_with("nfs") || matches!(self.kind.as_str(), "cifs" | "smb3");
        if !network {
            return Ok(self.data.clone());
        }
        let mut words = Vec::new();
        for word in self.data.split(',') {
            match word.strip_prefix("addr=") {
                Some(name) if name.parse::<std::net::IpAddr>().is_err() => {
                    let failed = || format!("error resolving passed in network volume address {name}");
                    let address = (name, 0).to_socket_addrs().context(failed)?.next();
                    let address = address.ok_or_else(|| Error::internal(failed()))?;
                    words.push(format!("addr={}", address.ip()));
                }
                _ => words.push(word.to_owned()),
            }
        }
        Ok(words.join(","))
    }
}

/// The flag that a word sets or clears.
fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MsFlags> {
    let recursive = MsFlags::MS_REC;
    Some(match word {
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | recursive,
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | recursive,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | recursive,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | recursive,
        _ => return None,
    })
}

/// Whether something is mounted on `path`; false if there is no such path.
///
/// # Errors
/// Internal, if it cannot be examined.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(data) => Ok(data.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        // A server that is gone: what is broken is mounted.
        Err(rustix::io::Errno::STALE | rustix::io::Errno::NOTCONN) => Ok(true),
        Err(error) => Err(error).context(|| format!("cannot examine {}", path.display())),
    }
}

/// Takes away everything mounted on `path`. Containers that have it keep it; nothing mounted there is fine.
///
/// # Errors
/// Internal.
pub fn unmount(path: &Path) -> Result<()> {
    while is_mount_point(path)? {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL) => return Ok(()),
            Err(error) => {
                return Err(io::Error::from(error)).context(|| format!("cannot unmount {}", path.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Option<MountOptions>> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        MountOptions::read(&options.collect())
    }

    #[test]
    fn options_need_each_other() {
        assert_eq!(read(&[]).unwrap(), None);
        for (options, message) in [
            (&[("colour", "red")][..], "invalid option: \"colour\""),
            (&[("type", "tmpfs")], "missing required option: \"device\""),
            (&[("device", "x")], "missing required option: \"type\""),
            (
                &[("o", "size=1m"), ("type", "tmpfs")],
                "missing required option: \"device\"",
            ),
        ] {
            assert_eq!(read(options).unwrap_err().message(), message);
        }
    }

    #[test]
    fn words_are_flags_or_data() {
        let options = read(&[
            ("type", "nfs"),
            ("device", ":/srv"),
            ("o", "addr=10.0.0.1,ro,nolock,suid,rslave"),
        ]);
        let options = options.unwrap().unwrap();
        assert_eq!(options.flags, MsFlags::MS_RDONLY);
        assert_eq!(options.propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
        assert_eq!(options.data, "addr=10.0.0.1,nolock");
        assert_eq!(options.resolved_data().unwrap(), "addr=10.0.0.1,nolock");
    }

    #[test]
    fn passwords_are_not_told() {
        let options = read(&[
            ("type", "cifs"),
            ("device", "//server/share"),
            ("o", "username=me,password=secret,addr=10.0.0.1"),
        ]);
        let shown = options.unwrap().unwrap().shown_data();
        assert_eq!(shown, ", data: username=me,password=********,addr=10.0.0.1");
    }

    #[test]
    fn mounted_and_unmounted() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let tmpfs = read(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=64k,ro")]);
        let tmpfs = tmpfs.unwrap().unwrap();
        assert!(!is_mount_point(&target).unwrap());
        tmpfs.mount(&target).unwrap();
        tmpfs.mount(&target).unwrap();
        assert!(is_mount_point(&target).unwrap());
        assert!(std::fs::write(target.join("x"), "").is_err());
        unmount(&target).unwrap();
        assert!(!is_mount_point(&target).unwrap());
        let bind = read(&[("type", "none"), ("device", "/etc"), ("o", "bind,ro")]);
        bind.unwrap().unwrap().mount(&target).unwrap();
        assert!(target.join("passwd").exists());
        let refused = std::fs::write(target.join("berth-test"), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        unmount(&target).unwrap();
        let missing = read(&[("type", "none"), ("device", "/none/such"), ("o", "bind")]);
        let error = missing.unwrap().unwrap().mount(&target).unwrap_err().to_string();
        assert!(
            error.starts_with("failed to mount local volume: mount /none/such:"),
            "{error}"
        );
        assert!(
            error.to_lowercase().contains("no such file or directory"),
            "{error}"
        );
    }
}
