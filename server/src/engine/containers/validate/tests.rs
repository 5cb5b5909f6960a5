//! Tests of whole requests, and of the parts that need other containers or files.

use std::path::PathBuf;

use berth_api::models::{
    EndpointSettings, HealthConfig, HostConfigCgroupnsMode, HostConfigIsolation, Mount, MountBindOptions,
    MountBindOptionsPropagation, MountTmpfsOptions, MountType, MountVolumeOptions, RestartPolicy,
    RestartPolicyName,
};
use berth_runtime::{Error, Kind, cgroup::Support};

use super::*;

/// Two containers: `db` with mounts, and `web` in the host's network.
struct Others;

const DB: &str = "dbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdb";

impl Lookup for Others {
    fn peer(&self, reference: &str) -> Result<Peer> {
        match reference {
            "db" => Ok(Peer {
                id: DB.into(),
                network_mode: "bridge".into(),
            }),
            "web" => Ok(Peer {
                id: "eb".repeat(32),
                network_mode: "host".into(),
            }),
            _ => Err(Error::not_found(format!("No such container: {reference}"))),
        }
    }

    fn mounts(&self, reference: &str) -> Result<Vec<MountPoint>> {
        self.peer(reference)?;
        let volume = VolumeSource {
            name: "data".into(),
            copy_up: true,
            anonymous: true,
            path: Some("/volumes/data".into()),
            ..VolumeSource::default()
        };
        let point = |destination: &str, source| MountPoint {
            destination: destination.into(),
            source,
            read_only: false,
            mode: String::new(),
        };
        Ok(vec![
            point("/data", MountSource::Volume(volume)),
            point(
                "/tmpfs",
                MountSource::Tmpfs {
                    options: String::new(),
                },
            ),
        ])
    }
}

fn host() -> Host {
    let cgroups = Support {
        memory: true,
        swap: true,
        memory_reservation: true,
        swappiness: true,
        oom_kill_disable: true,
        cpu_shares: true,
        cpu_quota: true,
        cpuset: true,
        pids: true,
        ..Support::default()
    };
    Host {
        cpus: 2,
        cgroups,
        capabilities: capabilities::CapSet::KNOWN,
        cgroup_namespaces: true,
        seccomp: true,
        masked_paths: berth_runtime::sandbox::defaults::MASKED_PATHS
            .map(str::to_owned)
            .to_vec(),
        ..Host::default()
    }
}

fn defaults() -> Defaults {
    Defaults {
        data_root: PathBuf::from("/var/lib/berth"),
        ..Defaults::default()
    }
}

fn run_as(minor: u16, change: impl FnOnce(&mut ContainerCreateRequest, &mut HostConfig)) -> Result<Checked> {
    let mut request = ContainerCreateRequest::default();
    let mut host_config = HostConfig::default();
    change(&mut request, &mut host_config);
    request.host_config = Some(host_config);
    create(request, ApiVersion::new(1, minor), &host(), &defaults(), &Others)
}

fn run(change: impl FnOnce(&mut ContainerCreateRequest, &mut HostConfig)) -> Result<Checked> {
    run_as(43, change)
}

type Change = fn(&mut ContainerCreateRequest, &mut HostConfig);

fn words(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|word| (*word).to_owned()).collect())
}

