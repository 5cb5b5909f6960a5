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

use std::{collections::HashMap, time::Duration};

use berth_tests::{
    Client, Engine, Reply,
    client::{Call, query},
    container::{STAY, busybox, shell},
    failpoints::Failpoints,
    hijack::Dialect,
    image::Image,
    random::{Random, effort, figure, seed},
};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// How many steps of an operation are tried, times the effort.
const STEPS: usize = 4;
/// How long to wait for what happens behind an answer.
const BEHIND: Duration = Duration::from_millis(200);
/// How long an answer may take when a step fails.
const ANSWER: Duration = Duration::from_secs(20);
/// How long what is removed behind an answer may take.
const SETTLED: Duration = Duration::from_secs(15);

/// What is done to the container `subject` or the image of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Create,
    Start,
    Restart,
    Stop,
    Kill,
    End,
    Remove,
    Prune,
    Rename,
    Update,
    Pause,
    Unpause,
    Exec,
    Load,
    Import,
    Tag,
    Untag,
    RemoveImage,
}

/// The reply, if there was one: success, or the text of the refusal.
type Outcome = Option<Result<(), String>>;

fn outcome(reply: Option<Reply>) -> Outcome {
    reply.map(|reply| {
        let text = reply.text();
        let failed = reply.status().is_client_error() || reply.status().is_server_error();
        match failed || text.contains("errorDetail") {
            true => Err(format!("{} {}", reply.status(), text.trim())),
            false => Ok(()),
        }
    })
}

/// Writes a line to the subject's standard input.
async fn tell_subject(api: &Client) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(api.socket()).await?;
    let request = "POST /containers/subject/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\
                   Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    stream.read_exact(&mut [0; 12]).await?;
    stream.write_all(b"go\n").await
}

/// The state of the subject; none if there is none.
async fn status(api: &Client) -> Option<String> {
    let found = api.get("/containers/subject/json").await;
    (found.status() == 200).then(|| found.json()["State"]["Status"].as_str().map(str::to_owned))?
}

/// A container that stays, with what most containers have: shared memory that others may join, a limit, a bind.
fn subject() -> Value {
    let mut config = shell(STAY);
    config["HostConfig"]["IpcMode"] = json!("shareable");
    config["HostConfig"]["Memory"] = json!(64 << 20);
    config["HostConfig"]["Binds"] = json!(["/etc:/host-etc:ro"]);
    config
}

fn archive() -> Vec<u8> {
    Image::busybox().tagged("subject:v1").docker_archive()
}

impl Deed {
    /// Makes what it is done to.
    async fn prepare(self, api: &Client) {
        match self {
            Self::Create | Self::Load | Self::Import => {}
            Self::Start | Self::Remove | Self::Prune | Self::Rename | Self::Update => {
                api.create_named("subject", &subject()).await;
            }
            Self::Restart | Self::Stop | Self::Kill | Self::Pause | Self::Unpause | Self::Exec => {
                api.create_named("subject", &subject()).await;
                api.start("subject").await;
                api.await_output("subject", "ready").await;
                if self == Self::Unpause {
                    api.post("/containers/subject/pause").await.expect(204);
                }
            }
            Self::End => {
                let mut config = shell("read line; exit 7");
                config["OpenStdin"] = json!(true);
                api.create_named("subject", &config).await;
                api.start("subject").await;
            }
            Self::Tag | Self::Untag | Self::RemoveImage => {
                let image = Image::small("subject:v1", "some text");
                api.load(&image).await;
                if self == Self::Untag {
                    api.post("/images/subject:v1/tag?repo=subject&tag=v2")
                        .await
                        .expect(201);
                }
            }
        }
    }

