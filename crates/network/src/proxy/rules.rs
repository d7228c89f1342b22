//! What should hold for each frontend as nftables map elements, and the difference to what is there. Pure.
//!
//! # The design, and why
//!
//! The rules themselves are few and never depend on the cluster; services and endpoints are map elements only:
//!
//! - `services` and `node-ports` say, for what a client sends to, which `pick` chain to go on with. There is one `pick`
//!   chain for each number of endpoints in use (and for masquerading or affinity), not for each service: its one rule loads
//!   the packet's own destination and a random number below the count, and looks both up at once.
//! - `endpoints` and `node-port-endpoints` say, for a destination and a number, where to send the packet.
//!
//! A new endpoint takes the next number; where one goes, the last takes its number. So a changed endpoint changes at most
//! four elements, whatever the numbers of services and endpoints, and the kernel's work for a packet does not depend on
//! them either. The upstream layout, one chain for each service and each endpoint, would have for 5,000 services of 10
//! endpoints 55,000 chains with 60,000 rules, and write a service's whole chain again when one endpoint changes. This one
//! has 140 chains (most of them made beforehand, see `PREMADE_COUNT_MAX`) and 55,000 elements. Measured on a busy 2-core
//! machine, without optimisation: 0.4 s to program all of it from nothing (250,000 endpoints: 1.4 s); then under 1 ms to add
//! an endpoint (the kernel walks the verdict map once) or to put one in another's place.
//!
//! Clients inside of the cluster may be sent elsewhere than those outside, for the same destination: they are looked up under
//! a protocol of their own, see [`Frontend::InsideAddress`]. Which sources a load balancer's address takes is asked before the
//! translation: a `firewall` element leads to a chain whose name is made from the ranges in it.
//!
//! Which endpoint has which number depends on history. Everything else is a function of what should hold, and a restart
//! takes the numbers over from the kernel ([`Rules::adopt`]).

mod layout;
mod pick;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use linux::net::Connections;
use linux::net::nft::{self, Bytes, Change, Contents, Data, Elements, Expression, Field, Rule, Set, Value};

use crate::difference::Difference;
use crate::fingerprint::fingerprint;
use pick::Pick;

/// The bit of a packet's mark that asks for masquerading: the one that kube-proxy uses.
const MASQUERADE_MARK: u32 = 0x4000;

/// How many clients' endpoints are remembered for session affinity at most. Beyond it, new clients get an endpoint that is
/// not remembered; without a limit, one client with many source addresses fills the kernel's memory.
const AFFINITY_CLIENTS_MAX: u32 = 131_072;

/// Up to which number of endpoints the usual `pick` chains are made beforehand, while the maps are empty: for a new rule the
/// kernel walks through all elements of each map that it names, which takes 40 ms with 250,000 endpoints.
const PREMADE_COUNT_MAX: u32 = 64;

/// The chain that all others lead to: where it is missing, someone else removed the rules.
pub(super) const SERVICES_CHAIN: &str = "services";

/// What holds for clients on this node alone.
const INSIDE_CHAIN: &str = "inside";

const UDP: u8 = 17;

/// What a client sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// Address, IP protocol, port.
    Address(Ipv4Addr, u8, u16),
    /// IP protocol and port, on every address of the node.
    NodePort(u8, u16),
    /// The same for clients on this node, where they are treated differently. In keys, the byte behind the protocol, which
    /// is zero in every packet's own key, says so; the rules for such clients set it.
    InsideAddress(Ipv4Addr, u8, u16),
    /// Likewise.
    InsideNodePort(u8, u16),
}

/// What is flipped in a protocol's word for clients on this node.
const INSIDE: [u8; 4] = [0, 1, 0, 0];

/// Where it ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The endpoint's address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// What happens to connections to a frontend without endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The client is told at once.
    Reject,
    /// The client hears nothing: there are endpoints, but not for it.
    Drop,
    /// The node itself may answer.
    Ignore,
}

