//! Networks: made, joined, left, removed; and bytes that go where they may go and nowhere else.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use berth_tests::{
    Engine,
    client::{filters, query},
    container::shell,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Serves the text `hello` on port 80.
pub const SERVE: &str =
    "mkdir /w; echo hello > /w/index.html; httpd -p 80 -h /w; echo ready; exec sleep 1000";

/// A container in `network` that runs `text`.
pub fn on(network: &str, text: &str) -> Value {
    let mut config = shell(text);
    config["HostConfig"] = json!({"NetworkMode": network});
    config
}

/// A shell text that ends with 0 if the server at `address` says `hello`, and with another code if not.
pub fn ask(address: &str) -> String {
    ask_port(address, 80)
}

/// The same on another port.
pub fn ask_port(address: &str, port: u16) -> String {
    format!(
        "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | timeout 4 nc -w 2 {address} {port} | grep -q hello"
    )
}

/// What the server at `address` says to the host.
pub async fn fetch(address: &str) -> std::io::Result<String> {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(5), work)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// A subnet for tests that no other process of tests is likely to use: its first three numbers.
fn net(number: u32) -> String {
    let own = std::process::id().wrapping_mul(16).wrapping_add(number);
    format!("198.{}.{}", 18 + (own >> 8) % 2, own % 256)
}

async fn create(engine: &Engine, body: &Value) -> String {
    let reply = engine.api.post_json("/networks/create", body).await.expect(201);
    reply.json()["Id"].as_str().expect("an id").to_owned()
}

async fn endpoint(engine: &Engine, id: &str, network: &str) -> Value {
    engine.api.inspect(id).await["NetworkSettings"]["Networks"][network].clone()
}

async fn address(engine: &Engine, id: &str, network: &str) -> String {
    let endpoint = endpoint(engine, id, network).await;
    endpoint["IPAddress"].as_str().expect("an address").to_owned()
}

async fn serve(engine: &Engine, network: &str) -> String {
    let id = engine.api.launch(&on(network, SERVE)).await;
    engine.api.await_output(&id, "ready").await;
    id
}

async fn run(engine: &Engine, network: &str, text: &str) -> i64 {
    let (code, _) = engine.api.run(&on(network, text)).await;
    code
}

