//! The ways to the pods of other nodes.
//!
//! Each node's pods have a part of the cluster's range (`Node.spec.podCIDR`), and each node has an address. From these two of
//! every node follows all that is made here, so nothing has to be agreed on or written down: in a VXLAN network each node's
//! end has the first address of its part, which no pod ever has, and the hardware address that goes with it. [`plan`] says
//! what should be there and touches nothing; [`Overlay::apply`] makes the difference to what is there. One entry a node in
//! three tables, and no packet is ever flooded or learned from.
//!
//! Between pods no address is translated: what a pod sees as its peer is its peer. A cluster of one node has none of this.
//!
//! IPv4 only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api::{Object, resources};
use base::{Backoff, Stop};
use control::{Change, Informers};
use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use linux::net::{Link, Net, NetError, Route, Vxlan};
use serde_json::Value;
use tokio::time::Instant;

use crate::addresses::gateway;
use crate::pods::uplink_mtu;
use crate::{BRIDGE, hardware_address};

/// The VXLAN link: one, whatever the number of nodes.
pub const VXLAN_LINK: &str = "timonier-vxlan";

/// The UDP port that nodes send each other pods' packets on: Linux' own default, which other Kubernetes networks use too.
pub const VXLAN_PORT: u16 = 8472;

const VXLAN_ID: u32 = 1;

/// What VXLAN over IPv4 adds to each packet: IP, UDP, VXLAN and the inner Ethernet header.
const VXLAN_BYTES: u32 = 50;

/// How packets get to the pods of other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In UDP: the network between the nodes needs to know nothing of pods.
    Vxlan,
    /// As they are, by a route to each node: all nodes must share a link.
    HostRoutes,
}

/// What an [`Overlay`] is made from.
#[derive(Clone)]
pub struct OverlayConfig {
    /// The network namespace that the node lives in.
    pub net: Arc<dyn Net>,
    /// Where nodes come from.
    pub informers: Informers,
    /// This node.
    pub own: Own,
}

/// This node, and how it reaches others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// The address that other nodes know it by.
    pub address: Ipv4Addr,
    /// Its pods' addresses.
    pub pod_cidr: Ipv4Net,
    /// How packets get to others.
    pub mode: Mode,
    /// The pods' largest packet, in bytes.
    pub mtu: u32,
}

/// What matters of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    /// Its pods' addresses.
    pub pod_cidr: Ipv4Net,
    /// The address that it is reached under.
    pub address: Ipv4Addr,
}

/// What should be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// The VXLAN link with its address; none where there is nobody to reach by it.
    pub vxlan: Option<(Vxlan, Ipv4Net)>,
    /// A route to each node's pods, by where it leads.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// The hardware address of each node's end.
    pub neighbours: BTreeMap<Ipv4Addr, [u8; 6]>,
    /// The machine of each node's end.
    pub forwards: BTreeMap<[u8; 6], Ipv4Addr>,
    /// Nodes that share no link with this one, where routes would want that.
    pub unreachable: BTreeSet<String>,
}

/// The largest packet of pods: that of the link that bears the node's address, less what the way between nodes takes.
pub async fn pod_mtu(net: &dyn Net, address: Ipv4Addr, mode: Mode) -> Result<u32, NetError> {
    let links = net.links().await?;
    let bears = |link: &&Link| link.addresses.iter().any(|own| own.addr() == address) && link.name != BRIDGE;
    let uplink = match links.iter().find(bears) {
        Some(link) => link.mtu,
        None => uplink_mtu(net).await?,
    };
    Ok(match mode {
        Mode::Vxlan => uplink - VXLAN_BYTES.min(uplink),
        Mode::HostRoutes => uplink,
    })
}

/// What the object says of a node; nothing where it has no pods' addresses or cannot be reached.
pub fn remote(node: &Value) -> Option<Remote> {
    let pod_cidr = node["spec"]["podCIDR"].as_str()?.parse::<Ipv4Net>().ok()?.trunc();
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
    let address = internal.filter_map(|address| address["address"].as_str()?.parse().ok()).next()?;
    Some(Remote { pod_cidr, address })
}

