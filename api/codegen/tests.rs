//! Small documents and what becomes of them.

use super::generate;

/// A document of these paths and schemas, given as YAML from the margin.
fn document(paths: &str, schemas: &str) -> String {
    let indent = |text: &str, by: usize| {
        let lines = text.lines().map(|line| format!("{}{line}\n", " ".repeat(by)));
        lines.collect::<String>()
    };
    let paths = if paths.is_empty() {
        "  {}\n".to_owned()
    } else {
        indent(paths, 2)
    };
    let schemas = if schemas.is_empty() {
        "    {}\n".to_owned()
    } else {
        indent(schemas, 4)
    };
    format!(
        "openapi: 3.1.0\ninfo: {{title: T, version: '1'}}\npaths:\n{paths}components:\n  schemas:\n{schemas}"
    )
}

fn rust(paths: &str, schemas: &str) -> String {
    generate(&document(paths, schemas))
        .map(|generated| generated.rust)
        .expect("it generates")
}

fn error(paths: &str, schemas: &str) -> String {
    generate(&document(paths, schemas))
        .err()
        .expect("it must not generate")
}

/// Blanks, line ends and commas before closing brackets depend on the length of lines.
fn squeeze(text: &str) -> String {
    let text: String = text.split_whitespace().collect();
    text.replace(",)", ")")
        .replace(",]", "]")
        .replace(",}", "}")
        .replace(",>", ">")
}

#[track_caller]
fn assert_has(rust: &str, fragment: &str) {
    let fragment = fragment.trim_end_matches(',');
    assert!(
        squeeze(rust).contains(&squeeze(fragment)),
        "{fragment}\nis not in\n{rust}"
    );
}

#[track_caller]
fn assert_lacks(rust: &str, fragment: &str) {
    assert!(
        !squeeze(rust).contains(&squeeze(fragment)),
        "{fragment}\nis in\n{rust}"
    );
}

#[test]
fn fields_are_written_as_the_schema_says() {
    let rust = rust(
        "",
        "
Thing:
  type: object
  description: A thing.
  required: [Id]
  properties:
    Id: {type: string, description: Its id.}
    Size: {type: integer, format: uint16}
    Names: {type: [array, 'null'], items: {type: string}, x-always: true}
    Limit: {type: [integer, 'null']}
    Labels: {type: object, additionalProperties: {type: string}}
    Ports: {type: object, additionalProperties: {type: object, maxProperties: 0}}
    Options: {type: object, additionalProperties: true}
    type: {type: boolean}
    GlobalIPv6Address: {type: string}
    NanoCPUs: {type: number}",
    );
    assert_has(
        &rust,
        "/// A thing.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Thing {
            /// Its id.
            #[serde(rename = \"Id\")]
            pub id: String,
            #[serde(rename = \"Size\", skip_serializing_if = \"gates::is_zero\")]
            pub size: u16,
            #[serde(rename = \"Names\")]
            pub names: Option<Vec<String>>,
            #[serde(rename = \"Limit\", skip_serializing_if = \"Option::is_none\")]
            pub limit: Option<i64>,",
    );
    assert_has(&rust, "pub labels: super::models::BTreeMap<String, String>");
    assert_has(
        &rust,
        "pub ports: super::models::BTreeMap<String, super::models::EmptyObject>",
    );
    assert_has(
        &rust,
        "pub options: super::models::Map<String, super::models::Value>",
    );
    assert_has(&rust, "pub r#type: bool");
    assert_has(&rust, "pub global_ipv6_address: String");
    assert_has(&rust, "pub nano_cpus: f64");
}

