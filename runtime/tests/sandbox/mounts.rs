//! Mounts: binds, tmpfs, read-only roots, propagation, and where they end up.

use std::{fs, os::unix::fs::symlink};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::Case;

crate::tests!(
    bind_of_a_directory,
    bind_of_a_file,
    bind_of_a_socket,
    read_only_binds,
    recursive_read_only_binds,
    binds_nest,
    missing_sources,
    directories_onto_files,
    options_of_a_tmpfs,
    read_only_root,
    links_in_the_image_lead_inside,
    links_to_nowhere_are_filled_in,
    propagation_needs_a_shared_source,
    propagation_from_the_host,
    nothing_is_left_of_the_old_root,
    a_device_directory_of_the_host,
    no_proc_no_sys,
    unknown_file_systems,
);

fn bind_of_a_directory() {
    let mut case = Case::script("cat /data/in; echo out > /data/out");
    fs::create_dir(case.path("volume")).unwrap();
    fs::write(case.path("volume/in"), "in\n").unwrap();
    let source = case.path("volume");
    case.mount("/data", "bind", &source, &["rbind", "rprivate"]);
    assert_eq!(case.run().ok().stdout, "in\n");
    assert_eq!(fs::read_to_string(case.path("volume/out")).unwrap(), "out\n");
}

fn bind_of_a_file() {
    let mut case = Case::script("cat /etc/resolv.conf /new/place/file; echo changed > /etc/resolv.conf");
    fs::write(case.path("file"), "content\n").unwrap();
    let source = case.path("file");
    case.mount("/etc/resolv.conf", "bind", &source, &["rbind", "rprivate"]);
    case.mount("/new/place/file", "bind", &source, &["rbind", "rprivate"]);
    assert_eq!(case.run().ok().stdout, "content\ncontent\n");
    assert_eq!(fs::read_to_string(&source).unwrap(), "changed\n");
}

