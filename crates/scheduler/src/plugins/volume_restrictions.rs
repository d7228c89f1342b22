//! `VolumeRestrictions`: a claim with the access mode `ReadWriteOncePod` is for one pod of the cluster at a time.

use api::Key;

use super::Plugin;
use crate::cycle::Cycle;
use crate::image::{Image, Node, What};
use crate::pod::Needs;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "VolumeRestrictions",
    relevant: |cycle| !cycle.exclusive.is_empty(),
    filter: Some(filter),
    explain: |_, _, say| {
        say(
            "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
        );
    },
    score: None,
    hints: What::CLAIMS,
    // Who used the claim may have been on any node.
    everywhere: true,
};

/// The claims of a pod that nobody else may use.
pub fn compile(image: &Image, needs: &Needs) -> Vec<Key> {
    let exclusive = |key: &&Key| {
        let claim = image.storage.claim(key);
        claim.is_some_and(|claim| claim.wants.modes.iter().any(|mode| &**mode == "ReadWriteOncePod"))
    };
    needs.claims.iter().filter(|claim| !claim.ephemeral).map(|claim| &claim.key).filter(exclusive).cloned().collect()
}

/// Users on this node are asked of the node as it is given: preemption looks at it without those that would go.
fn filter(cycle: &Cycle<'_>, node: &Node) -> bool {
    let here = cycle.image.index_of(node);
    cycle
        .exclusive
        .iter()
        .all(|key| !node.claims.contains(key) && cycle.image.claim_users(key).iter().all(|user| *user == here))
}
