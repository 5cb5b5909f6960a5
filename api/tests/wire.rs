//! What requests become for handlers, and their answers for clients.

mod support;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use berth_api::{ApiVersion, operations};
use serde_json::json;
use support::{Fake, call, call_json, send};

#[tokio::test]
async fn every_operation_is_reached_by_its_path() {
    let engine = Fake::default();
    engine.go.notify_one();
    for operation in operations() {
        let path = operation
            .path
            .replace("{id}", "x")
            .replace("{name}", "reg:5000/x/y:1");
        let answer = call(&engine, operation.method.as_str(), &path).await;
        let reached = answer.operation.unwrap_or_else(|| panic!("{path} is not known"));
        assert_eq!(reached.operation.id, operation.id, "{} {path}", operation.method);
        assert_eq!(reached.version, ApiVersion::NEWEST);
        assert_eq!(answer.header("api-version"), "1.43");
        assert_eq!(answer.header("ostype"), "linux");
        assert_eq!(answer.header("docker-experimental"), "false");
        assert!(answer.header("server").starts_with("Docker/"));
        if answer.status == StatusCode::NOT_IMPLEMENTED && operation.method != "HEAD" {
            let named = format!("{} ({} {})", operation.id, operation.method, operation.path);
            assert!(answer.message().starts_with(&named), "{}", answer.body);
        }
        if operation.method == "POST" {
            engine.go.notify_one();
        }
    }
}

#[tokio::test]
async fn the_headers_name_the_newest_version() {
    let answer = call(&Fake::default(), "GET", "/_ping").await;
    assert_eq!(answer.header("api-version"), ApiVersion::NEWEST.to_string());
}

#[tokio::test]
async fn what_is_no_route_is_a_plain_404() {
    for (method, path) in [
        ("GET", "/nothing"),
        ("GET", "/"),
        ("GET", "/v1.43"),
        ("GET", "/v1.43/"),
        ("GET", "/v1.x/info"),
        ("GET", "/v/info"),
        ("GET", "/v1.99/nothing"),
        ("PUT", "/containers/json"),
        ("HEAD", "/containers/json"),
        ("GET", "/containers/json/"),
        ("GET", "/containers/x/bogus"),
        ("PATCH", "/info"),
        ("TRACE", "/info"),
        ("GET", "/images/%2Fjson"),
        ("GET", "/Containers/json"),
    ] {
        let answer = call(&Fake::default(), method, path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
        assert_eq!(answer.body, "{\"message\":\"page not found\"}\n");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("api-version"), "", "it is not a known route");
    }
}

#[tokio::test]
async fn names_take_slashes_and_suffixes_win() {
    let engine = Fake::default();
    for (path, name) in [
        ("/images/alpine/json", "alpine"),
        ("/v1.41/images/reg.io:5000/a/b:1/json", "reg.io:5000/a/b:1"),
        ("/images/reg.io%3A5000%2Fa%2Fb/json", "reg.io:5000/a/b"),
        ("/images/json/json", "json"),
        ("/images/a/json/json", "a/json"),
        ("/images/a@sha256:0123/json", "a@sha256:0123"),
    ] {
        let answer = call(&engine, "GET", path).await;
        assert_eq!(answer.json()["Id"], name, "{path}");
    }
    let slash = call(&engine, "GET", "/containers/%2Fname/json").await;
    assert_eq!(slash.json()["Id"], "/name");
    let odd = call(&engine, "GET", "/images/%ff/json").await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn untidy_paths_are_redirected_to_tidy_ones() {
    for (path, tidy) in [
        ("//info", "/info"),
        ("/v1.43//containers/json?all=1", "/v1.43/containers/json?all=1"),
        ("/containers/../info", "/info"),
        ("/containers/./json", "/containers/json"),
        ("/../../info", "/info"),
        ("/networks//", "/networks/"),
    ] {
        let answer = call(&Fake::default(), "GET", path).await;
        assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY, "{path}");
        assert_eq!(answer.header("location"), tidy);
    }
    let networks = call(&Fake::default(), "GET", "/v1.43/networks/").await;
    assert_eq!(networks.operation.map(|of| of.operation.id), Some("NetworkList"));
}

#[tokio::test]
async fn options_are_answered_anywhere() {
    let answer = call(&Fake::default(), "OPTIONS", "/whatever").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, ""));
    assert_eq!(answer.header("api-version"), "1.43");
}

