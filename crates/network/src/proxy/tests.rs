//! The service proxy against the fake kernel, which is as strict as the real one about what exists and what is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::Key;
use control::{Client, harness::Api};
use linux::net::nft::{Change, Contents};
use linux::net::{FakeNet, Net};
use proptest::prelude::*;

use super::rules::{Backend, Frontend, Layout, Refusal, Rules};
use super::services::{Endpoint, Place, Port, Service, Slice, targets};
use super::*;

const NODE: &str = "node-1";

fn layout() -> Layout {
    Layout {
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        cluster_dns: Some(Ipv4Addr::new(10, 43, 0, 10)),
        node_port_addresses: vec![],
    }
}

fn proxy(net: &FakeNet) -> Proxy {
    Proxy::with(Arc::new(net.clone()), layout(), NODE)
}

fn key(number: u8) -> Key {
    Key::new("default", format!("web-{number}"))
}

fn service(number: u8) -> Service {
    let port = |name: &str, protocol, node_port| Port { name: name.to_owned(), protocol, port: 80, node_port };
    Service {
        cluster_ips: vec![Ipv4Addr::new(10, 43, 0, number)],
        ports: vec![port("http", 6, Some(30_000 + u16::from(number))), port("dns", 17, None)],
        ..Service::default()
    }
}

fn endpoint(number: u8) -> Endpoint {
    let address = Ipv4Addr::new(10, 42, 0, number);
    Endpoint { address, ready: true, ending: false, node: Some(NODE.to_owned()), for_nodes: None, for_zones: None }
}

fn slice(endpoints: impl IntoIterator<Item = Endpoint>) -> Slice {
    let ports = vec![("http".to_owned(), 6, 8080), ("dns".to_owned(), 17, 53)];
    Slice { ports, endpoints: endpoints.into_iter().collect() }
}

/// What a step of the model test does.
#[derive(Debug, Clone)]
enum Step {
    Service(u8, Option<Service>),
    Slice(u8, u8, Option<Slice>),
    /// The node's zone is another.
    Zone(Option<&'static str>),
    /// Everything so far, in one transaction.
    Apply,
    /// The process ends and starts again.
    Restart,
    /// Someone else removes the table.
    Lose,
}

/// Ports of all protocols, some at the same number on the nodes: services compete for it, or for an external address.
fn any_ports() -> impl Strategy<Value = Vec<Port>> {
    let name = prop::sample::select(vec!["http", "dns", ""]);
    let protocol = prop::sample::select(vec![6u8, 17, 132]);
    let port = (name, protocol, 80u16..82, prop::option::of(30_001u16..30_004))
        .prop_map(|(name, protocol, port, node_port)| Port { name: name.to_owned(), protocol, port, node_port });
    prop::collection::vec(port, 0..4)
}

fn any_service() -> impl Strategy<Value = Service> {
    let addresses = |third: u8, most: u8| {
        let last = prop::collection::btree_set(0..most, 0..usize::from(most));
        last.prop_map(move |last| last.into_iter().map(|last| Ipv4Addr::new(192, 0, third, last)).collect::<Vec<_>>())
    };
    let policies = (any::<bool>(), any::<bool>(), prop::option::of(1u32..3), prop::option::of(31_000u16..31_002));
    let ranges = prop::collection::btree_set(0u8..3, 0..3);
    (1u8..4, 1u8..3, any_ports(), policies, addresses(2, 3), addresses(3, 3), ranges).prop_map(
        |(number, cluster_ips, ports, policies, external_ips, balancer_ips, ranges)| {
            let (internal_local, external_local, affinity_seconds, health_check_node_port) = policies;
            Service {
                cluster_ips: (0..cluster_ips).map(|third| Ipv4Addr::new(10, 43, third, number)).collect(),
                external_ips,
                balancer_ips,
                source_ranges: ranges
                    .into_iter()
                    .map(|third| Ipv4Net::new_assert(Ipv4Addr::new(172, 16, third, 0), 24))
                    .collect(),
                health_check_node_port,
                ports,
                internal_local,
                external_local,
                affinity_seconds,
            }
        },
    )
}

fn any_slice() -> impl Strategy<Value = Slice> {
    let hints = |places: &'static [&'static str]| {
        let some = prop::sample::subsequence(places, 0..=places.len());
        prop::option::weighted(0.7, some)
            .prop_map(|places| Some(places?.iter().map(|place| (*place).to_owned()).collect()))
    };
    let node = prop::sample::select(vec![Some(NODE), Some("node-2"), None]);
    let endpoint = (1u8..9, any::<bool>(), any::<bool>(), node, hints(&[NODE, "node-2"]), hints(&["a", "b"])).prop_map(
        |(number, ready, ending, node, for_nodes, for_zones)| Endpoint {
            ready,
            ending,
            node: node.map(str::to_owned),
            for_nodes,
            for_zones,
            ..endpoint(number)
        },
    );
    let ports =
        prop::sample::subsequence(vec![("http", 6, 8080), ("dns", 17, 53), ("", 132, 81), ("http", 132, 82)], 0..=4);
    (prop::collection::vec(endpoint, 0..6), ports).prop_map(|(endpoints, ports)| Slice {
        ports: ports.into_iter().map(|(name, protocol, port)| (name.to_owned(), protocol, port)).collect(),
        endpoints,
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u8..4, prop::option::weighted(0.8, any_service())).prop_map(|(number, service)| Step::Service(number, service)),
        6 => (1u8..4, 1u8..3, prop::option::weighted(0.8, any_slice()))
            .prop_map(|(service, number, slice)| Step::Slice(service, number, slice)),
        6 => Just(Step::Apply),
        1 => prop::option::of(prop::sample::select(vec!["a", "b"])).prop_map(Step::Zone),
        1 => Just(Step::Restart),
        1 => Just(Step::Lose),
    ]
}

