//! From the paths of the contract to the operations that are to be written.

use utoipa::openapi::{
    Header as ReplyHeader, KnownFormat, RefOr, Required, Response, Schema, SchemaFormat,
    path::{Operation as Declared, Parameter, ParameterIn, PathItem},
    schema::SchemaType,
};

use crate::codegen::{
    document::{Document, flag, word},
    names,
    schemas::{Definition, Schemas, Span, Ty},
};

/// An operation.
#[derive(Debug)]
pub struct Operation {
    pub id: String,
    pub method: &'static str,
    pub path: String,
    pub tag: String,
    pub doc: String,
    pub span: Span,
    /// The names in the path, in order.
    pub names: Vec<String>,
    pub query: Vec<Query>,
    pub headers: Vec<Header>,
    pub body: Option<Body>,
    pub reply: Reply,
    /// Types that only this operation has.
    pub types: Schemas,
}

/// A query parameter.
#[derive(Debug)]
pub struct Query {
    pub name: String,
    pub doc: String,
    pub required: bool,
    pub span: Span,
    pub kind: QueryKind,
}

/// How a query parameter is read.
#[derive(Debug, PartialEq, Eq)]
pub enum QueryKind {
    Bool {
        default: bool,
    },
    /// The name of the Rust type, and the value when absent.
    Number {
        ty: &'static str,
        default: Option<i64>,
    },
    Text {
        default: String,
    },
    List,
    /// A generated enum; `optional` if no value of it stands for an absent one.
    Choice {
        ty: String,
        optional: bool,
    },
    Choices {
        ty: String,
    },
    Filters {
        allowed: Vec<String>,
        open: bool,
    },
}

/// A header of the request or the reply.
#[derive(Debug)]
pub struct Header {
    pub name: String,
    pub doc: String,
    /// The value of a reply header that the document gives as default.
    pub default: String,
}

/// A request body.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    Json { ty: Ty, required: bool },
    Raw,
}

/// What an operation replies when it succeeds.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    Nothing,
    /// The headers of a body that HEAD does not send.
    Head {
        content_type: String,
    },
    Json(Ty),
    /// JSON that nobody needs a type for.
    JsonText,
    Records {
        ty: Ty,
        progress: bool,
    },
    Bytes {
        content_type: String,
    },
    Text {
        content_type: String,
    },
    Takeover,
}

/// The successful replies of an operation.
#[derive(Debug)]
pub struct Reply {
    /// Status and content; one at least.
    pub choices: Vec<(u16, Content)>,
    /// Headers the handler gives.
    pub headers: Vec<Header>,
}

impl Operation {
    /// Whether the handler is dropped when the client goes away: it reads, or it streams.
    pub fn ends_with_client(&self) -> bool {
        matches!(self.method, "GET" | "HEAD")
            || self
                .reply
                .choices
                .iter()
                .any(|(_, content)| matches!(content, Content::Records { .. } | Content::Bytes { .. }))
    }
}

/// All operations in the document's order.
pub fn read(document: &Document, schemas: &Schemas) -> Result<Vec<Operation>, String> {
    let mut operations: Vec<Operation> = Vec::new();
    for (path, item) in &document.api.paths.paths {
        for (method, declared) in methods(item) {
            let operation = operation(document, schemas, path, item, method, declared)
                .map_err(|error| format!("{method} {path}: {error}"))?;
            if operations.iter().any(|known| known.id == operation.id) {
                return Err(format!(
                    "{method} {path}: there is another operation {}",
                    operation.id
                ));
            }
            operations.push(operation);
        }
    }
    Ok(operations)
}

fn methods(item: &PathItem) -> impl Iterator<Item = (&'static str, &Declared)> {
    [
        ("HEAD", &item.head),
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("DELETE", &item.delete),
        ("PATCH", &item.patch),
    ]
    .into_iter()
    .filter_map(|(method, declared)| declared.as_ref().map(|declared| (method, declared)))
}

fn operation(
    document: &Document,
    schemas: &Schemas,
    path: &str,
    item: &PathItem,
    method: &'static str,
    declared: &Declared,
) -> Result<Operation, String> {
    let id = declared.operation_id.clone().ok_or("no operationId")?;
    let tag = declared.tags.iter().flatten().next().ok_or("no tag")?.clone();
    let mut operation = Operation {
        method,
        path: path.to_owned(),
        tag,
        doc: documentation(method, path, declared),
        span: Span::of(&declared.extensions)?,
        names: path_names(path),
        query: Vec::new(),
        headers: Vec::new(),
        body: None,
        reply: Reply {
            choices: Vec::new(),
            headers: Vec::new(),
        },
        types: Schemas::default(),
        id,
    };
    let parameters = item.parameters.iter().chain(&declared.parameters).flatten();
    for parameter in parameters {
        let parameter = document.parameter(parameter)?;
        add_parameter(document, &mut operation, parameter)
            .map_err(|error| format!("{}: {error}", parameter.name))?;
    }
    operation.body = body(document, &mut operation, declared)?;
    operation.reply = reply(document, &mut operation, declared)?;
    if let Some(name) = operation
        .types
        .types
        .keys()
        .find(|name| schemas.types.contains_key(*name))
    {
        return Err(format!("the type {name} it needs is also a schema"));
    }
    Ok(operation)
}

