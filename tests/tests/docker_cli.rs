//! The docker command line, which knows nothing of us.

use berth_tests::{Engine, container::STAY, image::Image};

#[tokio::test]
async fn run_gives_output_and_code() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let run = |words: &[&str]| {
        let words: Vec<String> = ["run", "--rm", "--network", "none", "busybox"]
            .iter()
            .chain(words)
            .map(|w| (*w).to_owned())
            .collect();
        let engine = &engine;
        async move {
            engine
                .docker(&words.iter().map(String::as_str).collect::<Vec<_>>())
                .await
        }
    };
    let outcome = run(&["sh", "-c", "echo out; echo err >&2; exit 4"]).await;
    assert_eq!(
        (outcome.code, outcome.out.as_str(), outcome.err.as_str()),
        (4, "out\n", "err\n")
    );
    assert!(
        run(&["nothing-like-it"])
            .await
            .fails(127)
            .contains("executable file not found")
    );
    assert!(
        run(&["/etc/passwd"])
            .await
            .fails(126)
            .contains("permission denied")
    );
    assert!(
        run(&["/nothing/like/it"])
            .await
            .fails(127)
            .contains("no such file or directory")
    );
    let err = engine
        .docker(&["run", "--network", "none", "--memory", "1m", "busybox", "true"])
        .await
        .fails(125);
    assert!(
        err.contains("6MB") || err.contains("6 MiB") || err.to_lowercase().contains("memory"),
        "{err}"
    );
    assert_eq!(engine.docker(&["ps", "-aq"]).await.ok(), "");
    engine.finish().await;
}

#[tokio::test]
async fn run_passes_standard_input() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let words = ["run", "-i", "--rm", "--network", "none", "busybox", "wc", "-c"];
    assert_eq!(engine.docker_with(&words, &[b'x'; 300_000]).await.ok(), "300000");
    engine.finish().await;
}

#[tokio::test]
async fn the_default_image_runs() {
    let engine = Engine::start().await;
    let out = engine
        .docker(&["run", "--rm", "--network", "none", "berth/hello"])
        .await
        .ok();
    assert!(out.contains("Hello from a container run by Berth."), "{out}");
    engine.finish().await;
}

#[tokio::test]
async fn a_container_by_commands() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "none",
            "-l",
            "team=a",
            "busybox",
            "sh",
            "-c",
            STAY,
        ])
        .await
        .ok();
    assert_eq!(id.len(), 64, "{id}");
    engine.api.await_output(&id, "ready").await;
    assert_eq!(
        engine
            .docker(&["ps", "--format", "{{.Names}} {{.Image}} {{.State}}"])
            .await
            .ok(),
        "web busybox running"
    );
    assert_eq!(
        engine
            .docker(&["ps", "-q", "--no-trunc", "--filter", "label=team=a"])
            .await
            .ok(),
        id
    );
    assert_eq!(engine.docker(&["logs", "web"]).await.ok(), "ready");
    assert_eq!(
        engine
            .docker(&["inspect", "-f", "{{.State.Running}} {{.Name}}", "web"])
            .await
            .ok(),
        "true /web"
    );
    assert_eq!(engine.docker(&["rename", "web", "shop"]).await.ok(), "");
    let conflict = engine
        .docker(&["create", "--name", "shop", "busybox"])
        .await
        .fails(1);
    assert!(conflict.contains("is already in use by container"), "{conflict}");
    assert!(engine.docker(&["rm", "shop"]).await.fails(1).contains("force"));
    assert_eq!(engine.docker(&["stop", "shop"]).await.ok(), "shop");
    assert_eq!(engine.docker(&["wait", "shop"]).await.ok(), "0");
    assert_eq!(engine.docker(&["start", "shop"]).await.ok(), "shop");
    assert_eq!(engine.docker(&["kill", "shop"]).await.ok(), "shop");
    assert_eq!(engine.docker(&["wait", "shop"]).await.ok(), "137");
    let status = engine.docker(&["ps", "-a", "--format", "{{.Status}}"]).await.ok();
    assert!(status.starts_with("Exited (137) "), "{status}");
    assert_eq!(engine.docker(&["restart", "shop"]).await.ok(), "shop");
    assert_eq!(engine.docker(&["rm", "-f", "shop"]).await.ok(), "shop");
    assert_eq!(engine.docker(&["ps", "-aq"]).await.ok(), "");
    let gone = engine.docker(&["inspect", "shop"]).await.fails(1);
    assert!(
        gone.contains("No such object: shop") || gone.contains("no such object: shop"),
        "{gone}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn attach_and_start_with_streams() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let create = [
        "create",
        "-i",
        "--name",
        "echo",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "cat; exit 3",
    ];
    engine.docker(&create).await.ok();
    let outcome = engine.docker_with(&["start", "-ai", "echo"], b"words").await;
    assert_eq!((outcome.code, outcome.out.as_str()), (3, "words"));
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "sleep 2; echo late; exit 7",
        ])
        .await
        .ok();
    let outcome = engine.docker(&["attach", "--no-stdin", &id]).await;
    assert_eq!((outcome.code, outcome.out.as_str()), (7, "late\n"));
    assert!(
        engine
            .docker(&["attach", &id])
            .await
            .fails(1)
            .contains("stopped container")
    );
    engine.finish().await;
}

