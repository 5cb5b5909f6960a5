//! The life of images: shown, tagged, pulled, away.

use berth_tests::{
    Engine,
    client::{filters, query},
    container::busybox,
    image::{Image, Tar},
};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn list_and_inspect_agree() {
    let engine = Engine::start().await;
    let image = Image::small("shop/web:v1", "x")
        .with("Labels", json!({"team": "web"}))
        .with("Env", json!(["A=1"]))
        .with("ExposedPorts", json!({"80/tcp": {}}))
        .with("WorkingDir", json!("/etc"))
        .with("User", json!("1000"))
        .with("StopSignal", json!("SIGINT"));
    engine.api.load(&image).await;
    let list = engine.api.get("/images/json").await.expect(200).json();
    let entry = list
        .as_array()
        .expect("a list")
        .iter()
        .find(|entry| entry["RepoTags"] == json!(["shop/web:v1"]));
    let entry = entry.expect("the image is listed");
    let seen = engine
        .api
        .get("/images/shop/web:v1/json")
        .await
        .expect(200)
        .json();
    for (in_list, in_inspect) in [
        ("Id", "Id"),
        ("Size", "Size"),
        ("RepoTags", "RepoTags"),
        ("RepoDigests", "RepoDigests"),
    ] {
        assert_eq!(entry[in_list], seen[in_inspect], "{in_list}");
    }
    assert_eq!(entry["Labels"], json!({"team": "web"}));
    assert_eq!(entry["SharedSize"], -1);
    assert_eq!(entry["Containers"], -1);
    assert_eq!(entry["Created"], 1_704_067_200);
    assert_eq!(seen["Created"], "2024-01-01T00:00:00Z");
    assert_eq!(seen["Os"], "linux");
    let config = &seen["Config"];
    assert_eq!(config["Env"], json!(["A=1"]));
    assert_eq!(config["WorkingDir"], "/etc");
    assert_eq!(config["User"], "1000");
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}}));
    engine.finish().await;
}

