//! `PodTopologySpread`: pods of a kind are spread evenly over topology domains.
//!
//! For each constraint the pods that it selects are counted once by domain, over the nodes where the pod might go. A pod
//! without constraints is spread softly among its companions, by upstream's defaults: over hosts and over zones.

use std::collections::HashMap;

use super::{Normalize, Plugin, Score};
use crate::cycle::Cycle;
use crate::image::{Image, Node, What};
use crate::intern::Symbol;
use crate::plugins::{node_affinity, taint_toleration};
use crate::pod::{PodInfo, SpreadConstraint};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "PodTopologySpread",
    relevant: |cycle| !cycle.spread.is_empty(),
    filter: Some(|cycle, node| refusal(cycle, node).is_none()),
    explain: |cycle, node, say| refusal(cycle, node).into_iter().for_each(say),
    score: Some(Score { score, normalize: Normalize::ReverseByLargest, weight: 2 }),
    hints: What::PODS.and(What::LABELS).and(What::TAINTS),
    everywhere: true,
};

/// The label whose domains are single nodes.
const HOST: &str = "kubernetes.io/hostname";

/// What pods without constraints of their own get: topology key and skew.
const DEFAULTS: &[(&str, i64)] = &[(HOST, 3), ("topology.kubernetes.io/zone", 5)];

/// A constraint with what it counts.
pub struct Compiled {
    key: Option<Symbol>,
    required: bool,
    max_skew: i64,
    /// One where the pod selects itself.
    own: i64,
    /// Pods by domain: every domain where the pod might go is here, also without pods.
    pods: HashMap<Symbol, i64>,
    /// The smallest number in a domain.
    least: i64,
}

/// Counts, if there is anything to count.
pub fn compile(
    image: &Image,
    pod: &PodInfo,
    affinity: &node_affinity::Compiled,
    tolerations: &[taint_toleration::Compiled],
) -> Vec<Compiled> {
    let defaults = if pod.needs.spread.is_empty() { defaults(image, pod) } else { Vec::new() };
    let constraints = if defaults.is_empty() { &pod.needs.spread } else { &defaults };
    let keys: Vec<_> = constraints.iter().map(|c| image.interner().find(&c.topology_key)).collect();
    let required_keys: Vec<_> =
        constraints.iter().zip(&keys).filter(|(c, _)| c.required).map(|(_, key)| *key).collect();
    let compile = |(constraint, key): (&SpreadConstraint, &Option<Symbol>)| {
        let counts = |node: &Node| {
            (!constraint.honors_affinity || affinity.admits(image, node))
                && (!constraint.honors_taints || taint_toleration::admits(tolerations, node))
                && required_keys.iter().all(|key| key.is_some_and(|key| node.label(key).is_some()))
        };
        let mut pods: HashMap<Symbol, i64> = HashMap::new();
        if let Some(key) = *key {
            let nodes = image.order().iter().map(|index| image.node(*index)).filter(|node| counts(node));
            pods.extend(nodes.filter_map(|node| Some((node.label(key)?, 0))));
            let crowds = image.crowds(Some(&pod.key.namespace));
            for (_, _, crowd) in crowds.filter(|(_, labels, _)| constraint.selector.matches_pairs(labels)) {
                for (node, number) in crowd.nodes(image).filter(|(node, _)| counts(node)) {
                    if let Some(here) = node.label(key).and_then(|value| pods.get_mut(&value)) {
                        *here += (number.pods - number.deleting) as i64;
                    }
                }
            }
        }
        let too_few = (pods.len() as i64) < constraint.min_domains;
        let least = if too_few { 0 } else { pods.values().copied().min().unwrap_or(0) };
        let own = i64::from(constraint.selector.matches_pairs(&pod.needs.labels));
        Compiled { key: *key, required: constraint.required, max_skew: constraint.max_skew, own, pods, least }
    };
    constraints.iter().zip(&keys).map(compile).collect()
}

/// The constraints of a pod that has none, if it has companions. A cluster without zones has none to spread over.
fn defaults(image: &Image, pod: &PodInfo) -> Vec<SpreadConstraint> {
    let Some(selector) = image.companions.of(pod) else { return Vec::new() };
    let known = DEFAULTS.iter().filter(|(key, _)| image.interner().find(key).is_some());
    let constraint = |(key, max_skew): &(&str, i64)| SpreadConstraint {
        topology_key: (*key).into(),
        selector: selector.clone(),
        max_skew: *max_skew,
        min_domains: 0,
        required: false,
        honors_affinity: true,
        honors_taints: false,
    };
    known.map(constraint).collect()
}

fn refusal(cycle: &Cycle<'_>, node: &Node) -> Option<&'static str> {
    for constraint in cycle.spread.iter().filter(|constraint| constraint.required) {
        let Some(value) = constraint.key.and_then(|key| node.label(key)) else {
            return Some("node(s) didn't match pod topology spread constraints (missing required label)");
        };
        let here = constraint.pods.get(&value).copied().unwrap_or(0);
        if here + constraint.own - constraint.least > constraint.max_skew {
            return Some("node(s) didn't match pod topology spread constraints");
        }
    }
    None
}

/// How crowded a node's domains are: crowds in few large domains weigh less than in many small ones.
fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    let mut crowd = 0.0;
    for constraint in cycle.spread.iter().filter(|constraint| !constraint.required) {
        let here = constraint.key.and_then(|key| node.label(key)).and_then(|value| constraint.pods.get(&value));
        // A node outside of all domains is as crowded as the worst.
        let here = here.or_else(|| constraint.pods.values().max()).copied().unwrap_or(0);
        crowd += here as f64 * (constraint.pods.len() as f64 + 2.0).ln() + (constraint.max_skew - 1) as f64;
    }
    (crowd * 100.0) as i64
}