/// What should hold for a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The endpoints that share the connections.
    pub backends: BTreeSet<Backend>,
    /// The addresses among them that are on this node: such an endpoint may reach itself through the service, and then must
    /// not see its own address as the sender.
    pub hairpin: BTreeSet<Ipv4Addr>,
    /// Whether endpoints see the node's address instead of the client's.
    pub masquerade: bool,
    /// For how long a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
    /// What happens without endpoints.
    pub refusal: Refusal,
    /// Who may use it: everybody, where there are none.
    pub ranges: BTreeSet<Ipv4Net>,
}

/// What the rules that never change are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All pods' addresses.
    pub cluster_cidr: Ipv4Net,
    /// All services' addresses.
    pub service_cidr: Ipv4Net,
    /// The service address that the node itself may answer on.
    pub cluster_dns: Option<Ipv4Addr>,
    /// On which of the node's addresses node ports are; on every one, where there are none.
    pub node_port_addresses: Vec<Ipv4Net>,
}

use Field::{Address, Number, Port, Protocol};

const fn set(name: &'static str, key: &'static [Field], data: Data) -> Set {
    Set { name: Cow::Borrowed(name), key: Cow::Borrowed(key), data, dynamic: None }
}

const fn fields(fields: &'static [Field]) -> Data {
    Data::Fields(Cow::Borrowed(fields))
}

static SERVICES: Set = set("services", &[Address, Protocol, Port], Data::Verdict);
static NODE_PORTS: Set = set("node-ports", &[Protocol, Port], Data::Verdict);
static ENDPOINTS: Set = set("endpoints", &[Address, Protocol, Port, Number], fields(&[Address, Port]));
static NODE_PORT_ENDPOINTS: Set = set("node-port-endpoints", &[Protocol, Port, Number], fields(&[Address, Port]));
static REFUSED: Set = set("refused", &[Address, Protocol, Port], Data::Verdict);
static REFUSED_NODE_PORTS: Set = set("refused-node-ports", &[Protocol, Port], Data::Verdict);
/// Source and destination, after translation: the two are the same.
static HAIRPIN: Set = set("hairpin", &[Address, Address], Data::Nothing);
/// Client and what it sent to, to the endpoint that it got. Written by rules.
static AFFINITY: Set = Set {
    name: Cow::Borrowed("affinity"),
    key: Cow::Borrowed(&[Address, Address, Protocol, Port]),
    data: Data::Fields(Cow::Borrowed(&[Address, Port])),
    dynamic: Some((AFFINITY_CLIENTS_MAX, Duration::from_secs(10_800))),
};
/// The endpoints that a remembered choice may still name.
static AFFINITY_ENDPOINTS: Set = set("affinity-endpoints", &[Address, Protocol, Port, Address, Port], Data::Nothing);
static AFFINITY_NODE_PORTS: Set = set("affinity-node-ports", &[Protocol, Port, Address, Port], Data::Nothing);

/// Which chain asks for the source.
static FIREWALL: Set = set("firewall", &[Address, Protocol, Port], Data::Verdict);

/// All sets. An element is held as the number of its set here and its key.
static SETS: [&Set; 11] = [
    &SERVICES,
    &NODE_PORTS,
    &ENDPOINTS,
    &NODE_PORT_ENDPOINTS,
    &REFUSED,
    &REFUSED_NODE_PORTS,
    &HAIRPIN,
    &AFFINITY,
    &AFFINITY_ENDPOINTS,
    &AFFINITY_NODE_PORTS,
    &FIREWALL,
];

fn number(set: &Set) -> usize {
    SETS.iter().position(|known| known.name == set.name).expect("every set is in the list")
}

/// What the kernel has for a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Programmed {
    /// The endpoint's place is its number.
    slots: Vec<Backend>,
    hairpin: BTreeSet<Ipv4Addr>,
    masquerade: bool,
    affinity_seconds: Option<u32>,
    refusal: Refusal,
    ranges: BTreeSet<Ipv4Net>,
}

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    frontends: BTreeMap<Frontend, Programmed>,
    /// How many frontends use each chain.
    picks: BTreeMap<Pick, usize>,
    /// How many frontends name each address.
    hairpin: BTreeMap<Ipv4Addr, usize>,
    /// How many frontends take these sources only.
    ranges: BTreeMap<Ranges, usize>,
}

