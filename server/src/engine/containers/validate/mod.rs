//! What a create request must be, and what it is stored as.
//!
//! [`create`] takes a request as it came in and returns it checked and completed; nothing is made by it.
//! [`Checked::merge_image`] then adds what the image says, [`Checked::set_hostname`] the name that depends on the id,
//! and the volumes are made.
//!
//! | module | part of the request |
//! |---|---|
//! | [`process`] | `Config`: what runs |
//! | [`host`], [`resources`], [`devices`], [`capabilities`], [`security`], [`seccomp`], [`names`], [`modes`] | `HostConfig` |
//! | [`mounts`], [`bind`], [`tmpfs`] | `Binds`, `Mounts`, `Tmpfs`, `VolumesFrom`, `Config.Volumes` as one list |
//! | [`network`], [`ports`] | `NetworkingConfig`, ports |
//! | [`log`] | `LogConfig` |
//! | [`compat`] | differences between versions of the API |

pub mod bind;
pub mod capabilities;
pub mod compat;
pub mod cpu_list;
pub mod devices;
pub mod facts;
pub mod host;
pub mod log;
pub mod merge;
pub mod modes;
pub mod mount_point;
pub mod mounts;
pub mod names;
pub mod network;
pub mod path;
pub mod ports;
pub mod process;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod tmpfs;

#[cfg(test)]
mod tests;

use berth_api::{
    ApiVersion,
    models::{ContainerConfig, ContainerCreateRequest, HostConfig, ImageConfig, NetworkingConfig},
};
use berth_runtime::{Error, Result, error::Context};

use self::modes::NetworkMode;
pub use self::{
    facts::{Defaults, Host},
    log::{LogDriver, LogSettings, TagFacts},
    merge::all as inherit,
    mount_point::{BindSource, MountPoint, MountSource, Propagation, VolumeSource},
    security::{Seccomp, SecurityOptions},
};

/// Another container, as far as a request may name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its full id.
    pub id: String,
    /// Its `HostConfig.NetworkMode`.
    pub network_mode: String,
}

/// Finds the containers that a request names.
pub trait Lookup {
    /// The container with that name, id, or beginning of an id.
    ///
    /// # Errors
    /// [`Kind::NotFound`](berth_runtime::Kind::NotFound), `No such container: X`; or invalid if it is ambiguous.
    fn peer(&self, reference: &str) -> Result<Peer>;

    /// The mounts of that container.
    ///
    /// # Errors
    /// As [`peer`](Self::peer).
    fn mounts(&self, reference: &str) -> Result<Vec<MountPoint>>;
}

/// A create request that is right, in the form in which it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// `Config`.
    pub config: ContainerConfig,
    /// `HostConfig`, with everything filled in that inspect shows.
    pub host_config: HostConfig,
    /// The endpoints by network; empty for a shared network namespace.
    pub networking: NetworkingConfig,
    /// All mounts but those of `HostConfig.Tmpfs`, sorted by destination.
    pub mounts: Vec<MountPoint>,
    /// How the output is recorded.
    pub log: LogSettings,
    /// What `SecurityOpt` says.
    pub security: SecurityOptions,
    /// What the answer tells the user.
    pub warnings: Vec<String>,
}

