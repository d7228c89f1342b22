//! The real kernel, over netlink.
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, for good; so a [`Kernel`] holds three of
//! them (links, nftables, connection tracking) and works in one namespace whatever thread uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use nlink::netlink::addr::Ipv4Address;
use nlink::netlink::link::{BridgeLink, BridgePortConfig, VethLink};
use nlink::netlink::messages::{AddressMessage, LinkMessage};
use nlink::netlink::neigh::Neighbor;
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, IpProtocol};
use nlink::netlink::nftables::{
    BaseChain, Chain, Family, FilterHook, NatHook, NftablesGroup, Policy, Priority, RawMessage, Rule, Set, SetDataType,
    SetElement, SetElementData, SetFlags, SetKeyType, Transaction, Verdict,
};
use nlink::netlink::types::AddressFamily;
use nlink::netlink::{Connection, Error, Netfilter, Nftables, Route as RouteProtocol};

use super::nft::{Change, Contents, Data, Elements, Field, Hook, Value, chain_name};
use super::{AddressEvents, Bridge, Connections, Link, Net, NetError, Result, Route, Veth, Vxlan, namespace, tunnel};

/// How many elements go into one message: a list of elements is one attribute, whose length has 16 bits, and an element of
/// the widest set takes about 120 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Sets with fewer elements come in one part.
const LARGE_SET: usize = 64;

/// Somebody else who changes a set without end is not waited for.
const SET_READS_MAX: usize = 16;

/// The send buffer of the nftables socket. A transaction is one datagram; with the default of 208 KiB one of some thousand
/// elements would be refused. The kernel allocates what a datagram needs, not this.
const SEND_BUFFER_BYTES: usize = 64 << 20;

/// The kernel, in one network namespace.
pub struct Kernel {
    pub(super) route: Connection<RouteProtocol>,
    nft: Connection<Nftables>,
    netfilter: Connection<Netfilter>,
    /// The namespace's file; `None` for the one that the process runs in.
    namespace: Option<PathBuf>,
    /// The sysctls that could not be written, so that each is logged once.
    refused: Mutex<BTreeSet<String>>,
}

impl Kernel {
    /// The elements of a set. The kernel gives a large one in parts and counts from its beginning for each; while the table
    /// behind it grows, which goes on for a moment after many were added, their order changes and some are left out. So a
    /// large set is read until it says the same twice.
    async fn elements(&self, table: &str, set: &str) -> Result<Elements> {
        let action = || format!("read nftables set {table} {set}");
        let mut before = None;
        for _ in 0..SET_READS_MAX {
            let found = self.nft.list_set_elements(table, set, Family::Ip).await.map_err(fail(action()))?;
            let elements: Elements = found.iter().map(|element| (element.key().to_vec(), value_of(element))).collect();
            if elements.len() < LARGE_SET || before.as_ref() == Some(&elements) {
                return Ok(elements);
            }
            before = Some(elements);
        }
        Err(NetError { action: action(), not_found: false, source: "it changes all the time".into() })
    }

    /// The namespace of the calling thread, which must be the one of the whole process. Needs a tokio runtime.
    pub fn new() -> Result<Self> {
        Self::open(None).map_err(fail("open netlink sockets"))
    }

    fn open(namespace: Option<PathBuf>) -> io::Result<Self> {
        let nft = Connection::<Nftables>::new().map_err(io::Error::other)?;
        let sized = nix::sys::socket::setsockopt(
            &nft.socket().as_fd(),
            nix::sys::socket::sockopt::SndBufForce,
            &SEND_BUFFER_BYTES,
        );
        if let Err(error) = sized {
            tracing::warn!(%error, "cannot enlarge the nftables socket's buffer; large rule changes may be refused");
        }
        Ok(Self {
            route: Connection::<RouteProtocol>::new().map_err(io::Error::other)?,
            nft,
            netfilter: Connection::<Netfilter>::new().map_err(io::Error::other)?,
            namespace,
            refused: Mutex::default(),
        })
    }

