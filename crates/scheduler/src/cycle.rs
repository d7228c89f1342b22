//! Where a pod goes: a pure function of image and pod.
//!
//! As upstream: nodes are looked at in turns, beginning where the last cycle stopped, until enough of them fit (in a large
//! cluster a part of all); among the best of those, chance decides. If none fits, every node is asked why.

use std::borrow::Cow;
use std::collections::BTreeMap;

use api::Key;

use crate::image::{Image, Node, NodeIndex, Nominated, What};
use crate::intern::Symbol;
use crate::plugins::{
    Normalize, PLUGINS, Plugin, PluginSet, image_locality, inter_pod_affinity, node_affinity, pod_topology_spread,
    taint_toleration, volume_binding, volume_restrictions, volume_zone,
};
use crate::pod::{Needs, PodInfo};

/// With fewer nodes that fit than this, all nodes are looked at.
const FEASIBLE_MIN: usize = 100;

/// One pod's cycle: the pod with what plugins worked out once for all nodes.
pub struct Cycle<'a> {
    /// The image.
    pub image: &'a Image,
    /// The pod.
    pub pod: &'a PodInfo,
    /// What it asks for.
    pub needs: &'a Needs,
    /// For `TaintToleration`.
    pub tolerations: Vec<taint_toleration::Compiled>,
    /// For `NodeAffinity`.
    pub affinity: node_affinity::Compiled,
    /// For `NodeResourcesFit`: the interned names of the pod's extended resources.
    pub extended: Vec<Option<Symbol>>,
    /// For `ImageLocality`.
    pub images: Vec<Symbol>,
    /// For `InterPodAffinity`.
    pub pod_affinity: Option<inter_pod_affinity::Compiled>,
    /// For `PodTopologySpread`.
    pub spread: Vec<pod_topology_spread::Compiled>,
    /// For `VolumeBinding`; like the next two nothing for a pod without claims.
    pub volumes: Option<volume_binding::Compiled>,
    /// For `VolumeRestrictions`: the claims that nobody else may use.
    pub exclusive: Vec<Key>,
    /// For `VolumeZone`.
    pub zones: Vec<volume_zone::Zone>,
    /// Which plugins have something to say.
    relevant: PluginSet,
}

impl<'a> Cycle<'a> {
    /// Prepares a cycle.
    pub fn new(image: &'a Image, pod: &'a PodInfo) -> Self {
        let (needs, interner) = (&*pod.needs, image.interner());
        let tolerations = taint_toleration::compile(&needs.tolerations, interner);
        let affinity = node_affinity::Compiled::new(&needs.node, interner);
        let mut cycle = Self {
            image,
            pod,
            needs,
            pod_affinity: inter_pod_affinity::compile(image, pod),
            spread: pod_topology_spread::compile(image, pod, &affinity, &tolerations),
            tolerations,
            affinity,
            extended: needs.requests.extended.iter().map(|(name, _)| interner.find(name)).collect(),
            images: image_locality::compile(&needs.images, image),
            volumes: volume_binding::compile(image, pod),
            exclusive: volume_restrictions::compile(image, needs),
            zones: volume_zone::compile(image, needs),
            relevant: PluginSet::default(),
        };
        for (place, plugin) in PLUGINS.iter().enumerate() {
            if (plugin.relevant)(&cycle) {
                cycle.relevant.insert(place);
            }
        }
        cycle
    }

    /// Whether the pod can go to a node, and leave what was promised to others.
    pub fn fits(&self, node: &Node) -> bool {
        node.present && self.passes(&self.with_promises(node))
    }

    /// Whether the pod can go to a node as it is given.
    pub fn passes(&self, node: &Node) -> bool {
        self.relevant.iter().all(|plugin| plugin.filter.is_none_or(|filter| filter(self, node)))
    }

    /// Whether what keeps the pod from a node may go with other pods.
    pub fn may_pass_without_others(&self, node: &Node) -> bool {
        let held = What::RESOURCES.and(What::PORTS).and(What::CLAIMS);
        let mut lasting = self.relevant.iter().filter(|plugin| !plugin.hints.meets(held));
        node.present && lasting.all(|plugin| plugin.filter.is_none_or(|filter| filter(self, node)))
    }

