//! Network policies with real packets.

use network::policy::objects::{Labels, Pod, Policy};
use network::policy::{TABLE, plan::Planner};
use serde_json::{Value, json};

use super::*;

/// A node whose policies are planned by hand.
struct Guarded {
    node: Node,
    planner: Planner,
}

impl Guarded {
    async fn new() -> Self {
        let (node, mut planner) = (Node::new().await, Planner::new("node-1"));
        planner.set_namespace(&"default".into(), Some(labels("default")));
        planner.set_namespace(&"friends".into(), Some(labels("friends")));
        node.net.commit(TABLE, &planner.from_nothing()).await.unwrap();
        Self { node, planner }
    }

    /// A pod that serves on 8080 and 8081, the first of which it calls `http`.
    async fn pod(&mut self, namespace: &str, name: &'static str) -> (Namespace, Ipv4Addr) {
        let (pod, address) = self.node.attach(name).await;
        pod.run(move || [8080, 8081].map(|port| serve(name, port)));
        let object = Pod {
            node: "node-1".to_owned(),
            labels: labels(name),
            addresses: vec![address],
            ports: vec![("http".to_owned(), TCP, 8080)],
            ..Pod::default()
        };
        self.planner.set_pod(&Key::new(namespace, name), Some(object));
        self.settle().await;
        (pod, address)
    }

    async fn policy(&mut self, name: &str, spec: Option<Value>) {
        let policy = spec.map(|spec| {
            Policy::read(&json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap()
        });
        self.planner.set_policy(&Key::new("default", name), policy);
        self.settle().await;
    }

    async fn settle(&mut self) {
        self.node.net.commit(TABLE, &self.planner.settle()).await.unwrap();
    }
}

fn labels(name: &str) -> Labels {
    vec![("name".into(), name.into())]
}

fn named(name: &str) -> Value {
    json!({"matchLabels": {"name": name}})
}

/// Short: what is dropped says nothing.
const SILENCE: Duration = Duration::from_millis(150);

fn passes(from: &Namespace, to: SocketAddr) -> bool {
    from.run(move || TcpStream::connect_timeout(&to, DEADLINE).is_ok())
}

fn is_shut(from: &Namespace, to: SocketAddr) -> bool {
    from.run(move || TcpStream::connect_timeout(&to, SILENCE).is_err())
}

fn udp_passes(from: &Namespace, to: SocketAddr, patience: Duration) -> bool {
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(b"who", to).unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    })
}

#[test]
fn ingress_lets_in_whom_it_names_and_nobody_else() {
    on_a_node(|| async {
        let mut guarded = Guarded::new().await;
        let (server, to) = guarded.pod("default", "server").await;
        let (friend, _) = guarded.pod("default", "friend").await;
        let (stranger, _) = guarded.pod("friends", "stranger").await;
        assert!(passes(&friend, at(to, 8080)) && passes(&stranger, at(to, 8080)), "open without policies");

        guarded.policy("deny", Some(json!({"podSelector": named("server")}))).await;
        assert!(is_shut(&friend, at(to, 8080)) && !udp_passes(&friend, at(to, 8080), SILENCE));
        assert!(ask_tcp(at(to, 8080)).is_ok(), "the node is exempt: it probes");
        assert!(passes(&server, at(to, 8080)), "nobody keeps a pod from itself");

        let from_friend =
            json!({"podSelector": named("server"), "ingress": [{"from": [{"podSelector": named("friend")}]}]});
        guarded.policy("friend", Some(from_friend)).await;
        assert!(passes(&friend, at(to, 8081)) && is_shut(&stranger, at(to, 8081)), "policies add up");
        guarded.policy("friend", None).await;

        let to_port = |port: Value| {
            json!({"podSelector": named("server"), "ingress": [{"ports": [port],
                "from": [{"namespaceSelector": named("friends"), "podSelector": named("stranger")}]}]})
        };
        for (port, tcp_8080, tcp_8081, udp) in [
            (json!({"port": "http"}), true, false, false),
            (json!({"port": 8081}), false, true, false),
            (json!({"port": 8000, "endPort": 8080}), true, false, false),
            (json!({"protocol": "UDP", "port": 8080}), false, false, true),
            (json!({"protocol": "TCP"}), true, true, false),
        ] {
            guarded.policy("ports", Some(to_port(port.clone()))).await;
            let is = |number, open| {
                if open { passes(&stranger, at(to, number)) } else { is_shut(&stranger, at(to, number)) }
            };
            assert!(is(8080, tcp_8080) && is(8081, tcp_8081), "{port}");
            let patience = if udp { DEADLINE } else { SILENCE };
            assert_eq!(udp_passes(&stranger, at(to, 8080), patience), udp, "{port}");
            assert!(is_shut(&friend, at(to, 8080)), "{port}");
        }
        let cidr = |except: &[&str]| {
            json!({"podSelector": named("server"), "ingress": [{"from": [
            {"ipBlock": {"cidr": "10.42.0.0/24", "except": except}}]}]})
        };
        guarded.policy("ports", Some(cidr(&[]))).await;
        assert!(passes(&friend, at(to, 8080)));
        guarded.policy("ports", Some(cidr(&["10.42.0.128/25", "10.42.0.0/29"]))).await;
        assert!(is_shut(&friend, at(to, 8080)));
    });
}

#[test]
fn egress_is_judged_behind_services_and_connections_go_on() {
    on_a_node(|| async {
        let mut guarded = Guarded::new().await;
        let (client, address_of_client) = guarded.pod("default", "client").await;
        let (_a, a) = guarded.pod("default", "a").await;
        let (_b, b) = guarded.pod("default", "b").await;
        let echo = _a.run(|| {
            let listener = TcpListener::bind("0.0.0.0:9000").unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            })
        });
        let mut open = client.run(move || TcpStream::connect_timeout(&at(a, 9000), DEADLINE).unwrap());
        let spec = json!({"podSelector": named("client"), "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": named("b")}], "ports": [{"port": "http"}]}]});
        guarded.policy("out", Some(spec)).await;
        assert!(is_shut(&client, at(a, 8080)) && passes(&client, at(b, 8080)) && is_shut(&client, at(b, 8081)));
        open.write_all(b"x").unwrap();
        open.set_read_timeout(Some(DEADLINE)).unwrap();
        open.read_exact(&mut [0]).unwrap();
        drop(open);
        echo.join().unwrap();
        for (endpoint, reached) in [(a, false), (b, true)] {
            guarded.node.serve(service(), slice(&[endpoint])).await;
            let as_it_should = if reached { passes } else { is_shut };
            assert!(as_it_should(&client, at(SERVICE, 80)), "what counts is where the service leads");
        }
        assert!(passes(&_b, at(address_of_client, 8080)), "only one direction is shut");
        let gateway = guarded.node.pods.gateway();
        serve_at("node", at(gateway, 7000));
        assert!(passes(&client, at(gateway, 7000)), "the node is exempt");
        guarded.policy("out", None).await;
        assert!(passes(&client, at(a, 8080)));
        let contents = guarded.node.net.table(TABLE).await.unwrap().unwrap();
        assert!(contents.sets.values().all(BTreeMap::is_empty) && contents.chains.len() == 3, "{contents:?}");
    });
}
