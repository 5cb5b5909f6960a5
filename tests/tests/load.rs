//! Much at once, clients that misbehave and containers that do harm. `BERTH_EFFORT=25` is the long form: a thousand
//! containers churned, five hundred alive, a hundred followers that never read.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use berth_tests::{
    Client, Engine,
    container::{STAY, busybox, shell},
    random::{Random, effort, figure, seed},
};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Clients at the same time.
const CLIENTS: usize = 8;
/// Containers churned, alive, and followers, each times the effort.
const CHURNED: usize = 40;
const ALIVE: usize = 20;
const FOLLOWERS: usize = 4;
/// Conflicting calls of each client, times the effort.
const CALLS: usize = 40;

fn times(number: usize) -> usize {
    number * usize::try_from(effort()).unwrap_or(1)
}

/// Descriptors, threads and kB of a process.
fn size(pid: i32) -> (usize, usize, u64) {
    let count = |what: &str| {
        fs::read_dir(format!("/proc/{pid}/{what}"))
            .expect("it runs")
            .count()
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let memory = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    (count("fd"), count("task"), memory.expect("kB"))
}

async fn churn(api: Client, count: usize) {
    for _ in 0..count {
        let id = api.create(&busybox(&["true"])).await;
        api.start(&id).await;
        assert_eq!(api.wait(&id).await, 0);
        api.delete(&format!("/containers/{id}?v=1")).await.expect(204);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_come_and_go_and_leave_nothing() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    churn(engine.api.clone(), CLIENTS).await;
    let round = async |count: usize| {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(churn(Client::new(engine.api.socket()), count));
        }
        while let Some(done) = clients.join_next().await {
            done.expect("no panic");
        }
    };
    round(2).await;
    let before = engine.traces();
    let (files, _, memory) = size(engine.pid());
    round(times(CHURNED).div_ceil(CLIENTS)).await;
    let end = tokio::time::Instant::now() + Duration::from_secs(15);
    while engine.traces() != before && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.traces(), before);
    let (files_now, _, memory_now) = size(engine.pid());
    // Connections of clients that have just gone may still be there.
    assert!(
        files_now <= files + CLIENTS,
        "{files} descriptors have become {files_now}"
    );
    assert!(
        memory_now < memory + (16 << 10),
        "{memory} kB have become {memory_now}"
    );
    engine.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_containers_live_through_a_crash() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let api = Client::new(engine.api.socket());
        clients.spawn(async move {
            for _ in 0..times(ALIVE).div_ceil(CLIENTS) {
                api.launch(&shell(STAY)).await;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("no panic");
    }
    let pids = async |api: &Client| {
        let list = api.get("/containers/json").await.expect(200).json();
        let mut pids = Vec::new();
        for container in list.as_array().expect("a list") {
            let id = container["Id"].as_str().expect("an id");
            pids.push((id.to_owned(), api.inspect(id).await["State"]["Pid"].clone()));
        }
        pids.sort_by(|one, other| one.0.cmp(&other.0));
        pids
    };
    let before = pids(&engine.api).await;
    assert_eq!(before.len(), times(ALIVE).div_ceil(CLIENTS) * CLIENTS);
    engine.crash().await;
    assert_eq!(pids(&engine.api).await, before);
    figure(
        "live containers after kill -9",
        "all",
        "all",
        u64::try_from(before.len()).unwrap_or(0),
    );
    engine.finish().await;
}

/// Nobody who follows a log, attaches or listens to events and then does not read holds up the container.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_hold_up_nobody() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell(
        "read line; n=0; while [ $n -lt 40 ]; do n=$((n+1)); head -c 262144 /dev/zero | tr '\\0' x; echo; done; echo last",
    );
    config["OpenStdin"] = json!(true);
    let id = engine.api.launch(&config).await;
    let mut idle = Vec::new();
    for number in 0..times(FOLLOWERS) {
        let path = match number % 4 {
            0 | 1 => format!("/containers/{id}/logs?stdout=1&follow=1"),
            2 => format!("/containers/{id}/attach?stream=1&stdout=1"),
            _ => "/events".to_owned(),
        };
        let method = if number % 4 == 2 {
            Method::POST
        } else {
            Method::GET
        };
        idle.push(
            Client::new(engine.api.socket())
                .call(method, &path)
                .open()
                .await
                .expect(200),
        );
    }
    let (_, _, memory) = size(engine.pid());
    let path = format!("/containers/{id}/attach?stream=1&stdin=1");
    let mut attached = engine
        .api
        .hijack(&path, None, berth_tests::hijack::Dialect::Upgrade)
        .await
        .expect(101);
    attached.write(b"go\n").await;
    assert_eq!(engine.api.wait(&id).await, 0);
    let tail = engine
        .api
        .get(&format!("/containers/{id}/logs?stdout=1&tail=1"))
        .await
        .expect(200);
    assert_eq!(tail.output().out, "last\n");
    let (_, _, grown) = size(engine.pid());
    let grown = grown.saturating_sub(memory);
    let allowed = 16 << 10 | (u64::try_from(idle.len()).unwrap_or(0) << 10);
    assert!(grown < allowed, "{grown} kB more for {} idle clients", idle.len());
    let grown = format!("{grown} kB");
    figure(
        "clients that never read",
        "nothing held up",
        &grown,
        u64::try_from(idle.len()).unwrap_or(0),
    );
    drop(idle);
    engine.finish().await;
}

