//! `NodePorts`: two pods on a node cannot have the same port of the host.

use super::Plugin;
use crate::cycle::Cycle;
use crate::image::{Node, What};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodePorts",
    relevant: |cycle| !cycle.needs.ports.is_empty(),
    filter: Some(filter),
    explain: |_, _, say| say("node(s) didn't have free ports for the requested pod ports"),
    score: None,
    hints: What::PORTS,
    everywhere: false,
};

fn filter(cycle: &Cycle<'_>, node: &Node) -> bool {
    !cycle.needs.ports.iter().any(|port| node.ports.iter().any(|held| held.conflicts(port)))
}
