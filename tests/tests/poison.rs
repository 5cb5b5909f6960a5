//! State files that are not what the engine wrote: cut off, overwritten, of other types. Whatever is in them, the engine
//! starts, says so in its log, keeps what it can read and goes on with what runs.

use std::{fs, path::PathBuf};

use berth_tests::{
    Engine,
    container::{STAY, busybox, shell},
    image::Image,
    random::{Random, effort, figure, seed},
};
use serde_json::{Value, json};

/// How many variants of each file are tried, times the effort.
const VARIANTS: usize = 2;

/// The state files of an engine that does not run, by what they are.
fn state_files(engine: &Engine, subject: &str) -> Vec<PathBuf> {
    let data = engine.data_root();
    let mut files = vec![data.join(format!("containers/{subject}/container.json"))];
    let mut directories = vec![data.join("images")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("a type");
            // What images contain is not the engine's state.
            if kind.is_dir() && entry.file_name() != "fs" && entry.file_name() != "content" {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|end| end == "json") {
                files.push(path);
            }
        }
    }
    for entry in fs::read_dir(&data).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) && entry.file_name() != "lock" {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

/// Another value of another type in the place of one in the middle of it.
fn changed(random: &mut Random, value: &mut Value) {
    let odd = [
        Value::Null,
        json!(-1),
        json!(1e300),
        json!("\u{0}/../.."),
        json!([]),
        json!({}),
        json!(true),
        json!(u64::MAX),
    ];
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let place = random.below(fields.len());
            let field = fields.values_mut().nth(place).expect("a field");
            match field.is_object() && !random.once_in(3) {
                true => changed(random, field),
                false => *field = random.pick(&odd).clone(),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let place = random.below(items.len());
            changed(random, &mut items[place]);
        }
        other => *other = random.pick(&odd).clone(),
    }
}

fn poisoned(random: &mut Random, good: &[u8]) -> (String, Vec<u8>) {
    let half = good.len() / 2;
    match random.below(10) {
        0 => ("empty".into(), Vec::new()),
        1 => ("cut off".into(), good[..half].to_vec()),
        2 => ("zeros".into(), vec![0; good.len().max(1)]),
        3 => ("nested without end".into(), "[".repeat(200_000).into_bytes()),
        4 => ("null".into(), b"null".to_vec()),
        5 => ("twice".into(), good.repeat(2)),
        _ => match serde_json::from_slice::<Value>(good) {
            Ok(mut value) => {
                changed(random, &mut value);
                (value.to_string(), value.to_string().into_bytes())
            }
            Err(_) => ("no text".into(), vec![0xff; 64]),
        },
    }
}

#[tokio::test]
async fn poisoned_state_does_not_keep_the_engine_from_starting() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine.api.load(&Image::small("small:v1", "text")).await;
    let bystander = engine.api.create_named("bystander", &shell(STAY)).await;
    engine.api.start(&bystander).await;
    let subject = engine.api.create_named("subject", &busybox(&["true"])).await;
    engine.api.start(&subject).await;
    engine.api.wait(&subject).await;
    let mut random = Random::new(seed(), "poison");
    engine.stop().await;
    let files = state_files(&engine, &subject);
    assert!(files.len() > 5, "{files:?}");
    let backup = engine.root().join("backup");
    copy(&engine.data_root(), &backup);
    for file in &files {
        for _ in 0..VARIANTS * usize::try_from(effort()).unwrap_or(1) {
            let good = fs::read(file).expect("a state file");
            let (what, bad) = poisoned(&mut random, &good);
            fs::write(file, bad).expect("a state file");
            engine.launch_again().await;
            let shown = format!("{} {what} (BERTH_SEED={})", file.display(), seed());
            let state = engine.api.inspect("bystander").await["State"].clone();
            assert_eq!(state["Running"], true, "{shown}: {state}");
            engine.api.get("/images/json?all=1").await.expect(200);
            engine.api.get("/system/df").await.expect(200);
            for container in engine
                .api
                .get("/containers/json?all=1")
                .await
                .expect(200)
                .json()
                .as_array()
                .expect("a list")
            {
                let id = container["Id"].as_str().expect("an id");
                engine
                    .api
                    .get(&format!("/containers/{id}/json"))
                    .await
                    .expect(200);
            }
            engine.stop().await;
            assert!(!engine.log().contains("panicked at"), "{shown}: a panic");
            restore(&backup, &engine.data_root());
        }
    }
    let runs = files.len() * VARIANTS * usize::try_from(effort()).unwrap_or(1);
    figure(
        "starts with poisoned state files",
        "all",
        "all",
        u64::try_from(runs).unwrap_or(0),
    );
    engine.launch_again().await;
    engine.api.get("/images/small:v1/json").await.expect(200);
    engine.api.start("subject").await;
    engine.finish().await;
}

/// Copies with everything that images need, links and attributes included.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(done.expect("cp").success(), "cannot copy {}", from.display());
}

fn restore(backup: &std::path::Path, data: &std::path::Path) {
    fs::remove_dir_all(data.join("images")).expect("the images");
    copy(&backup.join("images"), &data.join("images"));
    for entry in fs::read_dir(backup).expect("the backup").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) && entry.file_name() != "lock" {
            fs::copy(entry.path(), data.join(entry.file_name())).expect("a file");
        }
    }
    for entry in fs::read_dir(backup.join("containers"))
        .expect("the containers")
        .flatten()
    {
        let file = data
            .join("containers")
            .join(entry.file_name())
            .join("container.json");
        fs::copy(entry.path().join("container.json"), file).expect("a file");
    }
}