/// Runs a program of the host.
fn host(words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .expect("a program");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn containers_of_the_default_network_reach_each_other() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let server = serve(&engine, "bridge").await;
    let inspected = engine.api.inspect(&server).await;
    let settings = &inspected["NetworkSettings"];
    let bridge = &settings["Networks"]["bridge"];
    for field in ["IPAddress", "MacAddress", "Gateway", "EndpointID", "IPPrefixLen"] {
        assert_eq!(settings[field], bridge[field], "{field}");
    }
    assert_eq!(bridge["EndpointID"].as_str().map(str::len), Some(64));
    assert!(
        bridge["MacAddress"]
            .as_str()
            .is_some_and(|mac| mac.starts_with("02:42:"))
    );
    let network = engine.api.get("/networks/bridge").await.expect(200).json();
    assert_eq!(network["Id"], bridge["NetworkID"]);
    assert_eq!(network["IPAM"]["Config"][0]["Gateway"], bridge["Gateway"]);
    assert_eq!(network["Containers"][&server]["EndpointID"], bridge["EndpointID"]);

    let at = address(&engine, &server, "bridge").await;
    assert!(
        fetch(&format!("{at}:80"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    assert_eq!(run(&engine, "bridge", &ask(&at)).await, 0);
    let gateway = bridge["Gateway"].as_str().expect("a gateway");
    let routes =
        format!("ip route | grep -q 'default via {gateway} dev eth0' && ! ip -6 a show dev eth0 | grep fe80");
    assert_eq!(run(&engine, "bridge", &routes).await, 0);
    assert_eq!(
        run(
            &engine,
            "bridge",
            "grep -q \"^$(hostname -i)[[:space:]]$(hostname)$\" /etc/hosts"
        )
        .await,
        0
    );

    engine
        .api
        .post(&format!("/containers/{server}/kill"))
        .await
        .expect(204);
    engine.api.wait(&server).await;
    let idle = endpoint(&engine, &server, "bridge").await;
    assert_eq!(
        (&idle["IPAddress"], &idle["EndpointID"]),
        (&json!(""), &json!(""))
    );
    assert_eq!(idle["NetworkID"], network["Id"]);
    let network = engine.api.get("/networks/bridge").await.expect(200).json();
    assert_eq!(network["Containers"], json!({}));
    engine.finish().await;
}

#[tokio::test]
async fn networks_are_made_listed_and_removed() {
    let engine = Engine::start().await;
    let subnet = net(0);
    let id = create(
        &engine,
        &json!({
            "Name": "front", "Attachable": true, "Internal": true,
            "Labels": {"team": "a", "empty": ""},
            "Options": {"com.docker.network.driver.mtu": "1450", "custom": "kept"},
            "IPAM": {"Config": [{
                "Subnet": format!("{subnet}.0/24"), "IPRange": format!("{subnet}.128/25"),
                "Gateway": format!("{subnet}.254"), "AuxiliaryAddresses": {"router": format!("{subnet}.129")},
            }]},
        }),
    )
    .await;
    let shown = engine.api.get("/networks/front").await.expect(200).json();
    assert_eq!(shown["Id"], json!(id));
    assert_eq!(shown["Labels"], json!({"team": "a", "empty": ""}));
    assert_eq!(shown["Options"]["custom"], "kept");
    assert_eq!(shown["Internal"], true);
    assert_eq!(
        shown["IPAM"]["Config"][0]["Gateway"],
        json!(format!("{subnet}.254"))
    );
    let link = format!("br-{}", &id[..12]);
    let line = host(&["ip", "-o", "link", "show", "dev", &link]);
    assert!(line.contains("mtu 1450"), "{line}");

    let back = create(&engine, &json!({"Name": "back"})).await;
    for (filter, expected) in [
        (json!({"name": ["ront"]}), vec!["front"]),
        (json!({"name": ["^back$"]}), vec!["back"]),
        (json!({"id": [&back[..10]]}), vec!["back"]),
        (json!({"label": ["team=a"]}), vec!["front"]),
        (json!({"label": ["team", "missing"]}), vec![]),
        (json!({"type": ["custom"]}), vec!["front", "back"]),
        (json!({"type": ["builtin"]}), vec!["bridge", "host", "none"]),
        (
            json!({"driver": ["bridge"], "dangling": ["true"]}),
            vec!["front", "back"],
        ),
        (json!({"dangling": ["false"]}), vec!["bridge", "host", "none"]),
        (json!({"scope": ["swarm"]}), vec![]),
    ] {
        let reply = engine
            .api
            .get(&format!("/networks{}", filters(&filter)))
            .await
            .expect(200);
        let mut names: Vec<_> = reply
            .json()
            .as_array()
            .expect("a list")
            .iter()
            .map(|network| network["Name"].as_str().expect("a name").to_owned())
            .collect();
        names.sort_unstable();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(names, expected, "{filter}");
    }
    engine
        .api
        .get(&format!("/networks{}", filters(&json!({"type": ["odd"]}))))
        .await
        .expect(400);
    engine.api.delete("/networks/front").await.expect(204);
    assert!(host(&["ip", "-o", "link", "show", "dev", &link]).is_empty());
    engine.api.delete("/networks/front").await.expect(404);
    let pruned = engine.api.post("/networks/prune").await.expect(200).json();
    assert_eq!(pruned["NetworksDeleted"], json!(["back"]));
    let pruned = engine.api.post("/networks/prune").await.expect(200).json();
    assert_eq!(pruned["NetworksDeleted"], Value::Null);
    engine.finish().await;
}

#[tokio::test]
async fn bad_requests_get_the_words_of_docker() {
    let engine = Engine::start().await;
    let subnet = net(1);
    create(
        &engine,
        &json!({"Name": "taken", "IPAM": {"Config": [{"Subnet": format!("{subnet}.0/24")}]}}),
    )
    .await;
    let config = |config: Value| json!({"Name": "bad", "IPAM": {"Config": [config]}});
    for (body, status, words) in [
        (json!({"Name": ""}), 400, "name is empty"),
        (json!({"Name": " "}), 400, "name is empty"),
        (json!({"Name": "host"}), 403, "predefined host network"),
        (json!({"Name": "default"}), 403, "predefined"),
        (
            json!({"Name": "taken"}),
            409,
            "network with name taken already exists",
        ),
        (json!({"Name": "bad", "Driver": "weave"}), 404, "weave"),
        (json!({"Name": "bad", "Driver": "overlay"}), 403, "swarm"),
        (
            json!({"Name": "bad", "Driver": "host"}),
            403,
            "only one instance of \"host\" network is allowed",
        ),
        (json!({"Name": "bad", "Ingress": true}), 403, "swarm"),
        (
            json!({"Name": "bad", "ConfigFrom": {"Network": "gone"}}),
            404,
            "network gone not found",
        ),
        (
            json!({"Name": "bad", "Options": {"com.docker.network.driver.mtu": "much"}}),
            400,
            "com.docker.network.driver.mtu",
        ),
        (
            json!({"Name": "bad", "Driver": "macvlan", "Options": {"macvlan_mode": "odd"}}),
            400,
            "macvlan mode 'odd' is not valid",
        ),
        (
            json!({"Name": "bad", "Driver": "macvlan", "Options": {"parent": "nothere0"}}),
            400,
            "nothere0",
        ),
        (
            config(json!({"Subnet": format!("{subnet}.128/25")})),
            403,
            "Pool overlaps with other one on this address space",
        ),
        (config(json!({"Subnet": "x"})), 400, "invalid CIDR block notation"),
        (
            config(json!({"Subnet": "198.18.0.0/24", "Gateway": "10.0.0.1"})),
            400,
            "doesn't contain this address",
        ),
        (
            json!({"Name": "bad", "Options": {"com.docker.network.bridge.gateway_mode_ipv4": "odd"}}),
            400,
            "unknown gateway mode odd",
        ),
        (
            json!({"Name": "bad", "Options": {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}}),
            400,
            "can only be used for an internal network",
        ),
    ] {
        let reply = engine
            .api
            .post_json("/networks/create", &body)
            .await
            .expect(status);
        assert!(reply.message().contains(words), "{body}: {}", reply.message());
    }
    // An IPv6 subnet of a network without IPv6 is shown and does nothing.
    let idle = json!({"Name": "idle", "IPAM": {"Config": [{"Subnet": "fd00:9::/64"}]}});
    create(&engine, &idle).await;
    let shown = engine.api.get("/networks/idle").await.expect(200).json();
    assert_eq!(shown["EnableIPv6"], false);
    let subnets = shown["IPAM"]["Config"].as_array().expect("a list");
    assert_eq!((subnets.len(), &subnets[1]["Subnet"]), (2, &json!("fd00:9::/64")));
    assert_eq!(subnets[1]["Gateway"], Value::Null);
    engine.api.load_busybox().await;
    let mut config = on("idle", "sleep 1000");
    config["NetworkingConfig"] =
        json!({"EndpointsConfig": {"idle": {"IPAMConfig": {"IPv6Address": "fd00:9::f00d"}}}});
    let id = engine.api.launch(&config).await;
    let shown = endpoint(&engine, &id, "idle").await;
    assert_eq!(shown["IPAMConfig"]["IPv6Address"], "fd00:9::f00d");
    assert_eq!(shown["GlobalIPv6Address"], "");
    config["NetworkingConfig"] =
        json!({"EndpointsConfig": {"idle": {"IPAMConfig": {"IPv6Address": "fd00:8::f00d"}}}});
    let other = engine.api.create(&config).await;
    engine
        .api
        .post(&format!("/containers/{other}/start"))
        .await
        .expect(400);
    let reply = engine.api.delete("/networks/bridge").await.expect(403);
    assert!(
        reply
            .message()
            .contains("pre-defined network and cannot be removed")
    );
    engine.api.get("/networks/taken?scope=swarm").await.expect(404);
    let names = engine.api.get("/networks").await.expect(200).json();
    assert_eq!(names.as_array().map(Vec::len), Some(5));
    engine.finish().await;
}

#[tokio::test]
async fn addresses_can_be_asked_for() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let subnet = net(2);
    create(
        &engine,
        &json!({"Name": "fixed", "IPAM": {"Config": [{"Subnet": format!("{subnet}.0/24")}]}}),
    )
    .await;
    let asking = |ip: &str| {
        let mut config = on("fixed", SERVE);
        config["NetworkingConfig"] =
            json!({"EndpointsConfig": {"fixed": {"IPAMConfig": {"IPv4Address": ip}, "Aliases": ["db"]}}});
        config["MacAddress"] = json!("02:42:00:11:22:33");
        config
    };
    let wanted = format!("{subnet}.77");
    let first = engine.api.launch(&asking(&wanted)).await;
    let shown = endpoint(&engine, &first, "fixed").await;
    assert_eq!(shown["IPAddress"], json!(wanted));
    assert_eq!(shown["MacAddress"], "02:42:00:11:22:33");
    assert_eq!(shown["Aliases"], json!(["db", &first[..12]]));
    assert_eq!(shown["IPAMConfig"]["IPv4Address"], json!(wanted));
    assert!(
        shown["DNSNames"]
            .as_array()
            .is_some_and(|names| names.contains(&json!("db")))
    );

    let second = engine.api.create(&asking(&wanted)).await;
    let reply = engine
        .api
        .post(&format!("/containers/{second}/start"))
        .await
        .expect(403);
    assert_eq!(reply.message(), "Address already in use");
    let outside = engine.api.create(&asking("10.1.2.3")).await;
    engine
        .api
        .post(&format!("/containers/{outside}/start"))
        .await
        .expect(400);
    let mut default = asking(&wanted);
    default["HostConfig"]["NetworkMode"] = json!("bridge");
    default["NetworkingConfig"] =
        json!({"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}});
    let default = engine.api.create(&default).await;
    let reply = engine
        .api
        .post(&format!("/containers/{default}/start"))
        .await
        .expect(400);
    assert_eq!(
        reply.message(),
        "user specified IP address is supported on user defined networks only"
    );
    let missing = engine.api.create(&on("nowhere", "true")).await;
    let reply = engine
        .api
        .post(&format!("/containers/{missing}/start"))
        .await
        .expect(404);
    assert_eq!(reply.message(), "network nowhere not found");

    let reply = engine.api.delete("/networks/fixed").await.expect(403);
    assert!(
        reply.message().contains("has active endpoints"),
        "{}",
        reply.message()
    );
    // What a container had is free again at once.
    engine.api.remove(&first).await;
    engine.api.start(&second).await;
    assert_eq!(address(&engine, &second, "fixed").await, wanted);
    engine.finish().await;
}

#[tokio::test]
async fn running_containers_connect_and_disconnect() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let front = create(&engine, &json!({"Name": "front"})).await;
    create(&engine, &json!({"Name": "back"})).await;
    let server = serve(&engine, "front").await;
    let config = json!({"Container": &server, "EndpointConfig": {"Aliases": ["www"]}});
    engine
        .api
        .post_json("/networks/back/connect", &config)
        .await
        .expect(200);
    let reply = engine
        .api
        .post_json("/networks/back/connect", &config)
        .await
        .expect(403);
    assert!(
        reply.message().contains("already exists in network back"),
        "{}",
        reply.message()
    );
    let at = address(&engine, &server, "back").await;
    assert_eq!(run(&engine, "back", &ask(&at)).await, 0);
    let shown = engine.api.get("/networks/back").await.expect(200).json();
    assert_eq!(shown["Containers"].as_object().map(serde_json::Map::len), Some(1));

    // The way out stays where it was, until that network is left.
    let leave = json!({"Container": &server});
    let route = || async {
        let pid = engine.api.inspect(&server).await["State"]["Pid"].to_string();
        host(&["nsenter", "-t", &pid, "-n", "ip", "route", "show", "default"])
    };
    assert!(route().await.contains("dev eth0"), "{}", route().await);
    engine
        .api
        .post_json("/networks/front/disconnect", &leave)
        .await
        .expect(200);
    assert!(route().await.contains("dev eth1"), "{}", route().await);
    let reply = engine
        .api
        .post_json("/networks/front/disconnect", &leave)
        .await
        .expect(409);
    assert!(reply.message().contains("is not connected to network front"));
    assert_eq!(run(&engine, "back", &ask(&at)).await, 0);

    // One that does not run joins when it is started.
    let stopped = engine
        .api
        .create(&on("front", "ip -o -4 a | grep -c eth; sleep 1"))
        .await;
    engine
        .api
        .post_json("/networks/back/connect", &json!({"Container": &stopped}))
        .await
        .expect(200);
    let (code, output) = {
        engine.api.start(&stopped).await;
        (engine.api.wait(&stopped).await, engine.api.logs(&stopped).await)
    };
    assert_eq!((code, output.out.trim()), (0, "2"));

    let none = engine.api.launch(&on("none", "sleep 100")).await;
    engine
        .api
        .post_json("/networks/front/connect", &json!({"Container": &none}))
        .await
        .expect(400);
    let on_host = engine.api.launch(&on("host", "sleep 100")).await;
    engine
        .api
        .post_json("/networks/front/connect", &json!({"Container": &on_host}))
        .await
        .expect(400);
    engine
        .api
        .post_json("/networks/host/disconnect", &json!({"Container": &on_host}))
        .await
        .expect(400);
    engine
        .api
        .post_json("/networks/front/connect", &json!({"Container": "nobody"}))
        .await
        .expect(404);
    engine
        .api
        .post_json("/networks/gone/connect", &leave)
        .await
        .expect(404);
    engine
        .api
        .post_json("/networks/gone/disconnect", &leave)
        .await
        .expect(404);
    engine
        .api
        .post_json("/networks/front/disconnect", &json!({"Container": "nobody"}))
        .await
        .expect(404);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock")
        .as_secs_f64()
        .to_string();
    let only = json!({"type": ["network"], "network": [&front]}).to_string();
    let path = format!(
        "/events{}",
        query(&[("since", "0"), ("until", &now), ("filters", &only)])
    );
    let records = engine.api.get(&path).await.expect(200).records();
    let actions: Vec<_> = records
        .iter()
        .map(|record| record["Action"].as_str().expect("an action"))
        .collect();
    assert_eq!(actions[..3], ["create", "connect", "disconnect"]);
    assert_eq!(records[1]["Actor"]["Attributes"]["container"], json!(server));
    assert_eq!(records[1]["Actor"]["Attributes"]["type"], "bridge");
    engine.finish().await;
}

#[tokio::test]
async fn networks_are_kept_apart() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    create(&engine, &json!({"Name": "one"})).await;
    create(&engine, &json!({"Name": "two"})).await;
    create(&engine, &json!({"Name": "closed", "Internal": true})).await;
    let quiet = json!({"Name": "quiet", "Options": {"com.docker.network.bridge.enable_icc": "false"}});
    create(&engine, &quiet).await;
    let one = serve(&engine, "one").await;
    let at = address(&engine, &one, "one").await;
    assert_eq!(run(&engine, "one", &ask(&at)).await, 0);
    assert_ne!(run(&engine, "two", &ask(&at)).await, 0);
    assert_ne!(run(&engine, "bridge", &ask(&at)).await, 0);

    let closed = serve(&engine, "closed").await;
    let inside = address(&engine, &closed, "closed").await;
    assert_eq!(run(&engine, "closed", &ask(&inside)).await, 0);
    assert_eq!(run(&engine, "closed", "! ip route | grep -q default").await, 0);
    assert_ne!(run(&engine, "one", &ask(&inside)).await, 0);

    let silent = serve(&engine, "quiet").await;
    let mute = address(&engine, &silent, "quiet").await;
    assert_ne!(run(&engine, "quiet", &ask(&mute)).await, 0);
    assert!(
        fetch(&format!("{mute}:80"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    engine.finish().await;
}

#[tokio::test]
async fn ipv6_is_there_where_it_is_asked_for() {
    let engine = Engine::options().flag("--ip-forward=false").start().await;
    engine.api.load_busybox().await;
    create(&engine, &json!({"Name": "six", "EnableIPv6": true})).await;
    let shown = engine.api.get("/networks/six").await.expect(200).json();
    assert_eq!(shown["IPAM"]["Config"].as_array().map(Vec::len), Some(2));
    let server = serve(&engine, "six").await;
    let endpoint = endpoint(&engine, &server, "six").await;
    let at = endpoint["GlobalIPv6Address"].as_str().expect("an address");
    assert!(at.starts_with("fd"), "{at}");
    assert_eq!(endpoint["GlobalIPv6PrefixLen"], 64);
    assert!(
        fetch(&format!("[{at}]:80"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    assert_eq!(run(&engine, "six", &ask(at)).await, 0);
    engine.finish().await;
}

#[tokio::test]
async fn the_default_network_is_as_the_configuration_says() {
    let subnet = net(6);
    let engine = Engine::options()
        .flag(format!("--bip={subnet}.1/24"))
        .flag(format!("--fixed-cidr={subnet}.128/25"))
        .flag("--ipv6")
        .flag("--fixed-cidr-v6=fd00:beef:7::/64")
        .flag("--userland-proxy=false")
        .start()
        .await;
    engine.api.load_busybox().await;
    let server = serve(&engine, "bridge").await;
    let endpoint = endpoint(&engine, &server, "bridge").await;
    assert_eq!(endpoint["IPAddress"], json!(format!("{subnet}.128")));
    assert_eq!(endpoint["Gateway"], json!(format!("{subnet}.1")));
    assert_eq!(endpoint["GlobalIPv6Address"], "fd00:beef:7::2");
    assert_eq!(run(&engine, "bridge", &ask("fd00:beef:7::2")).await, 0);
    engine.finish().await;
}

#[tokio::test]
async fn the_network_with_the_highest_priority_leads_out() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for name in ["one", "two"] {
        create(&engine, &json!({"Name": name})).await;
    }
    let id = engine.api.create(&on("one", "echo ready; exec sleep 1000")).await;
    let two = json!({"Container": &id, "EndpointConfig": {"GwPriority": 10}});
    engine
        .api
        .post_json("/networks/two/connect", &two)
        .await
        .expect(200);
    engine.api.start(&id).await;
    engine.api.await_output(&id, "ready").await;
    let route = || async {
        let pid = engine.api.inspect(&id).await["State"]["Pid"].to_string();
        host(&["nsenter", "-t", &pid, "-n", "ip", "route", "show", "default"])
    };
    assert!(route().await.contains("dev eth1"), "{}", route().await);
    assert_eq!(endpoint(&engine, &id, "two").await["GwPriority"], 10);
    assert_eq!(endpoint(&engine, &id, "one").await["GwPriority"], Value::Null);
    create(&engine, &json!({"Name": "three"})).await;
    let more = json!({"Container": &id, "EndpointConfig": {"GwPriority": 11}});
    engine
        .api
        .post_json("/networks/three/connect", &more)
        .await
        .expect(200);
    assert!(route().await.contains("dev eth2"), "{}", route().await);
    let leave = json!({"Container": &id});
    engine
        .api
        .post_json("/networks/three/disconnect", &leave)
        .await
        .expect(200);
    assert!(route().await.contains("dev eth1"), "{}", route().await);
    engine.finish().await;
}

/// A neighbour of the host: another namespace behind a pair of links, with a route to a subnet by way of the host.
struct Neighbour {
    name: String,
    link: String,
}

impl Neighbour {
    fn new(engine: &Engine, number: u32, to: &str) -> Self {
        let name = format!("n{}{number}", engine.name);
        let link = format!("n{number}x{}", std::process::id());
        let subnet = net(number);
        let own = format!("{subnet}.1/24");
        let its = format!("{subnet}.2/24");
        let via = format!("{subnet}.1");
        for words in [
            &["ip", "netns", "add", &name][..],
            &[
                "ip", "link", "add", &link, "type", "veth", "peer", "name", "up0", "netns", &name,
            ],
            &["ip", "addr", "add", &own, "dev", &link],
            &["ip", "link", "set", &link, "up"],
            &["ip", "-n", &name, "addr", "add", &its, "dev", "up0"],
            &["ip", "-n", &name, "link", "set", "up0", "up"],
            &["ip", "-n", &name, "route", "add", to, "via", &via],
        ] {
            host(words);
        }
        Self { name, link }
    }

    /// Whether it reaches the server at `address`.
    fn reaches(&self, address: &str, port: u16) -> bool {
        let text = ask_port(address, port);
        let text = text.replace("nc -w 2", "busybox nc -w 2");
        Command::new("ip")
            .args(["netns", "exec", &self.name, "sh", "-c", &text])
            .status()
            .expect("ip")
            .success()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        host(&["ip", "link", "delete", &self.link]);
        host(&["ip", "netns", "delete", &self.name]);
    }
}

#[tokio::test]
async fn gateway_modes_say_who_comes_in() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let subnet = net(7);
    let neighbour = Neighbour::new(&engine, 8, &format!("{subnet}.0/24"));
    let key = |text: &str| format!("com.docker.network.bridge.{text}");
    // What a network is like; whether its published and its other port are reached by the container's own address.
    for (options, published, other) in [
        (json!({}), false, false),
        (json!({key("gateway_mode_ipv4"): "nat-unprotected"}), true, true),
        (json!({key("gateway_mode_ipv4"): "routed"}), true, false),
        (
            json!({key("trusted_host_interfaces"): &neighbour.link}),
            true,
            false,
        ),
        (
            json!({key("trusted_host_interfaces"): "lo:nothere0"}),
            false,
            false,
        ),
    ] {
        let body = json!({"Name": "moded", "Options": options,
                          "IPAM": {"Config": [{"Subnet": format!("{subnet}.0/24")}]}});
        create(&engine, &body).await;
        let mut config = on(
            "moded",
            &SERVE.replace("echo ready", "httpd -p 81 -h /w; echo ready"),
        );
        config["ExposedPorts"] = json!({"80/tcp": {}});
        config["HostConfig"]["PublishAllPorts"] = json!(true);
        let id = engine.api.launch(&config).await;
        engine.api.await_output(&id, "ready").await;
        let at = address(&engine, &id, "moded").await;
        assert_eq!(neighbour.reaches(&at, 80), published, "80: {options}");
        assert_eq!(neighbour.reaches(&at, 81), other, "81: {options}");
        let bound = engine.api.inspect(&id).await["NetworkSettings"]["Ports"]["80/tcp"].clone();
        let routed = options.to_string().contains("routed");
        assert_eq!(bound.is_null(), routed, "{bound}");
        engine.api.remove(&id).await;
        engine.api.delete("/networks/moded").await.expect(204);
    }
    // Isolated: the host has no address there.
    let body = json!({"Name": "moded", "Internal": true, "Options": {key("gateway_mode_ipv4"): "isolated", key("name"): "brisolated"},
                      "IPAM": {"Config": [{"Subnet": format!("{subnet}.0/24")}]}});
    create(&engine, &body).await;
    let shown = host(&["ip", "-o", "-4", "addr", "show", "dev", "brisolated"]);
    assert!(shown.is_empty(), "{shown}");
    drop(neighbour);
    engine.finish().await;
}

#[tokio::test]
async fn networks_outlive_the_engine() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = create(&engine, &json!({"Name": "kept", "Labels": {"a": "b"}})).await;
    let server = serve(&engine, "kept").await;
    let before = endpoint(&engine, &server, "kept").await;
    let at = address(&engine, &server, "kept").await;
    let gone = serve(&engine, "kept").await;
    let pid = engine.api.inspect(&gone).await["State"]["Pid"]
        .as_i64()
        .expect("a pid");
    engine.kill9().await;
    assert!(
        fetch(&format!("{at}:80"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("a process");
    engine.launch_again().await;
    engine
        .api
        .post(&format!("/containers/{gone}/wait"))
        .await
        .expect(200);
    assert_eq!(endpoint(&engine, &server, "kept").await, before);
    let shown = engine.api.get("/networks/kept").await.expect(200).json();
    assert_eq!((&shown["Id"], &shown["Labels"]["a"]), (&json!(id), &json!("b")));
    assert_eq!(shown["Containers"].as_object().map(serde_json::Map::len), Some(1));
    // Its address is still taken, that of the other one is free.
    let (code, _) = engine
        .api
        .run(&on("kept", &format!("! ip a | grep -q {at}/ && {}", ask(&at))))
        .await;
    assert_eq!(code, 0);
    engine.api.delete("/networks/kept").await.expect(403);
    engine.finish().await;
}

#[tokio::test]
async fn rules_that_somebody_flushes_come_back() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    create(&engine, &json!({"Name": "one"})).await;
    let table = format!("berth_{}", engine.name);
    let list = || host(&["nft", "list", "table", "inet", &table]);
    let rules = list();
    assert!(rules.contains("masquerade"), "{rules}");
    for words in [
        vec!["nft", "delete", "table", "inet", &table],
        vec!["nft", "flush", "table", "inet", &table],
        vec!["nft", "flush", "set", "inet", &table, "bridges"],
    ] {
        host(&words);
        let end = Instant::now() + Duration::from_secs(10);
        while list() != rules {
            assert!(Instant::now() < end, "{words:?}: {}", list());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    engine.finish().await;
}

#[tokio::test]
async fn macvlan() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for (number, driver) in [(3, "macvlan")] {
        let subnet = net(number);
        let body = json!({"Name": driver, "Driver": driver, "IPAM": {"Config": [{"Subnet": format!("{subnet}.0/24")}]}});
        create(&engine, &body).await;
        let server = serve(&engine, driver).await;
        let at = address(&engine, &server, driver).await;
        assert_eq!(at, format!("{subnet}.2"));
        assert_eq!(run(&engine, driver, &ask(&at)).await, 0, "{driver}");
        engine.api.remove(&server).await;
        engine
            .api
            .delete(&format!("/networks/{driver}"))
            .await
            .expect(204);
    }
    engine.finish().await;
}

#[tokio::test]
async fn docker_speaks_of_networks() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let subnet = net(5);
    let docker = |words: Vec<&'static str>| {
        let engine = &engine;
        async move { engine.docker(&words).await }
    };
    let range = format!("{subnet}.0/24");
    engine
        .docker(&["network", "create", "--subnet", &range, "--label", "a=b", "front"])
        .await
        .ok();
    assert_eq!(
        docker(vec![
            "network",
            "ls",
            "-f",
            "label=a=b",
            "--format",
            "{{.Name}} {{.Driver}} {{.Scope}}"
        ])
        .await
        .ok(),
        "front bridge local"
    );
    let ip = format!("{subnet}.9");
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "front",
            "--network-alias",
            "www",
            "--ip",
            &ip,
            "busybox",
            "sh",
            "-c",
            SERVE,
        ])
        .await
        .ok();
    assert_eq!(
        docker(vec![
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.front.IPAddress}}",
            "web"
        ])
        .await
        .ok(),
        ip
    );
    assert!(
        docker(vec!["network", "rm", "front"])
            .await
            .fails(1)
            .contains("has active endpoints")
    );
    docker(vec!["network", "connect", "bridge", "web"]).await.ok();
    docker(vec!["network", "disconnect", "front", "web"]).await.ok();
    docker(vec!["network", "rm", "front"]).await.ok();
    let hosts = docker(vec![
        "run",
        "--rm",
        "--link",
        "web:db",
        "--add-host",
        "other:10.9.9.9",
        "--add-host",
        "up:host-gateway",
        "busybox",
        "cat",
        "/etc/hosts",
    ])
    .await
    .ok();
    let network = engine.api.get("/networks/bridge").await.expect(200).json();
    let gateway = network["IPAM"]["Config"][0]["Gateway"]
        .as_str()
        .expect("a gateway")
        .to_owned();
    assert!(
        hosts.contains("10.9.9.9\tother") && hosts.contains(&format!("{gateway}\tup")),
        "{hosts}"
    );
    assert!(
        hosts
            .lines()
            .any(|line| line.contains("\tdb ") && line.ends_with(" web")),
        "{hosts}"
    );
    docker(vec![
        "run",
        "--rm",
        "--network",
        "container:web",
        "busybox",
        "sh",
        "-c",
        "ip a | grep -q eth",
    ])
    .await
    .ok();
    engine.finish().await;
}

#[tokio::test]
async fn many_networks_at_once() {
    let engine = Engine::start().await;
    let created = futures_util::future::join_all((0..40).map(|number| {
        let engine = &engine;
        async move { create(engine, &json!({"Name": format!("n{number}")})).await }
    }))
    .await;
    let mut subnets = std::collections::BTreeSet::new();
    for id in &created {
        let shown = engine
            .api
            .get(&format!("/networks/{id}"))
            .await
            .expect(200)
            .json();
        assert!(subnets.insert(shown["IPAM"]["Config"][0]["Subnet"].to_string()));
    }
    let pruned = engine.api.post("/networks/prune").await.expect(200).json();
    assert_eq!(pruned["NetworksDeleted"].as_array().map(Vec::len), Some(40));
    engine.finish().await;
}
