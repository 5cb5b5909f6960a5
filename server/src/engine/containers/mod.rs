//! Containers.
pub mod spec;
pub mod validate;
