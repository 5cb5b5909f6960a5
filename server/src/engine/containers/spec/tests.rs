//! Tests of whole specifications.

use std::path::PathBuf;

use berth_api::models::{DeviceMapping, DeviceRequest, HostConfigCgroupnsMode, Ulimit};
use berth_runtime::Kind;
use oci_spec::runtime::{LinuxNamespaceType as Type, Mount, PosixRlimitType};

use super::{
    super::validate::{BindSource, MountSource, Propagation, VolumeSource, capabilities::CapSet},
    *,
};

/// Everything a specification is made from, to be changed by a test.
struct Setup {
    config: ContainerConfig,
    host_config: HostConfig,
    mounts: Vec<MountPoint>,
    security: SecurityOptions,
    host: Host,
    defaults: Defaults,
    lowers: Vec<PathBuf>,
    peers: Peers<'static>,
}

impl Setup {
    fn new() -> Self {
        Self {
            config: ContainerConfig {
                hostname: "box".into(),
                cmd: words(&["sleep", "1"]),
                ..ContainerConfig::default()
            },
            host_config: HostConfig {
                network_mode: "bridge".into(),
                ipc_mode: "private".into(),
                cgroupns_mode: HostConfigCgroupnsMode::Host,
                shm_size: 64 << 20,
                masked_paths: words(&["/proc/kcore"]),
                readonly_paths: words(&["/proc/sys"]),
                ..HostConfig::default()
            },
            mounts: Vec::new(),
            security: SecurityOptions::default(),
            host: Host {
                capabilities: CapSet::KNOWN,
                seccomp: true,
                time_namespaces: true,
                cgroup_namespaces: true,
                ping_group_range: true,
                unprivileged_port_start: true,
                ..Host::default()
            },
            defaults: Defaults::default(),
            lowers: vec!["/layers/b".into(), "/layers/a".into()],
            peers: Peers::default(),
        }
    }

    fn build(&self) -> Result<Spec> {
        build(&Input {
            container: ContainerView {
                id: "0123",
                config: &self.config,
                host_config: &self.host_config,
                mounts: &self.mounts,
                security: &self.security,
            },
            root: RootView {
                lowers: &self.lowers,
                upper: Path::new("/c/upper"),
                work: Path::new("/c/work"),
                rootfs: Path::new("/c/rootfs"),
            },
            paths: Paths {
                files: Path::new("/c"),
                shm: Path::new("/c/shm"),
            },
            peers: self.peers,
            host: &self.host,
            defaults: &self.defaults,
        })
    }
}

/// The specification of a container that differs from the simplest one.
fn built(change: impl FnOnce(&mut Setup)) -> Spec {
    let mut setup = Setup::new();
    change(&mut setup);
    setup.build().unwrap()
}

fn refused(change: impl FnOnce(&mut Setup)) -> Error {
    let mut setup = Setup::new();
    change(&mut setup);
    setup.build().unwrap_err()
}

fn words(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|word| (*word).to_owned()).collect())
}

fn joined(mount: &Mount) -> String {
    mount.options().as_deref().unwrap_or_default().join(",")
}

/// The mount at a destination, as `type source options`.
fn at(spec: &Spec, destination: &str) -> Option<String> {
    let mut found = spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| mount.destination() == Path::new(destination));
    let mount = found.next()?;
    assert!(found.next().is_none(), "two mounts at {destination}");
    let source = mount.source().as_ref().unwrap().display().to_string();
    Some(format!(
        "{} {source} {}",
        mount.typ().as_deref().unwrap(),
        joined(mount)
    ))
}

fn order(spec: &Spec) -> Vec<String> {
    spec.mounts()
        .iter()
        .flatten()
        .map(|mount| mount.destination().display().to_string())
        .collect()
}

fn bind(source: &str, destination: &str) -> MountPoint {
    MountPoint {
        destination: destination.into(),
        source: MountSource::Bind(BindSource {
            path: source.into(),
            propagation: Propagation::Rprivate,
            recursive: true,
            create: true,
            fallback: false,
        }),
        read_only: false,
        mode: String::new(),
    }
}

