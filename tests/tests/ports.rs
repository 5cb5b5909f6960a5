//! Published ports: who reaches them, who does not, and what becomes of them.

use std::net::{TcpListener, UdpSocket};

use berth_tests::{Engine, client::PATIENCE};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::networks::{SERVE, ask_port, fetch, on};

/// A server on the default network with these bindings of its port 80.
fn server(bindings: &Value) -> Value {
    let mut config = on("bridge", SERVE);
    config["ExposedPorts"] = json!({"80/tcp": {}});
    config["HostConfig"]["PortBindings"] = json!({"80/tcp": bindings});
    config
}

async fn bound(engine: &Engine, id: &str, port: &str) -> Value {
    engine.api.inspect(id).await["NetworkSettings"]["Ports"][port].clone()
}

/// The port that was chosen.
async fn number(engine: &Engine, id: &str) -> u16 {
    let bindings = bound(engine, id, "80/tcp").await;
    let text = bindings[0]["HostPort"].as_str().expect("a port").to_owned();
    text.parse().expect("a number")
}

async fn launch(engine: &Engine, config: &Value) -> String {
    let id = engine.api.launch(config).await;
    engine.api.await_output(&id, "ready").await;
    id
}

#[tokio::test]
async fn a_port_is_reached_from_everywhere() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = launch(&engine, &server(&json!([{"HostIp": "", "HostPort": ""}]))).await;
    let bindings = bound(&engine, &id, "80/tcp").await;
    assert_eq!(bindings[0]["HostIp"], "0.0.0.0");
    assert_eq!(bindings[1]["HostIp"], "::");
    let port = number(&engine, &id).await;
    let network = engine.api.get("/networks/bridge").await.expect(200).json();
    let gateway = network["IPAM"]["Config"][0]["Gateway"]
        .as_str()
        .expect("a gateway")
        .to_owned();
    for host in ["127.0.0.1", "127.0.0.9", "[::1]", &gateway] {
        let answer = fetch(&format!("{host}:{port}")).await;
        assert!(
            answer.as_ref().is_ok_and(|text| text.contains("hello")),
            "{host}: {answer:?}"
        );
    }
    engine
        .api
        .post_json("/networks/create", &json!({"Name": "other"}))
        .await
        .expect(201);
    for client in ["bridge", "other"] {
        let (code, _) = engine.api.run(&on(client, &ask_port(&gateway, port))).await;
        assert_eq!(code, 0, "from {client}");
    }
    let list = engine.api.get("/containers/json").await.expect(200).json();
    assert_eq!(list[0]["Ports"][0]["PublicPort"], json!(port));
    assert_eq!(list[0]["Ports"][0]["PrivatePort"], 80);

    engine
        .api
        .post(&format!("/containers/{id}/kill"))
        .await
        .expect(204);
    engine.api.wait(&id).await;
    assert!(fetch(&format!("127.0.0.1:{port}")).await.is_err());
    assert_eq!(
        engine.api.inspect(&id).await["NetworkSettings"]["Ports"],
        json!({})
    );
    TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    engine.finish().await;
}

/// A socket in the network namespace of a process; the small programs of the image know no UDP.
fn udp_socket_within(pid: &Value, port: u16) -> UdpSocket {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("a network namespace");
    std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("to enter it");
        let socket = UdpSocket::bind(("0.0.0.0", port)).expect("a socket");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket that waits");
        socket
    })
    .join()
    .expect("a thread")
}

#[tokio::test]
async fn udp_is_published() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = on("bridge", "echo ready; exec sleep 1000");
    config["ExposedPorts"] = json!({"53/udp": {}, "54/udp": {}});
    config["HostConfig"]["PublishAllPorts"] = json!(true);
    let id = launch(&engine, &config).await;
    let port = bound(&engine, &id, "53/udp").await[0]["HostPort"]
        .as_str()
        .expect("a port")
        .to_owned();
    assert!(bound(&engine, &id, "54/udp").await[0]["HostPort"].is_string());
    let pid = engine.api.inspect(&id).await["State"]["Pid"].clone();
    let server = udp_socket_within(&pid, 53);
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer).expect("a datagram");
        server.send_to(&buffer[..length], from).expect("an answer");
    });
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket that waits");
    socket.connect(format!("127.0.0.1:{port}")).expect("an address");
    socket.send(b"datagram").expect("a datagram sent");
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).expect("an answer");
    assert_eq!(&answer[..length], b"datagram");
    echo.join().expect("the server");
    engine.finish().await;
}