/// The sources that a frontend takes.
type Ranges = BTreeSet<Ipv4Net>;

impl Rules {
    /// Brings frontends to what should hold (`None`: nothing). Returns the changes, which belong into one transaction, and
    /// the connections that end at endpoints that serve no more and would never notice.
    pub fn change(&mut self, updates: Vec<(Frontend, Option<Target>)>) -> (Vec<Change>, BTreeSet<Connections>) {
        let (mut difference, mut gone) = (Difference::new(), BTreeSet::new());
        let mut touched = Touched::default();
        for (frontend, target) in updates {
            let before = self.frontends.remove(&frontend);
            let after = target.map(|target| Programmed::of(before.as_ref(), target));
            gone.extend(orphans(frontend, before.as_ref(), after.as_ref()));
            for (programmed, is_after) in [(&before, false), (&after, true)] {
                let Some(programmed) = programmed else { continue };
                self.count(frontend, programmed, is_after, &mut touched);
                if before == after {
                    continue;
                }
                for (set, key, value) in programmed.elements(frontend) {
                    let (old, new) = difference.entry((set, key)).or_default();
                    *(if is_after { new } else { old }) = Some(value);
                }
            }
            if let Some(after) = after {
                self.frontends.insert(frontend, after);
            }
        }
        for (address, before) in std::mem::take(&mut touched.hairpin) {
            let element = |present: bool| present.then_some(Value::Nothing);
            let after = self.hairpin.contains_key(&address);
            difference.insert((number(&HAIRPIN), hairpin_key(address)), (element(before), element(after)));
        }
        (self.transaction(touched, difference), gone)
    }

    fn count(&mut self, frontend: Frontend, programmed: &Programmed, up: bool, touched: &mut Touched) {
        if let Some(pick) = programmed.pick(frontend) {
            step(&mut self.picks, &pick, up, &mut touched.picks);
        }
        for address in &programmed.hairpin {
            step(&mut self.hairpin, address, up, &mut touched.hairpin);
        }
        if !programmed.ranges.is_empty() {
            step(&mut self.ranges, &programmed.ranges, up, &mut touched.ranges);
        }
    }

    /// Orders changes so that nothing refers to what is not there: new chains, old elements, new elements, old chains.
    fn transaction(&self, touched: Touched, difference: Difference) -> Vec<Change> {
        let (mut changes, mut obsolete) = (Vec::new(), Vec::new());
        for (ranges, before) in touched.ranges {
            match (before, self.ranges.contains_key(&ranges)) {
                (false, true) => changes.extend(chain_of_ranges(&ranges)),
                (true, false) => obsolete.push(Change::RemoveChain(name_of_ranges(&ranges))),
                _ => {}
            }
        }
        for (pick, before) in touched.picks.into_iter().filter(|(pick, _)| !pick.is_premade()) {
            match (before, self.picks.contains_key(&pick)) {
                (false, true) => changes.extend(pick.chain()),
                (true, false) => obsolete.push(Change::RemoveChain(pick.name())),
                _ => {}
            }
        }
        changes.extend(crate::difference::changes(difference, &SETS));
        changes.extend(obsolete);
        changes
    }