/// The objects as they are, to start a proxy from nothing.
#[derive(Default)]
struct World {
    services: BTreeMap<u8, Service>,
    slices: BTreeMap<(u8, u8), Slice>,
    zone: Option<&'static str>,
}

impl World {
    fn tell(&self, proxy: &mut Proxy) {
        proxy.set_zone(self.zone.map(str::to_owned));
        for (number, service) in &self.services {
            proxy.set_service(&key(*number), Some(service.clone()));
        }
        for ((service, number), slice) in &self.slices {
            let slice_key = Key::new("default", format!("web-{service}-{number}"));
            proxy.set_slice(&slice_key, Some((key(*service), slice.clone())));
        }
    }
}

/// Contents with endpoints in no order: which endpoint has which number depends on history.
fn unordered(net: &FakeNet) -> (BTreeSet<String>, BTreeMap<String, BTreeSet<String>>) {
    let table = net.state().tables.remove(TABLE).unwrap_or_default();
    let mut sets = BTreeMap::new();
    for (name, (_, elements)) in table.sets {
        let numbered = name.ends_with("endpoints") && !name.starts_with("affinity");
        let element = |(key, value): (Vec<u8>, _)| match numbered {
            true => format!("{:?} {value:?}", &key[..key.len() - 4]),
            false => format!("{key:?} {value:?}"),
        };
        sets.insert(name, elements.into_iter().map(element).collect());
    }
    (table.chains.into_keys().collect(), sets)
}

