//! The engine's configuration: flags and file in, one checked [`Config`] out.

mod file;
pub mod host;
pub mod settings;
pub(crate) mod size;
pub mod ulimit;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use berth_runtime::{Error, Result, external::Runtime};
use clap::{ArgAction, Parser};
use sha2::{Digest, Sha256};

use host::Host;
use settings::{LogFormat, LogLevel, RuntimeSettings, Settings};
use ulimit::Ulimit;

use crate::engine::networks::settings::NetworkSettings;

const DATA_ROOT: &str = "/var/lib/berth";
const EXEC_ROOT: &str = "/run/berth";
const CONFIG_FILE: &str = "/etc/berth/daemon.json";
/// Where Docker looks for plugins.
const PLUGIN_DIRS: [&str; 3] = [
    "/run/docker/plugins",
    "/etc/docker/plugins",
    "/usr/lib/docker/plugins",
];
/// Where the Container Device Interface has descriptions of devices.
const CDI_SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
const INSTANCE: &str = "berth";
/// Where authorities and client certificates of registries are looked for.
const CERTIFICATES: [&str; 2] = ["/etc/berth/certs.d", "/etc/docker/certs.d"];
/// Longest instance name: it becomes part of names that the kernel limits.
const INSTANCE_MAX: usize = 32;

/// The command line of `berthd`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "berthd",
    version,
    about = "A container engine that speaks the Docker Engine API"
)]
pub struct Flags {
    /// Configuration file; a missing one is an error only if it is named
    /// [default: /etc/berth/daemon.json]
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long, action = ArgAction::SetTrue)]
    pub validate: bool,
    /// Everything that may also be in the configuration file.
    #[command(flatten)]
    pub settings: Settings,
}

/// The settings in force, checked and with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Addresses to listen on; at least one.
    pub hosts: Vec<Host>,
    /// Directory of what persists; absolute.
    pub data_root: PathBuf,
    /// Directory of what lasts until the next boot; absolute.
    pub exec_root: PathBuf,
    /// File that holds the process id.
    pub pidfile: PathBuf,
    /// Group of the unix sockets; `None` means `docker` if there is one, else the engine's own.
    pub group: Option<String>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How log lines look.
    pub log_format: LogFormat,
    /// TLS on TCP addresses.
    pub tls: Option<Tls>,
    /// Whether `tcp://` without TLS is allowed on loopback addresses.
    pub allow_plain_tcp: bool,
    /// Name that marks everything made on the host.
    pub instance: String,
    /// Parent of the containers' cgroups, from the root of each hierarchy.
    pub cgroup_parent: String,
    /// `key=value` labels of the engine, in the order given.
    pub labels: Vec<String>,
    /// How long running requests may take to finish at the end.
    pub shutdown_timeout: Duration,
    /// What containers get that do not say otherwise.
    pub containers: ContainerDefaults,
    /// Directories where plugins have their sockets and addresses.
    pub plugin_dirs: Vec<PathBuf>,
    /// Directories with descriptions of devices, those that count more last.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// How registries are spoken to.
    pub registries: Registries,
    /// Programs that containers can be run by instead of the engine's own runtime.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Name of the runtime of containers that name none.
    pub default_runtime: String,
    /// What containers are connected by.
    pub networks: NetworkSettings,
}

/// Names under which clients know the engine's own runtime.
pub const OWN_RUNTIMES: [&str; 3] = ["runc", "berth", "io.containerd.runc.v2"];

/// TLS on TCP addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, followed by its chain, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The authority that clients' certificates must be signed by; `None` lets every client in.
    pub client_ca: Option<PathBuf>,
}

/// What containers get that do not say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerDefaults {
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Size of /dev/shm in bytes.
    pub shm_size: i64,
    /// Cgroup namespace: `host`, `private`, or `None` for what fits the host's cgroup version.
    pub cgroupns_mode: Option<String>,
    /// Whether privileges can be gained by executing programs.
    pub no_new_privileges: bool,
    /// Whether an init process runs as process 1.
    pub init: bool,
    /// Whose ids containers have; none for those of the host.
    pub userns_remap: Option<String>,
    /// Log driver.
    pub log_driver: String,
    /// Options of the log driver, for containers that do not choose a driver.
    pub log_opts: BTreeMap<String, String>,
}

