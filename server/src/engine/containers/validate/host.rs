//! The settings of `HostConfig` that stand for themselves.

use std::collections::BTreeMap;

use berth_api::models::{
    HostConfig, HostConfigCgroupnsMode, HostConfigIsolation, RestartPolicy, RestartPolicyName,
};
use berth_runtime::{Error, Result};

use crate::config::{OWN_RUNTIMES, size};

use super::{
    Lookup, capabilities, devices,
    facts::{Defaults, Host},
    modes::{self, IpcMode, NetworkMode, PidMode},
    mounts::as_invalid,
    ports,
};

/// Longest parent of control groups, in bytes.
const MAX_CGROUP_PARENT: usize = 1024;

/// Checks the settings and fills in those that inspect shows although the request left them out.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a value that is unknown, malformed or out of range.
pub fn check(
    config: &mut HostConfig,
    host: &Host,
    defaults: &Defaults,
    lookup: &dyn Lookup,
    warnings: &mut Vec<String>,
) -> Result<()> {
    restart(config)?;
    namespaces(config, host, defaults, lookup, warnings)?;
    config.port_bindings = ports::bindings(&config.port_bindings)?;
    capabilities(config, host, warnings)?;
    if let Some(list) = &mut config.devices {
        devices::check(list)?;
    }
    for text in config.device_cgroup_rules.iter().flatten() {
        devices::rule(text)?;
    }
    devices::check_ulimits(config.ulimits.as_deref().unwrap_or_default())?;
    names(config, defaults)?;
    numbers(config, defaults)?;
    if !matches!(
        config.isolation,
        HostConfigIsolation::Empty | HostConfigIsolation::Default
    ) {
        let isolation = config.isolation;
        return Err(Error::invalid(format!(
            "invalid isolation \"{isolation}\": linux only supports 'default'"
        )));
    }
    Ok(())
}

fn restart(config: &mut HostConfig) -> Result<()> {
    restart_policy(&mut config.restart_policy)?;
    if config.auto_remove && config.restart_policy.name != RestartPolicyName::No {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    Ok(())
}

/// Checks a restart policy and gives its absence the name `no`. Used by create and update.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a number of retries that is negative or has no meaning.
pub fn restart_policy(policy: &mut RestartPolicy) -> Result<()> {
    let negative = policy.maximum_retry_count < 0;
    let message = match policy.name {
        RestartPolicyName::OnFailure if negative => "maximum retry count cannot be negative",
        RestartPolicyName::OnFailure => return Ok(()),
        _ if negative => "maximum retry count can only be used with 'on-failure' and cannot be negative",
        _ if policy.maximum_retry_count > 0 => "maximum retry count can only be used with 'on-failure'",
        RestartPolicyName::Empty => {
            policy.name = RestartPolicyName::No;
            return Ok(());
        }
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("invalid restart policy: {message}")))
}

