//! What networks are made of on the host: bridges and other links, subnets that are free there, kernel parameters.

use std::{fs::File, path::Path};

use berth_runtime::{
    Error, Kind, Result,
    error::Context,
    net::{Links, NewBridge, read_sysctl, write_sysctl},
};
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};

use super::{
    Shared,
    addresses::{Range, free_subnet, local_ipv6},
    options::{Driver, Options},
    record::Record,
    settings::Pool,
};

/// Held while a subnet is chosen, so that two engines do not choose the same one.
const LOCK: &str = "/run/lock/berth-subnets.lock";

/// The right to choose subnets of this host.
#[derive(Debug)]
pub struct Choosing {
    _lock: Flock<File>,
}

impl Choosing {
    /// Waits for the right.
    ///
    /// # Errors
    /// Internal.
    pub fn begin() -> Result<Self> {
        let failed = || format!("cannot lock {LOCK}");
        let file = File::options()
            .create(true)
            .append(true)
            .open(LOCK)
            .context(failed)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .context(failed)?;
        Ok(Self { _lock: lock })
    }
}

impl Shared {
    /// A subnet that neither the host nor a network of this engine uses.
    ///
    /// # Errors
    /// Invalid if none is left; internal.
    pub(super) fn choose_subnet(&self, pools: &[Pool], more_taken: &[IpNet]) -> Result<IpNet> {
        let mut taken: Vec<IpNet> = Links::open()?.routes()?.into_iter().map(|(_, net)| net).collect();
        taken.extend(self.state().subnets());
        taken.extend(more_taken);
        free_subnet(pools, &taken).ok_or_else(|| {
            Error::invalid(
                "all predefined address pools have been fully subnetted: remove networks, give a subnet, or start the \
                 engine with more (--default-address-pool)",
            )
        })
    }

    /// The pool of local IPv6 addresses of this engine.
    pub(super) fn ipv6_pool(&self) -> Vec<Pool> {
        // Always the same for an engine, and hardly ever that of another one.
        let mut seed = [0u8; 5];
        for (index, byte) in self.directory.as_os_str().as_encoded_bytes().iter().enumerate() {
            let at = index % seed.len();
            seed[at] = seed[at].rotate_left(3) ^ byte.wrapping_mul(167);
        }
        local_ipv6(seed).into_iter().collect()
    }

    /// Makes what a network needs on the host and answers with the index of its link, 0 if it needs none.
    ///
    /// # Errors
    /// Conflict if there is a link of that name that is not the engine's; internal. Nothing is left behind.
    pub(super) fn make_link(&self, record: &Record) -> Result<u32> {
        let options = record.parsed_options()?;
        match record.driver()? {
            Driver::Bridge => self.make_bridge(record, &options),
            driver @ (Driver::Macvlan | Driver::Ipvlan) => self.make_parent(record, &options, driver),
            Driver::Host | Driver::Null => Ok(0),
        }
    }

    fn make_bridge(&self, record: &Record, options: &Options) -> Result<u32> {
        let mut links = Links::open()?;
        let alias = self.alias(&format!("network {}", record.id));
        let (index, made) = match links.find(&record.link)? {
            Some(link) if link.alias == alias => (link.index, false),
            // One that somebody else looks after: it is used as it is.
            Some(link) if link.kind == "bridge" && !link.alias.starts_with(super::ALIAS_PREFIX) => {
                return Ok(link.index);
            }
            Some(_) => {
                return Err(Error::new(
                    Kind::Forbidden,
                    format!("network link {} belongs to something else", record.link),
                ));
            }
            None => {
                let index = links.add_bridge(&NewBridge {
                    name: &record.link,
                    alias: &alias,
                    mtu: options.mtu,
                    ipv6: record.ipv6,
                })?;
                (index, true)
            }
        };
        match self.configure_bridge(&mut links, index, record, options) {
            Ok(()) => Ok(index),
            // Containers may be on it, whose connections are worth more than what could not be set once more.
            Err(error) if !made => {
                tracing::warn!(network = record.name, %error, "a bridge could not be configured again");
                Ok(index)
            }
            Err(error) => {
                links.delete(&record.link)?;
                Err(error)
            }
        }
    }

