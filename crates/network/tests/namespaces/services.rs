//! What a Service says, changed while clients use it: ports, protocols, session affinity, slices of several hands.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use api::Key;
use network::proxy::services::{Port, Service, Slice};

use crate::{
    NODE_PORT, Namespace, Node, SERVICE, TCP, UDP, ask_tcp, ask_udp, at, counts, on_a_node, serve, service, slice,
};

fn by_udp(client: &Namespace, to: SocketAddr) -> Option<String> {
    client.run(move || ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), to)).ok().map(|(name, _)| name)
}

fn by_tcp(client: &Namespace, to: SocketAddr) -> Option<String> {
    client.run(move || ask_tcp(to)).ok().map(|(name, _)| name)
}

/// Conformance: "Networking Granular Checks: Pods should function for node-pod communication", http and udp.
#[test]
fn the_node_reaches_pods_at_their_own_addresses() {
    on_a_node(|| async {
        let node = Node::new().await;
        let (a, address_a) = node.attach("a").await;
        let (b, address_b) = node.attach("b").await;
        a.run(|| serve("a", 8080));
        b.run(|| serve("b", 8080));
        let gateway = node.pods.gateway();
        for (address, name) in [(address_a, "a"), (address_b, "b")] {
            assert_eq!(ask_tcp(at(address, 8080)).unwrap(), (name.to_owned(), gateway));
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            assert_eq!(ask_udp(&socket, at(address, 8080)).unwrap(), (name.to_owned(), gateway));
        }
    });
}

/// Conformance: "Services should serve endpoints on same port and different protocols".
#[test]
fn one_port_of_two_protocols_follows_the_service() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (client, _) = node.attach("client").await;
        let (a, address_a) = node.attach("a").await;
        a.run(|| serve("a", 8080));
        let with = |protocols: &[u8]| {
            let wanted = service().ports.into_iter().filter(|port| protocols.contains(&port.protocol));
            Service { ports: wanted.collect(), ..service() }
        };
        for (protocols, tcp, udp) in
            [(&[TCP, UDP][..], true, true), (&[TCP], true, false), (&[UDP], false, true), (&[TCP, UDP], true, true)]
        {
            node.serve(with(protocols), slice(&[address_a])).await;
            let to = at(SERVICE, 80);
            assert_eq!((by_tcp(&client, to).is_some(), by_udp(&client, to).is_some()), (tcp, udp), "{protocols:?}");
        }
    });
}

/// Conformance: "Services should be able to switch session affinity", of a cluster IP and of a node port.
#[test]
fn session_affinity_is_switched_off_and_on() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (client, _) = node.attach("client").await;
        let (a, address_a) = node.attach("a").await;
        let (b, address_b) = node.attach("b").await;
        a.run(|| serve("a", 8080));
        b.run(|| serve("b", 8080));
        for affinity_seconds in [Some(3600), None, Some(3600)] {
            node.serve(Service { affinity_seconds, ..service() }, slice(&[address_a, address_b])).await;
            for to in [at(SERVICE, 80), at(node.pods.gateway(), NODE_PORT)] {
                let seen = client.run(move || counts((0..40).map(|_| ask_tcp(to))));
                assert_eq!(seen.len(), if affinity_seconds.is_some() { 1 } else { 2 }, "{to}: {seen:?}");
            }
        }
    });
}

/// Conformance: "EndpointSlice should support a Service with multiple endpoint IPs" and "multiple ports specified in
/// multiple EndpointSlices".
#[test]
fn slices_of_several_hands_are_all_served() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (client, _) = node.attach("client").await;
        let (a, address_a) = node.attach("a").await;
        let (b, address_b) = node.attach("b").await;
        a.run(|| {
            serve("a", 8080);
            serve("a-other", 9090);
        });
        b.run(|| serve("b", 9090));
        let key = Key::new("default", "web");
        let port = |name: &str, port| Port { name: name.to_owned(), protocol: TCP, port, node_port: None };
        let ports = vec![port("http", 80), port("other", 81)];
        let service = Service { cluster_ips: vec![SERVICE], ports, ..Service::default() };
        node.proxy.set_service(&key, Some(service));
        let of = |name: &str, port, address: Ipv4Addr| Slice {
            ports: vec![(name.to_owned(), TCP, port)],
            ..slice(&[address])
        };
        for (addresses, answers) in [((address_a, address_b), ["a", "b"]), ((address_a, address_a), ["a", "a-other"])] {
            for (name, slice) in [("web-1", of("http", 8080, addresses.0)), ("web-2", of("other", 9090, addresses.1))] {
                node.proxy.set_slice(&Key::new("default", name), Some((key.clone(), slice)));
            }
            node.proxy.apply().await.unwrap();
            let seen = [80, 81].map(|port| by_tcp(&client, at(SERVICE, port)));
            assert_eq!(seen, answers.map(|name| Some(name.to_owned())));
        }
        // Two for one port share its connections.
        node.proxy.set_slice(&Key::new("default", "web-3"), Some((key.clone(), of("other", 9090, address_b))));
        node.proxy.apply().await.unwrap();
        let seen: BTreeMap<String, usize> = client.run(|| counts((0..40).map(|_| ask_tcp(at(SERVICE, 81)))));
        assert_eq!(seen.into_keys().collect::<Vec<_>>(), ["a-other", "b"]);
    });
}
