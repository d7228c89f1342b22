//! The chains that pick an endpoint: one for each number of endpoints, and what else makes a difference. Pure.

use std::time::Duration;

use linux::net::nft::{self, Change, Rule};

use super::{
    AFFINITY, AFFINITY_ENDPOINTS, AFFINITY_NODE_PORTS, ENDPOINTS, INSIDE, MASQUERADE_MARK, NODE_PORT_ENDPOINTS,
    PREMADE_COUNT_MAX,
};

/// A chain that picks an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pick {
    pub(super) node_port: bool,
    pub(super) inside: bool,
    pub(super) count: u32,
    pub(super) masquerade: bool,
    pub(super) affinity_seconds: Option<u32>,
}

impl Pick {
    /// The chains that are always there.
    pub(super) fn premade() -> impl Iterator<Item = Self> {
        let pick = |node_port: bool, count| {
            let (inside, masquerade, affinity_seconds) = (false, node_port, None);
            Self { node_port, inside, count, masquerade, affinity_seconds }
        };
        (1..=PREMADE_COUNT_MAX).flat_map(move |count| [pick(false, count), pick(true, count)])
    }

    pub(super) fn is_premade(&self) -> bool {
        let is_usual = !self.inside && self.masquerade == self.node_port && self.affinity_seconds.is_none();
        is_usual && self.count <= PREMADE_COUNT_MAX
    }

    /// `pick-service-3-keep-0`: kind, number of endpoints, what becomes of the source address, seconds of affinity.
    pub(super) fn name(&self) -> String {
        let kind = match (self.inside, self.node_port) {
            (false, false) => "service",
            (false, true) => "port",
            (true, false) => "insideservice",
            (true, true) => "insideport",
        };
        let source = if self.masquerade { "masquerade" } else { "keep" };
        format!("pick-{kind}-{}-{source}-{}", self.count, self.affinity_seconds.unwrap_or(0))
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.strip_prefix("pick-")?.split('-').collect();
        let [kind, count, source, seconds] = parts.as_slice() else { return None };
        let seconds: u32 = seconds.parse().ok()?;
        let pick = Self {
            node_port: kind.ends_with("port"),
            inside: kind.starts_with("inside"),
            count: count.parse().ok()?,
            masquerade: *source == "masquerade",
            affinity_seconds: (seconds > 0).then_some(seconds),
        };
        (pick.name() == name).then_some(pick)
    }

    pub(super) fn chain(&self) -> Vec<Change> {
        let name = self.name();
        let rules = self.rules().into_iter().map(|rule| Change::AddRule { chain: name.clone(), rule });
        let chain = Change::AddChain { name: name.clone(), hook: None };
        std::iter::once(chain).chain(rules).collect()
    }

    /// The rules, over registers that hold, in this order: client, destination address, protocol, destination port, then a
    /// number or what was found. A lookup that finds nothing ends its rule, and the next one is tried.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let (endpoints, affinity, key) = match self.node_port {
            false => (&ENDPOINTS, &AFFINITY_ENDPOINTS, 1),
            true => (&NODE_PORT_ENDPOINTS, &AFFINITY_NODE_PORTS, 2),
        };
        let packet = || {
            let mut packet = vec![nft::source_address(0), nft::destination_address(1), nft::protocol(2)];
            packet.extend(self.inside.then(|| nft::flip(2, INSIDE)));
            packet.push(nft::destination_port(3));
            packet
        };
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

impl Pick {
    /// One of each kind, for the fingerprint.
    pub(super) const PROBE: [Self; 2] = [
        Self { node_port: false, inside: false, count: 1, masquerade: true, affinity_seconds: Some(1) },
        Self { node_port: true, inside: true, count: 1, masquerade: true, affinity_seconds: Some(1) },
    ];
}
