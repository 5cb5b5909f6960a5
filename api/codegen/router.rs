//! Writes the way from a request to a handler and back.

use std::cmp::Reverse;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::codegen::{
    gates,
    models::rust,
    names::{self, ident},
    operations::{Body, Content, Operation},
    traits,
};

/// The module `router`.
pub fn write(operations: &[Operation]) -> TokenStream {
    let ids = operations.iter().map(|operation| ident(&operation.id));
    let table = operations.iter().map(row);
    let count = operations.len();
    let mut by_literals: Vec<_> = operations.iter().collect();
    by_literals.sort_by_key(|operation| (operation.names.len().min(1), Reverse(literals(&operation.path))));
    let arms = by_literals.into_iter().map(arm);
    let dispatches = operations.iter().map(dispatch);
    let handlers = operations.iter().map(handler);
    let echoes = operations.iter().filter_map(echo);
    quote! {
        /// Operations, and how requests get to them.
        pub(crate) mod router {
            use http::Method;

            use crate::{
                context::Operation,
                error::ErrorReply,
                generated::api::*,
                reply::{self, Lines, Reply},
                route::{Call, Pending, settle, to_the_end},
            };

            /// An operation, as an index into [`OPERATIONS`].
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(crate) enum Op { #(#ids,)* }

            pub(crate) static OPERATIONS: [Operation; #count] = [#(#table,)*];

            /// The operation of a method and a path's segments, and the values of the names in the path.
            pub(crate) fn find(method: &str, path: &[&str]) -> Option<(Op, Vec<String>)> {
                Some(match (method, path) {
                    #(#arms,)*
                    _ => return None,
                })
            }

            /// Whether a name that takes several segments has a value: some text, and no empty segment.
            fn named(segments: &[&str]) -> bool {
                !segments.is_empty() && !segments.contains(&"")
            }

            /// Calls the handler of an operation.
            pub(crate) fn dispatch<E: Engine>(op: Op, engine: E, call: Call) -> Pending {
                match op { #(#dispatches,)* }
            }

            #(#handlers)*

            /// Reads a JSON reply of an operation as its model and writes it again.
            #[cfg(test)]
            pub(crate) fn echo(op: Op, reply: serde_json::Value) -> Option<Result<serde_json::Value, String>> {
                use crate::read::echo;
                match op {
                    #(#echoes,)*
                    _ => None,
                }
            }
        }
    }
}

fn literals(path: &str) -> usize {
    path.split('/')
        .filter(|segment| !segment.starts_with('{'))
        .count()
}

fn row(operation: &Operation) -> TokenStream {
    let Operation { id, path, tag, .. } = operation;
    let method = ident(operation.method);
    let (since, until) = (
        gates::version(operation.span.since),
        gates::version(operation.span.until),
    );
    let takes_over = takes_over(operation);
    quote! {
        Operation {
            id: #id, method: Method::#method, path: #path, tag: #tag, since: #since, until: #until,
            takes_over: #takes_over
        }
    }
}

fn takes_over(operation: &Operation) -> bool {
    let choices = &operation.reply.choices;
    choices.iter().any(|(_, content)| *content == Content::Takeover)
}

/// One arm of `find`. The last name of a path takes slashes too, as image names have them.
pub fn arm(operation: &Operation) -> TokenStream {
    let method = operation.method;
    let id = ident(&operation.id);
    let last = operation.names.last().map(|name| format!("{{{name}}}"));
    let segments = operation.path.trim_start_matches('/').split('/').map(|segment| {
        match segment
            .strip_prefix('{')
            .and_then(|segment| segment.strip_suffix('}'))
        {
            None => quote!(#segment),
            Some(name) => {
                let name = names::field(name);
                match last.as_deref() == Some(segment) {
                    true => quote!(#name @ ..),
                    false => quote!(#name),
                }
            }
        }
    });
    let guard = operation.names.last().map(|name| {
        let name = names::field(name);
        quote!(if named(#name))
    });
    let values = operation.names.iter().map(|name| {
        let greedy = last.as_deref() == Some(&format!("{{{name}}}"));
        let name = names::field(name);
        match greedy {
            true => quote!(#name.join("/")),
            false => quote!(#name.to_string()),
        }
    });
    quote! { (#method, [#(#segments),*]) #guard => (Op::#id, vec![#(#values),*]) }
}

fn dispatch(operation: &Operation) -> TokenStream {
    let id = ident(&operation.id);
    let name = names::field(&operation.id);
    match operation.ends_with_client() {
        true => quote!(Op::#id => Box::pin(#name(engine, call))),
        false => quote!(Op::#id => to_the_end(#name(engine, call))),
    }
}

/// The function that reads an operation's arguments, calls its handler and writes its reply.
pub fn handler(operation: &Operation) -> TokenStream {
    let name = names::field(&operation.id);
    let mut reads = Vec::new();
    let mut arguments = Vec::new();
    for path_name in &operation.names {
        let path_name = names::field(path_name);
        reads.push(quote!(let #path_name = call.name();));
        arguments.push(quote!(#path_name));
    }
    if !operation.query.is_empty() {
        let ty = traits::query_type(operation);
        reads.push(quote!(let query = #ty::read(&call.query)?;));
        arguments.push(quote!(query));
    }
    if !operation.headers.is_empty() {
        let ty = traits::headers_type(operation);
        reads.push(quote!(let headers = #ty::read(&call);));
        arguments.push(quote!(headers));
    }
    match &operation.body {
        None => {}
        Some(Body::Raw) => reads.push(quote!(let body = call.raw_body();)),
        Some(Body::Json { ty, required }) => {
            let ty = rust(ty);
            reads.push(quote!(let body = call.json::<#ty>(#required).await?;));
        }
    }
    if operation.body.is_some() {
        arguments.push(quote!(body));
    }
    if takes_over(operation) {
        reads.push(quote!(let takeover = call.takeover();));
    }
    let reply = reply(operation);
    quote! {
        async fn #name<E: Engine>(engine: E, mut call: Call) -> Result<Reply, ErrorReply> {
            #(#reads)*
            let version = call.ctx.version;
            let answer = settle(engine.#name(call.ctx, #(#arguments),*).await)?;
            #reply
        }
    }
}

fn echo(operation: &Operation) -> Option<TokenStream> {
    let id = ident(&operation.id);
    operation
        .reply
        .choices
        .iter()
        .find_map(|(_, content)| match content {
            Content::Json(ty) | Content::Records { ty, .. } => {
                let ty = rust(ty);
                Some(quote!(Op::#id => Some(echo::<#ty>(reply))))
            }
            _ => None,
        })
}

/// From the handler's answer to the reply.
fn reply(operation: &Operation) -> TokenStream {
    let headers = &operation.reply.headers;
    let body = match headers.is_empty() {
        true => quote!(answer),
        false => quote!(answer.body),
    };
    let reply = match &operation.reply.choices[..] {
        [(status, content)] => write_content(*status, content, &body),
        several => {
            let ty = traits::reply_enum(operation);
            let arms = several.iter().map(|(status, content)| {
                let variant = traits::variant(*status);
                let written = write_content(*status, content, &quote!(body));
                match content {
                    Content::Nothing | Content::Head { .. } => quote!(#ty::#variant => #written),
                    _ => quote!(#ty::#variant(body) => #written),
                }
            });
            quote! { match #body { #(#arms,)* } }
        }
    };
    if headers.is_empty() {
        return reply;
    }
    let added = headers.iter().map(|header| {
        let (field, wire) = (names::field(&header.name), header.name.to_lowercase());
        quote!(reply::header(&mut reply, #wire, &answer.#field)?;)
    });
    quote! {
        let mut reply = { #reply }?;
        #(#added)*
        Ok(reply)
    }
}

fn write_content(status: u16, content: &Content, body: &TokenStream) -> TokenStream {
    match content {
        Content::Nothing => quote!(Ok(reply::empty(#status))),
        Content::Head { content_type } => quote!(Ok(reply::text(#status, #content_type, String::new()))),
        Content::Json(_) => quote!(reply::json(#status, &#body, version)),
        Content::JsonText => quote!(Ok(reply::json_text(#status, #body))),
        Content::Records { progress, .. } => {
            let lines = match progress {
                true => format_ident!("Progress"),
                false => format_ident!("Json"),
            };
            quote!(Ok(reply::records(#status, Lines::#lines, #body, version)))
        }
        Content::Bytes { content_type } => quote!(Ok(reply::bytes(#status, #content_type, #body, version))),
        Content::Text { content_type } => quote!(Ok(reply::text(#status, #content_type, #body))),
        Content::Takeover => quote!(takeover.reply(#body)),
    }
}