    fn call(self, api: &Client) -> Call<'_> {
        let post = |path: &str| api.call(Method::POST, path);
        match self {
            Self::Create => post("/containers/create?name=subject").json(&subject()),
            Self::Start => post("/containers/subject/start"),
            Self::Restart => post("/containers/subject/restart?t=30"),
            Self::Stop => post("/containers/subject/stop?t=30"),
            Self::Kill => post("/containers/subject/kill"),
            Self::End => post("/containers/subject/wait"),
            Self::Remove => api.call(Method::DELETE, "/containers/subject?v=1"),
            Self::Prune => post("/containers/prune"),
            Self::Rename => post("/containers/subject/rename?name=renamed"),
            Self::Update => {
                post("/containers/subject/update").json(&json!({"Memory": 96 << 20, "MemorySwap": 192 << 20}))
            }
            Self::Pause => post("/containers/subject/pause"),
            Self::Unpause => post("/containers/subject/unpause"),
            Self::Exec => post("/containers/subject/exec").json(&json!({"Cmd": ["true"]})),
            Self::Load => post("/images/load")
                .header("content-type", "application/x-tar")
                .bytes(archive()),
            Self::Import => {
                let path = format!(
                    "/images/create{}",
                    query(&[("fromSrc", "-"), ("repo", "subject"), ("tag", "v1")])
                );
                post(&path)
                    .header("content-type", "application/x-tar")
                    .bytes(Image::busybox().layers[0].clone())
            }
            Self::Tag => post("/images/subject:v1/tag?repo=subject&tag=v2"),
            Self::Untag => api.call(Method::DELETE, "/images/subject:v2"),
            Self::RemoveImage => api.call(Method::DELETE, "/images/subject:v1"),
        }
    }

    /// Does it; for some, something besides the call makes it happen.
    async fn done(self, api: &Client) -> Outcome {
        if self == Self::End {
            // The engine may die of it at any moment.
            let _ = tell_subject(api).await;
        }
        let reply = self.call(api).attempt().await?;
        if self == Self::Exec && reply.status() == 201 {
            let path = format!("/exec/{}/start", reply.json()["Id"].as_str()?);
            let start = api.call(Method::POST, &path).json(&json!({"Detach": true}));
            return outcome(start.attempt().await);
        }
        // A prune goes on after what it cannot remove, and does not tell that it did.
        if self == Self::Prune && reply.status() == 200 && reply.json()["ContainersDeleted"].is_null() {
            let left = status(api).await;
            return Some(left.map_or(Ok(()), |left| Err(format!("pruning has left it {left}"))));
        }
        outcome(Some(reply))
    }

    /// Checks what is there; `told` is whether success was acknowledged.
    async fn check(self, api: &Client, told: bool, what: &str) {
        match self {
            Self::Create => {
                let found = api.get("/containers/subject/json").await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                if found.status() == 200 {
                    assert_eq!(found.json()["State"]["Status"], "created", "{what}");
                    api.start("subject").await;
                }
            }
            Self::Start | Self::Restart => {
                let state = api.inspect("subject").await["State"].clone();
                // Killed after it has been let go is killed as the program that it was about to become.
                let was_killed = state["ExitCode"] == 137 && what.contains("inside.seal");
                assert!(state["Running"] == true || was_killed || !told, "{what}: {state}");
            }
            Self::Stop | Self::Kill | Self::End => {
                let state = api.inspect("subject").await["State"].clone();
                assert!(state["Running"] == false || !told, "{what}: {state}");
                let code = if self == Self::End { 7 } else { 0 };
                // A supervisor that is killed takes the code with it.
                if self != Self::Kill && told && !what.contains("kill at hit") {
                    assert_eq!(state["ExitCode"], code, "{what}: {state}");
                }
            }
            Self::Remove | Self::Prune => {
                let found = api.get("/containers/subject/json").await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
            }
            Self::Rename => {
                let names = api.names("?all=1").await;
                let (old, new) = (
                    names.contains(&"subject".to_owned()),
                    names.contains(&"renamed".to_owned()),
                );
                assert!(old != new && (new || !told), "{what}: {names:?}");
            }
            Self::Update => {
                let memory = api.inspect("subject").await["HostConfig"]["Memory"].clone();
                let (old, new) = (memory == json!(64 << 20), memory == json!(96 << 20));
                assert!(new || old && !told, "{what}: {memory}");
            }
            Self::Pause | Self::Unpause => {
                let state = api.inspect("subject").await["State"].clone();
                let wanted = self == Self::Pause;
                assert!(state["Paused"] == wanted || !told, "{what}: {state}");
                assert_eq!(state["Running"], true, "{what}: {state}");
            }
            Self::Exec => {
                let state = api.inspect("subject").await["State"].clone();
                // A supervisor that is killed takes its container with it.
                let may_end = what.contains("kill at hit");
                assert!(state["Running"] == true || may_end, "{what}: {state}");
            }
            Self::Load | Self::Import => {
                let found = api.get("/images/subject:v1/json").await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                if found.status() == 200 {
                    let mut config = busybox(&["true"]);
                    config["Image"] = json!("subject:v1");
                    let id = api.create(&config).await;
                    api.start(&id).await;
                    assert_eq!(api.wait(&id).await, 0, "{what}");
                    api.remove(&id).await;
                }
            }
            Self::Tag => {
                let found = api.get("/images/subject:v2/json").await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                api.get("/images/subject:v1/json").await.expect(200);
            }
            Self::Untag => {
                let found = api.get("/images/subject:v2/json").await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
                api.get("/images/subject:v1/json").await.expect(200);
            }
            Self::RemoveImage => {
                let found = api.get("/images/subject:v1/json").await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
            }
        }
    }

    /// Whether this refusal of the second try says that the first has done it all.
    fn is_done(self, refusal: &str) -> bool {
        match self {
            Self::Create => refusal.starts_with("409") && refusal.contains("already in use"),
            Self::Kill => refusal.starts_with("409") && refusal.contains("is not running"),
            Self::Rename | Self::Remove => refusal.starts_with("404"),
            Self::Pause => refusal.starts_with("409") && refusal.contains("already paused"),
            Self::Unpause => refusal.contains("is not paused"),
            Self::Untag | Self::RemoveImage => refusal.starts_with("404"),
            _ => false,
        }
    }
}

