//! Every node has its own part of the cluster's pod addresses, in `spec.podCIDR`, for as long as it exists.
//!
//! The lowest free part is given. One worker, which waits until its last assignment shows in the cache before it makes the
//! next: so no part is given twice.

use std::collections::BTreeSet;
use std::time::Duration;

use api::{Key, resources};
use control::{EventType, Next, ObjectReference, PatchType, ReconcileError};
use futures::FutureExt;
use ipnet::Ipv4Net;
use serde_json::json;

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "node-ipam-controller",
    reconciles: resources::NODES,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// How soon to look again for a free part when all are taken.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let nodes = ctx.cache(resources::NODES);
    let Some(object) = nodes.get(key) else { return Ok(Next::OnChange) };
    if pod_cidr(&object).is_some() {
        return Ok(Next::OnChange);
    }
    let taken: BTreeSet<Ipv4Net> = nodes.all().iter().filter_map(pod_cidr).collect();
    let Some(free) = lowest_free(ctx.settings.cluster_cidr, ctx.settings.node_cidr_mask, &taken) else {
        let about = ObjectReference::from((resources::NODES, &object));
        let message = format!("Node {key} status is now: CIDRNotAvailable");
        ctx.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", &message);
        return Ok(Next::After(LOOK_AGAIN));
    };
    let patch = json!({"metadata": {"resourceVersion": object.revision().to_string()},
        "spec": {"podCIDR": free.to_string(), "podCIDRs": [free.to_string()]}});
    ctx.client.patch(resources::NODES, key, None, PatchType::Merge, &patch).await?;
    Ok(Next::OnChange)
}

fn pod_cidr(node: &api::Object) -> Option<Ipv4Net> {
    node.to_value()["spec"]["podCIDR"].as_str().and_then(|text| text.parse().ok())
}

fn lowest_free(cluster: Ipv4Net, mask: u8, taken: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let overlaps = |part: &Ipv4Net| taken.iter().any(|other| other.contains(part) || part.contains(other));
    cluster.subnets(mask).ok()?.find(|part| !overlaps(part))
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::Value;

    use super::*;
    use crate::fixtures::settings;

    fn node(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}})
    }

    #[tokio::test(start_paused = true)]
    async fn no_two_nodes_share_addresses_and_freed_ones_are_given_again() {
        // One by one: which of several gets which part is left open.
        let steps = [
            Step::Do(&|api| drop(api.put(node("b")))),
            Step::Do(&|api| drop(api.put(node("c")))),
            Step::Do(&|api| api.delete(resources::NODES, "", "a")),
            Step::Do(&|api| drop(api.put(node("d")))),
        ];
        let end = check_converges(&CONTROLLER, settings(), &[node("a")], &steps).await;
        let cidrs: Vec<_> = end.list(resources::NODES).iter().map(|node| node["spec"]["podCIDR"].clone()).collect();
        assert_eq!(cidrs, ["10.42.1.0/24", "10.42.2.0/24", "10.42.0.0/24"]);
    }

    #[test]
    fn a_full_cluster_has_nothing_to_give() {
        let cluster: Ipv4Net = "10.42.0.0/23".parse().expect("a network");
        let mut taken = BTreeSet::new();
        for _ in 0..2 {
            taken.insert(lowest_free(cluster, 24, &taken).expect("free"));
        }
        assert_eq!(lowest_free(cluster, 24, &taken), None);
    }
}
