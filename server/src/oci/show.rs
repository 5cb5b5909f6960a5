//! `state`, `list` and `ps`.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::PathBuf,
    process,
};

use berth_runtime::{Error, Kind, Result, error::Context as _};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use super::{Context, OCI_VERSION, record::Status};

/// How lists are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// `state`.
#[derive(Args, Debug)]
pub(super) struct State {
    /// Name of the container
    id: String,
}

/// `list`.
#[derive(Args, Debug)]
pub(super) struct List {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Show names alone
    #[arg(short, long)]
    quiet: bool,
}

/// `ps`.
#[derive(Args, Debug)]
pub(super) struct Ps {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Name of the container
    id: String,
    /// Arguments for ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// A container's state (OCI runtime specification, "State"), and what runc adds to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    oci_version: &'static str,
    id: String,
    pid: i32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: Timestamp,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
    owner: String,
}

/// Writes to standard output.
pub(super) fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context(|| "cannot write to standard output")
}

pub(super) fn print_json(value: &impl Serialize, pretty: bool) -> Result<()> {
    let text = match pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    print(&(text.context(|| "cannot write JSON")? + "\n"))
}

impl Context {
    fn view(&self, id: &str) -> Result<View> {
        let directory = self.directory(id)?;
        let record = directory.load()?;
        let status = directory.status(&record);
        Ok(View {
            oci_version: OCI_VERSION,
            id: record.id,
            pid: if status == Status::Stopped {
                0
            } else {
                record.init.pid
            },
            status,
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner: directory.owner(),
        })
    }
}

impl State {
    pub fn run(self, context: &Context) -> Result<()> {
        print_json(&context.view(&self.id)?, true)
    }
}

impl List {
    pub fn run(self, context: &Context) -> Result<()> {
        let ids = context.ids()?;
        if self.quiet {
            return print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
        }
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            match context.view(&id) {
                Ok(view) => all.push(view),
                // Deleted meanwhile.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if self.format == Format::Json {
            return match all.is_empty() {
                true => print("null\n"),
                false => print_json(&all, false),
            };
        }
        let mut text = format!(
            "{:<11} {:<11} {:<11} {:<23} {:<30} OWNER\n",
            "ID", "PID", "STATUS", "BUNDLE", "CREATED"
        );
        for view in all {
            let bundle = view.bundle.display().to_string();
            let (created, status) = (view.created.to_string(), view.status.name());
            text += &format!(
                "{:<11} {:<11} {status:<11} {bundle:<23} {created:<30} {}\n",
                view.id, view.pid, view.owner
            );
        }
        print(&text)
    }
}

impl Ps {
    pub fn run(self, context: &Context) -> Result<()> {
        let record = context.directory(&self.id)?.load()?;
        let mut pids = record.cgroup.pids()?;
        pids.sort_unstable();
        if self.format == Format::Json {
            return print_json(&pids, false);
        }
        let arguments = match self.arguments.is_empty() {
            true => vec!["-ef".to_owned()],
            false => self.arguments,
        };
        let output = process::Command::new("ps")
            .args(&arguments)
            .stderr(process::Stdio::inherit())
            .output()
            .context(|| "cannot run ps")?;
        if !output.status.success() {
            return Err(Error::internal(format!("ps: {}", output.status)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let column = header
            .split_whitespace()
            .position(|name| name == "PID")
            .ok_or_else(|| Error::invalid("couldn't find PID field in ps output"))?;
        let ours = |line: &&str| {
            let pid = line
                .split_whitespace()
                .nth(column)
                .and_then(|p| p.parse::<i32>().ok());
            pid.is_some_and(|p| pids.contains(&p))
        };
        let shown = std::iter::once(header).chain(lines.filter(ours));
        print(&shown.map(|line| format!("{line}\n")).collect::<String>())
    }
}