#[test]
fn references_keep_their_words_and_structs_their_absence() {
    let rust = rust(
        "",
        "
Inner: {type: object, properties: {A: {type: string}}}
Table: {type: [object, 'null'], additionalProperties: {type: string}}
Outer:
  type: object
  properties:
    Sure: {$ref: '#/components/schemas/Inner', x-always: true}
    Maybe: {$ref: '#/components/schemas/Inner'}
    Nil: {oneOf: [{$ref: '#/components/schemas/Inner'}, {type: 'null'}], x-always: true}
    Table: {$ref: '#/components/schemas/Table'}
    Late: {$ref: '#/components/schemas/Inner', x-since: '1.41'}",
    );
    assert_has(
        &rust,
        "#[serde(rename = \"Sure\")] pub sure: super::models::Inner,",
    );
    assert_has(
        &rust,
        "skip_serializing_if = \"Option::is_none\")] pub maybe: Option<super::models::Inner>,",
    );
    assert_has(
        &rust,
        "#[serde(rename = \"Nil\")] pub nil: Option<super::models::Inner>,",
    );
    assert_has(&rust, "pub type Table = super::models::BTreeMap<String, String>;");
    assert_has(&rust, "pub table: Option<super::models::Table>,");
    assert_has(
        &rust,
        "\"gates::absent_since_1_41\")] pub late: Option<super::models::Inner>,",
    );
    assert_has(&rust, "(\"Outer\", \"Late\") =>");
    assert_has(
        &rust,
        "!version.within(Some(crate::version::ApiVersion::new(1, 41)), None)",
    );
}

#[test]
fn all_of_is_flattened() {
    let rust = rust(
        "",
        "
Base:
  type: object
  required: [A]
  properties:
    A: {type: string}
    Mode: {type: string, enum: ['', fast]}
    B: {type: string}
Whole:
  allOf:
    - $ref: '#/components/schemas/Base'
    - type: object
      required: [C]
      properties:
        B: {type: integer}
        C: {type: string}",
    );
    assert_has(
        &rust,
        "pub struct Whole {
            #[serde(rename = \"A\")] pub a: String,
            #[serde(rename = \"Mode\", skip_serializing_if = \"gates::is_zero\")] pub mode: super::models::BaseMode,
            #[serde(rename = \"B\", skip_serializing_if = \"gates::is_zero\")] pub b: i64,
            #[serde(rename = \"C\")] pub c: String,
        }",
    );
}

#[test]
fn enums_have_a_zero_or_an_option() {
    let rust = rust(
        "",
        "
Kind: {type: string, enum: [one, two-three, '4']}
Thing:
  type: object
  required: [Sure]
  properties:
    Policy: {type: string, enum: [always, '', 'no']}
    Kind: {$ref: '#/components/schemas/Kind'}
    Sure: {$ref: '#/components/schemas/Kind'}
    Level: {type: integer, format: uint8, enum: [0, 1]}",
    );
    assert_has(
        &rust,
        "string_enum!(Kind, One, { One = \"one\", TwoThree = \"two-three\", V4 = \"4\", });",
    );
    assert_has(
        &rust,
        "string_enum!(ThingPolicy, Empty, { Always = \"always\", Empty = \"\", No = \"no\", });",
    );
    assert_has(&rust, "pub policy: super::models::ThingPolicy");
    assert_has(&rust, "pub kind: Option<super::models::Kind>");
    assert_has(&rust, "pub sure: super::models::Kind");
    assert_has(&rust, "pub level: u8");
}

#[test]
fn what_contains_itself_is_boxed() {
    let rust = rust(
        "",
        "
Node:
  type: object
  properties:
    Next: {$ref: '#/components/schemas/Node'}
    Other: {oneOf: [{$ref: '#/components/schemas/Other'}, {type: 'null'}]}
    Children: {type: array, items: {$ref: '#/components/schemas/Node'}}
Other: {type: object, properties: {Back: {$ref: '#/components/schemas/Node'}}}",
    );
    assert_has(&rust, "pub next: Option<Box<super::models::Node>>");
    assert_has(&rust, "pub other: Option<Box<super::models::Other>>");
    assert_has(&rust, "pub children: Vec<super::models::Node>");
}

