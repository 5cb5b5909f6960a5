//! The check must be able to fail: each rule is broken once.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;

const DOCUMENT: &str = r##"
openapi: 3.1.0
paths:
  /things/{name}/json:
    get:
      operationId: ThingInspect
      responses:
        '200':
          headers:
            Colour: {required: true, schema: {type: string, enum: [red, blue]}}
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Thing'}
        '404': {$ref: '#/components/responses/NotFound'}
  /things/{name}:
    delete:
      operationId: ThingDelete
      x-since: '1.30'
      responses: {'204': {description: gone}, '400': {$ref: '#/components/responses/NotFound'}}
  /things/follow:
    get:
      operationId: ThingFollow
      responses:
        '200':
          content:
            application/json:
              x-stream: progress
              schema: {$ref: '#/components/schemas/Base'}
components:
  responses:
    NotFound:
      content: {application/json: {schema: {$ref: '#/components/schemas/ErrorResponse'}}}
  schemas:
    ErrorResponse: {type: object, required: [message], properties: {message: {type: string}}}
    Base: {type: object, required: [Id], properties: {Id: {type: string}}}
    Thing:
      allOf:
        - $ref: '#/components/schemas/Base'
        - type: object
          properties:
            Port: {type: integer, format: uint16}
            Always: {type: [array, 'null'], items: {type: string}, x-always: true}
            Late: {type: string, x-since: '1.43', x-always: true}
            Early: {type: string, x-until: '1.30'}
            When: {type: string, format: date-time}
            Map: {type: object, additionalProperties: {type: integer}}
"##;

/// Complaints about a reply to `GET target`, by words they contain.
fn complaints(target: &str, status: u16, headers: &[(&str, &str)], body: &str) -> Vec<String> {
    let contract = Contract::parse(DOCUMENT);
    let method = if status == 204 || target.contains("delete") {
        Method::DELETE
    } else {
        Method::GET
    };
    let asked = contract.locate(&method, target);
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            name.parse::<HeaderName>().expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    let head = Head {
        status: status.try_into().expect("a status"),
        headers: map,
    };
    let (rule, mut all) = contract.check_head(&asked, &head);
    all.0.extend(contract.check_body(&rule, body.as_bytes()).0);
    all.0
}

const COMMON: [(&str, &str); 4] = [
    ("api-version", "1.43"),
    ("docker-experimental", "false"),
    ("ostype", "linux"),
    ("server", "Docker/1 (linux)"),
];

fn good_headers() -> Vec<(&'static str, &'static str)> {
    let mut headers = COMMON.to_vec();
    headers.extend([("content-type", "application/json"), ("colour", "red")]);
    headers
}

/// Complaints about the body of an otherwise good reply.
fn body_complaints(version: &str, body: &str) -> Vec<String> {
    complaints(
        &format!("{version}/things/a/b/json?x=1"),
        200,
        &good_headers(),
        body,
    )
}

#[track_caller]
fn one(complaints: &[String], word: &str) {
    assert!(
        complaints.len() == 1 && complaints[0].contains(word),
        "{complaints:#?} instead of {word}"
    );
}

const GOOD: &str =
    r#"{"Id":"x","Always":null,"Late":"","Port":65535,"When":"0001-01-01T00:00:00Z","Map":{"a":1}}"#;