fn bind_of_a_socket() {
    let mut case =
        Case::script("[ -S /run/x.sock ] && echo socket; [ -c /run/zero ] && head -c3 /run/zero | wc -c");
    let source = case.path("x.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&source).unwrap();
    case.mount("/run/x.sock", "bind", &source, &["rbind", "rprivate"]);
    case.mount("/run/zero", "bind", "/dev/zero", &["rbind", "rprivate"]);
    assert_eq!(case.run().ok().lines(), ["socket", "3"]);
}

fn read_only_binds() {
    let mut case =
        Case::script("echo x > /data/file; mount -o remount,rw,bind /data; grep ' /data ' /proc/self/mounts");
    let source = case.path("volume");
    fs::create_dir(&source).unwrap();
    case.mount("/data", "bind", &source, &["rbind", "ro", "rprivate", "nosuid"]);
    let output = case.run().ok();
    assert!(output.stderr.contains("Read-only"), "{output:?}");
    assert!(
        output.stdout.contains(" ro,") && output.stdout.contains("nosuid"),
        "{output:?}"
    );
    assert_eq!(fs::read_dir(&source).unwrap().count(), 0);
}

/// A tmpfs on the host in a directory of a case, gone with its owner.
struct HostMount(std::path::PathBuf);

impl HostMount {
    fn tmpfs(path: std::path::PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        mount(
            None::<&str>,
            &path,
            None::<&str>,
            MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        Self(path)
    }

    fn share(&self) {
        mount(
            None::<&str>,
            &self.0,
            None::<&str>,
            MsFlags::MS_SHARED,
            None::<&str>,
        )
        .unwrap();
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Runs it although its directory holds mounts of the host.
fn run_beside_mounts(case: &Case) -> (i32, String, String) {
    let output = case.command(&[]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn recursive_read_only_binds() {
    let script = "echo x > /data/file; echo x > /data/below/file && echo written";
    for (option, written) in [("ro", true), ("rro", false)] {
        let mut case = Case::script(script);
        let source = case.path("volume");
        fs::create_dir(&source).unwrap();
        let _below = HostMount::tmpfs(source.join("below"));
        case.mount("/data", "bind", &source, &["rbind", option, "rprivate"]);
        let (_, stdout, stderr) = run_beside_mounts(&case);
        assert_eq!(stdout == "written\n", written, "{option} {stderr}");
        assert!(!source.join("file").exists());
    }
    let mut case = Case::script("ls /data/below");
    let source = case.path("volume");
    fs::create_dir(&source).unwrap();
    let below = HostMount::tmpfs(source.join("below"));
    fs::write(below.0.join("hidden"), "").unwrap();
    case.mount("/data", "bind", &source, &["bind", "rprivate"]);
    assert_eq!(run_beside_mounts(&case).1, "");
}

fn binds_nest() {
    let mut case = Case::script("cat /data/a/b/file; ls /data/a");
    for volume in ["outer", "inner"] {
        fs::create_dir(case.path(volume)).unwrap();
    }
    fs::write(case.path("inner/file"), "inner\n").unwrap();
    let (outer, inner) = (case.path("outer"), case.path("inner"));
    case.mount("/data", "bind", &outer, &["rbind", "rprivate"]);
    case.mount("/data/a", "tmpfs", "tmpfs", &["size=1m"]);
    case.mount("/data/a/b", "bind", &inner, &["rbind", "rprivate"]);
    assert_eq!(case.run().ok().stdout, "inner\nb\n");
    assert!(outer.join("a").is_dir());
}

fn missing_sources() {
    let mut case = Case::new(&["true"]);
    case.mount("/data", "bind", "/no/such/source", &["rbind"]);
    case.run()
        .refused(128, "bind source path does not exist: /no/such/source");
}

fn directories_onto_files() {
    let mut case = Case::new(&["true"]);
    let source = case.path("volume");
    fs::create_dir(&source).unwrap();
    case.mount("/etc/passwd", "bind", &source, &["rbind", "rprivate"]);
    case.run().refused(
        127,
        "Are you trying to mount a directory onto a file (or vice-versa)?",
    );
    let mut case = Case::new(&["true"]);
    fs::write(case.path("file"), "").unwrap();
    let source = case.path("file");
    case.mount("/etc", "bind", &source, &["rbind", "rprivate"]);
    case.run().refused(127, "not a directory");
}

fn options_of_a_tmpfs() {
    let mut case = Case::script(
        "grep ' /scratch ' /proc/self/mounts; stat -c '%a' /scratch; touch /scratch/x && echo written",
    );
    case.mount(
        "/scratch",
        "tmpfs",
        "tmpfs",
        &["noexec", "nosuid", "nodev", "size=128k", "mode=1770"],
    );
    let output = case.run().ok();
    assert!(
        output.stdout.contains("nosuid,nodev,noexec") && output.stdout.contains("size=128k"),
        "{output:?}"
    );
    assert_eq!(output.lines()[1..], ["1770", "written"]);
    let mut case = Case::new(&["true"]);
    case.mount("/scratch", "tmpfs", "tmpfs", &["nonsense"]);
    case.run().refused(128, "nonsense");
}

fn read_only_root() {
    let mut case = Case::script(
        "for p in / /etc /home/bob /proc/sys /sys; do touch $p/x && echo written $p; done; \
        for p in /dev /dev/shm /dev/mqueue /scratch; do touch $p/x || echo not written $p; done; \
        mount -o remount,rw /; touch /y",
    );
    case.spec["root"]["readonly"] = true.into();
    case.spec["process"]["cwd"] = "/made".into();
    case.mount("/scratch", "tmpfs", "tmpfs", &[]);
    let output = case.run();
    assert_eq!(output.stdout, "", "{output:?}");
    assert_eq!(output.code, 1, "{output:?}");
}

fn links_in_the_image_lead_inside() {
    let mut case = Case::script("cat /run/volume/file; [ -e /var/run/volume/file ] && echo same");
    // An absolute link below which something is mounted, as images have it.
    fs::create_dir(case.layer("var")).unwrap();
    symlink("/run", case.layer("var/run")).unwrap();
    let source = case.path("volume");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "here\n").unwrap();
    case.mount("/var/run/volume", "bind", &source, &["rbind", "rprivate"]);
    assert_eq!(case.run().ok().lines(), ["here", "same"]);
}

fn links_to_nowhere_are_filled_in() {
    let mut case = Case::script(
        "cat /etc/resolv.conf; readlink /etc/resolv.conf; [ -f /run/resolve/stub.conf ] && echo made",
    );
    symlink("../run/resolve/stub.conf", case.layer("etc/resolv.conf")).unwrap();
    let source = case.path("file");
    fs::write(&source, "content\n").unwrap();
    case.mount("/etc/resolv.conf", "bind", &source, &["rbind", "rprivate"]);
    assert_eq!(
        case.run().ok().lines(),
        ["content", "../run/resolve/stub.conf", "made"]
    );
}

fn propagation_needs_a_shared_source() {
    for (option, kind) in [("rshared", "shared"), ("rslave", "shared or slave")] {
        let mut case = Case::new(&["true"]);
        let source = HostMount::tmpfs(case.path("volume"));
        let path = source.0.clone();
        case.mount("/data", "bind", &path, &["rbind", option]);
        let (code, _, stderr) = run_beside_mounts(&case);
        assert_eq!(code, 125);
        assert!(
            stderr.contains(&format!("but it is not a {kind} mount")),
            "{stderr}"
        );
    }
}

fn propagation_from_the_host() {
    use std::io::{BufRead, BufReader, Write};
    for (option, arrives) in [("rprivate", false), ("rslave", true), ("rshared", true)] {
        let mut case =
            Case::script("echo ready; read line; ls /data/later; grep ' /data ' /proc/self/mountinfo");
        let source = HostMount::tmpfs(case.path("volume"));
        source.share();
        let path = source.0.clone();
        case.mount("/data", "bind", &path, &["rbind", option]);
        let mut child = case
            .command(&[])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let later = HostMount::tmpfs(source.0.join("later"));
        fs::write(later.0.join("news"), "").unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success());
        assert_eq!(rest.iter().any(|l| l == "news"), arrives, "{option}: {rest:?}");
        let info = rest.iter().find(|l| l.contains(" /data ")).unwrap();
        assert_eq!(info.contains("shared:"), option == "rshared", "{info}");
        assert_eq!(info.contains("master:"), option == "rslave", "{info}");
    }
}

fn nothing_is_left_of_the_old_root() {
    let output = Case::script("cat /proc/self/mountinfo").run().ok();
    let roots: Vec<_> = output
        .lines()
        .into_iter()
        .filter(|l| l.split(' ').nth(4) == Some("/"))
        .collect();
    assert_eq!(roots.len(), 1, "{output:?}");
    assert!(roots[0].contains(" - overlay "), "{output:?}");
    // As seen from the host, by the paths of a process that keeps running.
    for line in output.lines() {
        let place = line.split(' ').nth(4).unwrap();
        assert!(
            ["/proc", "/sys", "/dev"].iter().any(|p| place.starts_with(p)) || place == "/",
            "unexpected mount {line}"
        );
    }
}

fn a_device_directory_of_the_host() {
    let mut case = Case::script(
        "[ -c /dev/kmsg ] && echo host; [ -c /dev/null ] && wc -c < /proc/timer_list; ls /dev/pts",
    );
    case.without_mount("/dev")
        .without_mount("/dev/pts")
        .without_mount("/dev/shm")
        .without_mount("/dev/mqueue");
    case.mount("/dev", "bind", "/dev", &["rbind", "rprivate"]);
    let before = fs::read_dir("/dev").unwrap().count();
    let output = case.run().ok();
    assert_eq!(output.lines()[..2], ["host", "0"]);
    assert_eq!(fs::read_dir("/dev").unwrap().count(), before);
}

fn no_proc_no_sys() {
    let mut case = Case::script("ls -A /proc /sys");
    case.without_mount("/proc")
        .without_mount("/sys")
        .without_mount("/sys/fs/cgroup");
    let output = case.run().ok();
    assert_eq!(output.lines(), ["/proc:", "", "/sys:"]);
}

fn unknown_file_systems() {
    let mut case = Case::new(&["true"]);
    case.mount("/data", "nonsense", "nonsense", &[]);
    case.run().refused(128, "\"nonsense\"");
}
