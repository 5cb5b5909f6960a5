//! A registry that does everything wrong: each pull ends in a known way, and leaves nothing behind.

use std::{collections::BTreeSet, fs, sync::Arc};

use berth_tests::{
    Engine,
    client::query,
    image::{Compression, Image, Tar, digest},
    registry::{Answer, Asked, Content, DOCKER_MANIFEST, INDEX, MANIFEST, Scripted, Send, usual},
};
use serde_json::{Value, json};

/// How a pull has to end.
enum End {
    /// The image is there.
    Pulled,
    /// A status, and words of the message.
    Status(u16, &'static str),
    /// Status 200, and words of the error in the stream.
    Stream(&'static str),
}
use End::{Pulled, Status, Stream};

type Script = Box<dyn Fn(&Asked, &Content) -> Option<Answer> + std::marker::Send + Sync>;

struct Case {
    name: &'static str,
    content: Content,
    script: Script,
    platform: &'static str,
    end: End,
}

/// An image whose layer is larger than any buffer, and does not compress.
fn image() -> Image {
    let mut noise = Vec::with_capacity(3 << 20);
    let mut state = 1_u64;
    while noise.len() < 3 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&state.to_le_bytes());
    }
    Image::small("t", "faulty").with_layer(Tar::new().file("noise", 0o644, noise))
}

fn good() -> Content {
    let mut content = Content::default();
    content.image("t", &image(), Compression::Gzip);
    content
}

/// Only the second and larger layer has this many bytes.
fn is_large(asked: &Asked, content: &Content) -> bool {
    asked
        .blob()
        .and_then(|name| content.blobs.get(name))
        .is_some_and(|bytes| bytes.len() > 1 << 20)
}

fn case(
    name: &'static str,
    script: impl Fn(&Asked, &Content) -> Option<Answer> + std::marker::Send + Sync + 'static,
    end: End,
) -> Case {
    Case {
        name,
        content: good(),
        script: Box::new(script),
        platform: "",
        end,
    }
}

/// A fault in the first manifest.
fn manifest(
    name: &'static str,
    fault: impl Fn(&Asked) -> Option<Answer> + std::marker::Send + Sync + 'static,
    end: End,
) -> Case {
    case(
        name,
        move |asked, _| asked.manifest().and_then(|_| fault(asked)),
        end,
    )
}

/// A fault in the large layer.
fn layer(
    name: &'static str,
    fault: impl Fn(&Asked, Answer) -> Option<Answer> + std::marker::Send + Sync + 'static,
    end: End,
) -> Case {
    case(
        name,
        move |asked, content| match is_large(asked, content) {
            true => fault(asked, usual(asked, content)),
            false => None,
        },
        end,
    )
}

/// A manifest that is wrong in itself.
fn document(name: &'static str, change: impl Fn(&mut Content, &mut Value), end: End) -> Case {
    let mut content = Content::default();
    let mut document = content.manifest(&image(), Compression::Gzip);
    change(&mut content, &mut document);
    content.document("t", MANIFEST, &document);
    Case {
        name,
        content,
        script: Box::new(|_, _| None),
        platform: "",
        end,
    }
}

