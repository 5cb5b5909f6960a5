//! Tests of whole specifications.

mod kernel;
mod mounts;

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
    ids: Option<berth_runtime::ids::IdMap>,
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
            ids: None,
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
                linked: &[],
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
            ids: self.ids.as_ref(),
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
            recursive_read_only: false,
            create: true,
            fallback: false,
            mapped: false,
        }),
        read_only: false,
        mode: String::new(),
    }
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
            namespace: None,
            user: None,
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
fn ids_of_its_own() {
    let part = vec![berth_runtime::ids::Range {
        inner: 0,
        outer: 100_000,
        size: 65_536,
    }];
    let ids = berth_runtime::ids::IdMap {
        uids: part.clone(),
        gids: part,
    };
    let with = |unified: bool| {
        built(|setup| {
            setup.ids = Some(ids.clone());
            setup.host.ping_group_range = true;
            setup.host.cgroups.version = if unified { 2 } else { 1 };
            setup.host_config.cgroupns_mode = berth_api::models::HostConfigCgroupnsMode::Private;
            setup.peers.user = Some(Path::new("/proc/7/fd/8"));
            let mut mapped = bind("/s", "/d");
            if let MountSource::Bind(bind) = &mut mapped.source {
                bind.mapped = true;
            }
            setup.mounts = vec![mapped, bind("/s", "/e"), bind("/var/lib/berth/images/x", "/f")];
        })
    };
    let spec = with(false);
    assert!(namespaces(&spec).contains(&(Type::User, Some("/proc/7/fd/8".to_owned()))));
    assert_eq!(berth_runtime::ids::IdMap::of_spec(&spec), Some(ids.clone()));
    let sysctls = spec.linux().as_ref().unwrap().sysctl().clone().unwrap();
    assert!(!sysctls.contains_key("net.ipv4.ping_group_range"));
    let options = |spec: &Spec, place: &str| {
        let mounts = spec.mounts().iter().flatten();
        let mount = mounts
            .clone()
            .find(|m| m.destination() == Path::new(place))
            .unwrap();
        mount.options().clone().unwrap_or_default().join(",")
    };
    assert_eq!(options(&spec, "/d"), "rbind,rprivate,idmap");
    assert_eq!(options(&spec, "/e"), "rbind,rprivate");
    // Only version 2 lets cgroups be given away.
    let read_only = |spec: &Spec| options(spec, "/sys/fs/cgroup").split(',').any(|o| o == "ro");
    assert!(read_only(&spec) && !read_only(&with(true)));
}
