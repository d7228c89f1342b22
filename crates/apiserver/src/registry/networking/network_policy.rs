//! Network policies.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{child, entries, is_set, label_selector, list, list_mut, one_of, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::NETWORK_POLICIES, strategy: |_| Arc::new(NetworkPolicyStrategy) };

struct NetworkPolicyStrategy;

impl Strategy for NetworkPolicyStrategy {
    fn default(&self, policy: &mut Value) {
        let Some(spec) = child(policy, "spec") else { return };
        child(spec, "podSelector");
        for direction in ["ingress", "egress"] {
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
        let spec = &policy["spec"];
        let mut errors = Vec::new();
        label_selector(&mut errors, &spec["podSelector"], "spec.podSelector");
        for (at, kind) in list(&spec["policyTypes"]).iter().enumerate() {
            one_of(&mut errors, kind, &format!("spec.policyTypes[{at}]"), &["Egress", "Ingress"]);
        }
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (at, rule) in list(&spec[direction]).iter().enumerate() {
                for (nth, peer) in list(&rule[peers]).iter().enumerate() {
                    validate_peer(&mut errors, peer, &format!("spec.{direction}[{at}].{peers}[{nth}]"));
                }
                for (nth, port) in list(&rule["ports"]).iter().enumerate() {
                    let path = format!("spec.{direction}[{at}].ports[{nth}]");
                    one_of(&mut errors, &port["protocol"], &format!("{path}.protocol"), &["SCTP", "TCP", "UDP"]);
                    let (from, to) = (port["port"].as_i64(), port["endPort"].as_i64());
                    if to.is_some() && from.is_none_or(|from| Some(from) > to) {
                        let why = "must be greater than or equal to `port`";
                        errors.push(FieldError::invalid(format!("{path}.endPort"), &port["endPort"], why));
                    }
                }
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate_peer(errors: &mut Vec<FieldError>, peer: &Value, path: &str) {
    if entries(peer).all(|(_, value)| value.is_null()) {
        errors.push(FieldError::required(path, "must specify a peer"));
    }
    if is_set(peer, "ipBlock") {
        if is_set(peer, "podSelector") || is_set(peer, "namespaceSelector") {
            let why = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(path, why));
        }
        let block = &peer["ipBlock"]["cidr"];
        if text(block).parse::<IpNet>().is_err() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("{path}.ipBlock.cidr"), block, why));
        }
    }
    for selector in ["podSelector", "namespaceSelector"] {
        label_selector(errors, &peer[selector], &format!("{path}.{selector}"));
    }
}