/// How registries are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// Hosts and networks without TLS.
    pub insecure: Vec<String>,
    /// Mirrors: a URL for the default registry, or `PREFIX=URL` for names that begin so.
    pub mirrors: Vec<String>,
    /// Directories of authorities and client certificates, by host.
    pub certificates: Vec<PathBuf>,
    /// How long nothing may come from a registry.
    pub timeout: Duration,
    /// How often something is tried.
    pub attempts: u32,
    /// Layers fetched at a time.
    pub downloads: usize,
    /// Layers sent at a time.
    pub uploads: usize,
}

impl Registries {
    fn resolve(settings: &Settings) -> Result<Self> {
        let mirrors = settings.registry_mirrors.clone().unwrap_or_default();
        for mirror in &mirrors {
            berth_runtime::registry::check_mirror(mirror)?;
        }
        let certificates = settings.registry_certs.clone();
        let default = || CERTIFICATES.map(PathBuf::from).into();
        Ok(Self {
            insecure: settings.insecure_registries.clone().unwrap_or_default(),
            mirrors,
            certificates: certificates.unwrap_or_else(default),
            timeout: Duration::from_secs(settings.registry_timeout.unwrap_or(60).max(1)),
            attempts: settings.max_download_attempts.unwrap_or(5).max(1),
            downloads: settings.max_concurrent_downloads.unwrap_or(3).max(1),
            uploads: settings.max_concurrent_uploads.unwrap_or(5).max(1),
        })
    }
}

impl Config {
    /// The configuration that `flags` and the file they name amount to.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for what contradicts itself or does not parse.
    pub fn load(flags: &Flags) -> Result<Self> {
        let path = flags
            .config_file
            .as_deref()
            .unwrap_or_else(|| Path::new(CONFIG_FILE));
        Self::resolve(file::merge(&flags.settings, path, flags.config_file.is_some())?)
    }

    /// Checks `settings` and fills in the defaults.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid), naming the setting and its value.
    pub fn resolve(settings: Settings) -> Result<Self> {
        let data_root = absolute("data-root", settings.data_root.clone(), DATA_ROOT)?;
        let exec_root = absolute("exec-root", settings.exec_root.clone(), EXEC_ROOT)?;
        let pidfile = settings
            .pidfile
            .clone()
            .unwrap_or_else(|| exec_root.join("berthd.pid"));
        let instance = instance(settings.instance.clone(), &data_root)?;
        let level = settings.log_level.unwrap_or_default();
        if settings.live_restore == Some(false) {
            return Err(Error::invalid(
                "live-restore cannot be switched off: containers always outlive the engine",
            ));
        }
        let runtimes = runtimes(settings.runtimes.clone().unwrap_or_default())?;
        Ok(Self {
            default_runtime: default_runtime(settings.default_runtime.clone(), &runtimes)?,
            runtimes,
            tls: tls(&settings)?,
            registries: Registries::resolve(&settings)?,
            networks: NetworkSettings::resolve(&settings)?,
            containers: ContainerDefaults::resolve(&settings)?,
            cgroup_parent: cgroup_parent(settings.cgroup_parent, &instance)?,
            labels: labels(settings.labels.unwrap_or_default())?,
            hosts: settings
                .hosts
                .filter(|h| !h.is_empty())
                .unwrap_or_else(|| vec![Host::default()]),
            data_root,
            exec_root,
            pidfile,
            instance,
            group: settings.group,
            log_level: if settings.debug == Some(true) {
                level.min_debug()
            } else {
                level
            },
            log_format: settings.log_format.unwrap_or_default(),
            allow_plain_tcp: settings.allow_plain_tcp.unwrap_or_default(),
            shutdown_timeout: Duration::from_secs(settings.shutdown_timeout.unwrap_or(15)),
            cdi_spec_dirs: settings
                .cdi_spec_dirs
                .unwrap_or_else(|| CDI_SPEC_DIRS.map(PathBuf::from).to_vec()),
            plugin_dirs: settings
                .plugin_dirs
                .unwrap_or_else(|| PLUGIN_DIRS.map(PathBuf::from).to_vec()),
        })
    }

    /// Whether the engine logs at level debug or finer.
    pub fn debug(&self) -> bool {
        matches!(self.log_level, LogLevel::Debug | LogLevel::Trace)
    }
}

