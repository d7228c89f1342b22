//! One network namespace of the kernel: links, addresses, routes, sysctls, nftables and tracked connections.
//!
//! [`Net`] is what the pod network and the service proxy see; [`Kernel`] is the real one (netlink), [`FakeNet`] the one of
//! tests. A `Net` belongs to the namespace that it was opened in, for good: [`Net::enter`] opens another one's. Calls that
//! make something succeed when it is there already, so that a caller that crashed half-way starts again from the top.
//!
//! IPv4 only: no dual-stack cluster is made here yet.

pub mod fake;
pub mod kernel;
pub mod namespace;
pub mod nft;
mod tunnel;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;

pub use fake::FakeNet;
pub use kernel::Kernel;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetError {
    /// What was tried, such as `add link timonier0`.
    pub action: String,
    /// Whether the thing that it was about does not exist.
    pub not_found: bool,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, NetError>;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth` ...; empty for hardware and the loopback.
    pub kind: String,
    /// Its largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// The number of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Its IPv4 addresses, in the kernel's order.
    pub addresses: Vec<Ipv4Net>,
}

/// A bridge to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its hardware address. A bridge without one of its own changes its address as ports come and go, and every pod's
    /// neighbour entry for the gateway would go stale with it.
    pub mac: [u8; 6],
    /// Its largest packet, in bytes.
    pub mtu: u32,
}

/// A pair of virtual links to make: one here, its peer in another namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth<'a> {
    /// The name here, at most 15 bytes.
    pub name: &'a str,
    /// The peer's name.
    pub peer_name: &'a str,
    /// The peer's hardware address.
    pub peer_mac: [u8; 6],
    /// The peer's namespace, as a file.
    pub peer_namespace: &'a Path,
    /// The largest packet of both, in bytes.
    pub mtu: u32,
}

/// A route in the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; `0.0.0.0/0` is the default route.
    pub destination: Ipv4Net,
    /// Through which router; none for what the link reaches itself.
    pub gateway: Option<Ipv4Addr>,
    /// Out of which link.
    pub link: String,
    /// Which source address packets of this host get.
    pub source: Option<Ipv4Addr>,
}

/// A VXLAN link to make: it carries frames between machines in UDP, each to the machine that the link's table names for
/// the frame's hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// The network's number, of 24 bits.
    pub id: u32,
    /// The UDP port that all machines of the network use.
    pub port: u16,
    /// The address that packets are sent from.
    pub local: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its largest packet, in bytes.
    pub mtu: u32,
}

/// Tracked connections to forget: those of one protocol to a destination that were sent on to an endpoint, or to none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connections {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The address that the client sent to; any, where none.
    pub destination: Option<Ipv4Addr>,
    /// The port that the client sent to.
    pub destination_port: u16,
    /// Address and port of the endpoint that answers; none: those that no rule sent on.
    pub endpoint: Option<(Ipv4Addr, u16)>,
}

/// Changes of addresses and routes, as they come.
#[async_trait]
pub trait AddressEvents: Send {
    /// Waits for the next one, whatever it is.
    async fn next(&mut self) -> Result<()>;
}

/// One network namespace.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// What tells of changes of IPv4 addresses and routes from now on.
    async fn address_events(&self) -> Result<Box<dyn AddressEvents>>;
    /// Another namespace, by its file (`/proc/PID/ns/net` or a bind mount).
    async fn enter(&self, namespace: &Path) -> Result<Arc<dyn Net>>;

    /// All links, by number.
    async fn links(&self) -> Result<Vec<Link>>;
    /// One link, if it exists.
    async fn link(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }
    /// Makes a bridge, or gives an existing one this hardware address and MTU.
    async fn add_bridge(&self, bridge: &Bridge) -> Result<()>;
    /// Makes a pair of links. Fails where one of the names is taken.
    async fn add_veth(&self, veth: &Veth<'_>) -> Result<()>;
    /// Removes a link (of a pair: both); nothing happens where none is.
    async fn remove_link(&self, name: &str) -> Result<()>;
    /// Brings a link up.
    async fn set_up(&self, name: &str) -> Result<()>;
    /// Makes `port` a port of `bridge` that also sends back out of itself (hairpin).
    async fn add_port(&self, bridge: &str, port: &str) -> Result<()>;
    /// Gives a link an address.
    async fn add_address(&self, link: &str, address: Ipv4Net) -> Result<()>;
    /// Adds a route, or replaces the one to the same destination. A router is taken to be on the link, whether or not an
    /// address of the link covers it.
    async fn set_route(&self, route: &Route) -> Result<()>;
    /// The routes of the main table that were made so, by this process or an earlier one.
    async fn routes(&self) -> Result<Vec<Route>>;
    /// Removes a route; nothing happens where none is.
    async fn remove_route(&self, route: &Route) -> Result<()>;
    /// The default route with the lowest metric.
    async fn default_route(&self) -> Result<Option<Route>>;

    /// Makes a VXLAN link that learns nothing by itself. One of the name that differs in what cannot be changed is made anew.
    async fn add_vxlan(&self, vxlan: &Vxlan) -> Result<()>;
    /// The lasting neighbours of a link: hardware addresses by address. None where there is no such link.
    async fn neighbours(&self, link: &str) -> Result<BTreeMap<Ipv4Addr, [u8; 6]>>;
    /// Says for good which hardware address a neighbour has.
    async fn set_neighbour(&self, link: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<()>;
    /// Forgets a neighbour; nothing happens where none is.
    async fn remove_neighbour(&self, link: &str, address: Ipv4Addr) -> Result<()>;
    /// Which machine a VXLAN link sends frames to, by hardware address. None where there is no such link.
    async fn forwards(&self, vxlan: &str) -> Result<BTreeMap<[u8; 6], Ipv4Addr>>;
    /// Says for good which machine has a hardware address.
    async fn set_forward(&self, vxlan: &str, mac: [u8; 6], to: Ipv4Addr) -> Result<()>;
    /// Forgets a machine; nothing happens where none is.
    async fn remove_forward(&self, vxlan: &str, mac: [u8; 6], to: Ipv4Addr) -> Result<()>;

    /// Waits until a link is not there (any more). Told by the kernel. Returns at once where there is none.
    async fn link_gone(&self, name: &str) -> Result<()>;

    /// Writes `/proc/sys/net/<name>`, such as `ipv4/ip_forward`. Where the kernel or its guard says no (no such file, no
    /// permission, read-only) that is logged once and not an error: containers are often started so.
    async fn set_sysctl(&self, name: &str, value: &str) -> Result<()>;

    /// Applies changes to one nftables table of family `ip`: all or nothing, in their order.
    async fn commit(&self, table: &str, changes: &[nft::Change]) -> Result<()>;
    /// What a table holds, if it exists. Rules are not read back.
    async fn table(&self, table: &str) -> Result<Option<nft::Contents>>;

    /// Waits until a chain is not there (any more): someone flushed the ruleset, as restarting a firewall does. Told by the
    /// kernel, never by asking again and again. Returns at once where the chain does not exist.
    async fn chain_gone(&self, table: &str, chain: &str) -> Result<()>;

    /// Forgets tracked connections, so that their next packet is seen as a new connection's.
    async fn forget_connections(&self, connections: &[Connections]) -> Result<()>;
}
