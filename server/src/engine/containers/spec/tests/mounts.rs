//! Tests of the root and of mounts.

use super::*;

#[test]
fn the_simplest_container() {
    let spec = built(|_| {});
    let expected = [
        (
            "/",
            "overlay overlay lowerdir=/layers/b:/layers/a,upperdir=/c/upper,workdir=/c/work,redirect_dir=off,metacopy=off",
        ),
        ("/proc", "proc proc nosuid,noexec,nodev"),
        ("/dev", "tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k"),
        (
            "/dev/pts",
            "devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        ("/sys", "sysfs sysfs nosuid,noexec,nodev,ro"),
        ("/sys/fs/cgroup", "cgroup cgroup ro,nosuid,noexec,nodev"),
        ("/dev/mqueue", "mqueue mqueue nosuid,noexec,nodev"),
        (
            "/dev/shm",
            "tmpfs shm nosuid,noexec,nodev,mode=1777,size=67108864",
        ),
        ("/etc/hostname", "bind /c/hostname rbind,rprivate"),
        ("/etc/hosts", "bind /c/hosts rbind,rprivate"),
        ("/etc/resolv.conf", "bind /c/resolv.conf rbind,rprivate"),
    ];
    assert_eq!(order(&spec), expected.map(|(place, _)| place));
    for (place, mount) in expected {
        assert_eq!(at(&spec, place).as_deref(), Some(mount));
    }
    assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("/c/rootfs"));
    assert_eq!(
        (spec.hostname().as_deref(), spec.domainname().as_deref()),
        (Some("box"), None)
    );
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths(), &words(&["/proc/kcore"]));
    assert_eq!(linux.readonly_paths(), &words(&["/proc/sys"]));
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/berth/0123")));
    assert_eq!(linux.seccomp(), &None);
    assert_eq!(
        spec.annotations().as_ref().unwrap()[ANNOTATION_SECCOMP],
        SECCOMP_BUILTIN
    );
    assert!(serde_json::to_vec(&spec).is_ok());
}

#[test]
fn shared_memory() {
    let shm = |mode: &str| {
        at(
            &built(|setup| setup.host_config.ipc_mode = mode.into()),
            "/dev/shm",
        )
    };
    assert_eq!(shm("none"), None);
    assert_eq!(shm("host").as_deref(), Some("bind /dev/shm rbind,rprivate"));
    assert_eq!(shm("shareable").as_deref(), Some("bind /c/shm rbind,rprivate"));
    let error = refused(|setup| {
        setup.host_config.ipc_mode = "container:i".into();
        setup.peers.ipc = Some(IpcPeer {
            pid: 12,
            shm: Path::new("/nowhere/shm"),
        });
    });
    assert!(
        error
            .to_string()
            .starts_with("can't join IPC of container i: non-shareable IPC")
    );
    let own = built(|setup| {
        setup.host_config.ipc_mode = "shareable".into();
        setup.mounts = vec![bind("/x", "/dev/shm")];
    });
    assert_eq!(at(&own, "/dev/shm").as_deref(), Some("bind /x rbind,rprivate"));
}

#[test]
fn users_mounts_come_last_and_from_the_top_down() {
    let spec = built(|setup| {
        let volume = VolumeSource {
            name: "v".into(),
            path: Some("/volumes/v".into()),
            ..VolumeSource::default()
        };
        setup.mounts = vec![
            bind("/s1", "/a/b/c"),
            MountPoint {
                read_only: true,
                ..bind("/s2", "/a")
            },
            MountPoint {
                destination: "/a/v".into(),
                source: MountSource::Volume(volume),
                read_only: true,
                mode: String::new(),
            },
            MountPoint {
                destination: "/t".into(),
                source: MountSource::Tmpfs {
                    options: "mode=700".into(),
                },
                read_only: false,
                mode: String::new(),
            },
            bind("/s3", "/etc/hosts"),
        ];
        setup
            .host_config
            .tmpfs
            .insert("/a/b/".into(), "exec,size=1m".into());
    });
    assert_eq!(
        order(&spec)[8..],
        [
            "/a",
            "/t",
            "/a/b",
            "/a/v",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/a/b/c"
        ]
    );
    assert_eq!(at(&spec, "/a").as_deref(), Some("bind /s2 rbind,ro,rprivate"));
    assert_eq!(
        at(&spec, "/a/b").as_deref(),
        Some("tmpfs tmpfs nosuid,nodev,rprivate,exec,size=1m")
    );
    assert_eq!(
        at(&spec, "/a/v").as_deref(),
        Some("bind /volumes/v rbind,ro,rprivate")
    );
    assert_eq!(
        at(&spec, "/t").as_deref(),
        Some("tmpfs tmpfs noexec,nosuid,nodev,rprivate,mode=700")
    );
    assert_eq!(
        at(&spec, "/etc/hosts").as_deref(),
        Some("bind /s3 rbind,rprivate")
    );
}