impl LogLevel {
    fn min_debug(self) -> Self {
        if self == Self::Trace { self } else { Self::Debug }
    }
}

impl ContainerDefaults {
    fn resolve(settings: &Settings) -> Result<Self> {
        let shm_size = match &settings.default_shm_size {
            Some(text) => size::parse(text)?,
            None => 64 << 20,
        };
        if let Some(mode) = &settings.default_cgroupns_mode
            && mode != "host"
            && mode != "private"
        {
            let text = format!("invalid default-cgroupns-mode {mode:?}: use \"host\" or \"private\"");
            return Err(Error::invalid(text));
        }
        Ok(Self {
            ulimits: settings.default_ulimits.clone().unwrap_or_default(),
            shm_size,
            cgroupns_mode: settings.default_cgroupns_mode.clone(),
            no_new_privileges: settings.no_new_privileges.unwrap_or_default(),
            init: settings.init.unwrap_or_default(),
            userns_remap: settings.userns_remap.clone().filter(|user| !user.is_empty()),
            log_driver: settings.log_driver.clone().unwrap_or_else(|| "json-file".into()),
            log_opts: settings
                .log_opts
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
        })
    }
}

/// The runtimes by name. `runc` may be one of them: then that name no longer means the engine's own.
fn runtimes(given: Vec<(String, RuntimeSettings)>) -> Result<BTreeMap<String, Runtime>> {
    let mut all = BTreeMap::new();
    for (name, runtime) in given {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(good) || name == "berth" {
            return Err(Error::invalid(format!("{name:?} cannot name a runtime")));
        }
        if runtime.path.is_empty() {
            return Err(Error::invalid(format!(
                "runtime {name:?} has no path to its program"
            )));
        }
        let runtime = Runtime {
            path: runtime.path.into(),
            arguments: runtime.arguments,
        };
        if all.insert(name.clone(), runtime).is_some() {
            return Err(Error::invalid(format!("runtime {name:?} is given twice")));
        }
    }
    Ok(all)
}

fn default_runtime(given: Option<String>, runtimes: &BTreeMap<String, Runtime>) -> Result<String> {
    let name = given
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| OWN_RUNTIMES[0].to_owned());
    if !runtimes.contains_key(&name) && !OWN_RUNTIMES.contains(&name.as_str()) {
        return Err(Error::invalid(format!(
            "specified default runtime '{name}' does not exist"
        )));
    }
    Ok(name)
}

/// A directory setting, which must be absolute and must not climb.
fn absolute(name: &str, given: Option<PathBuf>, default: &str) -> Result<PathBuf> {
    let path = given.unwrap_or_else(|| default.into());
    let climbs = path.components().any(|c| c.as_os_str() == "..");
    if !path.is_absolute() || climbs {
        let path = path.display();
        return Err(Error::invalid(format!(
            "{name} must be an absolute path without \"..\": {path}"
        )));
    }
    Ok(path)
}

fn tls(settings: &Settings) -> Result<Option<Tls>> {
    let verify = settings.tlsverify.unwrap_or_default();
    if !verify && !settings.tls.unwrap_or_default() {
        return Ok(None);
    }
    let file = |name: &str, given: &Option<PathBuf>| {
        given
            .clone()
            .ok_or_else(|| Error::invalid(format!("TLS needs --{name} (or \"{name}\" in the file)")))
    };
    Ok(Some(Tls {
        cert: file("tlscert", &settings.tlscert)?,
        key: file("tlskey", &settings.tlskey)?,
        client_ca: verify
            .then(|| file("tlscacert", &settings.tlscacert))
            .transpose()?,
    }))
}

/// Two engines must not share a name, so one with its own data root gets a name of its own.
fn instance(given: Option<String>, data_root: &Path) -> Result<String> {
    let name = match given {
        Some(name) => name,
        None if data_root == Path::new(DATA_ROOT) => INSTANCE.to_owned(),
        None => {
            let digest = Sha256::digest(data_root.as_os_str().as_encoded_bytes());
            let hex: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("{INSTANCE}-{hex}")
        }
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let consists = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !starts || !consists || name.len() > INSTANCE_MAX {
        return Err(Error::invalid(format!(
            "invalid instance name {name:?}: use up to {INSTANCE_MAX} letters, digits, '_', '.' and '-', \
             starting with a letter or digit"
        )));
    }
    Ok(name)
}

fn cgroup_parent(given: Option<String>, instance: &str) -> Result<String> {
    let parent = given
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| format!("/{instance}"));
    if parent.split('/').any(|part| part == ".." || part == ".") || parent.contains('\0') {
        return Err(Error::invalid(format!(
            "invalid cgroup-parent {parent:?}: it must not climb"
        )));
    }
    Ok(parent)
}

