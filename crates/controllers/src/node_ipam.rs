//! Every node has its own part of the cluster's pod addresses, in `spec.podCIDRs`, for as long as it exists: one of each
//! family that the cluster has.
//!
//! The lowest free part is given. One worker, which waits until its last assignment shows in the cache before it makes the
//! next: so no part is given twice.

use std::collections::BTreeSet;
use std::time::Duration;

use api::{Key, resources};
use control::{CustomIndex, EventType, Next, ObjectReference, PatchType, ReconcileError};
use futures::FutureExt;
use ipnet::IpNet;
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
        .filter_map(|text| text.parse::<IpNet>().ok())
        .map(|part| part.trunc())
        .collect();
    let ranges = std::iter::once((ctx.settings.cluster_cidr.into(), ctx.settings.node_cidr_mask));
    let ranges = ranges.chain(ctx.settings.cluster_cidr_second);
    let Some(free) = ranges.map(|(range, mask)| lowest_free(range, mask, &taken)).collect::<Option<Vec<_>>>() else {
        let about = ObjectReference::from((resources::NODES, &object));
        let message = format!("Node {key} status is now: CIDRNotAvailable");
        ctx.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", &message);
        return Ok(Next::After(LOOK_AGAIN));
    };
    let free: Vec<String> = free.iter().map(ToString::to_string).collect();
    let patch = json!({"metadata": {"resourceVersion": object.revision().to_string()},
        "spec": {"podCIDR": free[0], "podCIDRs": free}});
    ctx.client.patch(resources::NODES, key, None, PatchType::Merge, &patch).await?;
    Ok(Next::OnChange)
}

/// The nodes by what they have. Each node's bytes are read once a change, not once for each new node.
const POD_CIDRS: CustomIndex = CustomIndex {
    name: "pod-cidr",
    values: |node| {
        let spec = &node.to_value()["spec"];
        let all = spec["podCIDRs"].as_array().into_iter().flatten().chain(std::iter::once(&spec["podCIDR"]));
        all.filter_map(|part| part.as_str().map(str::to_owned)).collect::<BTreeSet<_>>().into_iter().collect()
    },
};

/// The lowest part of the cluster's range that overlaps nothing that is taken.
fn lowest_free(cluster: IpNet, mask: u8, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let overlaps = |part: &IpNet| {
        let net = |address, length| IpNet::new_assert(address, length);
        let mut larger = (0..mask).map(|shorter| net(part.network(), shorter));
        let within = net(part.network(), mask)..=net(part.broadcast(), part.max_prefix_len());
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

    #[tokio::test(start_paused = true)]
    async fn a_cluster_of_two_families_gives_a_part_of_each() {
        let second = ("fd42::/56".parse().expect("a network"), 64);
        let mut settings = settings();
        std::sync::Arc::get_mut(&mut settings).expect("nobody else has them").cluster_cidr_second = Some(second);
        let steps = [
            Step::Do(&|api| drop(api.put(node("b")))),
            Step::Do(&|api| api.delete(resources::NODES, "", "a")),
            Step::Do(&|api| drop(api.put(node("c")))),
        ];
        let end = check_converges(&CONTROLLER, settings, &[node("a")], &steps).await;
        let cidrs: Vec<_> = end.list(resources::NODES).iter().map(|node| node["spec"]["podCIDRs"].clone()).collect();
        assert_eq!(cidrs, [json!(["10.42.1.0/24", "fd42:0:0:1::/64"]), json!(["10.42.0.0/24", "fd42::/64"])]);
    }

    #[test]
    fn a_full_cluster_has_nothing_to_give() {
        let cluster: IpNet = "10.42.0.0/23".parse().expect("a network");
        let mut taken = BTreeSet::new();
        for _ in 0..2 {
            taken.insert(lowest_free(cluster, 24, &taken).expect("free"));
        }
        assert_eq!(lowest_free(cluster, 24, &taken), None);
    }

    #[test]
    fn parts_of_other_sizes_are_taken_too() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let taken = BTreeSet::from(
            ["10.42.0.128/25", "10.42.1.0/30", "10.42.2.255/32", "10.42.4.0/22", "10.0.0.0/10"].map(net),
        );
        let free = |taken: &BTreeSet<_>| lowest_free(net("10.42.0.0/16"), 24, taken).map(|part| part.to_string());
        assert_eq!(free(&taken), None, "one is larger than the cluster's");
        let taken = taken.into_iter().filter(|part| part.prefix_len() > 20).collect();
        assert_eq!(free(&taken).as_deref(), Some("10.42.3.0/24"));
    }
}