#[test]
fn users_mounts_replace_the_kernels() {
    let spec = built(|setup| setup.mounts = vec![bind("/dev", "/dev"), bind("/cg", "/sys/fs/cgroup")]);
    assert_eq!(order(&spec)[1..5], ["/proc", "/sys", "/dev", "/etc/hostname"]);
    assert_eq!(
        at(&spec, "/sys/fs/cgroup").as_deref(),
        Some("bind /cg rbind,rprivate")
    );
    assert_eq!(at(&spec, "/dev/pts"), None);
}

#[test]
fn propagation() {
    let of = |propagation, recursive| {
        let spec = built(|setup| {
            let mut point = bind("/s", "/d");
            point.source = MountSource::Bind(BindSource {
                path: "/s".into(),
                propagation,
                recursive,
                recursive_read_only: false,
                create: true,
                fallback: false,
                mapped: false,
            });
            setup.mounts = vec![point];
        });
        (
            at(&spec, "/d").unwrap(),
            spec.linux().as_ref().unwrap().rootfs_propagation().clone(),
        )
    };
    assert_eq!(
        of(Propagation::Rprivate, true),
        ("bind /s rbind,rprivate".into(), None)
    );
    assert_eq!(
        of(Propagation::Rshared, true),
        ("bind /s rbind,rshared".into(), Some("shared".into()))
    );
    assert_eq!(
        of(Propagation::Slave, false),
        ("bind /s bind,slave".into(), Some("rslave".into()))
    );
}

#[test]
fn a_slave_that_nobody_asked_for_may_be_private() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let directory = tempfile::tempdir().unwrap();
    mount(
        Some("tmpfs"),
        directory.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let options = |fallback, change| {
        mount(None::<&str>, directory.path(), None::<&str>, change, None::<&str>).unwrap();
        let spec = built(|setup| {
            let mut point = bind("/s", "/d");
            point.source = MountSource::Bind(BindSource {
                path: directory.path().to_str().unwrap().into(),
                propagation: Propagation::Rslave,
                recursive: true,
                recursive_read_only: false,
                create: true,
                fallback,
                mapped: false,
            });
            setup.mounts = vec![point];
        });
        spec.mounts()
            .iter()
            .flatten()
            .find(|mount| mount.destination() == Path::new("/d"))
            .map(joined)
    };
    let found = [
        options(true, MsFlags::MS_PRIVATE),
        options(false, MsFlags::MS_PRIVATE),
        options(true, MsFlags::MS_SHARED),
    ];
    umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
    assert_eq!(
        found,
        ["rbind,rprivate", "rbind,rslave", "rbind,rslave"].map(|options| Some(options.to_owned()))
    );
}

#[test]
fn read_only_roots() {
    let spec = built(|setup| {
        setup.host_config.readonly_rootfs = true;
        setup.host_config.tmpfs.insert("/run".into(), String::new());
        setup.mounts = vec![bind("/s", "/d")];
    });
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
    for mount in spec.mounts().iter().flatten().skip(1) {
        let place = mount.destination().display().to_string();
        let read_only = joined(mount).split(',').any(|option| option == "ro");
        let writable = [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/shm",
            "/dev/mqueue",
            "/run",
            "/d",
        ]
        .contains(&place.as_str());
        assert_eq!(read_only, !writable, "{place}");
    }
}

#[test]
fn roots() {
    let odd = built(|setup| setup.lowers = vec!["/a:b".into(), "/c\\d".into()]);
    assert!(at(&odd, "/").unwrap().contains("lowerdir=/a\\:b:/c\\\\d,"));
    let bare = built(|setup| setup.lowers.clear());
    assert_eq!(
        (at(&bare, "/"), bare.root().as_ref().unwrap().path().as_path()),
        (None, Path::new("/c/upper"))
    );
}
