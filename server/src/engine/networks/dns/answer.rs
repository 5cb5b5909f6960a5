//! What a question is answered with (RFC 1035).

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};

use super::zone::Zone;

/// How long an answer may be kept, in seconds.
const TTL: u32 = 600;

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not a question.
    Drop,
    /// This is the answer.
    Answer(Message),
    /// Others are to be asked; the message answers that nobody could be.
    Forward(Message),
}

/// What becomes of a message from a container that may know `zone`. `turn` rotates addresses.
pub fn outcome(bytes: &[u8], zone: &Zone, turn: usize) -> Outcome {
    let Ok(request) = Message::from_vec(bytes) else {
        return Outcome::Drop;
    };
    if request.metadata.message_type != MessageType::Query {
        return Outcome::Drop;
    }
    let code = |code| reply(&request, code, Vec::new());
    if request.metadata.op_code != OpCode::Query {
        return Outcome::Answer(code(ResponseCode::NotImp));
    }
    let [question] = request.queries.as_slice() else {
        return Outcome::Answer(code(ResponseCode::FormErr));
    };
    let (name, kind) = (&question.name, question.query_type);
    let known = match (question.query_class, kind) {
        (DNSClass::IN, RecordType::PTR) => pointer(name, zone),
        (DNSClass::IN, _) => addresses(name, kind, zone, turn),
        _ => None,
    };
    match known {
        Some(records) => Outcome::Answer(reply(&request, ResponseCode::NoError, records)),
        None if zone.leads_out => Outcome::Forward(code(ResponseCode::ServFail)),
        None => Outcome::Answer(code(ResponseCode::NXDomain)),
    }
}

/// An answer as bytes. One that is longer than the asker takes in a datagram is left out, and the asker told to connect.
pub fn to_bytes(message: &Message, most: Option<u16>) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    match most {
        Some(most) if bytes.len() > usize::from(most) => message.truncate().to_vec().ok(),
        _ => Some(bytes),
    }
}

/// The length of a datagram that the asker takes, in bytes.
pub fn longest(bytes: &[u8]) -> u16 {
    Message::from_vec(bytes).map_or(512, |request| request.max_payload())
}

fn reply(request: &Message, code: ResponseCode, answers: Vec<Record>) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&request.queries);
    reply.answers = answers;
    if request.edns.is_some() {
        reply.set_edns(Edns::new());
    }
    reply
}

fn text(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

fn addresses(name: &Name, kind: RecordType, zone: &Zone, turn: usize) -> Option<Vec<Record>> {
    let mut found = zone.addresses(&text(name))?;
    found.retain(|address| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    });
    if !found.is_empty() {
        let count = found.len();
        found.rotate_left(turn % count);
    }
    let record = |address| {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Record::from_rdata(name.clone(), TTL, data)
    };
    Some(found.into_iter().map(record).collect())
}

