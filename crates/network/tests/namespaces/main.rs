//! Real packets: pods in network namespaces of their own, a node in another, and the rules between them.
//!
//! A namespace here is held by a thread alone, so it ends with its test, whichever way the test ends. Nothing outside is
//! seen or touched. Needs root (`CAP_NET_ADMIN` and `CAP_SYS_ADMIN`).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod balancers;
mod host_ports;
mod policies;
mod sctp;
mod services;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use api::Key;
use cri::{AttachRequest, PodNetwork};
use ipnet::Ipv4Net;
use linux::net::{Kernel, Net, Route, Veth, namespace};
use network::overlay::{Mode, Own, Remote};
use network::proxy::Proxy;
use network::proxy::rules::Layout;
use network::proxy::services::{Endpoint, Port, Service, Slice};
use network::{BRIDGE, PodNetworkBuiltIn, PodNetworkConfig, TABLE};

const TCP: u8 = 6;
const UDP: u8 = 17;
const DEADLINE: Duration = Duration::from_secs(3);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: the thread that lives in it, and what it is to do there.
struct Namespace {
    path: PathBuf,
    jobs: SyncSender<Job>,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, queue) = sync_channel::<Job>(16);
        let (sender, receiver) = sync_channel(1);
        std::thread::spawn(move || {
            namespace::enter_new().expect("tests need root");
            sender.send(PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()))).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self { path: receiver.recv().unwrap(), jobs }
    }

    /// Runs `work` in the namespace and waits for it.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = sync_channel(1);
        let job = move || drop(sender.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))));
        self.jobs.send(Box::new(job)).unwrap();
        receiver.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What a client got: the name of who answered, and the address that it saw.
type Answer = std::io::Result<(String, Ipv4Addr)>;

fn ask_tcp(to: SocketAddr) -> Answer {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(parse(&text))
}

fn ask_udp(socket: &UdpSocket, to: SocketAddr) -> Answer {
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.connect(to)?;
    socket.send(b"who")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(parse(&String::from_utf8_lossy(&buffer[..length])))
}

fn parse(text: &str) -> (String, Ipv4Addr) {
    let (name, peer) = text.split_once(' ').expect("servers answer with two words");
    (name.to_owned(), peer.parse().unwrap())
}

/// Answers every client with the server's name and the client's address, on TCP and UDP. Threads inherit the namespace.
fn serve(name: &'static str, port: u16) {
    serve_at(name, at(Ipv4Addr::UNSPECIFIED, port));
}

fn serve_at(name: &'static str, address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip();
            let _ = (&stream).write_all(format!("{name} {peer}").as_bytes());
        }
    });
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 128];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// A node with its pod network and service proxy.
struct Node {
    net: Arc<dyn Net>,
    pods: PodNetworkBuiltIn,
    proxy: Proxy,
    _state: tempfile::TempDir,
}

fn layout() -> Layout {
    Layout {
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        cluster_dns: Some(Ipv4Addr::new(10, 43, 0, 10)),
        node_port_addresses: vec![],
    }
}

fn config(net: &Arc<dyn Net>, state_dir: PathBuf) -> PodNetworkConfig {
    PodNetworkConfig {
        net: net.clone(),
        state_dir,
        pod_cidr: "10.42.0.0/24".parse().unwrap(),
        cluster_cidr: layout().cluster_cidr,
        service_cidr: layout().service_cidr,
        cluster_dns: layout().cluster_dns,
        mtu: None,
        policies: None,
    }
}

impl Node {
    async fn new() -> Self {
        let net: Arc<dyn Net> = Arc::new(Kernel::new().unwrap());
        let state = tempfile::tempdir().unwrap();
        let pods = PodNetworkBuiltIn::start(config(&net, state.path().join("addresses"))).await.unwrap();
        let proxy = Proxy::with(net.clone(), layout(), "node-1");
        Self { net, pods, proxy, _state: state }
    }

    async fn attach(&self, name: &str) -> (Namespace, Ipv4Addr) {
        let pod = Namespace::new();
        let addresses = self.pods.attach(&request(name, &pod)).await.unwrap();
        let IpAddr::V4(address) = addresses[0] else { panic!("not IPv4") };
        (pod, address)
    }

