//! Images in and out as archives.

use berth_tests::{
    Engine,
    client::{filters, query},
    image::{Compression, Image, Tar, digest},
    web::Web,
};
use serde_json::json;

#[tokio::test]
async fn every_form_of_archive_loads() {
    let engine = Engine::start().await;
    let mut number = 0;
    for outer in Compression::ALL {
        for inner in [
            None,
            Some(Compression::None),
            Some(Compression::Gzip),
            Some(Compression::Zstd),
        ] {
            number += 1;
            let tag = format!("form{number}:v1");
            let image = Image::small(&tag, &tag);
            let archive = match inner {
                None => image.docker_archive(),
                Some(inner) => image.oci_archive(inner),
            };
            let reply = engine
                .api
                .post_tar("/images/load", outer.apply(&archive))
                .await
                .expect(200);
            assert!(
                reply.text().contains(&format!("Loaded image: {tag}")),
                "{outer:?} {inner:?}: {}",
                reply.text()
            );
            let seen = engine
                .api
                .get(&format!("/images/{tag}/json"))
                .await
                .expect(200)
                .json();
            assert_eq!(seen["RepoTags"], json!([tag]));
            assert_eq!(seen["RootFS"]["Layers"], json!([digest(&image.layers[0])]));
            assert_eq!(seen["Config"]["Cmd"], json!(["/etc/text"]));
        }
    }
    engine.finish().await;
}

#[tokio::test]
async fn an_image_without_a_name_is_loaded_by_its_id() {
    let engine = Engine::start().await;
    let mut image = Image::small("x", "no name");
    image.tags.clear();
    let reply = engine
        .api
        .post_tar("/images/load", image.docker_archive())
        .await
        .expect(200);
    assert!(
        reply.text().contains("Loaded image ID: sha256:"),
        "{}",
        reply.text()
    );
    let list = engine
        .api
        .get(&format!(
            "/images/json{}",
            filters(&json!({"dangling": ["true"]}))
        ))
        .await
        .expect(200)
        .json();
    assert_eq!(list.as_array().expect("a list").len(), 1);
    assert_eq!(list[0]["RepoTags"], json!([]));
    engine.finish().await;
}

#[tokio::test]
async fn a_tag_moves_to_the_image_loaded_last() {
    let engine = Engine::start().await;
    engine.api.load(&Image::small("moving:v1", "one")).await;
    let first = engine.api.get("/images/moving:v1/json").await.expect(200).json();
    engine.api.load(&Image::small("moving:v1", "two")).await;
    let second = engine.api.get("/images/moving:v1/json").await.expect(200).json();
    assert_ne!(first["Id"], second["Id"]);
    let old = engine
        .api
        .get(&format!("/images/{}/json", first["Id"].as_str().expect("an id")))
        .await
        .expect(200)
        .json();
    assert_eq!(old["RepoTags"], json!([]));
    engine.finish().await;
}