/// Checks and completes a request that came in as `version`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid), with the words clients know, for anything wrong; never
/// [`Kind::NotFound`](berth_runtime::Kind::NotFound), which clients take for a missing image.
pub fn create(
    request: ContainerCreateRequest,
    version: ApiVersion,
    host: &Host,
    defaults: &Defaults,
    lookup: &dyn Lookup,
) -> Result<Checked> {
    let (mut config, mut host_config, mut networking) = split(request);
    let mut warnings = Vec::new();
    compat::apply(
        &config,
        &mut host_config,
        &mut networking,
        version,
        host.is_unified(),
    )?;
    network::check_conflicts(&config, &host_config)?;
    process::check(&mut config)?;
    host::check(&mut host_config, host, defaults, lookup, &mut warnings)?;
    resources::check(&mut host_config, resources::Purpose::Create, host, &mut warnings)?;
    if host.cgroups.oom_kill_disable {
        host_config.oom_kill_disable.get_or_insert(false);
    }
    names::check(&host_config, lookup)?;
    let security = SecurityOptions::read(&mut host_config, defaults.no_new_privileges)?;
    security::add_label(&mut host_config)?;
    security::fill_paths(&mut host_config, &host.masked_paths)?;
    let log = LogSettings::read(&mut host_config.log_config, &defaults.log_config)?;
    network::endpoints(&config, &host_config, &mut networking)?;
    let mounts = mounts::collect(&config, &host_config, defaults, lookup)?;
    let mapped = |point: &MountPoint| matches!(&point.source, MountSource::Bind(bind) if bind.mapped);
    if defaults.remap(&host_config).is_none()
        && let Some(point) = mounts.iter().find(|point| mapped(point))
    {
        return Err(Error::invalid(format!(
            "invalid mode: idmap: the container of the mount at {} has no user namespace",
            point.destination
        )));
    }
    if defaults.bridge_is_loopback && !config.network_disabled && host_config.network_mode == "bridge" {
        warnings.push(
            "This engine has no bridge network yet: the container gets a loopback interface only.".to_owned(),
        );
    }
    Ok(Checked {
        config,
        host_config,
        networking,
        mounts,
        log,
        security,
        warnings,
    })
}

impl Checked {
    /// Adds what the image says to the configuration and the mounts.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if there is no command, or the image's configuration is wrong.
    pub fn merge_image(&mut self, image: &ImageConfig) -> Result<()> {
        merge::image(&mut self.config, image)?;
        process::check(&mut self.config)?;
        let destinations = self
            .config
            .volumes
            .iter()
            .flatten()
            .map(|(destination, _)| destination.as_str());
        mounts::add_image_volumes(&mut self.mounts, destinations, &self.host_config)
    }

    /// Gives a container without a host name its own: the beginning of its id, or the host's name in its network.
    ///
    /// # Errors
    /// Internal, if the host's name cannot be read.
    pub fn set_hostname(&mut self, id: &str) -> Result<()> {
        if !self.config.hostname.is_empty() {
            return Ok(());
        }
        self.config.hostname = match NetworkMode::parse(&self.host_config.network_mode)? {
            NetworkMode::Host => host_name()?,
            _ => id.chars().take(12).collect(),
        };
        Ok(())
    }
}

/// The host's own name.
///
/// # Errors
/// Internal, if it cannot be read.
pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context(|| "cannot read the host's name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// The three parts of a request.
fn split(request: ContainerCreateRequest) -> (ContainerConfig, HostConfig, NetworkingConfig) {
    let config = ContainerConfig {
        hostname: request.hostname,
        domainname: request.domainname,
        user: request.user,
        attach_stdin: request.attach_stdin,
        attach_stdout: request.attach_stdout,
        attach_stderr: request.attach_stderr,
        exposed_ports: request.exposed_ports,
        tty: request.tty,
        open_stdin: request.open_stdin,
        stdin_once: request.stdin_once,
        env: request.env,
        cmd: request.cmd,
        healthcheck: request.healthcheck,
        args_escaped: request.args_escaped,
        image: request.image,
        volumes: request.volumes,
        working_dir: request.working_dir,
        entrypoint: request.entrypoint,
        network_disabled: request.network_disabled,
        mac_address: request.mac_address,
        on_build: request.on_build,
        labels: request.labels,
        stop_signal: request.stop_signal,
        stop_timeout: request.stop_timeout,
        shell: request.shell,
    };
    (
        config,
        request.host_config.unwrap_or_default(),
        request.networking_config.unwrap_or_default(),
    )
}