#[test]
fn the_simplest_container() {
    let spec = built(|_| {});
    let expected = [
        (
            "/",
            "overlay overlay lowerdir=/layers/b:/layers/a,upperdir=/c/upper,workdir=/c/work",
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
fn the_process() {
    let spec = built(|setup| {
        setup.config.entrypoint = words(&["/entry"]);
        setup.config.user = "app:staff".into();
        setup.config.working_dir = "/srv".into();
        setup.host_config.oom_score_adj = -5;
        setup.security.no_new_privileges = true;
    });
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args(), &words(&["/entry", "sleep", "1"]));
    assert_eq!(process.user().username().as_deref(), Some("app:staff"));
    assert_eq!(
        (process.user().uid(), process.cwd().as_path()),
        (0, Path::new("/srv"))
    );
    assert_eq!(
        (
            process.oom_score_adj(),
            process.no_new_privileges(),
            process.terminal()
        ),
        (Some(-5), Some(true), Some(false))
    );
    let capabilities = process.capabilities().as_ref().unwrap();
    let lengths = [
        capabilities.bounding(),
        capabilities.effective(),
        capabilities.permitted(),
        capabilities.inheritable(),
        capabilities.ambient(),
    ]
    .map(|set| set.as_ref().unwrap().len());
    assert_eq!(lengths, [14, 14, 14, 0, 0]);

    let plain = built(|_| {});
    let process = plain.process().as_ref().unwrap();
    assert_eq!(
        (process.oom_score_adj(), process.no_new_privileges()),
        (Some(0), Some(false))
    );
    assert_eq!(
        (process.cwd().as_path(), process.rlimits()),
        (Path::new("/"), &Some(Vec::new()))
    );
    assert!(
        refused(|setup| setup.config.cmd = None)
            .to_string()
            .starts_with("no command specified")
    );
}

#[test]
fn environment() {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env = |terminal, own: &[&str]| process::environment(terminal, "box", &words(own).unwrap());
    assert_eq!(env(false, &[]), [PATH, "HOSTNAME=box"]);
    assert_eq!(env(true, &["A=1"]), [PATH, "HOSTNAME=box", "TERM=xterm", "A=1"]);
    assert_eq!(
        env(true, &["PATH=/bin", "TERM", "HOSTNAME=x"]),
        ["PATH=/bin", "HOSTNAME=x"]
    );
    assert_eq!(
        env(false, &["A=1", "A=2", "B=x=y", "C", "D=", "PATH"]),
        ["HOSTNAME=box", "A=2", "B=x=y", "D="]
    );
    assert_eq!(env(false, &["A=1", "A", "A=3"])[2..], ["A=3"]);
}

#[test]
fn terminals() {
    let size = |size: Option<Vec<u64>>| {
        let spec = built(|setup| {
            setup.config.tty = true;
            setup.host_config.console_size = size;
        });
        let process = spec.process().clone().unwrap();
        assert_eq!(process.terminal(), Some(true));
        process.console_size().map(|size| (size.height(), size.width()))
    };
    assert_eq!(
        [size(Some(vec![24, 80])), size(Some(vec![0, 0])), size(None)],
        [Some((24, 80)), None, None]
    );
}

#[test]
fn limits_of_the_process() {
    let limit = |name: &str, soft, hard| Ulimit {
        name: name.into(),
        soft,
        hard,
    };
    let spec = built(|setup| {
        setup.defaults.ulimits = vec![limit("nofile", 10, 20), limit("core", 0, 0)];
        setup.host_config.ulimits = Some(vec![limit("nofile", 5, -1), limit("nproc", 7, 7)]);
    });
    let limits = spec.process().as_ref().unwrap().rlimits().clone().unwrap();
    let shown: Vec<_> = limits
        .iter()
        .map(|limit| (limit.typ(), limit.soft(), limit.hard()))
        .collect();
    let expected = [
        (PosixRlimitType::RlimitCore, 0, 0),
        (PosixRlimitType::RlimitNofile, 5, u64::MAX),
        (PosixRlimitType::RlimitNproc, 7, 7),
    ];
    assert_eq!(shown, expected);
}

fn namespaces(spec: &Spec) -> Vec<(Type, Option<String>)> {
    let list = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    list.iter()
        .map(|ns| {
            (
                ns.typ(),
                ns.path().as_ref().map(|path| path.display().to_string()),
            )
        })
        .collect()
}

#[test]
fn namespaces_follow_the_modes() {
    let new = [
        Type::Mount,
        Type::Network,
        Type::Ipc,
        Type::Pid,
        Type::Uts,
        Type::Time,
    ];
    assert_eq!(namespaces(&built(|_| {})), new.map(|kind| (kind, None)));
    let open = built(|setup| {
        setup.host_config.network_mode = "host".into();
        setup.host_config.ipc_mode = "host".into();
        setup.host_config.pid_mode = "host".into();
        setup.host_config.uts_mode = "host".into();
        setup.host_config.cgroupns_mode = HostConfigCgroupnsMode::Private;
    });
    assert_eq!(
        namespaces(&open),
        [Type::Mount, Type::Cgroup, Type::Time].map(|kind| (kind, None))
    );
    assert_eq!((open.hostname(), open.domainname()), (&None, &None));
    let old = built(|setup| {
        setup.host.time_namespaces = false;
        setup.host.cgroup_namespaces = false;
        setup.host_config.cgroupns_mode = HostConfigCgroupnsMode::Private;
    });
    assert_eq!(namespaces(&old).len(), 5);
}

#[test]
fn namespaces_of_others() {
    fn share(setup: &mut Setup) {
        setup.host_config.network_mode = "container:n".into();
        setup.host_config.ipc_mode = "container:i".into();
        setup.host_config.pid_mode = "container:p".into();
    }
    let spec = built(|setup| {
        share(setup);
        setup.host_config.init = Some(true);
        setup.peers = Peers {
            network: Some(NetworkPeer {
                pid: 11,
                files: Path::new("/n"),
                hostname: "other",
                domainname: "d",
            }),
            ipc: Some(IpcPeer {
                pid: 12,
                shm: Path::new("/dev/shm"),
            }),
            pid: Some(13),
        };
    });
    let path = |text: &str| Some(text.to_owned());
    let expected = [
        (Type::Mount, None),
        (Type::Network, path("/proc/11/ns/net")),
        (Type::Ipc, path("/proc/12/ns/ipc")),
        (Type::Pid, path("/proc/13/ns/pid")),
        (Type::Uts, None),
        (Type::Time, None),
    ];
    assert_eq!(namespaces(&spec), expected);
    assert_eq!(
        (spec.hostname().as_deref(), spec.domainname().as_deref()),
        (Some("other"), Some("d"))
    );
    assert!(
        spec.process()
            .as_ref()
            .unwrap()
            .env()
            .iter()
            .flatten()
            .any(|entry| entry == "HOSTNAME=other")
    );
    assert_eq!(
        at(&spec, "/etc/hosts").as_deref(),
        Some("bind /n/hosts rbind,rprivate")
    );
    assert_eq!(
        at(&spec, "/dev/shm").as_deref(),
        Some("bind /dev/shm rbind,rprivate")
    );
    assert!(
        !spec.annotations().as_ref().unwrap().contains_key(ANNOTATION_INIT),
        "there is an init already"
    );
    assert_eq!(spec.linux().as_ref().unwrap().sysctl().as_ref().unwrap().len(), 0);
    let error = refused(share);
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            Kind::Conflict,
            "cannot join container: container n is not running"
        )
    );
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
                create: true,
                fallback: false,
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
                create: true,
                fallback,
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
fn privileged_containers() {
    let spec = built(|setup| {
        setup.host_config.privileged = true;
        setup.host_config.masked_paths = None;
        setup.host_config.readonly_paths = None;
        setup.host_config.devices = Some(vec![DeviceMapping {
            path_on_host: "/dev/null".into(),
            path_in_container: "/dev/nothing".into(),
            cgroup_permissions: "r".into(),
        }]);
    });
    assert_eq!(
        at(&spec, "/sys").as_deref(),
        Some("sysfs sysfs nosuid,noexec,nodev")
    );
    assert_eq!(
        at(&spec, "/sys/fs/cgroup").as_deref(),
        Some("cgroup cgroup nosuid,noexec,nodev")
    );
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(
        (linux.masked_paths(), linux.readonly_paths(), linux.seccomp()),
        (&None, &None, &None)
    );
    assert_eq!(
        spec.annotations().as_ref().unwrap()[ANNOTATION_SECCOMP],
        SECCOMP_UNCONFINED
    );
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!(rules, [berth_runtime::sandbox::defaults::all_devices_rule()]);
    let devices = linux.devices().clone().unwrap();
    assert!(
        devices
            .iter()
            .any(|device| device.path() == Path::new("/dev/nothing"))
    );
    assert!(
        devices
            .iter()
            .any(|device| device.path() == Path::new("/dev/null"))
    );
    let capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding().as_ref().map(|set| set.len()), Some(41));
    let writable = built(|setup| setup.security.writable_cgroups = true);
    assert_eq!(
        at(&writable, "/sys/fs/cgroup").as_deref(),
        Some("cgroup cgroup nosuid,noexec,nodev")
    );
}

