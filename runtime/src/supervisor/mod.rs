//! The process that holds a container.
