//! Whether a pod that was bound to this node can run here: the scheduler looked at an older picture, and some pods name
//! their node themselves.

use api::typed::core::v1::Pod;
use cri::v1::PortMapping;

use crate::config;
use crate::host::Host;
use crate::plan::Verdict;
use crate::resources;

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
        Err(Verdict { reason: reason.to_owned(), message: format!("Pod was rejected: {why}") })
    };
    if !fits_node_labels(host, pod) {
        return reject(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        );
    }
    let demand = Demand::of(pod);
    let mut admitted = host.admitted.lock().expect("no holder of the list of admitted pods panics");
    if admitted.contains_key(uid) {
        return Ok(());
    }
    let used = |of: fn(&Demand) -> i64| admitted.values().map(of).fold(0_i64, i64::saturating_add);
    let capacity = host.capacity;
    let lists = [
        ("pods", 1, used(|_| 1), capacity.pods),
        ("cpu", demand.milli_cpu, used(|other| other.milli_cpu), capacity.milli_cpu),
        ("memory", demand.memory_bytes, used(|other| other.memory_bytes), capacity.memory_bytes - (100 << 20)),
    ];
    for (resource, requested, used, capacity) in lists {
        if requested > 0 && used.saturating_add(requested) > capacity {
            let why = format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            return reject(&format!("OutOf{resource}"), why);
        }
    }
    if admitted.values().any(|other| other.shares_a_port(&demand)) {
        let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return reject("NodePorts", why.into());
    }
    admitted.insert(uid.to_owned(), demand);
    Ok(())
}

/// Forgets a pod that has ended.
pub(crate) fn release(host: &Host, uid: &str) {
    host.admitted.lock().expect("no holder of the list of admitted pods panics").remove(uid);
}

fn fits_node_labels(host: &Host, pod: &Pod) -> bool {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return true };
    // While the node's labels are not known, the scheduler is believed.
    let Some(node) = host.node.get(&api::Key::new("", host.node_name.as_str())) else { return true };
    wanted.iter().all(|(label, value)| node.label(label) == Some(value))
}
