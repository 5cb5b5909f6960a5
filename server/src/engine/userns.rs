//! `userns-remap`: which ids of the host the ids of containers are.
//!
//! The setting names a user and perhaps a group, as dockerd's does; the ids are the ranges that subuid(5) and subgid(5)
//! give them. All containers have the same ids, each in a user namespace of its own. What lies in the data root has the
//! ids that it has inside (but for volumes, which are the host's): layers are shown mapped, so that one store serves
//! containers with the host's ids as well.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_runtime::{
    Error, Result,
    error::Context,
    ids::{IdMap, RANGES_MAX, Range},
    sandbox::probe_idmap,
    userns::UserNamespace,
};

/// What `default` stands for: the user whose ranges dockerd uses as well.
const DEFAULT: &str = "dockremap";
/// What images need: `nobody` is 65534.
const IDS_MIN: u64 = 65_536;
/// Where ranges begin that are made here, and how long they are: the defaults of login.defs(5).
const FIRST: u64 = 100_000;

/// The ids of containers that do not have the host's.
#[derive(Clone, Debug)]
pub struct Remap {
    /// Which they are.
    pub map: Arc<IdMap>,
    /// A user namespace with them, for files of containers that do not run.
    pub namespace: Arc<UserNamespace>,
}

impl Remap {
    /// What `setting` stands for, on this host, for an engine that may write to `scratch`; none for the host's own ids.
    ///
    /// # Errors
    /// Invalid for a user without ranges, or with too few ids; internal if the kernel cannot map the ids of files.
    pub fn open(setting: &str, scratch: &Path) -> Result<Option<Self>> {
        let Some(map) = Files::default().map(setting)? else {
            tracing::warn!("User namespaces: root cannot be remapped with itself; user namespaces are OFF");
            return Ok(None);
        };
        probe_idmap(scratch, &map).map_err(|error| {
            Error::internal(format!(
                "userns-remap needs a kernel and a file system of the data root that can map the ids of overlay layers \
                 (Linux 5.19; ext4, xfs, btrfs, tmpfs and others): {error}"
            ))
        })?;
        let namespace = Arc::new(UserNamespace::create(&map)?);
        let (uid, gid) = map.root();
        tracing::info!(setting, uid, gid, "containers have user namespaces");
        Ok(Some(Self {
            map: Arc::new(map),
            namespace,
        }))
    }
}

/// The files that tell who has which ids.
#[derive(Clone, Debug)]
struct Files {
    passwd: PathBuf,
    group: PathBuf,
    subuid: PathBuf,
    subgid: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            subuid: "/etc/subuid".into(),
            subgid: "/etc/subgid".into(),
        }
    }
}

impl Files {
    /// The map for `setting`; none for root.
    fn map(&self, setting: &str) -> Result<Option<IdMap>> {
        let invalid = || {
            Error::invalid(format!(
                "invalid user/group specification in --userns-remap: {setting:?}"
            ))
        };
        let (user, group) = setting.split_once(':').unwrap_or((setting, ""));
        let odd =
            |name: &str| name.contains(':') || name.chars().any(|c| c.is_whitespace() || c.is_control());
        if user.is_empty() || odd(user) || odd(group) || setting.ends_with(':') {
            return Err(invalid());
        }
        let user = match user {
            "default" => {
                self.make_default()?;
                DEFAULT
            }
            user => user,
        };
        let users = names(&self.passwd, user)?;
        if users.iter().any(|name| name == "root" || name == "0") {
            return Ok(None);
        }
        let groups = match group {
            "" => users.clone(),
            group => names(&self.group, group)?,
        };
        let mut gids = ranges(&self.subgid, &groups)?;
        if gids.is_empty() {
            // Ranges of groups are found by the name of their user as well.
            gids = ranges(&self.subgid, &users)?;
        }
        Ok(Some(IdMap {
            uids: checked(ranges(&self.subuid, &users)?, &self.subuid, user)?,
            gids: checked(gids, &self.subgid, if group.is_empty() { user } else { group })?,
        }))
    }

