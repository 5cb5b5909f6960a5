//! Writes what handlers are written against: a trait for each tag, and the types of arguments and replies.

use std::collections::BTreeMap;

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};

use crate::codegen::{
    gates,
    models::{docs, rust_in},
    names::{self, ident},
    operations::{Body, Content, Header, Operation, Query, QueryKind},
};

/// The module `api`.
pub fn write(operations: &[Operation]) -> TokenStream {
    let mut tags: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        tags.entry(&operation.tag).or_default().push(operation);
    }
    let names: Vec<_> = tags.keys().map(|tag| format_ident!("{tag}Api")).collect();
    let traits = tags.iter().map(|(tag, operations)| {
        let name = format_ident!("{tag}Api");
        let doc = format!(" The operations of the tag `{tag}`.");
        let methods = operations.iter().map(|operation| method(operation));
        quote! {
            #[doc = #doc]
            pub trait #name: Api { #(#methods)* }
        }
    });
    let types = operations.iter().map(types);
    let later = later(operations);
    quote! {
        /// The traits, and the types of arguments and replies.
        pub mod api {
            use crate::{
                context::Ctx,
                body::RawBody,
                error::{ErrorReply, Fault},
                filters::Filters,
                reply::JsonText,
                stream::{ByteStream, JsonStream},
                takeover::Takeover,
            };

            /// What all the traits have in common.
            pub trait Api: Clone + Send + Sync + 'static {
                /// The error of every handler.
                type Error: Fault;
            }

            /// Whatever implements all the traits.
            pub trait Engine: #(#names)+* {}
            impl<E: #(#names)+*> Engine for E {}

            #(#traits)*
            #(#types)*
            #later
        }
    }
}

/// Where a signature finds the types it names.
struct Paths {
    /// The module of the models.
    models: TokenStream,
    /// What stands before every other type.
    api: TokenStream,
}

impl Paths {
    /// Inside the generated modules.
    fn inside() -> Self {
        Self {
            models: quote!(super::models),
            api: quote!(),
        }
    }

    /// In a macro that other crates use.
    fn outside() -> Self {
        Self {
            models: quote!($crate::models),
            api: quote!($crate::),
        }
    }
}