fn documentation(method: &str, path: &str, declared: &Declared) -> String {
    let summary = declared.summary.as_deref().unwrap_or_default().trim();
    let description = declared.description.as_deref().unwrap_or_default().trim();
    format!("`{method} {path}`: {summary}\n\n{description}")
}

fn path_names(path: &str) -> Vec<String> {
    let name = |segment: &str| segment.strip_prefix('{')?.strip_suffix('}').map(str::to_owned);
    path.split('/').filter_map(name).collect()
}

fn add_parameter(
    document: &Document,
    operation: &mut Operation,
    parameter: &Parameter,
) -> Result<(), String> {
    let doc = parameter.description.clone().unwrap_or_default();
    match parameter.parameter_in {
        ParameterIn::Path if operation.names.contains(&parameter.name) => Ok(()),
        ParameterIn::Path => Err("it is not in the path".into()),
        ParameterIn::Header => {
            // OpenAPI says that parameters of these names mean nothing.
            if !["accept", "content-type", "authorization"].contains(&parameter.name.to_lowercase().as_str())
            {
                let (name, default) = (parameter.name.clone(), String::new());
                operation.headers.push(Header { name, doc, default });
            }
            Ok(())
        }
        ParameterIn::Query => {
            let kind = query_kind(document, operation, parameter)?;
            operation.query.push(Query {
                name: parameter.name.clone(),
                doc,
                required: matches!(parameter.required, Required::True),
                span: Span::of(&parameter.extensions)?,
                kind,
            });
            Ok(())
        }
        _ => Err("parameters are read from path, query and headers only".into()),
    }
}

fn query_kind(
    document: &Document,
    operation: &mut Operation,
    parameter: &Parameter,
) -> Result<QueryKind, String> {
    if let Some(names) = parameter
        .extensions
        .as_ref()
        .and_then(|extensions| extensions.get("x-filters"))
    {
        let names = names.as_array().ok_or("x-filters is no list")?;
        let allowed = names
            .iter()
            .map(|name| {
                name.as_str()
                    .map(str::to_owned)
                    .ok_or("x-filters has something that is no name")
            })
            .collect::<Result<_, _>>()?;
        let open = flag(&parameter.extensions, "x-filters-open");
        return Ok(QueryKind::Filters { allowed, open });
    }
    let schema = parameter.schema.as_ref().ok_or("no schema")?;
    let default = match schema {
        RefOr::T(Schema::Object(object)) => object.default.clone(),
        _ => None,
    };
    let declared = default
        .as_ref()
        .and_then(|default| default.as_str())
        .map(str::to_owned);
    let type_name = format!("{}{}", operation.id, names::type_name(&parameter.name));
    let (ty, own) = operation.types.in_place(document, &type_name, schema)?;
    let is_enum = |ty: &Ty| match ty {
        Ty::Named(name) if matches!(own.types.get(name), Some(Definition::Enum { .. })) => Some(name.clone()),
        _ => None,
    };
    let kind = match &ty {
        Ty::Bool => QueryKind::Bool {
            default: default.is_some_and(|default| default == true),
        },
        Ty::Int(ty) => QueryKind::Number {
            ty,
            default: default.and_then(|default| default.as_i64()),
        },
        Ty::Text => QueryKind::Text {
            default: default
                .and_then(|default| default.as_str().map(str::to_owned))
                .unwrap_or_default(),
        },
        Ty::List(items) => match (&**items, is_enum(items)) {
            (Ty::Text, _) => QueryKind::List,
            (_, Some(ty)) => QueryKind::Choices { ty },
            _ => return Err("only texts can be repeated".into()),
        },
        ty => {
            let name = is_enum(ty).ok_or("a query parameter of a type that has no reading")?;
            let optional = declared.is_none() && !has_empty(&own, &name);
            QueryKind::Choice { ty: name, optional }
        }
    };
    for (name, mut definition) in own.types {
        // Unlike in a schema, the default stands for the empty text too.
        if let (Definition::Enum { values, default, .. }, Some(declared)) = (&mut definition, &declared) {
            *default = values
                .iter()
                .position(|value| value == declared)
                .unwrap_or(*default);
        }
        operation.types.types.insert(name, definition);
    }
    Ok(kind)
}