#[test]
fn an_empty_request_is_completed() {
    let checked = create(
        ContainerCreateRequest::default(),
        ApiVersion::NEWEST,
        &host(),
        &defaults(),
        &Others,
    )
    .unwrap();
    let config = &checked.host_config;
    assert_eq!(
        (
            config.network_mode.as_str(),
            config.ipc_mode.as_str(),
            config.pid_mode.as_str()
        ),
        ("bridge", "private", "")
    );
    assert_eq!(
        (
            config.uts_mode.as_str(),
            config.userns_mode.as_str(),
            config.runtime.as_str()
        ),
        ("", "", "runc")
    );
    assert_eq!(config.cgroupns_mode, HostConfigCgroupnsMode::Host);
    assert_eq!(
        (config.shm_size, config.console_size.clone()),
        (64 << 20, Some(vec![0, 0]))
    );
    assert_eq!(
        (config.log_config.r#type.as_str(), config.restart_policy.name),
        ("json-file", RestartPolicyName::No)
    );
    assert_eq!(
        (config.oom_kill_disable, config.pids_limit, config.memory_swap),
        (Some(false), None, 0)
    );
    assert_eq!(
        (
            config.masked_paths.as_ref().map(Vec::len),
            config.readonly_paths.as_ref().map(Vec::len)
        ),
        (Some(12), Some(5))
    );
    assert_eq!(
        (&config.binds, &config.cap_add, &config.security_opt, &config.dns),
        (&None, &None, &None, &None)
    );
    assert!(config.port_bindings.is_empty() && checked.mounts.is_empty() && checked.warnings.is_empty());
    assert_eq!(
        checked.networking.endpoints_config.keys().collect::<Vec<_>>(),
        ["bridge"]
    );
    assert_eq!(checked.security, SecurityOptions::default());
}

#[test]
fn what_is_refused() {
    let table: [(Change, &str); 30] = [
        (
            |_, h| h.network_mode = "container:".into(),
            "invalid network mode: invalid container format container:<name|id>",
        ),
        (|_, h| h.ipc_mode = "shared".into(), "invalid IPC mode: shared"),
        (
            |_, h| h.ipc_mode = "container:gone".into(),
            "No such container: gone",
        ),
        (
            |_, h| h.pid_mode = "container:gone".into(),
            "No such container: gone",
        ),
        (
            |_, h| h.pid_mode = "private:x".into(),
            "invalid PID mode: private:x",
        ),
        (|_, h| h.uts_mode = "x".into(), "invalid UTS mode: x"),
        (
            |_, h| h.userns_mode = "remap".into(),
            "invalid user namespace mode: remap",
        ),
        (|_, h| h.shm_size = -1, "SHM size can not be less than 0"),
        (
            |_, h| h.oom_score_adj = 1001,
            "Invalid value 1001, range for oom score adj is [-1000, 1000]",
        ),
        (
            |_, h| h.oom_score_adj = -1001,
            "Invalid value -1001, range for oom score adj is [-1000, 1000]",
        ),
        (
            |_, h| h.runtime = "kata".into(),
            "unknown or invalid runtime name: kata",
        ),
        (
            |_, h| h.isolation = HostConfigIsolation::Hyperv,
            "invalid isolation \"hyperv\": linux only supports 'default'",
        ),
        (
            |_, h| h.console_size = Some(vec![1]),
            "invalid ConsoleSize: it has 1 numbers instead of two",
        ),
        (
            |_, h| (h.auto_remove, h.restart_policy.name) = (true, RestartPolicyName::Always),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (
            |_, h| h.cap_add = words(&["NOPE"]),
            "invalid CapAdd: unknown capability: \"CAP_NOPE\"",
        ),
        (
            |_, h| h.cap_drop = words(&["NOPE"]),
            "invalid CapDrop: unknown capability: \"CAP_NOPE\"",
        ),
        (
            |_, h| h.group_add = words(&["a,b"]),
            "invalid group \"a,b\" in GroupAdd: use a name or number",
        ),
        (
            |_, h| h.device_cgroup_rules = words(&["x"]),
            "invalid device cgroup rule format: 'x'",
        ),
        (
            |_, h| h.security_opt = words(&["x"]),
            "invalid --security-opt 1: \"x\"",
        ),
        (
            |_, h| h.log_config.r#type = "x".into(),
            "logger: no log driver named 'x' is registered",
        ),
        (
            |_, h| h.dns = words(&["x"]),
            "invalid DNS server: IP address is not correctly formatted: x",
        ),
        (
            |_, h| h.extra_hosts = words(&["x"]),
            "bad format for add-host: \"x\"",
        ),
        (
            |_, h| h.links = words(&["gone:x"]),
            "could not get container for gone: No such container: gone",
        ),
        (
            |_, h| h.links = words(&["web"]),
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
        ),
        (
            |_, h| h.volumes_from = words(&["gone"]),
            "No such container: gone",
        ),
        (
            |_, h| h.volumes_from = words(&["db:rshared"]),
            "invalid mode: rshared",
        ),
        (
            |_, h| h.cgroup_parent = "/a/../b".into(),
            "invalid cgroup-parent \"/a/../b\": it must be a path without \".\", \"..\" and control characters",
        ),
        (
            |_, h| drop(h.annotations.insert(String::new(), String::new())),
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ),
        (
            |r, _| {
                r.healthcheck = Some(HealthConfig {
                    retries: -1,
                    ..HealthConfig::default()
                })
            },
            "Retries in Healthcheck cannot be negative",
        ),
        (
            |r, h| (r.mac_address, h.network_mode) = ("02:42:ac:11:00:05".into(), "none".into()),
            "conflicting options: mac-address and the network mode",
        ),
    ];
    for (change, message) in table {
        let error = run(change).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.kind()),
            (message, Kind::Invalid)
        );
    }
}