    /// A socket that gets one message for every nftables transaction that anyone commits in this namespace. The kernel also
    /// tells every changed element; a filter keeps those from the socket, or one large transaction would overrun it.
    async fn generations(&self) -> io::Result<Connection<Nftables>> {
        self.in_namespace(|| {
            let connection = Connection::<Nftables>::new().map_err(io::Error::other)?;
            connection.socket().attach_filter(&only_generations()).map_err(io::Error::other)?;
            connection.subscribe(&[NftablesGroup::All]).map_err(io::Error::other)?;
            Ok(connection)
        })
        .await
    }

    /// What `open` opens in this namespace.
    pub(super) async fn in_namespace<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Some(path) = &self.namespace else { return open() };
        let runtime = tokio::runtime::Handle::current();
        namespace::run(path.clone(), move || {
            let _in_runtime = runtime.enter();
            open()
        })
        .await
    }

    /// Logs a refused sysctl the first time.
    fn refuse(&self, name: &str, error: &io::Error) {
        let mut refused = self.refused.lock().expect("no holder of this lock panics");
        if refused.insert(name.to_owned()) {
            tracing::warn!(sysctl = name, %error, "cannot set a sysctl; going on without it");
        }
    }
}

pub(super) fn fail<E: FailedCall>(action: impl Into<String>) -> impl FnOnce(E) -> NetError {
    let action = action.into();
    move |error| NetError { action, not_found: error.not_found(), source: error.boxed() }
}

/// What [`fail`] asks of an error.
pub(super) trait FailedCall {
    fn not_found(&self) -> bool;
    fn boxed(self) -> Box<dyn std::error::Error + Send + Sync>;
}

impl FailedCall for Error {
    fn not_found(&self) -> bool {
        self.is_not_found() || self.is_no_device()
    }
    fn boxed(self) -> Box<dyn std::error::Error + Send + Sync> {
        Box::new(self)
    }
}

impl FailedCall for io::Error {
    fn not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
    fn boxed(self) -> Box<dyn std::error::Error + Send + Sync> {
        Box::new(self)
    }
}

/// Success where the thing is there already.
fn or_exists(result: std::result::Result<(), Error>) -> std::result::Result<(), Error> {
    match result {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other,
    }
}

#[async_trait]
impl Net for Kernel {
    async fn enter(&self, namespace: &Path) -> Result<Arc<dyn Net>> {
        let path = namespace.to_owned();
        let runtime = tokio::runtime::Handle::current();
        // The thread opens the sockets there; their readiness is watched by this runtime.
        let opened = namespace::run(path.clone(), move || {
            let _in_runtime = runtime.enter();
            Self::open(Some(path))
        });
        let kernel = opened.await.map_err(fail(format!("enter network namespace {}", namespace.display())))?;
        Ok(Arc::new(kernel))
    }

    async fn links(&self) -> Result<Vec<Link>> {
        let links = self.route.get_links().await.map_err(fail("list links"))?;
        let addresses = self.route.get_addresses().await.map_err(fail("list addresses"))?;
        Ok(links.iter().map(|link| read_link(link, &addresses)).collect())
    }

    async fn link(&self, name: &str) -> Result<Option<Link>> {
        let found = self.route.get_link_by_name(name).await.map_err(fail(format!("look up link {name}")))?;
        let Some(link) = found else { return Ok(None) };
        let addresses = self.route.get_addresses_by_index(link.ifindex()).await.map_err(fail("list addresses"))?;
        Ok(Some(read_link(&link, &addresses)))
    }

    async fn add_bridge(&self, bridge: &Bridge) -> Result<()> {
        let action = || format!("add bridge {}", bridge.name);
        let config = BridgeLink::new(&bridge.name).mtu(bridge.mtu).address(bridge.mac).stp(false).forward_delay_ms(0);
        match self.route.add_link(config).await {
            Err(error) if error.is_already_exists() => {
                self.route.set_link_address(&*bridge.name, bridge.mac).await.map_err(fail(action()))?;
                self.route.set_link_mtu(&*bridge.name, bridge.mtu).await.map_err(fail(action()))
            }
            other => other.map_err(fail(action())),
        }
    }

