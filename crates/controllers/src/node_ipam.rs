//! Every node has its own part of the cluster's pod addresses, in `spec.podCIDR`, for as long as it exists.
//!
//! The lowest free part is given. One worker, which waits until its last assignment shows in the cache before it makes the
//! next: so no part is given twice.

use std::collections::BTreeSet;
use std::time::Duration;

use api::{Key, resources};
use control::{CustomIndex, EventType, Next, ObjectReference, PatchType, ReconcileError};
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
    if !(POD_CIDRS.values)(&object).is_empty() {
        return Ok(Next::OnChange);
    }
    let taken = nodes
        .index_values(&POD_CIDRS)
        .iter()
        .filter_map(|text| text.parse::<Ipv4Net>().ok())
        .map(|part| part.trunc())
        .collect();
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

/// The nodes by what they have. Each node's bytes are read once a change, not once for each new node.
const POD_CIDRS: CustomIndex = CustomIndex {
    name: "pod-cidr",
    values: |node| node.to_value()["spec"]["podCIDR"].as_str().map(str::to_owned).into_iter().collect(),
};

/// The lowest part of the cluster's range that overlaps nothing that is taken.
fn lowest_free(cluster: Ipv4Net, mask: u8, taken: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let overlaps = |part: &Ipv4Net| {
        let mut larger = (0..mask).filter_map(|shorter| Ipv4Net::new(part.network(), shorter).ok());
        let within = Ipv4Net::new_assert(part.network(), mask)..=Ipv4Net::new_assert(part.broadcast(), 32);
        taken.range(within).next().is_some() || larger.any(|larger| taken.contains(&larger.trunc()))
    };
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

    #[test]
    fn parts_of_other_sizes_are_taken_too() {
        let net = |text: &str| text.parse::<Ipv4Net>().expect("a network");
        let taken = BTreeSet::from(
            ["10.42.0.128/25", "10.42.1.0/30", "10.42.2.255/32", "10.42.4.0/22", "10.0.0.0/10"].map(net),
        );
        let free = |taken: &BTreeSet<_>| lowest_free(net("10.42.0.0/16"), 24, taken).map(|part| part.to_string());
        assert_eq!(free(&taken), None, "one is larger than the cluster's");
        let taken = taken.into_iter().filter(|part| part.prefix_len() > 20).collect();
        assert_eq!(free(&taken).as_deref(), Some("10.42.3.0/24"));
    }
}
