//! What Berth's specifications say in words of their own, in the words of the standard.

use std::{fs, path::Path};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec, User};

use crate::{
    Error, Result,
    error::Context,
    sandbox::{self, ANNOTATION_GROUP_ADD, ANNOTATION_INIT, ANNOTATION_MAPPED_ROOT, IDMAP_IF_POSSIBLE},
};

/// In front of the names of annotations that only the sandbox understands.
const OWN: &str = "berth.";
/// Version of the standard that is said to be meant: runtimes that are in use refuse later ones, and what is later is not
/// used.
const VERSION: &str = "1.0.2";

/// `spec` for another runtime. Its root is mounted where it says, in a mount namespace of the caller's own: nobody else
/// sees it, and it goes with the caller.
pub(super) fn spec(spec: &Spec) -> Result<Spec> {
    let mut translated = spec.clone();
    translated.set_version(VERSION.to_owned());
    let annotations = spec.annotations().clone().unwrap_or_default();
    if annotations.get(ANNOTATION_INIT).is_some_and(|v| v == "true") {
        return Err(Error::invalid(
            "an init process is part of the engine's own runtime: leave Init out, or the Runtime",
        ));
    }
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::invalid("the specification has no root"))?
        .path()
        .clone();
    let mapped = annotations.contains_key(ANNOTATION_MAPPED_ROOT);
    if mapped
        && spec
            .mounts()
            .iter()
            .flatten()
            .all(|m| m.destination() != Path::new("/"))
    {
        return Err(Error::invalid(
            "only the engine's own runtime can map the ids of a container without an image",
        ));
    }
    if sandbox::mount_root(spec, &root)? {
        let mounts = translated.mounts().clone().unwrap_or_default();
        translated.set_mounts(Some(mounts.into_iter().skip(1).collect()));
    }
    for mount in translated.mounts_mut().iter_mut().flatten() {
        if let Some(options) = mount.options_mut() {
            options.retain(|option| option != IDMAP_IF_POSSIBLE);
        }
    }
    if let Some(own) = spec.process() {
        translated.set_process(Some(process(own, spec, &root)?));
    }
    let seccomp = sandbox::seccomp_of(spec)?;
    if let Some(linux) = translated.linux_mut() {
        let namespaces = linux.namespaces().clone().unwrap_or_default();
        // Runtimes that know it are younger than those that are in use.
        let known = namespaces
            .into_iter()
            .filter(|n| n.typ() != LinuxNamespaceType::Time);
        linux.set_namespaces(Some(known.collect())).set_seccomp(seccomp);
    }
    let others = annotations.into_iter().filter(|(name, _)| !name.starts_with(OWN));
    translated.set_annotations(Some(others.collect()));
    Ok(translated)
}

/// `process` with its user in numbers, looked up in the container's root.
pub(super) fn process(process: &Process, spec: &Spec, root: &Path) -> Result<Process> {
    let annotations = spec.annotations().as_ref();
    let groups = annotations.and_then(|a| a.get(ANNOTATION_GROUP_ADD));
    let directory = fs::File::open(root).context(|| format!("cannot open {}", root.display()))?;
    let found = sandbox::find_user(process, groups.map_or("", String::as_str), directory.into())?;
    let mut user = User::default();
    user.set_uid(found.uid)
        .set_gid(found.gid)
        .set_umask(process.user().umask())
        .set_additional_gids(Some(found.groups));
    let mut translated = process.clone();
    translated.set_user(user);
    Ok(translated)
}
