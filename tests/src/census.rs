//! What an engine has on the host, found by its instance name and its root directory, which no other engine shares.
//! Taken before the start and after the end, the two must be the same.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{PidfdFlags, pidfd_open},
};

use crate::engine::{contains, mentions};

/// How long processes get to end after the engine has.
const PATIENCE: Duration = Duration::from_secs(20);

/// One line for each thing found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Counts what carries `name` or lies below `root`.
    pub fn take(name: &str, root: &Path) -> Self {
        let mut all = BTreeSet::new();
        all.extend(
            mounts(name, root)
                .iter()
                .map(|path| format!("mount {}", path.display())),
        );
        all.extend(links(name).iter().map(|link| format!("link {link}")));
        all.extend(
            cgroups(name)
                .iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
        all.extend(tables(name).iter().map(|table| format!("nftables table {table}")));
        all.extend(
            processes(name, root)
                .iter()
                .map(|(pid, line)| format!("process {pid}: {line}")),
        );
        all.extend(
            files(name, root)
                .iter()
                .map(|path| format!("file {}", path.display())),
        );
        Self(all)
    }

    /// Every thing found, without process ids.
    pub fn lines(&self) -> Vec<String> {
        let without_pid = |line: &String| match line.strip_prefix("process ") {
            Some(rest) => format!("process{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())),
            None => line.clone(),
        };
        self.0.iter().map(without_pid).collect()
    }

    /// Waits for processes that are ending, then compares.
    ///
    /// # Panics
    /// If anything is there that was not, or the other way round.
    pub fn await_return(&self, name: &str, root: &Path) {
        await_processes(name, root);
        let now = Self::take(name, root);
        let more: Vec<_> = now.0.difference(&self.0).collect();
        let less: Vec<_> = self.0.difference(&now.0).collect();
        assert!(
            more.is_empty() && less.is_empty(),
            "left behind: {more:#?}, gone: {less:#?}"
        );
    }
}

/// Waits until the processes of an engine have ended, at most for a while.
fn await_processes(name: &str, root: &Path) {
    let end = Instant::now() + PATIENCE;
    for (pid, _) in processes(name, root) {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else {
            continue;
        };
        // One that cannot be opened has ended.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        };
        let _ = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left));
    }
}

/// Files below `roots` that are named after one of `ids`.
pub fn traces(roots: &[PathBuf], ids: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in roots {
        walk(root, 12, &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if ids.iter().any(|id| name.contains(id.get(..12).unwrap_or(id))) {
                found.push(path.to_owned());
            }
        });
    }
    found
}

/// The paths of everything below `root`, but for what is mounted there.
pub fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(root, 12, &mut |path| found.push(path.display().to_string()));
    found
}

/// Removes by force what [`Census::take`] finds. For tests that have already failed.
pub fn clear(name: &str, root: &Path) {
    for (pid, _) in processes(name, root) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    await_processes(name, root);
    for path in mounts(name, root).iter().rev() {
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
    for path in cgroups(name).iter().rev() {
        let _ = fs::remove_dir(path);
    }
    for table in tables(name) {
        let words: Vec<&str> = table.split(' ').collect();
        let _ = Command::new("nft").args(["delete", "table"]).args(words).output();
    }
    for link in links(name) {
        let _ = Command::new("ip").args(["link", "delete", &link]).output();
    }
    for path in files(name, root).iter().rev() {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    }
}

/// Mount points, in the order of mounting.
fn mounts(name: &str, root: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let root = root.to_string_lossy();
    let own = text
        .lines()
        .filter(|line| line.contains(&*root) || line.contains(name));
    own.filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescaped(path)))
        .collect()
}

/// Undoes the octal escapes of mountinfo (proc_pid_mountinfo(5)).
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Network links whose name or alias has the instance's name.
fn links(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let link = entry.file_name().to_string_lossy().into_owned();
        let alias = fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
        if link.contains(name) || alias.contains(name) {
            found.push(link);
        }
    }
    found
}

/// Control groups in every hierarchy, parents first.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), 6, &mut |path| {
        if path.is_dir() && mentions(path, name) {
            found.push(path.to_owned());
        }
    });
    found
}

