//! The generator: from the contract to Rust.
//!
//! [`document`] reads the contract, [`schemas`] and [`operations`] make a plain model of what is to be written,
//! [`models`], [`traits`], [`router`] and [`gates`] write it.

// Included by build.rs and by the tests, each of which uses its part.
#![allow(dead_code, unreachable_pub)]

mod document;
mod gates;
mod models;
mod names;
mod operations;
mod router;
mod schemas;
mod shapes;
#[cfg(test)]
mod tests;
mod traits;

use quote::quote;

/// What the generator makes of a contract.
pub struct Generated {
    /// A Rust file with the modules `models`, `api`, `router` and `gates`.
    pub rust: String,
    /// The contract on one line of JSON.
    pub json: String,
}

/// Generates all from the text of the contract. Errors say where in the contract.
pub fn generate(yaml: &str) -> Result<Generated, String> {
    let document = document::Document::read(yaml)?;
    let mut schemas = schemas::Schemas::read(&document)?;
    let operations = operations::read(&document, &schemas)?;
    for operation in &operations {
        schemas.types.extend(operation.types.types.clone());
    }
    let models = models::write(&schemas);
    let api = traits::write(&operations);
    let router = router::write(&operations);
    let gates = gates::write(&schemas);
    let file = quote! { #models #api #router #gates };
    let file = syn::parse2(file).map_err(|error| format!("the generated code does not parse: {error}"))?;
    Ok(Generated {
        rust: prettyplease::unparse(&file),
        json: document.json,
    })
}
