//! `berthd`, the engine's program.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use berth_runtime::{sandbox, supervisor::Spawner};
use berth_server::{config::Flags, daemon, oci};
use clap::Parser;

/// The name of the process, whatever it was executed by.
const NAME: &std::ffi::CStr = c"berthd";

fn main() -> ExitCode {
    if Spawner::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    // Before anything else of the engine: what follows runs in a program that no container can write to.
    if let Err(error) = sandbox::run_from_read_only_copy() {
        let _ = writeln!(
            io::stderr(),
            "berthd: warning: {error}; containers may be able to reach the engine's program"
        );
    }
    let _ = nix::sys::prctl::set_name(NAME);
    if let Some(arguments) = oci::arguments(std::env::args_os()) {
        return oci::run(arguments);
    }
    let flags = Flags::parse();
    match daemon::run(&flags) {
        Ok(()) if flags.validate => {
            // Nobody to tell if standard output is closed.
            let _ = writeln!(io::stdout(), "configuration OK");
            ExitCode::SUCCESS
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "berthd: {error}");
            ExitCode::FAILURE
        }
    }
}