#[tokio::test]
async fn versions_outside_the_range_are_refused() {
    let engine = Fake::default();
    let new = call(&engine, "GET", "/v1.99/info").await;
    assert_eq!(new.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        new.message(),
        "client version 1.99 is too new. Maximum supported API version is 1.43"
    );
    assert_eq!(new.header("api-version"), "1.43");
    let old = call(&engine, "GET", "/v1.10/info").await;
    assert_eq!(old.status, StatusCode::BAD_REQUEST);
    let start = "client version 1.10 is too old. Minimum supported API version is 1.24, ";
    assert!(old.message().starts_with(start), "{}", old.body);
}

#[tokio::test]
async fn operations_have_their_first_version() {
    let engine = Fake::default();
    let before = call(&engine, "POST", "/v1.24/containers/prune").await;
    assert_eq!(before.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        before.message(),
        "POST /containers/prune requires minimum API version 1.25"
    );
    let after = call(&engine, "POST", "/v1.25/containers/prune").await;
    assert_eq!(after.status, StatusCode::OK);
}

#[tokio::test]
async fn query_values_are_read_leniently() {
    let engine = Fake::default();
    for (query, all) in [
        ("", false),
        ("all", false),
        ("all=", false),
        ("all=0", false),
        ("all=False", false),
        ("all=%20None%20", false),
        ("all=1", true),
        ("all=True", true),
        ("all=yes", true),
        ("all=0&all=1", false),
    ] {
        call(&engine, "GET", &format!("/containers/json?{query}")).await;
        let seen = engine.seen().pop().unwrap_or_default();
        assert!(
            seen.contains(&format!("all: {all}, limit: None")),
            "{query}: {seen}"
        );
    }
    call(&engine, "GET", "/containers/json?limit=-1").await;
    assert!(engine.seen().iter().any(|seen| seen.contains("limit: Some(-1)")));
    let garbage = call(&engine, "GET", "/containers/json?limit=many").await;
    assert_eq!(garbage.status, StatusCode::BAD_REQUEST);
    assert!(garbage.message().contains("\"limit\""), "{}", garbage.body);
}

#[tokio::test]
async fn parameters_have_their_first_version_and_their_values() {
    let engine = Fake::default();
    call(&engine, "POST", "/v1.41/containers/x/stop?signal=INT&t=3").await;
    call(&engine, "POST", "/v1.42/containers/x/stop?signal=INT&t=3").await;
    assert_eq!(
        engine.seen(),
        [
            "ContainerStopQuery { signal: \"\", t: Some(3) }",
            "ContainerStopQuery { signal: \"INT\", t: Some(3) }"
        ]
    );
    engine.go.notify_one();
    let other = call(&engine, "POST", "/containers/x/wait?condition=never").await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
    let message = other.message();
    assert!(
        message.contains("\"never\"") && message.contains("\"next-exit\""),
        "{message}"
    );
    call(&engine, "POST", "/containers/x/wait?condition=").await;
    assert!(engine.seen().iter().any(|seen| seen.contains("NotRunning")));
}

#[tokio::test]
async fn required_parameters_are_missed() {
    for query in ["", "?path="] {
        let answer = call(&Fake::default(), "GET", &format!("/containers/x/archive{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.message().contains("\"path\""), "{}", answer.body);
    }
}

