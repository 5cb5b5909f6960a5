//! Black-box tests: each starts an engine of its own, drives it over its socket, and compares the host before and
//! after. See the crate `berth_tests` for what they are made of.

mod archives;
mod attach;
mod basics;
mod build;
mod commit;
mod containers;
mod copy;
mod crash;
mod docker_cli;
mod document;
mod endings;
mod events;
mod execs;
mod failures;
mod health;
mod hello;
mod hostile;
mod images;
mod isolation;
mod log_drivers;
mod logs;
mod networks;
mod oci;
mod ports;
mod pull;
mod push;
mod quickstart;
mod registry_faults;
mod requests;
mod runtimes;
mod stats;
mod system;
mod top;
mod volumes;
mod websocket;
