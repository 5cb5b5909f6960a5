//! Building images: what Dockerfiles of many shapes make, and what clients are told.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_tests::{
    Engine,
    build::{Told, dockerfile, started},
    client::filters,
    image::{Compression, Node, Tar},
};
use http::Method;
use serde_json::json;

async fn build(engine: &Engine, parameters: &[(&str, &str)], context: Tar) -> Told {
    engine.build(parameters, context).await
}

async fn refused(engine: &Engine, parameters: &[(&str, &str)], context: impl Into<bytes::Bytes>) -> String {
    engine.build_refused(parameters, context).await
}

#[tokio::test]
async fn lines_image_history_and_cache() {
    let engine = started().await;
    let text = "FROM busybox\nARG V=1\nENV A=$V\nRUN echo hi $A > /out\nCOPY f /dir/\nWORKDIR /work\nRUN true\nCMD [\"cat\", \"/out\"]\n";
    let context = || dockerfile(text).file("f", 0o640, "x");
    let first = build(&engine, &[("t", "app:1"), ("t", "app:2")], context()).await;
    let id = first.ids.last().expect("an id").clone();
    let told = first.ok();
    for line in [
        "Step 1/8 : FROM busybox\n",
        "Step 4/8 : RUN echo hi $A > /out\n ---> Running in ",
        "Removing intermediate container ",
        "Successfully tagged app:1\nSuccessfully tagged app:2\n",
    ] {
        assert!(told.contains(line), "{line:?} in {told}");
    }
    let seen = engine.api.get("/images/app:1/json").await.expect(200).json();
    assert_eq!(seen["Id"], id.as_str());
    assert_eq!(seen["Config"]["WorkingDir"], "/work");
    assert_eq!(seen["Config"]["Cmd"], json!(["cat", "/out"]));
    assert_eq!(seen["RootFS"]["Layers"].as_array().map(Vec::len), Some(4));
    let history = engine.api.get("/images/app:1/history").await.expect(200).json();
    let steps: Vec<&str> = history
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|h| h["CreatedBy"].as_str())
        .collect();
    assert_eq!(steps[0], "/bin/sh -c #(nop)  CMD [\"cat\" \"/out\"]");
    assert_eq!(steps[1], "|1 V=1 /bin/sh -c true");
    assert_eq!(steps[2], "/bin/sh -c #(nop) WORKDIR /work");
    assert!(
        steps[3].starts_with("/bin/sh -c #(nop) COPY file:") && steps[3].ends_with(" in /dir/ "),
        "{}",
        steps[3]
    );
    assert_eq!(steps[5], "/bin/sh -c #(nop)  ENV A=1");

    let again = build(&engine, &[("t", "app:3")], context()).await;
    assert_eq!(again.ids.last(), Some(&id));
    assert_eq!(again.ok().matches("Using cache").count(), 7);
    let changed = build(&engine, &[], dockerfile(text).file("f", 0o640, "y"))
        .await
        .ok();
    assert_eq!(changed.matches("Using cache").count(), 3);
    let anew = build(&engine, &[("nocache", "1")], context()).await;
    let newest = anew.ids.last().expect("an id").clone();
    let anew = anew.ok();
    assert_eq!(anew.matches("Using cache").count(), 0);
    let argument = build(&engine, &[("buildargs", "{\"V\":\"2\",\"W\":\"3\"}")], context())
        .await
        .ok();
    assert!(argument.contains("[Warning] One or more build-args [W] were not consumed\n"));
    let only_id = build(&engine, &[("q", "1")], context()).await;
    assert_eq!(only_id.text, format!("{newest}\n"));
    engine.finish().await;
}