#[tokio::test]
async fn an_image_is_found_by_name_id_and_prefix() {
    let engine = Engine::start().await;
    engine.api.load(&Image::small("find/me:v1", "x")).await;
    let id = engine.api.get("/images/find/me:v1/json").await.expect(200).json()["Id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let bare = id.trim_start_matches("sha256:");
    let names = [
        "find/me:v1",
        "docker.io/find/me:v1",
        "index.docker.io/find/me:v1",
        "find%2Fme:v1",
        &id,
        bare,
        &bare[..12],
        &format!("sha256:{}", &bare[..12]),
    ];
    for name in names {
        let seen = engine
            .api
            .get(&format!("/images/{name}/json"))
            .await
            .expect(200)
            .json();
        assert_eq!(seen["Id"], id.as_str(), "{name}");
    }
    let missing = engine.api.get("/images/find/me/json").await.expect(404).message();
    assert!(missing.contains("No such image: find/me:latest"), "{missing}");
    for bad in ["UPPER", "a%2F%2Fb", "-x", "x:.y", "x@sha256:12"] {
        let reply = engine.api.get(&format!("/images/{bad}/json")).await;
        assert!(
            [301, 400, 404].contains(&reply.status().as_u16()),
            "{bad}: {}",
            reply.text()
        );
    }
    engine.finish().await;
}

#[tokio::test]
async fn tags_are_made_and_moved() {
    let engine = Engine::start().await;
    engine.api.load(&Image::small("one:v1", "x")).await;
    let tag = async |name: &str, repo: &str, tag: &str| {
        engine
            .api
            .post(&format!(
                "/images/{name}/tag{}",
                query(&[("repo", repo), ("tag", tag)])
            ))
            .await
    };
    tag("one:v1", "two", "").await.expect(201);
    tag("one:v1", "registry.example:5000/three/four", "v2")
        .await
        .expect(201);
    tag("one:v1", "five:v5", "").await.expect(201);
    let seen = engine.api.get("/images/two/json").await.expect(200).json();
    let mut tags: Vec<&str> = seen["RepoTags"]
        .as_array()
        .expect("tags")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    tags.sort_unstable();
    assert_eq!(
        tags,
        [
            "five:v5",
            "one:v1",
            "registry.example:5000/three/four:v2",
            "two:latest"
        ]
    );
    let listed = engine.api.get("/images/json").await.expect(200).json();
    let of = |entry: &&Value| entry["Id"] == seen["Id"];
    assert_eq!(
        listed.as_array().expect("a list").iter().filter(of).count(),
        1,
        "one entry for all tags"
    );

    tag("nothing", "two", "").await.expect(404);
    for (repo, name) in [
        ("UPPER", ""),
        ("a b", ""),
        ("x", "a b"),
        ("", ""),
        ("x", "-y"),
        ("sha256", "x"),
    ] {
        tag("one:v1", repo, name).await.expect(400);
    }
    let hex = "a".repeat(64);
    tag("one:v1", &hex, "").await.expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn removal_goes_by_references() {
    let engine = Engine::start().await;
    engine.api.load(&Image::small("gone:v1", "x")).await;
    engine
        .api
        .post("/images/gone:v1/tag?repo=gone&tag=v2")
        .await
        .expect(201);
    let id = engine.api.get("/images/gone:v1/json").await.expect(200).json()["Id"].clone();

    let first = engine.api.delete("/images/gone:v1").await.expect(200).json();
    assert_eq!(first, json!([{"Untagged": "gone:v1"}]));
    engine.api.get("/images/gone:v1/json").await.expect(404);
    let second = engine.api.delete("/images/gone:v2").await.expect(200).json();
    let steps = second.as_array().expect("a list");
    assert_eq!(steps[0], json!({"Untagged": "gone:v2"}));
    assert!(steps.contains(&json!({"Deleted": id})), "{steps:?}");
    engine.api.delete("/images/gone:v2").await.expect(404);
    engine.api.delete("/images/gone:v2?force=1").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn an_image_in_use_is_kept() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .api
        .post("/images/busybox/tag?repo=other/name")
        .await
        .expect(201);
    let id = engine.api.get("/images/busybox/json").await.expect(200).json()["Id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let container = engine.api.create(&busybox(&["true"])).await;
    // Two repositories: the id alone does not say which.
    let message = engine
        .api
        .delete(&format!("/images/{id}"))
        .await
        .expect(409)
        .message();
    assert!(message.contains("must be forced"), "{message}");
    engine.api.delete("/images/other/name").await.expect(200);
    let message = engine.api.delete("/images/busybox").await.expect(409).message();
    assert!(
        message.contains("conflict: unable to") && message.contains(&container[..12]),
        "{message}"
    );
    // By force the name goes, and the container still works.
    engine.api.delete("/images/busybox?force=1").await.expect(200);
    engine.api.get("/images/busybox/json").await.expect(404);
    engine.api.start(&container).await;
    assert_eq!(engine.api.wait(&container).await, 0);
    engine.finish().await;
}

#[tokio::test]
async fn history_tells_the_layers() {
    let engine = Engine::start().await;
    let image = Image::small("old:v1", "x").with_layer(Tar::new().file("more", 0o644, "y"));
    engine.api.load(&image).await;
    let history = engine.api.get("/images/old:v1/history").await.expect(200).json();
    let entries = history.as_array().expect("a list");
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["Tags"], json!(["old:v1"]));
    assert_eq!(entries[0]["CreatedBy"], "a test");
    assert_eq!(entries[1]["Id"], "<missing>");
    assert_eq!(entries[1]["Tags"], Value::Null);
    engine.api.get("/images/nothing/history").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn images_are_filtered() {
    let engine = Engine::start().await;
    engine
        .api
        .load(&Image::small("shop/web:v1", "a").with("Labels", json!({"team": "web"})))
        .await;
    engine
        .api
        .load(&Image::small("shop/db:v1", "b").with("Labels", json!({"team": "db"})))
        .await;
    engine.api.load(&Image::small("shop/db:v2", "c")).await;
    let tags = async |value: Value| {
        let list = engine
            .api
            .get(&format!("/images/json{}", filters(&value)))
            .await
            .expect(200)
            .json();
        let mut tags: Vec<String> = list
            .as_array()
            .expect("a list")
            .iter()
            .flat_map(|image| image["RepoTags"].as_array().cloned().unwrap_or_default())
            .filter_map(|tag| tag.as_str().map(str::to_owned))
            .collect();
        tags.sort();
        tags
    };
    assert_eq!(tags(json!({"reference": ["shop/web"]})).await, ["shop/web:v1"]);
    assert_eq!(
        tags(json!({"reference": ["shop/*:v1"]})).await,
        ["shop/db:v1", "shop/web:v1"]
    );
    assert_eq!(tags(json!({"reference": ["*"]})).await, Vec::<String>::new());
    assert_eq!(tags(json!({"label": ["team=web"]})).await, ["shop/web:v1"]);
    assert_eq!(
        tags(json!({"label": {"team": true}})).await,
        ["shop/db:v1", "shop/web:v1"]
    );
    assert_eq!(tags(json!({"dangling": ["true"]})).await, Vec::<String>::new());
    engine
        .api
        .get(&format!(
            "/images/json{}",
            filters(&json!({"dangling": ["maybe"]}))
        ))
        .await
        .expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn prune_removes_what_nobody_uses() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine.api.load(&Image::small("loose:v1", "one")).await;
    engine.api.load(&Image::small("loose:v1", "two")).await;
    engine.api.load(&Image::small("idle:v1", "three")).await;
    engine.api.create(&busybox(&["true"])).await;
    let pruned = engine.api.post("/images/prune").await.expect(200).json();
    assert_eq!(
        pruned["ImagesDeleted"].as_array().expect("a list").len(),
        1,
        "{pruned}"
    );
    engine.api.get("/images/idle:v1/json").await.expect(200);
    let path = format!("/images/prune{}", filters(&json!({"dangling": ["false"]})));
    engine.api.post(&path).await.expect(200);
    engine.api.get("/images/idle:v1/json").await.expect(404);
    engine.api.get("/images/busybox/json").await.expect(200);
    let nothing = engine.api.post("/images/prune").await.expect(200).json();
    assert_eq!(nothing, json!({"ImagesDeleted": null, "SpaceReclaimed": 0}));
    engine.finish().await;
}

#[tokio::test]
async fn images_outlive_the_engine() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let before = engine.api.get("/images/json").await.expect(200).json();
    engine.restart().await;
    assert_eq!(engine.api.get("/images/json").await.expect(200).json(), before);
    engine.crash().await;
    assert_eq!(engine.api.get("/images/json").await.expect(200).json(), before);
    engine.finish().await;
}

#[tokio::test]
async fn pull_needs_a_registry() {
    let engine = Engine::start().await;
    // Whether pulling works here depends on the network; its failure must be a clean one in any case.
    let reply = engine
        .api
        .post("/images/create?fromImage=localhost:1/nothing&tag=v1")
        .await;
    let status = reply.status().as_u16();
    let failed = status >= 400 || reply.text().contains("errorDetail");
    assert!(failed, "{status}: {}", reply.text());
    engine
        .api
        .call(Method::POST, "/images/create?fromImage=UPPER&tag=v1")
        .send()
        .await
        .expect(400);
    engine.finish().await;
}
