//! What joins machines: VXLAN links with their tables, and the routes of the main table, read from and written to the kernel.
//!
//! The kernel cannot change a VXLAN link's number, port or address, and tells them only in its own binary form: so they are
//! read here to see whether a link must be made anew.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use nlink::netlink::fdb::FdbEntryBuilder;
use nlink::netlink::link::VxlanLink;
use nlink::netlink::messages::RouteMessage;
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::types::route::{RouteProtocol, RouteScope};
use nlink::netlink::{Connection, Route as RouteNetlink, RtnetlinkGroup};

use super::kernel::{Kernel, fail};
use super::{AddressEvents, Net, Result, Route, Vxlan};

/// The main routing table's number.
const MAIN_TABLE: u32 = 254;

/// Who made a route: ours bear a number that the kernel keeps with each and does nothing by. Routing daemons have others.
const OURS: RouteProtocol = RouteProtocol::Other(116);

impl Kernel {
    pub(super) async fn make_vxlan(&self, vxlan: &Vxlan) -> Result<()> {
        let action = || format!("add VXLAN link {}", vxlan.name);
        let found = self.route.get_link_by_name(&vxlan.name).await.map_err(fail(action()))?;
        let data = found.as_ref().map(|link| {
            let data = link.link_info().and_then(|info| info.data()).unwrap_or_default();
            (link.kind().unwrap_or_default() == "vxlan").then(|| Fixed::read(data)).flatten()
        });
        match data {
            Some(Some(fixed)) if fixed == Fixed::of(vxlan) => {
                self.route.set_link_address(&*vxlan.name, vxlan.mac).await.map_err(fail(action()))?;
                return self.route.set_link_mtu(&*vxlan.name, vxlan.mtu).await.map_err(fail(action()));
            }
            Some(_) => self.remove_link(&vxlan.name).await?,
            None => {}
        }
        let config = VxlanLink::new(&vxlan.name, vxlan.id)
            .port(vxlan.port)
            .local(vxlan.local)
            .learning(false)
            .address(vxlan.mac)
            .mtu(vxlan.mtu);
        self.route.add_link(config).await.map_err(fail(action()))
    }

    pub(super) async fn list_neighbours(&self, link: &str) -> Result<BTreeMap<Ipv4Addr, [u8; 6]>> {
        let Some(link) = self.link(link).await? else { return Ok(BTreeMap::new()) };
        let found = self.route.get_neighbors_by_index(link.index).await;
        let found = found.map_err(fail(format!("list the neighbours of {}", link.name)))?;
        let lasting = found.iter().filter(|neighbour| neighbour.is_permanent());
        let entries = lasting.filter_map(|neighbour| Some((v4(neighbour.destination())?, mac(neighbour.lladdr()?)?)));
        Ok(entries.collect())
    }

    pub(super) async fn list_forwards(&self, vxlan: &str) -> Result<BTreeMap<[u8; 6], Ipv4Addr>> {
        let Some(link) = self.link(vxlan).await? else { return Ok(BTreeMap::new()) };
        let found = self.route.get_fdb_by_index(link.index).await;
        let found = found.map_err(fail(format!("list where {vxlan} sends frames")))?;
        Ok(found.iter().filter_map(|entry| Some((entry.mac(), v4(entry.dst().as_ref())?))).collect())
    }

    pub(super) async fn list_routes(&self) -> Result<Vec<Route>> {
        let names: BTreeMap<u32, String> =
            self.links().await?.into_iter().map(|link| (link.index, link.name)).collect();
        let found = self.route.get_routes_for_table(MAIN_TABLE).await.map_err(fail("list routes"))?;
        Ok(found.iter().filter_map(|route| read(route, &names)).collect())
    }
}

/// A socket on which the kernel tells of changes.
struct Told(Connection<RouteNetlink>);

#[async_trait]
impl AddressEvents for Told {
    async fn next(&mut self) -> Result<()> {
        match self.0.socket().recv_msg().await {
            Ok(_) => Ok(()),
            // More than the buffer took: something changed, whatever it was.
            Err(error) if error.is_no_buffer_space() => Ok(()),
            Err(error) => Err(fail("watch addresses".to_owned())(error)),
        }
    }
}

