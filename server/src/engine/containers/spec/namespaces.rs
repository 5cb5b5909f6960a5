//! `linux.namespaces`: which are new, which are another container's, and which are the host's (those not listed).

use berth_api::models::HostConfigCgroupnsMode;
use berth_runtime::{Result, sandbox::defaults};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type};

use super::{
    super::validate::modes::{IpcMode, NetworkMode, PidMode},
    Input, Modes, not_running,
};

/// The namespaces of a container's next run.
pub(super) fn build(input: &Input<'_>, modes: &Modes<'_>) -> Result<Vec<LinuxNamespace>> {
    let mut namespaces = vec![new(Type::Mount)];
    if input.ids.is_some() {
        namespaces.push(defaults::namespace(Type::User, input.peers.user.map(Into::into)));
    }
    match modes.network {
        NetworkMode::Host => {}
        NetworkMode::Container(name) => {
            let peer = input.peers.network.ok_or_else(|| not_running(name))?;
            namespaces.push(of(peer.pid, Type::Network, "net"));
        }
        _ => namespaces.push(defaults::namespace(
            Type::Network,
            input.peers.namespace.map(Into::into),
        )),
    }
    match modes.ipc {
        IpcMode::Host => {}
        IpcMode::Container(name) => {
            let peer = input.peers.ipc.ok_or_else(|| not_running(name))?;
            namespaces.push(of(peer.pid, Type::Ipc, "ipc"));
        }
        _ => namespaces.push(new(Type::Ipc)),
    }
    match modes.pid {
        PidMode::Host => {}
        PidMode::Container(name) => {
            let pid = input.peers.pid.ok_or_else(|| not_running(name))?;
            namespaces.push(of(pid, Type::Pid, "pid"));
        }
        PidMode::Private => namespaces.push(new(Type::Pid)),
    }
    if !modes.uts_host {
        namespaces.push(new(Type::Uts));
    }
    let private_cgroups = input.container.host_config.cgroupns_mode == HostConfigCgroupnsMode::Private;
    if private_cgroups && input.host.cgroup_namespaces {
        namespaces.push(new(Type::Cgroup));
    }
    if input.host.time_namespaces {
        namespaces.push(new(Type::Time));
    }
    Ok(namespaces)
}

fn new(kind: Type) -> LinuxNamespace {
    defaults::namespace(kind, None)
}

/// A namespace of a running process.
fn of(pid: i32, kind: Type, name: &str) -> LinuxNamespace {
    defaults::namespace(kind, Some(format!("/proc/{pid}/ns/{name}").into()))
}
