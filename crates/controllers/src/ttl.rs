//! Every node says how long its kubelet may keep secrets and config maps: the larger the cluster, the longer.
//!
//! The steps overlap, so that a cluster at a border does not change all its nodes with each that comes and goes. Upstream's
//! ttl-controller.

use std::time::Duration;

use api::{Key, resources};
use control::{Next, PatchType, ReconcileError};
use futures::FutureExt;
use serde_json::json;

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "ttl-controller",
    reconciles: resources::NODES,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// From how many nodes, to how many, how many seconds.
const STEPS: &[(usize, usize, u32)] =
    &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, 10_000, 300), (9000, usize::MAX, 600)];

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let nodes = ctx.cache(resources::NODES);
    let Some(node) = nodes.get(key).filter(|node| !node.is_deleting()) else { return Ok(Next::OnChange) };
    let tree = node.to_value();
    let said = tree["metadata"]["annotations"][ANNOTATION].as_str();
    let wanted = plan(said.and_then(|said| said.parse().ok()), nodes.len()).to_string();
    if said != Some(&wanted) {
        let patch = json!({"metadata": {"annotations": { ANNOTATION: wanted }}});
        match ctx.client.patch(resources::NODES, key, None, PatchType::StrategicMerge, &patch).await {
            Err(error) if error.is_not_found() => {}
            patched => drop(patched?),
        }
    }
    Ok(Next::OnChange)
}

/// What a node should say, which is what it says as long as that fits.
fn plan(said: Option<u32>, nodes: usize) -> u32 {
    let fits = |(from, to, seconds): &&(usize, usize, u32)| {
        (*from..=*to).contains(&nodes) && said.is_none_or(|said| said == *seconds)
    };
    let any = |(from, to, _): &&(usize, usize, u32)| (*from..=*to).contains(&nodes);
    STEPS.iter().find(fits).or_else(|| STEPS.iter().find(any)).map_or(0, |step| step.2)
}

#[cfg(test)]
mod tests {
    use control::harness::check_converges;

    use super::*;
    use crate::fixtures::settings;

    #[test]
    fn steps_overlap() {
        for (said, nodes, expected) in [
            (None, 1, 0),
            (Some(0), 95, 0),
            (Some(0), 101, 15),
            (Some(15), 95, 15),
            (Some(15), 89, 0),
            (Some(7), 1, 0),
            (Some(60), 20_000, 600),
        ] {
            assert_eq!(plan(said, nodes), expected, "{said:?} {nodes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_say_it() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {}});
        let end = check_converges(&CONTROLLER, settings(), &[node], &[]).await;
        let node = end.get(resources::NODES, "", "a").expect("the node");
        assert_eq!(node["metadata"]["annotations"][ANNOTATION], "0");
    }
}
