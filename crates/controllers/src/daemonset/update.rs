//! A rolling update of a DaemonSet: which pods of earlier templates go now, and which nodes get a second pod. Pure.

use std::collections::BTreeMap;

use api::Object;
use serde_json::Value;

use super::nodes::Fit;
use super::plan::{ByNode, DaemonPod, View};

/// What an update does next.
#[derive(Default)]
pub(super) struct Update {
    /// The nodes to make pods for.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Object>,
}

/// Whether a node may have two pods for a while.
pub(super) fn allows_surge(set: &Value) -> bool {
    surge(set, 1) > 0
}

fn rolling(set: &Value) -> Option<&Value> {
    let strategy = &set["spec"]["updateStrategy"];
    (strategy["type"] == "RollingUpdate").then_some(&strategy["rollingUpdate"])
}

fn surge(set: &Value, desired: usize) -> usize {
    rolling(set).map_or(0, |rolling| share(&rolling["maxSurge"], desired))
}

/// A number, or a percentage of `total`, rounded up.
fn share(value: &Value, total: usize) -> usize {
    let number = match value.as_str() {
        Some(text) => text.trim_end_matches('%').parse::<usize>().unwrap_or(0).saturating_mul(total).div_ceil(100),
        None => value.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0),
    };
    number.min(total)
}

/// A node's pod of the present template and of an earlier one. `None` where there are more: those are pruned first.
fn pair<'a>(pods: &[&'a DaemonPod<'a>], hash: &str) -> Option<(Option<&'a DaemonPod<'a>>, Option<&'a DaemonPod<'a>>)> {
    let live = pods.iter().copied().filter(|pod| !pod.object.is_deleting());
    let (new, old): (Vec<_>, Vec<_>) = live.partition(|pod| pod.is_updated(hash));
    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
}

/// Decides.
pub(super) fn plan(view: &View<'_>, fits: &BTreeMap<&str, Fit>, pods: &ByNode<'_>) -> Update {
    let desired = fits.values().filter(|fit| **fit == Fit::Run).count();
    let max_surge = surge(view.set, desired);
    let mut max_unavailable = rolling(view.set).map_or(0, |rolling| share(&rolling["maxUnavailable"], desired));
    if max_surge == 0 && max_unavailable == 0 {
        // Both zero would be no way forward.
        max_unavailable = 1;
    }
    if max_surge > 0 {
        surging(view, fits, pods, max_surge, desired)
    } else {
        replacing(view, fits, pods, max_unavailable)
    }
}

/// Without surge: pods of earlier templates go, those that are not available first, the others as far as enough stay.
fn replacing(view: &View<'_>, fits: &BTreeMap<&str, Fit>, pods: &ByNode<'_>, max_unavailable: usize) -> Update {
    let (mut unavailable, mut broken, mut candidates) = (0, vec![], vec![]);
    for node in pods.keys().copied().chain(missing(fits, pods)) {
        let on_node = pods.get(node).map_or(&[][..], Vec::as_slice);
        match pair(on_node, view.hash) {
            Some((Some(new), None)) => unavailable += usize::from(!new.available),
            Some((None, Some(old))) if old.available => candidates.push(old.object.clone()),
            Some((None, Some(old))) => {
                broken.push(old.object.clone());
                unavailable += 1;
            }
            // Too many, none, or one of each: not settled yet.
            _ => unavailable += 1,
        }
    }
    candidates.truncate(max_unavailable.saturating_sub(unavailable));
    broken.extend(candidates);
    Update { delete: broken, ..Update::default() }
}

/// The nodes that should have a pod and have none.
fn missing<'a>(fits: &'a BTreeMap<&str, Fit>, pods: &'a ByNode<'_>) -> impl Iterator<Item = &'a str> {
    let run = fits.iter().filter(|(_, fit)| **fit == Fit::Run);
    run.map(|(node, _)| *node).filter(|node| !pods.contains_key(node))
}

/// With surge: a new pod beside an old one that is available, as many as allowed; the old one goes when the new one is
/// available.
fn surging(view: &View<'_>, fits: &BTreeMap<&str, Fit>, pods: &ByNode<'_>, max_surge: usize, desired: usize) -> Update {
    let mut update = Update::default();
    let (mut surging, mut available, mut candidates, mut leaving) = (0, 0, vec![], vec![]);
    for (node, on_node) in pods {
        let Some((new, old)) = pair(on_node, view.hash) else {
            surging += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(|pod| pod.available));
        let Some(old) = old else { continue };
        let runs = fits.get(node) == Some(&Fit::Run);
        match new {
            Some(new) if new.available => update.delete.push(old.object.clone()),
            Some(_) => surging += 1,
            None if !old.available && runs => update.create.push((*node).to_owned()),
            None if !old.available => update.delete.push(old.object.clone()),
            None if runs => candidates.push((*node).to_owned()),
            None => leaving.push(old.object.clone()),
        }
    }
    // A node that is left keeps its pod until enough others are available.
    update.delete.extend(leaving.into_iter().take(available.saturating_sub(desired)));
    update.create.extend(candidates.into_iter().take(max_surge.saturating_sub(surging)));
    update
}
