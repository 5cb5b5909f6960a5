//! berthd: listeners, handlers and the engine's objects.

#![forbid(unsafe_code)]

/// The engine's objects.
pub mod engine {
    pub mod containers;
}
