//! Runs the generator's own tests; they are beside its code.

#[path = "../codegen/mod.rs"]
mod codegen;
