//! Anything may be killed at any moment: while clients make, use and remove containers, networks, volumes and images,
//! somebody kills the engine, its spawner, supervisors and the processes of containers, as the seed says. What was
//! acknowledged is there, what was removed is gone, and in the end nothing is left behind.
//!
//! `BERTH_EFFORT=25` is the long form, `BERTH_SEED` the same again as far as time allows.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use berth_tests::{
    Client, Engine,
    container::shell,
    random::{Random, effort, figure, seed},
};
use http::Method;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Clients at the same time.
const CLIENTS: usize = 4;
/// What is killed, times the effort.
const KILLS: u64 = 8;
/// How long to wait at most between two.
const PAUSE: usize = 400;
/// Calls that are made while the engine is away end at once; they are not to be all that happens.
const AWAY: Duration = Duration::from_millis(20);
/// How often something may be tried until the engine is back.
const TRIES: usize = 3000;

/// What a client knows of what it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// A call that would have changed it was not answered.
    Unknown,
}

/// What is made, by the paths that it is made and found at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Container,
    Network,
    Volume,
}

impl Sort {
    fn path(self, name: &str) -> String {
        match self {
            Self::Container => format!("/containers/{name}/json"),
            Self::Network => format!("/networks/{name}"),
            Self::Volume => format!("/volumes/{name}"),
        }
    }

    fn removal(self, name: &str) -> String {
        match self {
            Self::Container => format!("/containers/{name}?force=1&v=1"),
            other => other.path(name),
        }
    }
}

/// A client with objects of its own, which no other touches.
struct Worker {
    api: Client,
    random: Random,
    name: String,
    known: BTreeMap<Sort, Known>,
    calls: Arc<AtomicU64>,
}

impl Worker {
    /// The status of the answer, if there is one. What is not declared or is a failure of the engine's own ends the test.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Option<u16> {
        let mut call = self.api.call(method.clone(), path);
        if let Some(body) = body {
            call = call.json(body);
        }
        let reply = call.attempt().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let Some(reply) = reply else {
            tokio::time::sleep(AWAY).await;
            return None;
        };
        Some(reply.status().as_u16())
    }

    fn learn(&mut self, sort: Sort, status: Option<u16>, then: Known) {
        let known = match status {
            Some(200 | 201 | 204) => then,
            Some(404) if then == Known::Gone => Known::Gone,
            // Nothing was changed: what is known stays so.
            Some(_) => return,
            None => Known::Unknown,
        };
        self.known.insert(sort, known);
    }

    async fn make(&mut self, sort: Sort) {
        let name = self.name.clone();
        let (path, body) = match sort {
            Sort::Container => {
                let mut config = shell("trap 'exit 0' TERM; echo up; while true; do sleep 0.1; done");
                if self.known.get(&Sort::Network) == Some(&Known::There) {
                    config["HostConfig"]["NetworkMode"] = json!(name);
                }
                if self.known.get(&Sort::Volume) == Some(&Known::There) {
                    config["HostConfig"]["Binds"] = json!([format!("{name}:/data")]);
                }
                if self.random.once_in(3) {
                    config["HostConfig"]["RestartPolicy"] = json!({"Name": "always"});
                }
                (format!("/containers/create?name={name}"), config)
            }
            Sort::Network => (
                "/networks/create".into(),
                json!({"Name": name, "CheckDuplicate": true}),
            ),
            Sort::Volume => {
                let options = json!({"type": "tmpfs", "device": "tmpfs", "o": "size=64k"});
                (
                    "/volumes/create".into(),
                    json!({"Name": name, "DriverOpts": options}),
                )
            }
        };
        let status = self.call(Method::POST, &path, Some(&body)).await;
        self.learn(sort, status, Known::There);
    }

    async fn take(&mut self, sort: Sort) {
        let path = sort.removal(&self.name);
        let status = self.call(Method::DELETE, &path, None).await;
        self.learn(sort, status, Known::Gone);
    }

    /// Compares what is known with what is there.
    async fn check(&mut self, sort: Sort) {
        let Some(known) = self.known.get(&sort).copied() else {
            return;
        };
        let status = self.call(Method::GET, &sort.path(&self.name), None).await;
        match (known, status) {
            (_, None) => {}
            (Known::There, status) => assert_eq!(
                status,
                Some(200),
                "{sort:?} {} was acknowledged (BERTH_SEED={})",
                self.name,
                seed()
            ),
            (Known::Gone, status) => assert_eq!(
                status,
                Some(404),
                "{sort:?} {} was removed (BERTH_SEED={})",
                self.name,
                seed()
            ),
            (Known::Unknown, Some(200)) => drop(self.known.insert(sort, Known::There)),
            (Known::Unknown, Some(404)) => drop(self.known.insert(sort, Known::Gone)),
            (Known::Unknown, Some(other)) => panic!("{sort:?} {}: {other}", self.name),
        }
    }

    async fn step(&mut self) {
        let name = self.name.clone();
        let container = |what: &str| format!("/containers/{name}/{what}");
        let sort = *self
            .random
            .pick(&[Sort::Container, Sort::Container, Sort::Network, Sort::Volume]);
        match self.random.below(12) {
            0..3 => self.make(sort).await,
            3 => self.take(sort).await,
            4..6 => self.check(sort).await,
            6..8 => drop(self.call(Method::POST, &container("start"), None).await),
            8 => drop(self.call(Method::POST, &container("stop?t=1"), None).await),
            9 => drop(self.call(Method::POST, &container("kill"), None).await),
            10 => {
                let exec = json!({"Cmd": ["sleep", "0.2"]});
                let made = self.api.call(Method::POST, &container("exec")).json(&exec);
                let id = match made.attempt().await {
                    Some(reply) if reply.status() == 201 => reply.json()["Id"].clone(),
                    _ => return,
                };
                let path = format!("/exec/{}/start", id.as_str().unwrap_or_default());
                self.call(Method::POST, &path, Some(&json!({"Detach": true})))
                    .await;
            }
            _ => {
                let path = format!("/commit?container={name}&repo=mayhem-{name}&pause=1");
                self.call(Method::POST, &path, None).await;
            }
        }
    }

    async fn run(mut self, over: Arc<AtomicBool>) -> Self {
        while !over.load(Ordering::Relaxed) {
            self.step().await;
        }
        self
    }
}