#[tokio::test]
async fn stages_that_are_needed() {
    let engine = started().await;
    let text = "ARG BASE=busybox\nFROM $BASE AS one\nRUN mkdir /d && echo 1 > /d/f && chown 7:8 /d/f\n\
        FROM busybox AS never\nRUN exit 3\nFROM one AS two\nRUN echo 2 > /two\n\
        FROM scratch AS last\nCOPY --from=one /d /kept/\nCOPY --from=two --chown=1:2 /d/f /two /given/\n\
        COPY --from=busybox /bin/busybox /bin/sh\n";
    let told = build(&engine, &[("t", "stages")], dockerfile(text)).await.ok();
    assert!(told.contains("Step 8/8"), "{told}");
    let target = build(&engine, &[("target", "TWO"), ("t", "two")], dockerfile(text))
        .await
        .ok();
    assert!(
        target.contains("Step 4/4") && target.contains("Using cache"),
        "{target}"
    );
    assert_eq!(
        refused(&engine, &[("target", "none")], dockerfile(text).finish()).await,
        "failed to reach build target none in Dockerfile"
    );
    let listing = "FROM busybox AS a\nRUN mkdir /d && echo 1 > /d/f && chown 7:8 /d/f\nFROM busybox\nCOPY --from=a /d /kept/\n\
        COPY --from=a --chown=1:2 --chmod=600 /d/f /given\nRUN ls -ln /kept/f /given\n";
    let listing = build(&engine, &[], dockerfile(listing)).await.ok();
    assert!(listing.contains("-rw-r--r--    1 7        8 "), "{listing}");
    assert!(listing.contains("-rw-------    1 1        2 "), "{listing}");
    engine.finish().await;
}

#[tokio::test]
async fn heredocs_and_mounts() {
    let engine = started().await;
    let text = "# syntax=docker/dockerfile:1\nFROM busybox\nARG N=world\nRUN <<EOF\necho \"hello $N\" > /a\nEOF\n\
        RUN <<A cat > /b; cat <<B >> /b\nfirst\nA\nsecond\nB\n\
        COPY <<X <<\"Y\" /texts/\nexpand $N\nX\nraw $N\nY\nRUN cat /a /b /texts/*\n";
    let told = build(&engine, &[], dockerfile(text)).await.ok();
    assert!(
        told.contains("hello world\nfirst\nsecond\nexpand world\nraw $N\n"),
        "{told}"
    );

    let text = "FROM busybox AS src\nRUN mkdir /data && echo data > /data/f\nFROM busybox\n\
        RUN --mount=type=cache,target=/root/.cache/x echo more >> /root/.cache/x/n; wc -l < /root/.cache/x/n\n\
        RUN --mount=type=bind,target=/ctx cat /ctx/given\n\
        RUN --mount=type=bind,from=src,source=/data,target=/in,rw cat /in/f && echo changed > /in/f\n\
        RUN --mount=type=tmpfs,target=/t,size=1m touch /t/x && df -k /t\n\
        RUN ls -d /ctx /in /t /root/.cache /run/secrets || echo nothing is left\n";
    let context = || dockerfile(text).file("given", 0o644, "from the context\n");
    let told = build(&engine, &[], context()).await.ok();
    assert!(
        told.contains("\n1\n") && told.contains("from the context\n") && told.contains("data\n"),
        "{told}"
    );
    assert!(
        told.contains("1024") && told.contains("nothing is left"),
        "{told}"
    );
    for place in ["/ctx", "/in", "/t", "/root/.cache", "/run/secrets"] {
        assert!(
            told.contains(&format!("ls: {place}: No such file")),
            "{place}: {told}"
        );
    }
    let told = build(&engine, &[("nocache", "1")], context()).await.ok();
    assert!(told.contains("\n2\n"), "{told}");
    engine.finish().await;
}