    /// A machine elsewhere; the node's address towards it, and its own.
    async fn uplink(&self) -> (Namespace, Ipv4Addr, Ipv4Addr) {
        let (inside, outside) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let far = Namespace::new();
        let peer_mac = [2, 0, 0, 0, 0, 1];
        let veth = Veth { name: "uplink", peer_name: "eth0", peer_mac, peer_namespace: &far.path, mtu: 1400 };
        self.net.add_veth(&veth).await.unwrap();
        let far_net = self.net.enter(&far.path).await.unwrap();
        for (net, link, address) in [(&self.net, "uplink", inside), (&far_net, "eth0", outside)] {
            net.add_address(link, Ipv4Net::new(address, 24).unwrap()).await.unwrap();
            net.set_up(link).await.unwrap();
        }
        (far, inside, outside)
    }

    async fn serve(&mut self, service: Service, slice: Slice) {
        let key = Key::new("default", "web");
        self.proxy.set_service(&key, Some(service));
        self.proxy.set_slice(&Key::new("default", "web-1"), Some((key, slice)));
        self.proxy.apply().await.unwrap();
    }
}

fn request(name: &str, pod: &Namespace) -> AttachRequest {
    AttachRequest {
        sandbox_id: format!("sandbox-of-{name}"),
        namespace_path: pod.path.clone(),
        pod_namespace: "default".to_owned(),
        pod_name: name.to_owned(),
        pod_uid: format!("uid-of-{name}"),
        port_mappings: Vec::new(),
    }
}

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 20);
const NODE_PORT: u16 = 30080;

fn service() -> Service {
    let port = |name: &str, protocol| Port { name: name.to_owned(), protocol, port: 80, node_port: Some(NODE_PORT) };
    Service { cluster_ips: vec![SERVICE], ports: vec![port("tcp", TCP), port("udp", UDP)], ..Service::default() }
}

fn slice(addresses: &[Ipv4Addr]) -> Slice {
    let node = Some("node-1".to_owned());
    let endpoint = |address: &Ipv4Addr| Endpoint {
        address: *address,
        ready: true,
        ending: false,
        node: node.clone(),
        for_nodes: None,
        for_zones: None,
    };
    let ports = vec![("tcp".to_owned(), TCP, 8080), ("udp".to_owned(), UDP, 8080)];
    Slice { ports, endpoints: addresses.iter().map(endpoint).collect() }
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// Runs a test on a thread in a namespace of its own, with a runtime whose threads inherit it.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        namespace::enter_new().expect("tests need root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn counts(answers: impl Iterator<Item = Answer>) -> BTreeMap<String, usize> {
    answers.map(|answer| answer.unwrap().0).fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name).or_default() += 1;
        counts
    })
}

/// Both with and without bridged frames shown to netfilter: clusters are found either way.
async fn with_bridged_frames(node: &Node, shown: bool) {
    let value = if shown { "1" } else { "0" };
    node.net.set_sysctl("bridge/bridge-nf-call-iptables", value).await.unwrap();
}

#[test]
fn pods_reach_each_other_and_themselves_through_a_service() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (a, address_a) = node.attach("a").await;
        let (b, address_b) = node.attach("b").await;
        a.run(|| serve("a", 8080));
        b.run(|| serve("b", 8080));
        assert_eq!(a.run(move || ask_tcp(at(address_b, 8080))).unwrap(), ("b".to_owned(), address_a));

        for shown in [false, true] {
            with_bridged_frames(&node, shown).await;
            node.serve(service(), slice(&[address_b])).await;
            let from_a = a.run(|| ask_tcp(at(SERVICE, 80))).unwrap();
            assert_eq!(from_a, ("b".to_owned(), address_a), "the client's address is kept");
            let (who, seen) = b.run(|| ask_tcp(at(SERVICE, 80))).unwrap();
            assert_eq!(who, "b");
            assert_ne!(seen, address_b, "a pod that reaches itself must see another sender");
            let by_udp = a.run(|| ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), at(SERVICE, 80))).unwrap();
            assert_eq!(by_udp, ("b".to_owned(), address_a));

            node.serve(service(), slice(&[address_a, address_b])).await;
            let spread = a.run(|| counts((0..60).map(|_| ask_tcp(at(SERVICE, 80)))));
            assert!(spread.len() == 2 && spread.values().all(|count| *count >= 10), "{spread:?}");
        }
    });
}

