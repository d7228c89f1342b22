//! Answers by table, and the server over loopback sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::resources::{ENDPOINT_SLICES, SERVICES};
use api::{Key, Object, Resource};
use base::{Random, Stop, Tasks};
use control::harness::Api;
use control::{Client, Informers};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::answer::{Answer, Zone, answer};
use super::cache::Cache;
use super::forward::Forwarder;
use super::index::Index;
use super::respond::{Outcome, Responder, Via};
use super::server::{Config, Server, run_and_tell};
use super::wire::{Age, Body, Question};

fn object(resource: &Resource, value: &Value) -> Object {
    Object::parse(resource, value.to_string().into_bytes().into()).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "tables read better without borrows")]
fn service(name: &str, spec: Value) -> Object {
    object(SERVICES, &json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}))
}

#[expect(clippy::needless_pass_by_value, reason = "tables read better without borrows")]
fn slice(name: &str, of: &str, endpoints: Value) -> Object {
    let labels = json!({"kubernetes.io/service-name": of});
    object(
        ENDPOINT_SLICES,
        &json!({"metadata": {"name": name, "namespace": "ns", "labels": labels}, "addressType": "IPv4",
            "endpoints": endpoints, "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]}),
    )
}

/// One service of each sort.
fn index() -> Index {
    let mut index = Index::default();
    let http = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    for service in [
        service("web", json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": http})),
        service("db", json!({"clusterIP": "None", "ports": http})),
        service("eager", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
        service("empty", json!({"clusterIP": "None"})),
        service("out", json!({"type": "ExternalName", "externalName": "example.com"})),
        service("in", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
    ] {
        index.apply_service(&service).unwrap();
    }
    let endpoints = json!([{"addresses": ["10.42.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.0.3"], "hostname": "db-2", "conditions": {"ready": false}}]);
    index.apply_slice(&slice("db-x", "db", endpoints.clone())).unwrap();
    index.apply_slice(&slice("eager-x", "eager", endpoints)).unwrap();
    index.apply_slice(&slice("web-x", "web", json!([{"addresses": ["10.42.0.9"]}]))).unwrap();
    index.services_synced();
    index.slices_synced();
    index
}

fn zone() -> Zone {
    Zone::new("cluster.local").unwrap()
}

/// An answer as text: the records' data, sorted, additional ones after a bar.
fn ask(index: &Index, name: &str, kind: RecordType) -> String {
    let data = |records: &[Record]| {
        let mut texts: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
        texts.sort();
        texts.join(" ")
    };
    match answer(index, &zone(), &Name::from_str(name).unwrap(), kind) {
        Answer::Records { answers, additionals } if additionals.is_empty() => data(&answers),
        Answer::Records { answers, additionals } => format!("{} | {}", data(&answers), data(&additionals)),
        Answer::Alias { target, .. } => format!("-> {target}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn answers_as_the_specification_says() {
    use RecordType::{A, AAAA, CNAME, MX, PTR, SRV, TXT};
    let index = index();
    for (name, kind, expected) in [
        ("web.ns.svc.cluster.local.", A, "10.43.0.7"),
        ("WEB.Ns.svc.Cluster.LOCAL.", A, "10.43.0.7"),
        ("web.ns.svc.cluster.local.", AAAA, "NoData"),
        ("web.ns.svc.cluster.local.", MX, "NoData"),
        ("none.ns.svc.cluster.local.", A, "NoName"),
        ("web.other.svc.cluster.local.", A, "NoName"),
        ("db.ns.svc.cluster.local.", A, "10.42.0.1 10.42.0.2"),
        ("eager.ns.svc.cluster.local.", A, "10.42.0.1 10.42.0.2 10.42.0.3"),
        ("empty.ns.svc.cluster.local.", A, "NoData"),
        ("db-0.db.ns.svc.cluster.local.", A, "10.42.0.1"),
        ("db-0.db.ns.svc.cluster.local.", AAAA, "NoData"),
        ("10-42-0-2.db.ns.svc.cluster.local.", A, "10.42.0.2"),
        ("db-2.db.ns.svc.cluster.local.", A, "NoName"),
        ("db-2.eager.ns.svc.cluster.local.", A, "10.42.0.3"),
        ("_http._tcp.web.ns.svc.cluster.local.", SRV, "0 100 80 web.ns.svc.cluster.local. | 10.43.0.7"),
        ("_http._udp.web.ns.svc.cluster.local.", SRV, "NoName"),
        ("_http._tcp.web.ns.svc.cluster.local.", A, "NoData"),
        ("_tcp.web.ns.svc.cluster.local.", SRV, "NoData"),
        (
            "_http._tcp.db.ns.svc.cluster.local.",
            SRV,
            "0 50 8080 10-42-0-2.db.ns.svc.cluster.local. 0 50 8080 db-0.db.ns.svc.cluster.local. | 10.42.0.1 10.42.0.2",
        ),
        ("out.ns.svc.cluster.local.", A, "-> example.com."),
        ("out.ns.svc.cluster.local.", CNAME, "-> example.com."),
        ("7.0.43.10.in-addr.arpa.", PTR, "web.ns.svc.cluster.local."),
        ("1.0.42.10.in-addr.arpa.", PTR, "db-0.db.ns.svc.cluster.local. db-0.eager.ns.svc.cluster.local."),
        ("9.0.42.10.in-addr.arpa.", PTR, "NotOurs"),
        ("8.8.8.8.in-addr.arpa.", PTR, "NotOurs"),
        ("10-42-0-7.any.pod.cluster.local.", A, "10.42.0.7"),
        ("10-42-0-7.any.pod.cluster.local.", AAAA, "NoData"),
        ("fd00--1.any.pod.cluster.local.", AAAA, "fd00::1"),
        ("hello.any.pod.cluster.local.", A, "NoName"),
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("cluster.local.", A, "NoData"),
        ("svc.cluster.local.", A, "NoData"),
        ("ns.svc.cluster.local.", A, "NoData"),
        ("nope.svc.cluster.local.", A, "NoName"),
        ("example.com.", A, "NotOurs"),
        ("example.com.ns.svc.cluster.local.", A, "NoName"),
    ] {
        assert_eq!(ask(&index, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn follows_changes_and_forgets_what_is_gone() {
    let mut index = index();
    let serial = index.serial();
    index.apply_service(&service("web", json!({"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8"]}))).unwrap();
    assert_ne!(index.serial(), serial);
    assert_eq!(ask(&index, "web.ns.svc.cluster.local.", RecordType::A), "10.43.0.8");
    assert_eq!(ask(&index, "7.0.43.10.in-addr.arpa.", RecordType::PTR), "NotOurs");
    index.apply_slice(&slice("db-x", "db", json!([{"addresses": ["10.42.0.5"]}]))).unwrap();
    assert_eq!(ask(&index, "db.ns.svc.cluster.local.", RecordType::A), "10.42.0.5");
    assert_eq!(ask(&index, "1.0.42.10.in-addr.arpa.", RecordType::PTR), "db-0.eager.ns.svc.cluster.local.");
    index.remove_slice(&Key::new("ns", "db-x"));
    assert_eq!(ask(&index, "db.ns.svc.cluster.local.", RecordType::A), "NoData");
    for name in ["web", "db", "eager", "empty", "out", "in"] {
        index.remove_service(&Key::new("ns", name));
    }
    assert_eq!(ask(&index, "ns.svc.cluster.local.", RecordType::A), "NoName");
}

#[test]
fn says_nothing_wrong_before_it_knows() {
    assert_eq!(ask(&Index::default(), "web.ns.svc.cluster.local.", RecordType::A), "NotReady");
}

/// A server on a port of its own that asks `upstreams` for what is not the cluster's.
struct Serving {
    address: SocketAddr,
    tasks: Tasks,
    stop: Stop,
}

impl Serving {
    async fn start(zone: Zone, index: Index, upstreams: Vec<SocketAddr>) -> Self {
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        Self::at(address, zone, index, upstreams).await
    }

    async fn at(address: SocketAddr, zone: Zone, index: Index, upstreams: Vec<SocketAddr>) -> Self {
        let (tasks, stop) = (Tasks::new("test"), Stop::new());
        let forwarder = Forwarder::fixed(upstreams, tasks.clone(), stop.clone());
        let server = Arc::new(Server { responder: Responder::new(zone, index), forwarder });
        let address = server.listen(address, &tasks, &stop).await.unwrap();
        Self { address, tasks, stop }
    }

    async fn end(self) {
        self.stop.stop();
        self.tasks.join().await;
    }
}

/// A name server of the world outside, over UDP, that does as it is told and counts the questions.
struct Outside {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Outside {
    async fn start(answer: impl Fn(&mut Message) -> bool + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        // Ends with the test's runtime.
        Tasks::new("outside").spawn("name server", async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let mut message = Message::from_vec(&buffer[..length]).unwrap();
                if message.queries[0].query_type() == RecordType::HINFO {
                    continue;
                }
                count.fetch_add(1, Ordering::Relaxed);
                message.metadata.message_type = MessageType::Response;
                if answer(&mut message) {
                    socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    async fn knows(address: [u8; 4]) -> Self {
        Self::start(move |message| {
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, 60, RData::A(Ipv4Addr::from(address).into())));
            true
        })
        .await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

async fn over_udp(server: SocketAddr, name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(&question(name, kind, payload), server).await.unwrap();
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
    Message::from_vec(&buffer[..received.expect("an answer in time").unwrap()]).unwrap()
}

async fn next_over_tcp(stream: &mut TcpStream) -> Message {
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

async fn over_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let question = question(name, kind, None);
    stream.write_u16(question.len() as u16).await.unwrap();
    stream.write_all(&question).await.unwrap();
    next_over_tcp(&mut stream).await
}

fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// The index with 202 endpoints of `db`.
fn large_index() -> Index {
    let mut index = index();
    let many: Vec<Value> = (1..=200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    index.apply_slice(&slice("db-y", "db", many.into())).unwrap();
    index
}

#[tokio::test]
async fn speaks_udp_and_tcp_and_cuts_what_is_too_long() {
    let serving = Serving::start(zone(), large_index(), vec![]).await;
    let address = serving.address;
    let found = over_udp(address, "web.ns.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!((found.metadata.response_code, found.answers.len()), (ResponseCode::NoError, 1));
    assert!(found.metadata.authoritative && found.metadata.recursion_available && found.edns.is_none());
    let no = over_udp(address, "none.ns.svc.cluster.local.", RecordType::A, Some(1232)).await;
    assert_eq!((no.metadata.response_code, no.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(no.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(no.edns.map(|edns| edns.max_payload()), Some(1232));
    for (payload, fit) in [(None, 29), (Some(100), 28), (Some(4096), 73)] {
        let cut = over_udp(address, "db.ns.svc.cluster.local.", RecordType::A, payload).await;
        assert_eq!((cut.metadata.truncation, cut.answers.len()), (true, fit));
    }
    let all = over_tcp(address, "db.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!((all.metadata.truncation, all.answers.len()), (false, 202));
    // The first address is another one each time.
    let first = over_tcp(address, "db.ns.svc.cluster.local.", RecordType::A).await.answers[0].data.to_string();
    assert_ne!(first, all.answers[0].data.to_string());
    // Nobody to ask.
    let outside = over_udp(address, "example.com.", RecordType::A, None).await;
    assert_eq!(outside.metadata.response_code, ResponseCode::ServFail);
    serving.end().await;
}

/// What comes out of a responder for these bytes: code, id and question.
fn respond(message: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    match Responder::new(zone(), index()).respond(message, Via::Udp, &mut out) {
        Outcome::Answered => {
            assert_eq!(out[..2], message[..2], "the id");
            Some((u16::from(out[3] & 0xf), out))
        }
        Outcome::Nothing => None,
        Outcome::Ask(_) => Some((99, out)),
    }
}

#[test]
fn refuses_what_no_client_of_a_cluster_asks() {
    let name = "web.ns.svc.cluster.local.";
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = question(name, RecordType::A, Some(1232));
        change(&mut message);
        respond(&message).map(|(code, _)| code)
    };
    assert_eq!(with(&|_| ()), Some(0));
    for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(respond(&question(name, kind, None)).map(|(code, _)| code), Some(5), "{kind}");
    }
    let class_at = 12 + name.len() + 1 + 3;
    assert_eq!(with(&|message| message[class_at] = 3), Some(5), "CHAOS");
    assert_eq!(with(&|message| message[2] |= 0x28), Some(4), "an update");
    assert_eq!(with(&|message| message[2] |= 0x80), None, "an answer");
    assert_eq!(with(&|message| message[5] = 2), Some(1), "two questions");
    assert_eq!(with(&|message| message[5] = 0), Some(1), "no question");
    assert_eq!(with(&|message| message[12] = 0xc0), Some(1), "a name that points");
    assert_eq!(with(&|message| message.truncate(20)), Some(1), "a part");
    assert_eq!(with(&|message| message.truncate(11)), None, "no header");
    let version_at = class_at + 1 + 6;
    let versions = respond(&{
        let mut message = question(name, RecordType::A, Some(1232));
        message[version_at] = 1;
        message
    });
    let versions = Message::from_vec(&versions.unwrap().1).unwrap();
    assert_eq!(u16::from(versions.metadata.response_code), 16);
}

/// Clients that mix cases to tell forged answers get their question back as it was, also from what was kept.
#[test]
fn the_question_comes_back_as_it_was_written() {
    let responder = Responder::new(zone(), index());
    for name in ["web.ns.svc.cluster.local.", "wEb.nS.SVC.cluster.LOCAL.", "WEB.ns.svc.cluster.local."] {
        let (mut out, asked) = (Vec::new(), question(name, RecordType::A, None));
        assert_eq!(responder.respond(&asked, Via::Udp, &mut out), Outcome::Answered);
        assert_eq!(out[12..asked.len()], asked[12..], "{name}");
        assert_eq!(texts(&Message::from_vec(&out).unwrap()), ["10.43.0.7"]);
    }
}

#[test]
fn what_is_kept_goes_when_the_index_changes() {
    let responder = Responder::new(zone(), index());
    let ask = || {
        let mut out = Vec::new();
        responder.respond(&question("web.ns.svc.cluster.local.", RecordType::A, None), Via::Udp, &mut out);
        texts(&Message::from_vec(&out).unwrap())
    };
    assert_eq!((ask(), ask()), (vec!["10.43.0.7".to_owned()], vec!["10.43.0.7".to_owned()]));
    let moved = service("web", json!({"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8"]}));
    responder.index_mut().apply_service(&moved).unwrap();
    assert_eq!(ask(), ["10.43.0.8"]);
}

/// One server stands in for the world outside: its cluster domain is not known to the other.
#[tokio::test]
async fn asks_others_for_other_names_and_follows_aliases() {
    let mut outside = Index::default();
    outside.apply_service(&service("web", json!({"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1"]}))).unwrap();
    outside.services_synced();
    outside.slices_synced();
    let world = Serving::start(Zone::new("world.test").unwrap(), outside, vec![]).await;
    let mut index = index();
    for (name, target) in [("out", "web.ns.svc.world.test"), ("circle", "circle.ns.svc.cluster.local")] {
        index.apply_service(&service(name, json!({"type": "ExternalName", "externalName": target}))).unwrap();
    }
    let serving = Serving::start(zone(), index, vec![world.address]).await;
    for (name, code, answers) in [
        ("web.ns.svc.world.test.", ResponseCode::NoError, vec!["192.0.2.1"]),
        ("none.ns.svc.world.test.", ResponseCode::NXDomain, vec![]),
        ("out.ns.svc.cluster.local.", ResponseCode::NoError, vec!["web.ns.svc.world.test.", "192.0.2.1"]),
        ("in.ns.svc.cluster.local.", ResponseCode::NoError, vec!["web.ns.svc.cluster.local.", "10.43.0.7"]),
        ("circle.ns.svc.cluster.local.", ResponseCode::ServFail, vec![]),
    ] {
        let found = over_udp(serving.address, name, RecordType::A, None).await;
        let expected: Vec<String> = answers.into_iter().map(str::to_owned).collect();
        assert_eq!((found.metadata.response_code, texts(&found)), (code, expected), "{name}");
    }
    let no = over_udp(serving.address, "none.ns.svc.world.test.", RecordType::A, None).await;
    assert_eq!((no.authorities.len(), no.metadata.authoritative), (1, false), "the SOA record of those who know");
    serving.end().await;
    world.end().await;
}

#[tokio::test]
async fn what_does_not_fit_is_asked_for_again_over_tcp() {
    let world = Serving::start(Zone::new("world.test").unwrap(), large_index(), vec![]).await;
    let serving = Serving::start(zone(), index(), vec![world.address]).await;
    let all = over_tcp(serving.address, "db.ns.svc.world.test.", RecordType::A).await;
    assert_eq!((all.metadata.truncation, all.answers.len()), (false, 202));
    serving.end().await;
    world.end().await;
}

#[tokio::test]
async fn many_who_ask_the_same_cost_one_question_and_later_ones_none() {
    let outside = Outside::knows([192, 0, 2, 7]).await;
    let serving = Serving::start(zone(), index(), vec![outside.address]).await;
    let asking = (0..20).map(|_| over_udp(serving.address, "Example.com.", RecordType::A, None));
    for found in futures::future::join_all(asking).await {
        assert_eq!(texts(&found), ["192.0.2.7"]);
    }
    let again = over_tcp(serving.address, "example.COM.", RecordType::A).await;
    assert_eq!((texts(&again), outside.asked()), (vec!["192.0.2.7".to_owned()], 1));
    serving.end().await;
}

#[tokio::test]
async fn a_server_that_fails_is_followed_by_the_next() {
    let silent = Outside::start(|_| false).await;
    let failing = Outside::start(|message| {
        message.metadata.response_code = ResponseCode::ServFail;
        true
    })
    .await;
    let forged = Outside::start(|message| {
        message.metadata.id = message.metadata.id.wrapping_add(1);
        true
    })
    .await;
    let good = Outside::knows([192, 0, 2, 8]).await;
    let upstreams = vec![silent.address, failing.address, forged.address, good.address];
    let serving = Serving::start(zone(), index(), upstreams).await;
    for name in ["a.example.", "b.example."] {
        assert_eq!(texts(&over_udp(serving.address, name, RecordType::A, None).await), ["192.0.2.8"]);
    }
    assert_eq!((silent.asked(), failing.asked(), forged.asked()), (1, 2, 1), "those that did not answer come last");
    serving.end().await;
}

/// A name server in resolv.conf that asks this one, as a machine's own resolver may.
#[tokio::test]
async fn a_server_that_asks_back_is_left_out() {
    let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let good = Outside::knows([192, 0, 2, 9]).await;
    let serving = Serving::at(address, zone(), index(), vec![address, good.address]).await;
    for name in ["a.example.", "b.example."] {
        assert_eq!(texts(&over_udp(address, name, RecordType::A, None).await), ["192.0.2.9"]);
    }
    serving.end().await;
}

#[tokio::test]
async fn questions_in_a_row_are_answered_as_their_answers_come_and_connections_are_counted() {
    let slow = Outside::start(|message| message.queries[0].name().to_string() != "slow.example.").await;
    let serving = Serving::start(zone(), index(), vec![slow.address]).await;
    let mut stream = TcpStream::connect(serving.address).await.unwrap();
    let mut bytes = Vec::new();
    for (id, name) in ["slow.example.", "web.ns.svc.cluster.local.", "quick.example."].into_iter().enumerate() {
        let mut question = question(name, RecordType::A, None);
        question[..2].copy_from_slice(&[0, id as u8]);
        bytes.extend_from_slice(&(question.len() as u16).to_be_bytes());
        bytes.extend(question);
    }
    // In pieces, as a network may.
    for piece in bytes.chunks(7) {
        stream.write_all(piece).await.unwrap();
    }
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(next_over_tcp(&mut stream).await.metadata.id);
    }
    assert_eq!(ids, [1, 2]);
    let mut others = Vec::new();
    for _ in 0..63 {
        others.push(TcpStream::connect(serving.address).await.unwrap());
    }
    let mut one_too_many = TcpStream::connect(serving.address).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(10), one_too_many.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    serving.end().await;
}

#[tokio::test]
async fn answers_are_remembered_as_long_as_they_say() {
    let body = |code: ResponseCode, ttl: Option<u32>| {
        let name = Name::from_str("a.example.").unwrap();
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.metadata.response_code = code;
        match (code, ttl) {
            (ResponseCode::NoError, Some(ttl)) => {
                message.add_answer(Record::from_rdata(name, ttl, RData::A(Ipv4Addr::new(192, 0, 2, 1).into())));
            }
            (_, Some(ttl)) => {
                message.add_authority(Record::from_rdata(
                    name.clone(),
                    900,
                    RData::SOA(SOA::new(name.clone(), name, 1, 1, 1, 1, ttl)),
                ));
            }
            _ => {}
        }
        let bytes = message.to_vec().unwrap();
        let asked = &question("a.example.", RecordType::A, None)[12..];
        Arc::new(Body::read(&bytes, asked).unwrap())
    };
    use ResponseCode::{NXDomain, NoError, Refused, ServFail};
    let (now, seconds) = (tokio::time::Instant::now(), Duration::from_secs);
    for (code, ttl, at, expected) in [
        (NoError, Some(60), 59, Some(Age::Seconds(59))),
        (NoError, Some(60), 60, None),
        (NoError, Some(90_000), 3599, Some(Age::Seconds(3599))),
        (NoError, Some(90_000), 3600, None),
        (NoError, None, 0, None),
        (NXDomain, Some(30), 29, Some(Age::Seconds(29))),
        (NXDomain, Some(30), 30, None),
        (NXDomain, None, 0, None),
        (Refused, None, 0, None),
        (ServFail, None, 4, Some(Age::Seconds(4))),
        (ServFail, None, 5, None),
    ] {
        let mut cache = Cache::default();
        cache.put(b"a", body(code, ttl), now);
        assert_eq!(cache.get(b"a", now + seconds(at)).map(|(_, age)| age), expected, "{code} {ttl:?} after {at} s");
    }
    // An old answer stands in for one that cannot be had, for an hour.
    let mut cache = Cache::default();
    let (good, failure) = (body(NoError, Some(60)), body(ServFail, None));
    cache.put(b"a", good.clone(), now);
    let later = now + seconds(100);
    assert_eq!(cache.put(b"a", failure.clone(), later), (good.clone(), Age::Stale(30)));
    assert_eq!(cache.get(b"a", later + seconds(4)), Some((good, Age::Stale(30))));
    assert_eq!(cache.get(b"a", later + seconds(5)), None, "somebody asks again");
    assert_eq!(cache.put(b"a", failure.clone(), now + seconds(3661)), (failure, Age::Original));
    // However many there are.
    for number in 0..10_000u32 {
        cache.put(&number.to_be_bytes(), body(NoError, Some(60)), now);
    }
    assert_eq!(cache.len(), 4096);
}

/// A service that is made while the server runs is answered for, once the watch has brought it.
#[tokio::test]
async fn follows_the_api_while_it_runs() {
    let api = Api::new(Random::from_seed(1));
    let (tasks, stop) = (Tasks::new("test"), Stop::new());
    let informers = Informers::new(Client::new(api.transport(), "dns"), tasks.clone(), stop.clone());
    let config = Config {
        listeners: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        domain: "cluster.local".to_owned(),
        informers,
        resolv_conf: "/nonexistent/resolv.conf".into(),
    };
    let (told, address) = tokio::sync::oneshot::channel();
    let stopped = stop.clone();
    tasks.spawn("dns", async move {
        run_and_tell(config, stopped, |bound| told.send(bound[0]).unwrap()).await.unwrap();
    });
    let address = address.await.unwrap();
    api.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"]}}));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let found = over_udp(address, "web.ns.svc.cluster.local.", RecordType::A, None).await;
        if found.answers.first().is_some_and(|record| record.data.to_string() == "10.43.0.7") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found:?}");
        tokio::task::yield_now().await;
    }
    stop.stop();
    tasks.join().await;
}

/// A question, some of whose bytes are others.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        "web.ns.svc.cluster.local.",
        "_http._tcp.db.ns.svc.cluster.local.",
        "db.ns.svc.cluster.local.",
        "7.0.43.10.in-addr.arpa.",
        "example.com.",
        ".",
    ]);
    let kinds = prop::sample::select(vec![RecordType::A, RecordType::SRV, RecordType::PTR, RecordType::SOA]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (names, kinds, prop::option::of(any::<u16>()), changes, any::<prop::sample::Index>()).prop_map(
        |(name, kind, payload, changes, end)| {
            let mut message = question(name, kind, payload);
            for (at, byte) in changes {
                let at = at.index(message.len());
                message[at] = byte;
            }
            if end.index(4) == 0 {
                message.truncate(end.index(message.len()));
            }
            message
        },
    )
}

proptest! {
    #[test]
    fn every_answer_has_its_id_and_question_and_fits(message in any_message()) {
        let responder = Responder::new(zone(), large_index());
        for (via, limit) in [(Via::Udp, 1232), (Via::Tcp, 65_535)] {
            let mut out = Vec::new();
            if responder.respond(&message, via, &mut out) == Outcome::Answered {
                prop_assert!(out.len() >= 12 && out.len() <= limit);
                prop_assert_eq!(&out[..2], &message[..2]);
                if let Ok(question) = Question::read(&message) {
                    prop_assert_eq!(&out[12..12 + question.raw.len()], question.raw);
                    prop_assert!(Body::read(&out, question.raw).is_some());
                    prop_assert!(Message::from_vec(&out).is_ok());
                }
            }
        }
    }
}