fn manifests() -> Vec<Case> {
    vec![
        manifest(
            "404",
            |_| Some(Answer::error(404, "MANIFEST_UNKNOWN", "no such")),
            Status(404, "manifest for"),
        ),
        manifest(
            "404 without words",
            |_| Some(Answer::new(404, "")),
            Status(404, "not found"),
        ),
        manifest(
            "404 page",
            |_| Some(Answer::new(404, "<html>gone</html>")),
            Status(404, "gone"),
        ),
        manifest(
            "unknown name",
            |_| Some(Answer::error(404, "NAME_UNKNOWN", "who")),
            Status(404, "repository"),
        ),
        manifest(
            "401 without a challenge",
            |_| Some(Answer::new(401, "")),
            Status(404, "pull access denied"),
        ),
        manifest(
            "403",
            |_| Some(Answer::error(403, "DENIED", "go away")),
            Status(404, "denied: go away"),
        ),
        manifest(
            "400",
            |_| Some(Answer::error(400, "NAME_INVALID", "bad name")),
            Status(500, "name invalid: bad name"),
        ),
        manifest("418", |_| Some(Answer::new(418, "tea")), Status(500, "418")),
        manifest(
            "500 always",
            |_| Some(Answer::new(500, "oops")),
            Status(500, "oops"),
        ),
        manifest(
            "503 once",
            |a| (a.before == 0).then(|| Answer::new(503, "")),
            Pulled,
        ),
        manifest(
            "502 twice",
            |a| (a.before < 2).then(|| Answer::new(502, "")),
            Pulled,
        ),
        manifest(
            "429 with a date to come back",
            |a| (a.before == 0).then(|| Answer::new(429, "").header("Retry-After", "0")),
            Pulled,
        ),
        manifest(
            "429 always",
            |_| {
                Some(
                    Answer::error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit")
                        .header("Retry-After", "0"),
                )
            },
            Status(500, "pull rate limit"),
        ),
        manifest(
            "reset always",
            |_| Some(Answer::new(200, "{}").sent(Send::Reset(0))),
            Status(500, "cannot read"),
        ),
        manifest(
            "stalled always",
            |_| Some(Answer::new(200, "{}").sent(Send::Stall(1))),
            Status(500, "did not send all"),
        ),
        manifest(
            "endless",
            |_| Some(Answer::new(200, "").sent(Send::Endless)),
            Status(500, "more than"),
        ),
        manifest(
            "too long",
            |_| Some(Answer::new(200, vec![b' '; 9 << 20])),
            Status(500, "more than"),
        ),
        manifest(
            "no JSON",
            |_| Some(Answer::new(200, "hello")),
            Status(500, "malformed"),
        ),
        manifest("empty", |_| Some(Answer::new(200, "")), Status(500, "malformed")),
        manifest(
            "wrong digest told",
            |_| Some(Answer::new(200, "{}").header("Docker-Content-Digest", &digest(b"other"))),
            Status(500, "wrong content"),
        ),
        manifest(
            "nonsense as digest",
            |_| Some(Answer::new(200, "{}").header("Docker-Content-Digest", "sha256:../../x")),
            Status(500, "says that the digest of a manifest is"),
        ),
        manifest(
            "schema 1",
            |_| {
                Some(
                    Answer::new(200, r#"{"schemaVersion":1,"name":"x","tag":"t","fsLayers":[]}"#).header(
                        "Content-Type",
                        "application/vnd.docker.distribution.manifest.v1+prettyjws",
                    ),
                )
            },
            Status(500, "schema 1"),
        ),
        manifest(
            "redirect loop",
            |a| Some(Answer::new(307, "").header("Location", &a.path)),
            Status(500, "redirects"),
        ),
        manifest(
            "redirect to nowhere",
            |_| Some(Answer::new(307, "")),
            Status(500, "without saying where"),
        ),
        manifest(
            "redirect to a file",
            |_| Some(Answer::new(302, "").header("Location", "file:///etc/passwd")),
            Status(500, "not of the web"),
        ),
        manifest(
            "401 loop",
            |_| Some(Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\"")),
            Status(404, "pull access denied"),
        ),
        manifest(
            "token server off the web",
            |_| Some(Answer::new(401, "").header("WWW-Authenticate", "Bearer realm=\"file:///etc/passwd\"")),
            Status(500, "token server that is refused"),
        ),
    ]
}

