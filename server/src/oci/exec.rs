//! `exec`.

use std::{os::fd::AsFd, path::PathBuf};

use berth_runtime::{
    Error, Result,
    error::Context as _,
    sandbox::{self, Options, Standalone, defaults},
};
use clap::Args;
use oci_spec::runtime::{Capabilities, Process, User};

use super::{
    Context,
    create::{preserved, stdio, write_pid},
    foreground::{self, send_terminal},
    record::{self, Status},
};

/// `exec`.
#[derive(Args, Debug)]
pub(super) struct Exec {
    /// Socket that takes over the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Further variables: NAME=VALUE
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Make a terminal
    #[arg(short, long)]
    tty: bool,
    /// User: UID[:GID]
    #[arg(short, long)]
    user: Option<String>,
    /// Further groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the process as JSON
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return once the program runs
    #[arg(short, long)]
    detach: bool,
    /// File for the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Keep the process from gaining privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Further capabilities
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// Further descriptors, from 3 on, to pass on
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// Also in a paused container
    #[arg(long)]
    ignore_paused: bool,
    /// Name of the container
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub fn run(self, context: &Context) -> Result<u8> {
        let directory = context.directory(&self.id)?;
        let record = directory.load()?;
        match directory.status(&record) {
            Status::Stopped => return Err(Error::conflict("cannot exec in a stopped container")),
            Status::Paused if !self.ignore_paused => {
                return Err(Error::conflict(
                    "cannot exec in a paused container (use --ignore-paused to override)",
                ));
            }
            Status::Created | Status::Paused | Status::Running => {}
        }
        let spec = directory.spec()?;
        let own = spec.process().as_ref();
        let process = self.process(own.ok_or_else(|| Error::internal("the container has no process"))?)?;
        let target = record
            .init
            .pidfd()
            .context(|| "cannot find the container's process")?
            .ok_or_else(|| Error::conflict("cannot exec in a stopped container"))?;
        let stdio = stdio(&process, self.console_socket.is_some(), !self.detach)?;
        let hooks = record.hooks(&spec);
        let standalone = Standalone {
            gate: None,
            preserve_fds: preserved(self.preserve_fds),
            no_pivot: false,
            no_new_keyring: false,
        };
        let options = Options {
            id: &self.id,
            cgroup: &record.cgroup,
            nofile: None,
            hooks: Some(&hooks),
            standalone: Some(&standalone),
        };
        let mut sandbox = sandbox::exec(target.as_fd(), &spec, &process, stdio, &options)
            .map_err(|e| Error::new(e.error.kind(), format!("exec failed: {}", e.error)))?;
        if let Some(socket) = &self.console_socket {
            send_terminal(&mut sandbox, socket)?;
        }
        write_pid(self.pid_file.as_deref(), &sandbox)?;
        if self.detach {
            return Ok(0);
        }
        foreground::attend(&mut sandbox)
    }

    /// The process that is asked for: as the file has it, or that of the container with what the flags change.
    fn process(&self, own: &Process) -> Result<Process> {
        if let Some(path) = &self.process {
            return record::read_json(path);
        }
        if self.command.is_empty() {
            return Err(Error::invalid("exec args cannot be empty"));
        }
        let mut process = own.clone();
        process
            .set_args(Some(self.command.clone()))
            .set_terminal(Some(self.tty))
            .set_console_size(None);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        let mut environment = process.env().clone().unwrap_or_default();
        environment.extend(self.env.iter().cloned());
        process.set_env(Some(environment));
        self.add_capabilities(&mut process)?;
        self.set_user(&mut process)?;
        Ok(process)
    }

    fn add_capabilities(&self, process: &mut Process) -> Result<()> {
        if self.cap.is_empty() {
            return Ok(());
        }
        let mut sets = process.capabilities().clone().unwrap_or_default();
        for name in &self.cap {
            let capability = defaults::capability(name)
                .ok_or_else(|| Error::invalid(format!("unknown capability {name:?}")))?;
            let with = |set: &Option<Capabilities>| {
                let mut set = set.clone().unwrap_or_default();
                set.insert(capability);
                Some(set)
            };
            let (bounding, effective, permitted) = (
                with(sets.bounding()),
                with(sets.effective()),
                with(sets.permitted()),
            );
            sets.set_bounding(bounding)
                .set_effective(effective)
                .set_permitted(permitted);
        }
        process.set_capabilities(Some(sets));
        Ok(())
    }

    fn set_user(&self, process: &mut Process) -> Result<()> {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&self.additional_gids);
        let (mut uid, mut gid) = (process.user().uid(), process.user().gid());
        if let Some(text) = &self.user {
            let id = |text: &str| {
                text.parse::<u32>()
                    .map_err(|_| Error::invalid(format!("user {text:?} must be UID[:GID] in numbers")))
            };
            let (user, group) = text.split_once(':').unwrap_or((text, ""));
            uid = id(user)?;
            if !group.is_empty() {
                gid = id(group)?;
            }
        }
        let mut user = User::default();
        user.set_uid(uid)
            .set_gid(gid)
            .set_additional_gids((!groups.is_empty()).then_some(groups))
            .set_umask(process.user().umask());
        process.set_user(user);
        Ok(())
    }
}
