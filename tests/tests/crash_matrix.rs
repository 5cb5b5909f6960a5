//! What an operation does is done in steps, and at each of them something may die or fail. First the operation is done
//! once to see its steps; then it is done again for each of them, with
//!
//! - SIGKILL for the process that comes to the step: the engine, the spawner, a supervisor or the sandbox's process;
//! - SIGKILL for the engine while another process is at the step;
//! - an error of the system at the step.
//!
//! Afterwards what was acknowledged must be there, what was not must be whole or absent, the same call must succeed, a
//! container that has nothing to do with it must not have noticed, and nothing may be left behind.
//!
//! Every run of the tests tries some of the steps; `BERTH_EFFORT=1000` tries all, `BERTH_SEED` the same ones again.

mod deed;

use std::{collections::HashMap, time::Duration};

use berth_tests::{
    Engine,
    container::shell,
    failpoints::Failpoints,
    hijack::Dialect,
    image::{Compression, Image},
    random::{Random, effort, figure, seed},
    registry::{Content, Scripted},
};
use serde_json::{Value, json};

use deed::{Deed, NETWORK, Outcome, Place, VOLUME, status};

/// How many steps of an operation are tried, times the effort.
const STEPS: usize = 4;
/// How long to wait for what happens behind an answer.
const BEHIND: Duration = Duration::from_millis(200);
/// How long an answer may take when a step fails.
const ANSWER: Duration = Duration::from_secs(20);
/// How long what is removed behind an answer may take.
const SETTLED: Duration = Duration::from_secs(15);

/// An engine, a container that must not notice anything, and what there is besides.
struct Stage {
    engine: Engine,
    points: Failpoints,
    registry: Scripted,
    bystander: String,
    pid: Value,
    count: u64,
    before: Vec<String>,
}

/// What happens at a step.
#[derive(Clone, Debug)]
struct Case {
    point: String,
    number: u64,
    /// `kill`, `pause` (for the engine to be killed meanwhile) or the name of an error.
    action: &'static str,
}

impl Stage {
    async fn new() -> Self {
        let points = Failpoints::new();
        let engine = points.options().start().await;
        engine.api.load_busybox().await;
        let mut config = shell("n=0; while read line; do n=$((n+1)); echo $n $line; done; exit 5");
        config["OpenStdin"] = json!(true);
        let bystander = engine.api.create_named("bystander", &config).await;
        engine.api.start(&bystander).await;
        let pid = engine.api.inspect(&bystander).await["State"]["Pid"].clone();
        let mut content = Content::default();
        content.image("v1", &Image::busybox(), Compression::Gzip);
        let registry = Scripted::start(content, |_, _| None).await;
        let mut stage = Self {
            engine,
            points,
            registry,
            bystander,
            pid,
            count: 0,
            before: Vec::new(),
        };
        stage.bystander_lives("at the beginning").await;
        // What is written behind the load, such as that its layers are on the disk, is there first.
        stage.before = stage.settled().await;
        stage
    }

    /// What there is, when that does not change any more.
    async fn settled(&self) -> Vec<String> {
        let mut before = Vec::new();
        while before != self.engine.traces() {
            before = self.engine.traces();
            tokio::time::sleep(BEHIND).await;
        }
        before
    }

    fn place(&self) -> Place {
        Place {
            client: self.engine.api.clone(),
            registry: self.registry.authority.as_str().into(),
        }
    }

    async fn bystander_lives(&mut self, what: &str) {
        let state = self.engine.api.inspect(&self.bystander).await["State"].clone();
        assert_eq!(
            state["Pid"], self.pid,
            "{what}: the bystander has another process"
        );
        assert_eq!(state["Running"], true, "{what}: the bystander does not run");
        let path = format!("/containers/{}/attach?stream=1&stdin=1&stdout=1", self.bystander);
        let attached = self.engine.api.hijack(&path, None, Dialect::Upgrade).await;
        let mut attached = attached.expect(101);
        self.count += 1;
        attached.write(b"hello\n").await;
        attached.until(&format!("{} hello\n", self.count)).await;
    }

