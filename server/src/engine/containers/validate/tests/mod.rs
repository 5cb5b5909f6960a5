//! Tests of whole requests, and of the parts that need other containers or files.

mod mounts;

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
