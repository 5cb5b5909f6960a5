//! `/dev` of a sandbox: nodes, links and the terminal.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid},
    pty::OpenptFlags,
    termios::Winsize,
};

use super::{
    defaults, filesystem,
    options::Options,
    root::{self, Make, Root},
};
use crate::{
    Error, Result,
    error::Context,
    ids::{IdMap, Maker},
};

/// Magic number of devpts (statfs(2)).
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Copies of the host's default devices, for a sandbox in a user namespace, where no node can be made.
#[derive(Debug)]
pub(super) struct HostNodes(Vec<(LinuxDevice, OwnedFd)>);

/// The devices of `spec` that have to be made: the ones every container has, and its own.
fn wanted(spec: &Spec) -> Vec<LinuxDevice> {
    let own = spec
        .linux()
        .as_ref()
        .and_then(|l| l.devices().as_deref())
        .unwrap_or_default();
    let default = |(name, major, minor): (&str, i64, i64)| {
        let mut device = LinuxDevice::default();
        device
            .set_path(Path::new("/dev").join(name))
            .set_typ(LinuxDeviceType::C)
            .set_major(major)
            .set_minor(minor)
            .set_file_mode(Some(0o666));
        device
    };
    let mut all: Vec<_> = defaults::DEVICES.into_iter().map(default).collect();
    all.retain(|d| own.iter().all(|o| o.path() != d.path()));
    all.extend(own.iter().cloned());
    all
}

/// Whether the caller can make devices at all, which takes the host's own user namespace.
pub(super) fn can_be_made() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether `device` is in the file system on `/dev`.
fn is_in_dev(device: &LinuxDevice) -> bool {
    device.path().starts_with("/dev")
}

/// `/dev` for a sandbox whose ids are those of `map`, made and filled here. It belongs to the sandbox's root.
pub(super) fn outer(spec: &Spec, options: &Options, map: &IdMap) -> Result<OwnedFd> {
    let mut options = options.clone();
    let (uid, gid) = map.root();
    for (key, id) in [("uid", uid), ("gid", gid)] {
        if !options.data.iter().any(|(k, _)| k == key) {
            options.data.push((key.to_owned(), Some(id.to_string())));
        }
    }
    let dev = filesystem::new_mount("tmpfs", Some(Path::new("tmpfs")), &options)?;
    let _maker = Maker::root_of(map)?;
    let umask = rustix::process::umask(Mode::empty());
    let filled = fill_outer(spec, &dev, map);
    rustix::process::umask(umask);
    filled.map(|()| dev)
}

fn fill_outer(spec: &Spec, dev: &OwnedFd, map: &IdMap) -> Result<()> {
    let root = Root::from(dev.try_clone().context(|| "cannot copy a descriptor")?);
    for mut device in wanted(spec).into_iter().filter(is_in_dev) {
        let message = |path: &Path| format!("cannot make the device {}", path.display());
        let path = device.path().clone();
        let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        let (uid, gid) = map.outer(uid, gid).ok_or_else(|| {
            Error::invalid(format!(
                "{}: its owner {uid}:{gid} has no id in the user namespace",
                message(&path)
            ))
        })?;
        let name = path.strip_prefix("/dev").unwrap_or(&path);
        device.set_uid(Some(uid)).set_gid(Some(gid));
        let (parent, name) = root.make_parent(name).context(|| message(&path))?;
        make_node_at(parent.as_fd(), name, &device).context(|| message(&path))?;
    }
    Ok(())
}

impl HostNodes {
    /// Opens them on the host by their names; with `outer_dev`, without those that are in `/dev`.
    pub fn open(spec: &Spec, outer_dev: bool) -> Result<Self> {
        let options = Options::of(&defaults::mount("/", "bind", "", &[]))?;
        let open = |device: LinuxDevice| {
            let node = filesystem::bind(device.path(), &options)?;
            Ok((device, node))
        };
        let wanted = wanted(spec).into_iter().filter(|d| !(outer_dev && is_in_dev(d)));
        Ok(Self(wanted.map(open).collect::<Result<_>>()?))
    }

    fn attach(&self, root: &Root) -> Result<()> {
        for (device, node) in &self.0 {
            let path = device.path();
            let message = || format!("cannot show the device {}", path.display());
            let target = root.make(path, Make::File).context(message)?;
            filesystem::attach(node, target).context(message)?;
        }
        Ok(())
    }
}