/// Labels must be `key=value`; one key has one value.
fn labels(given: Vec<String>) -> Result<Vec<String>> {
    let mut seen = BTreeMap::new();
    for label in &given {
        let (key, value) = label
            .split_once('=')
            .filter(|(key, _)| !key.is_empty() && !key.contains(char::is_whitespace))
            .ok_or_else(|| Error::invalid(format!("bad attribute format: {label} (use key=value)")))?;
        if seen.insert(key, value).is_some_and(|before| before != value) {
            return Err(Error::invalid(format!(
                "conflict labels for {key}: it is given more than once"
            )));
        }
    }
    let mut unique = Vec::with_capacity(seen.len());
    for label in given {
        if !unique.contains(&label) {
            unique.push(label);
        }
    }
    Ok(unique)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn load(args: &[&str]) -> Result<Config> {
        let flags =
            Flags::try_parse_from([&["berthd"], args].concat()).map_err(|e| Error::invalid(e.to_string()))?;
        // Not `load`: the host may have a configuration file.
        Config::resolve(flags.settings)
    }

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let config = load(&[]).unwrap();
        assert_eq!(config.hosts, [Host::default()]);
        assert_eq!(config.instance, "berth");
        assert_eq!(config.cgroup_parent, "/berth");
        assert_eq!(config.pidfile, Path::new("/run/berth/berthd.pid"));
        assert_eq!(config.tls, None);
        assert!(!config.debug());
    }

    #[test]
    fn flags_are_heeded() {
        let config = load(&[
            "-H",
            "unix:///a.sock",
            "-H",
            "tcp://:1",
            "--data-root=/d",
            "--exec-root",
            "/r",
            "-D",
            "--label=a=b",
            "--label=a=b",
            "--default-ulimit=nofile=5",
            "--instance=two",
            "--default-shm-size=1g",
            "--log-opt=max-size=10m",
            "--log-format=json",
        ])
        .unwrap();
        assert_eq!(config.hosts.len(), 2);
        assert_eq!(config.pidfile, Path::new("/r/berthd.pid"));
        assert!(config.debug());
        assert_eq!(config.labels, ["a=b"]);
        assert_eq!(config.cgroup_parent, "/two");
        assert_eq!(config.containers.shm_size, 1 << 30);
        assert_eq!(config.containers.log_opts["max-size"], "10m");
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn another_data_root_is_another_instance() {
        let one = load(&["--data-root=/a"]).unwrap().instance;
        let two = load(&["--data-root=/b"]).unwrap().instance;
        assert_ne!(one, two);
        assert_eq!(one, load(&["--data-root=/a"]).unwrap().instance);
    }

    #[test]
    fn tls_needs_its_files() {
        assert!(load(&["--tls"]).is_err());
        assert!(
            load(&["--tls", "--tlscert=c", "--tlskey=k"])
                .unwrap()
                .tls
                .unwrap()
                .client_ca
                .is_none()
        );
        assert!(load(&["--tlsverify", "--tlscert=c", "--tlskey=k"]).is_err());
        let verified = load(&["--tlsverify", "--tlscert=c", "--tlskey=k", "--tlscacert=a"]).unwrap();
        assert_eq!(verified.tls.unwrap().client_ca, Some("a".into()));
        assert_eq!(load(&["--tls=false", "--tlscert=c"]).unwrap().tls, None);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for args in [
            ["--data-root=var"],
            ["--data-root=/a/../b"],
            ["--label=novalue"],
            ["--instance=../x"],
            ["--instance="],
            ["--cgroup-parent=/a/../.."],
            ["--default-cgroupns-mode=x"],
            ["--default-shm-size=x"],
            ["--live-restore=false"],
            ["--host=nonsense"],
            ["--no-such-flag"],
        ] {
            assert!(load(&args).is_err(), "{args:?}");
        }
        assert!(load(&["--label=a=1", "--label=a=2"]).is_err());
    }
}
