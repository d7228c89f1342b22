//! Answers by table, and the server over loopback sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use api::resources::{ENDPOINT_SLICES, SERVICES};
use api::{Key, Object, Resource};
use base::{Random, Stop, Tasks};
use control::harness::Api;
use control::{Client, Informers};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_server::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::answer::{Answer, Zone, answer};
use super::forward::Forwarder;
use super::index::Index;
use super::server::{Config, Handler, run_and_tell};

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

/// A server on a port of its own that asks `upstream` for what is not the cluster's.
async fn serve(index: Index, upstream: Option<SocketAddr>) -> (SocketAddr, Server<Handler>) {
    let forwarder = match upstream {
        Some(address) => {
            let mut server = NameServerConfig::udp(address.ip());
            let mut connection = ConnectionConfig::udp();
            connection.port = address.port();
            server.connections = vec![connection];
            Forwarder::fixed(ResolverConfig::from_name_servers(vec![server]))
        }
        None => Forwarder::new("/nonexistent/resolv.conf".into(), vec![]),
    };
    let index = Arc::new(RwLock::new(index));
    let mut server = Server::new(Handler { zone: zone(), index, forwarder, turn: AtomicUsize::new(0) });
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = udp.local_addr().unwrap();
    server.register_socket(udp);
    server.register_listener(TcpListener::bind(address).await.unwrap(), Duration::from_secs(5), 16);
    (address, server)
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
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

async fn over_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let question = question(name, kind, None);
    stream.write_u16(question.len() as u16).await.unwrap();
    stream.write_all(&question).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test]
async fn speaks_udp_and_tcp_and_cuts_what_is_too_long() {
    let mut index = index();
    let many: Vec<Value> = (1..=200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    index.apply_slice(&slice("db-y", "db", many.into())).unwrap();
    let (address, mut server) = serve(index, None).await;
    let found = over_udp(address, "web.ns.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!((found.metadata.response_code, found.answers.len()), (ResponseCode::NoError, 1));
    assert!(found.metadata.authoritative && found.metadata.recursion_available);
    let no = over_udp(address, "none.ns.svc.cluster.local.", RecordType::A, Some(1232)).await;
    assert_eq!((no.metadata.response_code, no.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(no.authorities[0].record_type(), RecordType::SOA);
    for payload in [None, Some(4096)] {
        let cut = over_udp(address, "db.ns.svc.cluster.local.", RecordType::A, payload).await;
        assert!(cut.metadata.truncation && cut.answers.len() < 200, "{} records", cut.answers.len());
    }
    let all = over_tcp(address, "db.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!((all.metadata.truncation, all.answers.len()), (false, 202));
    // Nobody to ask.
    let outside = over_udp(address, "example.com.", RecordType::A, None).await;
    assert_eq!(outside.metadata.response_code, ResponseCode::ServFail);
    server.shutdown_gracefully().await.unwrap();
}

/// One server stands in for the world outside: its cluster domain is not known to the other.
#[tokio::test]
async fn asks_others_for_other_names_and_follows_aliases() {
    let (upstream, mut world) = {
        let mut index = Index::default();
        index.apply_service(&service("web", json!({"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1"]}))).unwrap();
        index.services_synced();
        index.slices_synced();
        let index = Arc::new(RwLock::new(index));
        let forwarder = Forwarder::new("/nonexistent".into(), vec![]);
        let zone = Zone::new("world.test").unwrap();
        let mut server = Server::new(Handler { zone, index, forwarder, turn: AtomicUsize::new(0) });
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = udp.local_addr().unwrap();
        server.register_socket(udp);
        (address, server)
    };
    let mut index = index();
    let outside = json!({"type": "ExternalName", "externalName": "web.ns.svc.world.test"});
    index.apply_service(&service("out", outside)).unwrap();
    index
        .apply_service(&service(
            "circle",
            json!({"type": "ExternalName", "externalName": "circle.ns.svc.cluster.local"}),
        ))
        .unwrap();
    let (address, mut server) = serve(index, Some(upstream)).await;
    for (name, code, answers) in [
        ("web.ns.svc.world.test.", ResponseCode::NoError, vec!["192.0.2.1"]),
        ("none.ns.svc.world.test.", ResponseCode::NXDomain, vec![]),
        ("out.ns.svc.cluster.local.", ResponseCode::NoError, vec!["web.ns.svc.world.test.", "192.0.2.1"]),
        ("in.ns.svc.cluster.local.", ResponseCode::NoError, vec!["web.ns.svc.cluster.local.", "10.43.0.7"]),
        ("circle.ns.svc.cluster.local.", ResponseCode::ServFail, vec![]),
    ] {
        let found = over_udp(address, name, RecordType::A, None).await;
        let texts: Vec<String> = found.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(
            (found.metadata.response_code, texts),
            (code, answers.into_iter().map(str::to_owned).collect()),
            "{name}"
        );
    }
    server.shutdown_gracefully().await.unwrap();
    world.shutdown_gracefully().await.unwrap();
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
