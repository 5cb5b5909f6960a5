//! The minimal init: process 1 of a sandbox whose program does not want to be it. It starts the program, forwards
//! signals to it, reaps orphans and ends with the program's exit code.

use std::os::fd::AsFd;

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, SigmaskHow, sigprocmask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, setpgid},
};

use super::{StartError, channel::Channel, process::Settled};
use crate::{
    Result,
    error::Context,
    sys::{clone, process as own, shared::SharedMessage, title},
};

/// Name that the process shows.
const NAME: &std::ffi::CStr = c"docker-init";
/// What it shows as its command line: nothing of the engine's own.
const TITLE: &str = "/sbin/docker-init";

/// Forks the program and stays as its init; never returns but with an error. Filter and capabilities are those of the
/// program already: init can do no more than what it watches over.
pub(super) fn run(
    settled: &Settled,
    report: &SharedMessage,
    channel: &Channel,
) -> Result<std::convert::Infallible, StartError> {
    // Before the fork, so that no signal is lost in between.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).context(|| "cannot block signals")?;
    let (program, _) = clone::fork_plain(|| super::process::end_with(report, || begin(settled)))
        .context(|| "init cannot start the program")?;
    // The end of the channel tells the engine that the program has begun (or failed, which is in the report); so it must
    // be closed here even where a filter forbids closing ranges. Nothing here owns a descriptor that is used again.
    let _ = nix::unistd::close(channel.number());
    let _ = own::close_all_but(&[]);
    let _ = rustix::thread::set_name(NAME);
    let _ = title::set(TITLE);
    clone::exit(watch(program))
}

/// The program's side: a process group of its own, in the foreground of the terminal.
fn begin(settled: &Settled) -> Result<std::convert::Infallible, StartError> {
    let own_group = Pid::from_raw(0);
    setpgid(own_group, own_group).context(|| "cannot make a process group")?;
    if settled.has_terminal() {
        // SIGTTOU, which this would raise, is still blocked.
        let group = rustix::process::getpgrp();
        rustix::termios::tcsetpgrp(rustix::stdio::stdin().as_fd(), group)
            .context(|| "cannot take the terminal's foreground")?;
    }
    own::reset_signals().context(|| "cannot reset the signals")?;
    Err(settled.execute())
}

/// Forwards and reaps until `program` ends; its exit code.
fn watch(program: Pid) -> i32 {
    loop {
        match own::wait_for_signal() {
            Some(libc::SIGCHLD) => {
                if let Some(code) = reap(program) {
                    return code;
                }
            }
            // Job control of the terminal means the program, not init.
            None | Some(libc::SIGTTIN | libc::SIGTTOU) => {}
            // Nobody else reaps it, so the number is still its own.
            Some(signal) => own::forward_signal(program, signal),
        }
    }
}

/// Reaps all that have ended; the code of `program` if it is among them.
fn reap(program: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == program => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return code,
        }
    }
}