#[tokio::test]
async fn datagrams_over_ipv6_reach_a_container_without_it() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = on("bridge", "echo ready; exec sleep 1000");
    config["ExposedPorts"] = json!({"53/udp": {}});
    config["HostConfig"]["PublishAllPorts"] = json!(true);
    let id = launch(&engine, &config).await;
    let bindings = bound(&engine, &id, "53/udp").await;
    assert_eq!(bindings[1]["HostIp"], "::");
    let port = bindings[1]["HostPort"].as_str().expect("a port").to_owned();
    let pid = engine.api.inspect(&id).await["State"]["Pid"].clone();
    let server = udp_socket_within(&pid, 53);
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..6 {
            let (length, from) = server.recv_from(&mut buffer).expect("a datagram");
            server.send_to(&buffer[..length], from).expect("an answer");
        }
    });
    let ask = |text: &[u8]| {
        let sockets: Vec<_> = (0..3)
            .map(|_| {
                let socket = UdpSocket::bind("[::1]:0").expect("a socket");
                socket
                    .set_read_timeout(Some(PATIENCE))
                    .expect("a socket that waits");
                socket.connect(format!("[::1]:{port}")).expect("an address");
                socket
            })
            .collect();
        for (number, socket) in sockets.iter().enumerate() {
            let text = [text, &[u8::try_from(number).expect("a small number")]].concat();
            socket.send(&text).expect("a datagram sent");
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer).expect("an answer");
            assert_eq!(&answer[..length], text);
        }
    };
    ask(b"datagram");
    engine.crash().await;
    ask(b"again");
    echo.join().expect("the server");
    engine.finish().await;
}

