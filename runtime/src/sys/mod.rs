//! The only place with `unsafe` and raw system calls; each block says why it is sound.

pub(crate) mod bpf;
pub(crate) mod fork;
pub(crate) mod heap;
pub(crate) mod pages;
pub(crate) mod pidfd;
pub(crate) mod signals;