    async fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let action = format!("add link {} with its peer in {}", veth.name, veth.peer_namespace.display());
        let namespace = match std::fs::File::open(veth.peer_namespace) {
            Ok(file) => file,
            Err(error) => return Err(fail(action)(error)),
        };
        let config = VethLink::new(veth.name, veth.peer_name)
            .mtu(veth.mtu)
            .peer_address(veth.peer_mac)
            .peer_netns_fd(&namespace);
        self.route.add_link(config).await.map_err(fail(action))
    }

    async fn remove_link(&self, name: &str) -> Result<()> {
        self.route.del_link_if_exists(name).await.map(drop).map_err(fail(format!("remove link {name}")))
    }

    async fn set_up(&self, name: &str) -> Result<()> {
        self.route.set_link_up(name).await.map_err(fail(format!("bring link {name} up")))
    }

    async fn add_port(&self, bridge: &str, port: &str) -> Result<()> {
        let action = || format!("make {port} a port of {bridge}");
        self.route.set_link_master(port, bridge).await.map_err(fail(action()))?;
        let config = BridgePortConfig::new().hairpin(true);
        self.route.set_bridge_port(port, config).await.map_err(fail(action()))
    }

    async fn add_address(&self, link: &str, address: Ipv4Net) -> Result<()> {
        let config = Ipv4Address::new(link, address.addr(), address.prefix_len());
        or_exists(self.route.add_address(config).await).map_err(fail(format!("give {address} to link {link}")))
    }

    async fn set_route(&self, route: &Route) -> Result<()> {
        let action = format!("route {} to {}", route.destination, route.link);
        self.route.replace_route(tunnel::config(route)).await.map_err(fail(action))
    }

    async fn routes(&self) -> Result<Vec<Route>> {
        self.list_routes().await
    }

    async fn remove_route(&self, route: &Route) -> Result<()> {
        let action = format!("remove the route to {}", route.destination);
        match self.route.del_route_if_exists(tunnel::config(route)).await {
            // The link went, and its routes with it.
            Err(error) if error.is_no_device() || error.is_not_found() => Ok(()),
            removed => removed.map(drop).map_err(fail(action)),
        }
    }

    async fn default_route(&self) -> Result<Option<Route>> {
        const MAIN_TABLE: u32 = 254;
        let routes = self.route.get_routes_for_table(MAIN_TABLE).await.map_err(fail("list routes"))?;
        let defaults = routes.iter().filter(|route| route.is_ipv4() && route.is_default());
        let Some(found) = defaults.min_by_key(|route| route.priority().unwrap_or(0)) else { return Ok(None) };
        let Some(index) = found.oif() else { return Ok(None) };
        let link = self.route.interface_name(index).await.map_err(fail("name the default route's link"))?;
        let v4 = |address: Option<&IpAddr>| match address {
            Some(IpAddr::V4(v4)) => Some(*v4),
            _ => None,
        };
        Ok(Some(Route {
            destination: Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0),
            gateway: v4(found.gateway()),
            link: link.unwrap_or_default(),
            source: v4(found.prefsrc()),
        }))
    }

    async fn add_vxlan(&self, vxlan: &Vxlan) -> Result<()> {
        self.make_vxlan(vxlan).await
    }

    async fn neighbours(&self, link: &str) -> Result<BTreeMap<Ipv4Addr, [u8; 6]>> {
        self.list_neighbours(link).await
    }

    async fn set_neighbour(&self, link: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
        let neighbour = Neighbor::new_v4(link, address).lladdr(mac).permanent();
        self.route.replace_neighbor(neighbour).await.map_err(fail(format!("name the neighbour {address} on {link}")))
    }

    async fn remove_neighbour(&self, link: &str, address: Ipv4Addr) -> Result<()> {
        let removed = self.route.del_neighbor_if_exists(Neighbor::new_v4(link, address)).await;
        removed.map(drop).map_err(fail(format!("forget the neighbour {address} on {link}")))
    }

    async fn forwards(&self, vxlan: &str) -> Result<BTreeMap<[u8; 6], Ipv4Addr>> {
        self.list_forwards(vxlan).await
    }

    async fn set_forward(&self, vxlan: &str, mac: [u8; 6], to: Ipv4Addr) -> Result<()> {
        let entry = tunnel::forward(vxlan, mac, to);
        self.route.replace_fdb(entry).await.map_err(fail(format!("send frames to {to} on {vxlan}")))
    }

    async fn remove_forward(&self, vxlan: &str, mac: [u8; 6], to: Ipv4Addr) -> Result<()> {
        match self.route.del_fdb_entry(tunnel::forward(vxlan, mac, to)).await {
            Err(error) if error.is_not_found() => Ok(()),
            removed => removed.map_err(fail(format!("send no more frames to {to} on {vxlan}"))),
        }
    }

    async fn address_events(&self) -> Result<Box<dyn AddressEvents>> {
        self.watch_addresses().await
    }

    async fn link_gone(&self, name: &str) -> Result<()> {
        self.wait_link_gone(name).await
    }

    async fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let (path, text) = (Path::new("/proc/sys/net").join(name), value.to_owned());
        let write = move || std::fs::write(path, text);
        let written = match &self.namespace {
            Some(namespace) => namespace::run(namespace.clone(), write).await,
            None => tokio::task::spawn_blocking(write).await.map_err(io::Error::other).flatten(),
        };
        match written {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                self.refuse(name, &error);
                Ok(())
            }
            Err(error) => Err(fail(format!("set sysctl net/{name} to {value}"))(error)),
        }
    }

    async fn commit(&self, table: &str, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let action = || format!("change nftables table {table}");
        let mut transaction = self.nft.transaction();
        for change in changes {
            transaction = encode(transaction, table, change).map_err(fail(action()))?;
        }
        transaction.commit(&self.nft).await.map_err(fail(action()))
    }

    async fn table(&self, table: &str) -> Result<Option<Contents>> {
        let action = || format!("read nftables table {table}");
        let tables = self.nft.list_tables_in(Family::Ip).await.map_err(fail(action()))?;
        if !tables.iter().any(|found| found.name == table) {
            return Ok(None);
        }
        let chains = self.nft.list_chains_in(table, Family::Ip).await.map_err(fail(action()))?;
        let mut contents =
            Contents { chains: chains.into_iter().map(|chain| chain.name).collect(), ..Contents::default() };
        for set in self.nft.list_sets_in(table, Family::Ip).await.map_err(fail(action()))? {
            let mut elements = Elements::new();
            if !set.flags.contains(SetFlags::EVAL) {
                elements = self.elements(table, &set.name).await?;
            }
            contents.sets.insert(set.name, elements);
        }
        Ok(Some(contents))
    }

    async fn chain_gone(&self, table: &str, chain: &str) -> Result<()> {
        let action = || format!("watch nftables table {table}");
        let events = self.generations().await.map_err(fail(action()))?;
        loop {
            let chains = self.nft.list_chains_in(table, Family::Ip).await.map_err(fail(action()))?;
            if !chains.iter().any(|found| found.table == table && found.name == chain) {
                return Ok(());
            }
            match events.socket().recv_msg().await {
                Ok(_) => {}
                // More than the buffer took: something changed, whatever it was.
                Err(error) if error.is_no_buffer_space() => {}
                Err(error) => return Err(fail(action())(error)),
            }
        }
    }

    async fn forget_connections(&self, connections: &[Connections]) -> Result<()> {
        // One walk over the table for each protocol, however many are wanted.
        for number in connections.iter().map(|wanted| wanted.protocol).collect::<BTreeSet<_>>() {
            let wanted: BTreeSet<&Connections> =
                connections.iter().filter(|wanted| wanted.protocol == number).collect();
            let filter = ConntrackFilter::new().family(AddressFamily::Inet).proto(protocol(number));
            let tracked = self.netfilter.get_conntrack_matching(&filter).await.map_err(fail("list connections"))?;
            for entry in tracked.iter().filter(|entry| is_wanted(entry, number, &wanted)) {
                match self.netfilter.del_conntrack_entry(entry).await {
                    // It ended by itself.
                    Err(error) if error.is_not_found() => {}
                    other => other.map_err(fail("forget a connection"))?,
                }
            }
        }
        Ok(())
    }
}