    /// The node with the pods that were promised room there, as far as this pod has to leave it to them.
    pub fn with_promises<'n>(&self, node: &'n Node) -> Cow<'n, Node> {
        let before = |other: &&Nominated| other.needs.priority >= self.needs.priority && other.key != self.pod.key;
        if !node.nominated.iter().any(|other| before(&other)) {
            return Cow::Borrowed(node);
        }
        let mut seen = node.clone();
        node.nominated.iter().filter(before).for_each(|other| seen.hold(&other.needs, self.image.interner()));
        Cow::Owned(seen)
    }

    /// Adds why the pod cannot go to a node: all that the first plugin says that refuses.
    pub fn explain(&self, node: &Node, rejections: &mut Rejections) {
        let refusing = PLUGINS.iter().enumerate().find(|(place, plugin)| {
            self.relevant.contains(*place) && plugin.filter.is_some_and(|filter| !filter(self, node))
        });
        if let Some((place, plugin)) = refusing {
            rejections.plugins.insert(place);
            (plugin.explain)(self, node, &mut |reason| rejections.say(reason));
        }
    }

    /// Each plugin that refuses a node, with all its reasons.
    pub fn refusals(&self, node: &Node) -> Vec<(&'static Plugin, Vec<String>)> {
        let refusing = self.relevant.iter().filter(|plugin| plugin.filter.is_some_and(|filter| !filter(self, node)));
        let with_reasons = |plugin: &'static Plugin| {
            let mut reasons = Vec::new();
            (plugin.explain)(self, node, &mut |reason| reasons.push(reason.to_owned()));
            (plugin, reasons)
        };
        refusing.map(with_reasons).collect()
    }

    /// Every node's reason, where none fits.
    fn explain_all(&self) -> Rejections {
        let mut rejections = Rejections { nodes: self.image.order().len(), ..Rejections::default() };
        for index in self.image.order() {
            self.explain(&self.with_promises(self.image.node(*index)), &mut rejections);
        }
        rejections
    }
}

/// Whether a pod could go to one node: the precise half of a queueing hint.
pub fn fits(image: &Image, pod: &PodInfo, node: NodeIndex) -> bool {
    Cycle::new(image, pod).fits(image.node(node))
}

/// Why a pod fits nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejections {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Which plugins refused.
    pub plugins: PluginSet,
    /// Why no node was looked at.
    pub outright: Option<String>,
}

impl Rejections {
    /// One more node gives this reason.
    pub fn say(&mut self, reason: &str) {
        match self.reasons.get_mut(reason) {
            Some(nodes) => *nodes += 1,
            None => drop(self.reasons.insert(reason.to_owned(), 1)),
        }
    }
}

