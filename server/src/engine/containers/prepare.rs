//! What a container's next run needs on the host: files, mount sources, and the bundle that describes it.

use std::{
    fs,
    io::{BufWriter, Write},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_runtime::{
    Error, Result,
    error::Context,
    external::Runtime,
    failpoint::hit,
    log::JsonFile,
    net::Owner,
    supervisor::{LogConfig, SPEC_FILE, SupervisorConfig},
};
use oci_spec::runtime::Spec;

use crate::config::OWN_RUNTIMES;

use super::{
    Containers, index,
    links::Linked,
    model::{Container, Details},
    spec::{self, ContainerView, Input, IpcPeer, NetworkPeer, Paths, Peers, RootView, files},
    state,
    validate::{
        LogDriver, MountPoint, MountSource, TagFacts,
        modes::{IpcMode, NetworkMode, PidMode},
    },
};

/// Where processes see shared memory.
const DEV_SHM: &str = "/dev/shm";

/// The containers whose namespaces are joined, kept while the specification is built.
#[derive(Default)]
struct Joined {
    network: Option<Peer>,
    ipc: Option<Peer>,
    pid: Option<Peer>,
}

/// A running container that is joined.
struct Peer {
    container: Arc<Container>,
    pid: i32,
    files: PathBuf,
    shm: PathBuf,
}

impl Containers {
    /// Makes what a run needs and writes its bundle. Blocks.
    ///
    /// # Errors
    /// Not found or conflict for a container that is joined and is not there or does not run; invalid for what only shows
    /// at a start; internal.
    pub(super) fn prepare(&self, container: &Container, bundle: &Path) -> Result<SupervisorConfig> {
        let details = container.details();
        let defaults = self.defaults.load();
        let remap = defaults.remap(&details.host_config);
        let owner = remap.map(|remap| remap.map.root()).unwrap_or_default();
        files::make_bind_sources(&details.mounts, owner)?;
        self.check_subpaths(&details)?;
        let mounts = self.mount_volumes(container)?;
        let linked = self.linked(container, &details)?;
        let environment: Vec<_> = linked.iter().flat_map(|linked| linked.env.clone()).collect();
        let view = view(container, &details, &mounts, &environment);
        let joined = self.join(container, &details)?;
        let user = match remap {
            Some(_) => joined.user()?,
            None => None,
        };
        let directory = self.store.directory(container.id());
        let links: Vec<_> = linked
            .iter()
            .filter_map(|linked| Some((linked.address?, linked.names.clone())))
            .collect();
        let opened = linked.into_iter().filter_map(Linked::opens).collect();
        let network = self.join_networks(
            container,
            &details,
            bundle,
            remap.map(|remap| match &user {
                Some(path) => Owner::Existing(path),
                None => Owner::New(&remap.map),
            }),
            opened,
        )?;
        self.tell_mounted(container, &mounts);
        hit("prepare.files")?;
        let host_config = self.networks.with_resolver(&details.host_config);
        files::write(
            &directory,
            &ContainerView {
                host_config: &host_config,
                ..view
            },
            &files::Addresses {
                own: &network.addresses,
                links: &links,
                host_gateway: self.host_gateway(&details)?,
                name_server: network.has_names,
            },
            owner,
        )?;
        self.tell_parents(container);
        let shm = bundle.join(super::store::SHM);
        if IpcMode::parse(&details.host_config.ipc_mode)? == IpcMode::Shareable {
            files::mount_shm(&shm, details.host_config.shm_size, owner)?;
        }
        let layer = self.store.writable_layer(container.id());
        let hold = container.image.as_ref();
        if hold.is_none() && !container.identity.image.is_empty() {
            return Err(Error::not_found(format!(
                "No such image: {}",
                container.identity.image
            )));
        }
        let lowers = hold
            .map(|hold| self.images.lower_dirs(hold.image()))
            .unwrap_or_default();
        let rootfs = match remap {
            // Another runtime has to reach it with the ids of the container.
            Some(_) => self.store.open_root(container.id()),
            None => bundle.join("rootfs"),
        };
        let mut spec = spec::build(&Input {
            container: view,
            root: RootView {
                lowers: &lowers,
                upper: &layer.upper,
                work: &layer.work,
                rootfs: &rootfs,
            },
            paths: Paths {
                files: &directory,
                shm: &shm,
            },
            peers: Peers {
                namespace: network.namespace.as_deref(),
                user: user.as_deref().or(network.user.as_deref()),
                ..joined.peers()
            },
            ids: remap.map(|remap| &*remap.map),
            host: &self.host,
            defaults: &defaults,
        })?;
        let secret = std::mem::take(&mut container.current().secret_environment);
        if let Some(process) = spec.process_mut().as_mut() {
            process.env_mut().get_or_insert_default().extend(secret);
        }
        write_spec(bundle, &spec)?;
        let config = self.supervisor_config(container, &details)?;
        config.store(bundle)?;
        Ok(config)
    }

    fn supervisor_config(&self, container: &Container, details: &Details) -> Result<SupervisorConfig> {
        let settings = &container.identity.log;
        let log = match settings.driver {
            LogDriver::None => LogConfig::None,
            LogDriver::JsonFile | LogDriver::Local | LogDriver::Syslog | LogDriver::Journald => {
                let facts = TagFacts {
                    id: container.id(),
                    name: &details.name,
                    image_id: &container.identity.image,
                    image_name: &container.config().image,
                };
                LogConfig::JsonFile(JsonFile {
                    max_size: settings.max_size,
                    max_file: settings.max_file,
                    compress: settings.compress,
                    attrs: settings.attributes.of(container.config(), &facts)?,
                    remote: settings
                        .remote
                        .as_ref()
                        .map(|remote| remote.of(&settings.attributes, container.config(), &facts))
                        .transpose()?,
                    remote_only: settings
                        .remote
                        .as_ref()
                        .is_some_and(|remote| remote.cache_disabled),
                    ..JsonFile::new(self.store.log(container.id()))
                })
            }
        };
        Ok(SupervisorConfig {
            open_stdin: container.config().open_stdin,
            stdin_once: container.config().stdin_once,
            runtime: self.runtime(&details.host_config.runtime)?,
            ..SupervisorConfig::new(container.id(), log)
        })
    }

    /// Only the engine's own runtime finds a part of a volume without being led out of it.
    fn check_subpaths(&self, details: &Details) -> Result<()> {
        let runtime = &details.host_config.runtime;
        let is_part =
            |point: &MountPoint| matches!(&point.source, MountSource::Volume(v) if v.subpath.is_some());
        if details.mounts.iter().any(is_part) && self.runtime(runtime)?.is_some() {
            return Err(Error::invalid(format!(
                "VolumeOptions.Subpath cannot be used with runtime {runtime:?}: use the engine's own"
            )));
        }
        Ok(())
    }

    /// The program that `name` stands for; none for the engine's own runtime.
    fn runtime(&self, name: &str) -> Result<Option<Runtime>> {
        match self.defaults.load().runtimes.get(name) {
            Some(runtime) => Ok(Some(runtime.clone())),
            None if name.is_empty() || OWN_RUNTIMES.contains(&name) => Ok(None),
            // Taken out of the configuration after the container was created.
            None => Err(Error::invalid(format!("unknown or invalid runtime name: {name}"))),
        }
    }

    /// Finds the containers that are joined, all of which have to run.
    fn join(&self, container: &Container, details: &Details) -> Result<Joined> {
        let host_config = &details.host_config;
        let mut joined = Joined::default();
        match NetworkMode::parse(&host_config.network_mode)? {
            NetworkMode::Container(name) => {
                if self.find(name).is_ok_and(|found| found.id() == container.id()) {
                    return Err(Error::invalid("cannot join own network"));
                }
                joined.network = Some(self.running(name)?);
            }
            NetworkMode::Bridge | NetworkMode::Host | NetworkMode::None | NetworkMode::Named(_) => {}
        }
        if let IpcMode::Container(name) = IpcMode::parse(&host_config.ipc_mode)? {
            joined.ipc = Some(self.running(name)?);
        }
        if let PidMode::Container(name) = PidMode::parse(&host_config.pid_mode)? {
            joined.pid = Some(self.running(name)?);
        }
        Ok(joined)
    }

    /// The host's address as a container sees it: the gateway of the default network.
    fn host_gateway(&self, details: &Details) -> Result<Option<IpAddr>> {
        Ok(match NetworkMode::parse(&details.host_config.network_mode)? {
            NetworkMode::Host => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            NetworkMode::None => None,
            _ => self.networks.host_gateway(),
        })
    }

    fn running(&self, name: &str) -> Result<Peer> {
        // A missing container to join is a conflict, not the absence of what the request is about.
        let container = self
            .find(name)
            .map_err(|_| Error::conflict(index::no_such(name).message()))?;
        let details = container.details();
        if !details.state.has_process() {
            let reason = state::not_running(container.id());
            return Err(Error::conflict(format!(
                "cannot join container: {}",
                reason.message()
            )));
        }
        let shm = match IpcMode::parse(&details.host_config.ipc_mode)? {
            IpcMode::Host => PathBuf::from(DEV_SHM),
            _ => self.store.bundle(container.id()).join(super::store::SHM),
        };
        Ok(Peer {
            pid: details.state.pid,
            files: self.store.directory(container.id()),
            shm,
            container,
        })
    }

    /// Where a container's cgroup is: its parent and its name.
    pub(super) fn cgroup_path(&self, container: &Container) -> (String, String) {
        let own = container.now().host_config.cgroup_parent.clone();
        let parent = if own.is_empty() {
            self.defaults.load().cgroup_parent.clone()
        } else {
            own
        };
        (parent, container.id().to_owned())
    }
}

impl Joined {
    /// The user namespace of the containers that are joined, which a container with ids of its own has to share: the
    /// other namespaces belong to it. None if nobody is joined.
    fn user(&self) -> Result<Option<PathBuf>> {
        let link = |pid: &str| {
            let path = format!("/proc/{pid}/ns/user");
            fs::read_link(&path).context(|| format!("cannot read {path}"))
        };
        let host = link("self")?;
        let mut found: Option<(PathBuf, PathBuf)> = None;
        for peer in [&self.network, &self.ipc, &self.pid].into_iter().flatten() {
            let theirs = link(&peer.pid.to_string())?;
            let other = found.as_ref().is_some_and(|(link, _)| *link != theirs);
            if theirs == host || other {
                return Err(Error::conflict(format!(
                    "cannot join container {}: it is in another user namespace",
                    peer.container.id()
                )));
            }
            let path = PathBuf::from(format!("/proc/{}/ns/user", peer.pid));
            found.get_or_insert((theirs, path));
        }
        Ok(found.map(|(_, path)| path))
    }

    fn peers(&self) -> Peers<'_> {
        Peers {
            network: self.network.as_ref().map(|peer| NetworkPeer {
                pid: peer.pid,
                files: &peer.files,
                hostname: &peer.container.config().hostname,
                domainname: &peer.container.config().domainname,
            }),
            ipc: self.ipc.as_ref().map(|peer| IpcPeer {
                pid: peer.pid,
                shm: &peer.shm,
            }),
            pid: self.pid.as_ref().map(|peer| peer.pid),
            namespace: None,
            user: None,
        }
    }
}

fn view<'a>(
    container: &'a Container,
    details: &'a Details,
    mounts: &'a [MountPoint],
    linked: &'a [String],
) -> ContainerView<'a> {
    ContainerView {
        id: container.id(),
        config: container.config(),
        host_config: &details.host_config,
        mounts,
        security: &container.identity.security,
        linked,
    }
}

fn write_spec(bundle: &Path, spec: &Spec) -> Result<()> {
    let path = bundle.join(SPEC_FILE);
    let message = || format!("cannot write {}", path.display());
    hit("prepare.spec").context(message)?;
    let mut file = BufWriter::new(fs::File::create(&path).context(message)?);
    serde_json::to_writer(&mut file, spec).context(message)?;
    file.flush().context(message)
}
