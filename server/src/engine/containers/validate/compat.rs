//! What a create request means differently below the newest version of the API, beyond fields that come and go.

use berth_api::{
    ApiVersion,
    models::{ContainerConfig, HostConfig, HostConfigCgroupnsMode, MountType, NetworkingConfig},
};
use berth_runtime::{Error, Result};

use super::modes::NetworkMode;

/// The version in which containers got their own IPC namespace by default.
const PRIVATE_IPC: ApiVersion = ApiVersion::new(1, 40);
/// The version in which `CgroupnsMode` appeared.
const CGROUPNS: ApiVersion = ApiVersion::new(1, 41);
/// The version from which options of another kind of mount are an error.
const STRICT_MOUNTS: ApiVersion = ApiVersion::new(1, 42);
/// The version in which containers could join several networks at creation, each with its MAC address.
const SEVERAL_NETWORKS: ApiVersion = ApiVersion::new(1, 44);

/// Rewrites a request of `version` to what it means in the newest version.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for what `version` does not allow.
pub fn apply(
    config: &ContainerConfig,
    host_config: &mut HostConfig,
    networking: &mut NetworkingConfig,
    version: ApiVersion,
    cgroups_v2: bool,
) -> Result<()> {
    if version < PRIVATE_IPC && host_config.ipc_mode.is_empty() {
        "shareable".clone_into(&mut host_config.ipc_mode);
    }
    if version < CGROUPNS && host_config.cgroupns_mode == HostConfigCgroupnsMode::Empty && !cgroups_v2 {
        host_config.cgroupns_mode = HostConfigCgroupnsMode::Host;
    }
    if version < STRICT_MOUNTS {
        for mount in &mut host_config.mounts {
            mount
                .volume_options
                .take_if(|_| mount.r#type != Some(MountType::Volume));
            mount
                .tmpfs_options
                .take_if(|_| mount.r#type != Some(MountType::Tmpfs));
        }
    }
    if version < SEVERAL_NETWORKS {
        one_network(config, host_config, networking)?;
    }
    Ok(())
}

/// One network at most, whose MAC address is that of `Config`.
fn one_network(
    config: &ContainerConfig,
    host_config: &HostConfig,
    networking: &mut NetworkingConfig,
) -> Result<()> {
    let endpoints = &mut networking.endpoints_config;
    if endpoints.len() > 1 {
        let names: Vec<_> = endpoints.keys().map(String::as_str).collect();
        return Err(Error::invalid(format!(
            "Container cannot be connected to network endpoints: {}",
            names.join(", ")
        )));
    }
    for endpoint in endpoints.values_mut() {
        endpoint.mac_address.clear();
    }
    if config.mac_address.is_empty() {
        return Ok(());
    }
    match NetworkMode::parse(&host_config.network_mode)? {
        NetworkMode::Bridge | NetworkMode::Named(_) => Ok(()),
        _ => Err(Error::invalid(
            "conflicting options: mac-address and the network mode",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_api::models::{EndpointSettings, Mount, MountTmpfsOptions, MountVolumeOptions};

    use super::*;

    fn run(
        minor: u16,
        v2: bool,
        host_config: HostConfig,
        endpoints: &[&str],
    ) -> Result<(HostConfig, NetworkingConfig)> {
        let endpoint = || EndpointSettings {
            mac_address: "02:00:00:00:00:01".into(),
            ..EndpointSettings::default()
        };
        let mut networking = NetworkingConfig {
            endpoints_config: endpoints
                .iter()
                .map(|name| ((*name).to_owned(), endpoint()))
                .collect::<BTreeMap<_, _>>(),
        };
        let mut host_config = host_config;
        let version = ApiVersion::new(1, minor);
        apply(
            &ContainerConfig::default(),
            &mut host_config,
            &mut networking,
            version,
            v2,
        )?;
        Ok((host_config, networking))
    }

    #[test]
    fn defaults_of_namespaces() {
        let ipc = |minor| run(minor, false, HostConfig::default(), &[]).unwrap().0.ipc_mode;
        assert_eq!((ipc(39).as_str(), ipc(40).as_str()), ("shareable", ""));
        let cgroupns = |minor, v2| {
            run(minor, v2, HostConfig::default(), &[])
                .unwrap()
                .0
                .cgroupns_mode
        };
        assert_eq!(cgroupns(40, false), HostConfigCgroupnsMode::Host);
        assert_eq!(cgroupns(40, true), HostConfigCgroupnsMode::Empty);
        assert_eq!(cgroupns(41, false), HostConfigCgroupnsMode::Empty);
    }

    #[test]
    fn options_of_other_mounts() {
        let mount = Mount {
            r#type: Some(MountType::Bind),
            volume_options: Some(MountVolumeOptions::default()),
            tmpfs_options: Some(MountTmpfsOptions::default()),
            ..Mount::default()
        };
        let config = HostConfig {
            mounts: vec![mount],
            ..HostConfig::default()
        };
        let old = run(41, false, config.clone(), &[]).unwrap().0;
        assert!(old.mounts[0].volume_options.is_none() && old.mounts[0].tmpfs_options.is_none());
        assert_eq!(run(42, false, config.clone(), &[]).unwrap().0, config);
    }

    #[test]
    fn networks() {
        let error = run(43, false, HostConfig::default(), &["a", "b"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Container cannot be connected to network endpoints: a, b"
        );
        let (_, networking) = run(43, false, HostConfig::default(), &["a"]).unwrap();
        assert_eq!(networking.endpoints_config["a"].mac_address, "");
        assert_eq!(
            run(44, false, HostConfig::default(), &["a", "b"])
                .unwrap()
                .1
                .endpoints_config
                .len(),
            2
        );
    }
}
