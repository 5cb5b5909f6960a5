//! Who may read and write registries, and how engines get there: token servers, refresh tokens, certificates of
//! clients, proxies.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use berth_tests::{
    Engine,
    client::query,
    image::{Compression, Image},
    registry::{Answer, Asked, Content, DockerRegistry, Scripted},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SigningKey as _,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

const PASSWORD: &str = "pass-word";

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate and its key, in PEM.
fn certificate(
    names: &[&str],
    issuer: &CertifiedIssuer<'_, KeyPair>,
    usage: ExtendedKeyUsagePurpose,
) -> [String; 2] {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("parameters");
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    [certificate.pem(), key.serialize_pem()]
}

/// The numbers of an ECDSA signature one after the other (RFC 7515, appendix A.3), out of their DER.
fn joined(der: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        numbers.extend(std::iter::repeat_n(0, 32 - number.len()));
        numbers.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    numbers
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = std::str::from_utf8(&digits).expect("digits").to_owned();
                u8::from_str_radix(&digits, 16).expect("a number")
            }
            other => other,
        });
    }
    String::from_utf8(bytes).expect("text")
}

/// All values of a key in a query or form.
fn values(text: &str, key: &str) -> Vec<String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| percent_decoded(value))
        .collect()
}

/// Signs what docker-registry takes for a token (the JWT of Docker's token authentication).
struct Tokens {
    key: KeyPair,
    /// Its certificate, DER in base64 and PEM.
    certificate: (String, String),
}

impl Tokens {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["tokens".to_owned()]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            certificate: (STANDARD.encode(certificate.der()), certificate.pem()),
            key,
        }
    }

    fn token(&self, scopes: &[String]) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time")
            .as_secs();
        let access: Vec<Value> = scopes
            .iter()
            .flat_map(|scope| scope.split(' '))
            .filter_map(|scope| {
                let (rest, actions) = scope.rsplit_once(':')?;
                let (kind, name) = rest.split_once(':')?;
                let actions: Vec<&str> = actions.split(',').collect();
                Some(json!({"type": kind, "name": name, "actions": actions}))
            })
            .collect();
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate.0]});
        let claims = json!({"iss": "issuer", "sub": "u", "aud": "service", "exp": now + 300, "nbf": now - 10,
            "iat": now, "jti": "1", "access": access});
        let text = [head, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
            .join(".");
        let signature = self.key.sign(text.as_bytes()).expect("a signature");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(joined(&signature)))
    }

    /// What a token server answers.
    fn answer(&self, asked: &Asked) -> Answer {
        let refused = || Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
        let body = String::from_utf8_lossy(&asked.body).into_owned();
        if asked.method == "POST" {
            let good = values(&body, "grant_type") == ["refresh_token"]
                && values(&body, "refresh_token") == ["refresh-1"];
            let token = self.token(&values(&body, "scope"));
            return match good {
                true => Answer::new(200, json!({"access_token": token, "expires_in": 300}).to_string()),
                false => refused(),
            };
        }
        let expected = format!("Basic {}", STANDARD.encode(format!("u:{PASSWORD}")));
        if asked.header("authorization") != expected {
            return refused();
        }
        let query = asked.path.split_once('?').map_or("", |(_, query)| query);
        let mut answer = json!({"token": self.token(&values(query, "scope")), "expires_in": 300});
        if values(query, "offline_token") == ["true"] && values(query, "service") == ["service"] {
            answer["refresh_token"] = json!("refresh-1");
        }
        Answer::new(200, answer.to_string())
    }
}

