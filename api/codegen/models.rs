//! Writes the types.

use proc_macro2::TokenStream;
use quote::quote;

use crate::codegen::{
    gates,
    names::{self, ident},
    schemas::{Definition, Field, Schemas, Ty},
};

/// The module `models`.
pub fn write(schemas: &Schemas) -> TokenStream {
    let types = schemas
        .types
        .iter()
        .map(|(name, definition)| define(name, definition));
    quote! {
        /// The schemas of the contract.
        pub mod models {
            #[doc(hidden)]
            pub use std::collections::BTreeMap;

            use serde::{Deserialize, Serialize};
            #[doc(hidden)]
            pub use serde_json::{Map, Value};

            #[doc(hidden)]
            pub use crate::values::EmptyObject;

            use crate::generated::gates;

            #(#types)*
        }
    }
}

/// One type.
pub fn define(name: &str, definition: &Definition) -> TokenStream {
    let name = ident(name);
    match definition {
        Definition::Alias { doc, ty } => {
            let doc = docs(doc);
            let ty = rust(ty);
            quote! { #doc pub type #name = #ty; }
        }
        Definition::Enum {
            doc,
            values,
            default,
            unknown,
        } => {
            let doc = docs(doc);
            let unknown = unknown.iter();
            let variants: Vec<_> = values.iter().map(|value| names::variant(value)).collect();
            let default = &variants[*default];
            quote! {
                crate::values::string_enum!(#doc #name, #default, { #(#variants = #values,)* } #(, #unknown)*);
            }
        }
        Definition::Struct { doc, fields } => {
            let doc = docs(doc);
            let fields = fields.iter().map(field);
            quote! {
                #doc
                #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
                #[serde(default)]
                pub struct #name { #(#fields,)* }
            }
        }
    }
}

fn field(field: &Field) -> TokenStream {
    let doc = docs(&field.doc);
    let name = names::field(&field.name);
    let wire = &field.name;
    let ty = rust(&field.ty);
    let skip = gates::skip(field).map(|path| quote! { , skip_serializing_if = #path });
    quote! {
        #doc
        #[serde(rename = #wire #skip)]
        pub #name: #ty
    }
}

/// A type as Rust writes it in the generated modules.
pub fn rust(ty: &Ty) -> TokenStream {
    rust_in(ty, &quote!(super::models))
}

/// A type as Rust writes it where the module of the models has this path.
pub fn rust_in(ty: &Ty, models: &TokenStream) -> TokenStream {
    match ty {
        Ty::Bool => quote!(bool),
        Ty::Int(name) => {
            let name = ident(name);
            quote!(#name)
        }
        Ty::Float => quote!(f64),
        Ty::Text => quote!(String),
        Ty::Any => quote!(#models::Value),
        Ty::FreeMap => quote!(#models::Map<String, #models::Value>),
        Ty::Empty => quote!(#models::EmptyObject),
        Ty::List(items) => {
            let items = rust_in(items, models);
            quote!(Vec<#items>)
        }
        Ty::Map(values) => {
            let values = rust_in(values, models);
            quote!(#models::BTreeMap<String, #values>)
        }
        Ty::Named(name) => {
            let name = ident(name);
            quote!(#models::#name)
        }
        Ty::Boxed(name) => {
            let name = ident(name);
            quote!(Box<#models::#name>)
        }
        Ty::Option(inner) => {
            let inner = rust_in(inner, models);
            quote!(Option<#inner>)
        }
    }
}

/// A text as documentation.
pub fn docs(text: &str) -> TokenStream {
    let lines = text.trim().lines().map(|line| format!(" {line}"));
    quote! { #(#[doc = #lines])* }
}
