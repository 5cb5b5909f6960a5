//! `berthd`, the engine's program.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use berth_server::{config::Flags, daemon};
use clap::Parser;

fn main() -> ExitCode {
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
