//! Measures a container's whole way through spawner and supervisor. Needs root.
//!
//! ```text
//! supervisor SPEC.json COUNT
//! ```
//!
//! Each run has a bundle of its own in the temporary directory and a log. What is left running at the end (nothing,
//! unless a run fails) keeps its bundle.

#![allow(clippy::print_stdout)]

use std::{
    error::Error,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use berth_runtime::supervisor::{
    Control, Event, JsonFile, LogConfig, Request, Spawner, Streams, SupervisorConfig, connect_attach,
};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where the cgroups go, below the caller's own.
const PARENT: &str = "berth-supervisor-example";
const LABELS: [&str; 6] = [
    "launch",
    "created",
    "attached",
    "started",
    "ended",
    "supervisor KiB",
];

fn main() -> Result<()> {
    let spawner = Spawner::fork()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [spec, count] = arguments.as_slice() else {
        return Err("usage: supervisor SPEC.json COUNT".into());
    };
    let spec: Value = serde_json::from_slice(&fs::read(spec)?)?;
    let count: usize = count.parse()?;
    let root = tempfile::tempdir()?;
    let mut runs = Vec::with_capacity(count);
    for number in 0..=count {
        let bundle = root.path().join(number.to_string());
        fs::create_dir(&bundle)?;
        let steps = run(&spawner, &bundle, spec.clone(), number)?;
        // The first one fills caches.
        if number > 0 {
            runs.push(steps);
        }
    }
    for (column, label) in LABELS.iter().enumerate() {
        let mut values: Vec<u64> = runs.iter().map(|run| run[column]).collect();
        values.sort_unstable();
        let at = |part: usize| values.get(values.len() * part / 100).copied().unwrap_or_default();
        println!("{label:14} median {}, least {}, 99 % {}", at(50), at(0), at(99));
    }
    Ok(())
}

/// Microseconds from the beginning to each step, and the private memory of the supervisor.
fn run(spawner: &Spawner, bundle: &Path, mut spec: Value, number: usize) -> Result<[u64; 6]> {
    let id = format!("{}-{number}", std::process::id());
    spec["linux"]["cgroupsPath"] = format!("{PARENT}/{id}").into();
    fs::write(bundle.join("config.json"), spec.to_string())?;
    let config = SupervisorConfig::new(id, LogConfig::JsonFile(JsonFile::new("container.log")));
    config.store(bundle)?;

    let begin = Instant::now();
    let launched = spawner.launch(bundle)?;
    let launch = begin.elapsed();
    let mut control = Control::new(launched.control);
    match control.next_event()? {
        Some(Event::Created { .. }) => {}
        other => return Err(format!("{other:?}").into()),
    }
    let created = begin.elapsed();
    let output = Streams {
        stdin: false,
        stdout: true,
        stderr: true,
    };
    let attached = connect_attach(&bundle.join(&config.socket), output)?;
    let attach = begin.elapsed();
    let memory = private(launched.supervisor_pid)?;
    let looked = begin.elapsed() - attach;
    control.call(Request::Start {})?;
    let started = begin.elapsed() - looked;
    while let Some(event) = control.next_event()? {
        if matches!(event, Event::Exit(_)) {
            break;
        }
    }
    let ended = begin.elapsed() - looked;
    drop(attached);
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Ok([
        micros(launch),
        micros(created),
        micros(attach),
        micros(started),
        micros(ended),
        memory,
    ])
}

fn private(pid: i32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|l| l.strip_prefix("Private_Dirty:"));
    Ok(line.unwrap_or_default().trim().trim_end_matches(" kB").parse()?)
}
