//! `linux.sysctl`: kernel parameters of the container's namespaces.

use std::collections::HashMap;

use berth_runtime::{Error, Result};

use super::{
    super::validate::modes::{IpcMode, NetworkMode},
    Input, Modes,
};

/// Parameters of the System V part of an IPC namespace; those of its message queues begin with `fs.mqueue.`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The engine's defaults for a network namespace of the container's own, and what the user sets.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a parameter that is not a namespace's, or the host's.
pub(super) fn build(input: &Input<'_>, modes: &Modes<'_>) -> Result<HashMap<String, String>> {
    let mut parameters = HashMap::new();
    if modes.network.is_private() {
        // Capabilities that are given anyway would allow both; this way programs need not have them.
        let mut set = |name: &str, value: &str| parameters.insert(name.to_owned(), value.to_owned());
        // The range must not have groups that the container does not know, and 0 has no end there.
        if input.host.ping_group_range && input.ids.is_none() {
            set("net.ipv4.ping_group_range", "0 2147483647");
        }
        if input.host.unprivileged_port_start {
            set("net.ipv4.ip_unprivileged_port_start", "0");
        }
    }
    for (name, value) in &input.container.host_config.sysctls {
        check(name, modes)?;
        parameters.insert(dotted(name), value.clone());
    }
    Ok(parameters)
}

/// A name with dots between its parts: with a slash as first separator, slashes separate and dots stay.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('/') => name
            .chars()
            .map(|letter| {
                if letter == '/' {
                    '.'
                } else if letter == '.' {
                    '/'
                } else {
                    letter
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn check(name: &str, modes: &Modes<'_>) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid(format!("sysctl {name:?} {why}")));
    let well_formed = |letter: char| {
        letter.is_ascii_alphanumeric() || matches!(letter, '.' | '/' | '_' | '-' | '*' | ':' | '@')
    };
    if name.is_empty() || !name.chars().all(well_formed) || name.split(['.', '/']).any(str::is_empty) {
        return refuse("is not the name of a kernel parameter");
    }
    let dotted = dotted(name);
    if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        return match modes.ipc {
            IpcMode::Host => refuse("is not allowed in the hosts ipc namespace"),
            _ => Ok(()),
        };
    }
    if dotted.starts_with("net.") {
        return match modes.network {
            NetworkMode::Host => refuse("is not allowed in the hosts network namespace"),
            _ => Ok(()),
        };
    }
    match dotted.as_str() {
        "kernel.domainname" if modes.uts_host => refuse("is not allowed in the hosts UTS namespace"),
        "kernel.domainname" => Ok(()),
        "kernel.hostname" => refuse("is not allowed: set the container's Hostname instead"),
        _ => refuse("is not in a separate kernel namespace"),
    }
}
