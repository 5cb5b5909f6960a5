//! Sockets of a name server inside a container's network namespace, and the table of nftables that leads questions to
//! them.
//!
//! They listen on ports of the kernel's choice, so that port 53 stays free for programs of the container. What is sent
//! to port 53 of the server's address is led to them; connection tracking makes the answers come from there.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use super::{
    firewall::commit,
    namespace::Namespace,
    nft::{self, Base, META_L4PROTO, REGISTER, TRANSPORT_HEADER},
    socket::{NETFILTER, Netlink},
};
use crate::{Result, error::Context};

/// The table inside the namespace.
const TABLE: &str = "berth_names";
const CHAIN: &str = "output";
/// `NF_INET_LOCAL_OUT`, and where destinations are changed there: `NF_IP_PRI_NAT_DST`.
const OUTPUT: Base = Base {
    kind: "nat",
    hook: 3,
    priority: -100,
};
/// Where clients ask.
const PORT: u16 = 53;

/// Where a name server inside a namespace is asked. The namespace lives as long as they do.
#[derive(Debug)]
pub struct NameSockets {
    /// For datagrams; does not block.
    pub udp: UdpSocket,
    /// For connections; does not block.
    pub tcp: TcpListener,
}

impl NameSockets {
    /// Opens them for the server's `address`, one of the loopback interface, which has to be up. Those of an earlier
    /// call are not asked any more.
    ///
    /// # Errors
    /// Internal, also if the kernel cannot change destinations.
    pub fn open(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
        namespace.inside(|| {
            let sockets = listen(address).context(|| format!("cannot listen on {address}"))?;
            let port = |local: io::Result<SocketAddr>| {
                local
                    .map(|local| local.port())
                    .context(|| "cannot find out a socket's port")
            };
            let udp = (libc::IPPROTO_UDP, port(sockets.udp.local_addr())?);
            let tcp = (libc::IPPROTO_TCP, port(sockets.tcp.local_addr())?);
            lead(address, [udp, tcp])?;
            Ok(sockets)
        })
    }
}

fn listen(address: Ipv4Addr) -> io::Result<NameSockets> {
    let udp = UdpSocket::bind((address, 0))?;
    let tcp = TcpListener::bind((address, 0))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(NameSockets { udp, tcp })
}

/// Leads what is sent to the server's port, by protocol, to another port.
fn lead(address: Ipv4Addr, ports: [(i32, u16); 2]) -> Result<()> {
    let mut netlink = Netlink::open(NETFILTER).context(|| "the kernel has no netfilter")?;
    let mut batch = vec![
        nft::add_table(TABLE),
        nft::delete_table(TABLE),
        nft::add_table(TABLE),
        nft::add_chain(TABLE, CHAIN, Some(OUTPUT)),
    ];
    let octets = address.octets();
    batch.extend(ports.map(|(protocol, port)| {
        nft::add_rule(TABLE, CHAIN, |rule| {
            rule.family(false)
                .destination(false)
                .when(REGISTER, &octets)
                .meta(META_L4PROTO, REGISTER)
                .when(REGISTER, &[protocol as u8])
                .payload(TRANSPORT_HEADER, 2, 2, REGISTER)
                .when(REGISTER, &PORT.to_be_bytes())
                .load(REGISTER, &octets)
                .load(REGISTER + 1, &port.to_be_bytes())
                .change_destination(false, REGISTER, REGISTER + 1)
        })
    }));
    commit(&mut netlink, &batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

    #[test]
    fn questions_reach_the_latest_sockets_and_answers_come_from_the_asked_port() {
        let mut namespace = Namespace::create().unwrap();
        namespace.links.set_up_loopback().unwrap();
        let earlier = NameSockets::open(&namespace, SERVER).unwrap();
        let sockets = NameSockets::open(&namespace, SERVER).unwrap();
        let client = namespace
            .inside(|| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?))
            .unwrap();
        client.send_to(b"who", (SERVER, PORT)).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(
            earlier.udp.recv_from(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let (length, from) = sockets.udp.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"who");
        sockets.udp.send_to(b"you", from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"you"[..], (SERVER, PORT).into()));

        let stream = namespace
            .inside(|| Ok(std::net::TcpStream::connect((SERVER, PORT))?))
            .unwrap();
        let (_, from) = sockets.tcp.accept().unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
    }
}
