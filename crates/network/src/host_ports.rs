//! Ports of the node that lead to pods: `containers[].ports[].hostPort`.
//!
//! The rules are few and fixed; each mapping is a map element, changed by the difference only. A connection to the port, from
//! outside, from a pod or from the node itself (its loopback too), goes on to the pod, which sees the client's own address.
//! The exceptions are a pod that reaches itself and a client on the loopback: their answers would find no way back, so they
//! are seen as the node. All of it is in a table of its own, which a start makes anew in one transaction: connections that
//! are under way are tracked, and go on. IPv4.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use linux::net::Connections;
use linux::net::nft::{self, Bytes, Change, Data, Elements, Expression, Field, Hook, Rule, Set, Value};

use crate::BRIDGE;
use crate::difference::{Key, between};
use crate::sandboxes::Sandbox;

/// The table, of family `ip`.
pub const TABLE: &str = "timonier-host-ports";

/// The chain by which the table's loss is noticed.
pub(crate) const WATCHED: &str = "host-ports";

const UDP: u8 = 17;

use Field::{Address, Port, Protocol};

const fn set(name: &'static str, key: &'static [Field], data: Data) -> Set {
    Set { name: Cow::Borrowed(name), key: Cow::Borrowed(key), data, dynamic: None }
}

/// With `hostIP`.
static OF_ADDRESS: Set = set("of-address", &[Address, Protocol, Port], Data::Fields(Cow::Borrowed(&[Address, Port])));
/// Without.
static OF_NODE: Set = set("of-node", &[Protocol, Port], Data::Fields(Cow::Borrowed(&[Address, Port])));
/// Source and destination of pods that reach themselves.
static HAIRPIN: Set = set("hairpin", &[Address, Address], Data::Nothing);

static SETS: [&Set; 3] = [&OF_ADDRESS, &OF_NODE, &HAIRPIN];

/// All elements, by the set's number in [`SETS`] and key.
fn elements(sandboxes: &BTreeMap<String, Sandbox>) -> BTreeMap<Key, Value> {
    let mut in_order: Vec<&Sandbox> = sandboxes.values().collect();
    in_order.sort_by_key(|sandbox| sandbox.order);
    let mut elements = BTreeMap::new();
    for sandbox in in_order {
        for mapping in &sandbox.ports {
            let port = |bytes: Bytes| bytes.protocol(mapping.protocol).port(mapping.host_port).into_vec();
            let key = match mapping.host_ip {
                Some(IpAddr::V4(address)) => (0, port(Bytes::new().address(address))),
                None => (1, port(Bytes::new())),
                Some(IpAddr::V6(_)) => continue,
            };
            let pod = Bytes::new().address(sandbox.address).port(mapping.container_port).into_vec();
            elements.insert(key, Value::Bytes(pod));
            let hairpin = Bytes::new().address(sandbox.address).address(sandbox.address).into_vec();
            elements.insert((2, hairpin), Value::Nothing);
        }
    }
    elements
}

/// From what was attached before to what is now: the changes, for one transaction, and the UDP connections that would go on
/// to where they went before: UDP clients never notice.
pub(crate) fn change(
    before: &BTreeMap<String, Sandbox>,
    after: &BTreeMap<String, Sandbox>,
) -> (Vec<Change>, Vec<Connections>) {
    let difference = between(&elements(before), &elements(after));
    let stale = difference.iter().filter_map(|((set, key), (before, _))| stale(*set, key, before.as_ref()));
    let stale = stale.collect();
    (crate::difference::changes(difference, &SETS), stale)
}

fn stale(set: usize, key: &[u8], before: Option<&Value>) -> Option<Connections> {
    let (destination, rest) = match set {
        0 => (Some(Ipv4Addr::from(*key.first_chunk::<4>()?)), &key[4..]),
        1 => (None, key),
        _ => return None,
    };
    let (protocol, destination_port) = (rest[0], u16::from_be_bytes([rest[4], rest[5]]));
    let endpoint = match before {
        Some(Value::Bytes(pod)) => {
            Some((Ipv4Addr::from(*pod.first_chunk::<4>()?), u16::from_be_bytes([pod[4], pod[5]])))
        }
        _ => None,
    };
    (protocol == UDP).then_some(Connections { protocol, destination, destination_port, endpoint })
}

/// Makes the table with all that should be in it, in place of whatever is there.
pub(crate) fn from_nothing(sandboxes: &BTreeMap<String, Sandbox>) -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::RemoveTable, Change::AddTable];
    changes.extend(SETS.iter().map(|set| Change::AddSet((*set).clone())));
    for (name, hook, rules) in chains() {
        let chain = name.to_owned();
        changes.push(Change::AddChain { name: chain.clone(), hook });
        changes.extend(rules.into_iter().map(|rule| Change::AddRule { chain: chain.clone(), rule }));
    }
    let mut sets: BTreeMap<usize, Elements> = BTreeMap::new();
    for ((set, key), value) in elements(sandboxes) {
        sets.entry(set).or_default().insert(key, value);
    }
    changes.extend(sets.into_iter().map(|(set, elements)| Change::AddElements { set: SETS[set].clone(), elements }));
    changes
}