async fn check(steps: Vec<Step>) {
    let (net, mut world) = (FakeNet::new(), World::default());
    let mut proxy = proxy(&net);
    for step in steps.into_iter().chain([Step::Apply]) {
        match step {
            Step::Service(number, service) => {
                proxy.set_service(&key(number), service.clone());
                match service {
                    Some(service) => world.services.insert(number, service),
                    None => world.services.remove(&number),
                };
            }
            Step::Slice(service, number, slice) => {
                let slice_key = Key::new("default", format!("web-{service}-{number}"));
                proxy.set_slice(&slice_key, slice.clone().map(|slice| (key(service), slice)));
                match slice {
                    Some(slice) => world.slices.insert((service, number), slice),
                    None => world.slices.remove(&(service, number)),
                };
            }
            Step::Zone(zone) => {
                proxy.set_zone(zone.map(str::to_owned));
                world.zone = zone;
            }
            Step::Lose => {
                net.with(|state| state.tables.clear());
                // Noticed by the next change that fails, then repaired from what the kernel has.
                if proxy.apply().await.is_err() {
                    proxy.apply().await.unwrap();
                }
                proxy.rules = None;
            }
            Step::Restart => {
                proxy = self::proxy(&net);
                world.tell(&mut proxy);
            }
            Step::Apply => {
                proxy.apply().await.unwrap();
                let rules = proxy.rules.as_ref().unwrap();
                let contents = net.table(TABLE).await.unwrap().unwrap();
                assert_eq!(contents, Contents { chains: rules.chains(&layout()), sets: rules.elements() });

                let from_nothing = FakeNet::new();
                let mut fresh = self::proxy(&from_nothing);
                world.tell(&mut fresh);
                fresh.apply().await.unwrap();
                assert_eq!(unordered(&net), unordered(&from_nothing));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn rules_by_difference_equal_rules_from_nothing(steps in prop::collection::vec(any_step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(steps));
    }
}

#[tokio::test]
async fn a_changed_endpoint_changes_few_elements_whatever_the_number_of_endpoints() {
    let net = FakeNet::new();
    let mut proxy = proxy(&net);
    proxy.set_service(&key(1), Some(service(1)));
    let slice_key = Key::new("default", "web-1-1");
    let set = |proxy: &mut Proxy, endpoints: Vec<Endpoint>| {
        proxy.set_slice(&slice_key, Some((key(1), slice(endpoints))));
    };
    set(&mut proxy, (1..201).map(endpoint).collect());
    proxy.apply().await.unwrap();
    for (endpoints, story) in [
        ((1..202).map(endpoint).collect::<Vec<_>>(), "one more"),
        ((2..202).map(endpoint).collect(), "the first less"),
        ((3..203).map(endpoint).collect(), "one for another"),
    ] {
        let before = net.state().commits;
        set(&mut proxy, endpoints);
        proxy.apply().await.unwrap();
        let after = net.state().commits;
        // Three frontends: at most verdict (2), last number (1) and a replaced number (2) each; and two hairpin addresses.
        assert!(after.1 - before.1 <= 3 * 5 + 2, "{story}: {} elements", after.1 - before.1);
        assert_eq!(after.0 - before.0, 1, "{story}: one transaction");
    }
    let before = net.state().commits;
    proxy.apply().await.unwrap();
    assert_eq!(net.state().commits.1, before.1, "nothing changed, so nothing is written");
}

#[tokio::test]
async fn a_restart_changes_nothing_that_is_right() {
    let net = FakeNet::new();
    let mut world = World::default();
    world.services.insert(1, service(1));
    world.slices.insert((1, 1), slice((1..9).map(endpoint)));
    for restart in [false, true] {
        let before = net.state().commits.1;
        let mut proxy = proxy(&net);
        world.tell(&mut proxy);
        proxy.apply().await.unwrap();
        assert_eq!(net.state().commits.1 == before, restart);
    }
}

/// A proxy that runs over an API in memory.
struct Running {
    net: FakeNet,
    tasks: base::Tasks,
    stop: Stop,
}

impl Running {
    fn start(api: &Api, net: &FakeNet) -> Self {
        let (tasks, stop) = (base::Tasks::new("proxy"), Stop::new());
        let client = Client::new(api.transport(), "timonier/test");
        let config = Config {
            informers: Informers::new(client, tasks.clone(), stop.clone()),
            net: Arc::new(net.clone()),
            node_name: NODE.to_owned(),
            cluster_cidr: layout().cluster_cidr,
            service_cidr: layout().service_cidr,
            cluster_dns: layout().cluster_dns,
            node_port_addresses: vec![],
        };
        let stopped = stop.clone();
        tasks.spawn("proxy", async move { run(config, stopped).await.unwrap() });
        Self { net: net.clone(), tasks, stop }
    }

    /// Waits until so many endpoints are programmed.
    async fn reaches(&self, endpoints: usize) {
        let there = || self.net.state().tables.get(TABLE).map(|table| table.sets["endpoints"].1.len());
        let wait = async {
            while there() != Some(endpoints) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("{:?} endpoints", there()));
    }

    async fn end(self) {
        self.stop.stop();
        self.tasks.join().await;
    }
}

fn put(api: &Api, endpoints: std::ops::Range<u8>) {
    api.put(
        serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "http", "port": 80}]}}),
    );
    let endpoints: Vec<_> =
        endpoints.map(|last| serde_json::json!({"addresses": [format!("10.42.0.{last}")]})).collect();
    api.put(serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints}));
}

