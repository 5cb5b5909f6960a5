//! What has to exist on the host before a start: the files that name hosts, sources of binds, shared memory.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Seek, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, fchown},
    path::Path,
};

use berth_api::models::{ContainerConfig, HostConfig};
use berth_runtime::{Error, Result, error::Context, failpoint::hit};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sha2::{Digest, Sha256};

use super::{
    super::validate::{MountPoint, MountSource, modes::NetworkMode, names::extra_host},
    ContainerView,
};

/// The host's own files.
const HOST_HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "resolv.conf";
/// Beside it: what its content was when the engine wrote it.
const RESOLV_CONF_HASH: &str = "resolv.conf.hash";
/// The longest file that is changed, in bytes.
const LONGEST: u64 = 1 << 20;
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the servers that it stands in for.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Servers for containers of a host that has none which they could reach.
const FALLBACK_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// Address of the name server inside containers of user-defined networks.
const EMBEDDED_SERVER: &str = "127.0.0.11";

/// What every hosts file begins with.
const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// What the networks of a container add to its files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses<'a> {
    /// The container's own addresses.
    pub own: &'a [IpAddr],
    /// Addresses of linked containers, each with the names it goes by.
    pub links: &'a [(IpAddr, String)],
    /// The host's address as the container sees it: what `host-gateway` stands for.
    pub host_gateway: Option<IpAddr>,
    /// Whether there is a name server inside (user-defined networks).
    pub name_server: bool,
}

/// Writes `hosts`, `hostname` and `resolv.conf` into `directory`, each in one step, for the user and group `owner`. A
/// container that shares another one's network uses that one's files, so nothing is written for it.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if `host-gateway` is named and there is none; internal if a file
/// cannot be read or written.
pub fn write(
    directory: &Path,
    container: &ContainerView<'_>,
    addresses: &Addresses<'_>,
    owner: (u32, u32),
) -> Result<()> {
    let mode = NetworkMode::parse(&container.host_config.network_mode)?;
    if matches!(mode, NetworkMode::Container(_)) {
        return Ok(());
    }
    let name = full_name(container.config);
    let replace = |name: &str, content: &str| replace(directory, name, content, owner);
    replace("hostname", &format!("{name}\n"))?;
    replace("hosts", &hosts(container, mode, addresses)?)?;
    let resolv_conf = resolv_conf(container.host_config, mode, addresses.name_server)?;
    replace(RESOLV_CONF, &resolv_conf)?;
    replace(RESOLV_CONF_HASH, &hash(resolv_conf.as_bytes()))
}

/// The names of a container in its hosts file, as they stand behind its addresses.
pub fn host_names(config: &ContainerConfig) -> String {
    let full = full_name(config);
    match full.split_once('.') {
        Some((short, _)) => format!("{full} {short}"),
        None => full,
    }
}

/// A change in the hosts file of a running container. Lines that somebody else has written there stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostsChange<'a> {
    /// One more address.
    Add {
        /// The address.
        address: IpAddr,
        /// Its names.
        names: &'a str,
    },
    /// An address less.
    Remove {
        /// The address.
        address: IpAddr,
        /// Its names.
        names: &'a str,
    },
    /// Another address for the line that begins with this name.
    Move {
        /// The first of its names.
        name: &'a str,
        /// The address.
        to: IpAddr,
    },
    /// No line any more that begins with this name.
    Forget {
        /// The first of its names.
        name: &'a str,
    },
}

