//! Network namespaces in memory, as strict as the kernel about what exists and what is in use.
//!
//! Packets do not flow here: tests with real namespaces show that rules do what they say; this one shows which are there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use tokio::sync::watch;

use super::nft::{Change, Contents, Elements, Rule, Set, Value};
use super::{AddressEvents, Bridge, Connections, Link, Net, NetError, Result, Route, Veth, Vxlan};

/// A machine's namespaces in memory; this value is one of them.
#[derive(Clone)]
pub struct FakeNet {
    machine: Arc<Mutex<BTreeMap<PathBuf, State>>>,
    /// Told at every change.
    changed: Arc<watch::Sender<()>>,
    namespace: PathBuf,
}

/// What one namespace holds.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Its links.
    pub links: Vec<Link>,
    /// Namespace and name of each veth's other end, by name.
    pub peers: BTreeMap<String, (PathBuf, String)>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Its VXLAN links.
    pub vxlans: Vec<Vxlan>,
    /// Its lasting neighbours, by link.
    pub neighbours: BTreeMap<String, BTreeMap<Ipv4Addr, [u8; 6]>>,
    /// Where its VXLAN links send frames, by link.
    pub forwards: BTreeMap<String, BTreeMap<[u8; 6], Ipv4Addr>>,
    /// What was written to its sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Its nftables tables.
    pub tables: BTreeMap<String, Table>,
    /// The connections that were forgotten.
    pub forgotten: Vec<Connections>,
    /// How many transactions were applied, and how many elements they added or removed.
    pub commits: (usize, usize),
}

/// One nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The rules of its chains.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Its sets, with their elements.
    pub sets: BTreeMap<String, (Set, Elements)>,
}

impl Default for FakeNet {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeNet {
    /// A machine whose first namespace has a loopback and nothing else.
    pub fn new() -> Self {
        Self { machine: Arc::default(), changed: Arc::default(), namespace: PathBuf::new() }
    }

    /// What this namespace holds.
    pub fn state(&self) -> State {
        self.peek(State::clone)
    }

    /// Changes this namespace as someone else would.
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = {
            let mut machine = self.machine.lock().expect("no holder of the fake machine's lock panics");
            change(machine.entry(self.namespace.clone()).or_insert_with(State::with_loopback))
        };
        self.changed.send_replace(());
        result
    }

    fn peek<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let mut machine = self.machine.lock().expect("no holder of the fake machine's lock panics");
        look(machine.entry(self.namespace.clone()).or_insert_with(State::with_loopback))
    }

    fn other(&self, namespace: &Path) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }
}

impl State {
    fn with_loopback() -> Self {
        let mut state = Self::default();
        state.add("lo", "", 65536);
        state.links[0].loopback = true;
        state
    }

    fn add(&mut self, name: &str, kind: &str, mtu: u32) {
        let index = self.links.iter().map(|link| link.index).max().unwrap_or(0) + 1;
        let (name, kind) = (name.to_owned(), kind.to_owned());
        self.links.push(Link { index, name, kind, mtu, up: false, loopback: false, master: None, addresses: vec![] });
    }

    fn link(&mut self, name: &str, action: &str) -> Result<&mut Link> {
        let found = self.links.iter_mut().find(|link| link.name == name);
        found.ok_or_else(|| failed(format!("{action} {name}"), true, "no such device"))
    }
}

fn failed(action: String, not_found: bool, why: &str) -> NetError {
    NetError { action, not_found, source: why.into() }
}

/// Tells of every change of the machine, those of addresses among them.
struct Changes {
    changed: watch::Receiver<()>,
    /// Keeps the sender.
    _machine: FakeNet,
}

#[async_trait]
impl AddressEvents for Changes {
    async fn next(&mut self) -> Result<()> {
        drop(self.changed.changed().await);
        Ok(())
    }
}

#[async_trait]
impl Net for FakeNet {
    async fn enter(&self, namespace: &Path) -> Result<Arc<dyn Net>> {
        Ok(Arc::new(self.other(namespace)))
    }

    async fn links(&self) -> Result<Vec<Link>> {
        Ok(self.state().links)
    }

    async fn add_bridge(&self, bridge: &Bridge) -> Result<()> {
        self.with(|state| match state.links.iter_mut().find(|link| link.name == bridge.name) {
            Some(link) => link.mtu = bridge.mtu,
            None => state.add(&bridge.name, "bridge", bridge.mtu),
        });
        Ok(())
    }