fn chains() -> Vec<(&'static str, Option<Hook>, Vec<Rule>)> {
    let destination = [nft::destination_address(0), nft::protocol(1), nft::destination_port(2)];
    let port = [nft::protocol(0), nft::destination_port(1)];
    let rule = |parts: &[&[Expression]]| parts.concat();
    let lead = vec![
        rule(&[&destination, &[nft::lookup(&OF_ADDRESS, 0, 8), nft::dnat(8, 9)]]),
        rule(&[&nft::to_this_host(), &port, &[nft::lookup(&OF_NODE, 0, 8), nft::dnat(8, 9)]]),
    ];
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let way_back = vec![
        vec![nft::source_address(0), nft::destination_address(1), nft::member(&HAIRPIN, 0), nft::masquerade()],
        rule(&[
            &nft::interface(false, BRIDGE, true),
            &[nft::source_address(0)],
            &nft::in_net(0, loopback, true),
            &[nft::masquerade()],
        ]),
    ];
    let jump = || vec![vec![nft::jump(WATCHED)]];
    vec![
        (WATCHED, None, lead),
        ("prerouting", Some(Hook::NatPrerouting), jump()),
        ("output", Some(Hook::NatOutput), jump()),
        ("postrouting", Some(Hook::NatPostrouting), way_back),
    ]
}

#[cfg(test)]
mod tests {
    use cri::PortMapping;
    use linux::net::{FakeNet, Net};
    use proptest::prelude::{Strategy, prop, proptest};

    use super::*;

    fn sandbox(id: &str, last: u8, order: u64, ports: Vec<PortMapping>) -> (String, Sandbox) {
        let sandbox = Sandbox {
            id: id.to_owned(),
            pod_namespace: "ns".to_owned(),
            pod_name: id.to_owned(),
            pod_uid: id.to_owned(),
            address: Ipv4Addr::new(10, 42, 0, last),
            order,
            ports,
        };
        (id.to_owned(), sandbox)
    }

    fn port(protocol: u8, host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol, host_ip, host_port, container_port: 8080 }
    }

    fn any_port() -> impl Strategy<Value = PortMapping> {
        let protocol = prop::sample::select(vec![6u8, 17, 132]);
        let address = prop::sample::select(vec![None, Some("192.0.2.1"), Some("127.0.0.1"), Some("::1")]);
        (protocol, 80u16..82, address).prop_map(|(protocol, number, address)| port(protocol, number, address))
    }

    /// Some of four pods, of which any two may want the same port.
    fn any_world() -> impl Strategy<Value = BTreeMap<String, Sandbox>> {
        let pod = (1u8..5, 2u8..6, 1u64..9, prop::collection::vec(any_port(), 0..4));
        prop::collection::vec(pod, 0..4).prop_map(|pods| {
            let name = |number: u8| char::from(b'a' + number).to_string();
            pods.into_iter().map(|(number, last, order, ports)| sandbox(&name(number), last, order, ports)).collect()
        })
    }

    proptest! {
        /// Whatever comes and goes: the difference leads where a start from nothing does.
        #[test]
        fn by_difference_as_from_nothing(worlds in prop::collection::vec(any_world(), 1..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let net = FakeNet::new();
                net.commit(TABLE, &from_nothing(&worlds[0])).await.unwrap();
                for pair in worlds.windows(2) {
                    let (changes, _) = change(&pair[0], &pair[1]);
                    assert!(changes.iter().all(|change| {
                        matches!(change, Change::AddElements { .. } | Change::RemoveElements { .. })
                    }));
                    net.commit(TABLE, &changes).await.unwrap();
                    let fresh = FakeNet::new();
                    fresh.commit(TABLE, &from_nothing(&pair[1])).await.unwrap();
                    assert_eq!(net.state().tables, fresh.state().tables);
                }
            });
        }
    }

    #[test]
    fn the_later_sandbox_has_the_port_and_udp_clients_are_told() {
        let old = sandbox("z", 2, 1, vec![port(17, 53, None)]);
        let new = sandbox("a", 3, 2, vec![port(17, 53, None)]);
        let (_, first) = change(&BTreeMap::new(), &[old.clone()].into());
        assert_eq!((first[0].destination_port, first[0].endpoint), (53, None));
        let (changes, second) = change(&[old.clone()].into(), &[old, new].into());
        assert!(!changes.is_empty());
        assert_eq!(second[0].endpoint, Some((Ipv4Addr::new(10, 42, 0, 2), 8080)));
    }
}
