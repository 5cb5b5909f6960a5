//! Content store, layers on disk, archives in and out.
