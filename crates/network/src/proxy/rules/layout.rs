//! The chains and rules that are always there. Pure.

use ipnet::Ipv4Net;
use linux::net::nft::{self, Change, Expression, Hook, Rule};

use super::pick::Pick;
use super::{
    FIREWALL, HAIRPIN, INSIDE, INSIDE_CHAIN, Layout, MASQUERADE_MARK, NODE_PORTS, REFUSED, REFUSED_NODE_PORTS,
    SERVICES, SERVICES_CHAIN, SETS, rule,
};
use crate::fingerprint::fingerprint;

impl Layout {
    /// The chains that are always there, with their rules; those with a hook last, so that what they jump to exists.
    pub(super) fn chains(&self) -> Vec<(String, Option<Hook>, Vec<Rule>)> {
        let plain = [
            (INSIDE_CHAIN, self.inside()),
            (SERVICES_CHAIN, self.services()),
            ("refuse", self.refuse()),
            ("reject", reject()),
            ("drop", vec![vec![nft::drop()]]),
        ];
        let new_to = |chain: &str| rule(&[&nft::new_connection(), &[nft::jump(chain)]]);
        let and_unserved = || [vec![new_to("refuse")], self.unserved()].concat();
        let firewall = || {
            let destination = [nft::destination_address(0), nft::protocol(1), nft::destination_port(2)];
            vec![rule(&[&destination, &[nft::vmap(&FIREWALL, 0)]])]
        };
        let hooked = [
            ("firewall-prerouting", Hook::FilterBeforeNatPrerouting, firewall()),
            ("firewall-output", Hook::FilterBeforeNatOutput, firewall()),
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

    pub(super) fn create(&self) -> Vec<Change> {
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
        let from_pods = [&[nft::source_address(0)][..], &nft::in_net(0, self.cluster_cidr, true)].concat();
        let mut rules = vec![
            // What the node itself sends there may go to another node, whose answer must come back this way.
            rule(&[&nft::from_this_host(), &nft::set_mark(MASQUERADE_MARK), &[nft::jump(INSIDE_CHAIN)]]),
            rule(&[&nft::from_this_host(), &nft::clear_mark(MASQUERADE_MARK)]),
            // To a service from elsewhere than a pod: likewise.
            rule(&[
                &[nft::destination_address(0)],
                &nft::in_net(0, self.service_cidr, true),
                &[nft::source_address(0)],
                &nft::in_net(0, self.cluster_cidr, false),
                &nft::set_mark(MASQUERADE_MARK),
            ]),
            rule(&[&from_pods, &[nft::jump(INSIDE_CHAIN)]]),
            rule(&[&destination, &[nft::vmap(&SERVICES, 0)]]),
        ];
        rules.extend(self.at_node_ports(&[nft::protocol(0), nft::destination_port(1), nft::vmap(&NODE_PORTS, 0)]));
        rules
    }

    /// What holds for clients on this node alone.
    fn inside(&self) -> Vec<Rule> {
        let protocol = |register| [nft::protocol(register), nft::flip(register, INSIDE)];
        let mut rules = vec![rule(&[
            &[nft::destination_address(0)],
            &protocol(1),
            &[nft::destination_port(2), nft::vmap(&SERVICES, 0)],
        ])];
        let port = [&protocol(0)[..], &[nft::destination_port(1), nft::vmap(&NODE_PORTS, 0)]].concat();
        rules.extend(self.at_node_ports(&port));
        rules
    }

    fn refuse(&self) -> Vec<Rule> {
        let destination = [nft::destination_address(0), nft::protocol(1), nft::destination_port(2)];
        let mut rules = vec![rule(&[&destination, &[nft::vmap(&REFUSED, 0)]])];
        let port = [nft::protocol(0), nft::destination_port(1), nft::vmap(&REFUSED_NODE_PORTS, 0)];
        rules.extend(self.at_node_ports(&port));
        rules
    }

    /// Rules for what is sent to an address of the node that has node ports.
    fn at_node_ports(&self, then: &[Expression]) -> Vec<Rule> {
        if self.node_port_addresses.is_empty() {
            return vec![rule(&[&nft::to_this_host(), then])];
        }
        let at = |net: &Ipv4Net| {
            let here = [&[nft::destination_address(0)][..], &nft::in_net(0, *net, true)].concat();
            rule(&[&nft::to_this_host(), &here, then])
        };
        self.node_port_addresses.iter().map(at).collect()
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
