//! What builds fetch: contexts and files by their addresses, repositories, images of registries.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use berth_tests::{
    Engine,
    build::{Told, dockerfile, started},
    client::query,
    image::{Compression, Image, Tar, digest},
    registry::DockerRegistry,
    web::Web,
};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn a_remote_is_an_archive_or_a_dockerfile() {
    let engine = started().await;
    let text = "FROM busybox\nLABEL from=afar\n";
    let archive = dockerfile(text).finish();
    let other = Tar::new()
        .file("sub/Other", 0o644, "FROM busybox\nCOPY f /f\n")
        .file("f", 0o644, "f")
        .finish();
    let web = Web::files([
        ("text", text.as_bytes().to_vec()),
        ("plain.tar", archive.clone()),
        ("packed.tar.gz", Compression::Gzip.apply(&archive)),
        ("other.tar", other),
        ("copies", b"FROM busybox\nCOPY f /f\n".to_vec()),
        ("binary", vec![0xff, 0xfe, 0, 1]),
    ])
    .await;
    for name in ["text", "plain.tar", "packed.tar.gz"] {
        let pairs = [("remote", &*web.url(name)), ("t", "remote")];
        engine.build(&pairs, Tar::new()).await.ok();
        let seen = engine.api.get("/images/remote/json").await.expect(200).json();
        assert_eq!(seen["Config"]["Labels"]["from"], "afar", "{name}");
        engine.api.delete("/images/remote").await.expect(200);
    }
    let pairs = [("remote", &*web.url("other.tar")), ("dockerfile", "sub/Other")];
    engine.build(&pairs, Tar::new()).await.ok();
    // A text comes without files.
    let failed = engine.build(&[("remote", &web.url("copies"))], Tar::new()).await;
    assert!(failed.fails().contains("file not found in build context"));
    for remote in [
        web.url("nothing"),
        web.url("binary"),
        "http://127.0.0.1:1/x".to_owned(),
    ] {
        let message = engine.build_refused(&[("remote", &remote)], Vec::new()).await;
        assert!(!message.is_empty(), "{remote}");
    }
    for remote in ["ftp://x/y", "file:///etc", "/etc", "ext::sh -c id", "-u"] {
        let message = engine.build_refused(&[("remote", remote)], Vec::new()).await;
        assert!(
            message.contains("neither http, https nor a git repository"),
            "{message}"
        );
    }
    engine.finish().await;
}

#[tokio::test]
async fn files_are_added_by_their_addresses() {
    let mut engine = started().await;
    let archive = Tar::new().file("in/side", 0o644, "x").finish();
    let web = Web::files([
        ("dir/f.txt", b"one\n".to_vec()),
        ("a.tar", archive),
        ("", b"root\n".to_vec()),
    ])
    .await;
    let url = web.url("");
    let text = format!(
        "FROM busybox\nADD {url}dir/f.txt?x=1#y /named/\nADD {url}dir/f.txt /as\nADD --chmod=755 --chown=5:6 {url}dir/f.txt /mine\n\
         ADD {url}a.tar /kept/\nADD --unpack=true {url}a.tar /unpacked/\nADD {url} /from-root\n\
         ADD --checksum={} {url}dir/f.txt /checked\n",
        digest(b"one\n")
    );
    let first = engine.build(&[("t", "added")], dockerfile(&text)).await.ok();
    assert!(first.contains("Downloading http://"), "{first}");
    let seen = engine
        .read_in(
            "added",
            "cat /named/f.txt /as /from-root /checked /unpacked/in/side; ls /kept; stat -c '%a %u:%g %Y' /as /mine",
        )
        .await;
    assert_eq!(
        seen,
        "one\none\nroot\none\nxa.tar\n600 0:0 1445412480\n755 5:6 1445412480\n"
    );

    // What has not changed is not sent again, not even to the next engine.
    engine.restart().await;
    let before = web.answers().len();
    let again = engine.build(&[], dockerfile(&text)).await.ok();
    assert_eq!(again.matches("Using cache").count(), 7, "{again}");
    let answers = web.answers().split_off(before);
    assert!(answers.iter().all(|(status, _)| *status == 304), "{answers:?}");
    let usage = engine
        .api
        .get("/system/df?type=build-cache")
        .await
        .expect(200)
        .json();
    let shown = usage["BuildCache"].to_string();
    assert!(shown.contains("http url http://"), "{shown}");
    web.change("dir/f.txt", b"two\n");
    let changed = engine.build(&[("t", "added")], dockerfile(&text)).await;
    assert!(changed.fails().contains("digest mismatch"));
    let text = text
        .replace("--checksum=", "--chmod=600 --checksum=")
        .replace(&digest(b"one\n"), &digest(b"two\n"));
    let changed = engine.build(&[("t", "added")], dockerfile(&text)).await.ok();
    // All but the last step were built when that failed.
    assert_eq!(changed.matches("Using cache").count(), 6, "{changed}");
    assert_eq!(engine.read_in("added", "cat /as").await, "two\n");

    for (line, words) in [
        (format!("ADD {url} /dir/"), "cannot determine filename from URL"),
        (format!("ADD {url}nothing /x"), "cannot download"),
        (format!("COPY {url}dir/f.txt /x"), "file not found"),
        (
            format!("ADD --checksum=sha256:00 {url}dir/f.txt /x"),
            "digest mismatch",
        ),
    ] {
        let failed = engine
            .build(&[], dockerfile(&format!("FROM busybox\n{line}\n")))
            .await;
        let error = failed.fails();
        assert!(error.contains(words), "{line}: {error}");
    }
    engine.api.post("/build/prune?all=1").await.expect(200);
    let usage = engine
        .api
        .get("/system/df?type=build-cache")
        .await
        .expect(200)
        .json();
    assert_eq!(usage["BuildCache"], json!([]));
    engine.finish().await;
}

