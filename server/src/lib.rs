//! `berthd`: listeners, handlers and the engine's objects.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | flags and configuration file |
//! | [`daemon`] | the life of the process |
//! | [`listen`] | sockets and connections |
//! | [`handlers`] | one file a tag of the API: validate, call, map |
//! | [`oci`] | `berthd oci`: the runtime alone, with runc's command line
//! | [`engine`] | the objects: their state, rules and persistence |
//! | [`failure`] | the engine's errors as HTTP statuses |
#![forbid(unsafe_code)]

pub mod config;
pub mod daemon;
pub mod engine;
pub mod failure;
pub mod handlers;
pub mod listen;
pub mod oci;
mod pidfile;
mod telemetry;
