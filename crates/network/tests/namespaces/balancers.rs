//! What comes from outside: addresses of load balancers, whom they take, and where a local policy sends whom.

use super::*;

const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn balanced(ranges: &[&str]) -> Service {
    let source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Service { balancer_ips: vec![BALANCER], source_ranges, ..service() }
}

async fn far_away(node: &Node) -> (Namespace, Ipv4Addr) {
    let (far, inside, outside) = node.uplink().await;
    let everything = "0.0.0.0/0".parse().unwrap();
    let out = Route { destination: everything, gateway: Some(outside), link: "uplink".to_owned(), source: None };
    node.net.set_route(&out).await.unwrap();
    let destination = "198.51.100.0/24".parse().unwrap();
    let route = Route { destination, gateway: Some(inside), link: "eth0".to_owned(), source: None };
    node.net.enter(&far.path).await.unwrap().set_route(&route).await.unwrap();
    (far, inside)
}

#[test]
fn source_ranges_say_who_may_use_a_balancers_address() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (far, inside) = far_away(&node).await;
        let (a, address) = node.attach("a").await;
        a.run(|| serve("a", 8080));
        let silence = Duration::from_millis(150);
        let connects = |patience| far.run(move || TcpStream::connect_timeout(&at(BALANCER, 80), patience).is_ok());
        for (ranges, open) in [(&["192.0.2.0/24"][..], true), (&["10.0.0.0/8", "172.16.0.0/12"], false), (&[], true)] {
            node.serve(balanced(ranges), slice(&[address])).await;
            assert_eq!(connects(if open { DEADLINE } else { silence }), open, "{ranges:?}");
            let to = at(inside, NODE_PORT);
            assert!(far.run(move || ask_tcp(to)).is_ok(), "node ports are for everybody");
        }
        // A restart knows no ranges of its own from the kernel, and closes nothing and opens nothing.
        node.serve(balanced(&["10.0.0.0/8"]), slice(&[address])).await;
        node.proxy = Proxy::with(node.net.clone(), layout(), "node-1");
        node.serve(balanced(&["10.0.0.0/8"]), slice(&[address])).await;
        assert!(!connects(silence));
        let chains = node.net.table(TABLE).await.unwrap().unwrap().chains;
        assert_eq!(chains.iter().filter(|name| name.starts_with("ranges-")).count(), 1);
    });
}

#[test]
fn a_local_policy_is_for_clients_outside() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (far, inside) = far_away(&node).await;
        let (client, address_of_client) = node.attach("client").await;
        let (a, address) = node.attach("a").await;
        a.run(|| serve("a", 8080));
        let mut elsewhere = slice(&[address]);
        elsewhere.endpoints[0].node = Some("node-2".to_owned());
        let local = Service { external_local: true, ..balanced(&[]) };
        node.serve(local, elsewhere).await;
        for to in [at(BALANCER, 80), at(inside, NODE_PORT)] {
            let outside = far.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(150)).is_ok());
            assert!(!outside, "no endpoint here for {to}");
            assert_eq!(client.run(move || ask_tcp(to)).unwrap(), ("a".to_owned(), address_of_client), "{to}");
            assert_eq!(ask_tcp(to).unwrap().0, "a", "from the node to {to}");
        }
    });
}
