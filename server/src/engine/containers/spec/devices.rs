//! `linux.devices` and the rules about devices.

use std::{
    fs,
    path::{Path, PathBuf},
};

use berth_api::models::{DeviceMapping, HostConfig};
use berth_runtime::{Error, Result, sandbox::defaults};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup};

use super::super::validate::devices::rule;

/// How deep a directory of devices may be nested.
const MAX_DEPTH: usize = 16;

/// The device nodes that are made beside those that every container has. A privileged container gets all of the
/// host's.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a device that is not there.
pub(super) fn nodes(config: &HostConfig) -> Result<Vec<LinuxDevice>> {
    let mut nodes = if config.privileged {
        defaults::host_devices()?
    } else {
        Vec::new()
    };
    for mapping in config.devices.iter().flatten() {
        if config.privileged && mapping.path_on_host == mapping.path_in_container {
            continue;
        }
        nodes.extend(mapped(mapping)?);
    }
    Ok(nodes)
}

/// Which devices may be used. Anyone with the capability may make nodes of all, but open only those named.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a device that is not there, and a malformed rule.
pub fn rules(config: &HostConfig) -> Result<Vec<LinuxDeviceCgroup>> {
    if config.privileged {
        return Ok(vec![defaults::all_devices_rule()]);
    }
    let mut rules = defaults::device_rules();
    for mapping in config.devices.iter().flatten() {
        for device in mapped(mapping)? {
            rules.push(defaults::device_rule(
                true,
                device.typ(),
                Some(device.major()),
                Some(device.minor()),
                &mapping.cgroup_permissions,
            ));
        }
    }
    for text in config.device_cgroup_rules.iter().flatten() {
        rules.push(rule(text)?);
    }
    Ok(rules)
}

/// The devices of a mapping: the one at its path, or all in the directory there.
fn mapped(mapping: &DeviceMapping) -> Result<Vec<LinuxDevice>> {
    let failed = |error: Error| {
        Error::invalid(format!(
            "error gathering device information while adding custom device {:?}: {error}",
            mapping.path_on_host
        ))
    };
    let host = Path::new(&mapping.path_on_host);
    let in_container = PathBuf::from(&mapping.path_in_container);
    let data = fs::metadata(host).map_err(|error| failed(error.into()))?;
    let mut found = Vec::new();
    if data.is_dir() {
        below(host, &in_container, 0, &mut found);
    } else {
        found.extend(defaults::device(host, &in_container).map_err(failed)?);
    }
    if found.is_empty() {
        return Err(failed(Error::invalid("not a device node")));
    }
    Ok(found)
}

/// Collects the devices in a directory; what cannot be looked at is left out. Links are not followed.
fn below(directory: &Path, in_container: &Path, depth: usize, found: &mut Vec<LinuxDevice>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let place = in_container.join(entry.file_name());
        if kind.is_dir() {
            if depth < MAX_DEPTH {
                below(&entry.path(), &place, depth + 1, found);
            }
        } else if !kind.is_symlink()
            && let Ok(Some(device)) = defaults::device(&entry.path(), &place)
        {
            found.push(device);
        }
    }
}