#[tokio::test]
async fn secrets_stay_nowhere() {
    let engine = started().await;
    let marker = "s3cr3t-marker-9d1f";
    let text = "FROM busybox\nRUN --mount=type=secret,id=tok,required=true wc -c < /run/secrets/tok\n";
    let header = STANDARD.encode(json!({"tok": STANDARD.encode(marker)}).to_string());
    let call = engine.api.call(Method::POST, "/build?t=secret&version=2");
    let call = call
        .header("content-type", "application/x-tar")
        .header("x-build-secrets", &header);
    let reply = call.bytes(dockerfile(text).finish()).send().await.expect(200);
    let told = Told::of(&reply.records()).ok();
    assert!(told.contains(&format!("{}\n", marker.len())), "{told}");
    assert!(!told.contains(marker));
    let archive = engine.api.get("/images/secret/get").await.expect(200);
    assert!(!archive.text().contains(marker));
    let history = engine.api.get("/images/secret/history").await.expect(200);
    assert!(!history.text().contains(marker));
    assert!(!engine.log().contains(marker));
    let missing = build(&engine, &[("nocache", "1")], dockerfile(text)).await;
    assert!(
        missing.error.contains("secret tok: not found"),
        "{}",
        missing.error
    );
    let bad = engine
        .api
        .call(Method::POST, "/build")
        .header("x-build-secrets", "%%%")
        .bytes(Vec::new())
        .send()
        .await;
    assert!(bad.expect(400).message().contains("X-Build-Secrets"));
    engine.finish().await;
}

#[tokio::test]
async fn files_as_they_should_be() {
    let engine = started().await;
    let archive = Tar::new()
        .owned("d/f", 0o640, 7, 8, Node::File(b"in the archive"))
        .finish();
    let text = "FROM busybox\nRUN mkdir -p /real && ln -s /real /abs && echo 'u:x:5:6::/:' > /etc/passwd && echo 'g:x:9:' > /etc/group\n\
        ADD a.tar.gz plain.txt /x/\nCOPY a.tar.gz /y/\nCOPY f /abs/\nCOPY --chown=u:g dir /z/\nCOPY s*.txt /w/\n\
        COPY --parents p/q/r.txt /parents/\nCOPY --exclude=*.md docs /docs\nCOPY --link f /real2/f\n\
        RUN find /x /y /z /w /real /abs /parents /docs /real2 | sort; ls -ln /x/d /z\n";
    let context = dockerfile(text)
        .file("a.tar.gz", 0o644, Compression::Gzip.apply(&archive))
        .file("plain.txt", 0o644, "x")
        .file("f", 0o755, "f")
        .file("dir/one", 0o600, "1")
        .symlink("dir/link", "/etc/shadow")
        .file("s1.txt", 0o644, "1")
        .file("s2.txt", 0o644, "2")
        .file("p/q/r.txt", 0o644, "r")
        .file("docs/a.md", 0o644, "a")
        .file("docs/b.txt", 0o644, "b");
    let told = build(&engine, &[], context).await.ok();
    for path in [
        "/x/d/f",
        "/x/plain.txt",
        "/y/a.tar.gz",
        "/real/f",
        "/w/s1.txt",
        "/w/s2.txt",
        "/parents/p/q/r.txt",
        "/docs/b.txt",
        "/real2/f",
    ] {
        assert!(told.contains(&format!("{path}\n")), "{path}: {told}");
    }
    assert!(!told.contains("/docs/a.md\n"), "{told}");
    assert!(told.contains("-rw-r-----    1 7        8 "), "{told}");
    assert!(told.contains("-rw-------    1 5        9 "), "{told}");
    assert!(told.contains("link -> /etc/shadow"), "{told}");
    engine.finish().await;
}

