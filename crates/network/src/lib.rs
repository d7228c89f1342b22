//! The pod network and the service proxy of one node.
//!
//! [`PodNetworkBuiltIn`] gives pods their addresses: a bridge, a pair of links for each pod, routes. [`overlay::Overlay`]
//! leads to the pods of other nodes. [`proxy::run`] makes services reachable. The first and the last keep their rules in the
//! one nftables table [`TABLE`]: each only its own chains and sets, whose names begin with `pods-` or not. Host ports
//! ([`host_ports`]) and network policies ([`policy`]) have tables of their own. Everything lives in the network namespace that
//! the process runs in, which may have nothing but a loopback; [`remove_all`] leaves none of it behind.
//!
//! IPv4 only so far.

pub mod addresses;
mod difference;
mod fingerprint;
pub mod host_ports;
pub mod overlay;
pub mod plugins;
pub mod pods;
pub mod policy;
pub mod proxy;
pub mod sandboxes;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use ipnet::Ipv4Net;
use linux::net::{Net, NetError, nft::Change};

pub use pods::{PodNetworkBuiltIn, PodNetworkConfig, StartError};

/// The nftables table, of family `ip`, that holds all rules.
pub const TABLE: &str = "timonier";

/// The bridge that the node's pods hang on.
pub const BRIDGE: &str = "timonier0";

/// What the names of the pods' links on the node begin with.
pub const LINK_PREFIX: &str = "tm";

/// Why [`remove_all`] could not finish.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The kernel refused.
    #[error("cannot remove the node's network")]
    Net(#[from] NetError),
    /// Plugins did not take back what they gave.
    #[error("cannot take back what network plugins gave")]
    Plugins(#[from] plugins::PluginsError),
    /// The files that hold addresses could not be removed.
    #[error("cannot remove {path}")]
    State {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Removes the pods' links, the ways to other nodes, the bridge with its addresses and routes, the rules, and the addresses
/// held under `state_dir`.
/// May be repeated; nothing happens where nothing is.
pub async fn remove_all(net: &dyn Net, state_dir: &Path) -> Result<(), RemoveError> {
    for table in [TABLE, host_ports::TABLE, policy::TABLE] {
        // Whether it is there or not.
        net.commit(table, &[Change::AddTable, Change::RemoveTable]).await?;
    }
    for link in net.links().await? {
        if link.kind == "veth" && is_pod_link(&link.name) {
            net.remove_link(&link.name).await?;
        }
    }
    plugins::remove_all(state_dir).await?;
    overlay::remove(net).await?;
    net.remove_link(BRIDGE).await?;
    match tokio::fs::remove_dir_all(state_dir).await {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RemoveError::State { path: state_dir.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

/// Whether a link of this name was made for a pod.
fn is_pod_link(name: &str) -> bool {
    name.strip_prefix(LINK_PREFIX)
        .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The address that other machines reach this node under: the source address of the default route, else the first global
/// address that is not on the loopback or the pods' bridge. `None` where there is none, such as in a namespace with only a
/// loopback: there the pods' gateway address serves.
pub async fn node_address(net: &dyn Net) -> Result<Option<IpAddr>, NetError> {
    let links = net.links().await?;
    let global = |address: &&Ipv4Net| !address.addr().is_loopback() && !address.addr().is_link_local();
    if let Some(route) = net.default_route().await? {
        let of_link = || links.iter().find(|link| link.name == route.link)?.addresses.iter().find(global);
        if let Some(address) = route.source.or_else(|| of_link().map(Ipv4Net::addr)) {
            return Ok(Some(IpAddr::V4(address)));
        }
    }
    let candidates =
        links.iter().filter(|link| !link.loopback && link.name != BRIDGE && link.name != overlay::VXLAN_LINK);
    Ok(candidates.flat_map(|link| &link.addresses).find(global).map(|address| IpAddr::V4(address.addr())))
}

/// How long another address must be there before it counts: one that goes and comes while its lease is renewed does not.
const ADDRESS_SETTLES: Duration = Duration::from_secs(2);

/// Waits until other machines reach this node under another address than `known`, and gives that.
pub async fn node_address_other_than(net: &dyn Net, known: Ipv4Addr) -> Result<Ipv4Addr, NetError> {
    let mut events = net.address_events().await?;
    loop {
        match node_address(net).await? {
            Some(IpAddr::V4(found)) if found != known => {
                tokio::time::sleep(ADDRESS_SETTLES).await;
                if node_address(net).await? == Some(IpAddr::V4(found)) {
                    return Ok(found);
                }
            }
            _ => events.next().await?,
        }
    }
}

/// Brings the loopback up. A new network namespace has it down, and then not even 127.0.0.1 answers.
pub async fn ensure_loopback_up(net: &dyn Net) -> Result<(), NetError> {
    net.set_up("lo").await
}

/// The hardware address that goes with an address: whoever gets the address later has the same one, so no neighbour entry
/// ever goes stale. `0a:58` marks an address as locally administered.
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use linux::net::{Bridge, FakeNet};

    use super::*;

    async fn uplink(net: &FakeNet, address: Ipv4Addr) {
        net.add_bridge(&Bridge { name: "uplink".into(), mac: [2; 6], mtu: 1500 }).await.unwrap();
        net.add_address("uplink", Ipv4Net::new_assert(address, 24)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn another_address_counts_when_it_stays() {
        let (net, first, second) = (FakeNet::default(), Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(192, 0, 2, 77));
        uplink(&net, first).await;
        let mut moved = Box::pin(node_address_other_than(&net, first));
        let mut waits = async |seconds| tokio::time::timeout(Duration::from_secs(seconds), &mut moved).await.ok();
        assert!(waits(60).await.is_none());
        // For a moment another one, then none, then the same again.
        net.remove_link("uplink").await.unwrap();
        uplink(&net, second).await;
        assert!(waits(1).await.is_none());
        net.remove_link("uplink").await.unwrap();
        assert!(waits(60).await.is_none());
        uplink(&net, first).await;
        assert!(waits(60).await.is_none());
        net.remove_link("uplink").await.unwrap();
        uplink(&net, second).await;
        assert_eq!(waits(60).await.unwrap().unwrap(), second);
    }
}