    /// The steps of a deed: each point, how often it had been hit by then, and whether the engine itself hit it.
    async fn steps(&mut self, deed: Deed) -> Vec<(String, u64, bool)> {
        deed.prepare(&self.place()).await;
        self.points.clear();
        let done = deed.done(&self.place()).await;
        assert_eq!(done, Some(Ok(())), "{deed:?} without any failure");
        tokio::time::sleep(BEHIND).await;
        let engine = self.engine.pid();
        let mut counts = HashMap::<String, u64>::new();
        let steps = self.points.hits().into_iter().map(|hit| {
            let count = counts.entry(hit.point.clone()).or_default();
            *count += 1;
            (hit.point, *count, hit.pid == engine)
        });
        let steps = steps.collect();
        self.clean(&format!("{deed:?} without any failure")).await;
        steps
    }

    /// Removes what the deed was done to, and compares with before.
    async fn clean(&mut self, what: &str) {
        let api = &self.engine.api;
        for name in ["subject", "renamed"] {
            let reply = api.delete(&format!("/containers/{name}?force=1&v=1")).await;
            assert!(
                [204, 404].contains(&reply.status().as_u16()),
                "{what}: {}",
                reply.text()
            );
        }
        for path in [format!("/networks/{NETWORK}"), format!("/volumes/{VOLUME}")] {
            let reply = api.delete(&path).await;
            assert!(
                [204, 404].contains(&reply.status().as_u16()),
                "{what}: {}",
                reply.text()
            );
        }
        // What could not be deleted at once goes with the next prune.
        api.post("/volumes/prune").await.expect(200);
        api.post("/build/prune?all=1").await.expect(200);
        let pulled = format!("{}/subject:v1", self.registry.authority);
        for name in ["subject:v1", "subject:v2", &pulled] {
            let reply = api.delete(&format!("/images/{name}")).await;
            assert!(
                [200, 404].contains(&reply.status().as_u16()),
                "{what}: {}",
                reply.text()
            );
        }
        // Images without a name, which an import or a load has made, too.
        api.post("/images/prune").await.expect(200);
        self.bystander_lives(what).await;
        if !self.before.is_empty() {
            self.nothing_is_left(what).await;
        }
    }

