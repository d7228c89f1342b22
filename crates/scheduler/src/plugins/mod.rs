//! The plugins: one file each, [`PLUGINS`] is the list, in the order in which they filter.
//!
//! A plugin says of a pod whether it has anything to say at all (`relevant`), of a node whether the pod can go there
//! (`filter`) and why not (`explain`), and how well it would be there (`score`). Names, order and weights are upstream's
//! defaults.

pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use crate::cycle::Cycle;
use crate::image::{Node, What};

/// Says why a pod cannot go to a node: every reason, in upstream's words.
pub type Explain = fn(&Cycle<'_>, &Node, &mut dyn FnMut(&str));

/// A plugin's description.
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// Whether it has anything to say about this cycle's pod.
    pub relevant: fn(&Cycle<'_>) -> bool,
    /// Whether the pod can go to a node.
    pub filter: Option<fn(&Cycle<'_>, &Node) -> bool>,
    /// Why it cannot. Called only for nodes that [`Plugin::filter`] refused.
    pub explain: Explain,
    /// How well the pod would be there.
    pub score: Option<Score>,
    /// Which changes of a node may make a pod fit that this plugin rejected.
    pub hints: What,
    /// Whether a change of one node may help on others, so that it does not tell anything whether the pod fits there.
    pub everywhere: bool,
}

/// How a plugin scores.
pub struct Score {
    /// A node's score: 0 to 100 unless normalized.
    pub score: fn(&Cycle<'_>, &Node) -> i64,
    /// How scores become 0 to 100.
    pub normalize: Normalize,
    /// How much the plugin weighs among the others.
    pub weight: i64,
}

/// How scores become 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// They are.
    No,
    /// The largest is 100.
    ByLargest,
    /// The largest is 0.
    ReverseByLargest,
    /// The largest is 100, the smallest 0.
    ByRange,
}

/// Says nothing: for plugins that only score.
fn silent(_: &Cycle<'_>, _: &Node, _: &mut dyn FnMut(&str)) {}

/// All plugins.
pub const PLUGINS: &[Plugin] = &[
    node_unschedulable::PLUGIN,
    node_name::PLUGIN,
    taint_toleration::PLUGIN,
    node_affinity::PLUGIN,
    node_ports::PLUGIN,
    node_resources_fit::PLUGIN,
    volume_restrictions::PLUGIN,
    node_volume_limits::PLUGIN,
    volume_binding::PLUGIN,
    volume_zone::PLUGIN,
    pod_topology_spread::PLUGIN,
    inter_pod_affinity::PLUGIN,
    node_resources_balanced_allocation::PLUGIN,
    image_locality::PLUGIN,
];

/// A set of plugins, by their places in [`PLUGINS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PluginSet(u32);

impl PluginSet {
    /// Adds a plugin.
    pub fn insert(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    /// Whether a plugin is in it.
    pub fn contains(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }

    /// The plugins in it.
    pub fn iter(self) -> impl Iterator<Item = &'static Plugin> {
        PLUGINS.iter().enumerate().filter(move |(place, _)| self.contains(*place)).map(|(_, plugin)| plugin)
    }

    /// Whether a change of a node may matter to one of them.
    pub fn hinted_by(self, what: What) -> bool {
        self.iter().any(|plugin| plugin.hints.meets(what))
    }
}
