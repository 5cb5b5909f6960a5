//! `berthd oci`: the sandbox with runc's command line, for containerd, podman and whoever else drives an OCI runtime.
//!
//! | module | commands |
//! |---|---|
//! | [`create`] | `create`, `run` |
//! | [`life`] | `start`, `kill`, `delete`, `pause`, `resume` |
//! | [`exec`] | `exec` |
//! | [`show`] | `state`, `list`, `ps` |
//! | [`events`] | `events` |
//! | [`update`] | `update` |
//! | [`document`] | `spec`, `features` |
//! | [`record`] | what is kept of a container between the commands |
//! | [`foreground`] | waiting for a process, and its terminal |
//! | [`report`] | errors and the log file |

mod create;
mod document;
mod events;
mod exec;
mod foreground;
mod life;
mod record;
mod report;
mod show;
mod update;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::ExitCode,
};

use berth_runtime::{Error, Kind, Result};
use clap::{Args, Parser, Subcommand};

use self::report::{Format, Report};

/// Directory of what is kept of the containers.
const ROOT: &str = "/run/berth/oci";
/// Name of the subcommand, and how a link to the program may be called instead.
const NAME: &str = "oci";

/// Version of the OCI runtime specification that is understood.
const OCI_VERSION: &str = "1.2.0";

/// A container runtime with the command line of runc.
#[derive(Debug, Parser)]
#[command(name = "berthd oci", disable_version_flag = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Debug)]
struct Global {
    /// Directory of what is kept of the containers
    #[arg(long, default_value = ROOT, value_name = "DIR")]
    root: PathBuf,
    /// File that errors are written to
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How they are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// Write more to it
    #[arg(long)]
    debug: bool,
    /// Not supported: control groups are made by their paths
    #[arg(long)]
    systemd_cgroup: bool,
    /// Without effect: ids are mapped by root
    #[arg(long, value_name = "BOOL", hide = true)]
    rootless: Option<String>,
    /// Show the version
    #[arg(short = 'v', long)]
    version: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container whose program waits for `start`
    Create(create::Create),
    /// Let a created container execute its program
    Start(life::Start),
    /// Show the state of a container as JSON
    State(show::State),
    /// Send a signal to a container
    Kill(life::Kill),
    /// Remove what is left of a container
    Delete(life::Delete),
    /// Create and start a container
    Run(create::Run),
    /// Run a further process in a container
    Exec(exec::Exec),
    /// Show the processes of a container
    Ps(show::Ps),
    /// Show the containers
    List(show::List),
    /// Stop the processes of a container where they are
    Pause(life::Pause),
    /// Let them go on
    Resume(life::Resume),
    /// Change the limits of a container
    Update(update::Update),
    /// Show what a container uses, and when it runs out of memory
    Events(events::Events),
    /// Write a specification to begin with
    Spec(document::SpecCommand),
    /// Show what this runtime can do
    Features,
    /// Not supported
    Checkpoint(Refused),
    /// Not supported
    Restore(Refused),
}

#[derive(Args, Debug)]
struct Refused {
    /// Ignored
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// What every command works with.
#[derive(Debug)]
struct Context {
    root: PathBuf,
}

/// The arguments of the runtime's command line, if this is one: `berthd oci …`, or the program called by a link whose
/// name ends in `oci` or `runc`.
pub fn arguments(all: impl IntoIterator<Item = OsString>) -> Option<Vec<OsString>> {
    let mut all = all.into_iter();
    let name = all.next()?;
    let called = Path::new(&name)
        .file_name()
        .and_then(OsStr::to_str)
        .is_some_and(|n| n.ends_with(NAME) || n.ends_with("runc"));
    let mut rest = all.peekable();
    if !called && rest.next_if(|a| a == NAME).is_none() {
        return None;
    }
    Some(std::iter::once(name).chain(rest).collect())
}

/// Runs the command that `arguments` ask for. The process must have a single thread.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody to tell if the streams are closed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    let report = Report::new(cli.global.log.clone(), cli.global.log_format);
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8> {
    if cli.global.version {
        show::print(&format!(
            "berthd oci version {}\nspec: {OCI_VERSION}\n",
            env!("CARGO_PKG_VERSION")
        ))?;
        return Ok(0);
    }
    let Some(command) = cli.command else {
        return Err(Error::invalid("a command is missing; --help lists them"));
    };
    if cli.global.systemd_cgroup {
        return Err(Error::new(
            Kind::NotImplemented,
            "--systemd-cgroup is not supported: use the cgroupfs manager, control groups are made by their paths",
        ));
    }
    let context = Context {
        root: std::path::absolute(&cli.global.root)?,
    };
    match command {
        Command::Create(command) => command.run(&context).map(|()| 0),
        Command::Run(command) => command.run(&context),
        Command::Start(command) => command.run(&context).map(|()| 0),
        Command::State(command) => command.run(&context).map(|()| 0),
        Command::Kill(command) => command.run(&context).map(|()| 0),
        Command::Delete(command) => command.run(&context).map(|()| 0),
        Command::Exec(command) => command.run(&context),
        Command::Ps(command) => command.run(&context).map(|()| 0),
        Command::List(command) => command.run(&context).map(|()| 0),
        Command::Pause(command) => command.run(&context).map(|()| 0),
        Command::Resume(command) => command.run(&context).map(|()| 0),
        Command::Update(command) => command.run(&context).map(|()| 0),
        Command::Events(command) => command.run(&context).map(|()| 0),
        Command::Spec(command) => command.run().map(|()| 0),
        Command::Features => document::features().map(|()| 0),
        Command::Checkpoint(_) | Command::Restore(_) => Err(Error::new(
            Kind::NotImplemented,
            "checkpoint and restore are not supported by this runtime",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(arguments: &[&str]) -> Option<Vec<OsString>> {
        super::arguments(arguments.iter().map(OsString::from))
    }

    #[test]
    fn who_is_meant() {
        assert_eq!(given(&["berthd", "--validate"]), None);
        assert_eq!(given(&["berthd"]), None);
        assert_eq!(
            given(&["/x/berthd", "oci", "list"]).unwrap(),
            ["/x/berthd", "list"]
        );
        assert_eq!(
            given(&["/x/berth-oci", "list"]).unwrap(),
            ["/x/berth-oci", "list"]
        );
        assert_eq!(
            given(&["runc", "state", "oci"]).unwrap(),
            ["runc", "state", "oci"]
        );
    }

    #[test]
    fn the_command_line_holds_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