/// What should be there, for these nodes and this machine's links.
pub fn plan(own: &Own, nodes: &BTreeMap<String, Remote>, links: &[Link]) -> Ways {
    let mut ways = Ways::default();
    let source = Some(gateway(own.pod_cidr));
    for (name, remote) in nodes.iter().filter(|(name, remote)| **name != own.name && is_elsewhere(own, remote)) {
        let destination = remote.pod_cidr;
        let route = match own.mode {
            Mode::Vxlan => {
                let end = destination.network();
                ways.neighbours.insert(end, hardware_address(end));
                ways.forwards.insert(hardware_address(end), remote.address);
                Route { destination, gateway: Some(end), link: VXLAN_LINK.to_owned(), source }
            }
            Mode::HostRoutes => match shared_link(links, remote.address) {
                Some(link) => {
                    Route { destination, gateway: Some(remote.address), link: link.name.clone(), source: None }
                }
                None => {
                    ways.unreachable.insert(name.clone());
                    continue;
                }
            },
        };
        ways.routes.insert(destination, route);
    }
    if !ways.forwards.is_empty() {
        let end = own.pod_cidr.network();
        let (name, mac) = (VXLAN_LINK.to_owned(), hardware_address(end));
        let vxlan = Vxlan { name, id: VXLAN_ID, port: VXLAN_PORT, local: own.address, mac, mtu: own.mtu };
        // What the node itself sends to other nodes' pods may get this address: the way back is through here too.
        ways.vxlan = Some((vxlan, Ipv4Net::new_assert(end, 32)));
    }
    ways
}

/// Whether a node is another machine with other pods: objects of nodes that are gone may claim what is ours by now.
fn is_elsewhere(own: &Own, remote: &Remote) -> bool {
    let overlaps =
        own.pod_cidr.contains(&remote.pod_cidr.network()) || remote.pod_cidr.contains(&own.pod_cidr.network());
    remote.address != own.address && !overlaps
}

fn shared_link(links: &[Link], address: Ipv4Addr) -> Option<&Link> {
    let reaches = |link: &&Link| {
        let own = link.name != BRIDGE && link.name != VXLAN_LINK && !link.loopback;
        own && link.up && link.addresses.iter().any(|net| net.contains(&address))
    };
    links.iter().find(reaches)
}

/// Keeps the ways as the nodes are.
pub struct Overlay {
    config: OverlayConfig,
    nodes: BTreeMap<String, Remote>,
    unreachable: BTreeSet<String>,
}

impl Overlay {
    /// Knows no other node yet.
    pub fn new(config: OverlayConfig) -> Self {
        Self { config, nodes: BTreeMap::new(), unreachable: BTreeSet::new() }
    }

    /// Follows the nodes until `stop`. What the kernel refuses is tried again with back-off.
    pub async fn run(mut self, stop: Stop) {
        let mut changes = self.config.informers.all(resources::NODES).changes();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        let (mut synced, mut retry_at, mut lost) = (false, None::<Instant>, None);
        loop {
            let mut changed = tokio::select! {
                () = stop.stopped() => return,
                change = changes.next() => self.take(&change, &mut synced),
                () = watch_of(&mut lost) => {
                    lost = None;
                    tracing::warn!("someone removed the link to other nodes; making it again");
                    true
                }
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => true,
            };
            while let Some((change, _)) = changes.try_next() {
                changed |= self.take(&change, &mut synced);
            }
            // Before all nodes are known, ways that are in use would be taken for old ones.
            if !synced || !changed {
                continue;
            }
            retry_at = match self.apply().await {
                Ok(has_link) => {
                    backoff.reset();
                    let net = self.config.net.clone();
                    lost = has_link.then(|| async move { drop(net.link_gone(VXLAN_LINK).await) }.boxed());
                    None
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(
                        error = base::chain(&error),
                        ?delay,
                        "cannot make the ways to other nodes; trying again"
                    );
                    Some(Instant::now() + delay)
                }
            };
        }
    }

    /// Takes in a change; whether it matters.
    fn take(&mut self, change: &Change, synced: &mut bool) -> bool {
        let name = |node: &Object| node.key().name.to_string();
        match change {
            Change::Synced => {
                *synced = true;
                true
            }
            Change::Deleted(node) => self.nodes.remove(&name(node)).is_some(),
            Change::Applied(node) => match remote(&node.to_value()) {
                Some(remote) => self.nodes.insert(name(node), remote) != Some(remote),
                None => self.nodes.remove(&name(node)).is_some(),
            },
        }
    }

    /// Makes what should be there and removes the rest. Gives whether there is a link to other nodes now.
    async fn apply(&mut self) -> Result<bool, NetError> {
        let net = &*self.config.net;
        let ways = plan(&self.config.own, &self.nodes, &net.links().await?);
        for name in ways.unreachable.difference(&self.unreachable) {
            tracing::warn!(node = name, "shares no link with this node: its pods cannot be reached by host routes");
        }
        self.unreachable.clone_from(&ways.unreachable);
        apply(net, &ways).await?;
        Ok(ways.vxlan.is_some())
    }
}