fn layers() -> Vec<Case> {
    vec![
        layer(
            "no such layer",
            |_, _| Some(Answer::error(404, "BLOB_UNKNOWN", "lost")),
            Stream("lost"),
        ),
        layer(
            "closed once",
            |a, u| (a.before == 0).then(|| u.sent(Send::Close(1 << 20))),
            Pulled,
        ),
        layer(
            "reset once",
            |a, u| (a.before == 0).then(|| u.sent(Send::Reset(1 << 20))),
            Pulled,
        ),
        layer(
            "stalled once",
            |a, u| (a.before == 0).then(|| u.sent(Send::Stall(1 << 20))),
            Pulled,
        ),
        layer(
            "closed at once, always",
            |_, u| Some(u.sent(Send::Close(0))),
            Stream("cannot read"),
        ),
        layer(
            "stalled at once, always",
            |_, u| Some(u.sent(Send::Stall(0))),
            Stream("nothing of"),
        ),
        layer(
            "500 once",
            |a, _| (a.before == 0).then(|| Answer::new(500, "")),
            Pulled,
        ),
        layer(
            "500 always",
            |_, _| Some(Answer::new(500, "burning")),
            Stream("burning"),
        ),
        layer(
            "403",
            |_, _| Some(Answer::error(403, "DENIED", "not yours")),
            Stream("not yours"),
        ),
        layer(
            "wrong content",
            |_, mut u| {
                u.body.iter_mut().skip(100).step_by(1000).for_each(|b| *b ^= 1);
                Some(u)
            },
            Stream("verification failed"),
        ),
        layer(
            "one bit, at the end",
            |_, mut u| {
                if let Some(last) = u.body.last_mut() {
                    *last ^= 1;
                }
                Some(u)
            },
            Stream("verification failed"),
        ),
        layer(
            "longer",
            |_, mut u| {
                u.body.extend_from_slice(b"more");
                Some(u)
            },
            Stream("wrong size"),
        ),
        layer(
            "longer, in chunks",
            |_, mut u| {
                u.body.extend_from_slice(b"more");
                Some(u.sent(Send::Chunked))
            },
            Stream("sends more"),
        ),
        layer("in chunks", |_, u| Some(u.sent(Send::Chunked)), Pulled),
        layer(
            "shorter",
            |_, mut u| {
                u.body.truncate(1000);
                Some(u)
            },
            Stream("wrong size"),
        ),
        layer(
            "endless",
            |_, u| Some(u.sent(Send::Endless)),
            Stream("sends more"),
        ),
        case(
            "closed once, and ranges are passed over",
            |asked, content| {
                if !is_large(asked, content) {
                    return None;
                }
                let whole = Answer::new(200, content.blobs.get(asked.blob()?)?.clone());
                Some(match asked.before {
                    0 => whole.sent(Send::Close(1 << 20)),
                    _ => whole,
                })
            },
            Pulled,
        ),
        layer(
            "closed once, then another range than asked for",
            |a, u| {
                Some(match a.before {
                    0 => u.sent(Send::Close(1 << 20)),
                    _ => Answer::new(206, "x").header("Content-Range", "bytes 5-5/6"),
                })
            },
            Stream("was asked for bytes from"),
        ),
        layer(
            "closed once, then no such range",
            |a, u| {
                Some(if a.before == 0 {
                    u.sent(Send::Close(1 << 20))
                } else {
                    Answer::new(416, "")
                })
            },
            Stream("has no more than"),
        ),
        layer(
            "redirect loop",
            |a, _| Some(Answer::new(307, "").header("Location", &a.path)),
            Stream("redirects"),
        ),
    ]
}