#[tokio::test]
async fn taken_ports_are_refused_in_dockers_words() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let first = launch(
        &engine,
        &server(&json!([{"HostIp": "127.0.0.1", "HostPort": ""}])),
    )
    .await;
    let port = number(&engine, &first).await;
    let refuse = async |bindings: Value| {
        let id = engine.api.create(&server(&bindings)).await;
        let message = engine
            .api
            .post(&format!("/containers/{id}/start"))
            .await
            .expect(500)
            .message();
        let networks = engine.api.inspect(&id).await["NetworkSettings"]["Networks"].clone();
        assert!(networks["bridge"].is_object(), "{networks}");
        (id, message)
    };
    let same = json!([{"HostIp": "", "HostPort": port.to_string()}]);
    let (second, message) = refuse(same).await;
    assert!(
        message.starts_with("driver failed programming external connectivity on endpoint ")
            && message.ends_with(&format!(
                "Bind for 0.0.0.0:{port} failed: port is already allocated"
            )),
        "{message}"
    );
    let program = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = program.local_addr().expect("an address").port();
    let (_, message) = refuse(json!([{"HostIp": "127.0.0.1", "HostPort": busy.to_string()}])).await;
    assert!(message.ends_with("address already in use"), "{message}");
    let (_, message) = refuse(json!([{"HostIp": "203.0.113.7", "HostPort": "8080"}])).await;
    assert!(message.contains("cannot assign requested address"), "{message}");
    // Once the port is free the refused one starts, in its network.
    engine.api.remove(&first).await;
    engine.api.start(&second).await;
    engine.api.await_output(&second, "ready").await;
    assert!(
        fetch(&format!("127.0.0.1:{port}"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    engine.finish().await;
}

#[tokio::test]
async fn loopback_ports_are_the_hosts_alone() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = launch(
        &engine,
        &server(&json!([{"HostIp": "127.0.0.1", "HostPort": ""}])),
    )
    .await;
    let port = number(&engine, &id).await;
    assert!(
        fetch(&format!("127.0.0.1:{port}"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    let network = engine.api.get("/networks/bridge").await.expect(200).json();
    let gateway = network["IPAM"]["Config"][0]["Gateway"]
        .as_str()
        .expect("a gateway")
        .to_owned();
    assert!(fetch(&format!("{gateway}:{port}")).await.is_err());
    // Not even with a route of its own does a container get to the host's loopback.
    let mut config = on(
        "bridge",
        &format!(
            "ip route del 127.0.0.0/8 table local; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via {gateway}; {}",
            ask_port("127.0.0.1", port)
        ),
    );
    config["HostConfig"]["Privileged"] = json!(true);
    let (code, _) = engine.api.run(&config).await;
    assert_ne!(code, 0);
    let (code, _) = engine.api.run(&on("bridge", &ask_port(&gateway, port))).await;
    assert_ne!(code, 0);
    engine.finish().await;
}

#[tokio::test]
async fn connections_survive_the_engine() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = server(&json!([{"HostIp": "127.0.0.1", "HostPort": ""}]));
    config["Cmd"] = json!(["sh", "-c", "echo ready; while :; do nc -l -p 80 -e cat; done"]);
    let id = launch(&engine, &config).await;
    let before = bound(&engine, &id, "80/tcp").await;
    let port = number(&engine, &id).await;
    // The program may need a moment before it listens.
    let mut stream = None;
    for _ in 0..100 {
        if let Ok(connected) = TcpStream::connect(("127.0.0.1", port)).await {
            stream = Some(connected);
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut stream = stream.expect("a connection");
    let mut echo = async |text: &[u8]| {
        stream.write_all(text).await.expect("a connection");
        let mut buffer = vec![0; text.len()];
        stream.read_exact(&mut buffer).await.expect("an answer");
        assert_eq!(buffer, text);
    };
    echo(b"before").await;
    engine.kill9().await;
    echo(b"without").await;
    engine.launch_again().await;
    echo(b"after").await;
    assert_eq!(bound(&engine, &id, "80/tcp").await, before);
    // It is still held against others.
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
    engine.finish().await;
}

#[tokio::test]
async fn a_thousand_ports() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = server(&Value::Null);
    let mut bindings = serde_json::Map::new();
    for port in 1..=1000 {
        bindings.insert(
            format!("{port}/tcp"),
            json!([{"HostIp": "127.0.0.1", "HostPort": ""}]),
        );
    }
    config["HostConfig"]["PortBindings"] = Value::Object(bindings);
    let id = launch(&engine, &config).await;
    let port = number(&engine, &id).await;
    assert!(
        fetch(&format!("127.0.0.1:{port}"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    let list = engine.api.get("/containers/json").await.expect(200).json();
    assert_eq!(list[0]["Ports"].as_array().map(Vec::len), Some(1000));
    engine.api.remove(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn docker_publishes() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "127.0.0.1::80",
            "-P",
            "--expose",
            "81",
            "busybox",
            "sh",
            "-c",
            SERVE,
        ])
        .await
        .ok();
    let port = engine.docker(&["port", "web", "80"]).await.ok();
    assert!(port.starts_with("127.0.0.1:"), "{port}");
    engine.api.await_output("web", "ready").await;
    assert!(fetch(&port).await.expect("an answer").contains("hello"));
    let all = engine.docker(&["port", "web"]).await.ok();
    assert!(all.contains("81/tcp -> 0.0.0.0:"), "{all}");
    let first = engine
        .docker(&[
            "run",
            "-d",
            "-p",
            "127.0.0.1:47310-47320:80",
            "busybox",
            "sh",
            "-c",
            SERVE,
        ])
        .await
        .ok();
    let second = engine
        .docker(&[
            "run",
            "-d",
            "-p",
            "127.0.0.1:47310-47320:80",
            "busybox",
            "sh",
            "-c",
            SERVE,
        ])
        .await
        .ok();
    assert_ne!(number(&engine, &first).await, number(&engine, &second).await);
    engine.finish().await;
}
