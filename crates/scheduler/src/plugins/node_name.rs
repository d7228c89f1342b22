//! `NodeName`: a pod that names its node goes nowhere else.
//!
//! Pods that name a node are bound by that alone and never reach the queue; the filter stays for placement asked directly.

use super::Plugin;
use crate::cycle::Cycle;
use crate::image::{Node, What};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeName",
    relevant: |cycle| cycle.pod.node_name.is_some(),
    filter: Some(filter),
    explain: |_, _, say| say("node(s) didn't match the requested node name"),
    score: None,
    // A name never changes: only a new node helps, and that changes everything.
    hints: What::LABELS,
    everywhere: false,
};

fn filter(cycle: &Cycle<'_>, node: &Node) -> bool {
    cycle.pod.node_name.as_deref().is_none_or(|name| *name == *node.name)
}
