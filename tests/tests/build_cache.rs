//! What builds remember: when a step is taken from an earlier build, by whom, and what is left when anything dies.

use std::time::Duration;

use berth_tests::{
    build::{Told, dockerfile, started},
    client::{filters, query},
    image::{Node, Tar},
    random::{self, Random},
};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

fn hits(told: &str) -> usize {
    told.matches("Using cache").count()
}

#[tokio::test]
async fn files_count_by_what_they_are_not_by_when() {
    let engine = started().await;
    let text = "FROM busybox\nCOPY d /d\nRUN cat /d/f\n";
    let context = |mode: u32, body: &'static [u8], stamp: &str| {
        dockerfile(text)
            .pax(&[("mtime", stamp)])
            .add("d/f", mode, Node::File(body))
            .file("other", 0o644, stamp)
    };
    let first = engine.build(&[], context(0o644, b"1", "1000000000")).await;
    let id = first.ids.last().cloned();
    assert_eq!(hits(&first.ok()), 0);
    let touched = engine.build(&[], context(0o644, b"1", "1500000000")).await;
    assert_eq!(touched.ids.last().cloned(), id);
    assert_eq!(hits(&touched.ok()), 2);
    assert_eq!(
        hits(&engine.build(&[], context(0o600, b"1", "1000000000")).await.ok()),
        0
    );
    assert_eq!(
        hits(&engine.build(&[], context(0o644, b"2", "1000000000")).await.ok()),
        0
    );
    let more = context(0o644, b"1", "1000000000").file("d/g", 0o644, "");
    assert_eq!(hits(&engine.build(&[], more).await.ok()), 0);
    // Whose files they are counts where they keep their owners.
    for owner in ["1", "2"] {
        let text = format!(
            "FROM busybox AS a\nRUN echo x > /f && chown {owner} /f\nFROM busybox\nCOPY --from=a /f /f\n"
        );
        assert_eq!(
            hits(&engine.build(&[], dockerfile(&text)).await.ok()),
            0,
            "{owner}"
        );
    }
    // The same step after another one is another step.
    engine
        .build(&[], dockerfile("FROM busybox\nENV A=1\nRUN true\n"))
        .await
        .ok();
    assert_eq!(
        hits(
            &engine
                .build(&[], dockerfile("FROM busybox\nENV A=2\nRUN true\n"))
                .await
                .ok()
        ),
        0
    );
    assert_eq!(
        hits(
            &engine
                .build(&[], dockerfile("FROM busybox\nENV A=1\nRUN true\nRUN true\n"))
                .await
                .ok()
        ),
        2
    );
    engine.finish().await;
}

#[tokio::test]
async fn equal_builds_at_the_same_time_share_the_work() {
    let engine = started().await;
    let text = "FROM busybox\nRUN --mount=type=cache,target=/k usleep 200000; echo x >> /k/n; cat /k/n | wc -l\nCOPY f /f\nRUN cat /f\n";
    let builds = (0..6).map(|_| async {
        let told = engine.build(&[], dockerfile(text).file("f", 0o644, "f")).await;
        (told.ids.last().cloned(), told.ok())
    });
    let all = join_all(builds).await;
    assert!(all.iter().all(|(id, _)| *id == all[0].0), "{all:?}");
    // Each of the two commands ran once, whoever came first.
    let ran: usize = all
        .iter()
        .map(|(_, told)| told.matches("Running in").count())
        .sum();
    assert_eq!(ran, 2, "{all:?}");
    engine.finish().await;
}

