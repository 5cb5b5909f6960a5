//! Who the process is and what it may do: limits, user, groups and capabilities.

use std::{io, os::fd::BorrowedFd};

use oci_spec::runtime::{LinuxCapabilities, PosixRlimit, PosixRlimitType, Process};
use rustix::{
    fs::{FileType, Gid, Uid},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{
    Stdio, capabilities,
    user::{Accounts, User},
};
use crate::{Error, Result, error::Context, ids::IdMap, sys::process};

/// `process.user`, resolved. `username`, if set, is Docker's `User` text and wins over the numbers.
pub(super) fn resolve(process: &Process, group_add: &str, accounts: &Accounts) -> Result<User> {
    let further: Vec<_> = group_add.split(',').collect();
    let wanted = process.user();
    if let Some(text) = wanted.username() {
        return accounts.resolve(text, &further);
    }
    let mut groups = wanted.additional_gids().clone().unwrap_or_default();
    accounts.add(&further, &mut groups)?;
    Ok(User {
        uid: wanted.uid(),
        gid: wanted.gid(),
        groups,
        home: accounts.home(wanted.uid()),
    })
}

/// Sets the resource limits of the calling process. `nofile` holds unless the list has its own.
pub(super) fn set_limits(limits: &[PosixRlimit], nofile: Option<(u64, u64)>) -> Result<()> {
    if let Some((soft, hard)) =
        nofile.filter(|_| limits.iter().all(|l| l.typ() != PosixRlimitType::RlimitNofile))
    {
        process::set_limit(libc::RLIMIT_NOFILE, soft, hard)
            .context(|| format!("cannot set the limit on open files back to {soft}:{hard}"))?;
    }
    for limit in limits {
        let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        process::set_limit(resource(name), soft, hard).map_err(|e| {
            let hint = if e.kind() == io::ErrorKind::PermissionDenied {
                " (to raise a hard limit, the engine needs CAP_SYS_RESOURCE)"
            } else {
                ""
            };
            Error::internal(format!("error setting rlimit {name} to {soft}:{hard}{hint}")).caused_by(e)
        })?;
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// Capability sets that are on their way to the final ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// What the process is to have when it executes its program.
    last: CapabilitySets,
    ambient: u64,
    /// All that the calling process has now.
    permitted: CapabilitySet,
}

/// Takes on `user` and drops from the bounding set what `wanted` does not have. What the process itself may do is
/// unchanged until [`Capabilities::assume`].
pub(super) fn become_user(user: &User, wanted: Option<&LinuxCapabilities>) -> Result<Capabilities> {
    let permitted = rustix::thread::capabilities(None)
        .context(|| "cannot read the own capabilities")?
        .permitted;
    let set = |of: fn(&LinuxCapabilities) -> &Option<oci_spec::runtime::Capabilities>| {
        let list = wanted.and_then(|w| of(w).as_ref());
        list.map_or(0, |l| capabilities::mask(l.iter()))
    };
    let bounding = set(LinuxCapabilities::bounding);
    let ambient = set(LinuxCapabilities::ambient);
    // Executing a program leaves a user other than root only what is ambient. Saying so now makes the checks of the
    // program's path those that the program itself will meet.
    let kept = if user.uid == 0 { u64::MAX } else { ambient };
    let bits = |mask: u64| CapabilitySet::from_bits_retain(mask) & permitted;
    let last = CapabilitySets {
        effective: bits(set(LinuxCapabilities::effective) & kept),
        permitted: bits(set(LinuxCapabilities::permitted) & kept),
        inheritable: bits(set(LinuxCapabilities::inheritable)),
    };
    drop_bounding(bounding)?;
    rustix::thread::set_keep_capabilities(true).context(|| "cannot keep capabilities")?;
    let groups: Vec<_> = user.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups)
        .context(|| format!("cannot set the groups {:?}", user.groups))?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .context(|| format!("cannot become group {}", user.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .context(|| format!("cannot become user {}", user.uid))?;
    rustix::thread::set_keep_capabilities(false).context(|| "cannot stop keeping capabilities")?;
    let capabilities = Capabilities {
        last,
        ambient,
        permitted,
    };
    // Programs are now looked for as the user would.
    capabilities.set(CapabilitySets {
        effective: last.effective,
        permitted,
        inheritable: last.inheritable,
    })?;
    Ok(capabilities)
}

fn drop_bounding(keep: u64) -> Result<()> {
    for number in 0..=capabilities::LAST {
        let bit = CapabilitySet::from_bits_retain(1 << number);
        if keep & bit.bits() != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(bit) {
            Ok(()) => {}
            // Beyond the last one that the kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e).context(|| format!("cannot drop capability {number}")),
        }
    }
    Ok(())
}

impl Capabilities {
    /// Takes back what it takes to install a seccomp filter.
    pub fn allow_filter(&self) -> Result<()> {
        self.set(CapabilitySets {
            effective: self.last.effective | (CapabilitySet::SYS_ADMIN & self.permitted),
            permitted: self.permitted,
            inheritable: self.last.inheritable,
        })
    }

    /// Whether the final sets differ from the caller's only in what has been given up for good; if so,
    /// [`assume`](Self::assume) has to be called.
    pub fn assume(&self) -> Result<()> {
        self.set(self.last)?;
        for number in 0..=capabilities::LAST {
            if self.ambient & 1 << number == 0 {
                continue;
            }
            let bit = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::configure_capability_in_ambient_set(bit, true)
                .context(|| format!("cannot make capability {number} ambient"))?;
        }
        Ok(())
    }

    fn set(&self, sets: CapabilitySets) -> Result<()> {
        rustix::thread::set_capabilities(None, sets).context(|| "cannot set capabilities")
    }
}

/// Gives pipes that are the streams of a process in another user namespace to the root there, who can give them on to
/// the process's user; what is not known there stays with whom it belongs to.
pub(super) fn hand_over_streams(stdio: Option<&Stdio>, map: &IdMap) -> Result<()> {
    let Some(Stdio::Pipes {
        stdin,
        stdout,
        stderr,
    }) = stdio
    else {
        return Ok(());
    };
    let message = || "cannot give the standard streams to the container's root";
    let (uid, gid) = map.root();
    for stream in stdin.iter().chain([stdout, stderr]) {
        let data = rustix::fs::fstat(stream).context(message)?;
        let kind = FileType::from_raw_mode(data.st_mode);
        if matches!(kind, FileType::Fifo | FileType::Socket) && (data.st_uid, data.st_gid) == (0, 0) {
            rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .context(message)?;
        }
    }
    Ok(())
}

/// Gives the standard streams to `uid`, so that the process can open `/dev/stdout` and the like again. The null device
/// and files that refuse it stay as they are.
pub(super) fn own_streams(streams: &[BorrowedFd<'_>], uid: u32) -> Result<()> {
    for stream in streams {
        let message = || "cannot give the standard streams to the user";
        let data = rustix::fs::fstat(stream).context(message)?;
        let is_null = FileType::from_raw_mode(data.st_mode).is_char_device()
            && data.st_rdev == rustix::fs::makedev(1, 3);
        if data.st_uid == uid || is_null {
            continue;
        }
        match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None) {
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::ROFS | rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).context(message),
        }
    }
    Ok(())
}