#[test]
fn the_node_reaches_services_without_any_route_of_its_own() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (a, address_a) = node.attach("a").await;
        a.run(|| serve("a", 8080));
        node.serve(service(), slice(&[address_a])).await;
        let gateway = node.pods.gateway();
        assert_eq!(ask_tcp(at(SERVICE, 80)).unwrap(), ("a".to_owned(), gateway));
        assert_eq!(ask_tcp(at(gateway, NODE_PORT)).unwrap().0, "a");
        assert_eq!(ask_tcp(at(Ipv4Addr::LOCALHOST, NODE_PORT)).unwrap().0, "a");
        assert_eq!(a.run(move || ask_tcp(at(gateway, NODE_PORT))).unwrap().0, "a");
        assert_eq!(ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), at(SERVICE, 80)).unwrap().0, "a");

        // An endpoint that is the node itself, as the API server is.
        serve("node", 8080);
        node.serve(service(), slice(&[gateway])).await;
        assert_eq!(a.run(|| ask_tcp(at(SERVICE, 80))).unwrap(), ("node".to_owned(), address_a));
        assert_eq!(ask_tcp(at(SERVICE, 80)).unwrap().0, "node");
    });
}

#[test]
fn traffic_into_and_out_of_the_cluster_gets_the_right_addresses() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let external = Ipv4Addr::new(198, 51, 100, 7);
        let (far, inside, outside) = node.uplink().await;
        let far_net = node.net.enter(&far.path).await.unwrap();
        let route = |destination: &str, gateway, link: &str| Route {
            destination: destination.parse().unwrap(),
            gateway: Some(gateway),
            link: link.to_owned(),
            source: None,
        };
        node.net.set_route(&route("0.0.0.0/0", outside, "uplink")).await.unwrap();
        far_net.set_route(&route("198.51.100.0/24", inside, "eth0")).await.unwrap();
        assert_eq!(network::node_address(node.net.as_ref()).await.unwrap(), Some(IpAddr::V4(inside)));

        let (a, address_a) = node.attach("a").await;
        a.run(|| serve("a", 8080));
        far.run(|| serve("far", 9000));
        assert_eq!(a.run(move || ask_tcp(at(outside, 9000))).unwrap(), ("far".to_owned(), inside));

        for (external_local, seen) in [(false, node.pods.gateway()), (true, outside)] {
            let service = Service { external_ips: vec![external], external_local, ..service() };
            node.serve(service, slice(&[address_a])).await;
            for to in [at(inside, NODE_PORT), at(external, 80)] {
                assert_eq!(far.run(move || ask_tcp(to)).unwrap(), ("a".to_owned(), seen), "{to} {external_local}");
            }
        }
    });
}

/// A second node in a namespace of its own, joined to the first by a cable: its network, its pods and their range.
async fn second_node(first: &Node) -> (Namespace, Arc<dyn Net>, PodNetworkBuiltIn, tempfile::TempDir) {
    let far = Namespace::new();
    let veth =
        Veth { name: "uplink", peer_name: "eth0", peer_mac: [2, 0, 0, 0, 0, 1], peer_namespace: &far.path, mtu: 1500 };
    first.net.add_veth(&veth).await.unwrap();
    let net = first.net.enter(&far.path).await.unwrap();
    for (net, link, address) in [(&first.net, "uplink", FIRST), (&net, "eth0", SECOND)] {
        net.add_address(link, Ipv4Net::new(address, 24).unwrap()).await.unwrap();
        net.set_up(link).await.unwrap();
    }
    let state = tempfile::tempdir().unwrap();
    let config = PodNetworkConfig { pod_cidr: SECOND_PODS.parse().unwrap(), ..config(&net, state.path().into()) };
    let pods = PodNetworkBuiltIn::start(config).await.unwrap();
    (far, net, pods, state)
}

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SECOND_PODS: &str = "10.42.1.0/24";

