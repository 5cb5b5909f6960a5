//! The name server inside containers, asked with messages made by hand, and the files that lead to it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use berth_tests::{Engine, client::PATIENCE};
use serde_json::{Value, json};

use super::networks::on;

const SERVER: &str = "127.0.0.11:53";
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// A question in the form of RFC 1035.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0; 12];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message[2] = 1;
    message[5] = 1;
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// An answer: its code, whether it was cut off, and the data of its records.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u8,
    cut_off: bool,
    data: Vec<Vec<u8>>,
}

fn read_answer(message: &[u8]) -> Answer {
    let number = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let mut at = 12;
    let skip_name = |mut at: usize| {
        while message[at] != 0 && message[at] < 0xc0 {
            at += usize::from(message[at]) + 1;
        }
        at + if message[at] == 0 { 1 } else { 2 }
    };
    for _ in 0..number(4) {
        at = skip_name(at) + 4;
    }
    let mut data = Vec::new();
    for _ in 0..number(6) {
        at = skip_name(at);
        let length = number(at + 8);
        data.push(message[at + 10..at + 10 + length].to_vec());
        at += 10 + length;
    }
    Answer {
        code: message[3] & 15,
        cut_off: message[2] & 2 != 0,
        data,
    }
}

/// Does something in the network namespace of a container.
async fn within<T: Send + 'static>(
    engine: &Engine,
    id: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let pid = engine.api.inspect(id).await["State"]["Pid"].clone();
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("a network namespace");
    tokio::task::spawn_blocking(|| {
        thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("to enter it");
            work()
        })
        .join()
        .expect("a thread")
    })
    .await
    .expect("a task")
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket that waits");
    socket.connect(SERVER).expect("an address");
    socket
}

fn ask_over_udp(socket: &UdpSocket, name: &str, kind: u16) -> Answer {
    socket.send(&question(7, name, kind)).expect("a question sent");
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    read_answer(&buffer[..length])
}

fn ask_over_tcp(name: &str, kind: u16) -> Answer {
    let mut stream = TcpStream::connect(SERVER).expect("a connection");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a stream that waits");
    let message = question(8, name, kind);
    let length = u16::try_from(message.len()).expect("a short message");
    stream.write_all(&length.to_be_bytes()).expect("a connection");
    stream.write_all(&message).expect("a connection");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).expect("an answer");
    read_answer(&answer)
}

async fn udp(engine: &Engine, id: &str, name: &str, kind: u16) -> Answer {
    let name = name.to_owned();
    within(engine, id, move || ask_over_udp(&socket(), &name, kind)).await
}

/// A name server that others are asked instead of: it knows `small.test` and `big.test`, and remembers what it was asked.
struct Upstream {
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// How many addresses `big.test` has.
const MANY: u16 = 300;

fn upstream_answer(message: &[u8], over_tcp: bool, asked: &Mutex<Vec<String>>) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while message[at] != 0 {
        let length = usize::from(message[at]);
        name += &String::from_utf8_lossy(&message[at + 1..=at + length]);
        name.push('.');
        at += length + 1;
    }
    let end = at + 5;
    asked.lock().expect("a list").push(name.clone());
    let mut answer = message[..end].to_vec();
    answer[2] = 0x81;
    answer[3] = 0x80;
    answer[6..12].fill(0);
    let count = match name.as_str() {
        "small.test." => 1,
        "big.test." if over_tcp => MANY,
        "big.test." => {
            answer[2] |= 2;
            0
        }
        _ => {
            answer[3] |= 3;
            0
        }
    };
    answer[6..8].copy_from_slice(&count.to_be_bytes());
    for number in 0..count {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0]);
        answer.extend(number.to_be_bytes());
    }
    answer
}