#[test]
fn devices() {
    let mapping = |host: &str, container: &str| DeviceMapping {
        path_on_host: host.into(),
        path_in_container: container.into(),
        cgroup_permissions: "rw".into(),
    };
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap().to_owned();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    for name in ["one", "sub/two"] {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        let device = nix::sys::stat::makedev(1, 3);
        nix::sys::stat::mknod(
            &directory.path().join(name),
            nix::sys::stat::SFlag::S_IFCHR,
            mode,
            device,
        )
        .unwrap();
    }
    std::fs::write(directory.path().join("file"), "").unwrap();
    let plain = built(|_| {})
        .linux()
        .as_ref()
        .unwrap()
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .as_ref()
        .unwrap()
        .len();
    let spec = built(|setup| {
        setup.host_config.devices = Some(vec![
            mapping("/dev/zero", "/dev/nothing"),
            mapping(&root, "/dev/all"),
        ]);
        setup.host_config.device_cgroup_rules = words(&["c 13:* r"]);
    });
    let linux = spec.linux().as_ref().unwrap();
    let mut places: Vec<_> = linux
        .devices()
        .iter()
        .flatten()
        .map(|device| device.path().display().to_string())
        .collect();
    places.sort();
    assert_eq!(places, ["/dev/all/one", "/dev/all/sub/two", "/dev/nothing"]);
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!(rules.len(), plain + 4);
    assert_eq!(
        (
            rules[plain].major(),
            rules[plain].minor(),
            rules[plain].access().as_deref()
        ),
        (Some(1), Some(5), Some("rw"))
    );
    assert_eq!(
        (rules[plain + 3].major(), rules[plain + 3].minor()),
        (Some(13), Some(-1))
    );

    for (path, why) in [
        ("/nowhere", "no such file or directory"),
        (&*format!("{root}/file"), "not a device node"),
    ] {
        let error =
            refused(|setup| setup.host_config.devices = Some(vec![mapping(path, "/dev/x")])).to_string();
        assert!(
            error.starts_with("error gathering device information while adding custom device")
                && error.contains(why),
            "{error}"
        );
    }
    let error = refused(|setup| {
        let capabilities = Some(vec![vec!["gpu".to_owned()]]);
        setup.host_config.device_requests = Some(vec![DeviceRequest {
            capabilities,
            count: -1,
            ..DeviceRequest::default()
        }]);
    });
    assert_eq!(
        error.to_string(),
        "could not select device driver \"\" with capabilities: [[gpu]]"
    );
}