/// What the watch says, where there is one; else nothing, for ever.
async fn watch_of(watch: &mut Option<BoxFuture<'_, ()>>) {
    match watch {
        Some(watch) => watch.await,
        None => std::future::pending().await,
    }
}

/// Makes the difference between what is there and what should be.
pub async fn apply(net: &dyn Net, ways: &Ways) -> Result<(), NetError> {
    match &ways.vxlan {
        Some((vxlan, address)) => make_link(net, vxlan, *address).await?,
        None => net.remove_link(VXLAN_LINK).await?,
    }
    // Routes come last and go first: a packet must not be sent where nobody is known.
    for route in net.routes().await?.iter().filter(|route| is_way(route)) {
        if ways.routes.get(&route.destination) != Some(route) {
            net.remove_route(route).await?;
        }
    }
    apply_tables(net, ways).await?;
    let there = net.routes().await?;
    for route in ways.routes.values().filter(|route| !there.contains(route)) {
        net.set_route(route).await?;
    }
    Ok(())
}

async fn apply_tables(net: &dyn Net, ways: &Ways) -> Result<(), NetError> {
    if ways.vxlan.is_none() {
        return Ok(());
    }
    let forwards = net.forwards(VXLAN_LINK).await?;
    for (mac, to) in forwards.iter().filter(|(mac, to)| ways.forwards.get(*mac) != Some(to)) {
        net.remove_forward(VXLAN_LINK, *mac, *to).await?;
    }
    for (mac, to) in ways.forwards.iter().filter(|(mac, to)| forwards.get(*mac) != Some(to)) {
        net.set_forward(VXLAN_LINK, *mac, *to).await?;
    }
    let neighbours = net.neighbours(VXLAN_LINK).await?;
    for address in neighbours.keys().filter(|address| !ways.neighbours.contains_key(address)) {
        net.remove_neighbour(VXLAN_LINK, *address).await?;
    }
    for (address, mac) in ways.neighbours.iter().filter(|(address, mac)| neighbours.get(*address) != Some(mac)) {
        net.set_neighbour(VXLAN_LINK, *address, *mac).await?;
    }
    Ok(())
}

async fn make_link(net: &dyn Net, vxlan: &Vxlan, address: Ipv4Net) -> Result<(), NetError> {
    let there = net.link(VXLAN_LINK).await?;
    if there.is_some_and(|link| link.addresses.iter().any(|other| *other != address)) {
        // The node was given another part of the range.
        net.remove_link(VXLAN_LINK).await?;
    }
    net.add_vxlan(vxlan).await?;
    net.add_address(VXLAN_LINK, address).await?;
    // Loose: what a node sends from its own address may come in here while the way back is another.
    net.set_sysctl(&format!("ipv4/conf/{VXLAN_LINK}/rp_filter"), "2").await?;
    net.set_up(VXLAN_LINK).await
}

/// Whether a route of ours leads to another node.
fn is_way(route: &Route) -> bool {
    route.gateway.is_some()
}

/// Removes the link and the routes to other nodes.
pub(crate) async fn remove(net: &dyn Net) -> Result<(), NetError> {
    apply(net, &Ways::default()).await
}

#[cfg(test)]
mod tests {
    use linux::net::FakeNet;
    use serde_json::json;

    use super::*;

    fn own(mode: Mode) -> Own {
        let (address, pod_cidr) = (Ipv4Addr::new(192, 0, 2, 10), "10.42.0.0/24".parse().unwrap());
        Own { name: "a".to_owned(), address, pod_cidr, mode, mtu: 1450 }
    }

    fn nodes(list: &[(&str, &str, &str)]) -> BTreeMap<String, Remote> {
        let remote = |pod_cidr: &str, address: &str| Remote {
            pod_cidr: pod_cidr.parse().unwrap(),
            address: address.parse().unwrap(),
        };
        list.iter().map(|(name, pods, address)| ((*name).to_owned(), remote(pods, address))).collect()
    }

