//! `GET /info`. It never fails: what cannot be found out is empty, and what is wrong is a warning.

use std::{collections::BTreeMap, path::Path};

use berth_api::models::{
    Commit, IndexInfo, LocalNodeState, PluginsInfo, RegistryServiceConfig, Runtime, SwarmInfo, SystemInfo,
    SystemInfoCgroupDriver, SystemInfoCgroupVersion,
};
use jiff::Timestamp;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};

use super::version::VERSION;
use crate::{
    config::{Config, OWN_RUNTIMES, Registries, host::Host},
    engine::{Engine, host, images, time},
};

/// The registry of image names without one.
const DEFAULT_REGISTRY: &str = "docker.io";
const INDEX_SERVER: &str = "https://index.docker.io/v1/";
/// Networks that are always spoken to without TLS if need be.
const LOCAL_REGISTRIES: [&str; 2] = ["::1/128", "127.0.0.0/8"];

/// State, abilities and settings of the engine and its host.
pub fn info(engine: &Engine) -> SystemInfo {
    let config = engine.config.load();
    let facts = &engine.host;
    let counts = engine.containers.count();
    let cgroups = &facts.cgroups;
    let (nf_ipv4, nf_ipv6) = facts.bridge_filtering();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    SystemInfo {
        id: engine.id.clone(),
        name: facts.name(),
        server_version: VERSION.into(),
        containers: counts.all,
        containers_running: counts.running,
        containers_paused: counts.paused,
        containers_stopped: counts.stopped,
        images: i64::try_from(engine.images.count()).unwrap_or(i64::MAX),
        driver: images::STORAGE_DRIVER.into(),
        driver_status: driver_status(engine.roots.data()),
        plugins: plugins(engine.volumes.drivers()),
        memory_limit: cgroups.memory,
        swap_limit: cgroups.swap,
        cpu_cfs_period: cgroups.cpu_quota,
        cpu_cfs_quota: cgroups.cpu_quota,
        cpu_shares: cgroups.cpu_shares,
        cpu_set: cgroups.cpuset,
        pids_limit: cgroups.pids,
        oom_kill_disable: cgroups.oom_kill_disable,
        ipv4_forwarding: facts.ipv4_forwarding(),
        bridge_nf_iptables: nf_ipv4,
        bridge_nf_ip6tables: nf_ipv6,
        debug: config.debug(),
        n_fd: host::open_files(),
        n_goroutines: i64::try_from(tasks).unwrap_or(i64::MAX),
        n_events_listener: i64::try_from(engine.events.followers()).unwrap_or(i64::MAX),
        system_time: time::rfc3339(Timestamp::now()),
        logging_driver: config.containers.log_driver.clone(),
        cgroup_driver: SystemInfoCgroupDriver::Cgroupfs,
        cgroup_version: cgroup_version(cgroups.unified),
        kernel_version: facts.kernel.clone(),
        operating_system: facts.os.clone(),
        os_version: facts.os_version.clone(),
        os_type: "linux".into(),
        architecture: facts.machine.clone(),
        ncpu: facts.cpus,
        mem_total: facts.memory,
        index_server_address: INDEX_SERVER.into(),
        registry_config: registries(&config.registries),
        docker_root_dir: engine.roots.data().display().to_string(),
        http_proxy: host::proxy("HTTP_PROXY"),
        https_proxy: host::proxy("HTTPS_PROXY"),
        no_proxy: host::proxy("NO_PROXY"),
        labels: config.labels.clone(),
        runtimes: runtimes(&config),
        default_runtime: config.default_runtime.clone(),
        swarm: SwarmInfo {
            local_node_state: LocalNodeState::Inactive,
            ..SwarmInfo::default()
        },
        live_restore_enabled: true,
        init_binary: "berth-init".into(),
        containerd_commit: no_commit(),
        runc_commit: no_commit(),
        init_commit: no_commit(),
        security_options: security_options(engine, &config),
        warnings: Some(warnings(engine, &config)).filter(|lines| !lines.is_empty()),
        execution_driver: "<not supported>".into(),
        ..SystemInfo::default()
    }
}

fn cgroup_version(unified: bool) -> SystemInfoCgroupVersion {
    let wanted = if unified { "2" } else { "1" };
    SystemInfoCgroupVersion::ALL
        .iter()
        .copied()
        .find(|v| v.as_str() == wanted)
        .unwrap_or_default()
}

fn driver_status(data_root: &Path) -> Vec<Vec<String>> {
    let backing = statfs(data_root).map_or("unknown", |fs| match fs.filesystem_type() {
        EXT4_SUPER_MAGIC => "extfs",
        XFS_SUPER_MAGIC => "xfs",
        BTRFS_SUPER_MAGIC => "btrfs",
        TMPFS_MAGIC => "tmpfs",
        OVERLAYFS_SUPER_MAGIC => "overlayfs",
        FsType(_) => "other",
    });
    let pair = |label: &str, value: &str| vec![label.to_owned(), value.to_owned()];
    vec![
        pair("Backing Filesystem", backing),
        pair("Supports d_type", "true"),
        pair("Using metacopy", "false"),
        pair("Native Overlay Diff", "true"),
        pair("userxattr", "false"),
    ]
}