fn read_link(link: &LinkMessage, addresses: &[AddressMessage]) -> Link {
    let ipv4 = |address: &AddressMessage| match address.primary_address()? {
        IpAddr::V4(v4) => Ipv4Net::new(*v4, address.prefix_len()).ok(),
        IpAddr::V6(_) => None,
    };
    Link {
        index: link.ifindex(),
        name: link.name_or("").to_owned(),
        kind: link.kind().unwrap_or("").to_owned(),
        mtu: link.mtu().unwrap_or(0),
        up: link.is_up(),
        loopback: link.is_loopback(),
        master: link.master(),
        addresses: addresses.iter().filter(|address| address.ifindex() == link.ifindex()).filter_map(ipv4).collect(),
    }
}

fn is_wanted(entry: &ConntrackEntry, protocol: u8, wanted: &BTreeSet<&Connections>) -> bool {
    let (Some(IpAddr::V4(destination)), Some(IpAddr::V4(endpoint))) = (entry.orig.dst_ip, entry.reply.src_ip) else {
        return false;
    };
    let (Some(destination_port), Some(endpoint_port)) = (entry.orig.dst_port, entry.reply.src_port) else {
        return false;
    };
    let sent_on = (endpoint, endpoint_port) != (destination, destination_port);
    let endpoint = sent_on.then_some((endpoint, endpoint_port));
    [Some(destination), None]
        .into_iter()
        .any(|destination| wanted.contains(&Connections { protocol, destination, destination_port, endpoint }))
}