#[test]
fn restart_policies() {
    let run = |name, maximum_retry_count| {
        let mut policy = RestartPolicy {
            name,
            maximum_retry_count,
        };
        host::restart_policy(&mut policy)
            .map(|()| policy.name)
            .map_err(|error| error.to_string())
    };
    assert_eq!(run(RestartPolicyName::Empty, 0), Ok(RestartPolicyName::No));
    assert_eq!(
        run(RestartPolicyName::OnFailure, 5),
        Ok(RestartPolicyName::OnFailure)
    );
    assert_eq!(
        run(RestartPolicyName::UnlessStopped, 0),
        Ok(RestartPolicyName::UnlessStopped)
    );
    let invalid = |text: &str| Err(format!("invalid restart policy: {text}"));
    assert_eq!(
        run(RestartPolicyName::OnFailure, -1),
        invalid("maximum retry count cannot be negative")
    );
    assert_eq!(
        run(RestartPolicyName::Always, 1),
        invalid("maximum retry count can only be used with 'on-failure'")
    );
    assert_eq!(
        run(RestartPolicyName::No, -1),
        invalid("maximum retry count can only be used with 'on-failure' and cannot be negative")
    );
}

#[test]
fn what_is_normalised() {
    let checked = run(|_, h| {
        h.network_mode = "container:db".into();
        h.ipc_mode = "container:db".into();
        h.pid_mode = "container:db".into();
        h.cap_add = words(&["net_admin"]);
        h.pids_limit = Some(-1);
        h.memory = 64 << 20;
    })
    .unwrap();
    let config = &checked.host_config;
    let shared = format!("container:{DB}");
    assert_eq!(
        [&config.network_mode, &config.ipc_mode, &config.pid_mode],
        [&shared; 3]
    );
    assert_eq!(config.cap_add, words(&["CAP_NET_ADMIN"]));
    assert_eq!((config.pids_limit, config.memory_swap), (None, 128 << 20));
    assert!(checked.networking.endpoints_config.is_empty());
    let unknown = run(|_, h| h.network_mode = "container:gone".into()).unwrap();
    assert_eq!(unknown.host_config.network_mode, "container:gone");
    let privileged = run(|_, h| h.privileged = true).unwrap().host_config;
    assert_eq!((privileged.masked_paths, privileged.readonly_paths), (None, None));
    assert_eq!(privileged.security_opt, words(&["label=disable"]));
}

#[test]
fn namespaces_of_control_groups() {
    use HostConfigCgroupnsMode::{Host as OfHost, Private};
    let mode = |version: u8, setting, privileged: bool| {
        let host = Host {
            cgroups: Support {
                version,
                ..host().cgroups
            },
            ..host()
        };
        let defaults = Defaults {
            cgroupns_mode: setting,
            ..defaults()
        };
        let request = ContainerCreateRequest {
            host_config: Some(HostConfig {
                privileged,
                ..HostConfig::default()
            }),
            ..ContainerCreateRequest::default()
        };
        let checked = create(request, ApiVersion::NEWEST, &host, &defaults, &Others).unwrap();
        checked.host_config.cgroupns_mode
    };
    assert_eq!(
        [mode(1, None, false), mode(2, None, false), mode(2, None, true)],
        [OfHost, Private, Private]
    );
    assert_eq!(
        [mode(1, Some(Private), false), mode(1, Some(Private), true)],
        [Private, OfHost]
    );
    assert_eq!(mode(2, Some(OfHost), false), OfHost);
}