#[tokio::test]
async fn ignored_files_onbuild_volumes_and_users() {
    let engine = started().await;
    let context = dockerfile("FROM busybox\nCOPY . /c\nRUN find /c | sort\n")
        .file(
            ".dockerignore",
            0o644,
            "*.md\n!README.md\nnode_modules\n**/*.log\nDockerfile\n",
        )
        .file("a.md", 0o644, "")
        .file("README.md", 0o644, "")
        .file("node_modules/x/y", 0o644, "")
        .file("src/x.log", 0o644, "")
        .file("src/y", 0o644, "");
    let told = build(&engine, &[], context).await.ok();
    assert!(
        told.contains("/c\n/c/.dockerignore\n/c/README.md\n/c/src\n/c/src/y\n"),
        "{told}"
    );

    build(
        &engine,
        &[("t", "parent")],
        dockerfile("FROM busybox\nONBUILD COPY f /on\nONBUILD RUN cat /on\n"),
    )
    .await
    .ok();
    let told = build(
        &engine,
        &[],
        dockerfile("FROM parent\n").file("f", 0o644, "triggered\n"),
    )
    .await
    .ok();
    assert!(
        told.contains("# Executing 2 build triggers\n") && told.contains("triggered\n"),
        "{told}"
    );

    let text = "FROM busybox\nRUN mkdir /v && echo a > /v/a\nVOLUME /v\nRUN echo b > /v/b && ls /v\nRUN ls /v\n\
        USER 1234:5\nWORKDIR /home/sub\nRUN id -u; pwd\nEXPOSE 80 443/tcp\nHEALTHCHECK --retries=2 CMD true\nSTOPSIGNAL SIGINT\n";
    let told = build(
        &engine,
        &[("t", "user"), ("labels", "{\"k\":\"v w\"}")],
        dockerfile(text),
    )
    .await
    .ok();
    assert_eq!(told.matches("\nb\n").count(), 1, "{told}");
    assert!(told.contains("1234\n/home/sub\n"), "{told}");
    let config = engine.api.get("/images/user/json").await.expect(200).json()["Config"].clone();
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "443/tcp": {}}));
    assert_eq!(config["Labels"], json!({"k": "v w"}));
    assert_eq!(
        (&config["User"], &config["StopSignal"]),
        (&json!("1234:5"), &json!("SIGINT"))
    );
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    engine.finish().await;
}

#[tokio::test]
async fn failures_are_told_in_docker_s_words() {
    let engine = started().await;
    let failed = build(
        &engine,
        &[("forcerm", "1")],
        dockerfile("FROM busybox\nRUN exit 7\n"),
    )
    .await;
    assert_eq!(
        failed.error,
        "The command '/bin/sh -c exit 7' returned a non-zero code: 7"
    );
    assert_eq!(failed.code, 7);
    assert!(
        failed.text.contains("Line 2 of the Dockerfile failed"),
        "{}",
        failed.text
    );
    let missing = build(&engine, &[], dockerfile("FROM nothing-like-it:1\n")).await;
    assert!(!missing.error.is_empty());
    let copy = build(&engine, &[], dockerfile("FROM busybox\nCOPY nope /x\n")).await;
    assert!(
        copy.error
            .contains("COPY failed: file not found in build context")
            && copy.error.contains("line 2"),
        "{}",
        copy.error
    );
    for (text, words) in [
        ("FROM busybox\nFOO x\n", "line 2: unknown instruction: FOO"),
        ("RUN x\n", "no build stage"),
        ("\n", "cannot be empty"),
    ] {
        assert!(
            refused(&engine, &[], dockerfile(text).finish())
                .await
                .contains(words),
            "{text}"
        );
    }
    for (name, value) in [
        ("squash", "1"),
        ("buildargs", "{"),
        ("labels", "[]"),
        ("cachefrom", "{}"),
        ("ulimits", "x"),
        ("t", "UPPER"),
        ("platform", "a/b/c/d"),
        ("outputs", "[{\"type\":\"local\"}]"),
        ("isolation", "hyperv"),
        ("session", "abc"),
        ("remote", "file:///etc"),
    ] {
        refused(&engine, &[(name, value)], dockerfile("FROM busybox\n").finish()).await;
    }
    engine.finish().await;
}