/// Fills the `/dev` that was mounted, `dev`.
pub(super) fn populate(spec: &Spec, root: &Root, dev: &OwnedFd, host: Option<&HostNodes>) -> Result<()> {
    match host {
        Some(host) => host.attach(root)?,
        None => {
            for device in wanted(spec) {
                make_node(root, dev, &device)
                    .context(|| format!("cannot make the device {}", device.path().display()))?;
            }
        }
    }
    let mut links = vec![
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    if root.open(Path::new("/proc/kcore"), OFlags::PATH).is_ok() {
        links.push(("/proc/kcore", "core"));
    }
    for (target, name) in links {
        match rustix::fs::symlinkat(target, dev, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e).context(|| format!("cannot make the link /dev/{name}")),
        }
    }
    Ok(())
}

fn make_node(root: &Root, dev: &OwnedFd, device: &LinuxDevice) -> io::Result<()> {
    let path = device.path();
    // Most are directly in the file system that has just been mounted: no path to resolve.
    if let Some(name) = path
        .strip_prefix("/dev")
        .ok()
        .filter(|n| n.components().count() == 1)
    {
        return make_node_at(dev.as_fd(), name.as_os_str(), device);
    }
    let (parent, name) = root.make_parent(path)?;
    make_node_at(parent.as_fd(), name, device)
}

fn make_node_at(parent: BorrowedFd<'_>, name: &OsStr, device: &LinuxDevice) -> io::Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    let number = |n: i64| u32::try_from(n).map_err(io::Error::other);
    let rdev = match kind {
        FileType::Fifo => 0,
        _ => rustix::fs::makedev(number(device.major())?, number(device.minor())?),
    };
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(parent, name, kind, mode, rdev) {
        Err(rustix::io::Errno::EXIST) => {
            // Fine if it is what was asked for.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
            let data = found.metadata()?;
            if FileType::from_raw_mode(data.mode()) != kind || data.rdev() != rdev {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
        }
        other => other?,
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if (uid, gid) != (0, 0) {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Both ends of a pseudo terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

impl Terminal {
    /// Opens one in the devpts `pts` (the root of its mount). The slave is had from the master, not by its path.
    pub fn open(pts: impl AsFd, height: u16, width: u16) -> Result<Self> {
        let message = || "cannot open a terminal in the container's /dev/pts";
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let master = rustix::fs::openat(&pts, "ptmx", flags, Mode::empty()).context(message)?;
        let copy = File::from(master.try_clone().context(message)?);
        if !root::is_on(&master, DEVPTS_MAGIC).context(message)?
            || !root::is_character_device(&copy, 5, 2).context(message)?
        {
            return Err(Error::internal(
                "/dev/pts of the container is not what terminals are made by",
            ));
        }
        rustix::pty::unlockpt(&master).context(message)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(message)?;
        if (height, width) != (0, 0) {
            let size = Winsize {
                ws_row: height,
                ws_col: width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&slave, size).context(message)?;
        }
        Ok(Self { master, slave })
    }

    /// Opens one in the devpts on `/dev/pts` of `root`.
    pub fn open_in(root: &Root, height: u16, width: u16) -> Result<Self> {
        let pts = root
            .open_plain(Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY)
            .context(|| "cannot open the container's /dev/pts")?;
        Self::open(pts, height, width)
    }

    /// Shows the slave as `/dev/console`.
    pub fn show_as_console(&self, root: &Root) -> Result<()> {
        let message = || "cannot show the terminal as /dev/console";
        let path = Path::new("/dev/console");
        let plain = |root: &Root| root.open_plain(path, OFlags::PATH);
        let target = match plain(root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let (parent, name) = root.make_parent(path).context(message)?;
                match rustix::fs::mknodat(
                    &parent,
                    name,
                    FileType::RegularFile,
                    Mode::from_raw_mode(0o600),
                    0,
                ) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => plain(root).context(message)?,
                    Err(e) => return Err(e).context(message),
                }
            }
            other => other.context(message)?,
        };
        let slave = filesystem::copy(&self.slave, "").context(message)?;
        filesystem::attach(slave, target).context(message)
    }
}
