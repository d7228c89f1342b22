//! `VolumeZone`: a volume with labels of a zone or region is for nodes that have the same ones.

use super::Plugin;
use crate::cycle::Cycle;
use crate::image::{Image, Node, What};
use crate::pod::Needs;
use crate::volumes::TOPOLOGY_LABELS;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "VolumeZone",
    relevant: |cycle| !cycle.zones.is_empty(),
    filter: Some(filter),
    explain: |_, _, say| say("node(s) had no available volume zone"),
    score: None,
    hints: What::LABELS.and(What::VOLUMES),
    everywhere: false,
};

/// Where a volume is: a label with the values that nodes may have.
pub struct Zone {
    key: &'static str,
    values: Vec<Box<str>>,
}

/// The labels of the volumes that a pod's claims have. Several values of one label stand in it between double underscores.
pub fn compile(image: &Image, needs: &Needs) -> Vec<Zone> {
    let claims = needs.claims.iter().filter(|claim| !claim.ephemeral);
    let volumes = claims.filter_map(|claim| image.storage.volume(image.storage.claim(&claim.key)?.volume.as_deref()?));
    let zones = volumes.flat_map(|volume| {
        TOPOLOGY_LABELS.into_iter().filter_map(|key| {
            let (_, value) = volume.labels.iter().find(|(label, _)| **label == *key)?;
            Some(Zone { key, values: value.split("__").map(Box::from).collect() })
        })
    });
    zones.collect()
}

fn filter(cycle: &Cycle<'_>, node: &Node) -> bool {
    let label = |key: &str| node.label_text(cycle.image.interner(), key);
    // A node that says nothing of zones is in a cluster that has none.
    if TOPOLOGY_LABELS.into_iter().all(|key| label(key).is_none()) {
        return true;
    }
    cycle.zones.iter().all(|zone| {
        let value = label(zone.key).or_else(|| label(current(zone.key)));
        value.is_some_and(|value| zone.values.iter().any(|one| **one == *value))
    })
}

/// The present name of a label.
fn current(key: &str) -> &str {
    match key {
        "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
        key => key,
    }
}
