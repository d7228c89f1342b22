//! Whether a pod that was bound to this node can run here: the scheduler looked at an older picture, and some pods name
//! their node themselves.

use api::typed::core::v1::Pod;

use crate::host::Host;
use crate::plan::Verdict;
use crate::resources;

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
    let (cpu, memory) = resources::pod_request(pod);
    let mut admitted = host.admitted.lock().expect("no holder of the list of admitted pods panics");
    if admitted.contains_key(uid) {
        return Ok(());
    }
    let used = admitted
        .values()
        .fold((0_i64, 0_i64), |sum, more| (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1)));
    let count = i64::try_from(admitted.len()).unwrap_or(i64::MAX);
    let capacity = host.capacity;
    let lists = [
        ("pods", 1, count, capacity.pods),
        ("cpu", cpu, used.0, capacity.milli_cpu),
        ("memory", memory, used.1, capacity.memory_bytes - (100 << 20)),
    ];
    for (resource, requested, used, capacity) in lists {
        if requested > 0 && used.saturating_add(requested) > capacity {
            let why = format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            return reject(&format!("OutOf{resource}"), why);
        }
    }
    admitted.insert(uid.to_owned(), (cpu, memory));
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
