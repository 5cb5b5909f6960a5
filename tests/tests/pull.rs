//! Pulls from registries of all kinds.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use berth_tests::{
    Engine,
    client::query,
    image::{Compression, Image, Tar, digest},
    registry::{Answer, Content, DockerRegistry, Scripted, Send},
};
use serde_json::{Value, json};

fn auth(user: &str, password: &str) -> String {
    URL_SAFE.encode(json!({"username": user, "password": password}).to_string())
}

async fn pull(engine: &Engine, name: &str, tag: &str) -> Vec<Value> {
    let path = format!("/images/create{}", query(&[("fromImage", name), ("tag", tag)]));
    let records = engine.api.post(&path).await.expect(200).records();
    assert!(
        records.iter().all(|record| record.get("error").is_none()),
        "{records:?}"
    );
    records
}

fn statuses(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .filter_map(|record| record["status"].as_str())
        .collect()
}

#[tokio::test]
async fn an_image_in_every_compression_and_its_progress() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    for (tag, compression) in [
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
    ] {
        content.image(tag, &Image::small("x", tag), compression);
    }
    let target = digest(&content.manifests["gzip"].1);
    let registry = Scripted::start(content, |_, _| None).await;
    let name = format!("{}/team/app", registry.authority);
    for tag in ["none", "zstd", "gzip"] {
        let records = pull(&engine, &name, tag).await;
        let said = statuses(&records);
        assert_eq!(said.first(), Some(&"Pulling from team/app"));
        assert_eq!(records[0]["id"], tag);
        for word in ["Pulling fs layer", "Download complete", "Pull complete"] {
            assert!(said.contains(&word), "{word} in {said:?}");
        }
        let last = format!("Status: Downloaded newer image for {name}:{tag}");
        assert_eq!(said.last(), Some(&last.as_str()));
    }
    let again = pull(&engine, &name, "gzip").await;
    let said = statuses(&again);
    assert!(said.contains(&format!("Digest: {target}").as_str()), "{said:?}");
    let last = format!("Status: Image is up to date for {name}:gzip");
    assert_eq!(said.last(), Some(&last.as_str()));
    let seen = engine
        .api
        .get(&format!("/images/{name}:gzip/json"))
        .await
        .expect(200)
        .json();
    assert_eq!(seen["RepoDigests"], json!([format!("{name}@{target}")]));
    // By digest, without fetching anything twice.
    pull(&engine, &name, &target).await;
    engine
        .api
        .get(&format!("/images/{name}@{target}/json"))
        .await
        .expect(200);
    let blobs = registry.asked().iter().filter(|a| a.blob().is_some()).count();
    assert_eq!(blobs, 6, "three layers and three configurations");
    let path = format!("/images/create{}", query(&[("fromImage", &name)]));
    let all = engine.api.post(&path).await.expect(200).records();
    assert_eq!(
        all.iter()
            .filter(|r| r["status"] == "Pulling from team/app")
            .count(),
        3
    );
    engine.finish().await;
}

#[tokio::test]
async fn names_that_cannot_be_pulled() {
    let engine = Engine::start().await;
    for (name, tag, platform, status) in [
        ("x/UPPER", "t", "", 400),
        ("x", "-bad", "", 400),
        ("x", "sha256:12", "", 400),
        ("x", "t", "a/b/c/d", 400),
        ("scratch", "latest", "", 403),
        ("127.0.0.1:1/x", "latest", "", 500),
    ] {
        let path = format!(
            "/images/create{}",
            query(&[("fromImage", name), ("tag", tag), ("platform", platform)])
        );
        let reply = engine.api.post(&path).await.expect(status);
        assert!(!reply.message().is_empty());
    }
    engine.finish().await;
}

/// An image with one layer of this size that does not compress.
fn large(size: usize) -> Image {
    let mut noise = Vec::with_capacity(size);
    let mut state = 7_u64;
    while noise.len() < size {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&state.to_le_bytes());
    }
    Image::new("x", [Tar::new().file("noise", 0o644, noise)])
}

