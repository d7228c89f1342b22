//! `NodeVolumeLimits`: a node can have only so many volumes of a storage driver.

use std::collections::{BTreeMap, BTreeSet};

use api::Key;

use super::Plugin;
use crate::cycle::Cycle;
use crate::image::{Node, What};
use crate::volumes::Storage;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeVolumeLimits",
    relevant: |cycle| !cycle.needs.claims.is_empty() && cycle.image.storage.has_limits(),
    filter: Some(filter),
    explain: |_, _, say| say("node(s) exceed max volume count"),
    score: None,
    hints: What::CLAIMS.and(What::VOLUMES),
    everywhere: true,
};

/// A volume of a driver: its driver, and what tells it from others.
type Of<'a> = (&'a str, String);

/// The volume of a claim, or the one that will be made for it.
fn volume_of<'a>(storage: &'a Storage, key: &Key) -> Option<Of<'a>> {
    let claim = storage.claim(key)?;
    match claim.volume.as_deref().and_then(|name| storage.volume(name)) {
        Some(volume) => volume.csi.as_ref().map(|(driver, handle)| (&**driver, handle.to_string())),
        None => Some((storage.class(&claim.class)?.provisioner.as_deref()?, format!("claim {key}"))),
    }
}

fn filter(cycle: &Cycle<'_>, node: &Node) -> bool {
    let storage = &cycle.image.storage;
    let limited = |(driver, _): &Of<'_>| storage.limit(&node.name, driver).is_some();
    let mut new: BTreeSet<Of<'_>> =
        cycle.needs.claims.iter().filter_map(|claim| volume_of(storage, &claim.key)).collect();
    new.retain(limited);
    if new.is_empty() {
        return true;
    }
    let mut there: BTreeSet<Of<'_>> = node.claims.iter().filter_map(|key| volume_of(storage, key)).collect();
    let attached = storage.attached(&node.name).filter_map(|name| storage.volume(name)?.csi.as_ref());
    there.extend(attached.map(|(driver, handle)| (&**driver, handle.to_string())));
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for (driver, _) in there.union(&new) {
        *counts.entry(driver).or_default() += 1;
    }
    // A driver of which the pod brings nothing new may well be over its limit.
    new.difference(&there)
        .all(|(driver, _)| storage.limit(&node.name, driver).is_none_or(|limit| counts[driver] <= limit))
}
