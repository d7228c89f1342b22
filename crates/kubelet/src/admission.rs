//! Whether a pod that was bound to this node can run here: the scheduler looked at an older picture, and some pods name
//! their node themselves.

use std::collections::BTreeMap;

use api::typed::core::v1::{NodeSelectorRequirement, Pod};
use cri::v1::PortMapping;
use machinery::labels::{Operator, Requirement};

use crate::config;
use crate::eviction;
use crate::host::Host;
use crate::plan::Verdict;
use crate::resize::Pending;
use crate::resources::{self, Capacity};

/// What a pod takes of the node.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    milli_cpu: i64,
    memory_bytes: i64,
    /// On the node's addresses.
    ports: Vec<PortMapping>,
}

impl Demand {
    fn of(pod: &Pod) -> Self {
        let (milli_cpu, memory_bytes) = resources::pod_request(pod);
        Self { milli_cpu, memory_bytes, ports: pod.spec.as_ref().map(config::host_ports).unwrap_or_default() }
    }

    /// Whether both want the same port; without an address, or with 0.0.0.0, a port is wanted on all.
    fn shares_a_port(&self, other: &Self) -> bool {
        let on_all = |port: &PortMapping| matches!(&*port.host_ip, "" | "0.0.0.0");
        let clash = |a: &PortMapping, b: &PortMapping| {
            (a.protocol, a.host_port) == (b.protocol, b.host_port) && (on_all(a) || on_all(b) || a.host_ip == b.host_ip)
        };
        self.ports.iter().any(|port| other.ports.iter().any(|taken| clash(port, taken)))
    }
}

/// Lets the pod in and counts what it asks for, or says why it must fail.
pub(crate) fn admit(host: &Host, uid: &str, pod: &Pod) -> Result<(), Verdict> {
    let reject = |reason: &str, why: String| {
        Err(Verdict { reason: reason.to_owned(), message: format!("Pod was rejected: {why}"), grace_seconds: None })
    };
    if let Some(why) = eviction::refusal(host, pod) {
        return reject("Evicted", why);
    }
    if !fits_node_labels(host, pod) {
        return reject(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        );
    }
    if let Some(why) = forbidden_sysctl(pod, &host.settings.unsafe_sysctls) {
        return reject("SysctlForbidden", format!("forbidden sysctl: {why}"));
    }
    let demand = Demand::of(pod);
    let mut admitted = host.admitted.lock().expect("no holder of the list of admitted pods panics");
    if admitted.contains_key(uid) {
        return Ok(());
    }
    if let Some(short) = short_of(&admitted, uid, &demand, host.allocatable) {
        return reject(&format!("OutOf{}", short.resource), format!("Node didn't have enough resource: {short}"));
    }
    if admitted.values().any(|other| other.shares_a_port(&demand)) {
        let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return reject("NodePorts", why.into());
    }
    admitted.insert(uid.to_owned(), demand);
    Ok(())
}

/// Counts what a pod that is here asks for from now on, or says why that waits.
pub(crate) fn resize(host: &Host, uid: &str, pod: &Pod) -> Result<(), Pending> {
    let demand = Demand::of(pod);
    let mut admitted = host.admitted.lock().expect("no holder of the list of admitted pods panics");
    if let Some(short) = short_of(&BTreeMap::new(), uid, &demand, host.allocatable) {
        let Short { resource, requested, capacity, .. } = short;
        let message =
            format!("Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}");
        return Err(Pending { reason: "Infeasible", message });
    }
    if let Some(short) = short_of(&admitted, uid, &demand, host.allocatable) {
        return Err(Pending { reason: "Deferred", message: format!("Node didn't have enough resource: {short}") });
    }
    admitted.insert(uid.to_owned(), demand);
    drop(admitted);
    // Others may have waited for what this one gives back.
    host.released.notify_waiters();
    Ok(())
}

/// Forgets a pod that has ended.
pub(crate) fn release(host: &Host, uid: &str) {
    let gone = host.admitted.lock().expect("no holder of the list of admitted pods panics").remove(uid);
    if gone.is_some() {
        host.released.notify_waiters();
    }
}

/// A resource that the node has too little of.
#[derive(Debug)]
struct Short {
    resource: &'static str,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl std::fmt::Display for Short {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resource, requested, used, capacity } = self;
        write!(formatter, "{resource}, requested: {requested}, used: {used}, capacity: {capacity}")
    }
}

