//! What a service's type has to do with its other fields when it changes.
//!
//! A writer need not know what the server gave to a service, and one that changes the type need not take back what only the
//! old type has. What a writer insists on is left there, for validation to refuse.

use ipnet::IpNet;
use serde_json::Value;

use crate::registry::tree::{is_set, keep, list, list_mut, remove, set, text};

/// Whether clients outside the cluster reach it.
pub(super) fn is_reached_from_outside(spec: &Value) -> bool {
    match text(&spec["type"]) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(&spec["externalIPs"]).is_empty(),
        _ => false,
    }
}

/// Whether a load balancer must ask nodes if they have an endpoint.
pub(super) fn needs_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn needs_address(spec: &Value) -> bool {
    spec["type"] != "ExternalName"
}

fn needs_node_ports(spec: &Value) -> bool {
    matches!(text(&spec["type"]), "NodePort" | "LoadBalancer")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Puts back what the server gave and the writer left out.
pub(super) fn keep_what_was_given(spec: &mut Value, old: &Value) {
    if needs_address(spec) && needs_address(old) {
        for field in ["clusterIP", "clusterIPs"] {
            if text(&spec[field]).is_empty() && list(&spec[field]).is_empty() {
                keep(spec, old, field);
            }
        }
    }
    if needs_node_ports(spec) && needs_node_ports(old) {
        for port in list_mut(spec, "ports") {
            if number(&port["nodePort"]) != 0 {
                continue;
            }
            let same = |old: &&Value| old["port"] == port["port"] && old["protocol"] == port["protocol"];
            let kept = list(&old["ports"]).iter().find(same).map(|old| old["nodePort"].clone());
            if let Some(kept) = kept.filter(|kept| number(kept) != 0) {
                set(port, "nodePort", kept);
            }
        }
    }
    if needs_health_check(spec) && needs_health_check(old) && number(&spec["healthCheckNodePort"]) == 0 {
        keep(spec, old, "healthCheckNodePort");
    }
}

/// Removes what only the old type had and the writer did not change.
pub(super) fn drop_what_the_type_does_not_have(spec: &mut Value, old: &Value) {
    let drop_same = |spec: &mut Value, fields: &[&str]| {
        if fields.iter().all(|field| spec[*field] == old[*field]) {
            fields.iter().for_each(|field| remove(spec, field));
        }
    };
    if needs_address(old) && !needs_address(spec) {
        drop_same(spec, &["clusterIP", "clusterIPs"]);
        drop_same(spec, &["ipFamilies"]);
        drop_same(spec, &["ipFamilyPolicy"]);
    }
    if needs_health_check(old) && !needs_health_check(spec) {
        drop_same(spec, &["healthCheckNodePort"]);
    }
    if old["type"] == "LoadBalancer" && spec["type"] != "LoadBalancer" {
        drop_same(spec, &["allocateLoadBalancerNodePorts"]);
        drop_same(spec, &["loadBalancerClass"]);
    }
    if is_reached_from_outside(old) && !is_reached_from_outside(spec) {
        drop_same(spec, &["externalTrafficPolicy"]);
    }
    if needs_node_ports(old) && !needs_node_ports(spec) {
        let given = |port: &Value| number(&port["nodePort"]);
        let known = |port: &Value| list(&old["ports"]).iter().any(|old| given(old) == given(port));
        if list(&spec["ports"]).iter().filter(|port| is_set(port, "nodePort")).all(known) {
            list_mut(spec, "ports").iter_mut().for_each(|port| remove(port, "nodePort"));
        }
    }
}

/// Takes the second address and family from a service that no longer wants two, where the writer left both there.
pub(super) fn give_second_back(spec: &mut Value, old: &Value) {
    let is_single = |spec: &Value| text(&spec["ipFamilyPolicy"]) == "SingleStack";
    if !is_single(spec) || is_single(old) {
        return;
    }
    for field in ["clusterIPs", "ipFamilies"] {
        if list(&spec[field]).len() == 2 && spec[field] == old[field] {
            let first = list(&spec[field])[0].clone();
            set(spec, field, vec![first]);
        }
    }
}

/// Where addresses come from: the first range, and that of the other family where there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    pub(super) first: IpNet,
    pub(super) second: Option<IpNet>,
}

impl Ranges {
    /// The range of an address's family.
    pub(super) fn of(&self, is_v4: bool) -> Option<&IpNet> {
        std::iter::once(&self.first).chain(&self.second).find(|range| range.addr().is_ipv4() == is_v4)
    }

    /// Whether there are both families.
    pub(super) fn is_dual(&self) -> bool {
        self.of(true).is_some() && self.of(false).is_some()
    }
}

/// The name of a family of addresses.
pub(super) fn family(is_v4: bool) -> &'static str {
    if is_v4 { "IPv4" } else { "IPv6" }
}