impl Kernel {
    pub(super) async fn watch_addresses(&self) -> Result<Box<dyn AddressEvents>> {
        let open = || {
            let connection = Connection::<RouteNetlink>::new().map_err(io::Error::other)?;
            connection.subscribe(&[RtnetlinkGroup::Ipv4Addr, RtnetlinkGroup::Ipv4Route]).map_err(io::Error::other)?;
            Ok(connection)
        };
        let connection = self.in_namespace(open).await.map_err(fail("watch addresses".to_owned()))?;
        Ok(Box::new(Told(connection)))
    }

    pub(super) async fn wait_link_gone(&self, name: &str) -> Result<()> {
        let action = || format!("watch link {name}");
        let open = || {
            let connection = Connection::<RouteNetlink>::new().map_err(io::Error::other)?;
            connection.subscribe(&[RtnetlinkGroup::Link]).map_err(io::Error::other)?;
            Ok(connection)
        };
        let events = self.in_namespace(open).await.map_err(fail(action()))?;
        while self.link(name).await?.is_some() {
            match events.socket().recv_msg().await {
                Ok(_) => {}
                // More than the buffer took: something changed, whatever it was.
                Err(error) if error.is_no_buffer_space() => {}
                Err(error) => return Err(fail(action())(error)),
            }
        }
        Ok(())
    }
}

fn read(route: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    if !route.is_ipv4() || route.protocol() != OURS {
        return None;
    }
    let network = if route.is_default() { Ipv4Addr::UNSPECIFIED } else { v4(route.destination())? };
    Some(Route {
        destination: Ipv4Net::new(network, route.dst_len()).ok()?,
        gateway: v4(route.gateway()),
        link: names.get(&route.oif()?)?.clone(),
        source: v4(route.prefsrc()),
    })
}

/// A route as the kernel is told it.
pub(super) fn config(route: &Route) -> Ipv4Route {
    let mut config = Ipv4Route::from_addr(route.destination.network(), route.destination.prefix_len())
        .dev(&route.link)
        .protocol(OURS);
    config = match route.gateway {
        Some(gateway) => config.gateway(gateway).onlink(),
        None => config.scope(RouteScope::Link),
    };
    match route.source {
        Some(source) => config.prefsrc(source),
        None => config,
    }
}

/// An entry of a VXLAN link's own table.
pub(super) fn forward(vxlan: &str, mac: [u8; 6], to: Ipv4Addr) -> FdbEntryBuilder {
    FdbEntryBuilder::new(mac).dev(vxlan).dst(IpAddr::V4(to)).permanent().self_()
}

/// What of a VXLAN link cannot be changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fixed {
    id: Option<u32>,
    port: Option<u16>,
    local: Option<Ipv4Addr>,
}

impl Fixed {
    fn of(vxlan: &Vxlan) -> Self {
        Self { id: Some(vxlan.id), port: Some(vxlan.port), local: Some(vxlan.local) }
    }

    /// Reads the link's attributes: length, type, value, each padded to four bytes. `None` where they are not such.
    fn read(mut data: &[u8]) -> Option<Self> {
        const ID: u16 = 1;
        const LOCAL: u16 = 4;
        const PORT: u16 = 15;
        let mut fixed = Self::default();
        while let [a, b, c, d, ..] = *data {
            let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
            let value = data.get(4..length)?;
            match (kind, value) {
                (ID, &[a, b, c, d]) => fixed.id = Some(u32::from_ne_bytes([a, b, c, d])),
                (LOCAL, &[a, b, c, d]) => fixed.local = Some(Ipv4Addr::new(a, b, c, d)),
                // In network order, unlike the number.
                (PORT, &[a, b]) => fixed.port = Some(u16::from_be_bytes([a, b])),
                _ => {}
            }
            data = data.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(fixed)
    }
}

fn v4(address: Option<&IpAddr>) -> Option<Ipv4Addr> {
    match address? {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    }
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}