/// Changes the hosts file of a running container in its place, as it is mounted there.
///
/// # Errors
/// Internal.
pub fn change_hosts(directory: &Path, changes: &[HostsChange<'_>]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    edit(directory, "hosts", |text| Some(changed_hosts(text, changes)))
}

fn changed_hosts(text: &str, changes: &[HostsChange<'_>]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let begins_with = |line: &String, name: &str| {
        let mut words = line.split_whitespace();
        let is_address = words.next().is_some_and(|word| word.parse::<IpAddr>().is_ok());
        is_address && words.next() == Some(name)
    };
    for change in changes {
        match change {
            HostsChange::Add { address, names } => lines.push(format!("{address}\t{names}")),
            HostsChange::Remove { address, names } => {
                let gone = format!("{address}\t{names}");
                lines.retain(|line| *line != gone);
            }
            HostsChange::Move { name, to } => {
                for line in lines.iter_mut().filter(|line| begins_with(line, name)) {
                    let names = line
                        .split_once(char::is_whitespace)
                        .map(|(_, names)| names.trim());
                    *line = format!("{to}\t{}", names.unwrap_or(name));
                }
            }
            HostsChange::Forget { name } => lines.retain(|line| !begins_with(line, name)),
        }
    }
    lines.iter().fold(String::new(), |text, line| text + line + "\n")
}

/// Names the name server inside in the resolver configuration of a running container that has just been given one,
/// unless somebody has changed that file.
///
/// # Errors
/// Internal.
pub fn name_server(directory: &Path, host_config: &HostConfig) -> Result<()> {
    let mode = NetworkMode::parse(&host_config.network_mode)?;
    let text = resolv_conf(host_config, mode, true)?;
    let known = read_path(&directory.join(RESOLV_CONF_HASH))?;
    edit(directory, RESOLV_CONF, |present| {
        (hash(present.as_bytes()) == known).then(|| text.clone())
    })?;
    replace(directory, RESOLV_CONF_HASH, &hash(text.as_bytes()), (0, 0))
}

/// Changes a file in its place. What containers make longer than files of this kind are is left alone.
fn edit(directory: &Path, name: &str, change: impl FnOnce(&str) -> Option<String>) -> Result<()> {
    let failed = || format!("cannot change {}", directory.join(name).display());
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(directory.join(name))
        .context(failed)?;
    let mut bytes = Vec::new();
    (&file)
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .context(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Ok(());
    }
    let before = String::from_utf8_lossy(&bytes);
    match change(&before) {
        Some(after) if *after != *before => {
            file.rewind().context(failed)?;
            file.write_all(after.as_bytes()).context(failed)?;
            file.set_len(after.len() as u64).context(failed)
        }
        _ => Ok(()),
    }
}

/// What tells whether a file is still as the engine wrote it.
fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn full_name(config: &ContainerConfig) -> String {
    match config.domainname.as_str() {
        "" => config.hostname.clone(),
        domain => format!("{}.{domain}", config.hostname),
    }
}

/// Replaces a file in one step. Nothing is synced: the files are made anew for each start.
fn replace(directory: &Path, name: &str, content: &str, owner: (u32, u32)) -> Result<()> {
    let failed = || format!("cannot write {}", directory.join(name).display());
    let mut file = tempfile::Builder::new()
        .prefix(name)
        .tempfile_in(directory)
        .context(failed)?;
    file.write_all(content.as_bytes()).context(failed)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))
        .context(failed)?;
    if owner != (0, 0) {
        fchown(file.as_file(), Some(owner.0), Some(owner.1)).context(failed)?;
    }
    file.persist(directory.join(name)).context(failed)?;
    Ok(())
}

/// The content of a file of the host; empty if there is none.
fn read(path: &str) -> Result<String> {
    read_path(Path::new(path))
}

fn read_path(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).context(|| format!("cannot read {}", path.display())),
    }
}

fn hosts(container: &ContainerView<'_>, mode: NetworkMode<'_>, addresses: &Addresses<'_>) -> Result<String> {
    let extra = container.host_config.extra_hosts.as_deref().unwrap_or_default();
    if mode == NetworkMode::Host && extra.is_empty() {
        return read(HOST_HOSTS);
    }
    let mut text = LOCAL_HOSTS.to_owned();
    let mut add = |address: IpAddr, names: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{address}\t{names}");
    };
    for entry in extra {
        let (name, address) = extra_host(entry)?;
        let address = address.or(addresses.host_gateway).ok_or_else(|| {
            Error::invalid(format!(
                "unable to derive the IP value for host-gateway in {entry:?}: there is no network"
            ))
        })?;
        add(address, name);
    }
    for (address, names) in addresses.links {
        add(*address, names);
    }
    let names = host_names(container.config);
    for address in addresses.own {
        add(*address, &names);
    }
    Ok(text)
}

/// A resolver configuration: resolv.conf(5).
#[derive(Debug, Default, PartialEq, Eq)]
struct ResolvConf {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    /// Lines about other matters.
    rest: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.trim();
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(str::to_owned);
            match keyword {
                "nameserver" => conf.servers.extend(words.take(1)),
                // The last of these lines counts.
                "search" | "domain" => conf.search = words.collect(),
                "options" => conf.options.extend(words),
                "" => {}
                _ if keyword.starts_with(['#', ';']) => {}
                _ => conf.rest.push(line.to_owned()),
            }
        }
        conf
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{keyword} {}", words.join(" "));
            }
        }
        for line in &self.rest {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// Puts what the container asks for in the place of the host's.
    fn override_by(&mut self, host_config: &HostConfig) {
        let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
        if let Some(servers) = given(&host_config.dns) {
            self.servers = servers;
        }
        if let Some(search) = given(&host_config.dns_search) {
            // A single dot stands for no search at all.
            self.search = if search == ["."] { Vec::new() } else { search };
        }
        if let Some(options) = given(&host_config.dns_options) {
            self.options = options;
        }
    }
}