#[tokio::test]
async fn a_killed_engine_goes_on_where_it_was() {
    const PART: usize = 3 << 20;
    let mut engine = Engine::options().flag("--registry-timeout=30").start().await;
    let mut content = Content::default();
    content.image("t", &large(8 << 20), Compression::None);
    let registry = Scripted::start(content, |asked, content| {
        let bytes = asked.blob().and_then(|name| content.blobs.get(name))?;
        (bytes.len() > PART && asked.header("range").is_empty())
            .then(|| Answer::new(200, bytes.clone()).sent(Send::Stall(PART)))
    })
    .await;
    let name = format!("{}/large", registry.authority);
    let path = format!("/images/create{}", query(&[("fromImage", &name), ("tag", "t")]));
    let partial = engine.data_root().join("images/content/partial");
    let here = || -> u64 {
        let entries = std::fs::read_dir(&partial).expect("a directory");
        entries.filter_map(|e| Some(e.ok()?.metadata().ok()?.len())).sum()
    };
    let mut streaming = engine
        .api
        .call(http::Method::POST, &path)
        .open()
        .await
        .expect(200);
    while here() < PART as u64 {
        streaming.record().await.expect("the pull goes on");
    }
    engine.crash().await;
    engine
        .api
        .get(&format!("/images/{name}:t/json"))
        .await
        .expect(404);
    pull(&engine, &name, "t").await;
    engine
        .api
        .get(&format!("/images/{name}:t/json"))
        .await
        .expect(200);
    let ranges: Vec<String> = registry
        .asked()
        .iter()
        .map(|a| a.header("range").to_owned())
        .filter(|range| !range.is_empty())
        .collect();
    assert_eq!(ranges, [format!("bytes={PART}-")]);
    assert_eq!(here(), 0);
    engine.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_pull_and_the_next_goes_on() {
    const PART: usize = 2 << 20;
    let engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &large(6 << 20), Compression::None);
    let registry = Scripted::start(content, |asked, content| {
        let bytes = asked.blob().and_then(|name| content.blobs.get(name))?;
        (bytes.len() > PART && asked.header("range").is_empty())
            .then(|| Answer::new(200, bytes.clone()).sent(Send::Stall(PART)))
    })
    .await;
    let name = format!("{}/large", registry.authority);
    let path = format!("/images/create{}", query(&[("fromImage", &name), ("tag", "t")]));
    let mut streaming = engine
        .api
        .call(http::Method::POST, &path)
        .open()
        .await
        .expect(200);
    loop {
        let record = streaming.record().await.expect("the pull goes on");
        if record["progressDetail"]["current"].as_u64().unwrap_or_default() >= PART as u64 {
            break;
        }
    }
    drop(streaming);
    pull(&engine, &name, "t").await;
    let asked = registry.asked();
    assert!(
        asked
            .iter()
            .any(|a| a.header("range") == format!("bytes={PART}-"))
    );
    engine.finish().await;
}

#[tokio::test]
async fn equal_layers_are_fetched_once() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    let base = large(4 << 20);
    for tag in ["a", "b", "c"] {
        let image = base.clone().with_layer(Tar::new().file("name", 0o644, tag));
        content.image(tag, &image, Compression::Gzip);
    }
    let registry = Scripted::start(content, |_, _| None).await;
    let name = format!("{}/app", registry.authority);
    tokio::join!(
        pull(&engine, &name, "a"),
        pull(&engine, &name, "b"),
        pull(&engine, &name, "c")
    );
    let asked = registry.asked();
    let mut blobs: Vec<&str> = asked.iter().filter_map(|a| a.blob()).collect();
    let all = blobs.len();
    blobs.sort_unstable();
    blobs.dedup();
    assert_eq!(blobs.len(), all, "something was fetched twice");
    engine.finish().await;
}

#[tokio::test]
async fn credentials_stay_with_their_registry() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &Image::small("x", "secret"), Compression::Gzip);
    let elsewhere = Scripted::start(content.clone(), |_, _| None).await;
    let other = elsewhere.authority.clone();
    let registry = Scripted::start(content, move |asked, _| {
        if asked.header("authorization").is_empty() {
            return Some(Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\""));
        }
        asked.blob()?;
        Some(Answer::new(307, "").header("Location", &format!("http://{other}{}", asked.path)))
    })
    .await;
    let name = format!("{}/app", registry.authority);
    let path = format!("/images/create{}", query(&[("fromImage", &name), ("tag", "t")]));
    let call = engine.api.call(http::Method::POST, &path);
    let reply = call
        .header("x-registry-auth", &auth("u", "hidden-word"))
        .send()
        .await
        .expect(200);
    assert!(!reply.text().contains("\"error\""), "{}", reply.text());
    let there = elsewhere.asked();
    assert!(!there.is_empty());
    assert!(there.iter().all(|a| a.header("authorization").is_empty()));
    assert!(!engine.log().contains("hidden-word"));
    engine.finish().await;
}