/// Makes both nodes' ways to each other.
async fn join(mode: Mode, first: &Arc<dyn Net>, second: &Arc<dyn Net>) {
    let all = [("first", "10.42.0.0/24", FIRST), ("second", SECOND_PODS, SECOND)];
    let remote = |pods: &str, address| Remote { pod_cidr: pods.parse().unwrap(), address };
    let nodes = all.iter().map(|(name, pods, address)| ((*name).to_owned(), remote(pods, *address))).collect();
    for ((name, pods, address), net) in all.into_iter().zip([first, second]) {
        let mtu = network::overlay::pod_mtu(net.as_ref(), address, mode).await.unwrap();
        let own = Own { name: name.to_owned(), address, pod_cidr: pods.parse().unwrap(), mode, mtu };
        let ways = network::overlay::plan(&own, &nodes, &net.links().await.unwrap());
        // Twice: what is there already is left alone.
        for _ in 0..2 {
            network::overlay::apply(net.as_ref(), &ways).await.unwrap();
        }
        assert_eq!(ways.vxlan.is_some(), mode == Mode::Vxlan);
    }
}

#[test]
fn pods_of_two_nodes_see_each_others_own_addresses_and_services_reach_across() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (far, far_net, far_pods, state) = second_node(&node).await;
        let (a, address_a) = node.attach("a").await;
        let b = Namespace::new();
        let IpAddr::V4(address_b) = far_pods.attach(&request("b", &b)).await.unwrap()[0] else { panic!("not IPv4") };
        assert_eq!(address_b.octets()[2], 1, "{address_b}");
        a.run(|| serve("a", 8080));
        b.run(|| serve("b", 8080));
        node.serve(service(), slice(&[address_b])).await;
        for mode in [Mode::Vxlan, Mode::HostRoutes, Mode::Vxlan] {
            join(mode, &node.net, &far_net).await;
            let (to_a, to_b) = (at(address_a, 8080), at(address_b, 8080));
            assert_eq!(a.run(move || ask_tcp(to_b)).unwrap(), ("b".to_owned(), address_a), "{mode:?}");
            assert_eq!(b.run(move || ask_tcp(to_a)).unwrap(), ("a".to_owned(), address_b), "{mode:?}");
            let seen = a.run(|| ask_tcp(at(SERVICE, 80))).unwrap();
            assert_eq!(seen, ("b".to_owned(), address_a), "through a service, {mode:?}");
            assert_eq!(ask_tcp(to_b).unwrap().0, "b", "from the node, {mode:?}");
            assert_eq!(far.run(move || ask_tcp(to_a)).unwrap().0, "a", "from the other node, {mode:?}");
            // A node port: whoever asks from elsewhere gets this node's address, and the answer comes back through it.
            assert_eq!(far.run(|| ask_tcp(at(FIRST, NODE_PORT))).unwrap().0, "b", "{mode:?}");
        }
        network::remove_all(far_net.as_ref(), state.path()).await.unwrap();
        assert!(far_net.routes().await.unwrap().is_empty());
        assert_eq!(far_net.link(network::overlay::VXLAN_LINK).await.unwrap(), None);
    });
}

#[test]
fn rules_come_back_when_a_firewall_flushes_everything() {
    on_a_node(|| async {
        let node = Node::new().await;
        let (pods, net) = (Arc::new(node.pods), node.net);
        let stop = base::Stop::new();
        let tasks = base::Tasks::new("test");
        let (kept, stopped) = (pods.clone(), stop.clone());
        tasks.spawn("keep", async move { kept.keep(stopped).await.unwrap() });
        let before = net.table(TABLE).await.unwrap();
        let flush = async {
            net.commit(TABLE, &[linux::net::nft::Change::RemoveTable]).await.unwrap();
            while net.table(TABLE).await.unwrap() != before {
                tokio::task::yield_now().await;
            }
            stop.stop();
        };
        tokio::time::timeout(DEADLINE, flush).await.expect("the rules come back");
        tasks.join().await;
    });
}

