//! The harness of the black-box tests: real engines in temporary roots, driven over their sockets.
//!
//! | module | what it gives |
//! |---|---|
//! | [`engine`] | an engine of one's own: start, restart, kill, and the census at the end |
//! | [`client`] | HTTP over the unix socket; every reply is checked against `openapi.yaml` |
//! | [`contract`] | that check |
//! | [`stream`] | frames and JSON records |
//! | [`hijack`] | connections that are taken over: attach, exec |
//! | [`census`] | what an engine leaves on the host: mounts, links, cgroups, rules, processes, files |
//! | [`failpoints`] | steps at which the engine dies, fails or waits |
//! | [`random`] | numbers from a seed, and how much is tried |
//! | [`image`] | images made in code, good and hostile |
//! | [`docker`] | the docker command line, with and without a terminal |
//! | [`container`] | shorthand for the life of a container |
//!
//! Tests need root and the tools named where they are used; without them they fail and say so.

#![forbid(unsafe_code)]

pub mod build;
pub mod census;
pub mod client;
pub mod container;
pub mod contract;
pub mod docker;
pub mod engine;
pub mod failpoints;
pub mod hijack;
pub mod image;
pub mod random;
pub mod registry;
pub mod stream;
pub mod volume_plugin;
pub mod web;

pub use client::{Client, Reply};
pub use engine::Engine;

/// Fails a test with one clear sentence.
#[macro_export]
macro_rules! fail {
    ($($words:tt)*) => { panic!($($words)*) };
}