#[tokio::test]
async fn a_token_that_ends_is_renewed() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &Image::small("x", "token"), Compression::Gzip);
    // Each token is good for one request.
    let registry = Scripted::start(content, |asked, _| {
        if let Some(query) = asked.path.strip_prefix("/token?") {
            assert!(query.contains("scope=repository%3Aapp%3Apull"), "{query}");
            let token = format!("token-{}", asked.before);
            return Some(Answer::new(200, json!({"token": token, "expires_in": 300}).to_string()));
        }
        let good = asked.before > 0 && asked.header("authorization").starts_with("Bearer token-");
        (!good).then(|| {
            let challenge = format!(
                "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:app:pull\",error=\"invalid_token\"",
                asked.header("host")
            );
            Answer::new(401, "").header("WWW-Authenticate", &challenge)
        })
    })
    .await;
    let name = format!("{}/app", registry.authority);
    pull(&engine, &name, "t").await;
    engine.finish().await;
}

#[tokio::test]
async fn mirrors_come_first_and_the_registry_after_them() {
    let mut content = Content::default();
    content.image("t", &Image::small("x", "mirrored"), Compression::Gzip);
    let broken = Scripted::start(Content::default(), |_, _| None).await;
    let mirror = Scripted::start(content, |_, _| None).await;
    let engine = Engine::options()
        .flag(format!("--registry-mirror=http://{}", broken.authority))
        .flag(format!("--registry-mirror=http://{}", mirror.authority))
        .flag(format!(
            "--registry-mirror=quay.example/team=http://{}/cache",
            mirror.authority
        ))
        .start()
        .await;
    pull(&engine, "app", "t").await;
    engine.api.get("/images/app:t/json").await.expect(200);
    pull(&engine, "quay.example/team/app", "t").await;
    let asked = mirror.asked();
    assert!(asked.iter().any(|a| a.path == "/v2/library/app/manifests/t"));
    assert!(asked.iter().any(|a| a.path == "/v2/cache/team/app/manifests/t"));
    assert!(!broken.asked().is_empty());
    engine.finish().await;
}

