//! `NodeResourcesBalancedAllocation`: better where CPU and memory would be used to the same share.

use super::{Normalize, Plugin, Score, silent};
use crate::cycle::Cycle;
use crate::image::{Node, What};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesBalancedAllocation",
    // A pod that asks for nothing balances nothing.
    relevant: |cycle| !cycle.needs.best_effort,
    filter: None,
    explain: silent,
    score: Some(Score { score, normalize: Normalize::No, weight: 1 }),
    hints: What::NOTHING,
    everywhere: false,
};

/// 100 less the standard deviation of both shares: of two values that is half their difference.
fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    let wanted = &cycle.needs.requests;
    let cpu = share(node.requested.milli_cpu + wanted.milli_cpu, node.allocatable.milli_cpu);
    let memory = share(node.requested.memory + wanted.memory, node.allocatable.memory);
    let deviation = match (cpu, memory) {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
        _ => 0.0,
    };
    ((1.0 - deviation) * 100.0) as i64
}

fn share(requested: i64, allocatable: i64) -> Option<f64> {
    (allocatable > 0).then(|| (requested as f64 / allocatable as f64).min(1.0))
}
