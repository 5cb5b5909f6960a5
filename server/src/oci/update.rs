//! `update`: new limits for a container that lives.

use std::{io, path::PathBuf};

use berth_runtime::{Error, Result};
use clap::Args;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::{Context, record};
use crate::config::size;

/// `update`.
#[derive(Args, Debug)]
pub(super) struct Update {
    /// File with linux.resources as JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of input and output, from 10 to 1000
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// Period of the processor quota, in microseconds
    #[arg(long)]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Period of the real-time quota, in microseconds
    #[arg(long)]
    cpu_rt_period: Option<u64>,
    /// Real-time processor time in each period, in microseconds
    #[arg(long)]
    cpu_rt_runtime: Option<i64>,
    /// Share of the processors, against others
    #[arg(long)]
    cpu_share: Option<u64>,
    /// Processors
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Memory, in bytes
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory to keep when others want it, in bytes
    #[arg(long, allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together, in bytes; -1: no limit
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes and threads; -1: no limit
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Name of the container
    id: String,
}

impl Update {
    pub fn run(self, context: &Context) -> Result<()> {
        let record = context.directory(&self.id)?.load()?;
        let mut resources = match &self.resources {
            Some(path) if path.as_os_str() == "-" => serde_json::from_reader(io::stdin())
                .map_err(|e| Error::invalid("standard input does not hold linux.resources").caused_by(e))?,
            Some(path) => record::read_json(path)?,
            None => self.flagged()?,
        };
        // Devices are not what this command is for.
        resources.set_devices(None);
        record.cgroup.update(&resources)
    }

    fn flagged(&self) -> Result<LinuxResources> {
        let mut resources = LinuxResources::default();
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(self.cpu_share)
            .set_quota(self.cpu_quota)
            .set_period(self.cpu_period)
            .set_realtime_runtime(self.cpu_rt_runtime)
            .set_realtime_period(self.cpu_rt_period)
            .set_cpus(self.cpuset_cpus.clone())
            .set_mems(self.cpuset_mems.clone());
        if cpu != LinuxCpu::default() {
            resources.set_cpu(Some(cpu));
        }
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(bytes(self.memory.as_deref())?)
            .set_reservation(bytes(self.memory_reservation.as_deref())?)
            .set_swap(bytes(self.memory_swap.as_deref())?);
        if memory != LinuxMemory::default() {
            resources.set_memory(Some(memory));
        }
        if let Some(limit) = self.pids_limit {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        if let Some(weight) = self.blkio_weight {
            let mut io = LinuxBlockIo::default();
            io.set_weight(Some(weight));
            resources.set_block_io(Some(io));
        }
        Ok(resources)
    }
}

/// An amount such as `64m`, or -1.
fn bytes(text: Option<&str>) -> Result<Option<i64>> {
    match text {
        None => Ok(None),
        Some("-1") => Ok(Some(-1)),
        Some(text) => size::parse(text).map(Some),
    }
}