#[tokio::test]
async fn search_login_and_inspection_say_what_the_registry_says() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &Image::small("x", "asked"), Compression::Gzip);
    let target = digest(&content.manifests["t"].1);
    let found = json!({"num_results": 2, "results": [
        {"name": "app", "description": "one", "star_count": 7, "is_official": true},
        {"name": "team/app", "description": null, "star_count": 1, "is_official": false},
    ]});
    let registry = Scripted::start(content, move |asked, _| {
        let authorization = asked.header("authorization");
        if asked.path == "/v2/" && authorization != "Basic dTpw" {
            return Some(
                Answer::error(401, "UNAUTHORIZED", "authentication required")
                    .header("WWW-Authenticate", "Basic realm=\"r\""),
            );
        }
        if asked.manifest() == Some("closed") {
            return Some(Answer::error(403, "DENIED", "closed"));
        }
        asked
            .path
            .starts_with("/v1/search?q=app")
            .then(|| Answer::new(200, found.to_string()))
    })
    .await;
    let at = &registry.authority;
    let term = format!("{at}/app");
    let all = engine
        .api
        .get(&format!("/images/search{}", query(&[("term", &term)])))
        .await;
    assert_eq!(all.expect(200).json()[0]["name"], "app");
    let filter = json!({"is-official": ["false"]}).to_string();
    let path = format!(
        "/images/search{}",
        query(&[("term", &term), ("filters", &filter)])
    );
    assert_eq!(
        engine.api.get(&path).await.expect(200).json()[0]["name"],
        "team/app"
    );
    for (term, limit, status) in [
        ("", "25", 400),
        (term.as_str(), "101", 400),
        ("127.0.0.1:1/x", "5", 500),
    ] {
        let path = format!("/images/search{}", query(&[("term", term), ("limit", limit)]));
        engine.api.get(&path).await.expect(status);
    }
    let empty = Scripted::start(Content::default(), |_, _| None).await;
    let path = format!(
        "/images/search{}",
        query(&[("term", &format!("{}/x", empty.authority))])
    );
    engine.api.get(&path).await.expect(501);

    let login = |password: &str| json!({"username": "u", "password": password, "serveraddress": at});
    let reply = engine
        .api
        .post_json("/auth", &login("p"))
        .await
        .expect(200)
        .json();
    assert_eq!(reply, json!({"Status": "Login Succeeded", "IdentityToken": ""}));
    engine.api.post_json("/auth", &login("wrong")).await.expect(401);
    engine
        .api
        .post_json("/auth", &json!({"auth": "!"}))
        .await
        .expect(400);
    let nobody = json!({"username": "u", "password": "p", "serveraddress": "127.0.0.1:1"});
    engine.api.post_json("/auth", &nobody).await.expect(500);

    let seen = engine
        .api
        .get(&format!("/distribution/{at}/app:t/json"))
        .await
        .expect(200)
        .json();
    assert_eq!(seen["Descriptor"]["digest"], target);
    assert_eq!(seen["Platforms"][0]["os"], "linux");
    engine
        .api
        .get(&format!("/distribution/{at}/app:nothing/json"))
        .await
        .expect(404);
    engine
        .api
        .get(&format!("/distribution/{at}/app:closed/json"))
        .await
        .expect(403);
    engine
        .api
        .get("/distribution/127.0.0.1:1/x/json")
        .await
        .expect(500);
    engine.api.get("/distribution/UPPER:x/json").await.expect(400);
    engine
        .api
        .call(http::Method::GET, &format!("/distribution/{at}/app:t/json"))
        .header("x-registry-auth", "!")
        .send()
        .await
        .expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn the_command_line_pulls_with_tls_and_a_password() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let own = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)
        .and_then(|p| p.signed_by(&own, &issuer))
        .expect("a certificate");
    // The password is "pass-word".
    let users = "u:$2y$05$dxKgEvG9cC7e2P8xYwhXburBka6FOVgSoVtUUUAF0uumKQM5CODIG\n";
    let registry = DockerRegistry::with_files(
        "  tls: {certificate: {root}/cert.pem, key: {root}/key.pem}\n",
        "auth: {htpasswd: {realm: r, path: {root}/users}}\n",
        &[
            ("cert.pem", certificate.pem().as_bytes()),
            ("key.pem", own.serialize_pem().as_bytes()),
            ("users", users.as_bytes()),
        ],
    )
    .await;
    let certs = tempfile::tempdir().expect("a directory");
    let dir = certs.path().join(&registry.authority);
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("ca.crt"), issuer.pem()).expect("a file");
    let engine = Engine::options()
        .flag(format!("--registry-certs={}", certs.path().display()))
        .start()
        .await;
    let name = registry.name("secure/app:v1");
    engine.api.load(&Image::busybox().tagged(&name)).await;
    let error = engine.docker(&["push", &name]).await.fails(1);
    assert!(
        error.contains("no basic auth credentials") || error.contains("authentication required"),
        "{error}"
    );
    let login = ["login", "-u", "u", "--password-stdin", &registry.authority];
    let error = engine.docker_with(&login, b"wrong").await.fails(1);
    assert!(error.contains("unauthorized"), "{error}");
    let out = engine.docker_with(&login, b"pass-word").await.ok();
    assert!(out.contains("Login Succeeded"), "{out}");
    engine.docker(&["push", &name]).await.ok();
    engine.docker(&["rmi", &name]).await.ok();
    let out = engine.docker(&["pull", &name]).await.ok();
    assert!(out.contains("Status: Downloaded newer image for"), "{out}");
    let said = engine
        .docker(&["run", "--rm", "--network=none", &name, "echo", "from a registry"])
        .await
        .ok();
    assert_eq!(said, "from a registry");
    let error = engine
        .docker(&["pull", &registry.name("secure/app:none")])
        .await
        .fails(1);
    assert!(error.contains("not found: manifest unknown"), "{error}");
    registry.stop().await;
    engine.finish().await;
}
