//! Real sandboxes, looked at from inside and from outside. Needs root and `/bin/busybox` (statically linked).
//!
//! A sandbox is created by a process without threads, which no test of the standard harness is: so this program has a
//! harness of its own and starts itself again, as the example program `sandbox`, for each sandbox.

#![allow(clippy::print_stderr)]

mod attacks;
mod basics;
#[path = "../../examples/sandbox.rs"]
#[allow(dead_code)]
mod driver;
mod execs;
mod hardening;
mod mounts;
mod support;
mod users;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A test: its name and what it does; it fails by panicking.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    if std::env::var_os(support::DRIVER).is_some() {
        return driver::main();
    }
    let modules: [(&str, &[Test]); 6] = [
        ("basics", basics::TESTS),
        ("users", users::TESTS),
        ("hardening", hardening::TESTS),
        ("mounts", mounts::TESTS),
        ("execs", execs::TESTS),
        ("attacks", attacks::TESTS),
    ];
    let trials = modules.into_iter().flat_map(|(module, tests)| {
        tests.iter().map(move |(name, test)| {
            Trial::test(format!("{module}::{name}"), move || {
                test();
                Ok(())
            })
        })
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.collect());
    if let Err(error) = support::clean_up() {
        eprintln!("cannot clean up: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Names functions as tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        pub const TESTS: &[$crate::Test] = &[$((stringify!($name), $name as fn())),+];
    };
}