/// Tables of nftables, as `family name`. None where nft(8) is not installed.
fn tables(name: &str) -> Vec<String> {
    let Ok(output) = Command::new("nft").args(["list", "tables"]).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("table "))
        .filter(|table| table.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Processes of the engine: those whose command line, environment, cgroup, program, root or working directory has
/// the instance's name or lies below its root.
pub(crate) fn processes(name: &str, root: &Path) -> Vec<(i32, String)> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let root = root.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|text| text.parse::<i32>().ok())
        else {
            continue;
        };
        let at = entry.path();
        let told = ["cmdline", "environ", "cgroup"].iter().any(|file| {
            let bytes = fs::read(at.join(file)).unwrap_or_default();
            contains(&bytes, name) || contains(&bytes, &root)
        });
        let lies = ["exe", "root", "cwd"].iter().any(|link| {
            fs::read_link(at.join(link))
                .is_ok_and(|target| mentions(&target, &root) || mentions(&target, name))
        });
        // A process that has ended and waits for its parent shows nothing of itself but this.
        if pid != own && (told || lies) {
            let line = fs::read(at.join("cmdline")).unwrap_or_default();
            let status = fs::read_to_string(at.join("status")).unwrap_or_default();
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
            let (state, parent) = (field("State:").unwrap_or_default().trim(), field("PPid:"));
            // One that has lost its parent is the host's to reap, in its own time.
            if state.starts_with('Z') && parent.is_some_and(|parent| parent.trim() == "1") {
                continue;
            }
            found.push((
                pid,
                format!("{} ({state})", String::from_utf8_lossy(&line).replace('\0', " ")),
            ));
        }
    }
    found
}

/// Files outside the root that carry the instance's name.
fn files(name: &str, root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (place, depth) in [
        ("/run", 3),
        ("/tmp", 2),
        ("/var/lib", 2),
        ("/var/run", 1),
        ("/dev/shm", 2),
        ("/dev/mqueue", 1),
    ] {
        walk(Path::new(place), depth, &mut |path| {
            if mentions(path, name) && !path.starts_with(root) {
                found.push(path.to_owned());
            }
        });
    }
    found
}

/// Calls `visit` for everything below `directory`, `depth` levels down, without following links.
fn walk(directory: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    let mut entries: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        visit(&path);
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, depth - 1, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn files_and_processes_with_the_name_are_found() {
        let root = tempfile::tempdir().expect("a directory");
        let name = format!("census{}", std::process::id());
        assert_eq!(Census::take(&name, root.path()), Census::default());

        let file = std::env::temp_dir().join(&name);
        fs::write(&file, "").expect("a file");
        let mut child = Command::new("sleep")
            .arg("60")
            .env("NAME", &name)
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep");
        let found = Census::take(&name, root.path());
        assert!(found.0.contains(&format!("file {}", file.display())), "{found:?}");
        let pid = format!("process {}:", child.id());
        assert!(found.0.iter().any(|line| line.starts_with(&pid)), "{found:?}");

        child.kill().expect("our child");
        child.wait().expect("our child");
        fs::remove_file(&file).expect("our file");
        assert_eq!(Census::take(&name, root.path()), Census::default());
    }

    #[test]
    fn mounts_and_cgroups_are_found_and_cleared() {
        let root = tempfile::tempdir().expect("a directory");
        let name = format!("clear{}", std::process::id());
        let place = root.path().join("mount point");
        fs::create_dir(&place).expect("a directory");
        let options = Some("size=1m");
        nix::mount::mount(
            Some("none"),
            &place,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            options,
        )
        .expect("root");
        let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .into_iter()
            .find(|path| Path::new(path).is_dir());
        let group = Path::new(hierarchy.expect("cgroups are mounted")).join(&name);
        fs::create_dir_all(group.join("inner")).expect("root");

        let found = Census::take(&name, root.path());
        for line in [
            format!("mount {}", place.display()),
            format!("cgroup {}/inner", group.display()),
        ] {
            assert!(found.0.contains(&line), "{line} is not in {found:?}");
        }
        clear(&name, root.path());
        assert_eq!(Census::take(&name, root.path()), Census::default());
    }

    #[test]
    #[should_panic(expected = "left behind")]
    fn a_leftover_fails_the_comparison() {
        let root = tempfile::tempdir().expect("a directory");
        let file = tempfile::Builder::new()
            .prefix("leftover-census")
            .tempfile()
            .expect("a file");
        Census::default().await_return(
            &file.path().file_name().expect("a name").to_string_lossy(),
            root.path(),
        );
    }
}