/// A fork bomb and a memory hog within their limits: the API goes on, and a kill ends them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_containers_stay_within_their_limits() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut bomb = shell("b() { b | b & b; }; while :; do b; done 2>/dev/null");
    bomb["HostConfig"]["PidsLimit"] = json!(64);
    bomb["HostConfig"]["NanoCpus"] = json!(200_000_000);
    let mut hog = shell("tail /dev/zero");
    hog["HostConfig"]["Memory"] = json!(16 << 20);
    let mut flood = shell("yes | head -c 200000000; sleep 600");
    flood["HostConfig"]["LogConfig"] =
        json!({"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}});
    flood["HostConfig"]["NanoCpus"] = json!(200_000_000);
    let bomb = engine.api.launch(&bomb).await;
    let flood = engine.api.launch(&flood).await;
    let hog = engine.api.launch(&hog).await;
    assert_eq!(engine.api.wait(&hog).await, 137);
    assert_eq!(engine.api.inspect(&hog).await["State"]["OOMKilled"], true);
    for _ in 0..20 {
        engine.api.get("/_ping").await.expect(200);
        engine
            .api
            .get(&format!("/containers/{bomb}/json"))
            .await
            .expect(200);
    }
    let log: u64 = fs::read_dir(engine.data_root().join("containers").join(&flood))
        .expect("its directory")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .map(|entry| entry.metadata().map_or(0, |data| data.len()))
        .sum();
    assert!(log < 3 << 20, "the log has {log} bytes");
    for id in [&bomb, &flood] {
        // A bomb may have taken its own shell along.
        let killed = engine.api.post(&format!("/containers/{id}/kill")).await.status();
        assert!([204, 409].contains(&killed.as_u16()), "{killed}");
        engine.api.wait(id).await;
    }
    engine.finish().await;
}

/// What calls were answered with success, by container and event.
type Acknowledged = HashMap<(String, &'static str), u64>;

async fn conflicting(api: Client, mut random: Random, names: Arc<Vec<String>>) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    for _ in 0..times(CALLS) {
        let name = random.pick(&names).clone();
        let post = |what: &str| api.call(Method::POST, &format!("/containers/{name}/{what}"));
        let (call, event, allowed): (_, _, &[u16]) = match random.below(9) {
            0 | 1 => (post("start"), "start", &[204, 304, 404, 409]),
            2 => (post("stop?t=0"), "stop", &[204, 304, 404]),
            3 => (post("kill"), "", &[204, 404, 409]),
            4 => (post("restart?t=0"), "restart", &[204, 404, 409]),
            5 => (post("pause"), "pause", &[204, 404, 409]),
            6 => (post("unpause"), "unpause", &[204, 404, 409]),
            7 => (
                api.call(Method::DELETE, &format!("/containers/{name}?force=1")),
                "destroy",
                &[204, 404, 409],
            ),
            _ => (
                api.call(Method::POST, &format!("/containers/create?name={name}"))
                    .json(&shell(STAY)),
                "create",
                &[201, 409],
            ),
        };
        let reply = call.send().await;
        let status = reply.status().as_u16();
        // The one answer of 500 that the document has for this.
        let known = status == 500 && reply.text().contains("is not paused");
        assert!(
            allowed.contains(&status) || known,
            "{event} of {name}: {status} {} (BERTH_SEED={})",
            reply.text(),
            seed()
        );
        if status < 300 && !event.is_empty() {
            *acknowledged.entry((name, event)).or_default() += 1;
        }
    }
    acknowledged
}

/// Goes through the events of one container: each must fit the state that those before it have led to.
fn follow(name: &str, events: &[String]) {
    let mut state = "none";
    for (number, event) in events.iter().enumerate() {
        let next = match (state, event.as_str()) {
            ("none", "create") => "down",
            ("down", "start") => "up",
            ("up" | "paused", "die") => "down",
            ("up", "pause") => "paused",
            ("paused", "unpause") => "up",
            ("down", "destroy") => "none",
            (state, "kill" | "stop" | "restart" | "oom") if state != "none" => state,
            (state, event) => panic!(
                "{name}: {event} while {state}, as event {number} of {events:?} (BERTH_SEED={})",
                seed()
            ),
        };
        state = next;
    }
}

/// Clients that get into each other's way: every answer is one of those that the document has for it, the events of each
/// container are a way through its states, and what was acknowledged happened exactly once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_calls_fit_the_states() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let names: Arc<Vec<String>> = Arc::new(["one", "two", "three"].map(str::to_owned).into());
    let path = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D";
    let mut stream = engine.api.call(Method::GET, path).open().await.expect(200);
    let listener = tokio::spawn(async move {
        let mut events: Vec<Value> = Vec::new();
        while let Some(event) = stream.record().await {
            if event["Actor"]["Attributes"]["name"] == "last" {
                break;
            }
            events.push(event);
        }
        events
    });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let random = Random::new(seed(), &format!("client {number}"));
        clients.spawn(conflicting(
            Client::new(engine.api.socket()),
            random,
            Arc::clone(&names),
        ));
    }
    let mut acknowledged = Acknowledged::new();
    while let Some(done) = clients.join_next().await {
        for (what, count) in done.expect("no panic") {
            *acknowledged.entry(what).or_default() += count;
        }
    }
    // Ends that are under way are told before anything that comes after them.
    for name in names.iter() {
        let status = engine
            .api
            .delete(&format!("/containers/{name}?force=1"))
            .await
            .status();
        if status == 204 {
            *acknowledged.entry((name.clone(), "destroy")).or_default() += 1;
        }
    }
    engine.api.create_named("last", &busybox(&["true"])).await;
    let events = listener.await.expect("no panic");
    let mut by_name = HashMap::<String, Vec<String>>::new();
    for event in &events {
        let name = event["Actor"]["Attributes"]["name"].as_str().unwrap_or_default();
        let action = event["Action"].as_str().unwrap_or_default();
        by_name
            .entry(name.to_owned())
            .or_default()
            .push(action.to_owned());
    }
    let calls = u64::try_from(CLIENTS * times(CALLS)).unwrap_or(0);
    figure("conflicting calls held to the states", "0 violations", "0", calls);
    for (name, events) in &by_name {
        follow(name, events);
        // A signal to a paused container lets it go on, which is told too.
        for what in ["create", "destroy", "pause", "restart"] {
            let told = events.iter().filter(|event| *event == what).count();
            let known = acknowledged.get(&(name.clone(), what)).copied().unwrap_or(0);
            assert_eq!(
                u64::try_from(told).unwrap_or(0),
                known,
                "{what} of {name} (BERTH_SEED={})",
                seed()
            );
        }
    }
    engine.finish().await;
}
