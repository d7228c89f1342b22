//! How fast nodes may lose their pods: when many nodes of a zone fall silent at once, more likely the network is broken than
//! the nodes are.
//!
//! A zone's nodes get the taint that evicts one every ten seconds; where most of a large zone is not ready one every hundred,
//! of a small zone none; and where no node of the whole cluster is ready none at all. States and figures are upstream's
//! ("Rate limits on eviction" in the Kubernetes documentation).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use api::Object;
use control::{Cache, CustomIndex};
use tokio::time::Instant;

use crate::conditions;

const INTERVAL: Duration = Duration::from_secs(10);
const INTERVAL_DISRUPTED: Duration = Duration::from_secs(100);
/// A zone with more nodes than this is large.
const LARGE: usize = 50;
/// So many percent of a zone's nodes, and at least three, are not ready where it is disrupted.
const DISRUPTED_PERCENT: usize = 55;
const DISRUPTED_MIN: usize = 3;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Nodes by their zone, by whether they are ready in it, and by whether they are ready at all.
const BY_STATE: CustomIndex = CustomIndex {
    name: "zone and readiness",
    values: |node| {
        let (zone, ready) = (zone_of(node), is_ready(node));
        vec![format!("{zone} {ready}"), ready.to_string()]
    },
};

/// When each zone's next node may be tainted. Bounded by the zones that had a node tainted.
#[derive(Debug, Default)]
pub struct Zones(Mutex<BTreeMap<String, Instant>>);

/// Whether a node may lose its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Now.
    Now,
    /// When this much time has passed.
    Later(Duration),
    /// Not while the cluster is as it is.
    Never,
}

/// How many nodes are there, and how many of them are ready.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    ready: usize,
    silent: usize,
}

impl Zones {
    /// Whether a node that is not ready may lose its pods. Now means that this was its turn. Where that has `begun` it goes
    /// on, but for when no node at all is ready: whoever sees that is alone, and takes back what it did.
    pub(super) fn eviction(&self, nodes: &Cache, node: &Object, begun: bool) -> Eviction {
        let zone = zone_of(node);
        // What the cache says of this node may be older than what is known of it.
        let others =
            |value: &str| nodes.by_index(&BY_STATE, value).iter().filter(|one| one.key() != node.key()).count();
        let in_zone = Count { ready: others(&format!("{zone} true")), silent: others(&format!("{zone} false")) + 1 };
        let any_ready = others("true") > 0;
        if begun && any_ready {
            return Eviction::Now;
        }
        let Some(interval) = interval(in_zone, any_ready) else { return Eviction::Never };
        let mut turns = self.0.lock().expect("no holder of the zones' lock panics");
        let now = Instant::now();
        let next = turns.entry(zone).or_insert(now);
        if *next > now {
            return Eviction::Later(*next - now);
        }
        *next = now + interval;
        Eviction::Now
    }

    /// A turn came to nothing: the next one to ask has it.
    pub(super) fn give_back(&self, node: &Object) {
        self.0.lock().expect("no holder of the zones' lock panics").remove(&zone_of(node));
    }
}

/// The nodes that are not ready: what becomes of them depends on each other.
pub(super) fn silent(nodes: &Cache) -> Vec<Object> {
    nodes.by_index(&BY_STATE, "false")
}

/// How long after one node of a zone the next may be tainted; `None` for never.
fn interval(zone: Count, any_ready: bool) -> Option<Duration> {
    let all = zone.ready + zone.silent;
    let disrupted = zone.silent >= DISRUPTED_MIN && zone.silent * 100 >= all * DISRUPTED_PERCENT;
    match () {
        () if !any_ready => None,
        // A zone that is all gone is evicted as usual: the other zones can take its pods.
        () if zone.ready == 0 || !disrupted => Some(INTERVAL),
        () if all > LARGE => Some(INTERVAL_DISRUPTED),
        () => None,
    }
}

fn zone_of(node: &Object) -> String {
    format!("{}/{}", node.label(REGION).unwrap_or_default(), node.label(ZONE).unwrap_or_default())
}

fn is_ready(node: &Object) -> bool {
    conditions::is_true(&node.to_value()["status"], "Ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_evicted_at_the_pace_of_their_state() {
        for (ready, silent, any_ready, expected) in [
            (9, 1, true, Some(INTERVAL)),
            // Two are never many.
            (1, 2, true, Some(INTERVAL)),
            (5, 5, true, Some(INTERVAL)),
            (4, 5, true, None),
            (22, 29, true, Some(INTERVAL_DISRUPTED)),
            (22, 28, true, None),
            // All of a zone, and all of the cluster.
            (0, 5, true, Some(INTERVAL)),
            (0, 5, false, None),
        ] {
            assert_eq!(interval(Count { ready, silent }, any_ready), expected, "{ready} {silent} {any_ready}");
        }
    }
}
