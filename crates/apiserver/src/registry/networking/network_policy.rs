//! Network policies.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use machinery::names;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{child, list, list_mut, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, check, ip};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::NETWORK_POLICIES, strategy: |_| Arc::new(NetworkPolicyStrategy) };

/// The directions with what each calls the other side.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

struct NetworkPolicyStrategy;

impl Strategy for NetworkPolicyStrategy {
    fn default(&self, policy: &mut Value) {
        let Some(spec) = child(policy, "spec") else { return };
        child(spec, "podSelector");
        for (direction, _) in DIRECTIONS {
            for rule in list_mut(spec, direction) {
                for port in list_mut(rule, "ports") {
                    set_default(port, "protocol", "TCP");
                }
            }
        }
        if list(&spec["policyTypes"]).is_empty() {
            let both = !list(&spec["egress"]).is_empty();
            set(spec, "policyTypes", if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        }
    }

    fn validate(&self, _: &Context<'_>, policy: &Value) -> Vec<FieldError> {
        validate(policy, &[])
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let rules = DIRECTIONS
            .iter()
            .flat_map(|(direction, peers)| list(&old["spec"][*direction]).iter().flat_map(|rule| list(&rule[*peers])));
        let blocks = rules.map(|peer| &peer["ipBlock"]);
        let kept: Vec<&str> =
            blocks.flat_map(|block| std::iter::once(&block["cidr"]).chain(list(&block["except"]))).map(text).collect();
        validate(new, &kept)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::new(new, "");
        let spec = root.at("spec");
        for (direction, peers) in DIRECTIONS {
            for rule in spec.at(direction).items() {
                for peer in rule.at(peers).items() {
                    let block = peer.at("ipBlock");
                    ip::warn_network(&mut warnings, &block.at("cidr"));
                    block.at("except").items().for_each(|except| ip::warn_network(&mut warnings, &except));
                }
            }
        }
        warnings
    }
}

fn validate(policy: &Value, kept: &[&str]) -> Errors {
    let mut errors = Vec::new();
    let root = At::new(policy, "");
    let spec = root.at("spec");
    check::label_selector(&mut errors, &spec.at("podSelector"));
    for (direction, peers) in DIRECTIONS {
        for rule in spec.at(direction).items() {
            rule.at("ports").items().for_each(|port| validate_port(&mut errors, &port));
            rule.at(peers).items().for_each(|peer| validate_peer(&mut errors, &peer, kept));
        }
    }
    let kinds = spec.at("policyTypes");
    if kinds.count() > 2 {
        errors.push(kinds.invalid("may not specify more than two policyTypes"));
        return errors;
    }
    kinds.items().for_each(|kind| check::one_of(&mut errors, &kind, &["Ingress", "Egress"]));
    errors
}

fn validate_port(errors: &mut Errors, at: &At<'_>) {
    let (port, end) = (at.at("port"), at.at("endPort"));
    check::one_of(errors, &at.at("protocol"), &["TCP", "UDP", "SCTP"]);
    if !port.is_set() {
        if end.is_set() {
            errors.push(end.invalid("may not be specified when `port` is not specified"));
        }
    } else if port.value().is_string() {
        if end.is_set() {
            errors.push(end.invalid("may not be specified when `port` is non-numeric"));
        }
        check::text(errors, &port, names::port_name);
    } else {
        check::port_number(errors, &port);
        let first = port.number().unwrap_or(0);
        if end.number().is_some_and(|end| end < first) {
            errors.push(end.invalid_as(first, "must be greater than or equal to `port`"));
        }
        if end.is_set() {
            check::port_number(errors, &end);
        }
    }
}

fn validate_peer(errors: &mut Errors, at: &At<'_>, kept: &[&str]) {
    let (pods, namespaces, block) = (at.at("podSelector"), at.at("namespaceSelector"), at.at("ipBlock"));
    check::label_selector(errors, &pods);
    check::label_selector(errors, &namespaces);
    if block.is_set() {
        validate_block(errors, &block, kept);
    }
    match (pods.is_set() || namespaces.is_set(), block.is_set()) {
        (false, false) => errors.push(at.required("must specify a peer")),
        (true, true) => errors.push(at.forbidden("may not specify both ipBlock and another peer")),
        _ => {}
    }
}

fn validate_block(errors: &mut Errors, at: &At<'_>, kept: &[&str]) {
    let range = at.at("cidr");
    if !range.has_text() {
        errors.push(range.required(""));
        return;
    }
    ip::network_or_kept(errors, &range, kept);
    let Some(whole) = network(range.text()) else { return };
    for except in at.at("except").items() {
        ip::network_or_kept(errors, &except, kept);
        let Some(part) = network(except.text()) else { continue };
        if !whole.contains(&part.network()) || whole.prefix_len() >= part.prefix_len() {
            errors.push(except.invalid("must be a strict subset of `cidr`"));
        }
    }
}

fn network(text: &str) -> Option<IpNet> {
    let (ip, bits): (IpAddr, u8) = ip::parse_network_sloppily(text)?;
    IpNet::new(ip, bits).ok()
}
