//! Contexts and Dockerfiles that mean harm: each ends in a clear refusal or an error line, and changes nothing.

use berth_tests::{
    Engine,
    build::{dockerfile, started},
    image::{Compression, Node, Tar},
};

/// A context whose one header is made by hand.
fn raw(name: &str, kind: u8, link: &str, size: u64) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = dockerfile("FROM busybox\nCOPY . /x\n").unfinished();
    archive.extend(header);
    archive.extend([0; 1024]);
    archive
}

/// What the engine's directories hold, without what changes by itself.
fn usage(engine: &Engine) -> u64 {
    let output = std::process::Command::new("du")
        .arg("-sk")
        .arg(engine.data_root())
        .output()
        .expect("du");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number")
}

#[tokio::test]
async fn archives_that_lie_are_refused() {
    let engine = started().await;
    let before = usage(&engine);
    for (what, archive) in [
        ("cut off", raw("f", b'0', "", 100_000)),
        ("absurd size", raw("f", b'0', "", 0o77_777_777_777)),
        ("link out", raw("f", b'1', "../../../../etc/shadow", 0)),
        ("character device", raw("f", b'3', "", 0)),
        ("block device", raw("f", b'4', "", 0)),
        ("up", raw("../../f", b'5', "", 0)),
        ("noise", vec![7; 100_000]),
        ("a gzip of noise", Compression::Gzip.apply(&[9; 10_000])),
        (
            "half a gzip",
            Compression::Gzip.apply(&dockerfile("FROM busybox\n").finish())[..60].to_vec(),
        ),
    ] {
        let message = engine.build_refused(&[], archive).await;
        assert!(
            !message.is_empty() && !message.contains("root:"),
            "{what}: {message}"
        );
    }
    // Names from the root on are names below the context.
    let told = engine
        .build(
            &[],
            dockerfile("FROM busybox\nCOPY etc/here /x\nRUN cat /x\n").file("/etc/here", 0o644, "inside\n"),
        )
        .await;
    assert!(told.ok().contains("inside\n"));
    assert!(!std::path::Path::new("/etc/here").exists());
    // Pipes are no devices, and a Dockerfile is no pipe.
    let told = engine
        .build(
            &[],
            dockerfile("FROM busybox\nCOPY . /x\nRUN test -p /x/p\n").add("p", 0o600, Node::Fifo),
        )
        .await;
    told.ok();
    engine
        .build_refused(&[], Tar::new().add("Dockerfile", 0o600, Node::Fifo).finish())
        .await;
    let ignore = dockerfile("FROM busybox\nCOPY . /x\n");
    engine
        .build_refused(
            &[],
            ignore
                .symlink(".dockerignore", "../../../etc/passwd")
                .add("x", 0o600, Node::Hardlink("../../x"))
                .finish(),
        )
        .await;
    engine.api.post("/build/prune?all=1").await.expect(200);
    assert!(usage(&engine) <= before + 1_024, "{before} {}", usage(&engine));
    engine.finish().await;
}

