//! Nodes. A kubelet writes its node's status when it creates it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::tree::{child, is_set, list, one_of, set, text};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor { resource: api::resources::NODES, strategy: |_| Arc::new(NodeStrategy) };

struct NodeStrategy;

impl Strategy for NodeStrategy {
    fn default(&self, node: &mut Value) {
        // The singular and the plural name the same range.
        let Some(spec) = child(node, "spec") else { return };
        let single = text(&spec["podCIDR"]).to_owned();
        if !single.is_empty() && list(&spec["podCIDRs"]).is_empty() {
            set(spec, "podCIDRs", vec![single]);
        } else if single.is_empty()
            && let Some(first) = list(&spec["podCIDRs"]).first().cloned()
        {
            set(spec, "podCIDR", first);
        }
    }

    fn validate(&self, _: &Context<'_>, node: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (at, taint) in list(&node["spec"]["taints"]).iter().enumerate() {
            let path = format!("spec.taints[{at}]");
            let complaints = machinery::names::qualified_name(text(&taint["key"]));
            errors.extend(complaints.iter().map(|why| FieldError::invalid(format!("{path}.key"), &taint["key"], why)));
            if !is_set(taint, "effect") {
                errors.push(FieldError::required(format!("{path}.effect"), ""));
            }
            one_of(
                &mut errors,
                &taint["effect"],
                &format!("{path}.effect"),
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            );
        }
        for (at, range) in list(&node["spec"]["podCIDRs"]).iter().enumerate() {
            if text(range).parse::<IpNet>().is_err() {
                let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(FieldError::invalid(format!("spec.podCIDRs[{at}]"), range, why));
            }
        }
        for (at, address) in list(&node["status"]["addresses"]).iter().enumerate() {
            if text(&address["type"]).ends_with("IP") && text(&address["address"]).parse::<IpAddr>().is_err() {
                let path = format!("status.addresses[{at}].address");
                errors.push(FieldError::invalid(path, &address["address"], "must be a valid IP address"));
            }
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        for field in ["podCIDRs", "providerID"] {
            let before = &old["spec"][field];
            if is_set(&old["spec"], field) && &new["spec"][field] != before {
                let why = "node updates may not change podCIDR except from \"\" to valid";
                let why = if field == "providerID" {
                    "node updates may not change providerID except from \"\" to valid"
                } else {
                    why
                };
                errors.push(FieldError::forbidden(format!("spec.{field}"), why));
            }
        }
        errors
    }
}