#[test]
fn what_has_no_endpoints_is_rejected_at_once_but_the_nodes_own_dns_answers() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (a, _) = node.attach("a").await;
        let dns = Ipv4Addr::new(10, 43, 0, 10);
        // Bound to the address itself: a datagram's answer from any other one is not for its client.
        serve_at("dns", at(dns, 53));
        node.serve(service(), slice(&[])).await;
        let kind = |answer: Answer| answer.unwrap_err().kind();
        let refused = std::io::ErrorKind::ConnectionRefused;
        let gateway = node.pods.gateway();
        for to in [at(SERVICE, 80), at(SERVICE, 81), at(Ipv4Addr::new(10, 43, 9, 9), 80), at(gateway, NODE_PORT)] {
            assert_eq!(kind(a.run(move || ask_tcp(to))), refused, "pod to {to}");
            assert_eq!(kind(ask_tcp(to)), refused, "node to {to}");
        }
        let udp = a.run(|| ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), at(SERVICE, 80)));
        assert_eq!(kind(udp), refused);

        let dns_service = Service {
            cluster_ips: vec![dns],
            ports: vec![Port { name: String::new(), protocol: UDP, port: 53, node_port: None }],
            ..Service::default()
        };
        node.proxy.set_service(&Key::new("kube-system", "kube-dns"), Some(dns_service));
        node.proxy.apply().await.unwrap();
        let answer = a.run(move || ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), at(dns, 53)));
        assert_eq!(answer.unwrap().0, "dns");
        assert_eq!(ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), at(dns, 53)).unwrap().0, "dns");
    });
}

#[test]
fn a_udp_client_follows_when_its_endpoint_goes() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (client, _) = node.attach("client").await;
        let (a, address_a) = node.attach("a").await;
        let (b, address_b) = node.attach("b").await;
        a.run(|| serve("a", 8080));
        b.run(|| serve("b", 8080));
        node.serve(service(), slice(&[address_a])).await;
        let socket = Arc::new(client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()));
        assert_eq!(ask_udp(&socket, at(SERVICE, 80)).unwrap().0, "a");
        node.serve(service(), slice(&[address_b])).await;
        assert_eq!(ask_udp(&socket, at(SERVICE, 80)).unwrap().0, "b");
    });
}

#[test]
fn a_client_keeps_its_endpoint_with_session_affinity_until_it_goes() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (client, _) = node.attach("client").await;
        let (a, address_a) = node.attach("a").await;
        let (b, address_b) = node.attach("b").await;
        a.run(|| serve("a", 8080));
        b.run(|| serve("b", 8080));
        let sticky = Service { affinity_seconds: Some(3600), ..service() };
        node.serve(sticky.clone(), slice(&[address_a, address_b])).await;
        for to in [at(SERVICE, 80), at(node.pods.gateway(), NODE_PORT)] {
            let first = client.run(move || counts((0..30).map(|_| ask_tcp(to))));
            assert_eq!(first.len(), 1, "one endpoint for one client of {to}: {first:?}");
            let (other, name) = if first.contains_key("a") { (address_b, "b") } else { (address_a, "a") };
            node.serve(sticky.clone(), slice(&[other])).await;
            let second = client.run(move || counts((0..10).map(|_| ask_tcp(to))));
            assert_eq!(second, BTreeMap::from([(name.to_owned(), 10)]));
            node.serve(sticky.clone(), slice(&[address_a, address_b])).await;
            let third = client.run(move || counts((0..10).map(|_| ask_tcp(to))));
            assert_eq!(third, second, "the new choice is remembered");
        }
    });
}

#[test]
fn attaching_and_detaching_may_be_repeated() {
    on_a_node(|| async {
        let node = Node::new().await;
        let (pod, address) = node.attach("a").await;
        assert_eq!(node.pods.attach(&request("a", &pod)).await.unwrap(), [IpAddr::V4(address)]);
        // The sandbox's namespace was made anew, under the same id.
        let again = Namespace::new();
        assert_eq!(node.pods.attach(&request("a", &again)).await.unwrap(), [IpAddr::V4(address)]);
        again.run(|| serve("a", 8080));
        assert_eq!(ask_tcp(at(address, 8080)).unwrap().0, "a");

        let restarted =
            PodNetworkBuiltIn::start(config(&node.net, node._state.path().join("addresses"))).await.unwrap();
        assert_eq!(restarted.sandboxes(), ["sandbox-of-a"]);
        assert_eq!(ask_tcp(at(address, 8080)).unwrap().0, "a", "a restart leaves pods attached");
        for _ in 0..2 {
            restarted.detach("sandbox-of-a").await.unwrap();
        }
        let links = node.net.links().await.unwrap();
        assert!(links.iter().all(|link| link.kind != "veth"), "{links:?}");
        assert!(restarted.sandboxes().is_empty());
    });
}

