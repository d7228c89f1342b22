//! Ports of the node that lead to pods.

use cri::PortMapping;

use super::*;

const HOST_PORT: u16 = 8099;

fn mapping(protocol: u8, host_ip: Option<IpAddr>) -> PortMapping {
    PortMapping { protocol, host_ip, host_port: HOST_PORT, container_port: 8080 }
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    on_a_node(|| async {
        let node = Node::new().await;
        let (far, inside, outside) = node.uplink().await;
        let pod = Namespace::new();
        let ports = vec![mapping(TCP, None), mapping(UDP, None)];
        let wanted = AttachRequest { port_mappings: ports, ..request("a", &pod) };
        let IpAddr::V4(address) = node.pods.attach(&wanted).await.unwrap()[0] else { panic!("not IPv4") };
        pod.run(|| serve("a", 8080));
        let (other, address_of_other) = node.attach("other").await;
        let gateway = node.pods.gateway();
        let at_node = at(inside, HOST_PORT);
        assert_eq!(far.run(move || ask_tcp(at_node)).unwrap(), ("a".to_owned(), outside), "the client's own address");
        let udp = || UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(far.run(move || ask_udp(&udp(), at_node)).unwrap(), ("a".to_owned(), outside));
        assert_eq!(other.run(move || ask_tcp(at_node)).unwrap(), ("a".to_owned(), address_of_other));
        let (who, seen) = pod.run(move || ask_tcp(at_node)).unwrap();
        assert!(who == "a" && seen != address, "a pod that reaches itself must see another sender: {seen}");
        for to in [inside, gateway, Ipv4Addr::LOCALHOST] {
            assert_eq!(ask_tcp(at(to, HOST_PORT)).unwrap().0, "a", "from the node to {to}");
        }

        // Whatever a firewall's restart and one of ours do, the port leads to the pod.
        let flush = linux::net::nft::Change::RemoveTable;
        node.net.commit(network::host_ports::TABLE, &[flush]).await.unwrap();
        let config = config(&node.net, node._state.path().join("addresses"));
        let restarted = PodNetworkBuiltIn::start(config).await.unwrap();
        assert_eq!(far.run(move || ask_tcp(at_node)).unwrap().0, "a");
        restarted.detach("sandbox-of-a").await.unwrap();
        let refused = far.run(move || ask_tcp(at_node)).unwrap_err().kind();
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "nothing is left of it");
        let contents = node.net.table(network::host_ports::TABLE).await.unwrap().unwrap();
        assert!(contents.sets.values().all(BTreeMap::is_empty), "{contents:?}");
    });
}

#[test]
fn one_port_on_two_addresses_and_two_protocols() {
    on_a_node(|| async {
        let node = Node::new().await;
        let (far, inside, _) = node.uplink().await;
        let second = Ipv4Addr::new(192, 0, 2, 3);
        node.net.add_address("uplink", Ipv4Net::new(second, 24).unwrap()).await.unwrap();
        let mut pods = Vec::new();
        for (name, protocol, address) in [("a", TCP, inside), ("b", TCP, second), ("c", UDP, second)] {
            let pod = Namespace::new();
            let port_mappings = vec![mapping(protocol, Some(IpAddr::V4(address)))];
            node.pods.attach(&AttachRequest { port_mappings, ..request(name, &pod) }).await.unwrap();
            pod.run(move || serve(name, 8080));
            pods.push(pod);
        }
        let (first, second) = (at(inside, HOST_PORT), at(second, HOST_PORT));
        assert_eq!(far.run(move || ask_tcp(first)).unwrap().0, "a");
        assert_eq!(far.run(move || ask_tcp(second)).unwrap().0, "b");
        assert_eq!(far.run(move || ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), second)).unwrap().0, "c");
    });
}

/// A client that sent before the pod was there is told by nobody: its tracked connection must not keep it away.
#[test]
fn a_udp_client_that_was_there_first_reaches_the_pod() {
    on_a_node(|| async {
        let node = Node::new().await;
        let (far, inside, _) = node.uplink().await;
        serve_at("node", at(inside, HOST_PORT));
        let socket = Arc::new(far.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()));
        assert_eq!(ask_udp(&socket, at(inside, HOST_PORT)).unwrap().0, "node");
        let pod = Namespace::new();
        let port_mappings = vec![mapping(UDP, None)];
        node.pods.attach(&AttachRequest { port_mappings, ..request("a", &pod) }).await.unwrap();
        pod.run(|| serve("a", 8080));
        assert_eq!(ask_udp(&socket, at(inside, HOST_PORT)).unwrap().0, "a");
        node.pods.detach("sandbox-of-a").await.unwrap();
        assert_eq!(ask_udp(&socket, at(inside, HOST_PORT)).unwrap().0, "node");
    });
}