/// Whether a server is the host's loopback, which containers with their own network cannot reach.
fn is_loopback(server: &str) -> bool {
    let bare = server.split('%').next().unwrap_or(server);
    bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn resolv_conf(host_config: &HostConfig, mode: NetworkMode<'_>, name_server: bool) -> Result<String> {
    let own = read(HOST_RESOLV_CONF)?;
    let overridden = [
        &host_config.dns,
        &host_config.dns_search,
        &host_config.dns_options,
    ]
    .iter()
    .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()));
    if mode == NetworkMode::Host && !overridden {
        return Ok(own);
    }
    let mut conf = ResolvConf::parse(&own);
    if mode != NetworkMode::Host && conf.servers.iter().all(|server| is_loopback(server)) {
        // With systemd-resolved the host's file names only the local stub.
        let upstream = ResolvConf::parse(&read(RESOLVED_CONF)?);
        conf.servers.extend(upstream.servers);
    }
    Ok(transform(conf, host_config, mode, name_server))
}

fn transform(
    mut conf: ResolvConf,
    host_config: &HostConfig,
    mode: NetworkMode<'_>,
    name_server: bool,
) -> String {
    let asked = host_config
        .dns
        .as_ref()
        .is_some_and(|servers| !servers.is_empty());
    if mode != NetworkMode::Host {
        conf.servers.retain(|server| !is_loopback(server));
        if conf.servers.is_empty() {
            conf.servers = FALLBACK_SERVERS.map(str::to_owned).to_vec();
        }
    }
    conf.override_by(host_config);
    let mut text = "# Written by the container engine at each start of the container.\n".to_owned();
    if name_server {
        let upstream = conf.servers.join(" ");
        let source = if asked { "container" } else { "host" };
        conf.servers = vec![EMBEDDED_SERVER.to_owned()];
        if !conf.options.iter().any(|option| option.starts_with("ndots:")) {
            conf.options.push("ndots:0".to_owned());
        }
        let _ = writeln!(text, "# Upstream servers ({source}): {upstream}");
    }
    text + &conf.to_text()
}

/// Makes the host directories that binds in text form name and that do not exist, for the user and group `owner`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if a directory cannot be made.
pub fn make_bind_sources(mounts: &[MountPoint], owner: (u32, u32)) -> Result<()> {
    for point in mounts {
        let MountSource::Bind(bind) = &point.source else {
            continue;
        };
        if !bind.create || fs::metadata(&bind.path).is_ok() {
            continue;
        }
        make_for(Path::new(&bind.path), owner).map_err(|error| {
            Error::invalid(format!("error while creating mount source path '{}'", bind.path)).caused_by(error)
        })?;
    }
    Ok(())
}

/// Makes the directory `path` and those that it needs; the ones that are new belong to `owner`.
fn make_for(path: &Path, owner: (u32, u32)) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|a| !a.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    if owner == (0, 0) {
        return Ok(());
    }
    missing
        .iter()
        .try_for_each(|made| chown(made, Some(owner.0), Some(owner.1)))
}

/// Mounts the shared memory of a shareable container, `size` bytes of it, at the directory `path`, which is made. It
/// belongs to the user and group `owner`.
/// [`unmount_shm`] undoes it. What another run has left there is put away first.
///
/// # Errors
/// Internal, if it cannot be mounted; nothing is left behind then.
pub fn mount_shm(path: &Path, size: i64, (uid, gid): (u32, u32)) -> Result<()> {
    let failed = || format!("cannot mount shared memory at {}", path.display());
    unmount_shm(path)?;
    hit("shm.mkdir").context(failed)?;
    fs::create_dir(path).context(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode=1777,size={size},uid={uid},gid={gid}");
    let mount = || mount(Some("shm"), path, Some("tmpfs"), flags, Some(options.as_str()));
    let mounted = hit("shm.mount").and_then(|()| Ok(mount()?));
    if mounted.is_err() {
        let _ = fs::remove_dir(path);
    }
    mounted.context(failed)
}

/// Unmounts the shared memory at `path` and removes the directory; it may be gone already.
///
/// # Errors
/// Internal, if it cannot be unmounted or removed.
pub fn unmount_shm(path: &Path) -> Result<()> {
    let failed = || format!("cannot unmount shared memory at {}", path.display());
    hit("shm.unmount").context(failed)?;
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error).context(failed),
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(failed),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
