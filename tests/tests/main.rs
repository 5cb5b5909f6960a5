//! Black-box tests: each starts an engine of its own, drives it over its socket, and compares the host before and
//! after. See the crate `berth_tests` for what they are made of.

mod document;
