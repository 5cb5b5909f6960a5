//! The only place with `unsafe` and raw system calls; each block says why it is sound.

pub(crate) mod fork;
pub(crate) mod signals;