/// Reads the modes, puts ids in the place of container names, and fills in the defaults.
fn namespaces(
    config: &mut HostConfig,
    host: &Host,
    defaults: &Defaults,
    lookup: &dyn Lookup,
    warnings: &mut Vec<String>,
) -> Result<()> {
    match NetworkMode::parse(&config.network_mode)? {
        NetworkMode::Bridge => "bridge".clone_into(&mut config.network_mode),
        // A container that does not exist yet is noticed at the start, as for networks.
        NetworkMode::Container(name) => {
            if let Ok(peer) = lookup.peer(name) {
                config.network_mode = modes::of_container(&peer.id);
            }
        }
        NetworkMode::Host if !config.port_bindings.is_empty() => {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        _ => {}
    }
    if let PidMode::Container(name) = PidMode::parse(&config.pid_mode)? {
        config.pid_mode = modes::of_container(&lookup.peer(name).map_err(as_invalid)?.id);
    }
    match IpcMode::parse(&config.ipc_mode)? {
        IpcMode::Container(name) => {
            config.ipc_mode = modes::of_container(&lookup.peer(name).map_err(as_invalid)?.id);
        }
        IpcMode::Private => "private".clone_into(&mut config.ipc_mode),
        _ => {}
    }
    modes::is_host("UTS", &config.uts_mode)?;
    modes::is_host("user namespace", &config.userns_mode)?;
    if defaults.remap(config).is_some() {
        user_namespace(config)?;
    }
    if config.cgroupns_mode == HostConfigCgroupnsMode::Empty {
        config.cgroupns_mode = default_cgroupns(config.privileged, host, defaults);
    }
    if config.cgroupns_mode == HostConfigCgroupnsMode::Private && !host.cgroup_namespaces {
        warnings.push(
            "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded.".to_owned(),
        );
    }
    Ok(())
}

/// Refuses what a container with ids of its own cannot have.
fn user_namespace(config: &HostConfig) -> Result<()> {
    let message = if config.privileged {
        "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
         running privileged mode"
    } else if NetworkMode::parse(&config.network_mode)? == NetworkMode::Host {
        "cannot share the host's network namespace when user namespaces are enabled"
    } else if PidMode::parse(&config.pid_mode)? == PidMode::Host {
        "cannot share the host PID namespace when user namespaces are enabled"
    } else {
        return Ok(());
    };
    Err(Error::invalid(message))
}

/// On version 1 a privileged container works on the host's groups, whatever the engine's setting.
fn default_cgroupns(privileged: bool, host: &Host, defaults: &Defaults) -> HostConfigCgroupnsMode {
    match (host.is_unified(), defaults.cgroupns_mode) {
        (false, _) if privileged => HostConfigCgroupnsMode::Host,
        (_, Some(mode)) => mode,
        (true, None) => HostConfigCgroupnsMode::Private,
        (false, None) => HostConfigCgroupnsMode::Host,
    }
}

fn capabilities(config: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) -> Result<()> {
    for (field, list) in [("CapAdd", &mut config.cap_add), ("CapDrop", &mut config.cap_drop)] {
        if let Some(names) = list {
            *names = capabilities::normalise(field, names)?;
        }
    }
    let added = config.cap_add.as_deref().unwrap_or_default();
    warnings.extend(capabilities::unavailable(added, host.capabilities).map(|name| {
        format!(
            "This engine does not have the capability {name} itself and cannot give it. Capability discarded."
        )
    }));
    Ok(())
}

/// Names of groups, annotations, runtime, control group and storage options.
fn names(config: &mut HostConfig, defaults: &Defaults) -> Result<()> {
    if config.annotations.contains_key("") {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    for group in config.group_add.iter().flatten() {
        if group.is_empty()
            || group.contains(|letter: char| matches!(letter, ',' | ':') || letter.is_control())
        {
            return Err(Error::invalid(format!(
                "invalid group {group:?} in GroupAdd: use a name or number"
            )));
        }
    }
    if config.runtime.is_empty() {
        defaults.default_runtime.clone_into(&mut config.runtime);
    }
    if !defaults.runtimes.contains_key(&config.runtime) && !OWN_RUNTIMES.contains(&config.runtime.as_str()) {
        return Err(Error::invalid(format!(
            "unknown or invalid runtime name: {}",
            config.runtime
        )));
    }
    storage_options(&config.storage_opt)?;
    let parent = &config.cgroup_parent;
    let bad = parent.len() > MAX_CGROUP_PARENT
        || parent.contains(char::is_control)
        || parent
            .split('/')
            .any(|part| matches!(part, "." | "..") || part.len() > 255);
    if bad {
        let start: String = parent.chars().take(64).collect();
        return Err(Error::invalid(format!(
            "invalid cgroup-parent {start:?}: it must be a path without \".\", \"..\" and control characters"
        )));
    }
    Ok(())
}

/// There is one option, a size, and the engine sets no quotas.
fn storage_options(options: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in options {
        if !name.eq_ignore_ascii_case("size") {
            return Err(Error::invalid(format!("unknown option {name}")));
        }
        if size::parse(value).is_err() {
            return Err(Error::invalid(format!("invalid size: '{value}'")));
        }
    }
    match options.is_empty() {
        true => Ok(()),
        false => Err(Error::invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        )),
    }
}

fn numbers(config: &mut HostConfig, defaults: &Defaults) -> Result<()> {
    if config.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if config.shm_size == 0 {
        config.shm_size = defaults.shm_size;
    }
    if !(-1000..=1000).contains(&config.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            config.oom_score_adj
        )));
    }
    let size = config.console_size.get_or_insert_default();
    match size.len() {
        0 => size.extend([0, 0]),
        2 => {}
        length => {
            return Err(Error::invalid(format!(
                "invalid ConsoleSize: it has {length} numbers instead of two"
            )));
        }
    }
    config.pids_limit = config.pids_limit.filter(|limit| *limit > 0);
    Ok(())
}