fn pointer(name: &Name, zone: &Zone) -> Option<Vec<Record>> {
    let net = name.parse_arpa_name().ok()?;
    if net.prefix_len() != net.max_prefix_len() {
        return None;
    }
    let mut target = Name::from_ascii(zone.name_of(net.addr())?).ok()?;
    target.set_fqdn(true);
    Some(vec![Record::from_rdata(
        name.clone(),
        TTL,
        RData::PTR(PTR(target)),
    )])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hickory_proto::op::Query;

    use super::{
        super::{super::state::Endpoint, zone::Alias},
        *,
    };

    fn endpoint(address: &str, names: &[&str]) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            id: String::new(),
            network_id: String::new(),
            network: "back.end".to_owned(),
            container: String::new(),
            interface: String::new(),
            link: String::new(),
            mac: String::new(),
            ipv4: Some(address.parse().unwrap()),
            ipv6: None,
            gateway4: None,
            gateway6: None,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            links: Vec::new(),
            priority: 0,
        })
    }

    fn zone(leads_out: bool) -> Zone {
        Zone {
            endpoints: vec![
                endpoint("10.0.0.2/24", &["one", "web"]),
                endpoint("10.0.0.3/24", &["two", "web"]),
            ],
            aliases: vec![Alias {
                alias: "db".to_owned(),
                name: "two".to_owned(),
                network: "back.end".to_owned(),
            }],
            has_names: true,
            leads_out,
        }
    }

    fn ask(name: &str, kind: RecordType, zone: &Zone, turn: usize) -> Outcome {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        outcome(&message.to_vec().unwrap(), zone, turn)
    }

    fn answers(outcome: &Outcome) -> (ResponseCode, Vec<String>) {
        let Outcome::Answer(message) = outcome else {
            panic!("no answer: {outcome:?}");
        };
        let data = message.answers.iter().map(|record| record.data.to_string());
        (message.metadata.response_code, data.collect())
    }

    #[test]
    fn names_in_any_case_with_and_without_network_and_in_turns() {
        let zone = zone(true);
        let found = |name, kind, turn| answers(&ask(name, kind, &zone, turn));
        let ok = |list: &[&str]| {
            let list = list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            (ResponseCode::NoError, list)
        };
        assert_eq!(found("ONE.", RecordType::A, 0), ok(&["10.0.0.2"]));
        assert_eq!(found("one.Back.END.", RecordType::A, 0), ok(&["10.0.0.2"]));
        assert_eq!(found("web.", RecordType::A, 0), ok(&["10.0.0.2", "10.0.0.3"]));
        assert_eq!(found("web.", RecordType::A, 1), ok(&["10.0.0.3", "10.0.0.2"]));
        assert_eq!(found("one.", RecordType::AAAA, 0), ok(&[]));
        assert_eq!(found("one.", RecordType::TXT, 0), ok(&[]));
        assert_eq!(found("db.", RecordType::A, 0), ok(&["10.0.0.3"]));
        assert_eq!(found("DB.back.end.", RecordType::A, 0), ok(&["10.0.0.3"]));
        assert_eq!(
            found("3.0.0.10.in-addr.arpa.", RecordType::PTR, 0),
            ok(&["two.back.end."])
        );
    }

    #[test]
    fn unknown_names_are_for_others_or_do_not_exist() {
        for name in ["three.", "oneback.end.", "one.elsewhere.", "back.end."] {
            assert!(matches!(
                ask(name, RecordType::A, &zone(true), 0),
                Outcome::Forward(_)
            ));
            assert_eq!(
                answers(&ask(name, RecordType::A, &zone(false), 0)).0,
                ResponseCode::NXDomain
            );
        }
    }

    #[test]
    fn what_is_no_question_is_dropped() {
        assert_eq!(outcome(b"", &zone(true), 0), Outcome::Drop);
        assert_eq!(outcome(&[0xff; 40], &zone(true), 0), Outcome::Drop);
        let response = Message::response(1, OpCode::Query).to_vec().unwrap();
        assert_eq!(outcome(&response, &zone(true), 0), Outcome::Drop);
    }

    #[test]
    fn nearly_good_questions_get_small_answers_or_none() {
        let question = |name: &str, kind| {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            message.set_edns(Edns::new());
            message.to_vec().unwrap()
        };
        let good = [
            question("one.back.end.", RecordType::A),
            question("2.0.0.10.in-addr.arpa.", RecordType::PTR),
            question(
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.",
                RecordType::PTR,
            ),
        ];
        let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
        let zone = zone(true);
        berth_runtime::mutate::mutants("dns", &good, |bytes| {
            let most = longest(bytes).max(512);
            if let Outcome::Answer(message) | Outcome::Forward(message) = outcome(bytes, &zone, 7) {
                let sent = to_bytes(&message, Some(most)).unwrap_or_default();
                assert!(sent.len() <= usize::from(most), "{} bytes", sent.len());
            }
        });
    }
}
