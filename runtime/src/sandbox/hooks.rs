//! Hooks: programs that a specification has run at points of a container's life (OCI runtime specification, "POSIX-platform
//! Hooks"). Each gets the container's state as JSON on its standard input.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus},
};

use oci_spec::runtime::{ContainerState, Hook, Spec, State};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::MemfdFlags,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{Error, Result, error::Context};

/// How much of a hook's output an error shows, in bytes.
const OUTPUT_MAX: u64 = 4096;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// After the namespaces were made, in the runtime's own (deprecated in favour of the next).
    Prestart,
    /// The same.
    CreateRuntime,
    /// Before the root changes, in the container's namespaces.
    CreateContainer,
    /// Before the program is executed, in the container.
    StartContainer,
    /// After the program was executed, in the runtime's namespaces.
    Poststart,
    /// After the container was deleted, in the runtime's namespaces.
    Poststop,
}

/// A container's hooks and what they are told about it.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    hooks: oci_spec::runtime::Hooks,
    state: State,
}

impl Hooks {
    /// Those of `spec` for the container `id` of the directory `bundle`.
    pub fn of(spec: &Spec, id: &str, bundle: PathBuf) -> Self {
        let mut state = State::default();
        state
            .set_version(spec.version().clone())
            .set_id(id.to_owned())
            .set_bundle(bundle)
            .set_annotations(spec.annotations().clone());
        Self {
            hooks: spec.hooks().clone().unwrap_or_default(),
            state,
        }
    }

    fn at(&self, point: Point) -> &[Hook] {
        #[allow(deprecated, reason = "specifications still have them")]
        let list = match point {
            Point::Prestart => self.hooks.prestart(),
            Point::CreateRuntime => self.hooks.create_runtime(),
            Point::CreateContainer => self.hooks.create_container(),
            Point::StartContainer => self.hooks.start_container(),
            Point::Poststart => self.hooks.poststart(),
            Point::Poststop => self.hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }

    /// Runs the hooks of `point`, one after the other; `pid` is the container's process as the hooks see it.
    ///
    /// # Errors
    /// The first hook that cannot be run, fails, or takes longer than its `timeout`; those after it do not run.
    pub fn run(&self, point: Point, status: ContainerState, pid: Option<i32>) -> Result<()> {
        if self.at(point).is_empty() {
            return Ok(());
        }
        let mut state = self.state.clone();
        state.set_status(status).set_pid(pid);
        let state = serde_json::to_vec(&state).context(|| "cannot describe the container's state")?;
        for (number, hook) in self.at(point).iter().enumerate() {
            run(hook, &state).map_err(|e| {
                Error::internal(format!("error running {} hook #{number}", point.name())).caused_by(e)
            })?;
        }
        Ok(())
    }
}

impl Point {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// Files in memory instead of pipes: nobody has to read and write them while the hook runs.
fn memory_file() -> Result<File> {
    let fd =
        rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC).context(|| "cannot make a file in memory")?;
    Ok(File::from(fd))
}

fn run(hook: &Hook, state: &[u8]) -> Result<()> {
    let name = hook.path().display();
    let mut input = memory_file()?;
    input
        .write_all(state)
        .and_then(|()| input.seek(SeekFrom::Start(0)).map(drop))
        .context(|| "cannot prepare the hook's input")?;
    let output = memory_file()?;
    let copy = || {
        output
            .try_clone()
            .context(|| "cannot duplicate the hook's output")
    };

    let mut command = Command::new(hook.path());
    let mut arguments = hook.args().iter().flatten();
    if let Some(own) = arguments.next() {
        command.arg0(own);
    }
    command
        .args(arguments)
        .stdin(input)
        .stdout(copy()?)
        .stderr(copy()?);
    if let Some(environment) = hook.env() {
        command.env_clear();
        command.envs(
            environment
                .iter()
                .map(|e| e.split_once('=').unwrap_or((e.as_str(), ""))),
        );
    }
    let mut child = command.spawn().context(|| format!("cannot run {name}"))?;
    match wait(&mut child, hook.timeout()) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::internal(format!("{name}: {status}{}", shown(output)))),
        Err(e) => {
            // It must not go on by itself.
            let _ = child.kill();
            let _ = child.wait();
            Err(e)
        }
    }
}

/// Waits for the hook, at most `timeout` seconds.
fn wait(child: &mut Child, timeout: Option<i64>) -> Result<ExitStatus> {
    let message = || "cannot wait for the hook";
    if let Some(seconds) = timeout.filter(|s| *s > 0) {
        let pid = Pid::from_child(child);
        let pidfd: OwnedFd = pidfd_open(pid, PidfdFlags::empty()).context(message)?;
        let limit = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&limit)).context(message)? == 0 {
            return Err(Error::internal(format!(
                "hook ran past specified timeout of {seconds}s"
            )));
        }
    }
    child.wait().context(message)
}

/// The beginning of what a hook has said.
fn shown(mut output: File) -> String {
    let mut text = Vec::new();
    let read = output
        .seek(SeekFrom::Start(0))
        .and_then(|_| output.take(OUTPUT_MAX).read_to_end(&mut text));
    match (read, String::from_utf8_lossy(&text).trim()) {
        (Err(_), _) | (_, "") => String::new(),
        (_, text) => format!(", output: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(path: &str, args: &[&str], timeout: Option<i64>) -> Hooks {
        let mut hook = Hook::default();
        hook.set_path(path.into())
            .set_args(Some(args.iter().map(|a| (*a).to_owned()).collect()))
            .set_timeout(timeout);
        let mut all = oci_spec::runtime::Hooks::default();
        all.set_poststart(Some(vec![hook]));
        let mut spec = Spec::default();
        spec.set_hooks(Some(all));
        Hooks::of(&spec, "some-id", "/bundle".into())
    }

    #[test]
    fn a_hook_is_told_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state");
        let script = format!("cat > {}", file.display());
        hooks("/bin/sh", &["sh", "-c", &script], Some(10))
            .run(Point::Poststart, ContainerState::Running, Some(7))
            .unwrap();
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(state["id"], "some-id");
        assert_eq!(state["status"], "running");
        assert_eq!(state["pid"], 7);
        assert_eq!(state["bundle"], "/bundle");
    }

    #[test]
    fn failures_are_told_with_their_output() {
        let run = |path, args: &[&str], timeout| {
            hooks(path, args, timeout)
                .run(Point::Poststart, ContainerState::Running, None)
                .unwrap_err()
                .to_string()
        };
        let text = run("/bin/sh", &["sh", "-c", "echo out; echo err >&2; exit 3"], None);
        assert!(text.starts_with("error running poststart hook #0: "), "{text}");
        assert!(
            text.contains("exit status: 3") && text.contains("out") && text.contains("err"),
            "{text}"
        );
        assert!(run("/nonexistent", &[], None).contains("no such file or directory"));
        let text = run("/bin/sh", &["sh", "-c", "while :; do sleep 0.05; done"], Some(1));
        assert!(text.contains("hook ran past specified timeout of 1s"), "{text}");
    }

    #[test]
    fn other_points_have_none() {
        hooks("/bin/false", &[], None)
            .run(Point::Poststop, ContainerState::Stopped, None)
            .unwrap();
    }
}