#[tokio::test]
async fn one_of_two_that_share_may_leave() {
    let engine = started().await;
    let text = "FROM busybox\nRUN --mount=type=cache,target=/k touch /k/begun; until [ -e /k/go ]; do usleep 20000; done; echo done\n";
    let leaving = engine.api.call(Method::POST, "/build");
    let leaving = leaving
        .header("content-type", "application/x-tar")
        .bytes(dockerfile(text).finish());
    let mut stream = leaving.open().await.expect(200);
    while !stream.record().await.expect("a record")["stream"]
        .as_str()
        .is_some_and(|s| s.contains("Running in"))
    {}
    let path = format!("/build{}", query(&[("t", "shared")]));
    let staying = engine.api.post_tar(&path, dockerfile(text).finish());
    let release = async {
        drop(stream);
        let go = "FROM busybox\nRUN --mount=type=cache,id=/k,target=/k touch /k/go\n";
        engine.build(&[], dockerfile(go)).await.ok();
    };
    let (reply, ()) = tokio::join!(staying, release);
    assert!(Told::of(&reply.expect(200).records()).ok().contains("done\n"));
    engine.finish().await;
}

#[tokio::test]
async fn pruning_takes_what_its_filters_say() {
    let engine = started().await;
    let text = "FROM busybox\nRUN --mount=type=cache,id=kept,target=/k head -c 1000 /dev/zero > /k/f; head -c 5000 /dev/zero > /big\nENV A=1\nRUN echo last > /l\n";
    let build = async || drop(engine.build(&[("t", "kept")], dockerfile(text)).await.ok());
    let records = async || {
        let usage = engine
            .api
            .get("/system/df?type=build-cache")
            .await
            .expect(200)
            .json();
        usage["BuildCache"].as_array().expect("a list").clone()
    };
    let prune = async |all: bool, filter: Value| {
        let path = format!(
            "/build/prune{}{}",
            filters(&filter),
            if all { "&all=1" } else { "" }
        );
        let pruned = engine.api.post(&path).await.expect(200).json();
        pruned["CachesDeleted"].as_array().map_or(0, Vec::len)
    };
    build().await;
    assert_eq!(records().await.len(), 4);
    let step = records()
        .await
        .into_iter()
        .find(|r| r["Description"].as_str().is_some_and(|d| d.contains("ENV")))
        .expect("a step");
    assert_eq!(step["Parents"].as_array().map(Vec::len), Some(1), "{step}");
    assert_eq!(prune(true, json!({"until": ["24h"]})).await, 0);
    assert_eq!(prune(true, json!({"type": ["exec.cachemount"]})).await, 1);
    build().await;
    assert_eq!(prune(true, json!({"id": [step["ID"]]})).await, 1);
    build().await;
    // What came after it before and what comes after it now.
    assert_eq!(prune(true, json!({"parent": [step["ID"]]})).await, 2);
    build().await;
    assert_eq!(prune(true, json!({"description": ["nothing like it"]})).await, 0);
    assert_eq!(
        prune(true, json!({"description": [step["Description"]]})).await,
        1
    );
    build().await;
    assert_eq!(prune(true, json!({"inuse": ["true"]})).await, 0);
    let (shared, private): (Vec<_>, Vec<_>) = records().await.into_iter().partition(|r| r["Shared"] == true);
    assert!(!shared.is_empty() && !private.is_empty());
    assert_eq!(prune(true, json!({"private": ["true"]})).await, private.len());
    assert_eq!(prune(true, json!({"shared": ["true"]})).await, shared.len());
    assert_eq!(prune(true, json!({})).await, 0);
    for bad in [
        json!({"until": ["x"]}),
        json!({"id": ["("]}),
        json!({"inuse": ["maybe"]}),
        json!({"nope": ["1"]}),
        json!({"until": ["1h"], "unused-for": ["1h"]}),
    ] {
        engine
            .api
            .post(&format!("/build/prune{}", filters(&bad)))
            .await
            .expect(400);
    }
    build().await;
    let pruned = engine.docker(&["builder", "prune", "-af"]).await.ok();
    assert!(
        pruned.contains("Total reclaimed space") || pruned.contains("Total:"),
        "{pruned}"
    );
    build().await;
    let shown = engine.docker(&["system", "df", "-v"]).await.ok();
    assert!(
        shown.contains("Build cache usage") && shown.contains("exec.cachemount"),
        "{shown}"
    );
    engine
        .api
        .post("/build/prune?all=1&keep-storage=1000000000")
        .await
        .expect(200);
    assert!(!records().await.is_empty());
    engine.finish().await;
}