    /// The frontends that the kernel knows.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.keys()
    }

    /// The endpoints of a frontend, in no order.
    pub fn backends(&self, frontend: &Frontend) -> Option<BTreeSet<Backend>> {
        self.frontends.get(frontend).map(|programmed| programmed.slots.iter().copied().collect())
    }

    /// All elements.
    pub fn elements(&self) -> BTreeMap<String, Elements> {
        let mut sets: BTreeMap<String, Elements> =
            SETS.iter().map(|set| (set.name.to_string(), Elements::new())).collect();
        let of_frontends = self.frontends.iter().flat_map(|(frontend, programmed)| programmed.elements(*frontend));
        let hairpin = self.hairpin.keys().map(|address| (number(&HAIRPIN), hairpin_key(*address), Value::Nothing));
        for (set, key, value) in of_frontends.chain(hairpin) {
            sets.entry(SETS[set].name.to_string()).or_default().insert(key, value);
        }
        sets
    }

    /// The names of all chains.
    pub fn chains(&self, layout: &Layout) -> BTreeSet<String> {
        let picks = Pick::premade().chain(self.picks.keys().copied()).map(|pick| pick.name());
        let ranges = self.ranges.keys().map(name_of_ranges);
        picks.chain(ranges).chain(layout.chains().into_iter().map(|(name, _, _)| name)).collect()
    }

    /// Takes over what the kernel has. Where that is not exactly what this program would have put there, the result is
    /// empty, and the changes that are returned with it belong before the first ones: in one transaction they put the rules
    /// in place of whatever was there. Connections that are under way are tracked, and go on.
    pub fn adopt(layout: &Layout, mut contents: Contents) -> (Self, Vec<Change>) {
        contents.chains.retain(|name| !name.starts_with("pods-"));
        // What rules write is not compared.
        if let Some(affinity) = contents.sets.get_mut(&*AFFINITY.name) {
            affinity.clear();
        }
        let firewall = take_firewall(&mut contents);
        let read = Self::read(&contents).unwrap_or_default();
        if read.chains(layout) == contents.chains && read.elements() == contents.sets {
            return (read, firewall);
        }
        contents.chains.extend(firewall.into_iter().filter_map(|change| match change {
            Change::RemoveChain(name) => Some(name),
            _ => None,
        }));
        let mut changes = vec![Change::AddTable];
        changes.extend(contents.chains.iter().cloned().map(Change::FlushChain));
        changes.extend(contents.sets.into_keys().map(Change::RemoveSet));
        changes.extend(contents.chains.into_iter().map(Change::RemoveChain));
        changes.extend(layout.create());
        (Self::default(), changes)
    }

    /// Reads elements back. `None` where they are not of this program's making; what it makes of wrong ones does not
    /// render to the same again.
    fn read(contents: &Contents) -> Option<Self> {
        let mut rules = Self::default();
        let of = |set: &Set| contents.sets.get(&*set.name);
        let hairpin: BTreeSet<&Vec<u8>> = of(&HAIRPIN)?.keys().collect();
        for (verdicts, endpoints) in [(&SERVICES, &ENDPOINTS), (&NODE_PORTS, &NODE_PORT_ENDPOINTS)] {
            let endpoints = of(endpoints)?;
            for (key, value) in of(verdicts)? {
                let Value::Goto(chain) = value else { return None };
                let (frontend, pick) = (Frontend::parse(key)?, Pick::parse(chain)?);
                let slot = |slot: u32| match endpoints.get(&[key.as_slice(), &slot.to_ne_bytes()].concat())? {
                    Value::Bytes(bytes) => Backend::parse(bytes),
                    _ => None,
                };
                let slots = (0..pick.count).map(slot).collect::<Option<Vec<_>>>()?;
                let hairpin =
                    slots.iter().map(|slot| slot.address).filter(|address| hairpin.contains(&hairpin_key(*address)));
                let programmed = Programmed {
                    hairpin: hairpin.collect(),
                    slots,
                    masquerade: pick.masquerade,
                    affinity_seconds: pick.affinity_seconds,
                    refusal: Refusal::Reject,
                    ranges: Ranges::new(),
                };
                rules.count(frontend, &programmed, true, &mut Touched::default());
                rules.frontends.insert(frontend, programmed);
            }
        }
        for (key, value) in of(&REFUSED)?.iter().chain(of(&REFUSED_NODE_PORTS)?) {
            let refusal = [Refusal::Reject, Refusal::Drop]
                .into_iter()
                .find(|refusal| refusal.verdict().as_ref() == Some(value))?;
            rules.frontends.insert(Frontend::parse(key)?, Programmed::refusing(refusal));
        }
        Some(rules)
    }
}

/// What was counted up or down, and whether it was there before.
#[derive(Default)]
struct Touched {
    picks: BTreeMap<Pick, bool>,
    hairpin: BTreeMap<Ipv4Addr, bool>,
    ranges: BTreeMap<Ranges, bool>,
}