impl Upstream {
    fn start(address: &str) -> Self {
        let (asked, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let udp = UdpSocket::bind((address, 53)).expect("a socket");
        udp.set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a socket that waits");
        let tcp = TcpListener::bind((address, 53)).expect("a socket");
        tcp.set_nonblocking(true).expect("a socket");
        let datagrams = {
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            move || {
                let mut buffer = [0; 4096];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                        let answer = upstream_answer(&buffer[..length], false, &asked);
                        let _ = udp.send_to(&answer, from);
                    }
                }
            }
        };
        let connections = {
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok((mut stream, _)) = tcp.accept() else {
                        thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    stream.set_nonblocking(false).expect("a stream");
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).expect("a question");
                    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut message).expect("a question");
                    let answer = upstream_answer(&message, true, &asked);
                    let length = u16::try_from(answer.len()).expect("an answer");
                    stream.write_all(&length.to_be_bytes()).expect("a connection");
                    stream.write_all(&answer).expect("a connection");
                }
            }
        };
        Self {
            asked,
            stop,
            threads: vec![thread::spawn(datagrams), thread::spawn(connections)],
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("a list").clone()
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a thread");
        }
    }
}

async fn network(engine: &Engine, body: &Value) -> String {
    engine.api.post_json("/networks/create", body).await.expect(201);
    let name = body["Name"].as_str().expect("a name");
    let shown = engine
        .api
        .get(&format!("/networks/{name}"))
        .await
        .expect(200)
        .json();
    let gateway = shown["IPAM"]["Config"][0]["Gateway"].as_str();
    gateway.expect("a gateway").to_owned()
}

/// A container that stays, with aliases and name servers.
async fn member(engine: &Engine, network: &str, aliases: &[&str], host: Value) -> String {
    let mut config = on(network, "echo ready; exec sleep 1000");
    for (key, value) in host.as_object().expect("an object") {
        config["HostConfig"][key] = value.clone();
    }
    config["NetworkingConfig"] = json!({"EndpointsConfig": {network: {"Aliases": aliases}}});
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "ready").await;
    id
}

async fn octets(engine: &Engine, id: &str, network: &str) -> Vec<u8> {
    let shown = engine.api.inspect(id).await;
    let text = shown["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
    let address: std::net::Ipv4Addr = text.and_then(|text| text.parse().ok()).expect("an address");
    address.octets().to_vec()
}

#[tokio::test]
async fn others_are_asked_what_containers_do_not_know() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let gateway = network(&engine, &json!({"Name": "front"})).await;
    let upstream = Upstream::start(&gateway);
    let id = member(&engine, "front", &["one"], json!({"Dns": [&gateway]})).await;
    let own = octets(&engine, &id, "front").await;

    let small = udp(&engine, &id, "small.test", A).await;
    assert_eq!((small.code, small.data), (0, vec![vec![203, 0, 0, 0]]));
    let big = udp(&engine, &id, "big.test", A).await;
    assert!(big.cut_off && big.data.is_empty(), "{big:?}");
    let big = within(&engine, &id, || ask_over_tcp("big.test", A)).await;
    assert_eq!((big.code, big.data.len()), (0, usize::from(MANY)));
    assert_eq!(udp(&engine, &id, "gone.test", A).await.code, 3);
    let asked = upstream.asked();
    assert_eq!(asked, ["small.test.", "big.test.", "big.test.", "gone.test."]);

    // What containers are called is nobody else's business, whatever is asked about it.
    for kind in [AAAA, TXT] {
        let none = udp(&engine, &id, "one", kind).await;
        assert_eq!((none.code, none.data.len()), (0, 0), "{kind}");
    }
    let one = within(&engine, &id, || ask_over_tcp("ONE.front", A)).await;
    assert_eq!(one.data, std::slice::from_ref(&own));
    let [a, b, c, d] = own[..] else { panic!() };
    let pointer = udp(&engine, &id, &format!("{d}.{c}.{b}.{a}.in-addr.arpa"), PTR).await;
    assert_eq!((pointer.code, pointer.data.len()), (0, 1));
    assert_eq!(upstream.asked().len(), asked.len());

    // An engine that comes back answers as before.
    engine.crash().await;
    assert_eq!(udp(&engine, &id, "small.test", A).await.data.len(), 1);
    assert_eq!(udp(&engine, &id, "one", A).await.data, [own]);
    upstream.end();
    engine.finish().await;
}

