//! Requests made from the document: for every operation some that it allows and some that it does not. Whatever comes,
//! the engine answers what the document declares, never 500, and goes on.
//!
//! A run of all tests sends some hundreds; `BERTH_EFFORT=100` sends more, `BERTH_SEED` the same ones again.

mod generate;

use std::time::Duration;

use berth_tests::{
    Engine,
    container::{STAY, busybox, shell},
    random::{Random, effort, figure, seed},
};

use generate::{Generator, Request};

/// How many requests are sent, times the effort.
const REQUESTS: u64 = 700;
/// How long a body is read.
const BODY: Duration = Duration::from_millis(150);
/// What is sent in between to see that the engine is well.
const ROUND: u64 = 100;

/// An engine with objects that requests can be about; their names.
async fn populated() -> (Engine, Vec<String>) {
    let engine = Engine::start().await;
    let api = &engine.api;
    api.load_busybox().await;
    let running = api.create_named("running", &shell(STAY)).await;
    api.start(&running).await;
    let made = api.create_named("made", &busybox(&["true"])).await;
    let image = api.get("/images/busybox/json").await.expect(200).json()["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let names = [
        "running",
        "made",
        "busybox",
        "busybox:latest",
        "bridge",
        "none",
        "host",
    ];
    let mut names: Vec<String> = names.map(str::to_owned).into();
    names.extend([running, made, image]);
    (engine, names)
}

/// What is wrong with the answer to a request.
async fn complaints(engine: &Engine, request: &Request) -> Vec<String> {
    let path = request.target.split('?').next().unwrap_or_default();
    let mut call = engine.api.call(request.method.clone(), &request.target);
    for (name, value) in &request.headers {
        call = call.header(name, value);
    }
    match call.bytes(request.body.clone()).probe(BODY).await {
        Err(error) => vec![error],
        Ok((head, bytes, violations)) => {
            let mut all = violations.0;
            let text = String::from_utf8_lossy(&bytes);
            // What the document has answered by 500, and registries that are not there.
            let known = [
                "is not paused",
                "to cgroup file",
                "Connection refused",
                "cannot reach https://",
                "error running ps",
            ];
            if head.status == 500 && !known.iter().any(|known| text.contains(known)) {
                all.push(format!("500: {text}"));
            }
            // Paths that are not clean lead to the clean one.
            if head.status == 301
                && ["//", "/./", "/../", "/.", "/.."]
                    .iter()
                    .any(|odd| path.contains(odd))
            {
                all.clear();
            }
            all
        }
    }
}

#[tokio::test]
async fn every_answer_is_one_that_the_document_allows() {
    let (engine, names) = populated().await;
    let mut generator = Generator::new(Random::new(seed(), "fuzz"), names, engine.root());
    let mut faults = Vec::new();
    for number in 0..REQUESTS * effort() {
        let request = generator.request(usize::try_from(number).unwrap_or_default());
        for complaint in complaints(&engine, &request).await {
            faults.push(format!("request {number}: {request}\n    {complaint}"));
        }
        if number % ROUND == 0 {
            engine.api.get("/_ping").await.expect(200);
            let panicked = engine.log().contains("panicked at");
            assert!(
                !panicked,
                "the engine panicked before request {number} (BERTH_SEED={})",
                seed()
            );
            generator.learn(&engine.api).await;
        }
        if faults.len() > 20 {
            break;
        }
    }
    assert!(
        faults.is_empty(),
        "BERTH_SEED={} BERTH_EFFORT={}:\n{}",
        seed(),
        effort(),
        faults.join("\n")
    );
    figure(
        "requests made from the document",
        "0 faults",
        "0",
        REQUESTS * effort(),
    );
    engine.finish().await;
}