#[test]
fn old_versions() {
    let old = run_as(39, |_, _| {}).unwrap().host_config;
    assert_eq!(
        (old.ipc_mode.as_str(), old.cgroupns_mode),
        ("shareable", HostConfigCgroupnsMode::Host)
    );
    let error = run(|r, _| {
        let endpoints = ["a", "b"].map(|name| (name.to_owned(), EndpointSettings::default()));
        r.networking_config = Some(NetworkingConfig {
            endpoints_config: endpoints.into(),
        });
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        "Container cannot be connected to network endpoints: a, b"
    );
}

#[test]
fn warnings() {
    let warnings = |change: Change| run(change).unwrap().warnings;
    let published: Change = |_, h| {
        h.network_mode = "host".into();
        h.port_bindings.insert("80".into(), None);
    };
    assert_eq!(
        warnings(published),
        ["Published ports are discarded when using host network mode"]
    );
    let lonely = Defaults {
        bridge_is_loopback: true,
        ..defaults()
    };
    let warned = create(
        ContainerCreateRequest::default(),
        ApiVersion::NEWEST,
        &host(),
        &lonely,
        &Others,
    )
    .unwrap();
    assert_eq!(warned.warnings.len(), 1);
    let poor = Host {
        capabilities: capabilities::CapSet::DEFAULT,
        ..host()
    };
    let request = ContainerCreateRequest {
        host_config: Some(HostConfig {
            cap_add: words(&["SYS_RESOURCE"]),
            ..HostConfig::default()
        }),
        ..ContainerCreateRequest::default()
    };
    let warned = create(request, ApiVersion::NEWEST, &poor, &defaults(), &Others).unwrap();
    assert!(warned.warnings[0].contains("CAP_SYS_RESOURCE"));
}

/// The destinations of a request's mounts.
fn destinations(change: Change) -> Result<Vec<String>> {
    Ok(run(change)?
        .mounts
        .into_iter()
        .map(|point| point.destination)
        .collect())
}

fn mount(kind: MountType, source: &str, target: &str) -> Mount {
    Mount {
        r#type: Some(kind),
        source: source.into(),
        target: target.into(),
        ..Mount::default()
    }
}

#[test]
fn mounts_of_all_kinds_are_one_list() {
    let all: Change = |r, h| {
        h.binds = words(&["/b:/binds/b", "vol:/binds/v"]);
        h.mounts = vec![
            mount(MountType::Bind, "/", "/mounts/b/"),
            mount(MountType::Volume, "", "/mounts/v"),
            mount(MountType::Tmpfs, "", "/mounts/t"),
        ];
        h.volumes_from = words(&["db:ro"]);
        h.tmpfs.insert("/run".into(), "size=1m".into());
        r.volumes = Some(
            [
                ("/anonymous/".to_owned(), berth_api::EmptyObject {}),
                ("/data".to_owned(), berth_api::EmptyObject {}),
            ]
            .into(),
        );
    };
    let expected = [
        "/anonymous",
        "/binds/b",
        "/binds/v",
        "/data",
        "/mounts/b",
        "/mounts/t",
        "/mounts/v",
        "/tmpfs",
    ];
    assert_eq!(destinations(all).unwrap(), expected);
    let checked = run(all).unwrap();
    let data = checked
        .mounts
        .iter()
        .find(|point| point.destination == "/data")
        .unwrap();
    let MountSource::Volume(volume) = &data.source else {
        panic!("{data:?}")
    };
    assert!(data.read_only && !volume.copy_up && !volume.anonymous && volume.path.is_some());
}

#[test]
fn explicit_mounts_win_over_those_of_others() {
    let checked = run(|_, h| {
        h.volumes_from = words(&["db"]);
        h.binds = words(&["/b:/data"]);
        h.tmpfs.insert("/tmpfs".into(), String::new());
    })
    .unwrap();
    assert_eq!(checked.mounts.len(), 1);
    assert!(matches!(checked.mounts[0].source, MountSource::Bind(_)));
}

#[test]
fn one_place_takes_one_mount() {
    let table: [Change; 4] = [
        |_, h| h.binds = words(&["/a:/x", "/b:/x/"]),
        |_, h| (h.binds, h.mounts) = (words(&["/a:/x"]), vec![mount(MountType::Tmpfs, "", "/x")]),
        |_, h| (h.binds, h.tmpfs) = (words(&["/a:/x"]), [("/x/".to_owned(), String::new())].into()),
        |_, h| {
            (h.mounts, h.tmpfs) = (
                vec![mount(MountType::Volume, "", "/y/../x")],
                [("/x".to_owned(), String::new())].into(),
            )
        },
    ];
    for change in table {
        assert_eq!(
            destinations(change).unwrap_err().to_string(),
            "Duplicate mount point: /x"
        );
    }
}

#[test]
fn mount_objects_that_are_refused() {
    let table: [(Change, &str); 15] = [
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/", "")],
            "invalid mount config for type \"bind\": field Target must not be empty",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/", "/")],
            "invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/", "x")],
            "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be absolute",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "", "/x")],
            "invalid mount config for type \"bind\": field Source must not be empty",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "x", "/x")],
            "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be absolute",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/nowhere/at/all", "/x")],
            "invalid mount config for type \"bind\": bind source path does not exist: /nowhere/at/all",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    volume_options: Some(MountVolumeOptions::default()),
                    ..mount(MountType::Bind, "/", "/x")
                }]
            },
            "invalid mount config for type \"bind\": field VolumeOptions must not be specified",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    bind_options: Some(MountBindOptions::default()),
                    ..mount(MountType::Volume, "", "/x")
                }]
            },
            "invalid mount config for type \"volume\": field BindOptions must not be specified",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Tmpfs, "x", "/x")],
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    tmpfs_options: Some(MountTmpfsOptions {
                        size_bytes: -1,
                        mode: 0,
                    }),
                    ..mount(MountType::Tmpfs, "", "/x")
                }]
            },
            "invalid mount config for type \"tmpfs\": TmpfsOptions.SizeBytes must not be negative: -1",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Npipe, "x", "/x")],
            "invalid mount config for type \"npipe\": mount type unknown",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    target: "/x".into(),
                    ..Mount::default()
                }]
            },
            "invalid mount config for type \"\": mount type unknown",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Tmpfs, "", "/proc")],
            "invalid mount config for type \"tmpfs\": \"/proc\" cannot be mounted because it is not of type proc",
        ),
        (
            |_, h| h.tmpfs = [("/x".to_owned(), "bogus".to_owned())].into(),
            "invalid tmpfs option \"bogus\"",
        ),
        (
            |_, h| h.tmpfs = [("x".to_owned(), String::new())].into(),
            "invalid mount path: 'x' mount path must be absolute",
        ),
    ];
    for (change, message) in table {
        let error = run(change).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.kind()),
            (message, Kind::Invalid)
        );
    }
    let made = run(|_, h| {
        let options = MountBindOptions {
            create_mountpoint: true,
            non_recursive: true,
            propagation: MountBindOptionsPropagation::Rslave,
        };
        h.mounts = vec![Mount {
            bind_options: Some(options),
            ..mount(MountType::Bind, "/nowhere/at/all/", "/x")
        }];
    });
    let MountSource::Bind(bind) = made.unwrap().mounts.remove(0).source else {
        panic!("no bind")
    };
    assert_eq!(
        bind,
        BindSource {
            path: "/nowhere/at/all".into(),
            propagation: Propagation::Rslave,
            recursive: false,
            create: true,
            fallback: false,
        }
    );
}