/// One of the engine's processes; now and then the engine itself.
fn victim(engine: &Engine, random: &mut Random) -> i32 {
    let all = engine.processes();
    if all.is_empty() || random.once_in(4) {
        return engine.pid();
    }
    random.pick(&all).0
}

async fn wreck(engine: &mut Engine, random: &mut Random, kills: u64) -> [u64; 2] {
    let (mut engines, mut others) = (0, 0);
    for _ in 0..kills {
        let pause = u64::try_from(random.below(PAUSE)).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let pid = victim(engine, random);
        if pid == engine.pid() {
            engine.kill9().await;
            engine.launch_again().await;
            engines += 1;
            continue;
        }
        // It may have ended by itself; its number is not given to another so soon.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        others += 1;
    }
    [engines, others]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_may_be_killed() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let worker = Worker {
                api: engine.api.clone(),
                random: Random::new(seed(), &format!("client {number}")),
                name: format!("m{number}"),
                known: BTreeMap::new(),
                calls: Arc::clone(&calls),
            };
            tokio::spawn(worker.run(Arc::clone(&over)))
        })
        .collect();
    let mut random = Random::new(seed(), "mayhem");
    let [engines, others] = wreck(&mut engine, &mut random, KILLS * effort()).await;
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        let mut worker = worker.await.expect("no client has failed");
        for sort in [Sort::Container, Sort::Network, Sort::Volume] {
            worker.check(sort).await;
            // It answers whatever was done to what runs.
            for attempt in 0.. {
                match worker
                    .call(Method::DELETE, &sort.removal(&worker.name), None)
                    .await
                {
                    Some(204 | 404) => break,
                    status => assert!(attempt < TRIES, "{sort:?} {}: {status:?}", worker.name),
                }
            }
        }
    }
    // No container may be left frozen or half dead: whatever is left goes like any other.
    figure(
        "processes killed under a mixed load",
        "0 lost, 0 left behind",
        &format!(
            "0 in {} calls, {engines} engines killed",
            calls.load(Ordering::Relaxed)
        ),
        engines + others,
    );
    engine.finish().await;
}
