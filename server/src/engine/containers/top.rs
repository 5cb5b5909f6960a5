//! The processes of a container, as ps(1) shows them.

use std::{collections::HashSet, io, process::Stdio, sync::Arc};

use berth_api::models::ContainerTopResponse;
use berth_runtime::{Error, Kind, Result};
use tokio::process::Command;

use super::{Containers, blocking, model::Container};

impl Containers {
    /// The processes, with the columns that ps prints for `arguments`.
    ///
    /// # Errors
    /// Conflict if the container does not run; internal if ps does not take the arguments or prints no process ids; not
    /// implemented if the host has no ps.
    pub async fn top(&self, container: &Arc<Container>, arguments: &str) -> Result<ContainerTopResponse> {
        container.now().state.must_run(container.id())?;
        let cgroup = self.cgroup(container)?;
        let pids: HashSet<i32> = blocking(move || cgroup.pids()).await?.into_iter().collect();
        let arguments = if arguments.trim().is_empty() {
            "-ef"
        } else {
            arguments
        };
        let table = ps(arguments).await?;
        let response = table_of(&table, &pids)?;
        self.publish(container, "top", &[]);
        Ok(response)
    }
}

async fn ps(arguments: &str) -> Result<String> {
    let mut command = Command::new("ps");
    command
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            Kind::NotImplemented,
            "the processes can't be listed: this host has no ps command",
        ),
        _ => Error::internal("cannot run ps").caused_by(error),
    })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::internal(format!(
            "error running ps: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// The rows of ps's output that belong to `pids`. The last column takes the rest of its line.
fn table_of(output: &str, pids: &HashSet<i32>) -> Result<ContainerTopResponse> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::internal("Couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    let mut ours = false;
    for line in lines {
        let row = cells(line, titles.len());
        let Some(pid) = row.get(column) else { continue };
        // The threads of a process follow it with a dash in place of its id.
        if pid != "-" {
            let pid = pid
                .parse()
                .map_err(|_| Error::internal(format!("Unexpected pid '{pid}' in ps output")))?;
            ours = pids.contains(&pid);
        }
        if ours {
            processes.push(row);
        }
    }
    Ok(ContainerTopResponse { titles, processes })
}

fn cells(line: &str, columns: usize) -> Vec<String> {
    let mut row = Vec::with_capacity(columns);
    let mut rest = line.trim();
    while row.len() + 1 < columns && !rest.is_empty() {
        let (cell, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        row.push(cell.to_owned());
        rest = after.trim_start();
    }
    row.push(rest.to_owned());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_container_are_picked() {
        let output = "UID   PID  PPID CMD\nroot    1     0 /sbin/init splash\nroot   42     1 sh -c  a b\n";
        let table = table_of(output, &HashSet::from([42])).unwrap();
        assert_eq!(table.titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(table.processes, [["root", "42", "1", "sh -c  a b"]]);
    }

    #[test]
    fn threads_follow_their_process() {
        let output = "PID LWP CMD\n1 - init\n- 1 -\n42 - sh\n- 42 -\n43 - x\n- 43 -\n";
        let table = table_of(output, &HashSet::from([42])).unwrap();
        assert_eq!(table.processes, [["42", "-", "sh"], ["-", "42", "-"]]);
    }

    #[test]
    fn ids_are_needed() {
        assert!(table_of("CMD\nsh\n", &HashSet::new()).is_err());
        assert!(table_of("", &HashSet::new()).is_err());
    }
}