#[tokio::test]
async fn images_by_commands() {
    let engine = Engine::start().await;
    let tar = engine.root().join("busybox.tar");
    std::fs::write(&tar, Image::busybox().tagged("shop/box:v1").docker_archive()).expect("a file");
    let loaded = engine
        .docker(&["load", "-i", tar.to_str().expect("text")])
        .await
        .ok();
    assert_eq!(loaded, "Loaded image: shop/box:v1");
    assert_eq!(
        engine.docker(&["tag", "shop/box:v1", "shop/box:v2"]).await.ok(),
        ""
    );
    let listed = engine
        .docker(&["images", "shop/box", "--format", "{{.Repository}}:{{.Tag}}"])
        .await
        .ok();
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["shop/box:v1", "shop/box:v2"]);
    let history = engine
        .docker(&["history", "-q", "--no-trunc", "shop/box:v1"])
        .await
        .ok();
    assert!(history.starts_with("sha256:"), "{history}");
    let saved = engine.root().join("saved.tar");
    engine
        .docker(&[
            "save",
            "-o",
            saved.to_str().expect("text"),
            "shop/box:v1",
            "shop/box:v2",
        ])
        .await
        .ok();
    let removed = engine.docker(&["rmi", "shop/box:v1", "shop/box:v2"]).await.ok();
    assert!(
        removed.contains("Untagged: shop/box:v1") && removed.contains("Deleted: sha256:"),
        "{removed}"
    );
    assert!(
        engine
            .docker(&["rmi", "shop/box:v1"])
            .await
            .fails(1)
            .contains("No such image")
    );
    let loaded = engine
        .docker(&["load", "-i", saved.to_str().expect("text")])
        .await
        .ok();
    assert!(
        loaded.contains("Loaded image: shop/box:v1") && loaded.contains("Loaded image: shop/box:v2"),
        "{loaded}"
    );
    let plain = berth_tests::image::Tar::new().file("motd", 0o644, "hi").finish();
    let imported = engine
        .docker_with(&["import", "-c", "CMD [\"/motd\"]", "-", "mine:v1"], &plain)
        .await
        .ok();
    assert!(imported.starts_with("sha256:"), "{imported}");
    assert_eq!(
        engine
            .docker(&["image", "inspect", "-f", "{{json .Config.Cmd}}", "mine:v1"])
            .await
            .ok(),
        "[\"/motd\"]"
    );
    let pruned = engine.docker(&["image", "prune", "-af"]).await.ok();
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    assert_eq!(engine.docker(&["images", "-q"]).await.ok(), "");
    engine.finish().await;
}

#[tokio::test]
async fn system_commands() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let version = engine
        .docker(&["version", "--format", "{{.Server.APIVersion}} {{.Server.Os}}"])
        .await
        .ok();
    assert_eq!(version, "1.43 linux");
    engine.docker(&["version"]).await.ok();
    let info = engine.docker(&["info"]).await.ok();
    for text in [
        "Server Version:",
        "Storage Driver:",
        "Cgroup Driver:",
        "Swarm: inactive",
        "Docker Root Dir:",
    ] {
        assert!(info.contains(text), "{text} is not in {info}");
    }
    engine
        .docker(&["run", "--network", "none", "busybox", "true"])
        .await
        .ok();
    // The command line sends whole seconds, and what happened in this one is to be seen.
    let until = (jiff::Timestamp::now().as_second() + 1).to_string();
    let events = engine
        .docker(&[
            "events",
            "--since",
            "1h",
            "--until",
            &until,
            "--filter",
            "type=container",
            "--format",
            "{{.Action}}",
        ])
        .await
        .ok();
    let events: Vec<&str> = events
        .lines()
        .filter(|action| !["attach", "resize"].contains(action))
        .collect();
    assert_eq!(events, ["create", "start", "die"]);
    let pruned = engine.docker(&["container", "prune", "-f"]).await.ok();
    assert!(pruned.contains("Deleted Containers:"), "{pruned}");
    assert_eq!(engine.docker(&["ps", "-aq"]).await.ok(), "");
    engine.finish().await;
}

#[tokio::test]
async fn a_shell_on_a_terminal() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut terminal = engine.docker_terminal(&["run", "-it", "--rm", "--network", "none", "busybox", "sh"]);
    terminal.see("# ");
    terminal.enter("stty size\r");
    terminal.see("33 101");
    terminal.resize(44, 122);
    // The new size arrives when the command line has passed it on.
    terminal.enter("while [ \"$(stty size)\" != '44 122' ]; do sleep 0.1; done; echo resi''zed\r");
    terminal.see("resized");
    // What runs is in the terminal's foreground before it says so.
    terminal.enter("sh -c 'echo sta\"\"rted; sleep 1000'\r");
    terminal.see("started");
    terminal.enter("\u{3}");
    terminal.see("# ");
    terminal.enter("exit 5\r");
    assert_eq!(terminal.end().0, 5);
    assert_eq!(engine.docker(&["ps", "-aq"]).await.ok(), "");
    engine.finish().await;
}

#[tokio::test]
async fn leaving_a_terminal_by_its_keys() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut terminal = engine.docker_terminal(&[
        "run",
        "-it",
        "--name",
        "left",
        "--network",
        "none",
        "busybox",
        "sh",
    ]);
    terminal.see("# ");
    terminal.enter("echo he''re\r");
    terminal.see("here");
    terminal.enter("\u{10}\u{11}");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(
        engine
            .docker(&["inspect", "-f", "{{.State.Running}}", "left"])
            .await
            .ok(),
        "true"
    );
    let mut terminal = engine.docker_terminal(&["attach", "left"]);
    terminal.enter("echo ba''ck\r");
    terminal.see("back");
    terminal.enter("exit 0\r");
    assert_eq!(terminal.end().0, 0);
    engine.finish().await;
}