#[test]
fn kernel_parameters() {
    let sysctl = |mode: &str, own: &[(&str, &str)]| {
        let mut setup = Setup::new();
        setup.host_config.network_mode = mode.into();
        setup.host_config.sysctls = own
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        setup.build().map(|spec| {
            let mut list: Vec<_> = spec
                .linux()
                .as_ref()
                .unwrap()
                .sysctl()
                .clone()
                .unwrap()
                .into_iter()
                .collect();
            list.sort();
            list.into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
        })
    };
    let own = [
        "net.ipv4.ip_unprivileged_port_start=0",
        "net.ipv4.ping_group_range=0 2147483647",
    ];
    assert_eq!(sysctl("bridge", &[]).unwrap(), own);
    assert_eq!(sysctl("none", &[]).unwrap(), own);
    assert_eq!(sysctl("host", &[]).unwrap(), [""; 0]);
    assert_eq!(
        sysctl(
            "none",
            &[
                ("net/ipv4/ip_forward", "1"),
                ("net.ipv4.ip_unprivileged_port_start", "1024"),
                ("kernel.shmmax", "5")
            ]
        )
        .unwrap(),
        [
            "kernel.shmmax=5",
            "net.ipv4.ip_forward=1",
            "net.ipv4.ip_unprivileged_port_start=1024",
            own[1]
        ]
    );
    for (mode, name, why) in [
        (
            "host",
            "net.ipv4.ip_forward",
            "is not allowed in the hosts network namespace",
        ),
        (
            "none",
            "kernel.core_pattern",
            "is not in a separate kernel namespace",
        ),
        ("none", "vm.swappiness", "is not in a separate kernel namespace"),
        (
            "none",
            "kernel.hostname",
            "is not allowed: set the container's Hostname instead",
        ),
        ("none", "net..x", "is not the name of a kernel parameter"),
        (
            "none",
            "net/../kernel/core_pattern",
            "is not the name of a kernel parameter",
        ),
        ("none", "", "is not the name of a kernel parameter"),
        ("none", "net.x\n", "is not the name of a kernel parameter"),
    ] {
        assert_eq!(
            sysctl(mode, &[(name, "1")]).unwrap_err().to_string(),
            format!("sysctl {name:?} {why}")
        );
    }
    let error = refused(|setup| {
        setup.host_config.ipc_mode = "host".into();
        setup
            .host_config
            .sysctls
            .insert("fs.mqueue.msg_max".into(), "5".into());
    });
    assert_eq!(
        error.to_string(),
        "sysctl \"fs.mqueue.msg_max\" is not allowed in the hosts ipc namespace"
    );
}

