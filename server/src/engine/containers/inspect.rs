//! Everything there is to know of a container.

use std::collections::BTreeMap;

use berth_api::models::{
    ContainerInspectResponse, ContainerState, EndpointSettings, GraphDriverData, HostConfig, NetworkSettings,
};

use super::{
    Containers,
    model::{Container, Details},
    size::Size,
    state::State,
    summary,
    validate::LogDriver,
};
use crate::engine::time;

/// Name of the storage driver, which clients know as the one of overlay file systems.
pub const STORAGE_DRIVER: &str = "overlay2";

impl Containers {
    /// The container as it is now.
    pub fn inspect(&self, container: &Container, size: Option<Size>) -> ContainerInspectResponse {
        let details = container.details();
        let identity = &container.identity;
        let directory = self.store.directory(container.id());
        let file = |name: &str| match details.prepared {
            true => directory.join(name).display().to_string(),
            false => String::new(),
        };
        let log_path = match (details.prepared, identity.log.driver) {
            (true, LogDriver::JsonFile) => self.store.log(container.id()).display().to_string(),
            _ => String::new(),
        };
        ContainerInspectResponse {
            id: container.id().to_owned(),
            created: time::rfc3339(identity.created),
            path: container.path.clone(),
            args: container.args.clone(),
            state: state(container, &details),
            image: identity.image.clone(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path,
            name: format!("/{}", details.name),
            restart_count: details.restart_count,
            driver: STORAGE_DRIVER.to_owned(),
            platform: "linux".to_owned(),
            exec_ids: self.exec_ids(container),
            host_config: HostConfig {
                links: self.shown_links(&details),
                ..(*details.host_config).clone()
            },
            graph_driver: self.graph_driver(container),
            size_rw: size.map(|size| size.own),
            size_root_fs: size.map(|size| size.root_fs),
            mounts: details
                .mounts
                .iter()
                .map(super::validate::MountPoint::to_model)
                .collect(),
            config: (*identity.config).clone(),
            network_settings: network_settings(container, &details),
            ..ContainerInspectResponse::default()
        }
    }

    /// The execs that run or are still to be started; null if there are none, as clients know it.
    fn exec_ids(&self, container: &Container) -> Option<Vec<String>> {
        let execs = self.execs.of(container.id());
        let live = execs.iter().filter(|exec| !exec.has_ended());
        let ids: Vec<_> = live.map(|exec| exec.id.to_string()).collect();
        (!ids.is_empty()).then_some(ids)
    }

    fn graph_driver(&self, container: &Container) -> GraphDriverData {
        let layer = self.store.writable_layer(container.id());
        let path = |path: &std::path::Path| path.display().to_string();
        GraphDriverData {
            name: STORAGE_DRIVER.to_owned(),
            data: Some(BTreeMap::from([
                ("UpperDir".to_owned(), path(&layer.upper)),
                ("WorkDir".to_owned(), path(&layer.work)),
            ])),
        }
    }
}

fn state(container: &Container, details: &Details) -> ContainerState {
    let state: &State = &details.state;
    ContainerState {
        status: state.status(),
        running: state.is_running(),
        paused: state.phase == super::state::Phase::Paused,
        restarting: state.phase == super::state::Phase::Restarting,
        oom_killed: state.oom_killed,
        dead: state.dead,
        pid: match state.has_process() {
            true => i64::from(state.pid),
            false => 0,
        },
        exit_code: state.exit_code,
        error: state.error.clone(),
        started_at: time::rfc3339_or_never(state.started_at),
        finished_at: time::rfc3339_or_never(state.finished_at),
        health: (summary::has_health_check(container) && state.started_at.is_some())
            .then(|| (*details.health).clone()),
    }
}

/// Addresses and ports, which are there while the container runs.
fn network_settings(container: &Container, details: &Details) -> NetworkSettings {
    let mut settings = NetworkSettings {
        networks: (*details.networks).clone(),
        ..NetworkSettings::default()
    };
    // They are given when the container is connected, and so not before its first start.
    if details.state.started_at.is_some() {
        add_aliases(container, &mut settings.networks);
    }
    if details.state.has_process() {
        settings.sandbox_id = container.id().to_owned();
        settings.sandbox_key = format!("/proc/{}/ns/net", details.state.pid);
        settings.ports = (*details.ports).clone();
    }
    if let Some(bridge) = details.networks.get("bridge") {
        settings.endpoint_id.clone_from(&bridge.endpoint_id);
        settings.gateway.clone_from(&bridge.gateway);
        settings
            .global_ipv6_address
            .clone_from(&bridge.global_ipv6_address);
        settings.global_ipv6_prefix_len = bridge.global_ipv6_prefix_len;
        settings.ip_address.clone_from(&bridge.ip_address);
        settings.ip_prefix_len = bridge.ip_prefix_len;
        settings.ipv6_gateway.clone_from(&bridge.ipv6_gateway);
        settings.mac_address.clone_from(&bridge.mac_address);
    }
    settings
}

/// The names of a container in networks of users: its aliases, its short id, its host name.
fn add_aliases(container: &Container, networks: &mut BTreeMap<String, EndpointSettings>) {
    for (name, endpoint) in networks {
        if matches!(name.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        let aliases = endpoint.aliases.get_or_insert_default();
        for own in [container.short_id(), &container.config().hostname] {
            if !own.is_empty() && !aliases.iter().any(|alias| alias == own) {
                aliases.push(own.to_owned());
            }
        }
    }
}
