//! The page that shows the API to people. All its files are part of the program; nothing is loaded from elsewhere.

use std::sync::{Arc, OnceLock};

use axum::{body::Body, response::Response};
use http::{HeaderValue, Method, StatusCode, header};
use utoipa_swagger_ui::Config;

/// The page. Its links are relative, so it shows the document of the version under whose prefix it was asked for.
pub const PAGE: &str = r##"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Berth Engine API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
<div id="api"><p>This page needs JavaScript. The same document as text: <a href="openapi.yaml">openapi.yaml</a>.</p></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", deepLinking: true, docExpansion: "none", filter: true });
</script>
</body>
</html>
"##;

/// Files that the page needs.
const FILES: [&str; 4] = [
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "favicon-16x16.png",
    "favicon-32x32.png",
];

/// The answer to a request for a file of the page: `[/v1.43]/docs/<file>`. `None` if it is for anything else.
pub fn file(method: &Method, path: &str) -> Option<Response> {
    let name = unversioned(path).strip_prefix("/docs/")?;
    if !matches!(*method, Method::GET | Method::HEAD) || !FILES.contains(&name) {
        return None;
    }
    static CONFIG: OnceLock<Arc<Config<'static>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| Arc::new(Config::from("openapi.json")));
    let file = utoipa_swagger_ui::serve(name, Arc::clone(config)).ok()??;
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => Body::from(file.bytes.into_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(&file.content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    Some(response)
}

/// A path without its version.
fn unversioned(path: &str) -> &str {
    let version = |rest: &str| {
        let end = rest.find('/')?;
        let digits = rest.get(..end)?;
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')).then_some(end)
    };
    path.strip_prefix("/v")
        .and_then(|rest| rest.get(version(rest)?..))
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_there_under_every_prefix() {
        for name in FILES {
            for prefix in ["", "/v1.43", "/v1.24"] {
                let path = format!("{prefix}/docs/{name}");
                let response = file(&Method::GET, &path).unwrap_or_else(|| panic!("{path}"));
                assert!(response.headers().contains_key(header::CONTENT_TYPE), "{path}");
            }
        }
        let linked = PAGE.matches("docs/").count();
        assert_eq!(
            linked,
            FILES
                .iter()
                .filter(|name| PAGE.contains(&format!("docs/{name}")))
                .count()
        );
    }

    #[test]
    fn nothing_else_is() {
        for path in [
            "/docs",
            "/docs/",
            "/docs/x",
            "/vx/docs/swagger-ui.css",
            "/images/docs/swagger-ui.css/json",
        ] {
            assert!(file(&Method::GET, path).is_none(), "{path}");
        }
        assert!(file(&Method::POST, "/docs/swagger-ui.css").is_none());
    }
}
