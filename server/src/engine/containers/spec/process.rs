//! `process`: what runs, as whom, and with which powers.

use std::{collections::BTreeMap, path::PathBuf};

use berth_api::models::Ulimit;
use berth_runtime::{Error, Result, sandbox::defaults};
use oci_spec::runtime::{BoxBuilder, PosixRlimit, PosixRlimitBuilder, Process, User};

use super::{
    super::validate::{
        capabilities::CapSet,
        devices::{ulimit_type, ulimit_value},
        modes::NetworkMode,
    },
    Input, Modes,
};

/// The names a container goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    /// Its host name: that of the container whose network it shares, else its own.
    pub hostname: &'a str,
    /// Its domain name, likewise.
    pub domainname: &'a str,
    /// Whether it has a namespace of its own for them.
    pub own: bool,
}

impl<'a> Names<'a> {
    pub(super) fn of(input: &Input<'a>, modes: &Modes<'_>) -> Self {
        let config = input.container.config;
        let own = !modes.uts_host;
        match (modes.network, input.peers.network) {
            (NetworkMode::Container(_), Some(peer)) => Self {
                hostname: peer.hostname,
                domainname: peer.domainname,
                own,
            },
            _ => Self {
                hostname: &config.hostname,
                domainname: &config.domainname,
                own,
            },
        }
    }
}

/// The process of a container's next run.
pub(super) fn build(input: &Input<'_>, names: &Names<'_>, capabilities: CapSet) -> Result<Process> {
    let container = &input.container;
    let (config, host_config) = (container.config, container.host_config);
    let args: Vec<String> = config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .flatten()
        .cloned()
        .collect();
    if args.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    let mut user = User::default();
    // Names are looked up in the container's own files, which are not to be seen from here.
    user.set_username(Some(config.user.clone()));
    let cwd = if config.working_dir.is_empty() {
        "/"
    } else {
        &config.working_dir
    };
    let own = container.linked.iter().chain(config.env.iter().flatten());
    let env = environment(config.tty, names.hostname, &own.cloned().collect::<Vec<_>>());
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(user)
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(cwd))
        .set_capabilities(Some(defaults::capability_sets(capabilities.to_oci())))
        .set_rlimits(Some(rlimits(
            host_config.ulimits.as_deref().unwrap_or_default(),
            &input.defaults.ulimits,
        )?))
        .set_no_new_privileges(Some(container.security.no_new_privileges))
        .set_apparmor_profile(apparmor(input))
        .set_oom_score_adj(Some(i32::try_from(host_config.oom_score_adj).unwrap_or_default()));
    if config.tty
        && let Some([height, width]) = host_config.console_size.as_deref()
        && (*height, *width) != (0, 0)
    {
        process.set_console_size(BoxBuilder::default().height(*height).width(*width).build().ok());
    }
    Ok(process)
}

/// The environment: a search path, the host name and the terminal's type, overridden and followed by `own`. An own
/// entry without `=` removes a variable; of several values of one name the last counts. `HOME` follows from the user,
/// and so is added where the user is looked up.
pub fn environment(terminal: bool, hostname: &str, own: &[String]) -> Vec<String> {
    let mut env = vec![format!("PATH={}", defaults::PATH), format!("HOSTNAME={hostname}")];
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    let mut places: BTreeMap<String, usize> = env
        .iter()
        .enumerate()
        .map(|(place, entry)| (name(entry).to_owned(), place))
        .collect();
    for entry in own {
        match (places.get(name(entry)), entry.contains('=')) {
            (Some(&place), true) => env[place].clone_from(entry),
            (Some(&place), false) => env[place].clear(),
            (None, true) => {
                places.insert(name(entry).to_owned(), env.len());
                env.push(entry.clone());
            }
            (None, false) => {}
        }
    }
    env.retain(|entry| !entry.is_empty());
    env
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The container's limits, and those of the engine's defaults that it does not set itself.
fn rlimits(own: &[Ulimit], defaults: &[Ulimit]) -> Result<Vec<PosixRlimit>> {
    let mut limits: BTreeMap<&str, &Ulimit> = BTreeMap::new();
    for limit in defaults.iter().chain(own) {
        limits.insert(&limit.name, limit);
    }
    limits
        .into_values()
        .map(|limit| {
            let kind = ulimit_type(&limit.name)
                .ok_or_else(|| Error::invalid(format!("invalid ulimit type: {}", limit.name)))?;
            let limit = PosixRlimitBuilder::default()
                .typ(kind)
                .soft(ulimit_value(limit.soft))
                .hard(ulimit_value(limit.hard))
                .build();
            limit.map_err(|error| Error::internal("cannot describe a ulimit").caused_by(error))
        })
        .collect()
}

/// The AppArmor profile, on hosts that have it. A privileged container has none unless it names one.
fn apparmor(input: &Input<'_>) -> Option<String> {
    const DEFAULT: &str = "docker-default";
    let asked = &input.container.security.apparmor;
    match () {
        () if !input.host.apparmor => None,
        () if !asked.is_empty() => Some(asked.clone()),
        () if input.container.host_config.privileged => Some("unconfined".to_owned()),
        () => input.host.apparmor_default.then(|| DEFAULT.to_owned()),
    }
}