    #[test]
    fn what_matters_of_a_node() {
        let node = |cidr: &str, addresses: Value| {
            remote(&json!({"spec": {"podCIDR": cidr}, "status": {"addresses": addresses}}))
        };
        let internal = json!([{"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "192.0.2.11"}]);
        let expected = nodes(&[("b", "10.42.1.0/24", "192.0.2.11")])["b"];
        assert_eq!(node("10.42.1.0/24", internal.clone()), Some(expected));
        assert_eq!(node("", internal), None);
        assert_eq!(node("10.42.1.0/24", json!([{"type": "InternalIP", "address": "2001:db8::1"}])), None);
    }

    /// The ways in short: destination, gateway and link of each route.
    fn routes(ways: &Ways) -> Vec<String> {
        let routes = ways.routes.values();
        routes.map(|route| format!("{} {} {}", route.destination, route.gateway.unwrap(), route.link)).collect()
    }

    #[test]
    fn every_node_gets_a_way_but_oneself_and_who_claims_what_is_ours() {
        let all = nodes(&[
            ("a", "10.42.0.0/24", "192.0.2.10"),
            ("b", "10.42.1.0/24", "192.0.2.11"),
            ("c", "10.42.2.0/24", "192.0.2.12"),
            ("same-address", "10.42.3.0/24", "192.0.2.10"),
            ("same-pods", "10.42.0.0/24", "192.0.2.13"),
        ]);
        let ways = plan(&own(Mode::Vxlan), &all, &[]);
        assert_eq!(routes(&ways), ["10.42.1.0/24 10.42.1.0 timonier-vxlan", "10.42.2.0/24 10.42.2.0 timonier-vxlan"]);
        let mac = |last: u8| [0x0a, 0x58, 10, 42, last, 0];
        assert_eq!(
            ways.neighbours,
            [(Ipv4Addr::new(10, 42, 1, 0), mac(1)), (Ipv4Addr::new(10, 42, 2, 0), mac(2))].into()
        );
        assert_eq!(ways.forwards[&mac(2)], Ipv4Addr::new(192, 0, 2, 12));
        let (vxlan, address) = ways.vxlan.unwrap();
        assert_eq!((vxlan.local, vxlan.mac, vxlan.mtu), (Ipv4Addr::new(192, 0, 2, 10), mac(0), 1450));
        assert_eq!(address.to_string(), "10.42.0.0/32");
        assert_eq!(plan(&own(Mode::Vxlan), &nodes(&[("a", "10.42.0.0/24", "192.0.2.10")]), &[]), Ways::default());
    }

    fn link(name: &str, address: &str) -> Link {
        let (name, kind, addresses) = (name.to_owned(), String::new(), vec![address.parse().unwrap()]);
        Link { index: 2, name, kind, mtu: 1500, up: true, loopback: false, master: None, addresses }
    }

    #[test]
    fn host_routes_want_a_shared_link() {
        let links = [link(BRIDGE, "10.42.0.1/24"), link("uplink", "192.0.2.10/24")];
        let all = nodes(&[("b", "10.42.1.0/24", "192.0.2.11"), ("far", "10.42.2.0/24", "198.51.100.7")]);
        let ways = plan(&own(Mode::HostRoutes), &all, &links);
        assert_eq!(routes(&ways), ["10.42.1.0/24 192.0.2.11 uplink"]);
        assert_eq!((ways.vxlan, ways.unreachable), (None, BTreeSet::from(["far".to_owned()])));
    }

    #[tokio::test]
    async fn only_the_difference_is_made_and_nothing_is_left() {
        let net = FakeNet::new();
        let before = net.state();
        let all = nodes(&[("b", "10.42.1.0/24", "192.0.2.11"), ("c", "10.42.2.0/24", "192.0.2.12")]);
        apply(&net, &plan(&own(Mode::Vxlan), &all, &[])).await.unwrap();
        assert_eq!((net.state().routes.len(), net.state().forwards[VXLAN_LINK].len()), (2, 2));

        // One left, one came back as another machine: its entries change, the link stays.
        let moved = nodes(&[("c", "10.42.2.0/24", "192.0.2.13")]);
        let index = net.link(VXLAN_LINK).await.unwrap().unwrap().index;
        apply(&net, &plan(&own(Mode::Vxlan), &moved, &[])).await.unwrap();
        let state = net.state();
        assert_eq!(state.forwards[VXLAN_LINK].values().collect::<Vec<_>>(), [&Ipv4Addr::new(192, 0, 2, 13)]);
        assert_eq!((state.routes.len(), state.neighbours[VXLAN_LINK].len()), (1, 1));
        assert_eq!(net.link(VXLAN_LINK).await.unwrap().unwrap().index, index);

        // The node got another address: the link is another one, with all its entries.
        let elsewhere = Own { address: Ipv4Addr::new(192, 0, 2, 99), ..own(Mode::Vxlan) };
        apply(&net, &plan(&elsewhere, &moved, &[])).await.unwrap();
        assert_eq!(net.state().vxlans[0].local, Ipv4Addr::new(192, 0, 2, 99));
        assert_eq!((net.state().routes.len(), net.state().forwards[VXLAN_LINK].len()), (1, 1));

        remove(&net).await.unwrap();
        assert_eq!((net.state().links, net.state().routes), (before.links, before.routes));
    }
}
