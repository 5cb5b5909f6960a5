//! The processes of a container, as ps(1) of procps shows them. They are read from `/proc` here: no program is run for
//! it, neither the host's nor the container's.
//!
//! [`options`] reads what users give to ps, [`columns`] has what it can show, [`process`] reads `/proc`.

mod columns;
mod options;
mod process;

use std::{cmp::Ordering, sync::Arc};

use berth_api::models::ContainerTopResponse;
use berth_runtime::{Error, Result};

use self::{
    columns::{Column, Row},
    options::Options,
    process::{Host, Process},
};
use super::{Containers, blocking, model::Container};

impl Containers {
    /// The processes, with the columns that ps prints for `arguments`.
    ///
    /// # Errors
    /// Conflict if the container does not run; internal for arguments that are not understood or make no column of process
    /// ids, as clients know it.
    pub async fn top(&self, container: &Arc<Container>, arguments: &str) -> Result<ContainerTopResponse> {
        container.now().state.must_run(container.id())?;
        let options = Options::parse(arguments)
            .map_err(|message| Error::internal(format!("error running ps: {message}")))?;
        if !options.columns.iter().any(|column| column.title == "PID") {
            return Err(Error::internal("Couldn't find PID field in ps output"));
        }
        let cgroup = self.cgroup(container)?;
        let response = blocking(move || {
            let host = Host::read()?;
            let mut pids = cgroup.pids()?;
            pids.sort_unstable();
            pids.dedup();
            // One that has ended meanwhile is not there.
            let processes = pids.into_iter().filter_map(Process::read);
            Ok(table(&options, &host, processes))
        })
        .await?;
        self.publish(container, "top", &[]);
        Ok(response)
    }
}

fn table(options: &Options, host: &Host, processes: impl Iterator<Item = Process>) -> ContainerTopResponse {
    let chosen = processes.filter(|process| options.selects(process, host));
    let mut threads: Vec<Process> = match options.threads {
        true => chosen.flat_map(Process::threads).collect(),
        false => chosen.collect(),
    };
    for (column, descending) in options.sort.iter().rev() {
        threads.sort_by(|a, b| {
            let order = compare(column, &Row { process: a, host }, &Row { process: b, host });
            if *descending { order.reverse() } else { order }
        });
    }
    let cells = |process: &Process| {
        let row = Row { process, host };
        options.columns.iter().map(|column| column.cell(&row)).collect()
    };
    ContainerTopResponse {
        titles: options
            .columns
            .iter()
            .map(|column| column.title.clone())
            .collect(),
        processes: threads.iter().map(cells).collect(),
    }
}

/// Numbers by their value, everything else as text.
fn compare(column: &Column, a: &Row<'_>, b: &Row<'_>) -> Ordering {
    let (a, b) = (column.cell(a), column.cell(b));
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(arguments: &str) -> ContainerTopResponse {
        let options = Options::parse(arguments).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        let pid = i32::try_from(std::process::id()).unwrap();
        let processes = [1, pid].into_iter().filter_map(Process::read);
        table(&options, &Host::read().unwrap(), processes)
    }

    /// The procps of the host, which this is to equal.
    fn ps(arguments: &str) -> Option<String> {
        let words = arguments.split_whitespace();
        let output = std::process::Command::new("ps").args(words).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn titles_are_those_of_procps() {
        for arguments in [
            "-ef",
            "-e",
            "-A",
            "aux",
            "ax",
            "u",
            "-elf",
            "-el",
            "-ely",
            "-eF",
            "-ej",
            "axl",
            "axj",
            "-eLf",
            "-eT",
            "-eo pid,comm",
            "-eo pid,user=WHO,args",
            "-e -o pid -o ppid,stat",
            "-eo pid,%cpu,%mem,vsz,rss,etime",
        ] {
            let Some(output) = ps(arguments) else { return };
            let expected: Vec<_> = output
                .lines()
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            assert_eq!(own(arguments).titles, expected, "{arguments}");
        }
    }

    #[test]
    fn cells_are_those_of_procps() {
        for arguments in [
            "-o pid,ppid,pgid,sid,tty,uid,user,gid,group,ni,pri,opri,cls,comm,nlwp,lstart,stime,cmd -p 1",
            "-o pid,f,label,psr,vsz,state,tpgid,args -p 1",
        ] {
            let Some(output) = ps(arguments) else { return };
            let line = output.lines().nth(1).unwrap_or_default();
            let expected: Vec<_> = line.split_whitespace().collect();
            let rows = own(arguments).processes;
            let words: Vec<_> = rows[0].iter().flat_map(|cell| cell.split_whitespace()).collect();
            // What changes from one moment to the next is compared by its presence.
            assert_eq!(words.len(), expected.len(), "{arguments}: {words:?} {expected:?}");
            let same = words.iter().zip(&expected).filter(|(a, b)| a == b).count();
            assert!(same + 2 >= expected.len(), "{words:?} {expected:?}");
        }
    }

    #[test]
    fn rows_are_sorted_and_chosen() {
        let pid = std::process::id().to_string();
        let down = own("-eo pid --sort=-pid").processes;
        assert_eq!(down, [[pid.as_str()], ["1"]]);
        assert_eq!(own("-o pid -p 1").processes, [["1"]]);
        let threads = own(&format!("-L -o pid,lwp -p {pid}")).processes;
        assert!(threads.len() > 1 && threads.iter().all(|row| row[0] == pid));
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            "-eo nothing",
            "--nothing",
            "-?",
            "-o",
            "-p x",
            "o",
            "--sort=nothing",
        ] {
            assert!(Options::parse(arguments).is_err(), "{arguments}");
        }
    }
}