#[tokio::test]
async fn pruning_while_building_harms_nothing() {
    let engine = started().await;
    let text = |n: usize| {
        format!(
            "FROM busybox AS a\nRUN --mount=type=cache,target=/k echo {n} > /k/n; usleep 100000; cat /k/n > /n\nENV N={n}\nRUN cat /n\nFROM busybox\nCOPY --from=a /n /n\nRUN grep -x {n} /n\n"
        )
    };
    let builds = async {
        for n in 0..4 {
            engine.build(&[], dockerfile(&text(n))).await.ok();
        }
    };
    let prunes = async {
        loop {
            let path = format!("/build/prune{}", query(&[("all", "1")]));
            engine.api.post(&path).await.expect(200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = builds => {}
        () = prunes => unreachable!("it does not end"),
    }
    engine.finish().await;
}

#[tokio::test]
async fn what_dies_at_any_moment_leaves_nothing_wrong() {
    let mut engine = started().await;
    let text = "FROM busybox AS a\nRUN mkdir /d && for i in 1 2 3 4 5 6 7 8; do head -c 10000 /dev/zero > /d/$i; done\nCOPY f /d/f\n\
        FROM busybox AS b\nRUN --mount=type=cache,target=/k echo b > /b\nWORKDIR /w/x\nFROM busybox\nCOPY --from=a /d /d\nCOPY --from=b /b /b\nENV DONE=1\nRUN ls /d | wc -l > /count\n";
    let context = || dockerfile(text).file("f", 0o644, vec![b'x'; 100_000]);
    let mut random = Random::new(random::seed(), "builds that die");
    for round in 0..6 * random::effort() {
        let path = format!(
            "/build{}",
            query(&[
                ("t", "whole"),
                ("nocache", if round % 3 == 0 { "1" } else { "0" })
            ])
        );
        let call = engine.api.call(Method::POST, &path);
        let call = call
            .header("content-type", "application/x-tar")
            .bytes(context().finish());
        let patience = Duration::from_micros(u64::try_from(random.below(400_000)).unwrap_or_default());
        let _cut = tokio::time::timeout(patience, call.attempt()).await;
        engine.crash().await;
        let told = engine.build(&[("t", "whole")], context()).await.ok();
        assert!(told.contains("Successfully tagged whole:latest"), "{told}");
        let seen = engine
            .read_in(
                "whole",
                "cat /count; cat /b; ls -d /w 2>/dev/null; wc -c < /d/8; wc -c < /d/f",
            )
            .await;
        assert_eq!(seen, "9\nb\n10000\n100000\n", "round {round}");
        let names = engine.api.names("?all=1").await;
        assert!(names.is_empty(), "{names:?}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_at_any_moment_leaves_nothing() {
    let engine = started().await;
    let text = "FROM busybox AS a\nRUN echo a > /a; sleep 1\nFROM busybox AS b\nRUN echo b > /b; sleep 1\nFROM busybox\nCOPY --from=a /a /a\nCOPY --from=b /b /b\n";
    let mut random = Random::new(random::seed(), "clients that leave");
    for _ in 0..8 {
        let call = engine.api.call(Method::POST, "/build?nocache=1");
        let call = call
            .header("content-type", "application/x-tar")
            .bytes(dockerfile(text).finish());
        let patience = Duration::from_micros(u64::try_from(random.below(500_000)).unwrap_or_default());
        let _cut = tokio::time::timeout(patience, call.attempt()).await;
    }
    // Containers go behind the builds.
    let gone = async {
        while !engine.api.names("?all=1").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .expect("all containers of builds go");
    engine
        .build(&[], Tar::new().file("Dockerfile", 0o644, text))
        .await
        .ok();
    engine.finish().await;
}
