//! Policies as nftables: which chains and sets there are, and what is in a chain. Pure.
//!
//! # The design, and why
//!
//! A chain is what is allowed to (or from) pods that the same policies select; its name is made from its content. So a chain
//! never changes: a changed policy makes another one, to which the pods' elements then lead, and the former goes. A rule of
//! a chain never names a pod: it asks whether the packet's other end is in `peers` under the number of a pair of selectors,
//! which is made from their content too, so that policies that name the same pods share them. A pod that comes or goes
//! therefore changes elements alone: where its address leads, and under which numbers it is a peer.
//!
//! A packet is judged after its destination was translated, so services need no care, and before its source is. It has to
//! pass the sender's egress and the receiver's ingress: one base chain each. What belongs to a connection that was let
//! through passes. What the node itself sends or receives is forwarded to nobody and not judged, as the API asks.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use linux::net::nft::{self, Bytes, Change, Data, Expression, Field, Hook, Rule as Expressions, Set};

use super::objects::{Peer, PeerPods, Port, Rule};
use crate::fingerprint::fingerprint;

/// The table, of family `ip`.
pub const TABLE: &str = "timonier-policy";

/// The chain by which the table's loss is noticed.
pub(crate) const WATCHED: &str = "egress";

/// Where addresses lead whose pods are not known yet: nothing passes.
pub(crate) const CLOSED: &str = "closed";

use Field::{Address, Number, Port as PortField, Protocol};

const fn set(name: &'static str, key: &'static [Field], data: Data) -> Set {
    Set { name: Cow::Borrowed(name), key: Cow::Borrowed(key), data, dynamic: None }
}

static EGRESS: Set = set("egress-of", &[Address], Data::Verdict);
static INGRESS: Set = set("ingress-of", &[Address], Data::Verdict);
/// The number of a pair of selectors (two words), and a pod that they select.
static PEERS: Set = set("peers", &[Number, Number, Address], Data::Nothing);
/// The number of a port's name, and a pod's port of that name.
static NAMED: Set = set("named-ports", &[Number, Number, Address, Protocol, PortField], Data::Nothing);
/// Source and destination of pods that reach themselves: nobody can keep a pod from that.
static ITSELF: Set = set("itself", &[Address, Address], Data::Nothing);

pub(super) static SETS: [&Set; 5] = [&EGRESS, &INGRESS, &PEERS, &NAMED, &ITSELF];

/// Where a packet is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To a pod of this node.
    Ingress,
    /// From one.
    Egress,
}

/// The number of what a set's element stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// Two pairs of selectors that mean the same may differ in writing, and then have two numbers: that is all right.
    pub(super) fn of_peers(peers: &PeerPods) -> Self {
        Self(fingerprint(&format!("{:?} {}", peers.namespaces, peers.pods)))
    }

    pub(super) fn of_name(name: &str) -> Self {
        Self(fingerprint(name))
    }

    fn bytes(self) -> [u8; 8] {
        self.0.to_ne_bytes()
    }
}

/// The other end of what passes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Any,
    Peers(Id),
    Block(Ipv4Net, Vec<Ipv4Net>),
}

/// The ports of what passes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ports {
    Any,
    All(u8),
    Range(u8, u16, u16),
    Named(u8, Id),
}

/// One thing that passes: one rule.
pub(super) type Pass = (End, Ports);

/// What is in a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chain {
    pub(super) direction: Direction,
    pub(super) passes: BTreeSet<Pass>,
}

impl Chain {
    pub(super) fn of<'a>(direction: Direction, rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut passes = BTreeSet::new();
        for rule in rules {
            let ends: Vec<End> = match &rule.peers {
                None => vec![End::Any],
                Some(peers) => peers.iter().map(End::of).collect(),
            };
            let ports: Vec<Ports> = match &rule.ports {
                None => vec![Ports::Any],
                Some(ports) => ports.iter().map(Ports::of).collect(),
            };
            passes.extend(ends.iter().flat_map(|end| ports.iter().map(|ports| (end.clone(), ports.clone()))));
        }
        Self { direction, passes }
    }

    /// Made from its content.
    pub(super) fn name(&self) -> String {
        format!("pass-{:016x}", fingerprint(&format!("{self:?}")))
    }

    pub(super) fn create(&self) -> Vec<Change> {
        let chain = self.name();
        let passes = self.passes.iter().map(|pass| rule(self.direction, pass));
        let rules = passes.chain([vec![nft::drop()]]);
        let rules = rules.map(|rule| Change::AddRule { chain: chain.clone(), rule });
        std::iter::once(Change::AddChain { name: chain.clone(), hook: None }).chain(rules).collect()
    }
}