    /// Gives [`DEFAULT`] ranges if it has none, after all that others have.
    fn make_default(&self) -> Result<()> {
        let names = [DEFAULT.to_owned()];
        let files = [&self.subuid, &self.subgid];
        let mut free = FIRST;
        for file in files {
            for line in read(file)?.lines() {
                if let Some((_, first, count)) = entry(line) {
                    free = free.max(first.saturating_add(count));
                }
            }
        }
        if free + IDS_MIN > u64::from(u32::MAX) {
            return Err(Error::invalid(format!(
                "there is no room for further ranges after those in {} and {}",
                self.subuid.display(),
                self.subgid.display()
            )));
        }
        for file in files {
            if ranges(file, &names)?.is_empty() {
                append(file, &format!("{DEFAULT}:{free}:{IDS_MIN}\n"))
                    .context(|| format!("cannot add ranges for {DEFAULT} to {}", file.display()))?;
            }
        }
        Ok(())
    }
}

/// The content of a file; empty if there is none.
fn read(file: &Path) -> Result<String> {
    match fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e).context(|| format!("cannot read {}", file.display())),
    }
}

fn append(file: &Path, line: &str) -> io::Result<()> {
    let mut open = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o644)
        .open(file)?;
    let whole = fs::read(file)?;
    let before = if whole.is_empty() || whole.ends_with(b"\n") {
        ""
    } else {
        "\n"
    };
    open.write_all(format!("{before}{line}").as_bytes())?;
    open.sync_all()
}

/// What a user or group goes by: as given, and its name or number in passwd(5) or group(5).
fn names(file: &Path, given: &str) -> Result<Vec<String>> {
    let mut all = vec![given.to_owned()];
    for line in read(file)?.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        if name == given || number == given {
            all.extend([name.to_owned(), number.to_owned()]);
        }
    }
    Ok(all)
}

/// A line of subuid(5): who, the first id, how many.
fn entry(line: &str) -> Option<(&str, u64, u64)> {
    let mut fields = line.trim().split(':');
    let entry = (
        fields.next()?,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
    );
    (!entry.0.is_empty() && !entry.0.starts_with('#')).then_some(entry)
}

