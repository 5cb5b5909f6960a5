//! Writes what belongs to certain API versions only.

use std::collections::BTreeSet;

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};

use crate::codegen::schemas::{Definition, Field, Schemas, Span, Ty};

/// The module `gates`: what `skip_serializing_if` of the models names, and which fields a version does not read.
pub fn write(schemas: &Schemas) -> TokenStream {
    let structs = || {
        schemas
            .types
            .iter()
            .filter_map(|(name, definition)| match definition {
                Definition::Struct { fields, .. } => Some((name, fields)),
                _ => None,
            })
    };
    let spans: BTreeSet<Span> = structs()
        .flat_map(|(_, fields)| fields)
        .map(|field| field.span)
        .filter(Span::is_bounded)
        .collect();
    let functions = spans.iter().map(|span| {
        let (hidden, absent) = (hidden(span), absent(span));
        let bounds = bounds(span);
        quote! {
            /// Whether the version that is written lacks a field of these versions.
            pub(crate) fn #hidden<T>(_: &T) -> bool {
                !crate::version::writing().within(#bounds)
            }
            /// Whether it does, or the field is zero.
            pub(crate) fn #absent<T: Default + PartialEq>(value: &T) -> bool {
                #hidden(value) || is_zero(value)
            }
        }
    });
    let fields = structs().flat_map(|(name, fields)| {
        fields
            .iter()
            .filter(|field| field.span.is_bounded())
            .map(move |field| {
                let wire = &field.name;
                let bounds = bounds(&field.span);
                quote! { (#name, #wire) => !version.within(#bounds) }
            })
    });
    quote! {
        /// What belongs to certain API versions only.
        pub(crate) mod gates {
            use crate::version::ApiVersion;
            pub(crate) use crate::values::is_zero;

            #(#functions)*

            /// Whether `version` does not know the field of this struct.
            pub(crate) fn outside(name: &str, field: &str, version: ApiVersion) -> bool {
                match (name, field) {
                    #(#fields,)*
                    _ => false,
                }
            }
        }
    }
}

/// What the field's `skip_serializing_if` names.
pub fn skip(field: &Field) -> Option<String> {
    let optional = matches!(field.ty, Ty::Option(_));
    match (field.always, field.span.is_bounded()) {
        (true, false) => None,
        (true, true) => Some(format!("gates::{}", hidden(&field.span))),
        (false, true) => Some(format!("gates::{}", absent(&field.span))),
        (false, false) if optional => Some("Option::is_none".to_owned()),
        (false, false) => Some("gates::is_zero".to_owned()),
    }
}

/// A span as two arguments `Option<ApiVersion>`.
pub fn bounds(span: &Span) -> TokenStream {
    let (since, until) = (version(span.since), version(span.until));
    quote! { #since, #until }
}

/// A version as an `Option<ApiVersion>`.
pub fn version(version: Option<(u16, u16)>) -> TokenStream {
    match version {
        None => quote!(None),
        Some((major, minor)) => {
            let (major, minor) = (Literal::u16_unsuffixed(major), Literal::u16_unsuffixed(minor));
            quote!(Some(crate::version::ApiVersion::new(#major, #minor)))
        }
    }
}

fn hidden(span: &Span) -> Ident {
    format_ident!("hidden_{}", suffix(span))
}

fn absent(span: &Span) -> Ident {
    format_ident!("absent_{}", suffix(span))
}

fn suffix(span: &Span) -> String {
    let part = |word: &str, version: Option<(u16, u16)>| {
        version.map(|(major, minor)| format!("{word}_{major}_{minor}"))
    };
    let parts: Vec<_> = [part("since", span.since), part("until", span.until)]
        .into_iter()
        .flatten()
        .collect();
    parts.join("_")
}
