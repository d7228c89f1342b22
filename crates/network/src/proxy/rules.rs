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
//! Which endpoint has which number depends on history. Everything else is a function of what should hold, and a restart
//! takes the numbers over from the kernel ([`Rules::adopt`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use linux::net::Connections;
use linux::net::nft::{self, Bytes, Change, Contents, Data, Elements, Expression, Field, Hook, Rule, Set, Value};

use crate::difference::Difference;
use crate::fingerprint::fingerprint;

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

const UDP: u8 = 17;

/// What a client sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// Address, IP protocol, port.
    Address(Ipv4Addr, u8, u16),
    /// IP protocol and port, on every address of the node.
    NodePort(u8, u16),
}

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

/// All sets. An element is held as the number of its set here and its key.
static SETS: [&Set; 10] = [
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
];

fn number(set: &Set) -> usize {
    SETS.iter().position(|known| known.name == set.name).expect("every set is in the list")
}

/// A chain that picks an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pick {
    node_port: bool,
    count: u32,
    masquerade: bool,
    affinity_seconds: Option<u32>,
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
}

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    frontends: BTreeMap<Frontend, Programmed>,
    /// How many frontends use each chain.
    picks: BTreeMap<Pick, usize>,
    /// How many frontends name each address.
    hairpin: BTreeMap<Ipv4Addr, usize>,
}

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
        for (address, before) in touched.hairpin {
            let element = |present: bool| present.then_some(Value::Nothing);
            let after = self.hairpin.contains_key(&address);
            difference.insert((number(&HAIRPIN), hairpin_key(address)), (element(before), element(after)));
        }
        (self.transaction(touched.picks, difference), gone)
    }

    fn count(&mut self, frontend: Frontend, programmed: &Programmed, up: bool, touched: &mut Touched) {
        if let Some(pick) = programmed.pick(frontend) {
            step(&mut self.picks, pick, up, &mut touched.picks);
        }
        for address in &programmed.hairpin {
            step(&mut self.hairpin, *address, up, &mut touched.hairpin);
        }
    }

    /// Orders changes so that nothing refers to what is not there: new chains, old elements, new elements, old chains.
    fn transaction(&self, picks: BTreeMap<Pick, bool>, difference: Difference) -> Vec<Change> {
        let (mut changes, mut obsolete) = (Vec::new(), Vec::new());
        for (pick, before) in picks.into_iter().filter(|(pick, _)| !pick.is_premade()) {
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
        picks.chain(layout.chains().into_iter().map(|(name, _, _)| name)).collect()
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
        let read = Self::read(&contents).unwrap_or_default();
        if read.chains(layout) == contents.chains && read.elements() == contents.sets {
            return (read, Vec::new());
        }
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
}

fn step<K: Ord + Copy>(counts: &mut BTreeMap<K, usize>, key: K, up: bool, touched: &mut BTreeMap<K, bool>) {
    touched.entry(key).or_insert(counts.contains_key(&key));
    let count = counts.entry(key).or_default();
    if up {
        *count += 1;
    } else {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// UDP has no end of a connection: what is tracked goes on to the endpoint that was chosen once, for as long as the client
/// sends. TCP clients notice when an endpoint is gone.
fn orphans(frontend: Frontend, before: Option<&Programmed>, after: Option<&Programmed>) -> Vec<Connections> {
    let (destination, protocol, destination_port) = match frontend {
        Frontend::Address(address, protocol, port) => (Some(address), protocol, port),
        Frontend::NodePort(protocol, port) => (None, protocol, port),
    };
    if protocol != UDP {
        return Vec::new();
    }
    let slots = |programmed: Option<&Programmed>| -> BTreeSet<Backend> {
        programmed.into_iter().flat_map(|programmed| programmed.slots.iter().copied()).collect()
    };
    let (before, after) = (slots(before), slots(after));
    before
        .difference(&after)
        .map(|backend| Connections {
            protocol,
            destination,
            destination_port,
            endpoint: Some((backend.address, backend.port)),
        })
        .collect()
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
        }
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let (address, rest) = key.split_at_checked(key.len().checked_sub(8)?)?;
        let (protocol, port) = (rest[0], u16::from_be_bytes([rest[4], rest[5]]));
        match address.len() {
            4 => Some(Self::Address(Ipv4Addr::from(*address.first_chunk::<4>()?), protocol, port)),
            0 => Some(Self::NodePort(protocol, port)),
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
        }
    }

    fn refusing(refusal: Refusal) -> Self {
        Self { slots: vec![], hairpin: BTreeSet::new(), masquerade: false, affinity_seconds: None, refusal }
    }

    fn pick(&self, frontend: Frontend) -> Option<Pick> {
        let count = u32::try_from(self.slots.len()).expect("fewer endpoints than addresses");
        (count > 0).then_some(Pick {
            node_port: matches!(frontend, Frontend::NodePort(..)),
            count,
            masquerade: self.masquerade,
            affinity_seconds: self.affinity_seconds,
        })
    }

    /// Set, key and value of each element that this frontend alone has.
    fn elements(&self, frontend: Frontend) -> Vec<(usize, Vec<u8>, Value)> {
        let [verdicts, endpoints, refused, affinity] = match frontend {
            Frontend::Address(..) => [&SERVICES, &ENDPOINTS, &REFUSED, &AFFINITY_ENDPOINTS],
            Frontend::NodePort(..) => [&NODE_PORTS, &NODE_PORT_ENDPOINTS, &REFUSED_NODE_PORTS, &AFFINITY_NODE_PORTS],
        };
        let key = frontend.key();
        let Some(pick) = self.pick(frontend) else {
            let verdict = self.refusal.verdict();
            return verdict.map(|verdict| (number(refused), key.into_vec(), verdict)).into_iter().collect();
        };
        let mut elements = vec![(number(verdicts), key.clone().into_vec(), Value::Goto(pick.name()))];
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

impl Pick {
    /// The chains that are always there.
    fn premade() -> impl Iterator<Item = Self> {
        let pick = |node_port: bool, count| Self { node_port, count, masquerade: node_port, affinity_seconds: None };
        (1..=PREMADE_COUNT_MAX).flat_map(move |count| [pick(false, count), pick(true, count)])
    }

    fn is_premade(&self) -> bool {
        self.count <= PREMADE_COUNT_MAX && self.masquerade == self.node_port && self.affinity_seconds.is_none()
    }

    /// `pick-service-3-keep-0`: kind, number of endpoints, what becomes of the source address, seconds of affinity.
    fn name(&self) -> String {
        let kind = if self.node_port { "port" } else { "service" };
        let source = if self.masquerade { "masquerade" } else { "keep" };
        format!("pick-{kind}-{}-{source}-{}", self.count, self.affinity_seconds.unwrap_or(0))
    }

    fn parse(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.strip_prefix("pick-")?.split('-').collect();
        let [kind, count, source, seconds] = parts.as_slice() else { return None };
        let seconds: u32 = seconds.parse().ok()?;
        let pick = Self {
            node_port: *kind == "port",
            count: count.parse().ok()?,
            masquerade: *source == "masquerade",
            affinity_seconds: (seconds > 0).then_some(seconds),
        };
        (pick.name() == name).then_some(pick)
    }

    fn chain(&self) -> Vec<Change> {
        let name = self.name();
        let rules = self.rules().into_iter().map(|rule| Change::AddRule { chain: name.clone(), rule });
        let chain = Change::AddChain { name: name.clone(), hook: None };
        std::iter::once(chain).chain(rules).collect()
    }

    /// The rules, over registers that hold, in this order: client, destination address, protocol, destination port, then a
    /// number or what was found. A lookup that finds nothing ends its rule, and the next one is tried.
    fn rules(&self) -> Vec<Rule> {
        let (endpoints, affinity, key) = match self.node_port {
            false => (&ENDPOINTS, &AFFINITY_ENDPOINTS, 1),
            true => (&NODE_PORT_ENDPOINTS, &AFFINITY_NODE_PORTS, 2),
        };
        let packet =
            || vec![nft::source_address(0), nft::destination_address(1), nft::protocol(2), nft::destination_port(3)];
        let choose = [nft::random(4, self.count), nft::lookup(endpoints, key, 8)];
        let mut rules = Vec::new();
        if self.masquerade {
            rules.push(nft::set_mark(MASQUERADE_MARK).to_vec());
        }
        if let Some(seconds) = self.affinity_seconds {
            let timeout = Duration::from_secs(seconds.into());
            // A remembered endpoint that still serves; what is remembered lies right behind the destination.
            let mut again = packet();
            again.extend([nft::lookup(&AFFINITY, 0, 4), nft::member(affinity, key)]);
            again.extend([nft::remember(&AFFINITY, 0, 4, timeout), nft::dnat(4, 5)]);
            // One that does not is forgotten: remembering does not replace what is there.
            let mut forget = packet();
            forget.extend([nft::zeroes(4, 8), nft::forget(&AFFINITY, 0, 4)]);
            let mut remember = packet();
            remember.extend(choose.clone());
            remember.extend([nft::remember(&AFFINITY, 0, 8, timeout), nft::dnat(8, 9)]);
            rules.extend([again, forget, remember]);
        }
        let mut rule = packet();
        rule.extend(choose);
        rule.push(nft::dnat(8, 9));
        rules.push(rule);
        rules
    }
}

fn rule(parts: &[&[Expression]]) -> Rule {
    parts.concat()
}

impl Layout {
    /// The chains that are always there, with their rules; those with a hook last, so that what they jump to exists.
    fn chains(&self) -> Vec<(String, Option<Hook>, Vec<Rule>)> {
        let plain = [
            (SERVICES_CHAIN, self.services()),
            ("refuse", refuse()),
            ("reject", reject()),
            ("drop", vec![vec![nft::drop()]]),
        ];
        let new_to = |chain: &str| rule(&[&nft::new_connection(), &[nft::jump(chain)]]);
        let and_unserved = || [vec![new_to("refuse")], self.unserved()].concat();
        let hooked = [
            ("nat-prerouting", Hook::NatPrerouting, vec![vec![nft::jump(SERVICES_CHAIN)]]),
            ("nat-output", Hook::NatOutput, vec![vec![nft::jump(SERVICES_CHAIN)]]),
            ("nat-postrouting", Hook::NatPostrouting, postrouting()),
            ("filter-input", Hook::FilterInput, vec![new_to("refuse")]),
            ("filter-forward", Hook::FilterForward, and_unserved()),
            ("filter-output", Hook::FilterOutput, and_unserved()),
        ];
        let plain = plain.into_iter().map(|(name, rules)| (name.to_owned(), None, rules));
        let hooked = hooked.into_iter().map(|(name, hook, rules)| (name.to_owned(), Some(hook), rules));
        let mut chains: Vec<_> = plain.chain(hooked).collect();
        // Rules are not read back from the kernel. A chain whose name is made from them stands for them all.
        let fingerprint = fingerprint(&format!("{chains:?} {SETS:?} {:?}", Pick::PROBE.map(|pick| pick.rules())));
        chains.insert(0, (format!("layout-{fingerprint:016x}"), None, Vec::new()));
        chains
    }

    fn create(&self) -> Vec<Change> {
        let chains = self.chains();
        let mut changes: Vec<Change> = SETS.iter().map(|set| Change::AddSet((*set).clone())).collect();
        changes.extend(chains.iter().map(|(name, hook, _)| Change::AddChain { name: name.clone(), hook: *hook }));
        for (chain, _, rules) in chains {
            changes.extend(rules.into_iter().map(|rule| Change::AddRule { chain: chain.clone(), rule }));
        }
        changes.extend(Pick::premade().flat_map(|pick| pick.chain()));
        changes
    }

    /// Where a new connection goes.
    fn services(&self) -> Vec<Rule> {
        let destination = [nft::destination_address(0), nft::protocol(1), nft::destination_port(2)];
        let port = [nft::protocol(0), nft::destination_port(1)];
        vec![
            // To a service from elsewhere than a pod: the answer must come back this way.
            rule(&[
                &[nft::destination_address(0)],
                &nft::in_net(0, self.service_cidr, true),
                &[nft::source_address(0)],
                &nft::in_net(0, self.cluster_cidr, false),
                &nft::set_mark(MASQUERADE_MARK),
            ]),
            rule(&[&destination, &[nft::vmap(&SERVICES, 0)]]),
            rule(&[&nft::to_this_host(), &port, &[nft::vmap(&NODE_PORTS, 0)]]),
        ]
    }

    /// What is still addressed to the service range after translation is nobody's: an address or port that no service has.
    fn unserved(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some(dns) = self.cluster_dns {
            rules.push(rule(&[&[nft::destination_address(0), nft::equals(0, dns.octets()), nft::back()]]));
        }
        rules.push(rule(&[
            &nft::new_connection(),
            &[nft::destination_address(0)],
            &nft::in_net(0, self.service_cidr, true),
            &[nft::goto("reject")],
        ]));
        rules
    }
}

fn refuse() -> Vec<Rule> {
    let destination = [nft::destination_address(0), nft::protocol(1), nft::destination_port(2)];
    let port = [nft::protocol(0), nft::destination_port(1)];
    vec![
        rule(&[&destination, &[nft::vmap(&REFUSED, 0)]]),
        rule(&[&nft::to_this_host(), &port, &[nft::vmap(&REFUSED_NODE_PORTS, 0)]]),
    ]
}

fn reject() -> Vec<Rule> {
    const TCP: u8 = 6;
    vec![rule(&[&nft::is_protocol(TCP), &[nft::reject_tcp()]]), vec![nft::reject_port()]]
}

fn postrouting() -> Vec<Rule> {
    let hairpin = [nft::source_address(0), nft::destination_address(1), nft::member(&HAIRPIN, 0), nft::masquerade()];
    vec![
        hairpin.to_vec(),
        rule(&[&nft::has_mark(MASQUERADE_MARK), &nft::clear_mark(MASQUERADE_MARK), &[nft::masquerade()]]),
    ]
}

impl Pick {
    /// One of each kind, for the fingerprint.
    const PROBE: [Self; 2] = [
        Self { node_port: false, count: 1, masquerade: true, affinity_seconds: Some(1) },
        Self { node_port: true, count: 1, masquerade: true, affinity_seconds: Some(1) },
    ];
}
