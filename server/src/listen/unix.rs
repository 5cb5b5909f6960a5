//! Unix sockets: made so that nobody gets in before owner, group and mode are set, and removed by who made them.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, lchown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use berth_runtime::{Error, Result, error::Context};
use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
        stat::{FchmodatFlags, Mode, fchmod, fchmodat},
    },
    unistd::{Gid, Group},
};

/// Who owns the socket when nothing is configured and the group exists.
const DEFAULT_GROUP: &str = "docker";
const MODE: Mode = Mode::from_bits_truncate(0o660);
/// Longest wait for another engine that is making a socket in the same directory.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file of a socket; removed when this is dropped, unless it has become someone else's.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// Listens on `path`. A file that is left from an engine that died is replaced.
///
/// # Errors
/// [`Kind::Conflict`](berth_runtime::Kind::Conflict) if something else is at the path or someone answers there,
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an unknown group, else internal.
pub fn bind_socket(path: &Path, group: Option<&str>) -> Result<(UnixListener, SocketFile)> {
    let say = || format!("cannot listen on unix://{}", path.display());
    let gid = gid(group)?;
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(dir).context(say)?;
    // Two engines that start at once must not both find the file stale.
    let _turn = take_turn(dir).context(say)?;
    clear(path)?;
    let socket = new_socket(path).context(say)?;
    let file = SocketFile::of(path).context(say)?;
    lchown(path, None, Some(gid.as_raw())).context(say)?;
    fchmodat(nix::fcntl::AT_FDCWD, path, MODE, FchmodatFlags::FollowSymlink).context(say)?;
    let backlog = Backlog::new(1024).unwrap_or(Backlog::MAXCONN);
    listen(&socket, backlog).context(say)?;
    Ok((UnixListener::from(socket), file))
}

/// A socket bound to `path`, whose file has mode 0 whatever the umask.
fn new_socket(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file takes its mode from the socket (unix(7)).
    fchmod(&socket, Mode::empty())?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn take_turn(dir: &Path) -> io::Result<File> {
    let dir = File::open(dir)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(dir),
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(io::Error::other("its directory is locked by another process"));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Removes a socket on which nobody listens any more.
fn clear(path: &Path) -> Result<()> {
    let shown = path.display();
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(|| format!("cannot look at {shown}")),
    };
    if !meta.file_type().is_socket() {
        let text = format!("{shown} exists and is not a socket; remove it, or listen elsewhere");
        return Err(Error::conflict(text));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(|| format!("cannot tell whether someone listens on {shown}")),
        Ok(_) => {
            let text = format!("someone already listens on {shown}; stop it, or listen elsewhere");
            return Err(Error::conflict(text));
        }
    }
    fs::remove_file(path).context(|| format!("cannot remove the stale socket {shown}"))
}

/// The group's number: of the name or number given, else of `docker`, else the engine's own.
fn gid(group: Option<&str>) -> Result<Gid> {
    let name = group.unwrap_or(DEFAULT_GROUP);
    let found = match Group::from_name(name) {
        // getgrnam_r(3): how a host without a group file says that there is none.
        Err(Errno::ENOENT) => None,
        found => found.context(|| format!("cannot look up group {name}"))?,
    };
    match (found, group) {
        (Some(found), _) => Ok(found.gid),
        (None, Some(name)) if name != DEFAULT_GROUP => match name.parse() {
            Ok(number) => Ok(Gid::from_raw(number)),
            Err(_) => Err(Error::invalid(format!(
                "group {name} does not exist; create it, or name another"
            ))),
        },
        (None, _) => {
            tracing::warn!(
                "there is no group {DEFAULT_GROUP}: only the engine's own group can use the socket"
            );
            Ok(Gid::effective())
        }
    }
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: inode(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and number of the file at `path` itself.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use berth_runtime::Kind;

    use super::*;

    fn own_group() -> String {
        Gid::effective().to_string()
    }

    #[test]
    fn mode_and_group_are_set_and_the_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/s");
        let (listener, file) = bind_socket(&path, Some("54321")).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o660);
        assert_eq!(meta.gid(), 54321);
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_is_closed_to_all_until_it_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _socket = new_socket(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0);
    }

    #[test]
    fn stale_is_replaced_and_live_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, _file) = bind_socket(&path, Some(&own_group())).unwrap();
        let error = bind_socket(&path, Some(&own_group())).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind_socket(&path, Some(&own_group())).unwrap_err().kind(),
            Kind::Conflict
        );
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_successor_keeps_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_listener, file) = bind_socket(&path, Some(&own_group())).unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn unknown_groups_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = bind_socket(&dir.path().join("s"), Some("no-such-group")).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
    }
}
