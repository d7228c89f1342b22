//! `DefaultPreemption`: which pods of lower priority must go so that a pod fits somewhere.
//!
//! A pure function. On each node that a pod could go to if others went, all pods of lower priority are taken away and, from
//! the most important down, put back as long as the pod still fits; those that a disruption budget cannot spare come first.
//! Among the nodes the one is chosen where the fewest budgets are hurt and whose victims matter least.

use std::cmp::Reverse;

use api::Key;

use crate::cycle::{Cycle, Rejections, Turn};
use crate::image::{Counted, Image, NodeIndex};
use crate::pod::PodInfo;

/// At least so many nodes are tried, or a tenth of all: trying all of a large cluster would hold up everybody else.
const CANDIDATES_MIN: usize = 100;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// Who has to go for a pod, and from where.
#[derive(Debug, Clone)]
pub struct Preemption {
    /// Where the pod then fits.
    pub node: NodeIndex,
    /// Who has to go, the most important first. Never empty.
    pub victims: Vec<Counted>,
    /// How many of them a disruption budget cannot spare.
    pub violations: usize,
}

/// Finds the victims that matter least, or says in upstream's words why removing pods does not help.
pub fn preempt(image: &Image, pod: &PodInfo, turn: &Turn) -> Result<Preemption, String> {
    if pod.needs.never_preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(image, pod) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let cycle = Cycle::new(image, pod);
    let order = image.order();
    let (before, from) = order.split_at(if order.is_empty() { 0 } else { turn.start() % order.len() });
    let wanted = CANDIDATES_MIN.max(order.len() / 10);
    let mut rejections = Rejections { nodes: order.len(), ..Rejections::default() };
    let mut candidates = Vec::new();
    for node in from.iter().chain(before) {
        candidates.extend(victims(&cycle, *node, &mut rejections));
        if candidates.len() >= wanted {
            break;
        }
    }
    candidates.into_iter().min_by_key(cost).ok_or_else(|| rejections.to_string())
}

/// Whether victims of an earlier preemption for this pod are still on their way out.
fn waits_for_victims(image: &Image, pod: &PodInfo) -> bool {
    let Some(node) = image.nominated_node(&pod.key) else { return false };
    image.pods_on(node).any(|other| other.deleting && other.needs.priority < pod.needs.priority)
}

/// Who has to go from one node. `None`: nobody whose going helps.
fn victims(cycle: &Cycle<'_>, index: NodeIndex, rejections: &mut Rejections) -> Option<Preemption> {
    let (image, node) = (cycle.image, cycle.image.node(index));
    if !cycle.may_pass_without_others(node) {
        rejections.say(NOT_HELPFUL);
        return None;
    }
    let mut lower: Vec<Counted> =
        image.pods_on(index).filter(|other| other.needs.priority < cycle.needs.priority).collect();
    if lower.is_empty() {
        rejections.say(NO_VICTIMS);
        return None;
    }
    let mut node = cycle.with_promises(node).into_owned();
    lower.iter().for_each(|other| node.release(&other.needs, image.interner()));
    if !cycle.passes(&node) {
        cycle.explain(&node, rejections);
        return None;
    }
    lower.sort_by(|a, b| importance(a).cmp(&importance(b)));
    let mut tally = image.budgets.tally();
    let (mut victims, mut others): (Vec<_>, Vec<_>) = lower.into_iter().partition(|other| tally.overdraws(other));
    let mut must_go = |other: &Counted| {
        node.hold(&other.needs, image.interner());
        let fits = cycle.passes(&node);
        if !fits {
            node.release(&other.needs, image.interner());
        }
        !fits
    };
    victims.retain(&mut must_go);
    others.retain(&mut must_go);
    let violations = victims.len();
    victims.append(&mut others);
    victims.sort_by(|a, b| importance(a).cmp(&importance(b)));
    // All fit beside it: the node changed for the better, and the next cycle will find it.
    (!victims.is_empty()).then_some(Preemption { node: index, victims, violations })
}

/// The most important pod comes first: of the highest priority, there for longest; the key makes the choice the same each
/// time.
fn importance(pod: &Counted) -> (Reverse<i32>, i64, &Key) {
    (Reverse(pod.needs.priority), pod.since, &pod.key)
}

/// Less is better: how many budgets' pods, the most important victim, then all their priorities together, how many they
/// are, and last how long the most important ones have been there.
fn cost(candidate: &Preemption) -> (usize, i32, i64, usize, Reverse<i64>) {
    let victims = &candidate.victims;
    let highest = victims.iter().map(|victim| victim.needs.priority).max().unwrap_or(i32::MIN);
    // Priorities may be negative: shifted, so that each victim more counts for more.
    let sum = victims.iter().map(|victim| i64::from(victim.needs.priority) - i64::from(i32::MIN)).sum();
    let oldest = victims.iter().filter(|victim| victim.needs.priority == highest).map(|victim| victim.since).min();
    (candidate.violations, highest, sum, victims.len(), Reverse(oldest.unwrap_or_default()))
}