fn has_empty(types: &Schemas, name: &str) -> bool {
    matches!(types.types.get(name), Some(Definition::Enum { values, .. }) if values.iter().any(String::is_empty))
}

fn body(document: &Document, operation: &mut Operation, declared: &Declared) -> Result<Option<Body>, String> {
    let Some(body) = &declared.request_body else {
        return Ok(None);
    };
    let body = document.request_body(body)?;
    let Some(json) = body.content.get("application/json") else {
        return Ok(Some(Body::Raw));
    };
    let RefOr::T(json) = json else {
        return Err("requestBody: a media type that is a reference".into());
    };
    let schema = json.schema.as_ref().ok_or("requestBody: no schema")?;
    let (ty, own) = operation
        .types
        .in_place(document, &format!("{}Body", operation.id), schema)?;
    operation.types.types.extend(own.types);
    let required = matches!(body.required, Some(Required::True));
    Ok(Some(Body::Json { ty, required }))
}

/// Headers that the router writes for every reply.
const OWN_HEADERS: [&str; 8] = [
    "api-version",
    "connection",
    "content-length",
    "content-type",
    "docker-experimental",
    "ostype",
    "server",
    "upgrade",
];

fn reply(document: &Document, operation: &mut Operation, declared: &Declared) -> Result<Reply, String> {
    let mut reply = Reply {
        choices: Vec::new(),
        headers: Vec::new(),
    };
    let takeover = flag(&declared.extensions, "x-hijack") || flag(&declared.extensions, "x-websocket");
    for (status, response) in &declared.responses.responses {
        let at = |error: String| format!("response {status}: {error}");
        let status: u16 = status.parse().map_err(|_| at("not a number".into()))?;
        if !(200..300).contains(&status) {
            continue;
        }
        let response = document.response(response).map_err(at)?;
        for (name, header) in &response.headers {
            let known = OWN_HEADERS.contains(&name.to_lowercase().as_str());
            if !known && !reply.headers.iter().any(|header| header.name == *name) {
                reply.headers.push(reply_header(name, header).map_err(at)?);
            }
        }
        let declared_type = response
            .content
            .keys()
            .next()
            .filter(|_| operation.method == "HEAD");
        let content = match (takeover, declared_type) {
            (true, _) => Content::Nothing,
            (false, Some(content_type)) => Content::Head {
                content_type: content_type.clone(),
            },
            (false, None) => content(document, operation, response).map_err(at)?,
        };
        reply.choices.push((status, content));
    }
    if takeover {
        reply.choices = vec![(101, Content::Takeover)];
    }
    match reply.choices.is_empty() {
        true => Err("no successful response".into()),
        false => Ok(reply),
    }
}

fn reply_header(name: &str, header: &RefOr<ReplyHeader>) -> Result<Header, String> {
    let RefOr::T(header) = header else {
        return Err(format!("header {name}: a reference"));
    };
    let default = match &header.schema {
        Some(RefOr::T(Schema::Object(object))) => object
            .default
            .as_ref()
            .and_then(|default| default.as_str())
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    };
    Ok(Header {
        name: name.to_owned(),
        doc: header.description.clone().unwrap_or_default(),
        default,
    })
}

fn content(document: &Document, operation: &mut Operation, response: &Response) -> Result<Content, String> {
    let Some((content_type, content)) = response.content.first() else {
        return Ok(Content::Nothing);
    };
    let RefOr::T(content) = content else {
        return Err("a media type that is a reference".into());
    };
    let Some(schema) = &content.schema else {
        return Ok(Content::Nothing);
    };
    let content_type = content_type.clone();
    let stream = word(&content.extensions, "x-stream");
    if matches!(stream, Some("frames" | "bytes")) || is_binary(schema) {
        return Ok(Content::Bytes { content_type });
    }
    if content_type != "application/json" {
        return Ok(Content::Text { content_type });
    }
    let (ty, own) = operation
        .types
        .in_place(document, &format!("{}Content", operation.id), schema)?;
    operation.types.types.extend(own.types);
    match stream {
        Some("json") => Ok(Content::Records { ty, progress: false }),
        Some("progress") => Ok(Content::Records { ty, progress: true }),
        Some(other) => Err(format!("x-stream: {other} is unknown")),
        None if ty == Ty::FreeMap => Ok(Content::JsonText),
        None => Ok(Content::Json(ty)),
    }
}

fn is_binary(schema: &RefOr<Schema>) -> bool {
    let RefOr::T(Schema::Object(object)) = schema else {
        return false;
    };
    let binary = Some(SchemaFormat::KnownFormat(KnownFormat::Binary));
    matches!(object.schema_type, SchemaType::Type(_)) && object.format == binary
}