#[tokio::test]
async fn saved_images_load_again() {
    let engine = Engine::start().await;
    let image = Image::small("save/me:v1", "kept").with("Labels", json!({"a": "b"}));
    engine.api.load(&image).await;
    engine.api.load(&Image::small("save/too:v1", "also")).await;
    let before = engine.api.get("/images/save/me:v1/json").await.expect(200).json();
    let one = engine.api.get("/images/save/me:v1/get").await.expect(200);
    let both = engine
        .api
        .get("/images/get?names=save/me:v1&names=save/too:v1")
        .await
        .expect(200);
    for name in ["save/me:v1", "save/too:v1"] {
        engine.api.delete(&format!("/images/{name}")).await.expect(200);
    }
    engine
        .api
        .post_tar("/images/load", one.bytes.clone())
        .await
        .expect(200);
    let after = engine.api.get("/images/save/me:v1/json").await.expect(200).json();
    assert_eq!(before["Id"], after["Id"]);
    assert_eq!(before["RootFS"], after["RootFS"]);
    assert_eq!(before["Config"], after["Config"]);
    engine.api.get("/images/save/too:v1/json").await.expect(404);
    engine.api.post_tar("/images/load", both.bytes).await.expect(200);
    engine.api.get("/images/save/too:v1/json").await.expect(200);

    let names: Vec<String> = tar::Archive::new(one.bytes.as_ref())
        .entries()
        .expect("a tar")
        .map(|entry| {
            entry
                .expect("an entry")
                .path()
                .expect("a path")
                .display()
                .to_string()
        })
        .collect();
    for name in ["manifest.json", "oci-layout", "index.json"] {
        assert!(
            names.iter().any(|known| known == name),
            "{name} is not in {names:?}"
        );
    }
    engine.api.get("/images/nothing/get").await.expect(404);
    engine
        .api
        .get("/images/get?names=save/me:v1&names=nothing")
        .await
        .expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn an_archive_is_imported_by_its_address() {
    let engine = Engine::start().await;
    let tar = Tar::new().file("motd", 0o644, "hello").finish();
    let web = Web::serve(Compression::Gzip.apply(&tar)).await;
    let create = async |source: &str| {
        let pairs = [("fromSrc", source), ("repo", "fetched")];
        engine.api.post(&format!("/images/create{}", query(&pairs))).await
    };
    let reply = create(&web.url("root.tar.gz")).await.expect(200);
    let last = reply.records().pop().expect("a record");
    let seen = engine.api.get("/images/fetched/json").await.expect(200).json();
    assert_eq!(seen["Id"], last["status"]);
    assert_eq!(
        seen["Comment"],
        format!("Imported from {}", web.url("root.tar.gz"))
    );
    // Without a scheme it is http.
    create(web.url("x").trim_start_matches("http://"))
        .await
        .expect(200);
    let refused = create("http://127.0.0.1:1/x").await.expect(400).message();
    assert!(
        refused.contains("cannot download http://127.0.0.1:1/x"),
        "{refused}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn a_tar_is_imported_as_an_image() {
    let engine = Engine::start().await;
    let tar = Tar::new()
        .directory("etc/", 0o755)
        .file("etc/motd", 0o644, "hello")
        .finish();
    let changes = [
        ("changes", "CMD [\"/etc/motd\"]"),
        ("changes", "ENV A=b"),
        ("changes", "LABEL x=y"),
    ];
    for (number, compression) in Compression::ALL.into_iter().enumerate() {
        let repo = format!("imported{number}");
        let mut pairs = vec![
            ("fromSrc", "-"),
            ("repo", repo.as_str()),
            ("tag", "v1"),
            ("message", "by hand"),
        ];
        pairs.extend(changes);
        let path = format!("/images/create{}", query(&pairs));
        let reply = engine
            .api
            .post_tar(&path, compression.apply(&tar))
            .await
            .expect(200);
        let last = reply.records().pop().expect("a record");
        assert!(
            last["status"].as_str().expect("a status").starts_with("sha256:"),
            "{last}"
        );
        let seen = engine
            .api
            .get(&format!("/images/{repo}:v1/json"))
            .await
            .expect(200)
            .json();
        assert_eq!(seen["Id"], last["status"]);
        assert_eq!(seen["Config"]["Cmd"], json!(["/etc/motd"]));
        assert_eq!(seen["Config"]["Env"], json!(["A=b"]));
        assert_eq!(seen["Config"]["Labels"], json!({"x": "y"}));
        assert_eq!(seen["Comment"], "by hand");
    }
    engine.finish().await;
}

#[tokio::test]
async fn layers_are_shared_and_whiteouts_hide() {
    let engine = Engine::start().await;
    let image = Image::busybox()
        .tagged("layers:v1")
        .with_layer(
            Tar::new()
                .directory("data/", 0o755)
                .file("data/one", 0o644, "1")
                .file("data/two", 0o644, "2"),
        )
        .with_layer(
            Tar::new()
                .file("data/.wh.one", 0o644, "")
                .file("data/three", 0o644, "3"),
        )
        .with_layer(Tar::new().directory("dir/", 0o755).file("dir/a", 0o644, "a"))
        .with_layer(
            Tar::new()
                .directory("dir/", 0o755)
                .file("dir/.wh..wh..opq", 0o644, "")
                .file("dir/b", 0o644, "b"),
        );
    engine.api.load(&image).await;
    let config =
        json!({"Image": "layers:v1", "Cmd": ["ls", "/data", "/dir"], "HostConfig": {"NetworkMode": "none"}});
    let (code, output) = engine.api.run(&config).await;
    assert_eq!(
        (code, output.out.as_str()),
        (0, "/data:\nthree\ntwo\n\n/dir:\nb\n")
    );
    engine.finish().await;
}
