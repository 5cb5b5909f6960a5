//! Hostile images, volumes and neighbours. The measure is that nothing outside of the root changes.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::support::{Case, fingerprint};

crate::tests!(
    working_directory_through_descriptors,
    null_device_replaced,
    console_replaced,
    image_directories_are_links,
    proc_and_sys_are_links,
    binds_over_the_kernels_file_systems,
    volumes_at_proc,
    targets_swapped_while_mounting,
    file_targets_outside,
    destinations_with_dots,
    lxcfs_files_are_allowed,
    the_engine_cannot_be_run_from_inside,
);

/// A directory that must not change, beside the root.
fn canary(case: &Case) -> std::path::PathBuf {
    let canary = case.path("canary");
    for directory in ["pts", "shm", "mqueue", "fs", "self"] {
        fs::create_dir_all(canary.join(directory)).unwrap();
    }
    fs::write(canary.join("secret"), "secret").unwrap();
    fs::write(canary.join("null"), "not the null device").unwrap();
    canary
}

fn working_directory_through_descriptors() {
    for number in 3..20 {
        for suffix in ["", "/..", "/../../.."] {
            let mut case = Case::script("pwd; ls");
            case.spec["process"]["cwd"] = format!("/proc/self/fd/{number}{suffix}").into();
            let output = case.run();
            assert_eq!(output.code, 125, "{number}{suffix}: {output:?}");
        }
    }
    let mut case = Case::script("pwd");
    symlink("/proc/self/fd/7", case.layer("escape")).unwrap();
    case.spec["process"]["cwd"] = "/escape".into();
    assert_eq!(case.run().code, 125);
    let case = Case::new(&["sleep", "1000"]);
    for number in 3..12 {
        let mut process = case.process(&["pwd"]);
        process["cwd"] = format!("/proc/self/fd/{number}").into();
        assert_eq!(case.exec(&process, &[]).code, 125);
    }
}

fn null_device_replaced() {
    let mut case = Case::script("cat /proc/timer_list");
    let canary = canary(&case);
    let before = fingerprint(&canary);
    // Without a tmpfs of ours on /dev, the image decides what /dev/null is.
    case.without_mount("/dev")
        .without_mount("/dev/pts")
        .without_mount("/dev/shm")
        .without_mount("/dev/mqueue");
    fs::create_dir(case.layer("dev")).unwrap();
    symlink(canary.join("null"), case.layer("dev/null")).unwrap();
    case.run().refused(128, "/dev/null");
    fs::remove_file(case.layer("dev/null")).unwrap();
    fs::write(case.layer("dev/null"), "").unwrap();
    case.run().refused(128, "not the null device");
    assert_eq!(fingerprint(&canary), before);
}

fn console_replaced() {
    let mut case = Case::script("ls -l /dev/console");
    let canary = canary(&case);
    let before = fingerprint(&canary);
    case.without_mount("/dev");
    fs::create_dir(case.layer("dev")).unwrap();
    for node in ["null", "zero"] {
        fs::write(case.layer("dev").join(node), "").unwrap();
    }
    symlink(canary.join("secret"), case.layer("dev/console")).unwrap();
    case.spec["linux"]["maskedPaths"] = serde_json::json!([]);
    case.run_with_terminal().refused(128, "/dev/console");
    assert_eq!(fingerprint(&canary), before);
}

fn image_directories_are_links() {
    for name in ["dev", "dev/pts", "dev/shm", "dev/mqueue", "etc", "tmp"] {
        for relative in [false, true] {
            let mut case = Case::script("echo ran");
            let canary = canary(&case);
            let target = if relative {
                Path::new("../../../../..").join(canary.strip_prefix("/").unwrap())
            } else {
                canary.clone()
            };
            let link = case.layer(name);
            let _ = fs::remove_dir(&link);
            symlink(&target, &link).unwrap();
            let volume = case.path("volume");
            fs::create_dir(&volume).unwrap();
            case.mount("/etc/some/volume", "bind", &volume, &["rbind", "rprivate"]);
            let before = fingerprint(&canary);
            let output = case.run();
            assert!(
                output.stdout == "ran\n" || output.code == 125,
                "{name}: {output:?}"
            );
            if name == "dev" {
                output.refused(128, "must be mounted on ordinary directory");
            }
            assert_eq!(fingerprint(&canary), before, "{name}");
        }
    }
}

fn proc_and_sys_are_links() {
    for name in ["proc", "sys"] {
        let case = Case::new(&["true"]);
        let canary = canary(&case);
        fs::create_dir(case.layer("elsewhere")).unwrap();
        symlink("/elsewhere", case.layer(name)).unwrap();
        case.run().refused(128, "must be mounted on ordinary directory");
        fs::remove_file(case.layer(name)).unwrap();
        symlink(&canary, case.layer(name)).unwrap();
        let before = fingerprint(&canary);
        case.run().refused(128, "must be mounted on ordinary directory");
        assert_eq!(fingerprint(&canary), before);
        fs::remove_file(case.layer(name)).unwrap();
        fs::write(case.layer(name), "").unwrap();
        assert_eq!(case.run().code, 125);
    }
}