fn documents() -> Vec<Case> {
    vec![
        document(
            "a layer too many",
            |c, d| {
                let extra = c.blob("application/vnd.oci.image.layer.v1.tar", Tar::new().finish());
                d["layers"].as_array_mut().expect("layers").push(extra);
            },
            Status(500, "length mismatch"),
        ),
        document(
            "another layer",
            |c, d| {
                d["layers"][0] = c.blob(
                    "application/vnd.oci.image.layer.v1.tar",
                    Tar::new().file("x", 0o644, "y").finish(),
                );
            },
            Stream("diffID"),
        ),
        document(
            "no tar",
            |c, d| {
                d["layers"][0] = c.blob(
                    "application/vnd.oci.image.layer.v1.tar",
                    b"no archive at all".repeat(100),
                );
            },
            Stream(""),
        ),
        document(
            "size of the configuration",
            |_, d| d["config"]["size"] = json!(7),
            Status(500, "wrong size"),
        ),
        document(
            "huge configuration",
            |_, d| d["config"]["size"] = json!(1_u64 << 40),
            Status(500, "refused"),
        ),
        document(
            "negative size",
            |_, d| d["layers"][0]["size"] = json!(-1),
            Status(500, "invalid"),
        ),
        document(
            "huge layer",
            |_, d| d["layers"][1]["size"] = json!(1_u64 << 50),
            Stream("wrong size"),
        ),
        document(
            "climbing digest",
            |_, d| d["layers"][0]["digest"] = json!("sha256:../../../etc/passwd"),
            Status(500, "digest"),
        ),
        document(
            "other algorithm",
            |_, d| d["layers"][0]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e"),
            Status(500, "digest"),
        ),
        document(
            "index and manifest",
            |_, d| d["manifests"] = json!([]),
            Status(500, "both"),
        ),
        document(
            "an artifact",
            |_, d| {
                d["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
            },
            Status(500, "artifact"),
        ),
        document(
            "layers of an artifact",
            |_, d| {
                d["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
            },
            Status(500, "artifact"),
        ),
        document(
            "another type than told",
            |_, d| d["mediaType"] = json!(DOCKER_MANIFEST),
            Status(500, "says it is"),
        ),
        document(
            "a system of others",
            |c, d| {
                let config = String::from_utf8(image().configuration())
                    .expect("text")
                    .replace("\"linux\"", "\"windows\"");
                d["config"] = c.blob("application/vnd.oci.image.config.v1+json", config.into_bytes());
            },
            Status(500, "windows"),
        ),
        Case {
            platform: "linux/s390x",
            ..document(
                "another platform",
                |_, _| {},
                Status(404, "does not match the specified platform"),
            )
        },
        Case {
            platform: "linux/s390x",
            ..index(Status(404, "no matching manifest for linux/s390x"))
        },
        index(Pulled),
    ]
}

fn index(end: End) -> Case {
    let mut content = Content::default();
    let mut entry = content.image("own", &image(), Compression::Zstd);
    entry["platform"] =
        json!({"os": "linux", "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }});
    let mut other = content.image("other", &Image::small("t", "other"), Compression::None);
    other["platform"] = json!({"os": "linux", "architecture": "riscv64"});
    let document = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, entry]});
    content.document("t", INDEX, &document);
    Case {
        name: "an index",
        content,
        script: Box::new(|_, _| None),
        platform: "",
        end,
    }
}

async fn run(engine: &Engine, case: Case, number: usize) {
    let Case {
        name,
        content,
        script,
        platform,
        end,
    } = case;
    let registry = Scripted::start(content, script).await;
    let image = format!("{}/case{number}", registry.authority);
    let path = format!(
        "/images/create{}",
        query(&[("fromImage", &image), ("tag", "t"), ("platform", platform)])
    );
    let reply = engine.api.post(&path).await;
    let known = engine.api.get(&format!("/images/{image}:t/json")).await.status();
    let status = reply.status().as_u16();
    let last = if status == 200 {
        reply.records().pop().unwrap_or_default()
    } else {
        Value::Null
    };
    let error = last["error"].as_str();
    match end {
        Pulled => {
            assert_eq!((status, error), (200, None), "{name}: {}", reply.text());
            assert_eq!(known, 200, "{name}");
            engine.api.delete(&format!("/images/{image}:t")).await.expect(200);
        }
        Status(expected, words) => {
            assert_eq!(status, expected, "{name}: {}", reply.text());
            assert!(reply.message().contains(words), "{name}: {}", reply.message());
            assert_eq!(known, 404, "{name}");
        }
        Stream(words) => {
            assert_eq!(status, 200, "{name}: {}", reply.text());
            let error = error.unwrap_or_else(|| panic!("{name} has not failed: {}", reply.text()));
            assert!(error.contains(words), "{name}: {error}");
            assert_eq!(known, 404, "{name}");
        }
    }
}

/// What the engine keeps of images, but for what it goes on with the next time.
fn kept(engine: &Engine) -> BTreeSet<String> {
    let root = engine.data_root().join("images");
    let names = [
        "content/blobs/sha256",
        "content/ingest",
        "layers",
        "images",
        "names",
    ]
    .map(|dir| {
        let entries = fs::read_dir(root.join(dir)).unwrap_or_else(|e| panic!("{dir}: {e}"));
        let names = entries.map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        });
        names.map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
    });
    names.into_iter().flatten().collect()
}

#[tokio::test]
async fn every_fault_ends_as_it_should_and_leaves_nothing() {
    let engine = Engine::options()
        .flag("--registry-timeout=2")
        .flag("--max-download-attempts=3")
        .flag("--max-concurrent-downloads=16")
        .start()
        .await;
    let before = kept(&engine);
    let cases: Vec<Case> = [manifests(), layers(), documents()]
        .into_iter()
        .flatten()
        .collect();
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let engine = Arc::new(engine);
    for (number, case) in cases.into_iter().enumerate() {
        run(&engine, case, number).await;
    }
    let after = kept(&engine);
    assert_eq!(before, after, "something has stayed");
    Arc::into_inner(engine)
        .expect("nobody else has it")
        .finish()
        .await;
}
