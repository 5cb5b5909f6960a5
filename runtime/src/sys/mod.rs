//! The only place with `unsafe` and raw system calls; each block says why it is sound.

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod pages;
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod quota;
pub(crate) mod readiness;
pub(crate) mod seccomp;
pub(crate) mod shared;
pub(crate) mod signals;
pub(crate) mod title;
