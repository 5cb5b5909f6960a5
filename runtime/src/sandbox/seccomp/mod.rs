//! System call filters: Docker's builtin profile and profiles from the specification, compiled to classic BPF.

mod architecture;
mod builtin;
mod code;
mod profile;

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{LinuxSeccomp, Spec};

use self::profile::Profile;
use super::{ANNOTATION_SECCOMP, SECCOMP_BUILTIN, SECCOMP_UNCONFINED, capabilities};
use crate::{Error, Result, error::Context, sys::seccomp};

/// Builtin programs kept for reuse, at most; there is one for each set of capabilities.
const CACHE_MAX: usize = 8;

/// A program ready to be installed.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    program: Arc<[seccomp::Instruction]>,
    flags: u64,
    /// Whether the profile came with the specification, so that nothing is known about what it allows.
    pub custom: bool,
}

impl Filter {
    /// The filter that `spec` asks for, if any.
    pub fn of(spec: &Spec) -> Result<Option<Self>> {
        if let Some(custom) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) {
            let profile = Profile::from_spec(custom)?;
            return Ok(Some(Self {
                program: profile.compile()?.into(),
                flags: profile.flags,
                custom: true,
            }));
        }
        let annotation = spec
            .annotations()
            .as_ref()
            .and_then(|a| a.get(ANNOTATION_SECCOMP));
        match annotation.map(String::as_str) {
            None | Some(SECCOMP_UNCONFINED) => Ok(None),
            Some(SECCOMP_BUILTIN) => Self::builtin(bounding(spec)).map(Some),
            Some(other) => Err(Error::invalid(format!(
                "annotation {ANNOTATION_SECCOMP}={other:?}: must be {SECCOMP_BUILTIN} or {SECCOMP_UNCONFINED}"
            ))),
        }
    }

    /// Docker's default profile for processes that can get `capabilities` (a bit mask) at most.
    pub fn builtin(capabilities: u64) -> Result<Self> {
        static CACHE: Mutex<Vec<(u64, Arc<[seccomp::Instruction]>)>> = Mutex::new(Vec::new());
        let profile = || {
            let mut profile = builtin::profile(capabilities);
            profile.architectures.retain(|a| a.is_there());
            profile
        };
        let known = {
            let cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
            cache
                .iter()
                .find(|(c, _)| *c == capabilities)
                .map(|(_, p)| Arc::clone(p))
        };
        let program = match known {
            Some(program) => program,
            None => {
                let program: Arc<[_]> = profile().compile()?.into();
                let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
                if cache.len() >= CACHE_MAX {
                    cache.remove(0);
                }
                cache.push((capabilities, Arc::clone(&program)));
                program
            }
        };
        Ok(Self {
            program,
            flags: profile::FLAG_SPEC_ALLOW,
            custom: false,
        })
    }

    /// Puts it in force for the calling process; irrevocable.
    pub fn install(&self) -> Result<()> {
        seccomp::install(&self.program, self.flags).context(|| {
            format!(
                "cannot install the seccomp filter ({} instructions)",
                self.program.len()
            )
        })
    }
}

/// The filter that `spec` asks for as a profile of the standard, for runtimes that know no builtin one.
pub(super) fn in_full(spec: &Spec) -> Result<Option<LinuxSeccomp>> {
    let linux = spec.linux().as_ref();
    if let Some(custom) = linux.and_then(|l| l.seccomp().as_ref()) {
        return Ok(Some(custom.clone()));
    }
    let annotations = spec.annotations().as_ref();
    match annotations
        .and_then(|a| a.get(ANNOTATION_SECCOMP))
        .map(String::as_str)
    {
        Some(SECCOMP_BUILTIN) => builtin::profile(bounding(spec)).in_full().map(Some),
        _ => Ok(None),
    }
}

/// The bounding set of the specification's process.
fn bounding(spec: &Spec) -> u64 {
    let sets = spec.process().as_ref().and_then(|p| p.capabilities().as_ref());
    sets.and_then(|s| s.bounding().as_ref())
        .map_or(0, |set| capabilities::mask(set.iter()))
}
