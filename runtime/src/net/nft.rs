//! Messages of nftables (`linux/netfilter/nf_tables.h`), as far as the firewall table needs them.

use super::message::{APPEND, CREATE, Message};

/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
/// `NFT_MSG_NEWGEN`: told after every change.
pub(super) const NEWGEN: u16 = 15;

/// `NFNL_MSG_BATCH_BEGIN` and `_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFTA_LIST_ELEM`.
const ELEMENT: u16 = 1;
/// Elements in one message: an attribute holds 64 KiB.
const ELEMENTS: usize = 256;

/// `NFT_DATA_VERDICT`.
const VERDICT_TYPE: u32 = 0xffff_ff00;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const INTERVAL_END: u32 = 1;

/// A type of a set's keys or data: what nft(8) shows it as, and its length in bytes.
pub(super) type Type = (u32, u32);

pub(super) const IPV4: Type = (7, 4);
pub(super) const IPV6: Type = (8, 16);
pub(super) const PROTOCOL: Type = (12, 1);
pub(super) const PORT: Type = (13, 2);
pub(super) const INTERFACE: Type = (41, 16);

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Accept,
    Return,
    Jump(&'static str),
}

/// A set, or a map if there are data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    pub name: &'static str,
    pub key: &'static [Type],
    pub data: Data,
    pub interval: bool,
}

/// What a map's keys stand for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Data {
    None,
    Values(&'static [Type]),
    Verdicts,
}

/// An element: its key, and what that stands for.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub key: Vec<u8>,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bytes(Vec<u8>),
    Verdict(Verdict),
    /// The key is the first behind an interval.
    End,
}

/// The first register of four bytes; the others follow it.
pub(super) const REGISTER: u32 = 8;

/// `type`, hook and priority of a chain that packets come to by themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
}

/// `struct nfgenmsg` of a message about a table.
const HEADER: [u8; 4] = [INET, 0, 0, 0];

fn message(kind: u16, flags: u16) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &HEADER)
}

pub(super) fn begin() -> Message {
    Message::new(BATCH_BEGIN, 0, &[0, 0, 0, SUBSYSTEM as u8])
}

pub(super) fn end() -> Message {
    Message::new(BATCH_END, 0, &[0, 0, 0, SUBSYSTEM as u8])
}

pub(super) fn add_table(table: &str) -> Message {
    message(NEWTABLE, CREATE).text(1, table)
}

pub(super) fn delete_table(table: &str) -> Message {
    message(DELTABLE, 0).text(1, table)
}

pub(super) fn add_chain(table: &str, name: &str, base: Option<Base>) -> Message {
    let chain = message(NEWCHAIN, CREATE).text(1, table).text(3, name);
    match base {
        None => chain,
        Some(base) => chain
            .nest(4, |hook| {
                hook.big(1, base.hook).big(2, base.priority.cast_unsigned())
            })
            .text(7, base.kind),
    }
}

pub(super) fn add_set(table: &str, set: &Set, id: u32) -> Message {
    let mut flags = 0;
    if set.interval {
        flags |= SET_INTERVAL;
    }
    if !matches!(set.data, Data::None) {
        flags |= SET_MAP;
    }
    let message = message(NEWSET, CREATE)
        .text(1, table)
        .text(2, set.name)
        .big(3, flags)
        .big(4, type_number(set.key))
        .big(5, length(set.key))
        .big(10, id);
    // Tells nft(8) to show names of interfaces as texts: NFTNL_UDATA_SET_KEYBYTEORDER, the host's.
    let message = match set.key {
        [INTERFACE] => message.attribute(13, &[0, 4, 1, 0, 0, 0]),
        _ => message,
    };
    match set.data {
        Data::None => message,
        Data::Values(types) => message.big(6, type_number(types)).big(7, length(types)),
        Data::Verdicts => message.big(6, VERDICT_TYPE),
    }
}

/// How nft(8) numbers a type made of several: six bits each.
fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, (one, _)| (number << 6) | one)
}

/// Fields of a concatenation begin at multiples of four bytes.
fn length(types: &[Type]) -> u32 {
    match types {
        [(_, length)] => *length,
        _ => types.iter().map(|(_, length)| length.next_multiple_of(4)).sum(),
    }
}

pub(super) fn add_elements(table: &str, set: &str, elements: &[Element]) -> Vec<Message> {
    change_elements(NEWSETELEM, CREATE, table, set, elements)
}

pub(super) fn delete_elements(table: &str, set: &str, elements: &[Element]) -> Vec<Message> {
    change_elements(DELSETELEM, 0, table, set, elements)
}

fn change_elements(kind: u16, flags: u16, table: &str, set: &str, elements: &[Element]) -> Vec<Message> {
    elements
        .chunks(ELEMENTS)
        .map(|chunk| {
            message(kind, flags).text(1, table).text(2, set).nest(3, |list| {
                chunk
                    .iter()
                    .fold(list, |list, element| list.nest(ELEMENT, |one| fill(one, element)))
            })
        })
        .collect()
}

fn fill(message: Message, element: &Element) -> Message {
    let message = message.nest(1, |key| key.attribute(1, &element.key));
    match &element.value {
        Value::None => message,
        Value::Bytes(bytes) => message.nest(2, |data| data.attribute(1, bytes)),
        Value::Verdict(verdict) => message.nest(2, |data| verdict_data(data, *verdict)),
        Value::End => message.big(3, INTERVAL_END),
    }
}

fn verdict_data(data: Message, verdict: Verdict) -> Message {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3i32, Some(chain)),
        Verdict::Return => (-5, None),
    };
    data.nest(2, |inner| {
        let inner = inner.big(1, code.cast_unsigned());
        match chain {
            Some(chain) => inner.text(2, chain),
            None => inner,
        }
    })
}