#[tokio::test]
async fn a_token_server_lets_the_command_line_push_and_pull() {
    let mut engine = Engine::start().await;
    let tokens = Tokens::new();
    let bundle = tokens.certificate.1.clone();
    let server = Scripted::start(Content::default(), move |asked, _| {
        asked.path.starts_with("/token").then(|| tokens.answer(asked))
    })
    .await;
    let settings = format!(
        "auth: {{token: {{realm: \"http://{}/token\", service: service, issuer: issuer, rootcertbundle: \"{{root}}/token.pem\"}}}}\n",
        server.authority
    );
    let registry = DockerRegistry::with_files("", &settings, &[("token.pem", bundle.as_bytes())]).await;
    let name = registry.name("team/app:v1");
    engine.api.load(&Image::busybox().tagged(&name)).await;
    let error = engine.docker(&["push", &name]).await.fails(1);
    assert!(
        error.contains("unauthorized") || error.contains("incorrect username"),
        "{error}"
    );
    let login = ["login", "-u", "u", "--password-stdin", &registry.authority];
    engine.docker_with(&login, b"wrong").await.fails(1);
    let out = engine.docker_with(&login, PASSWORD.as_bytes()).await.ok();
    assert!(out.contains("Login Succeeded"), "{out}");
    let since = server.asked().len();
    engine.docker(&["push", &name]).await.ok();
    engine.docker(&["rmi", &name]).await.ok();
    engine.docker(&["pull", &name]).await.ok();
    let other = registry.name("other/app:v1");
    engine.docker(&["tag", &name, &other]).await.ok();
    let out = engine.docker(&["push", &other]).await.ok();
    assert!(out.contains("Mounted from team/app"), "{out}");
    let said = engine
        .docker(&["run", "--rm", "--network=none", &other, "echo", "in"])
        .await
        .ok();
    assert_eq!(said, "in");
    // From the login on the refresh token takes the place of the password.
    let asked = server.asked();
    assert!(
        asked[since..]
            .iter()
            .all(|asked| asked.method == "POST" && asked.header("authorization").is_empty())
    );
    // The engine keeps nothing of them.
    engine.crash().await;
    let path = format!(
        "/images/create{}",
        query(&[("fromImage", &registry.name("team/app")), ("tag", "none")])
    );
    let refused = engine.api.post(&path).await;
    assert!(
        matches!(refused.status().as_u16(), 401 | 404),
        "{}",
        refused.text()
    );
    let kept = tokio::process::Command::new("grep")
        .args(["-rlE", &format!("refresh-1|{PASSWORD}")])
        .arg(engine.data_root())
        .output()
        .await
        .expect("grep runs");
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
    assert!(!engine.log().contains(PASSWORD) && !engine.log().contains("refresh-1"));
    registry.stop().await;
    engine.finish().await;
}

#[tokio::test]
async fn certificates_of_clients_are_shown_to_their_registry() {
    let issuer = authority();
    let [cert, key] = certificate(&["127.0.0.1"], &issuer, ExtendedKeyUsagePurpose::ServerAuth);
    let [own_cert, own_key] = certificate(&["client"], &issuer, ExtendedKeyUsagePurpose::ClientAuth);
    let ca = issuer.pem();
    let registry = DockerRegistry::with_files(
        "  tls: {certificate: {root}/cert.pem, key: {root}/key.pem, clientcas: [{root}/ca.pem]}\n",
        "",
        &[
            ("cert.pem", cert.as_bytes()),
            ("key.pem", key.as_bytes()),
            ("ca.pem", ca.as_bytes()),
        ],
    )
    .await;
    let certs = tempfile::tempdir().expect("a directory");
    let dir = certs.path().join(&registry.authority);
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("ca.crt"), &ca).expect("a file");
    let flag = format!("--registry-certs={}", certs.path().display());
    let stranger = Engine::options().flag(flag.clone()).start().await;
    let name = registry.name("closed/app:v1");
    stranger.api.load(&Image::small(&name, "closed")).await;
    stranger.docker(&["push", &name]).await.fails(1);
    stranger.finish().await;
    std::fs::write(dir.join("client.cert"), own_cert).expect("a file");
    let engine = Engine::options().flag(flag.clone()).start().await;
    engine.api.load(&Image::small(&name, "closed")).await;
    let error = engine.docker(&["push", &name]).await.fails(1);
    assert!(
        error.contains("missing") && error.contains("client.key"),
        "{error}"
    );
    engine.finish().await;
    std::fs::write(dir.join("client.key"), own_key).expect("a file");
    let engine = Engine::options().flag(flag).start().await;
    engine.api.load(&Image::small(&name, "closed")).await;
    engine.docker(&["push", &name]).await.ok();
    engine.docker(&["rmi", &name]).await.ok();
    engine.docker(&["pull", &name]).await.ok();
    registry.stop().await;
    engine.finish().await;
}

/// A proxy that knows one host, whatever it is asked for, and says which hosts it was asked for.
async fn proxy(
    to: String,
) -> (
    String,
    std::sync::Arc<std::sync::Mutex<Vec<String>>>,
    tokio::task::JoinHandle<()>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let asked: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let log = std::sync::Arc::clone(&asked);
    let task = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (to, log) = (to.clone(), std::sync::Arc::clone(&log));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match client.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let line = String::from_utf8_lossy(&head)
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                log.lock().expect("no panic").push(line.clone());
                let Ok(mut server) = TcpStream::connect(&to).await else {
                    return;
                };
                if line.starts_with("CONNECT ") && !line.contains(" registry.test:443 ") {
                    let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
                    return;
                }
                if line.starts_with("CONNECT ") {
                    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                } else {
                    let _ = server.write_all(&head).await;
                }
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, asked, task)
}