impl std::fmt::Display for Rejections {
    /// In upstream's words: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        if let Some(why) = &self.outright {
            return write!(f, "0/{} nodes are available: {why}.", self.nodes);
        }
        let mut reasons: Vec<_> = self.reasons.iter().map(|(reason, nodes)| format!("{nodes} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// What goes on from one cycle to the next: where to begin, and chance. Its buffers spare each cycle two allocations.
#[derive(Debug, Default)]
pub struct Turn {
    start: usize,
    chance: u64,
    feasible: Vec<NodeIndex>,
    totals: Vec<i64>,
    scores: Vec<i64>,
}

impl Turn {
    /// Where the next cycle begins.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The same seed gives the same choices.
    pub fn new(seed: u64) -> Self {
        Self { chance: seed | 1, ..Self::default() }
    }

    /// xorshift: spread is all that is asked of it.
    fn below(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % bound
    }
}

/// Chooses a node for a pod, or says why there is none.
pub fn place(image: &Image, pod: &PodInfo, turn: &mut Turn) -> Result<NodeIndex, Rejections> {
    place_watched(image, pod, turn, &mut |_, _| {})
}

/// The same; `passed` is told of every extension point that has been passed, and of its status.
pub(crate) fn place_watched(
    image: &Image,
    pod: &PodInfo,
    turn: &mut Turn,
    passed: &mut dyn FnMut(&'static str, &'static str),
) -> Result<NodeIndex, Rejections> {
    let cycle = Cycle::new(image, pod);
    if let Some(rejections) = refused_outright(&cycle) {
        passed("PreFilter", "UnschedulableAndUnresolvable");
        return Err(rejections);
    }
    passed("PreFilter", "Success");
    // Where room was made for it, it goes first.
    if let Some(promised) = image.nominated_node(&pod.key).filter(|node| cycle.fits(image.node(*node))) {
        return Ok(promised);
    }
    find_feasible(&cycle, turn);
    passed("Filter", if turn.feasible.is_empty() { "Unschedulable" } else { "Success" });
    match turn.feasible.len() {
        0 => Err(cycle.explain_all()),
        1 => Ok(turn.feasible[0]),
        _ => {
            let best = best(&cycle, turn);
            passed("Score", "Success");
            Ok(best)
        }
    }
}

/// Why the pod can go nowhere as things stand, whatever the node.
fn refused_outright(cycle: &Cycle<'_>) -> Option<Rejections> {
    let why = cycle.volumes.as_ref()?.refusal()?.to_owned();
    let place = PLUGINS.iter().position(|plugin| plugin.name == volume_binding::PLUGIN.name)?;
    let mut rejections = Rejections { nodes: cycle.image.order().len(), outright: Some(why), ..Rejections::default() };
    rejections.plugins.insert(place);
    Some(rejections)
}

/// How many fitting nodes are enough, as upstream computes it: half of all, less one percent for each 125 nodes, at least
/// five percent.
fn feasible_wanted(nodes: usize) -> usize {
    if nodes < FEASIBLE_MIN {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEASIBLE_MIN)
}

fn find_feasible(cycle: &Cycle<'_>, turn: &mut Turn) {
    turn.feasible.clear();
    let image = cycle.image;
    if let Some(named) = cycle.affinity.named_nodes(image) {
        turn.feasible.extend(named.into_iter().filter(|index| cycle.fits(image.node(*index))));
        return;
    }
    let order = image.order();
    let wanted = feasible_wanted(order.len());
    let start = if order.is_empty() { 0 } else { turn.start % order.len() };
    let (before, from) = order.split_at(start);
    let mut looked_at = 0;
    for index in from.iter().chain(before) {
        looked_at += 1;
        if cycle.fits(image.node(*index)) {
            turn.feasible.push(*index);
            if turn.feasible.len() >= wanted {
                break;
            }
        }
    }
    turn.start = if order.is_empty() { 0 } else { (start + looked_at) % order.len() };
}

/// Scores nodes by every plugin that has something to say: hands each plugin with its weighed scores to `each`.
pub(crate) fn score(
    cycle: &Cycle<'_>,
    nodes: &[NodeIndex],
    scores: &mut Vec<i64>,
    mut each: impl FnMut(&'static Plugin, &[i64]),
) {
    for plugin in cycle.relevant.iter().filter(|plugin| worth_scoring(cycle, plugin)) {
        let Some(score) = &plugin.score else { continue };
        scores.clear();
        scores.extend(nodes.iter().map(|index| (score.score)(cycle, cycle.image.node(*index))));
        normalize(score.normalize, scores);
        scores.iter_mut().for_each(|of_node| *of_node *= score.weight);
        each(plugin, scores);
    }
}

fn best(cycle: &Cycle<'_>, turn: &mut Turn) -> NodeIndex {
    turn.totals.clear();
    turn.totals.resize(turn.feasible.len(), 0);
    score(cycle, &turn.feasible, &mut turn.scores, |_, scores| {
        turn.totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score);
    });
    let (mut chosen, mut equals) = (0, 1);
    for at in 1..turn.totals.len() {
        if turn.totals[at] > turn.totals[chosen] {
            (chosen, equals) = (at, 1);
        } else if turn.totals[at] == turn.totals[chosen] {
            equals += 1;
            if turn.below(equals) == 0 {
                chosen = at;
            }
        }
    }
    turn.feasible[chosen]
}

/// A score that is the same for all nodes changes nothing.
fn worth_scoring(cycle: &Cycle<'_>, plugin: &Plugin) -> bool {
    plugin.name != taint_toleration::PLUGIN.name || cycle.image.has_soft_taints()
}

fn normalize(how: Normalize, scores: &mut [i64]) {
    let largest = scores.iter().copied().max().unwrap_or(0);
    if how == Normalize::ByRange {
        let smallest = scores.iter().copied().min().unwrap_or(0);
        let range = (largest - smallest).max(1);
        scores.iter_mut().for_each(|score| *score = (*score - smallest) * 100 / range);
        return;
    }
    if how == Normalize::No || (largest == 0 && how == Normalize::ByLargest) {
        return;
    }
    for score in scores {
        let share = if largest == 0 { 0 } else { *score * 100 / largest };
        *score = if how == Normalize::ReverseByLargest { 100 - share } else { share };
    }
}
