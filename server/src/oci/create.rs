//! `create` and `run`.

use std::{
    fs,
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use berth_runtime::{
    Error, Result,
    cgroup::Cgroup,
    error::Context as _,
    sandbox::{self, Gate, Hooks, Options, Point, Sandbox, Standalone, Stdio, defaults},
    supervisor::Identity,
};
use clap::Args;
use jiff::Timestamp;
use oci_spec::runtime::{ContainerState, LinuxDeviceCgroup, LinuxResources, Process, Spec};

use super::{
    Context,
    foreground::{self, send_terminal},
    life,
    record::{self, Directory, Record},
};

/// Where processes are told that sockets were handed to them (sd_listen_fds(3)).
const LISTEN_FDS: &str = "LISTEN_FDS";

/// `create`.
#[derive(Args, Debug)]
pub(super) struct Create {
    #[command(flatten)]
    making: Making,
}

/// `run`.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    making: Making,
    /// Return once the program runs
    #[arg(short, long)]
    detach: bool,
    /// Do not take over the container's orphans
    #[arg(long)]
    no_subreaper: bool,
    /// Keep what is left of the container when it has ended
    #[arg(long)]
    keep: bool,
}

#[derive(Args, Debug)]
struct Making {
    /// Directory with config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// Socket that takes over the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File for the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Change the root by chroot: for machines that run from their initial ramfs
    #[arg(long)]
    no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Further descriptors, from 3 on, to pass on
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// Name of the container
    id: String,
}

/// A container that waits for its start.
struct Made {
    directory: Directory,
    record: Record,
    sandbox: Sandbox,
}

impl Create {
    pub fn run(self, context: &Context) -> Result<()> {
        self.making.make(context, false).map(drop)
    }
}

impl Run {
    pub fn run(self, context: &Context) -> Result<u8> {
        if !self.no_subreaper {
            nix::sys::prctl::set_child_subreaper(true).context(|| "cannot become a subreaper")?;
        }
        let mut made = self.making.make(context, !self.detach)?;
        let code = self.go(&mut made);
        if self.detach && code.is_ok() || self.keep {
            return code;
        }
        let removed = life::destroy(&made.directory, &made.record);
        let code = code?;
        removed?;
        Ok(code)
    }

    fn go(&self, made: &mut Made) -> Result<u8> {
        life::start(&made.directory, &made.record)?;
        if self.detach {
            return Ok(0);
        }
        foreground::attend(&mut made.sandbox)
    }
}

impl Making {
    /// Makes the container. With `attended`, the caller stays and relays the terminal.
    fn make(&self, context: &Context, attended: bool) -> Result<Made> {
        let directory = context.directory(&self.id)?;
        let bundle = fs::canonicalize(&self.bundle)
            .context(|| format!("cannot enter the bundle {}", self.bundle.display()))?;
        let pid_file = self.pid_file.as_ref().map(std::path::absolute).transpose()?;
        let console = self
            .console_socket
            .as_ref()
            .map(std::path::absolute)
            .transpose()?;
        std::env::set_current_dir(&bundle)
            .context(|| format!("cannot enter the bundle {}", bundle.display()))?;
        let spec = load_spec(&bundle)?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::invalid("the specification has no process"))?;
        let stdio = stdio(process, console.is_some(), attended)?;
        directory.make()?;
        let made = self.make_in(&directory, &bundle, &spec, stdio, |sandbox| {
            if let Some(socket) = &console {
                send_terminal(sandbox, socket)?;
            }
            write_pid(pid_file.as_deref(), sandbox)
        });
        if made.is_err() {
            // The error is that of the creation.
            let _ = directory.remove();
        }
        made
    }

    fn make_in(
        &self,
        directory: &Directory,
        bundle: &Path,
        spec: &Spec,
        stdio: Stdio,
        hand_over: impl FnOnce(&mut Sandbox) -> Result<()>,
    ) -> Result<Made> {
        let hooks = Hooks::of(spec, &self.id, bundle.to_owned());
        let (parent, name) = cgroup_path(spec, &self.id);
        let cgroup = Cgroup::create(&parent, &name, &resources(spec))?;
        let made = self.make_sandbox(directory, spec, stdio, &hooks, &cgroup, hand_over);
        let finish = |sandbox: &mut Sandbox| -> Result<Record> {
            let record = Record {
                id: self.id.clone(),
                bundle: bundle.to_owned(),
                rootfs: root_path(spec),
                created: Timestamp::now(),
                annotations: spec.annotations().clone().unwrap_or_default(),
                init: Identity::of(sandbox.pid().as_raw()),
                cgroup: cgroup.clone(),
            };
            directory.store(&record, spec)?;
            sandbox.release().map_err(|e| e.error)?;
            Ok(record)
        };
        let finished = made.and_then(|mut sandbox| finish(&mut sandbox).map(|record| (sandbox, record)));
        match finished {
            Ok((sandbox, record)) => Ok(Made {
                directory: directory.clone(),
                record,
                sandbox,
            }),
            Err(e) => {
                // The error is that of the creation; the hooks undo what those before have done.
                let _ = cgroup.kill_all().and_then(|()| cgroup.remove());
                let _ = hooks.run(Point::Poststop, ContainerState::Stopped, None);
                Err(e)
            }
        }
    }

    fn make_sandbox(
        &self,
        directory: &Directory,
        spec: &Spec,
        stdio: Stdio,
        hooks: &Hooks,
        cgroup: &Cgroup,
        hand_over: impl FnOnce(&mut Sandbox) -> Result<()>,
    ) -> Result<Sandbox> {
        let gate = Gate::listen(&directory.gate())?;
        let standalone = Standalone {
            gate: Some(&gate),
            preserve_fds: preserved(self.preserve_fds),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
        };
        let options = Options {
            id: &self.id,
            cgroup,
            nofile: None,
            hooks: Some(hooks),
            standalone: Some(&standalone),
        };
        let mut sandbox = sandbox::create(spec, stdio, &options).map_err(|e| e.error)?;
        hand_over(&mut sandbox)?;
        Ok(sandbox)
    }
}

