//! Other limits and another restart policy.

use std::sync::Arc;

use berth_api::models::{
    ContainerUpdateRequest, ContainerUpdateResponse, HostConfig, RestartPolicy, RestartPolicyName,
};
use berth_runtime::{Error, Kind, Result, failpoint::hit};

use super::{
    Containers, blocking,
    model::Container,
    run, spec,
    store::Sync,
    validate::{host, resources},
};

impl Containers {
    /// Sets what is given and not zero, whether the container runs or not.
    ///
    /// # Errors
    /// Invalid for bad values; conflict with settings that are stored; internal if the container is dead or being removed,
    /// or if the kernel refuses the limits: the old ones stay then.
    pub async fn update(
        &self,
        container: &Arc<Container>,
        request: ContainerUpdateRequest,
    ) -> Result<ContainerUpdateResponse> {
        let _operation = container.operation.lock().await;
        if container.now().state.is_gone() {
            let message = format!(
                "container {} is marked for removal and cannot be \"update\"",
                container.id()
            );
            return Err(Error::internal(message));
        }
        let mut asked = limits_of(&request);
        let mut warnings = Vec::new();
        resources::check(&mut asked, resources::Purpose::Update, &self.host, &mut warnings)?;
        let old = Arc::clone(&container.now().host_config);
        let mut new = HostConfig::clone(&old);
        let refused = |error: Error| refused(container, &error);
        apply_limits(&mut new, &asked, request.pids_limit).map_err(refused)?;
        if let Some(mut policy) = request
            .restart_policy
            .filter(|policy| policy.name != RestartPolicyName::Empty)
        {
            host::restart_policy(&mut policy)?;
            apply_policy(&mut new, policy).map_err(refused)?;
        }
        let new = Arc::new(new);
        self.put_in_force(container, &new).await?;
        container.change(|details| details.host_config = Arc::clone(&new));
        let _ = hit("update.in-force");
        if let Err(error) = self.save(container, Sync::Yes).await {
            container.change(|details| details.host_config = Arc::clone(&old));
            self.put_in_force(container, &old).await?;
            return Err(error);
        }
        self.publish(container, "update", &[]);
        Ok(ContainerUpdateResponse {
            warnings: (!warnings.is_empty()).then_some(warnings),
        })
    }

    /// Gives the kernel the limits of a container that runs.
    async fn put_in_force(&self, container: &Arc<Container>, host_config: &Arc<HostConfig>) -> Result<()> {
        if !container.now().state.has_process() {
            return Ok(());
        }
        let cgroup = self.cgroup(container)?;
        let host_config = Arc::clone(host_config);
        let updated = blocking(move || {
            let mut resources = spec::resources::build(&host_config, Vec::new())?;
            // Which devices may be used does not change.
            resources.set_devices(None);
            cgroup.update(&resources)
        })
        .await;
        match updated {
            // It has ended meanwhile; its next start has them.
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            updated => updated.map_err(|error| {
                Error::internal(format!("Cannot update container {}", container.id())).caused_by(error)
            }),
        }
    }
}

/// What clashes with the settings that a container has, in Docker's words.
fn refused(container: &Container, error: &Error) -> Error {
    Error::new(
        error.kind(),
        format!("Cannot update container {}: {}", container.id(), error.message()),
    )
}

/// The limits of an update in the form in which they are checked.
fn limits_of(request: &ContainerUpdateRequest) -> HostConfig {
    HostConfig {
        blkio_weight: request.blkio_weight,
        cpu_shares: request.cpu_shares,
        nano_cpus: request.nano_cpus,
        cpu_period: request.cpu_period,
        cpu_quota: request.cpu_quota,
        cpu_realtime_period: request.cpu_realtime_period,
        cpu_realtime_runtime: request.cpu_realtime_runtime,
        cpuset_cpus: request.cpuset_cpus.clone(),
        cpuset_mems: request.cpuset_mems.clone(),
        memory: request.memory,
        memory_swap: request.memory_swap,
        memory_reservation: request.memory_reservation,
        pids_limit: request.pids_limit,
        ..HostConfig::default()
    }
}

fn clash(message: &str) -> Error {
    Error::conflict(format!("Conflicting options: {message}"))
}