/// The ranges that `file` gives to one of `names`, the lowest first.
fn ranges(file: &Path, names: &[String]) -> Result<Vec<(u64, u64)>> {
    let text = read(file)?;
    let mut found: Vec<_> = text
        .lines()
        .filter_map(entry)
        .filter(|(name, _, count)| *count > 0 && names.iter().any(|n| n == name))
        .map(|(_, first, count)| (first, count))
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// `ranges` one after the other, from id 0 on.
fn checked(ranges: Vec<(u64, u64)>, file: &Path, who: &str) -> Result<Vec<Range>> {
    let place = file.display();
    let refuse = |what: String| Err(Error::invalid(format!("can't create ID mappings: {what}")));
    if ranges.is_empty() {
        let kind = file.file_name().unwrap_or_default().to_string_lossy();
        return refuse(format!(
            "no {kind} ranges found for {who:?}: add a line like \"{who}:{FIRST}:{IDS_MIN}\" to {place}"
        ));
    }
    let total: u64 = ranges
        .iter()
        .fold(0, |sum, (_, count)| sum.saturating_add(*count));
    if total < IDS_MIN {
        return refuse(format!(
            "{place} gives {who:?} {total} ids, and containers need {IDS_MIN} (0 to {})",
            IDS_MIN - 1
        ));
    }
    if ranges.len() > RANGES_MAX {
        return refuse(format!(
            "{place} gives {who:?} {} ranges, and the kernel takes {RANGES_MAX}",
            ranges.len()
        ));
    }
    let mut inner = 0;
    let mut end = 0;
    let mut all = Vec::with_capacity(ranges.len());
    for (first, count) in ranges {
        let last = first.saturating_add(count);
        if first == 0 || last > u64::from(u32::MAX) || inner + count > u64::from(u32::MAX) {
            return refuse(format!(
                "the range {first}:{count} of {who:?} in {place} must begin after 0, which is root, and end before {}",
                u32::MAX
            ));
        }
        if first < end {
            return refuse(format!("ranges of {who:?} in {place} overlap at {first}"));
        }
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        all.push(Range {
            inner: narrow(inner),
            outer: narrow(first),
            size: narrow(count),
        });
        (inner, end) = (inner + count, last);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, passwd: &str, group: &str, subuid: &str, subgid: &str) -> Files {
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Files {
            passwd: file("passwd", passwd),
            group: file("group", group),
            subuid: file("subuid", subuid),
            subgid: file("subgid", subgid),
        }
    }

    fn range(inner: u32, outer: u32, size: u32) -> Range {
        Range { inner, outer, size }
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(
            dir.path(),
            "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n",
            "root:x:0:\nstaff:x:50:\n",
            "# a comment\nann:300000:536\nbob:1:2\nann:100000:65000\n77:500000:70000\n",
            "1000:200000:65536\nstaff:400000:65536\n77:500000:70000\nbroken\n",
        );
        let ann = [range(0, 100_000, 65_000), range(65_000, 300_000, 536)];
        for (setting, gids) in [
            ("ann", 200_000),
            ("1000", 200_000),
            ("ann:staff", 400_000),
            ("1000:50", 400_000),
            ("ann:other", 200_000),
        ] {
            let map = files.map(setting).unwrap().unwrap();
            assert_eq!(map.uids, ann, "{setting}");
            assert_eq!(map.gids, [range(0, gids, 65_536)], "{setting}");
        }
        // Ids that belong to nobody with a name.
        assert_eq!(files.map("77").unwrap().unwrap().root(), (500_000, 500_000));
        for root in ["root", "0", "0:0"] {
            assert_eq!(files.map(root).unwrap(), None);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(
            dir.path(),
            "",
            "",
            "few:100000:1000\nlow:0:65536\ntwice:100000:65536\ntwice:150000:65536\nhigh:4294900000:70000\ngone:100000:0\n",
            "few:100000:65536\nlow:1:65536\ntwice:1:65536\nhigh:1:65536\n",
        );
        for (setting, words) in [
            ("", "invalid user/group specification"),
            (":", "invalid user/group specification"),
            ("a:", "invalid user/group specification"),
            ("a:b:c", "invalid user/group specification"),
            ("a b", "invalid user/group specification"),
            ("nobody", "no subuid ranges found for \"nobody\""),
            ("gone", "no subuid ranges found for \"gone\""),
            ("few", "1000 ids, and containers need 65536"),
            ("low", "must begin after 0"),
            ("twice", "overlap at 150000"),
            ("high", "end before"),
        ] {
            let error = files.map(setting).unwrap_err();
            assert_eq!(error.kind(), berth_runtime::Kind::Invalid);
            assert!(error.to_string().contains(words), "{setting}: {error}");
        }
    }

    #[test]
    fn the_default_gets_what_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), "", "", "ann:100000:65536", "bob:200000:100000\n");
        let map = files.map("default").unwrap().unwrap();
        assert_eq!(map.root(), (300_000, 300_000));
        let subuid = fs::read_to_string(&files.subuid).unwrap();
        assert_eq!(subuid, "ann:100000:65536\ndockremap:300000:65536\n");
        // It stays with what it has.
        assert_eq!(files.map("default").unwrap().unwrap(), map);
        assert_eq!(fs::read_to_string(&files.subuid).unwrap(), subuid);
        fs::remove_file(&files.subuid).unwrap();
        fs::remove_file(&files.subgid).unwrap();
        assert_eq!(files.map("default").unwrap().unwrap().root(), (100_000, 100_000));
    }
}