#[tokio::test(start_paused = true)]
async fn the_api_reaches_the_kernel_and_a_restart_with_late_watches_takes_nothing_away() {
    let (api, net) = (Api::new(base::Random::from_seed(1)), FakeNet::new());
    put(&api, 1..4);
    let running = Running::start(&api, &net);
    running.reaches(3).await;
    put(&api, 1..6);
    running.reaches(5).await;
    running.end().await;

    let before = net.state().commits;
    api.delay_watches(Duration::from_millis(50));
    let running = Running::start(&api, &net);
    put(&api, 1..7);
    running.reaches(6).await;
    let after = net.state().commits;
    assert!(after.1 - before.1 <= 5, "{before:?} {after:?}");
    api.delete(discovery::EndpointSlice::resource(), "default", "web-1");
    running.reaches(0).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn rules_that_someone_removes_come_back() {
    let (api, net) = (Api::new(base::Random::from_seed(1)), FakeNet::new());
    put(&api, 1..4);
    let running = Running::start(&api, &net);
    running.reaches(3).await;
    net.with(|state| state.tables.clear());
    running.reaches(3).await;
    running.end().await;
}

#[tokio::test]
async fn the_pod_networks_chains_are_left_alone() {
    let net = FakeNet::new();
    let chain = |name: &str| Change::AddChain { name: name.to_owned(), hook: None };
    net.commit(TABLE, &[Change::AddTable, chain("pods-postrouting"), chain("left-over")]).await.unwrap();
    proxy(&net).apply().await.unwrap();
    let chains = net.table(TABLE).await.unwrap().unwrap().chains;
    assert!(chains.contains("pods-postrouting") && !chains.contains("left-over"));
    let (_, changes) = Rules::adopt(&layout(), net.table(TABLE).await.unwrap().unwrap());
    assert!(changes.is_empty());
}

#[tokio::test]
async fn udp_connections_to_an_endpoint_that_went_are_forgotten() {
    let net = FakeNet::new();
    let mut proxy = proxy(&net);
    proxy.set_service(&key(1), Some(service(1)));
    for endpoints in [vec![endpoint(1), endpoint(2)], vec![endpoint(2)]] {
        proxy.set_slice(&Key::new("default", "web-1-1"), Some((key(1), slice(endpoints))));
        proxy.apply().await.unwrap();
    }
    let forgotten = net.state().forgotten;
    assert_eq!(forgotten.len(), 2, "TCP clients notice by themselves: {forgotten:?}");
    assert_eq!(forgotten[0].endpoint, None, "what was sent before there was an endpoint");
    assert_eq!(forgotten[1].endpoint, Some((Ipv4Addr::new(10, 42, 0, 1), 53)));
    assert_eq!(forgotten[1].destination, Some(Ipv4Addr::new(10, 43, 0, 1)));
}

#[test]
fn which_endpoints_serve() {
    let here = || endpoint(1);
    let there = || Endpoint { node: Some("node-2".to_owned()), ..endpoint(2) };
    let unready = |endpoint: Endpoint| Endpoint { ready: false, ..endpoint };
    let ending = |endpoint: Endpoint| Endpoint { ready: false, ending: true, ..endpoint };
    let hint = |endpoint: Endpoint, node: &str| Endpoint { for_nodes: Some(vec![node.to_owned()]), ..endpoint };
    let zone = |endpoint: Endpoint, zone: &str| Endpoint { for_zones: Some(vec![zone.to_owned()]), ..endpoint };
    type Case<'a> = (&'a str, Vec<Endpoint>, bool, &'a [u8], Refusal);
    let cases: [Case<'_>; 13] = [
        ("ready ones", vec![here(), there(), unready(endpoint(3))], false, &[1, 2], Refusal::Reject),
        ("ready before ending", vec![here(), ending(there())], false, &[1], Refusal::Reject),
        ("ending where none is ready", vec![unready(here()), ending(there())], false, &[2], Refusal::Reject),
        ("none at all", vec![], false, &[], Refusal::Reject),
        ("local", vec![here(), there()], true, &[1], Refusal::Drop),
        ("local ending", vec![ending(here()), there()], true, &[1], Refusal::Drop),
        ("local without a local one", vec![there()], true, &[], Refusal::Drop),
        ("hinted", vec![hint(here(), NODE), hint(there(), "node-2")], false, &[1], Refusal::Reject),
        ("this zone", vec![zone(here(), "b"), zone(there(), "a")], false, &[2], Refusal::Reject),
        ("no endpoint in this zone", vec![zone(here(), "b"), zone(there(), "b")], false, &[1, 2], Refusal::Reject),
        (
            "the node before the zone",
            vec![zone(hint(here(), NODE), "a"), zone(hint(there(), "node-2"), "a")],
            false,
            &[1],
            Refusal::Reject,
        ),
        ("a local policy heeds no hints", vec![hint(here(), "node-2"), hint(there(), NODE)], true, &[1], Refusal::Drop),
        ("hinted in part", vec![hint(here(), NODE), there()], false, &[1, 2], Refusal::Reject),
    ];
    for (story, endpoints, local, expected, refusal) in cases {
        let service = Service { internal_local: local, ..service(1) };
        let place = Place { node: NODE.to_owned(), zone: Some("a".to_owned()) };
        let targets = targets(&service, &[&slice(endpoints)], &place, None);
        let target = &targets[&Frontend::Address(Ipv4Addr::new(10, 43, 0, 1), 6, 80)];
        let expected = expected.iter().map(|last| Backend { address: Ipv4Addr::new(10, 42, 0, *last), port: 8080 });
        assert_eq!((&target.backends, target.refusal), (&expected.collect(), refusal), "{story}");
    }
}

#[test]
fn which_frontends_a_service_has() {
    let (outside, balanced, inside) =
        (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 3, 1), Ipv4Addr::new(10, 43, 0, 1));
    let place = Place { node: NODE.to_owned(), zone: None };
    let ranges: BTreeSet<Ipv4Net> = ["172.16.0.0/24".parse().unwrap()].into();
    for (local, masquerade) in [(false, true), (true, false)] {
        let service = Service {
            external_ips: vec![outside],
            balancer_ips: vec![balanced],
            source_ranges: ranges.clone(),
            external_local: local,
            ..service(1)
        };
        let targets = targets(&service, &[&slice([endpoint(1)])], &place, None);
        let seen: BTreeMap<Frontend, (bool, bool)> = targets
            .iter()
            .map(|(frontend, target)| (*frontend, (target.masquerade, !target.ranges.is_empty())))
            .collect();
        let mut expected = BTreeMap::from([(Frontend::NodePort(6, 30_001), (masquerade, false))]);
        for protocol in [6, 17] {
            expected.insert(Frontend::Address(inside, protocol, 80), (false, false));
            expected.insert(Frontend::Address(outside, protocol, 80), (masquerade, false));
            expected.insert(Frontend::Address(balanced, protocol, 80), (masquerade, true));
            if local {
                expected.insert(Frontend::InsideAddress(outside, protocol, 80), (false, false));
                expected.insert(Frontend::InsideAddress(balanced, protocol, 80), (false, false));
            }
        }
        if local {
            expected.insert(Frontend::InsideNodePort(6, 30_001), (false, false));
        }
        assert_eq!(seen, expected);
    }
}