/// Sets what `asked` has and is not zero. `pids` is the limit as it was sent: none leaves the old one, 0 and less lifts it.
fn apply_limits(config: &mut HostConfig, asked: &HostConfig, pids: Option<i64>) -> Result<()> {
    for (clashes, message) in [
        (
            asked.nano_cpus > 0 && config.cpu_period > 0,
            "Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            asked.nano_cpus > 0 && config.cpu_quota > 0,
            "Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            asked.cpu_period > 0 && config.nano_cpus > 0,
            "CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            asked.cpu_quota > 0 && config.nano_cpus > 0,
            "CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
    ] {
        if clashes {
            return Err(clash(message));
        }
    }
    if asked.memory > 0
        && asked.memory_swap == 0
        && config.memory_swap > 0
        && asked.memory > config.memory_swap
    {
        return Err(Error::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    for (own, asked) in [
        (&mut config.cpu_shares, asked.cpu_shares),
        (&mut config.nano_cpus, asked.nano_cpus),
        (&mut config.cpu_period, asked.cpu_period),
        (&mut config.cpu_quota, asked.cpu_quota),
        (&mut config.cpu_realtime_period, asked.cpu_realtime_period),
        (&mut config.cpu_realtime_runtime, asked.cpu_realtime_runtime),
        (&mut config.memory, asked.memory),
        (&mut config.memory_swap, asked.memory_swap),
        (&mut config.memory_reservation, asked.memory_reservation),
    ] {
        if asked != 0 {
            *own = asked;
        }
    }
    if asked.blkio_weight != 0 {
        config.blkio_weight = asked.blkio_weight;
    }
    for (own, asked) in [
        (&mut config.cpuset_cpus, &asked.cpuset_cpus),
        (&mut config.cpuset_mems, &asked.cpuset_mems),
    ] {
        if !asked.is_empty() {
            own.clone_from(asked);
        }
    }
    if let Some(pids) = pids {
        // No limit is a value too: it is shown as 0.
        config.pids_limit = Some(pids.max(0));
    }
    Ok(())
}

fn apply_policy(config: &mut HostConfig, policy: RestartPolicy) -> Result<()> {
    if config.auto_remove && run::restarts(&policy) {
        return Err(Error::conflict(
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        ));
    }
    config.restart_policy = policy;
    Ok(())
}

#[cfg(test)]
mod tests {
    use berth_runtime::Kind;

    use super::*;

    #[test]
    fn what_is_zero_stays() {
        let mut config = HostConfig {
            memory: 100 << 20,
            memory_swap: 200 << 20,
            cpu_shares: 5,
            pids_limit: Some(7),
            ..HostConfig::default()
        };
        let asked = HostConfig {
            memory: 150 << 20,
            cpuset_cpus: "0".into(),
            ..HostConfig::default()
        };
        apply_limits(&mut config, &asked, None).unwrap();
        assert_eq!(
            (config.memory, config.memory_swap, config.cpu_shares),
            (150 << 20, 200 << 20, 5)
        );
        assert_eq!((&*config.cpuset_cpus, config.pids_limit), ("0", Some(7)));
        apply_limits(&mut config, &HostConfig::default(), Some(-1)).unwrap();
        assert_eq!(config.pids_limit, Some(0));
    }

    #[test]
    fn clashes_with_what_is_stored_are_conflicts() {
        let mut config = HostConfig {
            memory_swap: 100,
            cpu_quota: 5000,
            auto_remove: true,
            ..HostConfig::default()
        };
        let memory = HostConfig {
            memory: 101,
            ..HostConfig::default()
        };
        assert_eq!(
            apply_limits(&mut config, &memory, None).unwrap_err().kind(),
            Kind::Conflict
        );
        let cpus = HostConfig {
            nano_cpus: 1,
            ..HostConfig::default()
        };
        assert_eq!(
            apply_limits(&mut config, &cpus, None).unwrap_err().kind(),
            Kind::Conflict
        );
        let always = RestartPolicy {
            name: RestartPolicyName::Always,
            maximum_retry_count: 0,
        };
        assert_eq!(
            apply_policy(&mut config, always.clone()).unwrap_err().kind(),
            Kind::Conflict
        );
        config.auto_remove = false;
        apply_policy(&mut config, always).unwrap();
        assert_eq!(config.restart_policy.name, RestartPolicyName::Always);
    }
}