#[test]
fn binds_around_the_engines_directory_do_not_pin_its_mounts() {
    let propagation = |text: &str| {
        let text = text.to_owned();
        let mut checked = run(move |_, h| h.binds = Some(vec![text]))?;
        match checked.mounts.remove(0).source {
            MountSource::Bind(bind) => Ok::<_, Error>(bind.propagation),
            other => panic!("{other:?}"),
        }
    };
    for source in ["/", "/var/lib", "/var/lib/berth", "/var/lib/berth/containers"] {
        assert_eq!(
            propagation(&format!("{source}:/x")).unwrap(),
            Propagation::Rslave,
            "{source}"
        );
    }
    assert_eq!(propagation("/var/lib/berthed:/x").unwrap(), Propagation::Rprivate);
    assert_eq!(propagation("/:/x:rshared").unwrap(), Propagation::Rshared);
    let error = propagation("/:/x:private").unwrap_err().to_string();
    assert!(
        error.starts_with("invalid mount config: must use either propagation mode \"rslave\" or \"rshared\""),
        "{error}"
    );
}

#[test]
fn images_add_what_is_missing() {
    let mut checked = run(|_, h| {
        h.binds = words(&["/b:/data"]);
        h.tmpfs.insert("/run".into(), String::new());
    })
    .unwrap();
    let volume = |path: &str| (path.to_owned(), berth_api::EmptyObject {});
    let mut image = ImageConfig {
        cmd: words(&["sh"]),
        volumes: Some([volume("/data/"), volume("/run"), volume("/../logs")].into()),
        ..ImageConfig::default()
    };
    checked.merge_image(&image).unwrap();
    assert_eq!(
        checked
            .mounts
            .iter()
            .map(|point| point.destination.as_str())
            .collect::<Vec<_>>(),
        ["/data", "/logs"]
    );
    checked.set_hostname("0123456789abcdef").unwrap();
    assert_eq!(checked.config.hostname, "0123456789ab");

    for bad in ["/proc", "/proc/sys", "relative", "/"] {
        image.volumes = Some([volume(bad)].into());
        assert_eq!(
            run(|_, _| {}).unwrap().merge_image(&image).unwrap_err().kind(),
            Kind::Invalid,
            "{bad}"
        );
    }
    image.volumes = None;
    image.user = "4294967296".into();
    assert!(run(|_, _| {}).unwrap().merge_image(&image).is_err());
    let mut in_hosts_network = run(|_, h| h.network_mode = "host".into()).unwrap();
    in_hosts_network.set_hostname("0123456789abcdef").unwrap();
    assert_eq!(in_hosts_network.config.hostname, host_name().unwrap());
}

