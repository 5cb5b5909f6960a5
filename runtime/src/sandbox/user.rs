//! Users and groups of a container, looked up in its own `/etc/passwd` and `/etc/group`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::OFlags;

use super::root::Root;
use crate::{Error, Result, error::Context};

/// Bytes of `/etc/passwd` or `/etc/group` at most; larger ones are refused.
const FILE_MAX: u64 = 10 << 20;
/// Largest id that can be asked for.
const ID_MAX: i64 = i32::MAX as i64;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory, if the user has an entry.
    pub home: Option<String>,
}

/// Looks `text` up as the user of a further process, see [`super::check_user`].
pub(super) fn check(pid: i32, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .context(|| format!("cannot open the root directory of process {pid}"))?;
    Accounts::read(&Root::from(root))?.resolve(text, &[]).map(drop)
}

/// An entry of `/etc/passwd`.
#[derive(Debug)]
struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: i64,
    gid: i64,
    home: &'a [u8],
}

/// An entry of `/etc/group`.
#[derive(Debug)]
struct GroupEntry<'a> {
    name: &'a [u8],
    gid: i64,
    members: &'a [u8],
}

/// The two files of a root; one that does not exist is empty.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Accounts {
    /// Reads them through `root`.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(Self {
            passwd: read_file(root, Path::new("/etc/passwd"))?,
            group: read_file(root, Path::new("/etc/group"))?,
        })
    }

    /// Resolves `text` as Docker does: `""` (root), `user`, `uid`, each with `:group` or `:gid`. `further` are more
    /// groups, by name or number.
    pub fn resolve(&self, text: &str, further: &[&str]) -> Result<User> {
        let (user_text, group_text) = text.split_once(':').unwrap_or((text, ""));
        if group_text.contains(':') || text.contains(['\n', '\0']) {
            return Err(Error::invalid(format!(
                "invalid user {text:?}: must be user[:group]"
            )));
        }
        let mut user = User::default();
        let entry = self.find_user(user_text)?;
        match &entry {
            Some(entry) => {
                (user.uid, user.gid) = (id(entry.uid)?, id(entry.gid)?);
                user.home = Some(String::from_utf8_lossy(entry.home).into_owned());
            }
            None if user_text.is_empty() => {}
            None => user.uid = numeric(user_text, "user", "passwd")?,
        }
        if group_text.is_empty() {
            user.groups.push(user.gid);
            if let Some(entry) = &entry {
                for group in self.groups().filter(|g| has_member(g, entry.name)) {
                    user.groups.push(id(group.gid)?);
                }
            }
        } else {
            user.gid = match self.find_group(group_text) {
                Some(group) => id(group.gid)?,
                None => numeric(group_text, "group", "group")?,
            };
            user.groups.push(user.gid);
        }
        self.add(further, &mut user.groups)?;
        let mut seen = std::collections::HashSet::new();
        user.groups.retain(|g| seen.insert(*g));
        Ok(user)
    }

    /// Adds the groups that `further` names to `groups`.
    pub fn add(&self, further: &[&str], groups: &mut Vec<u32>) -> Result<()> {
        for text in further.iter().map(|t| t.trim()).filter(|t| !t.is_empty()) {
            groups.push(match self.find_group(text) {
                Some(group) => id(group.gid)?,
                None => match text.parse::<i64>() {
                    Ok(number) => id(number)?,
                    Err(_) => {
                        return Err(not_there(format!(
                            "Unable to find group {text}: no matching entries in group file"
                        )));
                    }
                },
            });
        }
        Ok(())
    }

    /// Home directory of the user with number `uid`.
    pub fn home(&self, uid: u32) -> Option<String> {
        let entry = self.users().find(|u| u.uid == i64::from(uid))?;
        Some(String::from_utf8_lossy(entry.home).into_owned())
    }

    /// A number is never taken for a name: an entry named `1000` must not decide who user 1000 is.
    fn find_user(&self, text: &str) -> Result<Option<PasswdEntry<'_>>> {
        if text.is_empty() {
            return Ok(self.users().find(|u| u.uid == 0));
        }
        Ok(match text.parse::<i64>() {
            Ok(number) => {
                id(number)?;
                self.users().find(|u| u.uid == number)
            }
            Err(_) => self.users().find(|u| u.name == text.as_bytes()),
        })
    }

    fn find_group(&self, text: &str) -> Option<GroupEntry<'_>> {
        match text.parse::<i64>() {
            Ok(number) => self.groups().find(|g| g.gid == number),
            Err(_) => self.groups().find(|g| g.name == text.as_bytes()),
        }
    }

    fn users(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        lines(&self.passwd).filter_map(|line| {
            let mut fields = line.split(|b| *b == b':');
            let name = fields.next().filter(|n| !n.is_empty())?;
            let uid = number(fields.nth(1)?)?;
            let gid = number(fields.next()?)?;
            let home = fields.nth(1).unwrap_or_default();
            Some(PasswdEntry { name, uid, gid, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = GroupEntry<'_>> {
        lines(&self.group).filter_map(|line| {
            let mut fields = line.split(|b| *b == b':');
            let name = fields.next().filter(|n| !n.is_empty())?;
            let gid = number(fields.nth(1)?)?;
            let members = fields.next().unwrap_or_default();
            Some(GroupEntry { name, gid, members })
        })
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|l| !l.is_empty() && l.first() != Some(&b'#'))
}

fn number(field: &[u8]) -> Option<i64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn has_member(group: &GroupEntry<'_>, name: &[u8]) -> bool {
    group.members.split(|b| *b == b',').any(|m| m == name)
}

/// An id in the range that can be asked for. Beyond it, numbers could wrap round to root's or to "no change".
fn id(number: i64) -> Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|_| number <= ID_MAX)
        .ok_or_else(|| Error::invalid(format!("uids and gids must be in range 0-{ID_MAX}, not {number}")))
}

/// A number without an entry is fine, a name is not.
fn numeric(text: &str, what: &str, file: &str) -> Result<u32> {
    match text.parse::<i64>() {
        Ok(number) => id(number),
        Err(e)
            if matches!(
                e.kind(),
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow
            ) =>
        {
            Err(Error::invalid(format!(
                "uids and gids must be in range 0-{ID_MAX}, not {text}"
            )))
        }
        Err(_) => Err(not_there(format!(
            "unable to find {what} {text}: no matching entries in {file} file"
        ))),
    }
}

fn not_there(message: String) -> Error {
    Error::not_found(message)
}

/// A regular file inside the root, bounded in size. Nothing else is opened: reading a FIFO or a device could hang or
/// have effects.
fn read_file(root: &Root, path: &Path) -> Result<Vec<u8>> {
    let name = path.display();
    let found = match root.open(path, OFlags::PATH) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(|| format!("cannot open {name} of the container"))?,
    };
    let is_regular = |fd: &File| -> Result<bool> {
        let data = fd
            .metadata()
            .context(|| format!("cannot examine {name} of the container"))?;
        if data.len() > FILE_MAX {
            return Err(Error::invalid(format!(
                "{name} of the container is larger than {FILE_MAX} bytes"
            )));
        }
        Ok(data.is_file())
    };
    let odd = || Error::invalid(format!("{name} of the container is not a regular file"));
    if !is_regular(&File::from(found))? {
        return Err(odd());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = root
        .open(path, flags)
        .context(|| format!("cannot open {name} of the container"))?;
    let file = File::from(file);
    // It may have been replaced meanwhile.
    if !is_regular(&file)? {
        return Err(odd());
    }
    let mut content = Vec::new();
    file.take(FILE_MAX)
        .read_to_end(&mut content)
        .context(|| format!("cannot read {name} of the container"))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd:
                b"# comment\nroot:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/:/bin/sh\ndaemon:x:2:3:d:/sbin:/x\n\
                high:x:4294967296:0::/:\nbroken\nmany:x:50:60::/home/many:/bin/sh\n"
                    .to_vec(),
            group: b"root:x:0:root\nbin:x:1:root,daemon\ndaemon:x:3:\naudio:x:29:many,x\nvideo:x:44:many\n"
                .to_vec(),
        }
    }

    fn resolve(text: &str) -> (u32, u32, Vec<u32>) {
        let user = accounts()
            .resolve(text, &[])
            .unwrap_or_else(|e| panic!("{text}: {e}"));
        (user.uid, user.gid, user.groups)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(resolve(""), (0, 0, vec![0, 1]));
        assert_eq!(resolve("root"), (0, 0, vec![0, 1]));
        assert_eq!(resolve("daemon"), (2, 3, vec![3, 1]));
        assert_eq!(resolve("2"), (2, 3, vec![3, 1]));
        assert_eq!(resolve("01"), (1, 0, vec![0]));
        assert_eq!(resolve("1:"), (1, 0, vec![0]));
        assert_eq!(resolve("many"), (50, 60, vec![60, 29, 44]));
        assert_eq!(resolve("many:audio"), (50, 29, vec![29]));
        assert_eq!(resolve("many:77"), (50, 77, vec![77]));
        assert_eq!(resolve("777:video"), (777, 44, vec![44]));
        assert_eq!(resolve(":5"), (0, 5, vec![5]));
        assert_eq!(resolve("2147483647"), (2_147_483_647, 0, vec![0]));
    }

    #[test]
    fn a_name_of_digits_is_not_a_name() {
        assert_eq!(resolve("1000"), (1000, 0, vec![0]));
    }

    #[test]
    fn nobody_becomes_root_by_mistake() {
        for text in [
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "-1",
            "0x0",
            "a:b:c",
            "\n0",
            "0\n",
            "high",
            "nobody",
            "root:nogroup",
            "root:-1",
            "root:4294967296",
            " 0",
            "0 ",
        ] {
            assert!(accounts().resolve(text, &[]).is_err(), "{text:?}");
        }
        assert!(accounts().resolve(&"9".repeat(70_000), &[]).is_err());
    }

    #[test]
    fn messages() {
        let message = |text: &str| accounts().resolve(text, &[]).unwrap_err().to_string();
        assert_eq!(
            message("x"),
            "unable to find user x: no matching entries in passwd file"
        );
        assert_eq!(
            message("root:x"),
            "unable to find group x: no matching entries in group file"
        );
        assert!(message("-1").contains("must be in range 0-2147483647"));
    }

    #[test]
    fn further_groups() {
        let user = accounts()
            .resolve("daemon", &["audio", "99", " video", "", "1"])
            .unwrap();
        assert_eq!(user.groups, [3, 1, 29, 99, 44]);
        let error = accounts().resolve("daemon", &["nope"]).unwrap_err();
        assert!(error.to_string().contains("Unable to find group nope"), "{error}");
        assert!(accounts().resolve("daemon", &["-1"]).is_err());
    }

    #[test]
    fn homes() {
        assert_eq!(
            accounts().resolve("many", &[]).unwrap().home.as_deref(),
            Some("/home/many")
        );
        assert_eq!(accounts().resolve("777", &[]).unwrap().home, None);
        assert_eq!(accounts().home(2).as_deref(), Some("/sbin"));
        assert_eq!(Accounts::default().resolve("5:6", &[]).unwrap().groups, [6]);
    }

    #[test]
    fn files_that_are_no_files_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let etc = directory.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let root = || {
            Root::from(rustix::fs::open(directory.path(), OFlags::PATH, rustix::fs::Mode::empty()).unwrap())
        };
        let passwd = etc.join("passwd");
        let error = || Accounts::read(&root()).unwrap_err().to_string();

        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(error().contains("not a regular file"));
        std::fs::remove_file(&passwd).unwrap();
        File::create(&passwd).unwrap().set_len(5 << 30).unwrap();
        assert!(error().contains("larger than"));
        std::fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("passwd", &passwd).unwrap();
        assert!(error().contains("cannot open"));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::create_dir(&passwd).unwrap();
        assert!(error().contains("not a regular file"));
        std::fs::remove_dir(&passwd).unwrap();
        // An absolute link leads to a file of the root, not of the machine.
        std::os::unix::fs::symlink("/etc/group", &passwd).unwrap();
        assert_eq!(Accounts::read(&root()).unwrap().passwd, b"");
        std::fs::write(etc.join("group"), "x:x:1:2").unwrap();
        assert_eq!(Accounts::read(&root()).unwrap().passwd, b"x:x:1:2");
    }
}