    async fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let peer = self.other(veth.peer_namespace);
        let taken = |net: &Self, name: &str| net.with(|state| state.links.iter().any(|link| link.name == name));
        if taken(self, veth.name) || taken(&peer, veth.peer_name) {
            return Err(failed(format!("add link {}", veth.name), false, "the name is taken"));
        }
        for (net, name, other, other_name) in
            [(self, veth.name, &peer, veth.peer_name), (&peer, veth.peer_name, self, veth.name)]
        {
            net.with(|state| {
                state.add(name, "veth", veth.mtu);
                state.peers.insert(name.to_owned(), (other.namespace.clone(), other_name.to_owned()));
            });
        }
        Ok(())
    }

    async fn remove_link(&self, name: &str) -> Result<()> {
        let peer = self.with(|state| {
            state.links.retain(|link| link.name != name);
            state.routes.retain(|route| route.link != name);
            state.vxlans.retain(|vxlan| vxlan.name != name);
            state.neighbours.remove(name);
            state.forwards.remove(name);
            state.peers.remove(name)
        });
        if let Some((namespace, name)) = peer {
            self.other(&namespace).with(|state| {
                state.links.retain(|link| link.name != name);
                state.routes.retain(|route| route.link != name);
                state.peers.remove(&name);
            });
        }
        Ok(())
    }

    async fn set_up(&self, name: &str) -> Result<()> {
        self.with(|state| state.link(name, "bring up").map(|link| link.up = true))
    }

    async fn add_port(&self, bridge: &str, port: &str) -> Result<()> {
        self.with(|state| {
            let master = state.link(bridge, "add a port to")?.index;
            state.link(port, "add the port")?.master = Some(master);
            Ok(())
        })
    }

    async fn add_address(&self, link: &str, address: Ipv4Net) -> Result<()> {
        self.with(|state| {
            let addresses = &mut state.link(link, "add an address to")?.addresses;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            Ok(())
        })
    }

    async fn set_route(&self, route: &Route) -> Result<()> {
        self.with(|state| {
            state.link(&route.link, "add a route through")?;
            state.routes.retain(|existing| existing.destination != route.destination);
            state.routes.push(route.clone());
            Ok(())
        })
    }

    async fn default_route(&self) -> Result<Option<Route>> {
        let is_default = |route: &Route| route.destination == Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        Ok(self.state().routes.into_iter().find(is_default))
    }

    async fn routes(&self) -> Result<Vec<Route>> {
        Ok(self.state().routes)
    }

    async fn remove_route(&self, route: &Route) -> Result<()> {
        self.with(|state| state.routes.retain(|existing| existing != route));
        Ok(())
    }

    async fn add_vxlan(&self, vxlan: &Vxlan) -> Result<()> {
        let same = |existing: &Vxlan| Vxlan { mac: vxlan.mac, mtu: vxlan.mtu, ..existing.clone() } == *vxlan;
        let there = self.state().vxlans.into_iter().find(|existing| existing.name == vxlan.name);
        if there.is_some_and(|there| !same(&there)) {
            self.remove_link(&vxlan.name).await?;
        }
        self.with(|state| {
            if !state.links.iter().any(|link| link.name == vxlan.name) {
                state.add(&vxlan.name, "vxlan", vxlan.mtu);
            }
            state.vxlans.retain(|existing| existing.name != vxlan.name);
            state.vxlans.push(vxlan.clone());
        });
        Ok(())
    }

    async fn neighbours(&self, link: &str) -> Result<BTreeMap<Ipv4Addr, [u8; 6]>> {
        Ok(self.state().neighbours.remove(link).unwrap_or_default())
    }

    async fn set_neighbour(&self, link: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
        self.with(|state| {
            state.link(link, "name a neighbour on")?;
            state.neighbours.entry(link.to_owned()).or_default().insert(address, mac);
            Ok(())
        })
    }

    async fn remove_neighbour(&self, link: &str, address: Ipv4Addr) -> Result<()> {
        self.with(|state| state.neighbours.entry(link.to_owned()).or_default().remove(&address));
        Ok(())
    }

    async fn forwards(&self, vxlan: &str) -> Result<BTreeMap<[u8; 6], Ipv4Addr>> {
        Ok(self.state().forwards.remove(vxlan).unwrap_or_default())
    }

    async fn set_forward(&self, vxlan: &str, mac: [u8; 6], to: Ipv4Addr) -> Result<()> {
        self.with(|state| {
            state.link(vxlan, "send frames on")?;
            state.forwards.entry(vxlan.to_owned()).or_default().insert(mac, to);
            Ok(())
        })
    }

    async fn remove_forward(&self, vxlan: &str, mac: [u8; 6], to: Ipv4Addr) -> Result<()> {
        self.with(|state| {
            let forwards = state.forwards.entry(vxlan.to_owned()).or_default();
            if forwards.get(&mac) == Some(&to) {
                forwards.remove(&mac);
            }
        });
        Ok(())
    }

    async fn address_events(&self) -> Result<Box<dyn AddressEvents>> {
        Ok(Box::new(Changes { changed: self.changed.subscribe(), _machine: self.clone() }))
    }

    async fn link_gone(&self, name: &str) -> Result<()> {
        let mut changed = self.changed.subscribe();
        while self.peek(|state| state.links.iter().any(|link| link.name == name)) {
            // The sender lives as long as this value.
            drop(changed.changed().await);
        }
        Ok(())
    }

    async fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.with(|state| state.sysctls.insert(name.to_owned(), value.to_owned()));
        Ok(())
    }

    async fn commit(&self, table: &str, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.with(|state| {
            // All or nothing: a copy takes the changes and stands in for the table when all of them fit.
            let mut copy = state.tables.get(table).cloned();
            for change in changes {
                apply(&mut copy, change).map_err(|why| failed(format!("change table {table}"), false, &why))?;
                state.commits.1 += match change {
                    Change::AddElements { elements, .. } => elements.len(),
                    Change::RemoveElements { keys, .. } => keys.len(),
                    _ => 0,
                };
            }
            state.commits.0 += 1;
            match copy {
                Some(copy) => state.tables.insert(table.to_owned(), copy),
                None => state.tables.remove(table),
            };
            Ok(())
        })
    }

    async fn table(&self, table: &str) -> Result<Option<Contents>> {
        Ok(self.state().tables.remove(table).map(|table| Contents {
            chains: table.chains.into_keys().collect(),
            sets: table.sets.into_iter().map(|(name, (_, elements))| (name, elements)).collect(),
        }))
    }

    async fn chain_gone(&self, table: &str, chain: &str) -> Result<()> {
        let mut changed = self.changed.subscribe();
        while self.peek(|state| state.tables.get(table).is_some_and(|table| table.chains.contains_key(chain))) {
            // The sender lives as long as this value.
            drop(changed.changed().await);
        }
        Ok(())
    }

    async fn forget_connections(&self, connections: &[Connections]) -> Result<()> {
        self.with(|state| state.forgotten.extend_from_slice(connections));
        Ok(())
    }
}

