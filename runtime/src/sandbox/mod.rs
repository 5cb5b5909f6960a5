//! An OCI runtime specification becomes a running process.