/// Takes out what asks for sources: which ranges are behind a chain's name the kernel does not tell. What is returned goes
/// into the transaction that puts it there again.
fn take_firewall(contents: &mut Contents) -> Vec<Change> {
    let mut changes = Vec::new();
    let elements = contents.sets.get_mut(&*FIREWALL.name).map(std::mem::take).unwrap_or_default();
    if !elements.is_empty() {
        changes.push(Change::RemoveElements { set: FIREWALL.clone(), keys: elements.into_keys().collect() });
    }
    let chains = contents.chains.extract_if(.., |name| name.starts_with(RANGES_PREFIX));
    changes.extend(chains.map(Change::RemoveChain));
    changes
}

const RANGES_PREFIX: &str = "ranges-";

fn name_of_ranges(ranges: &Ranges) -> String {
    format!("{RANGES_PREFIX}{:016x}", fingerprint(&format!("{ranges:?}")))
}

/// Goes back for sources in the ranges and drops all others.
fn chain_of_ranges(ranges: &Ranges) -> Vec<Change> {
    let name = name_of_ranges(ranges);
    let back = |range: &Ipv4Net| rule(&[&[nft::source_address(0)], &nft::in_net(0, *range, true), &[nft::back()]]);
    let rules = ranges.iter().map(back).chain([vec![nft::drop()]]);
    let rules = rules.map(|rule| Change::AddRule { chain: name.clone(), rule });
    std::iter::once(Change::AddChain { name: name.clone(), hook: None }).chain(rules).collect()
}