#[tokio::test]
async fn bombs_do_not_go_off() {
    let engine = started().await;
    let before = usage(&engine);
    // Two gigabytes of nothing in two megabytes.
    let zeros = vec![0_u8; 64 << 20];
    let mut bomb = dockerfile("FROM busybox\n").unfinished();
    for number in 0..40 {
        bomb.extend(Tar::new().file(&format!("z{number}"), 0o644, &zeros).unfinished());
    }
    let message = engine.build_refused(&[], Compression::Zstd.apply(&bomb)).await;
    assert!(
        message.contains("times") || message.contains("larger") || message.contains("expands"),
        "{message}"
    );
    drop(bomb);
    // A directory in a directory, a thousand times: as deep as names can be.
    let deep = vec!["d"; 2_000].join("/");
    let mut context = dockerfile("FROM busybox\nCOPY . /x\nRUN find /x -type d | wc -l\n").unfinished();
    context.extend(Tar::new().file(&format!("{deep}/f"), 0o644, "deep").finish());
    let reply = engine.api.post_tar("/build", context).await;
    assert!([200, 400].contains(&reply.status().as_u16()), "{}", reply.text());
    // A step that digs deeper than any name reaches, where the image and where a kept directory is.
    let text = "FROM busybox\nRUN --mount=type=cache,target=/k for at in /k /img; do mkdir -p $at; cd $at; i=0; while [ $i -lt 3000 ]; do mkdir d && cd d || exit 9; i=$((i+1)); done; done; true\n";
    let told = engine.build(&[], dockerfile(text)).await;
    assert!(told.error.is_empty() || !told.error.contains("panic"), "{told:?}");
    engine.api.get("/system/df").await.expect(200);
    engine.api.post("/build/prune?all=1").await.expect(200);
    let words = format!(
        "FROM busybox\nENV A=\"{}\"\nENV A=$A$A$A$A B=1\nENV A=$A$A$A$A\nENV A=$A$A$A$A\nENV A=$A$A$A$A\n",
        "x".repeat(60_000)
    );
    let told = engine.build(&[], dockerfile(&words)).await;
    assert!(told.error.contains("expands to more than"), "{}", told.error);
    let nested = format!(
        "FROM busybox\nENV A={}x{}\n",
        "${B:-".repeat(1_000),
        "}".repeat(1_000)
    );
    assert!(
        engine
            .build(&[], dockerfile(&nested))
            .await
            .fails()
            .contains("nested too deeply")
    );
    let many = format!("FROM busybox\n{}", "ENV A=1\n".repeat(600));
    let told = engine.build(&[], dockerfile(&many)).await;
    assert!(!told.text.is_empty());
    let layers = format!(
        "FROM scratch\n{}",
        (0..520).map(|n| format!("COPY f /{n}\n")).collect::<String>()
    );
    let told = engine.build(&[], dockerfile(&layers).file("f", 0o644, "")).await;
    assert!(told.error.contains("layers"), "{}", told.error);
    for text in [
        "FROM a AS b\nFROM b AS a\nFROM a\nCOPY --from=3 x y\n".to_owned(),
        "#".repeat(5 << 20),
        format!("FROM busybox\nRUN {}", "\\\n".repeat(2 << 20)),
        format!("FROM busybox\nCOPY {}\n", "[".repeat(100_000)),
        "FROM \0\n".to_owned(),
    ] {
        let reply = engine.api.post_tar("/build", dockerfile(&text).finish()).await;
        assert!([200, 400].contains(&reply.status().as_u16()), "{}", reply.text());
    }
    engine.api.post("/images/prune").await.expect(200);
    engine.api.post("/build/prune?all=1").await.expect(200);
    engine.api.get("/_ping").await.expect(200);
    // What is thrown away goes behind the replies.
    let gone = async {
        while usage(&engine) > before + 1_024 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let patience = std::time::Duration::from_secs(60);
    let gone = tokio::time::timeout(patience, gone).await;
    assert!(gone.is_ok(), "{before} {}", usage(&engine));
    engine.finish().await;
}

#[tokio::test]
async fn paths_of_dockerfiles_stay_inside() {
    let engine = started().await;
    let outside = engine.root().join("outside");
    std::fs::write(&outside, "outside").expect("a file");
    let host = outside.display().to_string();
    for lines in [
        format!("COPY {host} /p"),
        format!("COPY ../../../../../../..{host} /p"),
        format!("COPY link/{} /p", host.trim_start_matches('/')),
        format!("RUN ln -s / /l\nCOPY --from=0 /l{host} /p"),
        format!("RUN --mount=type=bind,source={host},target=/m true"),
        format!("RUN --mount=type=bind,from=busybox,source=../../..{host},target=/m true"),
        format!("ADD file://{host} /p"),
    ] {
        let text = format!("FROM busybox AS first\nRUN true\nFROM busybox\n{lines}\n");
        let told = engine
            .build(&[("forcerm", "1")], dockerfile(&text).symlink("link", "/"))
            .await;
        assert!(!told.error.is_empty(), "{lines}: {}", told.text);
    }
    // Links in the image lead inside the image, wherever they point.
    let text = format!(
        "FROM busybox\nRUN ln -s {host} /out && ln -s {dir} /dir && mkdir -p /made\nCOPY f /out\nCOPY f /dir/f2\nWORKDIR /dir/w\nADD a.tar /dir/\nRUN --mount=type=cache,target=/dir/c touch /dir/c/x\n",
        dir = engine.root().display()
    );
    let archive = Tar::new().symlink("s", &host).file("t", 0o644, "t").finish();
    let context = dockerfile(&text)
        .file("f", 0o644, "inside")
        .file("a.tar", 0o644, archive);
    engine.build(&[("t", "in")], context).await.ok();
    assert_eq!(std::fs::read_to_string(&outside).expect("a file"), "outside");
    for name in ["f2", "w", "s", "t", "c"] {
        assert!(!engine.root().join(name).exists(), "{name}");
    }
    assert_eq!(
        engine.read_in("in", &format!("cat {host}; cat /dir/f2")).await,
        "insideinside"
    );
    std::fs::remove_file(&outside).expect("the file goes");
    engine.finish().await;
}