fn binds_over_the_kernels_file_systems() {
    for place in [
        "/proc",
        "/proc/",
        "/proc/self",
        "/proc/sys",
        "/proc/1/attr",
        "/proc/sys/kernel",
        "/sys/fs",
        "/proc/../proc",
        "/x/../proc/self",
        "/link/self",
        "/proc/kcore",
    ] {
        let mut case = Case::new(&["true"]);
        symlink("/proc", case.layer("link")).unwrap();
        let volume = case.path("volume");
        fs::create_dir(&volume).unwrap();
        case.mount(place, "bind", &volume, &["rbind", "rprivate"]);
        let output = case.run();
        assert_eq!(output.code, 125, "{place}: {output:?}");
    }
    for place in ["/proc/self", "/proc/sys", "/link/tty"] {
        let mut case = Case::new(&["true"]);
        symlink("/proc", case.layer("link")).unwrap();
        case.mount(place, "tmpfs", "tmpfs", &[]);
        assert_eq!(case.run().code, 125, "{place}");
    }
}

fn volumes_at_proc() {
    // An image volume takes the place of the default mount.
    let mut case = Case::new(&["true"]);
    case.without_mount("/proc");
    let volume = case.path("volume");
    fs::create_dir(&volume).unwrap();
    case.mount("/proc", "bind", &volume, &["rbind", "rprivate"]);
    case.run().refused(128, "cannot be mounted to \"/proc\"");
    // The host's own procfs may be shown there, though.
    let mut case = Case::script("[ -e /proc/self/status ] && echo proc");
    case.without_mount("/proc");
    case.mount("/proc", "bind", "/proc", &["rbind", "rprivate"]);
    assert_eq!(case.run().ok().stdout, "proc\n");
}

fn lxcfs_files_are_allowed() {
    let mut case = Case::script("cat /proc/meminfo");
    let file = case.path("meminfo");
    fs::write(&file, "little\n").unwrap();
    case.mount("/proc/meminfo", "bind", &file, &["bind", "ro"]);
    assert_eq!(case.run().ok().stdout, "little\n");
}

fn targets_swapped_while_mounting() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let mut case = Case::script("cat /data/dir/place/secret /data/dir/place/own; cat /proc/self/mountinfo");
    let canary = canary(&case);
    let (volume, inner) = (case.path("volume"), case.path("inner"));
    fs::create_dir_all(volume.join("dir/place")).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("own"), "own\n").unwrap();
    // The link leads to the canary if it is followed on the host, and to the root's own root inside.
    symlink(&canary, volume.join("link")).unwrap();
    case.mount("/data", "bind", &volume, &["rbind", "rprivate"]);
    case.mount("/data/dir/place", "bind", &inner, &["rbind", "rprivate"]);
    case.mount("/data/dir/new", "tmpfs", "tmpfs", &[]);
    let before = fingerprint(&canary);
    let stop = AtomicBool::new(false);
    let swap = || {
        while !stop.load(Ordering::Relaxed) {
            let (a, b) = (volume.join("dir"), volume.join("link"));
            renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
        }
    };
    thread::scope(|scope| {
        scope.spawn(swap);
        let results: Vec<_> = (0..60).map(|_| case.run()).collect();
        stop.store(true, Ordering::Relaxed);
        for output in &results {
            assert!(
                !output.stdout.contains("secret\n") && !output.stdout.starts_with("secret"),
                "{output:?}"
            );
        }
        assert!(
            results.iter().any(|o| o.code != 125),
            "not one start came through"
        );
    });
    assert_eq!(fingerprint(&canary), before);
}

fn file_targets_outside() {
    let mut case = Case::script("echo ran");
    let canary = canary(&case);
    let volume = case.path("volume");
    fs::create_dir(&volume).unwrap();
    symlink(&canary, volume.join("link")).unwrap();
    symlink(canary.join("new"), volume.join("file")).unwrap();
    let source = case.path("source");
    fs::write(&source, "").unwrap();
    case.mount("/data", "bind", &volume, &["rbind", "rprivate"]);
    case.mount("/data/link/created", "bind", &source, &["rbind", "rprivate"]);
    case.mount("/data/file", "bind", &source, &["rbind", "rprivate"]);
    case.mount("/data/link/directory", "tmpfs", "tmpfs", &[]);
    let before = fingerprint(&canary);
    assert_eq!(case.run().ok().stdout, "ran\n");
    assert_eq!(fingerprint(&canary), before);
}

fn destinations_with_dots() {
    let mut case = Case::script("cat /data/file");
    let source = case.path("file");
    fs::write(&source, "inside\n").unwrap();
    case.mount("/../../../../data/file", "bind", &source, &["rbind", "rprivate"]);
    assert_eq!(case.run().ok().stdout, "inside\n");
    let mut case = Case::new(&["true"]);
    case.mount("/a/..", "tmpfs", "tmpfs", &[]);
    case.run().refused(128, "nothing can be mounted on the root");
}

/// `/proc/self/exe` of a process that is about to execute names the engine's program; a script that names it as
/// interpreter must not get hold of that file for writing.
fn the_engine_cannot_be_run_from_inside() {
    let case = Case::new(&["/exploit"]);
    let script = case.layer("exploit");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let engine = std::env::current_exe().unwrap();
    let before = fingerprint(&engine);
    case.run();
    // The program of a process that is a copy of the engine: an init that was never executed. With every right to open
    // it, what is opened is read-only, whether the engine runs or not.
    let mut case = Case::script("echo > /proc/1/exe");
    case.annotate("berth.init", "true")
        .capabilities(&["SYS_PTRACE", "DAC_OVERRIDE"]);
    let output = case.run();
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
    assert_eq!(fingerprint(&engine), before);
}