fn step<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, key: &K, up: bool, touched: &mut BTreeMap<K, bool>) {
    touched.entry(key.clone()).or_insert(counts.contains_key(key));
    let count = counts.entry(key.clone()).or_default();
    if up {
        *count += 1;
    } else {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// UDP has no end of a connection: what is tracked goes on to the endpoint that was chosen once, for as long as the client
/// sends. TCP clients notice when an endpoint is gone.
fn orphans(frontend: Frontend, before: Option<&Programmed>, after: Option<&Programmed>) -> Vec<Connections> {
    let (destination, protocol, destination_port) = match frontend {
        Frontend::Address(address, protocol, port) | Frontend::InsideAddress(address, protocol, port) => {
            (Some(address), protocol, port)
        }
        Frontend::NodePort(protocol, port) | Frontend::InsideNodePort(protocol, port) => (None, protocol, port),
    };
    if protocol != UDP {
        return Vec::new();
    }
    let slots = |programmed: Option<&Programmed>| -> BTreeSet<Backend> {
        programmed.into_iter().flat_map(|programmed| programmed.slots.iter().copied()).collect()
    };
    let (before, after) = (slots(before), slots(after));
    // A client that sent before there was any endpoint may have a connection that nobody sent on.
    let unsent = (before.is_empty() && !after.is_empty()).then_some(None);
    let gone = before.difference(&after).map(|backend| Some((backend.address, backend.port)));
    gone.chain(unsent).map(|endpoint| Connections { protocol, destination, destination_port, endpoint }).collect()
}

fn hairpin_key(address: Ipv4Addr) -> Vec<u8> {
    Bytes::new().address(address).address(address).into_vec()
}

impl Refusal {
    fn verdict(self) -> Option<Value> {
        match self {
            Self::Reject => Some(Value::Goto("reject".to_owned())),
            Self::Drop => Some(Value::Goto("drop".to_owned())),
            Self::Ignore => None,
        }
    }
}

impl Backend {
    fn bytes(self) -> Bytes {
        Bytes::new().address(self.address).port(self.port)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (address, port) = (bytes.first_chunk::<4>()?, bytes.get(4..)?.first_chunk::<2>()?);
        Some(Self { address: Ipv4Addr::from(*address), port: u16::from_be_bytes(*port) })
    }
}

impl Frontend {
    fn key(self) -> Bytes {
        match self {
            Self::Address(address, protocol, port) => Bytes::new().address(address).protocol(protocol).port(port),
            Self::NodePort(protocol, port) => Bytes::new().protocol(protocol).port(port),
            Self::InsideAddress(address, protocol, port) => {
                Bytes::new().address(address).flipped(protocol, INSIDE).port(port)
            }
            Self::InsideNodePort(protocol, port) => Bytes::new().flipped(protocol, INSIDE).port(port),
        }
    }

    fn is_inside(self) -> bool {
        matches!(self, Self::InsideAddress(..) | Self::InsideNodePort(..))
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let (address, rest) = key.split_at_checked(key.len().checked_sub(8)?)?;
        let (protocol, port) = (rest[0], u16::from_be_bytes([rest[4], rest[5]]));
        let inside = rest[1] == INSIDE[1];
        match (address.len(), inside) {
            (4, false) => Some(Self::Address(Ipv4Addr::from(*address.first_chunk::<4>()?), protocol, port)),
            (4, true) => Some(Self::InsideAddress(Ipv4Addr::from(*address.first_chunk::<4>()?), protocol, port)),
            (0, false) => Some(Self::NodePort(protocol, port)),
            (0, true) => Some(Self::InsideNodePort(protocol, port)),
            _ => None,
        }
    }
}

impl Programmed {
    /// What should hold, with the endpoints that stay at their numbers, as far as there are that many.
    fn of(before: Option<&Self>, target: Target) -> Self {
        let count = target.backends.len();
        let mut slots: Vec<Option<Backend>> = vec![None; count];
        let mut homeless = target.backends;
        for (slot, former) in slots.iter_mut().zip(before.map(|before| before.slots.as_slice()).unwrap_or_default()) {
            *slot = homeless.take(former);
        }
        let mut homeless = homeless.into_iter();
        let slots =
            slots.into_iter().map(|slot| slot.or_else(|| homeless.next())).map(|slot| slot.expect("as many as places"));
        Self {
            slots: slots.collect(),
            hairpin: target.hairpin,
            masquerade: target.masquerade,
            affinity_seconds: target.affinity_seconds,
            refusal: target.refusal,
            ranges: target.ranges,
        }
    }

    fn refusing(refusal: Refusal) -> Self {
        let (hairpin, ranges) = (BTreeSet::new(), Ranges::new());
        Self { slots: vec![], hairpin, masquerade: false, affinity_seconds: None, refusal, ranges }
    }

    fn pick(&self, frontend: Frontend) -> Option<Pick> {
        let count = u32::try_from(self.slots.len()).expect("fewer endpoints than addresses");
        (count > 0).then_some(Pick {
            node_port: matches!(frontend, Frontend::NodePort(..) | Frontend::InsideNodePort(..)),
            inside: frontend.is_inside(),
            count,
            masquerade: self.masquerade,
            affinity_seconds: self.affinity_seconds,
        })
    }

    /// Set, key and value of each element that this frontend alone has.
    fn elements(&self, frontend: Frontend) -> Vec<(usize, Vec<u8>, Value)> {
        let [verdicts, endpoints, refused, affinity] = match frontend {
            Frontend::Address(..) | Frontend::InsideAddress(..) => {
                [&SERVICES, &ENDPOINTS, &REFUSED, &AFFINITY_ENDPOINTS]
            }
            Frontend::NodePort(..) | Frontend::InsideNodePort(..) => {
                [&NODE_PORTS, &NODE_PORT_ENDPOINTS, &REFUSED_NODE_PORTS, &AFFINITY_NODE_PORTS]
            }
        };
        let key = frontend.key();
        let mut elements = Vec::new();
        if !self.ranges.is_empty() {
            elements.push((number(&FIREWALL), key.clone().into_vec(), Value::Goto(name_of_ranges(&self.ranges))));
        }
        let Some(pick) = self.pick(frontend) else {
            elements.extend(self.refusal.verdict().map(|verdict| (number(refused), key.into_vec(), verdict)));
            return elements;
        };
        elements.push((number(verdicts), key.clone().into_vec(), Value::Goto(pick.name())));
        for (slot, backend) in (0u32..).zip(&self.slots) {
            let value = Value::Bytes(backend.bytes().into_vec());
            elements.push((number(endpoints), key.clone().number(slot).into_vec(), value));
            if self.affinity_seconds.is_some() {
                let member = key.clone().address(backend.address).port(backend.port).into_vec();
                elements.push((number(affinity), member, Value::Nothing));
            }
        }
        elements
    }
}

fn rule(parts: &[&[Expression]]) -> Rule {
    parts.concat()
}
