//! Signal dispositions of small processes.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

extern "C" fn nothing(_: libc::c_int) {}

/// Makes `signals` do nothing to this process. Unlike `SIG_IGN` this is not passed on by execve(2), so the programs it
/// starts have the default dispositions.
pub(crate) fn shrug_off(signals: &[Signal]) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    for &signal in signals {
        // SAFETY: the handler does nothing and is therefore async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}