#[test]
fn annotations() {
    let annotation = |name: &str| (name.to_owned(), "user".to_owned());
    let spec = built(|setup| {
        setup.host_config.annotations = ["a.b", "berth.seccomp", "Berth.init", "berth.made-up"]
            .map(annotation)
            .into();
        setup.host_config.group_add = words(&["audio", "5"]);
        setup.defaults.init = true;
        // Labels are the user's bookkeeping, whoever wrote them.
        setup.config.labels = Some(
            [
                annotation("berth.init"),
                annotation("run.oci.keep_original_groups"),
            ]
            .into(),
        );
    });
    let mut annotations: Vec<_> = spec.annotations().clone().unwrap().into_iter().collect();
    annotations.sort();
    let expected = [
        ("a.b", "user"),
        (ANNOTATION_GROUP_ADD, "audio,5"),
        (ANNOTATION_INIT, "true"),
        (ANNOTATION_SECCOMP, SECCOMP_BUILTIN),
    ];
    assert_eq!(
        annotations,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    let none = built(|setup| {
        setup.defaults.init = true;
        setup.host_config.init = Some(false);
    });
    assert!(!none.annotations().as_ref().unwrap().contains_key(ANNOTATION_INIT));
}

#[test]
fn filters_of_system_calls() {
    use super::super::validate::Seccomp;
    let choice = |seccomp: Seccomp, privileged: bool, supported: bool| {
        let mut setup = Setup::new();
        setup.security.seccomp = seccomp;
        setup.host_config.privileged = privileged;
        setup.host.seccomp = supported;
        setup.build().map(|spec| {
            let own = spec.linux().as_ref().unwrap().seccomp().is_some();
            (
                spec.annotations()
                    .as_ref()
                    .unwrap()
                    .get(ANNOTATION_SECCOMP)
                    .cloned(),
                own,
            )
        })
    };
    let builtin = || (Some(SECCOMP_BUILTIN.to_owned()), false);
    let unconfined = || (Some(SECCOMP_UNCONFINED.to_owned()), false);
    let profile = || Seccomp::Profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.into());
    assert_eq!(choice(Seccomp::Default, false, true).unwrap(), builtin());
    assert_eq!(choice(Seccomp::Default, true, true).unwrap(), unconfined());
    assert_eq!(choice(Seccomp::Builtin, true, true).unwrap(), builtin());
    assert_eq!(choice(Seccomp::Unconfined, false, true).unwrap(), unconfined());
    assert_eq!(choice(Seccomp::Default, false, false).unwrap(), unconfined());
    assert_eq!(choice(profile(), true, true).unwrap(), (None, true));
    assert!(choice(profile(), false, false).is_err());
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

#[test]
fn control_groups() {
    let path = |parent: &str| {
        let spec = built(|setup| setup.host_config.cgroup_parent = parent.into());
        spec.linux()
            .as_ref()
            .unwrap()
            .cgroups_path()
            .as_ref()
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(
        [path(""), path("/a/"), path("a/b")],
        ["/berth/0123", "/a/0123", "a/b/0123"]
    );
}
