//! Containers as lists show them.

use std::sync::Arc;

use berth_api::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, ContainerSummaryState,
    Health, HealthStatus, Port, PortType,
};
use jiff::Timestamp;

use super::{
    model::{Container, Details},
    text,
    validate::MountPoint,
};

/// The entry of a container. `image_now` is the id of the image that its image's name means now, if any.
pub fn summarize(
    container: &Container,
    details: &Details,
    image_now: Option<&str>,
    now: Timestamp,
) -> ContainerSummary {
    let identity = &container.identity;
    let state = &details.state;
    let status = state.status();
    let health = health(container, details);
    let image = match image_now == Some(&*identity.image) {
        true => identity.config.image.clone(),
        false => identity.image.clone(),
    };
    ContainerSummary {
        id: container.id().to_owned(),
        names: vec![format!("/{}", details.name)],
        image,
        image_id: identity.image.clone(),
        command: text::command_line(&container.path, &container.args),
        created: identity.created.as_second(),
        ports: ports(details),
        size_rw: 0,
        size_root_fs: 0,
        labels: identity.config.labels.clone().unwrap_or_default(),
        state: ContainerSummaryState::ALL
            .iter()
            .copied()
            .find(|state| state.as_str() == status.as_str())
            .unwrap_or_default(),
        status: state.describe(Some(health.as_str()), now),
        host_config: ContainerSummaryHostConfig {
            network_mode: details.host_config.network_mode.clone(),
        },
        network_settings: ContainerSummaryNetworkSettings {
            networks: (*details.networks).clone(),
        },
        mounts: details.mounts.iter().map(MountPoint::to_model).collect(),
    }
}

/// Whether a container has a health check.
pub fn has_health_check(container: &Container) -> bool {
    let check = container.config().healthcheck.as_ref();
    check
        .and_then(|check| check.test.first())
        .is_some_and(|kind| kind != "NONE")
}

/// What the health check has found out.
pub fn health(container: &Container, details: &Details) -> HealthStatus {
    match has_health_check(container) {
        true => details.health.status,
        false => HealthStatus::None,
    }
}

/// What a health check knows at the beginning of a run; `before` is what it knew of the last one.
pub fn fresh_health(container: &Container, before: &Health) -> Arc<Health> {
    let status = match has_health_check(container) {
        true => HealthStatus::Starting,
        false => HealthStatus::None,
    };
    Arc::new(Health {
        status,
        failing_streak: 0,
        log: before.log.clone(),
    })
}

/// The ports of a running container: one entry for each address of the host, or one for a port that is only exposed.
pub fn ports(details: &Details) -> Vec<Port> {
    let mut list = Vec::new();
    for (port, bindings) in details.ports.iter() {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let (Ok(private_port), Ok(r#type)) = (number.parse(), protocol.parse::<PortType>()) else {
            continue;
        };
        let exposed = Port {
            private_port,
            r#type,
            ..Port::default()
        };
        match bindings {
            None => list.push(exposed),
            Some(bindings) => list.extend(bindings.iter().map(|binding| Port {
                ip: binding.host_ip.clone(),
                public_port: binding.host_port.parse().unwrap_or_default(),
                ..exposed.clone()
            })),
        }
    }
    list
}
