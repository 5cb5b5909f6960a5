//! Supervisors with real containers. Needs root and a static busybox at `/bin/busybox`.
//!
//! The spawner has to be forked before there are threads, so this program has its own `main`.

mod container;
mod execs;
mod life;
mod logs;
mod recovery;
mod streams;

use std::sync::{Mutex, OnceLock};

use berth_runtime::supervisor::Spawner;
use libtest_mimic::{Arguments, Trial};

/// Spawners made while this process had one thread. The first is everybody's, the others are for tests that end them.
static SPAWNER: OnceLock<Spawner> = OnceLock::new();
static SPARE: Mutex<Vec<Spawner>> = Mutex::new(Vec::new());

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list {
        let spawner = Spawner::fork().expect("a spawner");
        SPAWNER.set(spawner).expect("the first");
        let spare = (0..2).map(|_| Spawner::fork().expect("a spawner"));
        SPARE.lock().expect("no panic yet").extend(spare);
    }
    let tests = [
        life::tests(),
        streams::tests(),
        logs::tests(),
        execs::tests(),
        recovery::tests(),
    ];
    let trials: Vec<Trial> = tests
        .into_iter()
        .flatten()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        container::clean_up();
    }
    conclusion.exit();
}

/// A test and its name.
type Test = (&'static str, fn());

/// The tests of a module, named after their functions.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub fn tests() -> Vec<crate::Test> {
            vec![$((concat!(module_path!(), "::", stringify!($name)), $name as fn())),*]
        }
    };
}
pub(crate) use tests;