#[test]
fn without_volumes_they_are_refused() {
    let mut checked = run(|_, h| h.binds = words(&["/b:/b", "vol:/v"])).unwrap();
    let error = volumes::resolve(&mut checked.mounts, "id", &NoVolumes).unwrap_err();
    assert_eq!(error.kind(), Kind::NotImplemented);
    assert!(error.to_string().starts_with("volume vol is needed"));
}

#[test]
fn mounts_are_shown() {
    let checked = run(|_, h| {
        h.binds = words(&["/b:/b:ro,z", "vol:/v"]);
        h.mounts = vec![mount(MountType::Tmpfs, "", "/t")];
    });
    let shown: Vec<_> = checked.unwrap().mounts.iter().map(MountPoint::to_model).collect();
    let brief = |index: usize| {
        let point: &berth_api::models::MountPoint = &shown[index];
        (
            point.r#type,
            point.source.as_str(),
            point.name.as_str(),
            point.driver.as_str(),
            point.mode.as_str(),
            point.rw,
            point.propagation.as_str(),
        )
    };
    assert_eq!(
        brief(0),
        (MountType::Bind, "/b", "", "", "ro,z", false, "rprivate")
    );
    assert_eq!(brief(1), (MountType::Tmpfs, "", "", "", "", true, ""));
    assert_eq!(brief(2), (MountType::Volume, "", "vol", "local", "z", true, ""));
}