/// An engine, a container that must not notice anything, and what there is besides.
struct Stage {
    engine: Engine,
    points: Failpoints,
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
        let mut stage = Self {
            engine,
            points,
            bystander,
            pid,
            count: 0,
            before: Vec::new(),
        };
        stage.bystander_lives("at the beginning").await;
        // What is written behind the load, such as that its layers are on the disk, is there first.
        let mut before = Vec::new();
        while before != stage.engine.traces() {
            before = stage.engine.traces();
            tokio::time::sleep(BEHIND).await;
        }
        stage.before = before;
        stage
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
        deed.prepare(&self.engine.api).await;
        self.points.clear();
        let done = deed.done(&self.engine.api).await;
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
        for name in ["subject:v1", "subject:v2"] {
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
        if self.before.is_empty() {
            return;
        }
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
        deed.prepare(&self.engine.api).await;
        let engine = self.engine.pid();
        self.points.quiet().await;
        self.points.plan(&case.point, case.number, case.action);
        let done = match case.action {
            "pause" => self.killed_meanwhile(deed).await,
            _ => {
                let done = tokio::time::timeout(ANSWER, deed.done(&self.engine.api)).await;
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
        deed.check(&self.engine.api, told, &what).await;
        self.again(deed, told, &what).await;
        self.clean(&what).await;
        hit.is_some()
    }

    /// The engine is killed while another process waits at a step.
    async fn killed_meanwhile(&mut self, deed: Deed) -> Outcome {
        let api = self.engine.api.clone();
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
        let status = status(&self.engine.api).await;
        if deed == Deed::End && status.as_deref() != Some("running") {
            return;
        }
        // What a supervisor has taken with it when it was killed has to be started first.
        let needs_process = matches!(
            deed,
            Deed::Kill | Deed::Stop | Deed::Restart | Deed::Pause | Deed::Unpause | Deed::Exec
        );
        if needs_process && status.as_deref() != Some("running") && status.as_deref() != Some("paused") {
            self.engine.api.start("subject").await;
        }
        let mut done = deed.done(&self.engine.api).await;
        // That a supervisor was killed may be noticed only now; then it has to be started first, too.
        let end = tokio::time::Instant::now() + SETTLED;
        while needs_process
            && matches!(&done, Some(Err(refusal)) if refusal.contains("is not running") || refusal.contains("No such exec"))
            && tokio::time::Instant::now() < end
        {
            self.engine.api.post("/containers/subject/start").await;
            done = deed.done(&self.engine.api).await;
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