fn plugins(volume: Vec<String>) -> PluginsInfo {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    PluginsInfo {
        volume,
        network: list(&["bridge", "host", "null"]),
        log: log_drivers(),
        authorization: None,
    }
}

/// Drivers that record output; the journal's only where the host has one.
fn log_drivers() -> Vec<String> {
    let journal = Path::new(berth_runtime::log::JOURNAL)
        .exists()
        .then_some("journald");
    let drivers = journal
        .into_iter()
        .chain(["json-file", "local", "none", "syslog"]);
    drivers.map(str::to_owned).collect()
}

/// The engine's own runtime, which is part of this program, and those of the configuration.
fn runtimes(config: &Config) -> BTreeMap<String, Runtime> {
    let path = std::env::current_exe()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let own = OWN_RUNTIMES.map(|name| (name.to_owned(), path.clone(), Vec::new()));
    let others = config.runtimes.iter().map(|(name, runtime)| {
        let path = runtime.path.display().to_string();
        (name.clone(), path, runtime.arguments.clone())
    });
    own.into_iter()
        .chain(others)
        .map(|(name, path, arguments)| {
            let runtime = Runtime {
                path,
                runtime_args: arguments,
                ..Runtime::default()
            };
            (name, runtime)
        })
        .collect()
}

/// There is no such program, hence no revision of it.
fn no_commit() -> Commit {
    Commit {
        id: "N/A".into(),
        expected: "N/A".into(),
    }
}

fn registries(config: &Registries) -> RegistryServiceConfig {
    let index = |name: &str, secure: bool, mirrors: &[String]| {
        let index = IndexInfo {
            name: name.to_owned(),
            official: name == DEFAULT_REGISTRY,
            secure,
            mirrors: mirrors.to_vec(),
        };
        (name.to_owned(), index)
    };
    let (networks, hosts): (Vec<_>, Vec<_>) = config.insecure.iter().partition(|entry| entry.contains('/'));
    let mut indexes: BTreeMap<_, _> = hosts.iter().map(|host| index(host, false, &[])).collect();
    indexes.extend([index(DEFAULT_REGISTRY, true, &config.mirrors)]);
    RegistryServiceConfig {
        insecure_registry_cidrs: networks
            .into_iter()
            .cloned()
            .chain(LOCAL_REGISTRIES.map(str::to_owned))
            .collect(),
        index_configs: indexes,
        mirrors: config.mirrors.clone(),
        ..RegistryServiceConfig::default()
    }
}

fn security_options(engine: &Engine, config: &Config) -> Vec<String> {
    let facts = &engine.host;
    [
        (facts.apparmor, "name=apparmor"),
        (facts.seccomp, "name=seccomp,profile=builtin"),
        (Path::new("/proc/self/ns/cgroup").exists(), "name=cgroupns"),
        (engine.containers.has_remap(), "name=userns"),
        (config.containers.no_new_privileges, "name=no-new-privileges"),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .map(|(_, name)| name.to_owned())
    .collect()
}

fn warnings(engine: &Engine, config: &Config) -> Vec<String> {
    let mut lines = engine.host.cgroups.warnings();
    let (ipv4, ipv6) = engine.host.bridge_filtering();
    for (on, what) in [
        (ipv4, "bridge-nf-call-iptables"),
        (ipv6, "bridge-nf-call-ip6tables"),
    ] {
        if !on {
            lines.push(format!("WARNING: {what} is disabled"));
        }
    }
    let plain = |host: &&Host| config.tls.is_none() && matches!(host, Host::Tcp { .. });
    for host in config.hosts.iter().filter(plain) {
        lines.push(format!(
            "WARNING: API is accessible on {host} without encryption: every local process that reaches it is root \
             on this host"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_told_apart() {
        let config = Registries {
            insecure: vec!["10.0.0.0/8".into(), "reg.local:5000".into()],
            mirrors: vec!["https://mirror".into()],
            ..Registries::default()
        };
        let model = registries(&config);
        assert_eq!(
            model.insecure_registry_cidrs,
            ["10.0.0.0/8", "::1/128", "127.0.0.0/8"]
        );
        assert!(!model.index_configs["reg.local:5000"].secure);
        let hub = &model.index_configs["docker.io"];
        assert!(hub.official && hub.secure && hub.mirrors == ["https://mirror"]);
    }

    #[test]
    fn cgroup_versions() {
        assert_eq!(cgroup_version(true).as_str(), "2");
        assert_eq!(cgroup_version(false).as_str(), "1");
    }
}