const LIST: &str = "
/things/{id}/parts/{name}:
  get:
    operationId: PartList
    tags: [Thing]
    summary: List parts
    x-since: '1.30'
    parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
      - {name: name, in: path, required: true, schema: {type: string}}
      - {name: all, in: query, schema: {type: boolean, default: true}}
      - {name: limit, in: query, schema: {type: integer}}
      - {name: h, in: query, required: true, schema: {type: integer, format: uint32}}
      - {name: t, in: query, schema: {type: array, items: {type: string}}}
      - {name: since, in: query, schema: {type: [integer, string], default: 0}}
      - {name: mode, in: query, x-since: '1.41', schema: {type: string, enum: [a, b], default: b}}
      - {name: filters, in: query, x-filters: [id, name], schema: {type: string}}
      - {name: X-Auth, in: header, schema: {type: string}}
      - {name: Content-Type, in: header, schema: {type: string}}
    responses:
      '200':
        description: Parts.
        headers:
          X-Count: {schema: {type: string, default: none}}
          Api-Version: {schema: {type: string}}
        content:
          application/json: {schema: {type: array, items: {type: string}}}";

#[test]
fn an_operation_becomes_a_method_and_its_types() {
    let rust = rust(LIST, "");
    assert_has(
        &rust,
        "pub trait ThingApi: Api {
            /// `GET /things/{id}/parts/{name}`: List parts
            fn part_list(&self, ctx: Ctx, id: String, name: String, query: PartListQuery, headers: PartListHeaders)
                -> impl Future<Output = Result<PartListReply, Self::Error>> + Send;
        }",
    );
    assert_has(
        &rust,
        "pub struct PartListQuery {
            pub all: bool,
            pub limit: Option<i64>,
            pub h: u32,
            pub t: Vec<String>,
            pub since: String,
            pub mode: super::models::PartListMode,
            pub filters: Filters,
        }",
    );
    assert_has(
        &rust,
        "all: query.boolean(\"all\", true),
        limit: query.number(\"limit\")?,
        h: crate::query::Query::required(\"h\", query.number(\"h\")?)?,
        t: query.list(\"t\"),
        since: query.text(\"since\", \"\"),
        mode: query.gated(Some(crate::version::ApiVersion::new(1, 41)), None).choice(\"mode\")?.unwrap_or_default(),
        filters: query.filters(\"filters\", &[\"id\", \"name\"], false)?,",
    );
    assert_has(&rust, "string_enum!(PartListMode, B, { A = \"a\", B = \"b\", });");
    assert_has(&rust, "pub struct PartListHeaders { pub x_auth: String, }");
    assert_has(
        &rust,
        "pub struct PartListReply { pub x_count: String, /// The body.\n pub body: Vec<String>, }",
    );
    assert_has(&rust, "x_count: \"none\".to_owned(),");
    assert_has(
        &rust,
        "(\"GET\", [\"things\", id, \"parts\", name @ ..]) if named(name) =>",
    );
    assert_has(&rust, "(Op::PartList, vec![id.to_string(), name.join(\"/\")])");
    assert_has(&rust, "Op::PartList => Box::pin(part_list(engine, call))");
    assert_has(
        &rust,
        "since: Some(crate::version::ApiVersion::new(1, 30)), until: None",
    );
    assert_has(&rust, "(@handler part_list) =>");
}

/// An operation with these lines after its tag.
fn operation(rest: &str) -> String {
    let rest: String = rest.lines().map(|line| format!("    {line}\n")).collect();
    format!("/do:\n  post:\n    operationId: Do\n    tags: [Thing]\n{rest}")
}

#[test]
fn bodies_and_replies_have_their_kinds() {
    let json = rust(
        &operation(
            "requestBody: {required: true, content: {application/json: {schema: {type: array, items: {type: string}}}}}
responses:
  '201': {description: Done., content: {application/json: {schema: {type: string}}}}
  '204': {description: Nothing.}
  '304': {description: Not modified.}
  '500': {description: Failed.}",
        ),
        "",
    );
    assert_has(
        &json,
        "body: Vec<String>) -> impl Future<Output = Result<DoReply, Self::Error>> + Send;",
    );
    assert_has(
        &json,
        "pub enum DoReply { /// Status 201.\n Created(String), /// Status 204.\n NoContent, }",
    );
    assert_has(&json, "let body = call.json::<Vec<String>>(true).await?;");
    assert_has(
        &json,
        "DoReply::Created(body) => reply::json(201u16, &body, version),",
    );
    assert_has(&json, "DoReply::NoContent => Ok(reply::empty(204u16)),");
    assert_has(&json, "Op::Do => to_the_end(r#do(engine, call))");

    let stream = rust(
        &operation(
            "requestBody: {content: {application/x-tar: {schema: {type: string, format: binary}}}}
responses:
  '200': {description: Lines., content: {application/json: {x-stream: progress, schema: {type: string}}}}",
        ),
        "",
    );
    assert_has(
        &stream,
        "body: RawBody) -> impl Future<Output = Result<JsonStream<String>, Self::Error>> + Send;",
    );
    assert_has(
        &stream,
        "Ok(reply::records(200u16, Lines::Progress, answer, version))",
    );
    assert_has(&stream, "Op::Do => Box::pin(r#do(engine, call))");

    let hijack = rust(
        &operation("x-hijack: true\nresponses:\n  '101': {description: Up.}\n  '200': {description: Raw.}"),
        "",
    );
    assert_has(&hijack, "Result<Takeover, Self::Error>");
    assert_has(&hijack, "let takeover = call.takeover();");
    assert_has(&hijack, "takeover.reply(answer)");
    assert_has(&hijack, "Op::Do => to_the_end(r#do(engine, call))");
}

#[test]
fn more_literal_paths_come_first() {
    let get = |path: &str, id: &str, names: &str| {
        format!(
            "{path}:\n  get:\n    operationId: {id}\n    tags: [Thing]\n    parameters: [{names}]\n    \
             responses: {{'200': {{description: Ok.}}}}\n"
        )
    };
    let name = "{name: name, in: path, required: true, schema: {type: string}}";
    let paths = [
        get("/things/{name}", "Bare", name),
        get("/things/{name}/json", "Suffix", name),
        get("/things/json", "Literal", ""),
    ];
    let rust = rust(&paths.concat(), "");
    let rust = squeeze(&rust);
    let at = |id: &str| rust.find(&format!("(Op::{id},")).expect(id);
    assert!(
        at("Literal") < at("Suffix") && at("Suffix") < at("Bare"),
        "{rust}"
    );
    assert_lacks(&rust, "(\"POST\",");
}

#[test]
fn errors_say_where_and_what() {
    let number = error(
        "",
        "Thing: {type: object, properties: {A: {type: integer, format: int7}}}",
    );
    assert_eq!(number, "components.schemas.Thing: A: unknown integer format int7");
    let version = error(
        "",
        "Thing: {type: object, properties: {A: {type: string, x-since: 1.4}}}",
    );
    assert_eq!(
        version,
        "components.schemas.Thing: A: x-since must be a quoted version, not 1.4"
    );
    let required = error(
        "",
        "Thing: {type: object, required: [B], properties: {A: {type: string}}}",
    );
    assert_eq!(
        required,
        "components.schemas.Thing: B is required but no property"
    );
    let clash = error(
        "",
        "Thing: {type: object, properties: {Kind: {type: string, enum: [a]}}}\nThingKind: {type: string, enum: [b]}",
    );
    assert!(clash.contains("there are two types ThingKind"), "{clash}");
    let nowhere = error(
        "",
        "Thing: {type: object, properties: {A: {$ref: '#/components/schemas/B'}}}",
    );
    assert_eq!(
        nowhere,
        "components.schemas.Thing: A: no schema #/components/schemas/B"
    );
    let typeless = error(
        "",
        "Thing: {type: object, properties: {A: {description: Anything.}}}",
    );
    assert!(typeless.starts_with("components.schemas.Thing: "), "{typeless}");
    let untagged = error(
        "/do: {get: {operationId: Do, responses: {'200': {description: Ok.}}}}",
        "",
    );
    assert_eq!(untagged, "GET /do: no tag");
    let stream = error(
        &operation(
            "responses: {'200': {description: A., content: {application/json: {x-stream: fast, schema: {type: string}}}}}",
        ),
        "",
    );
    assert_eq!(stream, "POST /do: response 200: x-stream: fast is unknown");
}

#[test]
fn the_json_is_the_document() {
    let generated = generate(&document(LIST, "")).expect("it generates");
    let json: serde_json::Value = serde_json::from_str(&generated.json).expect("JSON");
    assert_eq!(
        json["paths"]["/things/{id}/parts/{name}"]["get"]["operationId"],
        "PartList"
    );
}