/// One method of a trait.
pub fn method(operation: &Operation) -> TokenStream {
    let paths = Paths::inside();
    let doc = docs(&operation.doc);
    let name = names::field(&operation.id);
    let arguments = arguments(operation, &paths)
        .into_iter()
        .map(|(name, ty)| quote!(#name: #ty));
    let reply = reply_type(operation, &paths);
    quote! {
        #doc
        fn #name(&self, ctx: Ctx, #(#arguments),*) -> impl Future<Output = Result<#reply, Self::Error>> + Send;
    }
}

/// The macro that writes handlers of operations that are still to come.
fn later(operations: &[Operation]) -> TokenStream {
    let paths = Paths::outside();
    let arms = operations.iter().map(|operation| {
        let name = names::field(&operation.id);
        let arguments = arguments(operation, &paths).into_iter().map(|(_, ty)| quote!(_: #ty));
        let reply = reply_type(operation, &paths);
        quote! {
            (@handler #name) => {
                async fn #name(&self, ctx: $crate::Ctx, #(#arguments),*) -> ::core::result::Result<#reply, Self::Error> {
                    Err(ctx.later().into())
                }
            };
        }
    });
    quote! {
        /// Writes the handlers of operations that the engine does not have yet, inside the `impl` of their trait:
        /// `later!(plugin_create, plugin_pull);`. They answer 501 and name the operation.
        #[macro_export]
        macro_rules! later {
            #(#arms)*
            ($($name:ident),+ $(,)?) => { $($crate::later!(@handler $name);)+ };
        }
    }
}

/// A handler's arguments after the context.
fn arguments(operation: &Operation, Paths { models, api }: &Paths) -> Vec<(Ident, TokenStream)> {
    let mut arguments = Vec::new();
    for name in &operation.names {
        arguments.push((names::field(name), quote!(String)));
    }
    if !operation.query.is_empty() {
        let ty = query_type(operation);
        arguments.push((ident("query"), quote!(#api #ty)));
    }
    if !operation.headers.is_empty() {
        let ty = headers_type(operation);
        arguments.push((ident("headers"), quote!(#api #ty)));
    }
    match &operation.body {
        None => {}
        Some(Body::Raw) => arguments.push((ident("body"), quote!(#api RawBody))),
        Some(Body::Json { ty, .. }) => arguments.push((ident("body"), rust_in(ty, models))),
    }
    arguments
}

pub fn query_type(operation: &Operation) -> Ident {
    format_ident!("{}Query", operation.id)
}

pub fn headers_type(operation: &Operation) -> Ident {
    format_ident!("{}Headers", operation.id)
}

fn reply_struct(operation: &Operation) -> Ident {
    format_ident!("{}Reply", operation.id)
}

/// The enum of several replies; within a struct if there are headers too.
pub fn reply_enum(operation: &Operation) -> Ident {
    match operation.reply.headers.is_empty() {
        true => format_ident!("{}Reply", operation.id),
        false => format_ident!("{}Body", operation.id),
    }
}

/// The variant for a status.
pub fn variant(status: u16) -> Ident {
    match status {
        200 => ident("Ok"),
        201 => ident("Created"),
        202 => ident("Accepted"),
        204 => ident("NoContent"),
        other => format_ident!("Status{other}"),
    }
}

/// What the handler returns.
fn reply_type(operation: &Operation, paths: &Paths) -> TokenStream {
    match operation.reply.headers.is_empty() {
        true => body_type(operation, paths),
        false => {
            let (api, name) = (&paths.api, reply_struct(operation));
            quote!(#api #name)
        }
    }
}

fn body_type(operation: &Operation, paths: &Paths) -> TokenStream {
    match &operation.reply.choices[..] {
        [(_, only)] => content_type(only, paths),
        _ => {
            let (api, name) = (&paths.api, reply_enum(operation));
            quote!(#api #name)
        }
    }
}

fn content_type(content: &Content, Paths { models, api }: &Paths) -> TokenStream {
    match content {
        Content::Nothing | Content::Head { .. } => quote!(()),
        Content::Json(ty) => rust_in(ty, models),
        Content::JsonText => quote!(#api JsonText),
        Content::Records { ty, .. } => {
            let ty = rust_in(ty, models);
            quote!(#api JsonStream<#ty>)
        }
        Content::Bytes { .. } => quote!(#api ByteStream),
        Content::Text { .. } => quote!(String),
        Content::Takeover => quote!(#api Takeover),
    }
}

/// The types that only this operation has.
fn types(operation: &Operation) -> TokenStream {
    let query = (!operation.query.is_empty()).then(|| query_struct(operation));
    let headers = (!operation.headers.is_empty()).then(|| headers_struct(operation));
    let several = (operation.reply.choices.len() > 1).then(|| {
        let name = reply_enum(operation);
        let doc = format!(" The replies of `{}`.", operation.id);
        let variants = operation.reply.choices.iter().map(|(status, content)| {
            let doc = format!(" Status {status}.");
            let variant = variant(*status);
            match content {
                Content::Nothing | Content::Head { .. } => quote!(#[doc = #doc] #variant),
                content => {
                    let ty = content_type(content, &Paths::inside());
                    quote!(#[doc = #doc] #variant(#ty))
                }
            }
        });
        quote! { #[doc = #doc] #[derive(Debug)] pub enum #name { #(#variants,)* } }
    });
    let with_headers = (!operation.reply.headers.is_empty()).then(|| with_headers(operation));
    quote! { #query #headers #several #with_headers }
}

fn with_headers(operation: &Operation) -> TokenStream {
    let name = reply_struct(operation);
    let doc = format!(" The reply of `{}` with its headers.", operation.id);
    let body = body_type(operation, &Paths::inside());
    let fields = operation.reply.headers.iter().map(header_field);
    let defaults = operation.reply.headers.iter().map(|header| {
        let (name, default) = (names::field(&header.name), &header.default);
        quote!(#name: #default.to_owned())
    });
    // With one shape of body the rest of a reply can be left to `..Default::default()`.
    let default = (operation.reply.choices.len() == 1).then(|| {
        quote! {
            impl Default for #name {
                fn default() -> Self {
                    Self { #(#defaults,)* body: Default::default() }
                }
            }
        }
    });
    quote! {
        #[doc = #doc]
        #[derive(Debug)]
        pub struct #name {
            #(#fields,)*
            /// The body.
            pub body: #body,
        }
        #default
    }
}

fn header_field(header: &Header) -> TokenStream {
    let doc = docs(&header.doc);
    let name = names::field(&header.name);
    quote!(#doc pub #name: String)
}

fn headers_struct(operation: &Operation) -> TokenStream {
    let name = headers_type(operation);
    let doc = format!(" The headers `{}` reads.", operation.id);
    let fields = operation.headers.iter().map(header_field);
    let reads = operation.headers.iter().map(|header| {
        let (field, wire) = (names::field(&header.name), header.name.to_lowercase());
        quote!(#field: call.header(#wire))
    });
    quote! {
        #[doc = #doc]
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct #name { #(#fields,)* }

        impl #name {
            pub(crate) fn read(call: &crate::route::Call) -> Self {
                Self { #(#reads,)* }
            }
        }
    }
}

fn query_struct(operation: &Operation) -> TokenStream {
    let name = query_type(operation);
    let doc = format!(" The query of `{}`.", operation.id);
    let fields = operation.query.iter().map(|parameter| {
        let doc = docs(&parameter.doc);
        let name = names::field(&parameter.name);
        let ty = query_field_type(parameter);
        quote!(#doc pub #name: #ty)
    });
    let reads = operation.query.iter().map(|parameter| {
        let name = names::field(&parameter.name);
        let value = query_read(parameter);
        quote!(#name: #value)
    });
    let defaults = operation.query.iter().map(|parameter| {
        let name = names::field(&parameter.name);
        let value = query_default(parameter);
        quote!(#name: #value)
    });
    quote! {
        #[doc = #doc]
        #[derive(Clone, Debug, PartialEq)]
        pub struct #name { #(#fields,)* }

        impl #name {
            pub(crate) fn read(query: &crate::query::Query) -> Result<Self, ErrorReply> {
                Ok(Self { #(#reads,)* })
            }
        }

        impl Default for #name {
            /// The query of a request that gives none.
            fn default() -> Self {
                Self { #(#defaults,)* }
            }
        }
    }
}

/// The enum's path.
fn choice(ty: &str) -> TokenStream {
    let ty = ident(ty);
    quote!(super::models::#ty)
}

fn query_field_type(parameter: &Query) -> TokenStream {
    match &parameter.kind {
        QueryKind::Bool { .. } => quote!(bool),
        QueryKind::Number { ty, default } => {
            let ty = ident(ty);
            match default.is_some() || parameter.required {
                true => quote!(#ty),
                false => quote!(Option<#ty>),
            }
        }
        QueryKind::Text { .. } => quote!(String),
        QueryKind::List => quote!(Vec<String>),
        QueryKind::Choice { ty, optional } => {
            let ty = choice(ty);
            match optional {
                true => quote!(Option<#ty>),
                false => ty,
            }
        }
        QueryKind::Choices { ty } => {
            let ty = choice(ty);
            quote!(Vec<#ty>)
        }
        QueryKind::Filters { .. } => quote!(Filters),
    }
}

/// The value of a parameter that is not given.
fn query_default(parameter: &Query) -> TokenStream {
    match &parameter.kind {
        QueryKind::Bool { default } => quote!(#default),
        QueryKind::Number {
            default: Some(default),
            ..
        } => {
            let default = Literal::i64_unsuffixed(*default);
            quote!(#default)
        }
        QueryKind::Text { default } if !default.is_empty() => quote!(#default.to_owned()),
        _ => quote!(Default::default()),
    }
}

/// The expression that reads a parameter.
fn query_read(parameter: &Query) -> TokenStream {
    let name = &parameter.name;
    let query = match parameter.span.is_bounded() {
        false => quote!(query),
        true => {
            let bounds = gates::bounds(&parameter.span);
            quote!(query.gated(#bounds))
        }
    };
    let required = parameter.required;
    match &parameter.kind {
        QueryKind::Bool { default } => quote!(#query.boolean(#name, #default)),
        QueryKind::Number {
            default: Some(default),
            ..
        } => {
            let default = Literal::i64_unsuffixed(*default);
            quote!(#query.number(#name)?.unwrap_or(#default))
        }
        QueryKind::Number { .. } if required => {
            quote!(crate::query::Query::required(#name, #query.number(#name)?)?)
        }
        QueryKind::Number { .. } => quote!(#query.number(#name)?),
        QueryKind::Text { .. } if required => quote!(#query.required_text(#name)?),
        QueryKind::Text { default } => quote!(#query.text(#name, #default)),
        QueryKind::List => quote!(#query.list(#name)),
        QueryKind::Choice { optional: true, .. } => quote!(#query.choice(#name)?),
        QueryKind::Choice { optional: false, .. } => quote!(#query.choice(#name)?.unwrap_or_default()),
        QueryKind::Choices { .. } => quote!(#query.choices(#name)?),
        QueryKind::Filters { allowed, open } => quote!(#query.filters(#name, &[#(#allowed),*], #open)?),
    }
}