fn protocol(number: u8) -> IpProtocol {
    match number {
        6 => IpProtocol::Tcp,
        17 => IpProtocol::Udp,
        other => IpProtocol::Other(other),
    }
}

fn value_of(element: &SetElement) -> Value {
    match element.data() {
        Some(SetElementData::Verdict(Verdict::GotoTo(chain) | Verdict::JumpTo(chain))) => {
            Value::Goto(chain.to_string())
        }
        Some(SetElementData::Value(bytes)) => Value::Bytes(bytes.clone()),
        _ => Value::Nothing,
    }
}

/// Appends one change to a transaction.
fn encode(transaction: Transaction, table: &str, change: &Change) -> std::result::Result<Transaction, Error> {
    Ok(match change {
        // Without the flag that refuses an existing one, which the library's own call sets.
        Change::AddTable => {
            transaction.raw(RawMessage::new(0, Family::Ip).flags(NLM_F_CREATE).attrs(text_attribute(1, table)))
        }
        Change::RemoveTable => transaction.del_table(table, Family::Ip),
        Change::AddChain { name, hook } => {
            let chain = Chain::new(table, name.as_str())?.family(Family::Ip);
            transaction.update_chain(match hook {
                Some(hook) => chain.base(base(*hook).policy(Policy::Accept)),
                None => chain,
            })
        }
        Change::FlushChain(name) => transaction.flush_chain(table, name, Family::Ip),
        Change::RemoveChain(name) => {
            transaction.flush_chain(table, name, Family::Ip).del_chain(table, name, Family::Ip)
        }
        Change::AddRule { chain, rule } => {
            transaction.add_rule(Rule::new(table, chain).family(Family::Ip).expressions(rule.clone()))
        }
        Change::AddSet(set) => transaction.add_set(set_of(table, set)),
        Change::RemoveSet(name) => transaction.del_set(table, name, Family::Ip),
        Change::AddElements { set, elements } => {
            let shape = set_of(table, set);
            let elements: Vec<SetElement> = elements.iter().map(|(key, value)| element_of(key, value)).collect();
            elements.chunks(ELEMENTS_PER_MESSAGE).fold(transaction, |sum, chunk| sum.add_set_elements(&shape, chunk))
        }
        Change::RemoveElements { set, keys } => {
            let shape = set_of(table, set);
            let elements: Vec<SetElement> = keys.iter().map(|key| SetElement::new(key.clone())).collect();
            elements.chunks(ELEMENTS_PER_MESSAGE).fold(transaction, |sum, chunk| sum.del_set_elements(&shape, chunk))
        }
    })
}