#[test]
fn services_and_slices_are_read_as_the_api_means_them() {
    let service = |json: serde_json::Value| Service::of(&core::Service::decode(json.to_string().as_bytes()).unwrap());
    let base = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1", "fd00::1"], "sessionAffinity": "ClientIP", "type": "LoadBalancer",
            "ports": [{"port": 80, "nodePort": 30080}, {"name": "s", "protocol": "SCTP", "port": 81}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}]}}});
    let read = service(base.clone()).unwrap();
    assert_eq!(read.cluster_ips, [Ipv4Addr::new(10, 43, 0, 1)]);
    assert_eq!((read.external_ips, read.balancer_ips), (vec![], vec![Ipv4Addr::new(192, 0, 2, 1)]));
    assert_eq!(read.affinity_seconds, Some(10_800));
    let ports: Vec<_> = read.ports.iter().map(|port| (&*port.name, port.protocol, port.port, port.node_port)).collect();
    assert_eq!(ports, [("", 6, 80, Some(30_080)), ("s", 132, 81, None)]);
    for (path, value) in [
        ("/spec", serde_json::json!({"clusterIP": "None", "ports": []})),
        ("/spec/type", "ExternalName".into()),
        ("/metadata", serde_json::json!({"labels": {"service.kubernetes.io/service-proxy-name": "other"}})),
        ("/metadata", serde_json::json!({"labels": {"service.kubernetes.io/headless": ""}})),
    ] {
        let mut other = base.clone();
        *other.pointer_mut(path).unwrap() = value;
        assert_eq!(service(other), None, "{path}");
    }

    let slice = serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web-1"},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.42.0.1", "10.42.0.9"]},
        {"addresses": ["10.42.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": "n"}]});
    let read = Slice::of(&discovery::EndpointSlice::decode(slice.to_string().as_bytes()).unwrap()).unwrap();
    assert_eq!(read.ports, [(String::new(), 6, 8080)]);
    let endpoints: Vec<_> = read.endpoints.iter().map(|e| (e.address.octets()[3], e.ready, e.ending)).collect();
    assert_eq!(endpoints, [(1, true, false), (2, false, true)]);
}