impl End {
    fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Block { net, except } => Self::Block(*net, except.clone()),
            Peer::Pods(pods) => Self::Peers(Id::of_peers(pods)),
        }
    }
}

impl Ports {
    fn of(port: &Port) -> Self {
        match port {
            Port::All(protocol) => Self::All(*protocol),
            Port::Range(protocol, first, last) => Self::Range(*protocol, *first, *last),
            Port::Named(protocol, name) => Self::Named(*protocol, Id::of_name(name)),
        }
    }
}

/// Lets through what is at this end and on these ports.
fn rule(direction: Direction, (end, ports): &Pass) -> Expressions {
    let other = |register: usize| match direction {
        Direction::Ingress => nft::source_address(register),
        Direction::Egress => nft::destination_address(register),
    };
    let mut rule: Vec<Expression> = Vec::new();
    match end {
        End::Any => {}
        End::Peers(id) => rule.extend([nft::load(0, id.bytes()), other(2), nft::member(&PEERS, 0)]),
        End::Block(net, except) => {
            rule.push(other(0));
            rule.extend(nft::in_net(0, *net, true));
            for left_out in except {
                rule.push(other(0));
                rule.extend(nft::in_net(0, *left_out, false));
            }
        }
    }
    match ports {
        Ports::Any => {}
        Ports::All(protocol) => rule.extend(nft::is_protocol(*protocol)),
        Ports::Range(protocol, first, last) => {
            rule.extend(nft::is_protocol(*protocol));
            rule.push(nft::destination_port(0));
            if first == last {
                rule.push(nft::equals(0, first.to_be_bytes()));
            } else {
                rule.extend([nft::at_least(0, first.to_be_bytes()), nft::at_most(0, last.to_be_bytes())]);
            }
        }
        Ports::Named(protocol, id) => {
            rule.extend(nft::is_protocol(*protocol));
            rule.extend([nft::load(0, id.bytes()), nft::destination_address(2), nft::protocol(3)]);
            rule.extend([nft::destination_port(4), nft::member(&NAMED, 0)]);
        }
    }
    rule.push(nft::accept());
    rule
}

/// Elements by the number of their set in [`SETS`].
pub(super) mod element {
    use super::{Bytes, Direction, Id, Ipv4Addr};
    use crate::difference::Key;

    pub(in super::super) fn pod(direction: Direction, address: Ipv4Addr) -> Key {
        (usize::from(direction == Direction::Ingress), Bytes::new().address(address).into_vec())
    }

    pub(in super::super) fn peer(id: Id, address: Ipv4Addr) -> Key {
        (2, [&id.bytes()[..], &Bytes::new().address(address).into_vec()].concat())
    }

    pub(in super::super) fn named(id: Id, address: Ipv4Addr, protocol: u8, port: u16) -> Key {
        let rest = Bytes::new().address(address).protocol(protocol).port(port).into_vec();
        (3, [&id.bytes()[..], &rest].concat())
    }

    pub(in super::super) fn itself(address: Ipv4Addr) -> Key {
        (4, Bytes::new().address(address).address(address).into_vec())
    }
}

/// The table with its sets and the chains that are always there, in place of whatever is there.
pub(super) fn create() -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::RemoveTable, Change::AddTable];
    changes.extend(SETS.iter().map(|set| Change::AddSet((*set).clone())));
    let known = || [&nft::known_connection()[..], &[nft::accept()]].concat();
    let itself = || vec![nft::source_address(0), nft::destination_address(1), nft::member(&ITSELF, 0), nft::accept()];
    let chains = [
        (CLOSED, None, vec![vec![nft::drop()]]),
        (
            WATCHED,
            Some(Hook::FilterForward),
            vec![known(), itself(), vec![nft::source_address(0), nft::vmap(&EGRESS, 0)]],
        ),
        (
            "ingress",
            Some(Hook::FilterForward),
            vec![known(), itself(), vec![nft::destination_address(0), nft::vmap(&INGRESS, 0)]],
        ),
    ];
    for (name, hook, rules) in chains {
        let chain = name.to_owned();
        changes.push(Change::AddChain { name: chain.clone(), hook });
        changes.extend(rules.into_iter().map(|rule| Change::AddRule { chain: chain.clone(), rule }));
    }
    changes
}