/// A classic BPF program: load the message type, compare, take all or nothing. `NFT_MSG_NEWGEN` comes in a datagram of its
/// own at the end of each transaction.
fn only_generations() -> Vec<u8> {
    const LOAD_HALF: u16 = 0x28;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NEW_GENERATION: u16 = (10 << 8) | 15;
    // The type is in the machine's byte order; BPF loads in network order.
    let wanted = u32::from(u16::from_be_bytes(NEW_GENERATION.to_ne_bytes()));
    let program: [(u16, u8, u8, u32); 4] =
        [(LOAD_HALF, 0, 0, 4), (JUMP_EQUAL, 0, 1, wanted), (RETURN, 0, 0, u32::MAX), (RETURN, 0, 0, 0)];
    let instruction = |(code, then, otherwise, value): (u16, u8, u8, u32)| {
        let [a, b] = code.to_ne_bytes();
        let [c, d, e, f] = value.to_ne_bytes();
        [a, b, then, otherwise, c, d, e, f]
    };
    program.into_iter().flat_map(instruction).collect()
}

const NLM_F_CREATE: u16 = 0x400;

/// A netlink attribute that holds a zero-terminated string.
fn text_attribute(kind: u16, text: &str) -> Vec<u8> {
    let length = 4 + text.len() + 1;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend(u16::try_from(length).expect("names are short").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Ten before the translation of destinations.
const BEFORE_NAT: Priority = Priority::Custom(-110);

fn base(hook: Hook) -> BaseChain {
    match hook {
        Hook::RawPrerouting => BaseChain::filter(FilterHook::Prerouting, Priority::Raw),
        Hook::FilterBeforeNatPrerouting => BaseChain::filter(FilterHook::Prerouting, BEFORE_NAT),
        Hook::FilterBeforeNatOutput => BaseChain::filter(FilterHook::Output, BEFORE_NAT),
        Hook::FilterInput => BaseChain::filter(FilterHook::Input, Priority::Filter),
        Hook::FilterForward => BaseChain::filter(FilterHook::Forward, Priority::Filter),
        Hook::FilterOutput => BaseChain::filter(FilterHook::Output, Priority::Filter),
        Hook::NatPrerouting => BaseChain::nat(NatHook::Prerouting, Priority::DstNat),
        Hook::NatOutput => BaseChain::nat(NatHook::Output, Priority::DstNat),
        Hook::NatPostrouting => BaseChain::nat(NatHook::Postrouting, Priority::SrcNat),
    }
}

fn set_of(table: &str, set: &super::nft::Set) -> Set {
    let mut shape = Set::new(table, &set.name).family(Family::Ip).key_type(key_type(&set.key));
    shape = match &set.data {
        Data::Nothing => shape,
        Data::Verdict => shape.vmap(),
        Data::Fields(fields) => shape.map(SetDataType::Value(key_type(fields))),
    };
    match set.dynamic {
        Some((size, timeout)) => shape.dynamic().size(size).timeout(timeout),
        None => shape,
    }
}

fn key_type(fields: &[Field]) -> SetKeyType {
    let of = |field: &Field| match field {
        Field::Address => SetKeyType::Ipv4Addr,
        Field::Protocol => SetKeyType::InetProto,
        Field::Port => SetKeyType::InetService,
        Field::Number => SetKeyType::Mark,
    };
    match fields {
        [field] => of(field),
        fields => SetKeyType::Concat(fields.iter().map(of).collect()),
    }
}

fn element_of(key: &[u8], value: &Value) -> SetElement {
    let element = SetElement::new(key.to_vec());
    match value {
        Value::Nothing => element,
        Value::Goto(chain) => element.verdict(Verdict::GotoTo(chain_name(chain))),
        Value::Bytes(bytes) => element.value(SetElement::new(bytes.clone())),
    }
}