fn apply(slot: &mut Option<Table>, change: &Change) -> std::result::Result<(), String> {
    if *change == Change::AddTable {
        slot.get_or_insert_default();
        return Ok(());
    }
    let table = slot.as_mut().ok_or("no such table")?;
    match change {
        Change::AddTable => {}
        Change::RemoveTable => *slot = None,
        Change::AddChain { name, .. } => {
            table.chains.entry(name.clone()).or_default();
        }
        Change::FlushChain(name) => chain(table, name)?.clear(),
        Change::RemoveChain(name) => {
            chain(table, name)?;
            if in_use(table, name) {
                return Err(format!("chain {name} is in use"));
            }
            table.chains.remove(name);
        }
        Change::AddRule { chain: name, rule } => chain(table, name)?.push(rule.clone()),
        Change::AddSet(set) => {
            let previous = table.sets.insert(set.name.to_string(), (set.clone(), Elements::new()));
            if previous.is_some() {
                return Err(format!("set {} exists", set.name));
            }
        }
        Change::RemoveSet(name) => {
            table.sets.remove(name).ok_or_else(|| format!("no set {name}"))?;
        }
        Change::AddElements { set, elements } => add_elements(table, set, elements)?,
        Change::RemoveElements { set, keys } => {
            let (_, present) = table.sets.get_mut(&*set.name).ok_or_else(|| format!("no set {}", set.name))?;
            for key in keys {
                present.remove(key).ok_or_else(|| format!("no element {key:?} in {}", set.name))?;
            }
        }
    }
    Ok(())
}

fn add_elements(table: &mut Table, set: &Set, elements: &Elements) -> std::result::Result<(), String> {
    let chains: Vec<&String> = table.chains.keys().collect();
    let (shape, present) = table.sets.get_mut(&*set.name).ok_or_else(|| format!("no set {}", set.name))?;
    if shape != set {
        return Err(format!("set {} has another shape", set.name));
    }
    for (key, value) in elements {
        if key.len() != set.key.len() * 4 {
            return Err(format!("element {key:?} does not fit {}", set.name));
        }
        if let Value::Goto(chain) = value
            && chains.binary_search(&chain).is_err()
        {
            return Err(format!("no chain {chain}"));
        }
        if present.insert(key.clone(), value.clone()).is_some_and(|previous| previous != *value) {
            return Err(format!("element {key:?} of {} has another value", set.name));
        }
    }
    Ok(())
}

fn chain<'a>(table: &'a mut Table, name: &str) -> std::result::Result<&'a mut Vec<Rule>, String> {
    table.chains.get_mut(name).ok_or_else(|| format!("no chain {name}"))
}

fn in_use(table: &Table, name: &str) -> bool {
    let (jump, goto) = (super::nft::jump(name), super::nft::goto(name));
    let by_rule =
        table.chains.values().flatten().flatten().any(|expression| *expression == jump || *expression == goto);
    by_rule
        || table
            .sets
            .values()
            .any(|(_, elements)| elements.values().any(|value| *value == Value::Goto(name.to_owned())))
}