    /// Waits until there is what there was before.
    async fn nothing_is_left(&self, what: &str) {
        let end = tokio::time::Instant::now() + SETTLED;
        loop {
            let now = self.engine.traces();
            if now == self.before {
                return;
            }
            if tokio::time::Instant::now() > end {
                let more: Vec<_> = now.iter().filter(|line| !self.before.contains(line)).collect();
                let less: Vec<_> = self.before.iter().filter(|line| !now.contains(line)).collect();
                panic!(
                    "{what}: left behind {more:#?}, gone {less:#?}, {} things where {} were",
                    now.len(),
                    self.before.len()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One try. False if the step was not come to this time.
    async fn attempt(&mut self, deed: Deed, case: &Case) -> bool {
        let what = format!(
            "{deed:?}, {} at hit {} of {} (BERTH_SEED={})",
            case.action,
            case.number,
            case.point,
            seed()
        );
        deed.prepare(&self.place()).await;
        let engine = self.engine.pid();
        self.points.quiet().await;
        self.points.plan(&case.point, case.number, case.action);
        let done = match case.action {
            "pause" => self.killed_meanwhile(deed).await,
            _ => {
                let done = tokio::time::timeout(ANSWER, deed.done(&self.place())).await;
                done.unwrap_or_else(|_| panic!("{what}: no answer within {ANSWER:?}"))
            }
        };
        let hit = self.await_hit(case).await;
        if case.action == "kill" && hit == Some(engine) {
            assert!(
                self.engine.has_died(ANSWER).await,
                "{what}: the engine should be dead"
            );
        } else if case.action != "pause" {
            assert!(done.is_some(), "{what}: there is no reply, and the engine lives");
        }
        self.points.clear();
        if !self.engine.is_running() {
            self.engine.launch_again().await;
        }
        let told = done == Some(Ok(()));
        deed.check(&self.place(), told, &what).await;
        self.again(deed, told, &what).await;
        self.clean(&what).await;
        hit.is_some()
    }

    /// The engine is killed while another process waits at a step.
    async fn killed_meanwhile(&mut self, deed: Deed) -> Outcome {
        let api = self.place();
        let deed = tokio::spawn(async move { deed.done(&api).await });
        let end = tokio::time::Instant::now() + ANSWER;
        while !self.points.is_paused() && !deed.is_finished() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if deed.is_finished() {
            tokio::time::sleep(BEHIND).await;
        }
        self.engine.kill9().await;
        self.points.release();
        self.engine.launch_again().await;
        deed.await.expect("no panic")
    }

    /// The process that came to the step, if any does.
    async fn await_hit(&self, case: &Case) -> Option<i32> {
        let end = tokio::time::Instant::now() + BEHIND;
        loop {
            let hits = self.points.hits();
            let mut same = hits.iter().filter(|hit| hit.point == case.point);
            let hit = same.nth(usize::try_from(case.number).unwrap_or(1).saturating_sub(1));
            if hit.is_some() || tokio::time::Instant::now() > end {
                return hit.map(|hit| hit.pid);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The same call once more, which must succeed.
    async fn again(&mut self, deed: Deed, told: bool, what: &str) {
        let status = status(&self.place()).await;
        if deed == Deed::End && status.as_deref() != Some("running") {
            return;
        }
        // What a supervisor has taken with it when it was killed has to be started first.
        let needs_process = matches!(
            deed,
            Deed::Kill
                | Deed::Stop
                | Deed::Restart
                | Deed::Pause
                | Deed::Unpause
                | Deed::Exec
                | Deed::Commit
                | Deed::Connect
                | Deed::Disconnect
        );
        if needs_process && status.as_deref() != Some("running") && status.as_deref() != Some("paused") {
            self.engine.api.start("subject").await;
        }
        let mut done = deed.done(&self.place()).await;
        // That a supervisor was killed may be noticed only now; then it has to be started first, too.
        let end = tokio::time::Instant::now() + SETTLED;
        while needs_process
            && matches!(&done, Some(Err(refusal)) if refusal.contains("is not running") || refusal.contains("No such exec"))
            && tokio::time::Instant::now() < end
        {
            self.engine.api.post("/containers/subject/start").await;
            done = deed.done(&self.place()).await;
        }
        match done {
            Some(Ok(())) => {}
            Some(Err(refusal)) => assert!(
                deed.is_done(&refusal),
                "{what}: the same call again: {refusal} (acknowledged before: {told})"
            ),
            None => panic!("{what}: the same call again: no reply"),
        }
    }
}

/// Goes through steps of these deeds.
async fn matrix(deeds: &[Deed]) {
    let mut stage = Stage::new().await;
    let mut tried = 0;
    for &deed in deeds {
        let mut random = Random::new(seed(), &format!("{deed:?}"));
        let mut cases = Vec::new();
        for (point, number, is_engine) in stage.steps(deed).await {
            let case = |action| Case {
                point: point.clone(),
                number,
                action,
            };
            cases.push(case("kill"));
            if is_engine {
                let errors = ["ENOSPC", "EMFILE", "ENOMEM", "EIO", "EINTR"];
                if effort() >= 1000 {
                    cases.extend(errors.iter().map(|error| case(error)));
                } else {
                    cases.push(case(*random.pick::<&'static str>(&errors)));
                }
            } else {
                cases.push(case("EIO"));
                cases.push(case("pause"));
            }
        }
        random.shuffle(&mut cases);
        cases.truncate(STEPS * usize::try_from(effort()).unwrap_or(usize::MAX / STEPS));
        for case in &cases {
            if stage.attempt(deed, case).await {
                tried += 1;
            }
        }
    }
    assert!(tried > 0, "no step was come to: the engine has no failpoints");
    let name = format!("steps died or failed at: {deeds:?}");
    figure(&name, "0 faults", "0", tried);
    stage.engine.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_and_starting() {
    matrix(&[Deed::Create, Deed::Start, Deed::Restart]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_and_removing() {
    matrix(&[Deed::Stop, Deed::Kill, Deed::End, Deed::Remove, Deed::Prune]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changing() {
    matrix(&[Deed::Rename, Deed::Update, Deed::Pause, Deed::Unpause, Deed::Exec]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images() {
    matrix(&[
        Deed::Load,
        Deed::Import,
        Deed::Tag,
        Deed::Untag,
        Deed::RemoveImage,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks() {
    matrix(&[
        Deed::CreateNetwork,
        Deed::RemoveNetwork,
        Deed::PruneNetworks,
        Deed::Connect,
        Deed::Disconnect,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes() {
    matrix(&[
        Deed::CreateVolume,
        Deed::RemoveVolume,
        Deed::PruneVolumes,
        Deed::StartWithAll,
        Deed::StopWithAll,
        Deed::RemoveWithAll,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files() {
    matrix(&[
        Deed::Commit,
        Deed::CopyIn,
        Deed::CopyInRunning,
        Deed::CopyOut,
        Deed::Export,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_and_pulls() {
    matrix(&[Deed::Build, Deed::PruneBuilds, Deed::Pull, Deed::PruneImages]).await;
}

/// The engine is killed while it takes over what an engine that was killed has left, at every step of that; the next one
/// must come to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginnings() {
    let mut stage = Stage::new().await;
    let deed = Deed::StopWithAll;
    deed.prepare(&stage.place()).await;
    let api = stage.place();
    let mut config = shell("exit 3");
    config["HostConfig"]["NetworkMode"] = json!(NETWORK);
    api.create_named("ends", &config).await;
    api.start("ends").await;
    api.wait("ends").await;
    let port = api.inspect("subject").await["NetworkSettings"]["Ports"].clone();
    stage.before = stage.settled().await;
    stage.points.clear();
    stage.engine.kill9().await;
    stage.engine.launch_again().await;
    let pid = stage.engine.pid();
    let hits = stage.points.hits();
    let mut counts = HashMap::<String, u64>::new();
    let mut steps: Vec<_> = hits
        .into_iter()
        .filter(|hit| hit.pid == pid)
        .map(|hit| {
            let count = counts.entry(hit.point.clone()).or_default();
            *count += 1;
            (hit.point, *count)
        })
        .collect();
    assert!(steps.len() > 5, "the engine has no failpoints: {steps:?}");
    let mut random = Random::new(seed(), "beginnings");
    random.shuffle(&mut steps);
    steps.truncate(2 * STEPS * usize::try_from(effort()).unwrap_or(1));
    for (point, number) in &steps {
        for action in ["kill", *random.pick::<&'static str>(&["EIO", "ENOSPC", "EMFILE"])] {
            let what = format!(
                "start, {action} at hit {number} of {point} (BERTH_SEED={})",
                seed()
            );
            // Something that ended while nobody looked.
            stage.engine.api.start("ends").await;
            stage.engine.kill9().await;
            stage.points.plan(point, *number, action);
            if !stage.engine.try_launch().await {
                stage.points.clear();
                stage.engine.launch_again().await;
            }
            stage.points.clear();
            let api = stage.place();
            let state = api.inspect("ends").await["State"].clone();
            assert_eq!(api.wait("ends").await, 3, "{what}: {state}");
            let seen = api.inspect("subject").await;
            assert_eq!(seen["State"]["Running"], true, "{what}: {}", seen["State"]);
            assert_eq!(seen["NetworkSettings"]["Ports"], port, "{what}");
            stage.bystander_lives(&what).await;
            stage.nothing_is_left(&what).await;
        }
    }
    figure(
        "steps of a start died or failed at",
        "0 faults",
        "0",
        2 * u64::try_from(steps.len()).unwrap_or(0),
    );
    stage.engine.api.remove("ends").await;
    stage.engine.finish().await;
}

/// The engine is killed while it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endings() {
    let mut stage = Stage::new().await;
    for point in ["close.networks", "close.cgroup"] {
        stage.points.plan(point, 1, "kill");
        stage.engine.terminate().await;
        stage.points.clear();
        stage.engine.launch_again().await;
        stage.bystander_lives(point).await;
    }
    stage.engine.finish().await;
}