    fn configure_bridge(
        &self,
        links: &mut Links,
        index: u32,
        record: &Record,
        options: &Options,
    ) -> Result<()> {
        for range in &record.ranges {
            let without = options.is_isolated(range.subnet.addr().is_ipv6());
            if let Some(gateway) = range.gateway.filter(|_| !without) {
                let address = IpNet::new(gateway, range.subnet.prefix_len())
                    .map_err(|e| Error::internal("a subnet is odd").caused_by(e))?;
                links.add_address(index, address)?;
            }
        }
        // Answers to the host's own connections to published ports come back to 127.0.0.1; the firewall sees to it
        // that nothing else goes there.
        write_sysctl(&format!("net/ipv4/conf/{}/route_localnet", record.link), "1")?;
        if !record.internal {
            self.forward(record.ipv6)?;
        }
        if options.no_icc && record.is_predefined() {
            // Containers do not hear each other there. What links open goes over the host, which answers for the others.
            write_sysctl(&format!("net/ipv4/conf/{}/proxy_arp_pvlan", record.link), "1")?;
            write_sysctl(&format!("net/ipv4/neigh/{}/proxy_delay", record.link), "0")?;
        }
        Ok(())
    }

    /// Lets the host forward packets, if it does not yet.
    fn forward(&self, ipv6: bool) -> Result<()> {
        if !self.settings.forward {
            return Ok(());
        }
        let families = [
            ("net/ipv4/ip_forward", true),
            ("net/ipv6/conf/all/forwarding", ipv6),
        ];
        for (name, needed) in families {
            if needed && read_sysctl(name).is_some_and(|value| value == "0") {
                write_sysctl(name, "1")?;
                tracing::info!(
                    parameter = name,
                    "forwarding was switched on for networks of containers"
                );
            }
        }
        Ok(())
    }

    fn make_parent(&self, record: &Record, options: &Options, driver: Driver) -> Result<u32> {
        options.upon(driver)?;
        let mut links = Links::open()?;
        let alias = self.alias(&format!("network {}", record.id));
        if !options.parent.is_empty()
            && let Some(link) = links.find(&options.parent)?
        {
            return Ok(link.index);
        }
        if let Some(link) = links.find(&record.link)?.filter(|link| link.alias == alias) {
            return Ok(link.index);
        }
        if options.parent.is_empty() {
            return links.add_parent(&record.link, &alias, None);
        }
        // `eth0.10` is made as VLAN 10 of eth0.
        let vlan = options.parent.rsplit_once('.').and_then(|(parent, id)| {
            Some((
                parent,
                id.parse::<u16>().ok().filter(|id| (1..4095).contains(id))?,
            ))
        });
        let Some((parent, id)) = vlan else {
            return Err(Error::invalid(format!(
                "invalid parent interface {}: it does not exist",
                options.parent
            )));
        };
        let parent = links
            .find(parent)?
            .ok_or_else(|| Error::invalid(format!("invalid parent interface {parent}: it does not exist")))?;
        links.add_parent(&record.link, &alias, Some((parent.index, id)))
    }

    /// Removes what a network has on the host, unless somebody else made it.
    ///
    /// # Errors
    /// Internal.
    pub(super) fn remove_link(&self, record: &Record) -> Result<()> {
        if record.link.is_empty() {
            return Ok(());
        }
        let mut links = Links::open()?;
        let alias = self.alias(&format!("network {}", record.id));
        match links.find(&record.link)? {
            Some(link) if link.alias == alias => links.delete(&record.link),
            _ => Ok(()),
        }
    }

    /// The first address of a bridge that somebody else looks after, as a range.
    ///
    /// # Errors
    /// Not found, if there is no such bridge; internal.
    pub(super) fn foreign_ranges(&self, name: &str) -> Result<Vec<Range>> {
        let mut links = Links::open()?;
        let link = links.get(name)?;
        if link.kind != "bridge" {
            return Err(Error::invalid(format!("bridge {name} is no bridge")));
        }
        let addresses = links.addresses()?;
        let own = addresses
            .iter()
            .filter(|(index, net)| *index == link.index && !is_local(net));
        Ok(own
            .map(|(_, net)| Range {
                gateway: Some(net.addr()),
                ..Range::chosen(net.trunc())
            })
            .collect())
    }
}

fn is_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}

/// Whether this host has IPv6.
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}