#[tokio::test]
async fn secrets_open_what_is_closed() {
    let engine = started().await;
    let web = Web::files([("private/f", b"closed\n".to_vec())]).await;
    let text = format!("FROM busybox\nADD {} /f\nRUN cat /f\n", web.url("private/f"));
    let refused = engine.build(&[], dockerfile(&text)).await.fails();
    assert!(refused.contains("401"), "{refused}");
    for (name, value) in [
        ("HTTP_AUTH_TOKEN_127.0.0.1", "pass-word"),
        ("HTTP_AUTH_HEADER_127.0.0.1", "Bearer pass-word"),
    ] {
        let secrets = STANDARD.encode(json!({name: STANDARD.encode(value)}).to_string());
        let call = engine.api.call(Method::POST, "/build?nocache=1");
        let call = call
            .header("content-type", "application/x-tar")
            .header("x-build-secrets", &secrets);
        let reply = call.bytes(dockerfile(&text).finish()).send().await.expect(200);
        assert!(Told::of(&reply.records()).ok().contains("closed\n"));
    }
    // Who does not know it gets nothing of what was kept.
    engine.build(&[], dockerfile(&text)).await.fails();
    assert!(!engine.log().contains("pass-word"));
    engine.finish().await;
}

/// Runs git in `directory`.
fn git(directory: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(["-c", "protocol.file.allow=always"])
        .args(words)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "git {words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Serves all repositories below a directory by git's own protocol.
struct Daemon(Child);

impl Daemon {
    fn start(base: &Path) -> (Self, u16) {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let child = Command::new("git")
            .args(["daemon", "--export-all", "--listen=127.0.0.1", "--reuseaddr"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", base.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("git daemon");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        (Self(child), port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has a child of its own that listens.
        let pid = self.0.id();
        let _ = Command::new("pkill").args(["-P", &pid.to_string()]).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A repository with two commits, a tag, a branch, a directory and a submodule. Gives the first commit.
fn repository(base: &Path) -> String {
    let (part, work) = (base.join("part"), base.join("work"));
    for dir in [&part, &work] {
        std::fs::create_dir_all(dir).expect("a directory");
        git(dir, &["init", "-q"]);
    }
    std::fs::write(part.join("inside"), "part\n").expect("a file");
    git(&part, &["add", "."]);
    git(&part, &["commit", "-qm", "part"]);
    std::fs::write(work.join("Dockerfile"), "FROM busybox\nCOPY . /all\n").expect("a file");
    std::fs::write(work.join("f"), "first\n").expect("a file");
    std::fs::create_dir(work.join("sub")).expect("a directory");
    std::fs::write(work.join("sub/Dockerfile"), "FROM busybox\nCOPY g /g\n").expect("a file");
    std::fs::write(work.join("sub/g"), "sub\n").expect("a file");
    std::os::unix::fs::symlink("/etc", work.join("out")).expect("a link");
    git(&work, &["add", "."]);
    git(&work, &["commit", "-qm", "first"]);
    git(&work, &["tag", "v1"]);
    std::fs::write(work.join("f"), "second\n").expect("a file");
    git(&work, &["commit", "-qam", "second"]);
    git(&work, &["checkout", "-qb", "side"]);
    std::fs::write(work.join("f"), "side\n").expect("a file");
    git(&work, &["commit", "-qam", "side"]);
    git(&work, &["checkout", "-q", "main"]);
    git(&work, &["rev-parse", "v1"])
}

#[tokio::test]
async fn repositories_are_contexts_and_sources() {
    let engine = started().await;
    let base = engine.root().join("git");
    let first = repository(&base);
    let (daemon, port) = Daemon::start(&base);
    let url = format!("git://127.0.0.1:{port}/work");
    git(
        &base.join("work"),
        &[
            "submodule",
            "add",
            "-q",
            &format!("git://127.0.0.1:{port}/part"),
            "part",
        ],
    );
    git(&base.join("work"), &["commit", "-qm", "with a part"]);
    for (fragment, content) in [
        ("", "second\npart\n"),
        ("#main", "second\npart\n"),
        ("#v1", "first\n"),
        ("#side", "side\n"),
        ("#refs/heads/side", "side\n"),
        (&*format!("#{first}"), "first\n"),
        (&*format!("#{}", &first[..10]), "first\n"),
    ] {
        let remote = format!("{url}{fragment}");
        let told = engine
            .build(&[("remote", &remote), ("t", "git")], Tar::new())
            .await;
        told.ok();
        let seen = engine
            .read_in(
                "git",
                "cd /all; cat f part/inside 2>/dev/null; ls -a | grep -x .git; true",
            )
            .await;
        assert_eq!(seen, content, "{fragment}");
    }
    let remote = format!("{url}#main:sub");
    engine
        .build(&[("remote", &remote), ("t", "git")], Tar::new())
        .await
        .ok();
    assert_eq!(engine.read_in("git", "cat /g").await, "sub\n");

    let text = format!(
        "FROM busybox\nADD {url}#side /a\nADD --keep-git-dir=true {url}#v1 /b/\nADD --checksum={} {url}#v1:sub /c\nADD --chown=5:6 {url}#v1:sub /d\n",
        &first[..8]
    );
    engine.build(&[("t", "git")], dockerfile(&text)).await.ok();
    let seen = engine
        .read_in(
            "git",
            "cat /a/f /b/f /c/g; ls -d /a/.git /b/.git 2>/dev/null; stat -c '%a %u:%g' /c/g /d/g",
        )
        .await;
    assert_eq!(seen, "side\nfirst\nsub\n/b/.git\n644 0:0\n644 5:6\n");

    // A server of files alone, which gives no single commits.
    let bare = base.join("bare.git");
    git(&base, &["clone", "-q", "--bare", "work", "bare.git"]);
    git(&bare, &["update-server-info"]);
    let mut files = Vec::new();
    let mut ahead = vec![bare.clone()];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => ahead.push(path),
                false => {
                    let name = path
                        .strip_prefix(&base)
                        .expect("below")
                        .to_string_lossy()
                        .into_owned();
                    files.push((name, std::fs::read(&path).expect("a file")));
                }
            }
        }
    }
    let web = Web::files(files).await;
    for (fragment, content) in [("", "second\n"), ("#side", "side\n"), ("#v1:", "first\n")] {
        let remote = format!("{}{fragment}", web.url("bare.git"));
        engine
            .build(&[("remote", &remote), ("t", "git")], Tar::new())
            .await
            .ok();
        assert_eq!(engine.read_in("git", "cat /all/f").await, content, "{fragment}");
    }

    let mark = engine.root().join("mark");
    let touch = format!("touch {}", mark.display());
    for remote in [
        format!("{url}#--upload-pack={touch}"),
        format!("{url}#nothing"),
        format!("{url}#v1:nothing"),
        format!("{url}#v1:out"),
        format!("{url}#v1:../../../etc"),
        format!("git://127.0.0.1:{port}/none"),
        format!("ssh://-oProxyCommand={}/x", touch.replace(' ', "${IFS}")),
        format!("git@-oProxyCommand={}:x", touch.replace(' ', "${IFS}")),
        "git://127.0.0.1:1/x".to_owned(),
    ] {
        let message = engine.build_refused(&[("remote", &remote)], Vec::new()).await;
        assert!(!message.is_empty(), "{remote}");
    }
    // A repository whose parts are to be fetched in other ways.
    let hostile = base.join("hostile");
    std::fs::create_dir(&hostile).expect("a directory");
    git(&hostile, &["init", "-q"]);
    std::fs::write(hostile.join("Dockerfile"), "FROM busybox\n").expect("a file");
    git(
        &hostile,
        &[
            "submodule",
            "add",
            "-q",
            &base.join("part").to_string_lossy(),
            "p",
        ],
    );
    for address in [
        base.join("part").to_string_lossy().into_owned(),
        format!("ext::{touch}"),
    ] {
        git(
            &hostile,
            &["config", "-f", ".gitmodules", "submodule.p.url", &address],
        );
        git(&hostile, &["add", "."]);
        git(&hostile, &["commit", "-qm", "x"]);
        let remote = format!("git://127.0.0.1:{port}/hostile");
        let message = engine.build_refused(&[("remote", &remote)], Vec::new()).await;
        assert!(
            message.contains("submodule") || message.contains("not allowed"),
            "{message}"
        );
    }
    assert!(!mark.exists());
    engine.api.delete("/images/git").await.expect(200);
    drop(daemon);
    std::fs::remove_dir_all(&base).expect("the repositories go");
    engine.finish().await;
}

/// The user u, whose password is "pass-word".
const USERS: &str = "u:$2y$05$dxKgEvG9cC7e2P8xYwhXburBka6FOVgSoVtUUUAF0uumKQM5CODIG\n";

#[tokio::test]
async fn base_images_come_from_registries() {
    let engine = Engine::start().await;
    let settings = "auth: {htpasswd: {realm: r, path: {root}/users}}\n";
    let registry = DockerRegistry::with_files("", settings, &[("users", USERS.as_bytes())]).await;
    let name = registry.name("base:v1");
    engine.api.load(&Image::busybox().tagged(&name)).await;
    let (user, password) = ("u", "pass-word");
    let login = json!({"username": user, "password": password, "serveraddress": registry.authority});
    let push = engine.api.call(Method::POST, &format!("/images/{name}/push"));
    let push = push.header("x-registry-auth", &URL_SAFE.encode(login.to_string()));
    push.send().await.expect(200);
    engine.api.delete(&format!("/images/{name}")).await.expect(200);

    let text = format!("FROM {name}\nRUN echo from afar\nFROM scratch\nCOPY --from={name} /bin/busybox /b\n");
    let refused = engine.build(&[], dockerfile(&text)).await;
    let error = refused.fails();
    assert!(
        error.contains("authentication required") || error.contains("no basic auth"),
        "{error}"
    );
    let known = json!({registry.authority.clone(): {"username": user, "password": password}, "https://index.docker.io/v1/": {}});
    let with = async |pairs: &[(&str, &str)]| {
        let path = format!("/build{}", query(pairs));
        let call = engine.api.call(Method::POST, &path);
        let call = call
            .header("content-type", "application/x-tar")
            .header("x-registry-config", &URL_SAFE.encode(known.to_string()));
        let reply = call.bytes(dockerfile(&text).finish()).send().await.expect(200);
        (Told::of(&reply.records()), reply.text())
    };
    let (told, records) = with(&[("t", "pulled")]).await;
    told.ok();
    assert!(records.contains("Pulling from base"), "{records}");
    let (told, records) = with(&[]).await;
    told.ok();
    assert!(!records.contains("Pulling from"), "{records}");
    let (told, records) = with(&[("pull", "1")]).await;
    let text = told.ok();
    assert!(records.contains("Image is up to date"), "{records}");
    assert!(text.contains("Using cache"), "{text}");
    assert!(!engine.log().contains(password));
    registry.stop().await;
    engine.finish().await;
}