#[tokio::test]
async fn internal_networks_ask_nobody() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let gateway = network(&engine, &json!({"Name": "back", "Internal": true})).await;
    let upstream = Upstream::start(&gateway);
    let id = member(&engine, "back", &["one"], json!({"Dns": [&gateway]})).await;
    for kind in [A, AAAA, TXT, PTR] {
        assert_eq!(udp(&engine, &id, "small.test", kind).await.code, 3, "{kind}");
    }
    assert_eq!(udp(&engine, &id, "one", A).await.data.len(), 1);
    assert!(upstream.asked().is_empty());
    upstream.end();
    engine.finish().await;
}

#[tokio::test]
async fn all_who_share_a_name_are_found_in_turns_and_by_many() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    network(&engine, &json!({"Name": "front"})).await;
    let one = member(&engine, "front", &["web"], json!({})).await;
    let two = member(&engine, "front", &["web"], json!({})).await;
    let mut addresses = [
        octets(&engine, &one, "front").await,
        octets(&engine, &two, "front").await,
    ];
    addresses.sort();
    let firsts = within(&engine, &one, move || {
        let askers: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn(|| {
                    let socket = socket();
                    let mut firsts = Vec::new();
                    for _ in 0..50 {
                        let mut answer = ask_over_udp(&socket, "web", A);
                        assert_eq!((answer.code, answer.data.len()), (0, 2));
                        firsts.push(answer.data[0].clone());
                        answer.data.sort();
                        assert_eq!(answer.data, addresses_of(&answer));
                    }
                    firsts
                })
            })
            .collect();
        askers
            .into_iter()
            .flat_map(|asker| asker.join().expect("answers"))
            .collect::<Vec<_>>()
    })
    .await;
    for address in &addresses {
        let count = firsts.iter().filter(|first| *first == address).count();
        assert_eq!(count, firsts.len() / 2);
    }
    engine.api.remove(&two).await;
    assert_eq!(
        udp(&engine, &one, "web", A).await.data,
        [octets(&engine, &one, "front").await]
    );
    engine.finish().await;
}

/// The addresses of an answer, each once, in order.
fn addresses_of(answer: &Answer) -> Vec<Vec<u8>> {
    let mut data = answer.data.clone();
    data.sort();
    data.dedup();
    data
}

#[tokio::test]
async fn what_is_no_question_does_no_harm() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    network(&engine, &json!({"Name": "front"})).await;
    let id = member(&engine, "front", &["one"], json!({})).await;
    let answer = within(&engine, &id, || {
        let socket = socket();
        let good = question(1, "one", A);
        // A name that goes on at its own beginning, and one that is longer than names are.
        let mut endless = good.clone();
        endless.splice(12..17, [0xc0, 12]);
        let mut long = good[..12].to_vec();
        for _ in 0..10 {
            long.push(63);
            long.extend([b'a'; 63]);
        }
        long.extend([0, 0, 1, 0, 1]);
        let mut many = good.clone();
        many[4..6].fill(0xff);
        let mut reply = good.clone();
        reply[2] = 0x80;
        let mut noise = 1u32;
        for round in 0..2000usize {
            let junk = match round % 7 {
                0 => endless.clone(),
                1 => long.clone(),
                2 => many.clone(),
                3 => good[..round % good.len()].to_vec(),
                4 => reply.clone(),
                5 => Vec::new(),
                _ => (0..round % 600)
                    .map(|_| {
                        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        noise.to_be_bytes()[0]
                    })
                    .collect(),
            };
            let _ = socket.send(&junk);
        }
        for bytes in [&[0, 0][..], &[0xff, 0xff, 1], &[0, 5, 1, 2, 3, 4, 5]] {
            let mut stream = TcpStream::connect(SERVER).expect("a connection");
            let _ = stream.write_all(bytes);
        }
        // It answers the next one that asks properly.
        drop(socket);
        ask_over_udp(&self::socket(), "one", A)
    })
    .await;
    assert_eq!((answer.code, answer.data.len()), (0, 1));
    assert!(engine.is_running());
    engine.finish().await;
}