#[tokio::test]
async fn proxies_of_the_environment_are_used() {
    let issuer = authority();
    let [cert, key] = certificate(&["registry.test"], &issuer, ExtendedKeyUsagePurpose::ServerAuth);
    let secure = DockerRegistry::with_files(
        "  tls: {certificate: {root}/cert.pem, key: {root}/key.pem}\n",
        "",
        &[("cert.pem", cert.as_bytes()), ("key.pem", key.as_bytes())],
    )
    .await;
    let certs = tempfile::tempdir().expect("a directory");
    let dir = certs.path().join("registry.test");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("ca.crt"), issuer.pem()).expect("a file");
    let mut content = Content::default();
    content.image("t", &Image::small("x", "by a proxy"), Compression::Gzip);
    let plain = Scripted::start(content, |_, _| None).await;
    let (https, tunnels, first) = proxy(secure.authority.clone()).await;
    let (http, asked, second) = proxy(plain.authority.clone()).await;
    let engine = Engine::options()
        .flag(format!("--registry-certs={}", certs.path().display()))
        .flag("--insecure-registry=plain.test")
        .flag("--max-download-attempts=1")
        .env("HTTPS_PROXY", &format!("http://{https}"))
        .env("HTTP_PROXY", &format!("http://{http}"))
        .env("NO_PROXY", "direct.test")
        .start()
        .await;
    engine
        .api
        .load(&Image::small("registry.test/app:t", "by a tunnel"))
        .await;
    engine.docker(&["push", "registry.test/app:t"]).await.ok();
    engine.docker(&["rmi", "registry.test/app:t"]).await.ok();
    engine.docker(&["pull", "registry.test/app:t"]).await.ok();
    let seen = tunnels.lock().expect("no panic").clone();
    assert!(
        seen.iter()
            .all(|line| line.starts_with("CONNECT registry.test:443 ")),
        "{seen:?}"
    );
    engine.docker(&["pull", "plain.test/app:t"]).await.ok();
    let seen = asked.lock().expect("no panic").clone();
    assert!(
        seen.iter()
            .any(|line| line.starts_with("GET http://plain.test/v2/app/manifests/")),
        "{seen:?}"
    );
    let path = format!(
        "/images/create{}",
        query(&[("fromImage", "direct.test/app"), ("tag", "t")])
    );
    engine.api.post(&path).await.expect(500);
    let all = [
        tunnels.lock().expect("no panic").clone(),
        asked.lock().expect("no panic").clone(),
    ]
    .concat();
    assert!(!all.iter().any(|line| line.contains("direct.test")), "{all:?}");
    first.abort();
    second.abort();
    secure.stop().await;
    engine.finish().await;
}

#[tokio::test]
async fn a_build_pulls_with_the_credentials_of_its_header() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &Image::small("x", "base"), Compression::Gzip);
    let expected = format!("Basic {}", STANDARD.encode(format!("u:{PASSWORD}")));
    let registry = Scripted::start(content, move |asked, _| {
        let known = asked.header("authorization") == expected;
        (!known).then(|| Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\""))
    })
    .await;
    let name = format!("{}/app:t", registry.authority);
    let context = || {
        berth_tests::image::Tar::new()
            .file("Dockerfile", 0o644, format!("FROM {name}\nENV A=b\n"))
            .finish()
    };
    let config = json!({registry.authority.clone(): {"username": "u", "password": PASSWORD}, "other.example": {"username": "x"}});
    let call = |header: String| {
        let call = engine
            .api
            .call(http::Method::POST, "/build?t=made")
            .bytes(context());
        call.header("content-type", "application/x-tar")
            .header("x-registry-config", &header)
    };
    let refused = call("e30=".to_owned()).send().await;
    assert!(
        !refused.text().contains("Successfully built"),
        "{}",
        refused.text()
    );
    let built = call(URL_SAFE.encode(config.to_string())).send().await.expect(200);
    assert!(built.text().contains("Successfully built"), "{}", built.text());
    engine.finish().await;
}
