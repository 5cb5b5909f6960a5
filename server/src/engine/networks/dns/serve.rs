//! Datagrams and connections of one container.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::{
    super::Networks,
    answer::{self, Outcome},
    forward::{self, Silent, Transport},
};

/// Questions of one container that others are asked at a time.
const MOST_QUESTIONS: usize = 100;
/// Connections of one container at a time.
const MOST_CONNECTIONS: usize = 100;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// After an error that may last.
const PAUSE: Duration = Duration::from_millis(50);
const HOST_SERVERS: &str = "/etc/resolv.conf";

/// The name server of one container.
#[derive(Debug)]
pub struct Server(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    networks: Networks,
    container: String,
    /// Servers of the container; empty for those of the host.
    servers: Vec<String>,
    turn: AtomicUsize,
    questions: Semaphore,
    silent: Silent,
}

impl Server {
    /// The server of a container, and whom it asks.
    pub fn new(networks: Networks, container: &str, servers: Vec<String>) -> Self {
        Self(Arc::new(Shared {
            networks,
            container: container.to_owned(),
            servers,
            turn: AtomicUsize::new(0),
            questions: Semaphore::new(MOST_QUESTIONS),
            silent: Silent::default(),
        }))
    }

    /// Answers until it is dropped; everything that is under way ends then.
    pub async fn run(self, udp: UdpSocket, tcp: TcpListener) {
        tokio::join!(datagrams(&self.0, Arc::new(udp)), connections(&self.0, tcp));
    }
}

async fn datagrams(server: &Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        while tasks.try_join_next().is_some() {}
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let question = buffer.get(..length).unwrap_or_default();
        let most = Some(answer::longest(question));
        let ready = match server.outcome(question) {
            Outcome::Drop => continue,
            Outcome::Answer(message) => message,
            Outcome::Forward(failed) if tasks.len() >= MOST_QUESTIONS => failed,
            Outcome::Forward(failed) => {
                let (server, socket, question) = (Arc::clone(server), Arc::clone(&socket), question.to_vec());
                tasks.spawn(async move {
                    let answer = match server.ask(&question, Transport::Udp).await {
                        Some(answer) => Some(answer),
                        None => answer::to_bytes(&failed, most),
                    };
                    if let Some(answer) = answer {
                        // An asker that has gone needs no answer.
                        let _ = socket.send_to(&answer, from).await;
                    }
                });
                continue;
            }
        };
        if let Some(bytes) = answer::to_bytes(&ready, most) {
            let _ = socket.send_to(&bytes, from).await;
        }
    }
}

async fn connections(server: &Arc<Shared>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if tasks.len() < MOST_CONNECTIONS => {
                let server = Arc::clone(server);
                tasks.spawn(async move {
                    // The end of the connection is all there is to say.
                    let _ = connection(&server, stream).await;
                });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn connection(server: &Shared, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let question = timeout(IDLE, forward::read(&mut stream)).await??;
        let answer = match server.outcome(&question) {
            Outcome::Drop => return Ok(()),
            Outcome::Answer(message) => answer::to_bytes(&message, None),
            Outcome::Forward(failed) => match server.ask(&question, Transport::Tcp).await {
                Some(answer) => Some(answer),
                None => answer::to_bytes(&failed, None),
            },
        };
        let answer = answer.ok_or(io::ErrorKind::InvalidData)?;
        timeout(IDLE, forward::write(&mut stream, &answer)).await??;
    }
}

impl Shared {
    fn outcome(&self, question: &[u8]) -> Outcome {
        let zone = self.networks.zone(&self.container).unwrap_or_default();
        answer::outcome(question, &zone, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let _permit = self.questions.try_acquire().ok()?;
        let host = match self.servers.is_empty() {
            true => tokio::fs::read_to_string(HOST_SERVERS).await.unwrap_or_default(),
            false => String::new(),
        };
        let servers = forward::servers(&self.servers, &host);
        forward::ask(question, servers, transport, &self.silent).await
    }
}