#[tokio::test]
async fn files_lead_to_the_name_server() {
    let engine = Engine::options()
        .flag("--dns=192.0.2.53")
        .flag("--dns-search=engine.test")
        .start()
        .await;
    engine.api.load_busybox().await;
    let gateway = network(&engine, &json!({"Name": "front"})).await;
    let file = async |id: &str, name: &str| engine.docker(&["exec", id, "cat", name]).await.ok();
    let conf = async |id: &str| {
        let text = file(id, "/etc/resolv.conf").await;
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let dns =
        json!({"Dns": [&gateway], "DnsSearch": ["a.test", "b.test"], "DnsOptions": ["ndots:3", "timeout:1"]});
    let id = member(&engine, "front", &[], dns.clone()).await;
    assert_eq!(
        conf(&id).await,
        "nameserver 127.0.0.11\nsearch a.test b.test\noptions ndots:3 timeout:1"
    );
    let plain = member(&engine, "front", &[], json!({"DnsSearch": ["."]})).await;
    assert_eq!(
        conf(&plain).await,
        "nameserver 127.0.0.11\nsearch engine.test\noptions ndots:0".replace("search engine.test\n", "")
    );
    let bridged = engine
        .api
        .launch(&on("bridge", "echo ready; exec sleep 1000"))
        .await;
    assert_eq!(conf(&bridged).await, "nameserver 192.0.2.53\nsearch engine.test");

    // One that is connected later gets the name server and its new address, unless somebody wrote the file.
    let connect = async |id: &str, action: &str| {
        engine
            .api
            .post_json(&format!("/networks/front/{action}"), &json!({"Container": id}))
            .await
            .expect(200);
    };
    let hosts = file(&bridged, "/etc/hosts").await;
    connect(&bridged, "connect").await;
    assert_eq!(
        conf(&bridged).await,
        "nameserver 127.0.0.11\nsearch engine.test\noptions ndots:0"
    );
    let shown = engine.api.inspect(&bridged).await;
    let at = shown["NetworkSettings"]["Networks"]["front"]["IPAddress"]
        .as_str()
        .expect("an address")
        .to_owned();
    let more = file(&bridged, "/etc/hosts").await;
    assert_eq!(more, format!("{hosts}\n{at}\t{}", &bridged[..12]));
    let name = engine.api.inspect(&id).await["Name"].as_str().expect("a name")[1..].to_owned();
    engine
        .docker(&["exec", &bridged, "ping", "-c1", "-W5", &name])
        .await
        .ok();
    engine
        .docker(&[
            "exec",
            &bridged,
            "sh",
            "-c",
            "echo '192.0.2.9 mine' >> /etc/hosts",
        ])
        .await
        .ok();
    connect(&bridged, "disconnect").await;
    assert_eq!(
        file(&bridged, "/etc/hosts").await,
        format!("{hosts}\n192.0.2.9 mine")
    );
    let edited = engine
        .api
        .launch(&on(
            "bridge",
            "echo nameserver 192.0.2.8 > /etc/resolv.conf; echo ready; exec sleep 1000",
        ))
        .await;
    engine.api.await_output(&edited, "ready").await;
    connect(&edited, "connect").await;
    assert_eq!(conf(&edited).await, "nameserver 192.0.2.8");
    engine.finish().await;
}