/// What a pod asks for in vain beside the others; its own demand so far does not count.
fn short_of(admitted: &BTreeMap<String, Demand>, uid: &str, demand: &Demand, allocatable: Capacity) -> Option<Short> {
    let others = || admitted.iter().filter(|(other, _)| *other != uid).map(|(_, demand)| demand);
    let used = |of: fn(&Demand) -> i64| others().map(of).fold(0_i64, i64::saturating_add);
    let lists = [
        ("pods", 1, used(|_| 1), allocatable.pods),
        ("cpu", demand.milli_cpu, used(|other| other.milli_cpu), allocatable.milli_cpu),
        ("memory", demand.memory_bytes, used(|other| other.memory_bytes), allocatable.memory_bytes),
    ];
    let short = lists
        .into_iter()
        .find(|(_, requested, used, capacity)| *requested > 0 && used.saturating_add(*requested) > *capacity);
    short.map(|(resource, requested, used, capacity)| Short { resource, requested, used, capacity })
}

/// Kernel parameters that a pod's own namespaces keep from everybody else; upstream's list.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Why a kernel parameter that the pod asks for may not be set.
fn forbidden_sysctl(pod: &Pod, allowed: &[String]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let wanted = spec.security_context.as_ref()?.sysctls.as_ref()?;
    wanted.iter().find_map(|sysctl| {
        let name = sysctl.name.replace('/', ".");
        let listed = allowed.iter().any(|pattern| match pattern.replace('/', ".").strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *pattern == name,
        });
        if !listed && !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Some(format!("\"{name}\" not allowlisted"));
        }
        let ipc = name.starts_with("kernel.") || name.starts_with("fs.mqueue.");
        match (spec.host_network, spec.host_ipc) {
            (Some(true), _) if !ipc => Some(format!("\"{name}\" not allowed with host net enabled")),
            (_, Some(true)) if ipc => Some(format!("\"{name}\" not allowed with host ipc enabled")),
            _ => None,
        }
    })
}

/// Whether the node has the labels, and is the node, that the pod's selector and its required affinity name.
fn fits_node_labels(host: &Host, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    // While the node's labels are not known, the scheduler is believed.
    let Some(node) = host.node.get(&api::Key::new("", host.node_name.as_str())) else { return true };
    let label = |name: &str| node.label(name);
    let selected = spec.node_selector.iter().flatten().all(|(name, value)| label(name) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    // Terms are alternatives; one that asks for nothing matches nothing.
    selected
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| {
                let labels = term.match_expressions.as_deref().unwrap_or_default();
                let fields = term.match_fields.as_deref().unwrap_or_default();
                let field = |name: &str| (name == "metadata.name").then_some(host.node_name.as_str());
                !(labels.is_empty() && fields.is_empty())
                    && labels.iter().all(|wanted| meets(wanted, label(&wanted.key)))
                    && fields.iter().all(|wanted| meets(wanted, field(&wanted.key)))
            })
        })
}

fn meets(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match wanted.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    let requirement = Requirement::new(&wanted.key, operator, wanted.values.clone().unwrap_or_default());
    requirement.is_ok_and(|requirement| requirement.matches(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn kernel_parameters_that_reach_others_are_forbidden() {
        let allowed = ["net.core.*".to_owned(), "kernel.msgmax".to_owned()];
        for (host, name, wanted) in [
            ("", "kernel.shm_rmid_forced", None),
            ("", "net/ipv4/tcp_syncookies", None),
            ("", "net.core.somaxconn", None),
            ("", "kernel.msgmax", None),
            ("", "kernel.msgmnb", Some("\"kernel.msgmnb\" not allowlisted")),
            (
                "\"hostNetwork\":true,",
                "net.ipv4.tcp_syncookies",
                Some("\"net.ipv4.tcp_syncookies\" not allowed with host net enabled"),
            ),
            ("\"hostNetwork\":true,", "kernel.shm_rmid_forced", None),
            (
                "\"hostIPC\":true,",
                "kernel.shm_rmid_forced",
                Some("\"kernel.shm_rmid_forced\" not allowed with host ipc enabled"),
            ),
        ] {
            let json = format!(
                r#"{{"spec":{{{host}"containers":[],"securityContext":{{"sysctls":[{{"name":"{name}","value":"1"}}]}}}}}}"#
            );
            assert_eq!(forbidden_sysctl(&pod(&json), &allowed).as_deref(), wanted, "{host} {name}");
        }
    }

    #[test]
    fn requirements_of_a_node_are_met_or_not() {
        for (operator, values, value, wanted) in [
            ("In", vec!["a", "b"], Some("b"), true),
            ("In", vec!["a"], None, false),
            ("NotIn", vec!["a"], None, true),
            ("NotIn", vec!["a"], Some("a"), false),
            ("Exists", vec![], Some(""), true),
            ("DoesNotExist", vec![], Some(""), false),
            ("Gt", vec!["4"], Some("5"), true),
            ("Lt", vec!["4"], Some("x"), false),
        ] {
            let requirement = NodeSelectorRequirement {
                key: "k".into(),
                operator: operator.into(),
                values: Some(values.iter().map(ToString::to_string).collect()),
            };
            assert_eq!(meets(&requirement, value), wanted, "{operator} {values:?} {value:?}");
        }
    }
}
