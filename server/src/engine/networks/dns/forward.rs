//! Questions that others answer. They are asked from the host's namespace, with the question's own bytes.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one that did not answer is asked after the others.
const SILENCE: Duration = Duration::from_secs(30);
/// As many servers are asked, as resolvers do (resolv.conf(5)).
const MOST_SERVERS: usize = 3;
const PORT: u16 = 53;
/// The longest message.
const LONGEST: usize = 65_535;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection, its length before it.
    Tcp,
}

/// The servers to ask: those of the container, or those of the host. A loopback address of a container is not one of
/// the host's.
pub fn servers(own: &[String], host: &str) -> Vec<SocketAddr> {
    let parsed = |text: &str| text.parse::<IpAddr>().ok();
    let list: Vec<IpAddr> = match own.is_empty() {
        true => host
            .lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .filter_map(|rest| parsed(rest.trim()))
            .collect(),
        false => own
            .iter()
            .filter_map(|text| parsed(text))
            .filter(|address| !address.is_loopback())
            .collect(),
    };
    list.into_iter()
        .take(MOST_SERVERS)
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

/// Servers that did not answer, and until when they are asked after the others.
#[derive(Debug, Default)]
pub struct Silent(Mutex<HashMap<SocketAddr, Instant>>);

impl Silent {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<SocketAddr, Instant>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts those that were silent behind the others.
    fn sort(&self, servers: &mut [SocketAddr]) {
        let now = Instant::now();
        self.with(|silent| {
            silent.retain(|_, until| *until > now);
            servers.sort_by_key(|server| silent.contains_key(server));
        });
    }
}

/// What the first server says that has an answer; else what one said that has none; nothing if none said anything.
pub async fn ask(
    question: &[u8],
    mut servers: Vec<SocketAddr>,
    transport: Transport,
    silent: &Silent,
) -> Option<Vec<u8>> {
    let mut refusal = None;
    silent.sort(&mut servers);
    for server in &servers {
        let asked = async {
            match transport {
                Transport::Udp => over_udp(question, *server).await,
                Transport::Tcp => over_tcp(question, *server).await,
            }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) if is_refusal(&answer) => refusal = Some(answer),
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server cannot be asked"),
            Err(_) => {
                silent.with(|silent| silent.insert(*server, Instant::now() + SILENCE));
                tracing::debug!(%server, "a name server does not answer");
            }
        }
    }
    refusal
}

async fn over_udp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let local: IpAddr = match server {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answers(question, answer.get(..length).unwrap_or_default()) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn over_tcp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write(&mut stream, question).await?;
    let answer = read(&mut stream).await?;
    match answers(question, &answer) {
        true => Ok(answer),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads a message from a connection.
///
/// # Errors
/// Those of the connection, and its end.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message to a connection.
///
/// # Errors
/// Those of the connection; invalid input if the message is too long.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}

/// Whether a message is an answer with the question's number.
fn answers(question: &[u8], message: &[u8]) -> bool {
    message.len() >= 12
        && message.get(..2) == question.get(..2)
        && message.get(2).is_some_and(|b| b & 0x80 != 0)
}

/// Whether a server says that it failed or does not want to: others may.
fn is_refusal(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| matches!(flags & 0x0f, 2 | 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_servers_come_last() {
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let silent = Silent::default();
        silent.with(|silent| silent.insert(of("10.0.0.1:53"), Instant::now() + SILENCE));
        silent.with(|silent| silent.insert(of("10.0.0.2:53"), Instant::now()));
        let mut servers = [of("10.0.0.1:53"), of("10.0.0.2:53"), of("10.0.0.3:53")];
        silent.sort(&mut servers);
        assert_eq!(servers, [of("10.0.0.2:53"), of("10.0.0.3:53"), of("10.0.0.1:53")]);
    }

    #[test]
    fn the_containers_servers_come_before_the_hosts() {
        let host = "# no\nnameserver 10.0.0.1\n nameserver\t127.0.0.53\nsearch x\n";
        let of = |own: &[&str]| {
            let own: Vec<String> = own.iter().map(|text| (*text).to_owned()).collect();
            servers(&own, host)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), ["10.0.0.1:53", "127.0.0.53:53"]);
        assert_eq!(of(&["127.0.0.1", "9.9.9.9"]), ["9.9.9.9:53"]);
    }
}