#[test]
fn a_good_reply_passes() {
    assert_eq!(body_complaints("", GOOD), Vec::<String>::new());
    assert_eq!(
        body_complaints("/v1.29", r#"{"Id":"x","Always":[],"Early":"y"}"#),
        Vec::<String>::new()
    );
}

#[test]
fn an_undeclared_field_fails() {
    one(
        &body_complaints("", &GOOD.replace("{\"Id", "{\"Extra\":1,\"Id")),
        "Extra",
    );
}

#[test]
fn a_missing_field_fails_required_or_always() {
    one(&body_complaints("", &GOOD.replace("\"Id\":\"x\",", "")), "Id");
    one(
        &body_complaints("", &GOOD.replace("\"Always\":null,", "")),
        "Always",
    );
}

#[test]
fn a_wrong_type_range_or_format_fails() {
    one(&body_complaints("", &GOOD.replace("65535", "65536")), "65536");
    one(
        &body_complaints("", &GOOD.replace("\"x\"", "7")),
        "7 is not of type",
    );
    one(&body_complaints("", &GOOD.replace("T00", " ")), "date-time");
    one(
        &body_complaints("", &GOOD.replace("{\"a\":1}", "{\"a\":\"1\"}")),
        "/Map/a",
    );
}

#[test]
fn a_field_of_another_version_fails() {
    one(
        &body_complaints("/v1.42", r#"{"Id":"x","Always":[],"Late":""}"#),
        "Late",
    );
    one(
        &body_complaints("/v1.30", r#"{"Id":"x","Always":[],"Early":""}"#),
        "Early",
    );
}

#[test]
fn what_is_not_json_fails() {
    one(&body_complaints("", "{"), "not JSON");
    one(&body_complaints("", &format!("{GOOD}{GOOD}")), "not JSON");
}

#[test]
fn an_undeclared_status_fails() {
    one(
        &complaints("/things/a/json", 201, &good_headers(), "{}"),
        "status 201",
    );
}

#[test]
fn headers_are_held_to_their_declaration() {
    let without = |name: &str| -> Vec<_> {
        good_headers()
            .into_iter()
            .filter(|(known, _)| *known != name)
            .collect()
    };
    one(
        &complaints("/things/a/json", 200, &without("colour"), GOOD),
        "Colour is missing",
    );
    one(
        &complaints("/things/a/json", 200, &without("api-version"), GOOD),
        "api-version is missing",
    );
    one(
        &complaints("/things/a/json", 200, &without("content-type"), GOOD),
        "content type",
    );
    let mut green = without("colour");
    green.push(("colour", "green"));
    one(&complaints("/things/a/json", 200, &green, GOOD), "green");
    let mut more = good_headers();
    more.push(("x-powered-by", "magic"));
    one(&complaints("/things/a/json", 200, &more, GOOD), "x-powered-by");
    let mut charset = without("content-type");
    charset.push(("content-type", "application/json; charset=utf-8"));
    one(&complaints("/things/a/json", 200, &charset, GOOD), "charset");
}

#[test]
fn a_body_where_none_is_declared_fails() {
    assert_eq!(complaints("/things/a", 204, &COMMON, ""), Vec::<String>::new());
    one(&complaints("/things/a", 204, &COMMON, "x"), "must be none");
}

#[test]
fn an_operation_of_a_later_version_must_be_refused() {
    one(
        &complaints("/v1.29/things/a", 204, &COMMON, ""),
        "does not exist in this version",
    );
}

#[test]
fn an_unknown_path_is_404_without_version_headers() {
    let json = [("content-type", "application/json")];
    assert_eq!(
        complaints("/nothing", 404, &json, r#"{"message":"page not found"}"#),
        Vec::<String>::new()
    );
    one(&complaints("/nothing", 200, &json, "{}"), "not in the document");
    let mut more = json.to_vec();
    more.push(("server", "x"));
    one(
        &complaints("/nothing", 404, &more, r#"{"message":"x"}"#),
        "server",
    );
}

#[test]
fn every_record_of_a_stream_is_checked() {
    let check = |body: &str| complaints("/things/follow", 200, &good_headers(), body);
    // The stream's reply does not declare the header of the other one.
    let only = |body: &str| -> Vec<_> {
        check(body)
            .into_iter()
            .filter(|text| !text.contains("colour"))
            .collect()
    };
    assert_eq!(only("{\"Id\":\"a\"}\r\n{\"Id\":\"b\"}\r\n"), Vec::<String>::new());
    one(&only("{\"Id\":\"a\"}\r\n{\"Id\":3}\r\n"), "3 is not of type");
    one(&only("{\"Id\":\"a\"}\n"), "CR LF");
}

#[test]
fn paths_are_found_by_their_most_specific_operation() {
    let contract = Contract::parse(DOCUMENT);
    let id = |target: &str| {
        contract
            .locate(&Method::GET, target)
            .operation
            .map(|operation| operation.id.clone())
    };
    assert_eq!(id("/v1.43/things/a/b/json").as_deref(), Some("ThingInspect"));
    assert_eq!(id("/things/follow?all=1").as_deref(), Some("ThingFollow"));
    assert_eq!(id("/things//json"), None);
    assert_eq!(id("/v1.43x/things/a/json"), None);
    assert_eq!(
        contract.locate(&Method::GET, "/v1.24/things/a/json").version,
        (1, 24)
    );
}
