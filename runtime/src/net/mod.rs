//! Networks of containers: namespaces, links, addresses, routes, and the firewall table that joins them to the rest.
//!
//! Everything is done by messages to the kernel on blocking sockets; no program is run.
//!
//! | module | what it is |
//! |---|---|
//! | [`links`] | links, addresses and routes of one namespace: rtnetlink(7) |
//! | [`namespace`], [`pool`] | network namespaces; some that are made ahead |
//! | [`firewall`] | one table of nftables for each engine: masquerading, isolation, published ports |
//! | [`names`] | sockets of a name server inside a namespace |
//! | `nft` | the messages of nftables |
//! | `message`, `socket` | netlink(7) itself |

pub mod counters;
pub mod firewall;
pub mod links;
mod message;
pub mod names;
pub mod namespace;
mod nft;
pub mod pool;
mod socket;

pub use self::{
    counters::{Counters, counters},
    firewall::{Content, Firewall, Link as OpenLink, Network, Port, Protocol, Watch},
    links::{Link, Links, NewBridge, NewPair, NewUpon, Upon},
    names::NameSockets,
    namespace::{Namespace, Owner, read_sysctl, write_sysctl},
    pool::Pool,
};