#[test]
fn a_restarted_proxy_takes_over_what_is_there_and_replaces_what_is_not_its_own() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (a, address_a) = node.attach("a").await;
        a.run(|| serve("a", 8080));
        let addresses = [address_a, Ipv4Addr::new(10, 42, 7, 2), Ipv4Addr::new(10, 42, 7, 3)];
        node.serve(service(), slice(&addresses)).await;
        node.serve(service(), slice(&addresses[..2])).await;
        let before = node.net.table(TABLE).await.unwrap().unwrap();
        let (_, changes) = network::proxy::rules::Rules::adopt(&layout(), before.clone());
        assert!(changes.is_empty(), "what this program made is taken over as it is: {changes:?}");

        node.proxy = Proxy::with(node.net.clone(), layout(), "node-1");
        node.serve(service(), slice(&addresses[..1])).await;
        assert_eq!(ask_tcp(at(SERVICE, 80)).unwrap().0, "a");

        let foreign = linux::net::nft::Change::AddChain { name: "not-ours".to_owned(), hook: None };
        node.net.commit(TABLE, &[foreign]).await.unwrap();
        node.proxy = Proxy::with(node.net.clone(), layout(), "node-1");
        node.serve(service(), slice(&addresses[..1])).await;
        let after = node.net.table(TABLE).await.unwrap().unwrap();
        assert!(!after.chains.contains("not-ours"));
        assert_eq!(ask_tcp(at(SERVICE, 80)).unwrap().0, "a");
    });
}

#[test]
fn nothing_is_left_after_removal() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (_pod, address) = node.attach("a").await;
        node.serve(service(), slice(&[address])).await;
        let state = node._state.path().join("addresses");
        for _ in 0..2 {
            network::remove_all(node.net.as_ref(), &state).await.unwrap();
            let names: Vec<String> = node.net.links().await.unwrap().into_iter().map(|link| link.name).collect();
            assert!(!names.iter().any(|name| name == BRIDGE || name.starts_with("tm")), "{names:?}");
            assert_eq!(node.net.table(TABLE).await.unwrap(), None);
            assert!(!state.exists());
        }
        assert_eq!(network::node_address(node.net.as_ref()).await.unwrap(), None, "only the loopback is left");
    });
}

#[test]
fn five_thousand_services_are_programmed_fast_and_one_change_is_a_few_elements() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let endpoint = |service: u32, number: u32| Ipv4Addr::from_bits(0x0a2a_0000 + (service * 10 + number) % 0xffff);
        for number in 0..5000u32 {
            let key = Key::new("default", format!("service-{number}"));
            let address = Ipv4Addr::from_bits(0x0a2b_0000 + 256 + number);
            let port = Port { name: "tcp".to_owned(), protocol: TCP, port: 80, node_port: None };
            let service = Service { cluster_ips: vec![address], ports: vec![port], ..Service::default() };
            node.proxy.set_service(&key, Some(service));
            let mut slice = slice(&(0..10).map(|index| endpoint(number, index)).collect::<Vec<_>>());
            slice.endpoints.iter_mut().for_each(|endpoint| endpoint.node = Some("node-2".to_owned()));
            node.proxy.set_slice(&key, Some((key.clone(), slice)));
        }
        let started = std::time::Instant::now();
        node.proxy.apply().await.unwrap();
        let full = started.elapsed();

        let mut times = Vec::new();
        for (service, numbers) in [(77, 0..11), (78, 0..11), (79, 1..11)] {
            let key = Key::new("default", format!("service-{service}"));
            let mut changed = slice(&numbers.map(|index| endpoint(service, index)).collect::<Vec<_>>());
            changed.endpoints.iter_mut().for_each(|endpoint| endpoint.node = Some("node-2".to_owned()));
            node.proxy.set_slice(&key, Some((key.clone(), changed)));
            let started = std::time::Instant::now();
            node.proxy.apply().await.unwrap();
            times.push(started.elapsed());
        }
        let contents = node.net.table(TABLE).await.unwrap().unwrap();
        assert_eq!(contents.sets["endpoints"].len(), 50_002);
        println!("5,000 services of 10 endpoints: {full:?}; then one more, one more again, one for another: {times:?}");
        let slowest = times.into_iter().max().unwrap();
        assert!(full < Duration::from_secs(5) && slowest < Duration::from_millis(100), "{full:?} {slowest:?}");
    });
}