/// How many descriptors are passed on: those asked for, and those of socket activation.
pub(super) fn preserved(asked: u32) -> u32 {
    let listening = std::env::var(LISTEN_FDS).ok().and_then(|n| n.parse::<u32>().ok());
    asked.saturating_add(listening.unwrap_or_default())
}

/// Writes the process id for whoever asked for it, in one step.
pub(super) fn write_pid(file: Option<&Path>, sandbox: &Sandbox) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let message = || format!("cannot write the process id to {}", file.display());
    let mut temporary =
        tempfile::NamedTempFile::new_in(file.parent().unwrap_or_else(|| Path::new("."))).context(message)?;
    write!(temporary, "{}", sandbox.pid()).context(message)?;
    temporary.persist(file).context(message)?;
    Ok(())
}

/// The standard streams of `process`: the caller's, or a terminal that somebody takes over.
pub(super) fn stdio(process: &Process, has_console: bool, attended: bool) -> Result<Stdio> {
    let terminal = process.terminal().unwrap_or(false);
    match (terminal, has_console) {
        (true, false) if !attended => Err(Error::invalid(
            "cannot allocate tty if runc will detach without setting console socket",
        )),
        (false, true) => Err(Error::invalid(
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        (true, _) => {
            let size = process.console_size();
            let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
            Ok(Stdio::Terminal {
                height: size.map_or(0, |s| cells(s.height())),
                width: size.map_or(0, |s| cells(s.width())),
            })
        }
        (false, false) => {
            let copy = |fd: &dyn AsFd| {
                fd.as_fd()
                    .try_clone_to_owned()
                    .context(|| "cannot duplicate the standard streams")
            };
            Ok(Stdio::Pipes {
                stdin: Some(copy(&io::stdin())?),
                stdout: copy(&io::stdout())?,
                stderr: copy(&io::stderr())?,
            })
        }
    }
}

/// The specification of `bundle`, completed: the root by its absolute path.
fn load_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    if !path.exists() {
        return Err(Error::not_found(format!(
            "JSON specification file {} not found",
            path.display()
        )));
    }
    let mut spec: Spec = record::read_json(&path)?;
    if !spec.version().starts_with("1.") {
        return Err(Error::invalid(format!(
            "ociVersion {:?} is not supported: this runtime knows 1.x",
            spec.version()
        )));
    }
    if let Some(root) = spec.root_mut() {
        let absolute = bundle.join(root.path());
        root.set_path(absolute);
    }
    // Mounts of relative sources are relative to the bundle.
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let bind = |o: &String| o == "bind" || o == "rbind";
        let is_bind = mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(bind);
        if let Some(source) = mount.source().clone().filter(|s| is_bind && s.is_relative()) {
            mount.set_source(Some(bundle.join(source)));
        }
    }
    if let Ok(count) = std::env::var(LISTEN_FDS)
        && let Some(process) = spec.process_mut()
    {
        let mut environment = process.env().clone().unwrap_or_default();
        environment.push(format!("{LISTEN_FDS}={count}"));
        environment.push("LISTEN_PID=1".to_owned());
        process.set_env(Some(environment));
    }
    Ok(spec)
}

fn root_path(spec: &Spec) -> PathBuf {
    spec.root().as_ref().map(|r| r.path().clone()).unwrap_or_default()
}

/// `linux.cgroupsPath` as parent and name.
fn cgroup_path(spec: &Spec, id: &str) -> (String, String) {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone());
    let path = path
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("/").join(id));
    let text = |p: &Path| p.to_string_lossy().into_owned();
    (
        path.parent().map_or_else(|| "/".to_owned(), text),
        path.file_name()
            .map_or_else(|| id.to_owned(), |n| text(Path::new(n))),
    )
}

/// `linux.resources`, with what every container may use of the devices.
fn resources(spec: &Spec) -> LinuxResources {
    let own = spec.linux().as_ref().and_then(|l| l.resources().clone());
    let mut resources = own.unwrap_or_default();
    let mut rules: Vec<LinuxDeviceCgroup> = resources.devices().clone().unwrap_or_default();
    let always = defaults::device_rules();
    if rules.is_empty() {
        rules = always;
    } else {
        rules.extend(always.into_iter().filter(LinuxDeviceCgroup::allow));
    }
    resources.set_devices(Some(rules));
    resources
}