#[tokio::test]
async fn filters_come_in_two_forms_and_known_names() {
    let engine = Fake::default();
    for filters in [
        r#"{"label":["a=b","c"]}"#,
        r#"{"label":{"a=b":true,"c":true,"no":false}}"#,
    ] {
        let uri = format!("/containers/prune?filters={}", encoded(filters));
        let answer = call(&engine, "POST", &uri).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(engine.seen().pop().as_deref(), Some("[\"a=b\", \"c\"]"));
    }
    for (filters, message) in [
        ("{", "invalid filter"),
        ("[]", "invalid filter"),
        (r#"{"label":1}"#, "invalid filter"),
        (r#"{"nonsense":["x"]}"#, "invalid filter 'nonsense'"),
    ] {
        let uri = format!("/containers/prune?filters={}", encoded(filters));
        let answer = call(&engine, "POST", &uri).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{filters}");
        assert_eq!(answer.message(), message);
    }
    let uri = format!("/events?filters={}", encoded(r#"{"nonsense":["x"]}"#));
    let open = call(&engine, "GET", &uri).await;
    assert_eq!(
        open.status,
        StatusCode::OK,
        "events ignore names they do not know"
    );
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn bodies_are_json_of_a_limited_size() {
    let engine = Fake::default();
    let ok = call_json(&engine, "POST", "/containers/create?name=x", r#"{"Image":"a"} "#).await;
    assert_eq!(ok.status, StatusCode::CREATED);
    for (body, message) in [
        ("", "got EOF while reading request body"),
        ("{", "invalid JSON: unexpected EOF"),
        (
            "{a",
            "invalid character 'a' looking for beginning of object key string",
        ),
        (r#"{"Image":"a"} {}"#, "after top-level value"),
        (
            r#"{"HostConfig":{"Memory":"x"}}"#,
            "invalid JSON: HostConfig.Memory: ",
        ),
        (r#"{"HostConfig":{"Memory":1.0}}"#, "HostConfig.Memory"),
        (r#"{"Env":["A=1",2]}"#, "Env[1]"),
        (r#"{"Env":"A=1"}"#, "Env: "),
        (
            r#"{"HostConfig":{"RestartPolicy":{"Name":"often"}}}"#,
            "unknown policy 'often'",
        ),
        ("[]", "invalid JSON: "),
    ] {
        let answer = call_json(&engine, "POST", "/containers/create", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.message().contains(message), "{body}: {}", answer.body);
        assert_eq!(answer.header("x-berth-error"), "invalid");
    }
    let large = call_json(&engine, "POST", "/containers/create", vec![b' '; (4 << 20) + 1]).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    let chunks = futures_util::stream::iter((0..5).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])));
    let endless = call_json(&engine, "POST", "/containers/create", Body::from_stream(chunks)).await;
    assert_eq!(endless.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn bodies_need_their_content_type() {
    let engine = Fake::default();
    for (content_type, status) in [
        ("application/json; charset=utf-8", StatusCode::CREATED),
        ("Application/JSON", StatusCode::CREATED),
        ("text/plain", StatusCode::BAD_REQUEST),
        ("", StatusCode::BAD_REQUEST),
    ] {
        let mut request = Request::post("/containers/create");
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Body::from("{}")).expect("a request");
        assert_eq!(send(&engine, request).await.status, status, "{content_type}");
    }
}

#[tokio::test]
async fn an_optional_body_may_be_missing() {
    let engine = Fake::default();
    let none = call(&engine, "POST", "/auth").await;
    assert_eq!((none.status, none.body.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(none.header("content-type"), "");
    let some = call_json(&engine, "POST", "/auth", r#"{"username":"u"}"#).await;
    assert_eq!(some.status, StatusCode::OK);
}

#[tokio::test]
async fn fields_have_their_first_version_both_ways() {
    let engine = Fake::default();
    let body = r#"{"HostConfig":{"ConsoleSize":[1,2],"Annotations":{"a":"b"},"KernelMemory":5}}"#;
    let at = async |version: &str| {
        let answer = call_json(&engine, "POST", &format!("/v{version}/containers/create"), body).await;
        let echo = answer.json()["Warnings"][0].as_str().expect("a text").to_owned();
        serde_json::from_str::<serde_json::Value>(&echo).expect("JSON")["HostConfig"].clone()
    };
    let newest = at("1.43").await;
    assert_eq!(newest["ConsoleSize"], json!([1, 2]));
    assert_eq!(newest["Annotations"], json!({"a": "b"}));
    assert_eq!(newest.get("KernelMemory"), None, "it went with 1.42");
    let older = at("1.41").await;
    assert_eq!(older["ConsoleSize"], json!(null));
    assert_eq!(older.get("Annotations"), None);
}

#[tokio::test]
async fn json_is_written_as_it_is() {
    let answer = call(&Fake::default(), "GET", "/containers/x/json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.body.contains("<a> & b"), "{}", answer.body);
    assert!(answer.body.ends_with("}\n"));
}

#[tokio::test]
async fn not_modified_has_no_body() {
    let answer = call(&Fake::default(), "POST", "/containers/x/stop").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::NOT_MODIFIED, "")
    );
    assert_eq!(answer.header("content-type"), "");
}

#[tokio::test]
async fn a_panic_is_a_500() {
    let answer = call(&Fake::default(), "POST", "/containers/x/pause").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!answer.message().contains("panics"), "{}", answer.body);
}

#[tokio::test]
async fn streams_are_records() {
    let engine = Fake::default();
    let events = call(&engine, "GET", "/events").await;
    assert_eq!(events.header("content-type"), "application/json");
    assert_eq!(events.body.lines().count(), 2);
    assert!(events.body.ends_with("}\n") && !events.body.contains('\r'));
    let pull = call(&engine, "POST", "/images/create?fromImage=alpine").await;
    assert_eq!(pull.status, StatusCode::OK);
    assert_eq!(
        pull.body,
        "{\"progressDetail\":{},\"status\":\"Pulling\"}\r\n\
         {\"error\":\"no such registry\",\"errorDetail\":{\"message\":\"no such registry\"}}\r\n"
    );
}

#[tokio::test]
async fn output_has_the_type_of_its_framing_and_version() {
    const RAW: &str = "application/vnd.docker.raw-stream";
    for (path, content_type) in [
        ("/containers/x/logs", "application/vnd.docker.multiplexed-stream"),
        ("/v1.41/containers/x/logs", RAW),
        ("/containers/terminal/logs", RAW),
    ] {
        let answer = call(&Fake::default(), "GET", path).await;
        assert_eq!(answer.header("content-type"), content_type, "{path}");
        assert_eq!(answer.body, "\x01\0\0\0\0\0\0\x02hi");
    }
}

#[tokio::test]
async fn declared_headers_go_out() {
    let engine = Fake::default();
    let archive = call(&engine, "GET", "/containers/x/archive?path=/etc").await;
    assert_eq!(archive.header("x-docker-container-path-stat"), "/etc");
    assert_eq!(archive.header("content-type"), "application/x-tar");
    assert_eq!(archive.body, "tar");
    let ping = call(&engine, "GET", "/_ping").await;
    assert_eq!(ping.body, "OK");
    assert_eq!(ping.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(
        ping.header("cache-control"),
        "no-cache, no-store, must-revalidate"
    );
    assert_eq!(ping.header("swarm"), "inactive");
}

#[tokio::test]
async fn other_bodies_are_streamed() {
    let engine = Fake::default();
    let request = Request::put("/containers/x/archive?path=/")
        .header("content-type", "application/x-tar")
        .body(Body::from(vec![0; 5 << 20]));
    let answer = send(&engine, request.expect("a request")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(engine.seen(), ["application/x-tar 5242880"]);
}

#[tokio::test]
async fn request_headers_are_arguments() {
    let engine = Fake::default();
    let request = Request::post("/images/create?fromImage=a&tag=b")
        .header("X-Registry-Auth", "e30=")
        .body(Body::empty());
    send(&engine, request.expect("a request")).await;
    let seen = engine.seen().pop().unwrap_or_default();
    assert!(
        seen.contains("from_image: \"a\"") && seen.contains("x_registry_auth: \"e30=\""),
        "{seen}"
    );
}

#[tokio::test]
async fn the_document_is_that_of_the_version() {
    let engine = Fake::default();
    let newest = call(&engine, "GET", "/openapi.json").await.json();
    let oldest = call(&engine, "GET", "/v1.24/openapi.json").await.json();
    assert_eq!(oldest["info"]["version"], "1.24");
    assert_eq!(oldest["servers"][0]["url"], "/v1.24");
    assert!(newest["paths"].get("/containers/prune").is_some());
    assert!(oldest["paths"].get("/containers/prune").is_none());
    let host_config = |document: &serde_json::Value| {
        document["components"]["schemas"]["HostConfig"]["allOf"][1]["properties"].clone()
    };
    assert!(host_config(&newest).get("Annotations").is_some());
    assert!(host_config(&oldest).get("Annotations").is_none());
    let parameters = |document: &serde_json::Value| {
        document["paths"]["/containers/{id}/stop"]["post"]["parameters"].to_string()
    };
    assert!(parameters(&newest).contains("\"signal\"") && !parameters(&oldest).contains("\"signal\""));
}

/// The document's own examples of request bodies are what the generated types take.
#[tokio::test]
async fn examples_of_bodies_are_read() {
    let engine = Fake::default();
    let document: serde_json::Value = serde_json::from_str(berth_api::OPENAPI_JSON).expect("JSON");
    let mut read = 0;
    for operation in operations() {
        let method = operation.method.as_str().to_lowercase();
        let body =
            &document["paths"][operation.path][method.as_str()]["requestBody"]["content"]["application/json"];
        let Some(example) = body.get("example") else {
            continue;
        };
        let path = operation.path.replace("{id}", "x").replace("{name}", "x");
        let uri = format!("{path}?version=1&remote=x&name=x");
        let answer = call_json(&engine, operation.method.as_str(), &uri, example.to_string()).await;
        assert_ne!(answer.status, StatusCode::BAD_REQUEST, "{uri}: {}", answer.body);
        read += 1;
    }
    assert!(read > 20, "only {read} bodies have an example");
}

#[tokio::test]
async fn a_takeover_may_turn_out_to_be_none() {
    let answer = call(&Fake::default(), "POST", "/containers/detached/attach").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, ""));
}
