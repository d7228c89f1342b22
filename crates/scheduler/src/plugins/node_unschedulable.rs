//! `NodeUnschedulable`: cordoned nodes take no pods, unless the pod tolerates the taint that cordoning stands for.

use super::Plugin;
use crate::cycle::Cycle;
use crate::image::{Node, What};
use crate::plugins::taint_toleration;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeUnschedulable",
    relevant: |_| true,
    filter: Some(filter),
    explain: |_, _, say| say("node(s) were unschedulable"),
    score: None,
    hints: What::TAINTS,
    everywhere: false,
};

fn filter(cycle: &Cycle<'_>, node: &Node) -> bool {
    !node.unschedulable
        || taint_toleration::tolerates(&cycle.needs.tolerations, "node.kubernetes.io/unschedulable", "", "NoSchedule")
}
