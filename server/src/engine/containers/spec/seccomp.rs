//! `linux.seccomp`: the choice of a filter.

use berth_runtime::{Error, Result};
use oci_spec::runtime::LinuxSeccomp;

use super::{
    super::validate::{Host, Seccomp, capabilities::CapSet, seccomp::compile},
    ContainerView,
};

/// The filter of a container.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Choice {
    /// The default profile for its capabilities.
    Builtin,
    /// None.
    Unconfined,
    /// Its own.
    Custom(Box<LinuxSeccomp>),
}

/// The filter that `SecurityOpt` asks for. A privileged container has none unless it names one.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a profile that makes no sense, or on a kernel without filters.
pub(super) fn choose(container: &ContainerView<'_>, capabilities: CapSet, host: &Host) -> Result<Choice> {
    match &container.security.seccomp {
        Seccomp::Unconfined => Ok(Choice::Unconfined),
        Seccomp::Default if container.host_config.privileged || !host.seccomp => Ok(Choice::Unconfined),
        Seccomp::Default | Seccomp::Builtin if host.seccomp => Ok(Choice::Builtin),
        Seccomp::Default | Seccomp::Builtin => Ok(Choice::Unconfined),
        Seccomp::Profile(_) if !host.seccomp => Err(Error::invalid(
            "seccomp is not enabled in your kernel, cannot run a custom seccomp profile",
        )),
        Seccomp::Profile(text) => compile(text, capabilities, &host.kernel)
            .map(Box::new)
            .map(Choice::Custom),
    }
}