#[tokio::test]
async fn hostile_contexts_change_nothing() {
    let engine = started().await;
    let df = || dockerfile("FROM busybox\nCOPY . /x\n");
    let linked = |target: &str| Tar::new().symlink("Dockerfile", target);
    for (what, context) in [
        ("escape", df().file("../../etc/evil", 0o644, "x")),
        (
            "through a link",
            df().symlink("a", "/etc").file("a/evil", 0o644, "x"),
        ),
        (
            "hard link",
            df().add("a", 0o644, Node::Hardlink("../../../etc/passwd")),
        ),
        ("device", df().add("null", 0o666, Node::Character(1, 3))),
        ("disk", df().add("disk", 0o666, Node::Block(8, 0))),
        ("linked Dockerfile", linked("/etc/passwd")),
        ("linked Dockerfile", linked("../../../../etc/passwd")),
        ("directory", Tar::new().directory("Dockerfile", 0o755)),
        ("none", Tar::new().file("x", 0o644, "")),
        ("large", dockerfile(&"#".repeat(5 << 20))),
    ] {
        let message = refused(&engine, &[], context.finish()).await;
        assert!(!message.contains("root:"), "{what}: {message}");
    }
    refused(&engine, &[], b"no archive at all".repeat(100)).await;
    refused(&engine, &[("dockerfile", "../../../etc/passwd")], df().finish()).await;
    for text in [
        "FROM busybox\nCOPY ../../../../etc/shadow /p\n",
        "FROM busybox\nCOPY l /p\n",
        "FROM busybox\nRUN --mount=type=bind,source=../../../../../etc,target=/m cat /m/shadow\n",
        "FROM busybox\nRUN --security=insecure true\n",
        "FROM busybox\nRUN --network=host true\n",
    ] {
        let told = build(&engine, &[], dockerfile(text).symlink("l", "/etc/shadow")).await;
        assert!(!told.error.is_empty(), "{text}: {}", told.text);
    }
    let images = engine.api.get("/images/json?all=1").await.expect(200).json();
    assert!(images.as_array().is_some_and(|list| {
        list.iter()
            .all(|i| !i["RepoTags"].as_array().is_none_or(Vec::is_empty))
    }));
    engine.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels() {
    let engine = started().await;
    let text = "FROM busybox\nRUN echo begun; sleep 600\n";
    let call = engine.api.call(Method::POST, "/build?t=never");
    let call = call
        .header("content-type", "application/x-tar")
        .bytes(dockerfile(text).finish());
    let mut stream = call.open().await.expect(200);
    loop {
        let record = stream.record().await.expect("a record");
        if record["stream"]
            .as_str()
            // What it says, not the line that tells of the step.
            .is_some_and(|text| text.starts_with("begun"))
        {
            break;
        }
    }
    let mut events = engine
        .api
        .call(
            Method::GET,
            "/events?filters=%7B%22event%22%3A%5B%22destroy%22%5D%7D",
        )
        .open()
        .await
        .expect(200);
    drop(stream);
    events.record().await.expect("the container goes");
    assert_eq!(engine.api.names("?all=1").await, Vec::<String>::new());
    engine.api.get("/images/never/json").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn the_cache_lasts_and_is_pruned() {
    let mut engine = started().await;
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c echo x > /c/f; echo y > /y\nENV A=1\n";
    build(&engine, &[("t", "kept")], dockerfile(text)).await.ok();
    engine.crash().await;
    let told = build(&engine, &[("t", "kept")], dockerfile(text)).await.ok();
    assert_eq!(told.matches("Using cache").count(), 2, "{told}");
    let usage = engine
        .api
        .get("/system/df?type=build-cache")
        .await
        .expect(200)
        .json();
    assert_eq!(usage["BuildCache"].as_array().map(Vec::len), Some(3));
    let bad = engine
        .api
        .post(&format!(
            "/build/prune{}",
            filters(&json!({"until": ["yesterday"]}))
        ))
        .await;
    bad.expect(400);
    engine.api.delete("/images/kept").await.expect(200);
    let pruned = engine.api.post("/build/prune?all=1").await.expect(200).json();
    assert_eq!(pruned["CachesDeleted"].as_array().map(Vec::len), Some(3));
    let pruned = engine.api.post("/build/prune").await.expect(200).json();
    assert_eq!(pruned, json!({"CachesDeleted": null, "SpaceReclaimed": 0}));
    let told = build(&engine, &[], dockerfile(text)).await.ok();
    assert_eq!(told.matches("Using cache").count(), 0, "{told}");
    engine.finish().await;
}

#[tokio::test]
async fn steps_of_an_image_seed_the_cache() {
    let engine = started().await;
    let text = "FROM busybox\nRUN echo seed > /seed\nCOPY f /f\nENV A=1\n";
    let context = || dockerfile(text).file("f", 0o644, "f");
    build(&engine, &[("t", "seed")], context()).await.ok();
    engine.api.post("/build/prune?all=1").await.expect(200);
    let told = build(&engine, &[("cachefrom", "[\"seed\"]")], context())
        .await
        .ok();
    assert_eq!(told.matches("Using cache").count(), 3, "{told}");
    let told = build(&engine, &[("cachefrom", "[\"busybox\"]")], context())
        .await
        .ok();
    assert_eq!(told.matches("Using cache").count(), 0, "{told}");
    engine.finish().await;
}

#[tokio::test]
async fn every_compression_and_many_files() {
    let engine = started().await;
    let mut context = dockerfile("FROM busybox\nCOPY files /files\nRUN find /files -type f | wc -l\n");
    for number in 0..2_000 {
        context = context.file(
            &format!("files/{}/{number}", number % 20),
            0o644,
            number.to_string(),
        );
    }
    let plain = context.finish();
    for compression in Compression::ALL {
        let reply = engine
            .api
            .post_tar("/build?rm=1", compression.apply(&plain))
            .await
            .expect(200);
        let told = Told::of(&reply.records()).ok();
        assert!(
            told.contains("2000\n") || told.contains("Using cache"),
            "{compression:?}: {told}"
        );
    }
    engine.finish().await;
}

#[tokio::test]
async fn the_docker_command_line_builds() {
    let engine = started().await;
    let dir = engine.root().join("context");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("Dockerfile"), "FROM busybox\nCOPY f /f\nCMD cat /f\n").expect("a Dockerfile");
    std::fs::write(dir.join("f"), "by docker\n").expect("a file");
    let path = dir.to_str().expect("a path");
    let told = engine.docker(&["build", "-t", "cli", path]).await.ok();
    assert!(told.contains("Successfully tagged cli:latest"), "{told}");
    let out = engine
        .docker(&["run", "--rm", "--network", "none", "cli"])
        .await
        .ok();
    assert_eq!(out, "by docker");
    std::fs::remove_dir_all(&dir).expect("the directory goes");
    engine.finish().await;
}

#[tokio::test]
async fn containers_of_steps_go_or_stay() {
    let engine = started().await;
    let good = "FROM busybox\nRUN exit 0\nRUN exit 0\n";
    let bad = "FROM busybox\nRUN exit 0\nRUN exit 0\nRUN exit 1\n";
    for (text, rm, forcerm, left) in [
        (good, "0", "0", 2),
        (good, "1", "0", 0),
        (good, "1", "1", 0),
        (bad, "0", "0", 3),
        (bad, "1", "0", 1),
        (bad, "1", "1", 0),
    ] {
        build(
            &engine,
            &[("rm", rm), ("forcerm", forcerm), ("nocache", "1")],
            dockerfile(text),
        )
        .await;
        let names = engine.api.names("?all=1").await;
        assert_eq!(names.len(), left, "{text} rm={rm} forcerm={forcerm}");
        for name in names {
            engine.api.remove(name.trim_start_matches('/')).await;
        }
    }
    engine.finish().await;
}
