//! Resource limits and accounting.