/// A rule being written: its expressions, in their order.
#[derive(Clone, Debug)]
pub(super) struct Rule(Message);

/// Adds a rule to a chain.
pub(super) fn add_rule(table: &str, chain: &str, write: impl FnOnce(Rule) -> Rule) -> Message {
    message(NEWRULE, CREATE | APPEND)
        .text(1, table)
        .text(2, chain)
        .nest(4, |list| write(Rule(list)).0)
}

/// Keys of `meta`.
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
/// Bases of `payload`.
pub(super) const NETWORK_HEADER: u32 = 1;
pub(super) const TRANSPORT_HEADER: u32 = 2;
/// Keys of `ct`, and bits of what they give.
pub(super) const CT_STATE: u32 = 0;
pub(super) const CT_STATUS: u32 = 2;
pub(super) const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
pub(super) const DESTINATION_CHANGED: u32 = 32;

impl Rule {
    fn expression(self, name: &str, fill: impl FnOnce(Message) -> Message) -> Self {
        Self(
            self.0
                .nest(ELEMENT, |element| element.text(1, name).nest(2, fill)),
        )
    }

    /// Loads what is known of a packet.
    pub fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", |data| data.big(1, register).big(2, key))
    }

    /// Loads bytes of a packet.
    pub fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |data| {
            data.big(1, register).big(2, base).big(3, offset).big(4, length)
        })
    }

    /// Loads a value that is always the same.
    pub fn load(self, register: u32, value: &[u8]) -> Self {
        self.expression("immediate", |data| {
            data.big(1, register).nest(2, |inner| inner.attribute(1, value))
        })
    }

    /// Goes on if a register has this value.
    pub fn when(self, register: u32, value: &[u8]) -> Self {
        self.compare(register, 0, value)
    }

    /// Goes on if it has not.
    pub fn unless(self, register: u32, value: &[u8]) -> Self {
        self.compare(register, 1, value)
    }

    fn compare(self, register: u32, operation: u32, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.big(1, register)
                .big(2, operation)
                .nest(3, |inner| inner.attribute(1, value))
        })
    }

    /// Goes on if a register's value is in the set, or, with `inverse`, if it is not.
    pub fn in_set(self, set: &str, register: u32, inverse: bool) -> Self {
        self.expression("lookup", |data| {
            data.text(1, set).big(2, register).big(5, u32::from(inverse))
        })
    }

    /// Looks a register's value up in a map and loads what it stands for, or goes no further.
    pub fn map(self, map: &str, register: u32, to: u32) -> Self {
        self.expression("lookup", |data| data.text(1, map).big(2, register).big(3, to))
    }

    /// Does what the map says a register's value stands for; goes on if it is not there.
    pub fn verdict_map(self, map: &str, register: u32) -> Self {
        self.map(map, register, 0)
    }

    /// Goes on if connection tracking gives any of these bits.
    pub fn tracked(self, key: u32, bits: u32) -> Self {
        let mask = bits.to_ne_bytes();
        self.expression("ct", |data| data.big(1, REGISTER).big(2, key))
            .masked(&mask)
            .unless(REGISTER, &[0; 4])
    }

    fn masked(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.expression("bitwise", |data| {
            data.big(1, REGISTER)
                .big(2, REGISTER)
                .big(3, length)
                .nest(4, |inner| inner.attribute(1, mask))
                .nest(5, |inner| inner.attribute(1, &vec![0; mask.len()]))
        })
    }

    /// Goes on if the destination is one of this host's addresses.
    pub fn addressed_to_this_host(self) -> Self {
        // FIB_RESULT_ADDRTYPE of the destination; RTN_LOCAL.
        self.expression("fib", |data| data.big(1, REGISTER).big(2, 3).big(3, 2))
            .when(REGISTER, &2u32.to_ne_bytes())
    }

    /// Goes on for packets of one family.
    pub fn family(self, ipv6: bool) -> Self {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        self.meta(META_NFPROTO, REGISTER).when(REGISTER, &[family])
    }

    /// Loads the source address of a packet of this family.
    pub fn source(self, ipv6: bool) -> Self {
        match ipv6 {
            true => self.payload(NETWORK_HEADER, 8, 16, REGISTER),
            false => self.payload(NETWORK_HEADER, 12, 4, REGISTER),
        }
    }

    /// Loads its destination address.
    pub fn destination(self, ipv6: bool) -> Self {
        match ipv6 {
            true => self.payload(NETWORK_HEADER, 24, 16, REGISTER),
            false => self.payload(NETWORK_HEADER, 16, 4, REGISTER),
        }
    }

    /// Goes on if the address that was loaded is a loopback address of its family.
    pub fn when_loopback(self, ipv6: bool) -> Self {
        match ipv6 {
            true => self.when(REGISTER, &std::net::Ipv6Addr::LOCALHOST.octets()),
            false => self.masked(&[255, 0, 0, 0]).when(REGISTER, &[127, 0, 0, 0]),
        }
    }

    /// Changes the destination to the address and port in these registers.
    pub fn change_destination(self, ipv6: bool, address: u32, port: u32) -> Self {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        self.expression("nat", |data| {
            data.big(1, 1)
                .big(2, family.cast_unsigned())
                .big(3, address)
                .big(5, port)
        })
    }

    /// Changes the source to the address of the link that the packet leaves by.
    pub fn masquerade(self) -> Self {
        self.expression("masq", |data| data)
    }

    /// Ends the rule.
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expression("immediate", |data| {
            data.big(1, 0).nest(2, |inner| verdict_data(inner, verdict))
        })
    }
}
