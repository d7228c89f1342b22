//! `NodeResourcesFit`: a node takes no more than it has; the emptier node scores higher (`LeastAllocated`).

use super::{Normalize, Plugin, Score};
use crate::cycle::Cycle;
use crate::image::{Node, What};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesFit",
    relevant: |_| true,
    filter: Some(filter),
    explain,
    score: Some(Score { score, normalize: Normalize::No, weight: 1 }),
    hints: What::RESOURCES,
    everywhere: false,
};

/// A resource that the pod does not ask for does not matter, even where the node holds too much of it already.
fn lacks(wanted: i64, requested: i64, allocatable: i64) -> bool {
    wanted > 0 && wanted > allocatable - requested
}

fn filter(cycle: &Cycle<'_>, node: &Node) -> bool {
    let (wanted, has, used) = (&cycle.needs.requests, &node.allocatable, &node.requested);
    used.pods < has.pods
        && !lacks(wanted.milli_cpu, used.milli_cpu, has.milli_cpu)
        && !lacks(wanted.memory, used.memory, has.memory)
        && !lacks(wanted.ephemeral, used.ephemeral, has.ephemeral)
        && (0..wanted.extended.len()).all(|at| !lacks_extended(cycle, node, at))
}

fn lacks_extended(cycle: &Cycle<'_>, node: &Node, at: usize) -> bool {
    let name = cycle.extended[at];
    let of_node = node.extended.iter().find(|extended| Some(extended.name) == name);
    let (requested, allocatable) = of_node.map_or((0, 0), |extended| (extended.requested, extended.allocatable));
    lacks(cycle.needs.requests.extended[at].1, requested, allocatable)
}

fn explain(cycle: &Cycle<'_>, node: &Node, say: &mut dyn FnMut(&str)) {
    let (wanted, has, used) = (&cycle.needs.requests, &node.allocatable, &node.requested);
    if used.pods >= has.pods {
        say("Too many pods");
    }
    for (name, wanted, used, has) in [
        ("cpu", wanted.milli_cpu, used.milli_cpu, has.milli_cpu),
        ("memory", wanted.memory, used.memory, has.memory),
        ("ephemeral-storage", wanted.ephemeral, used.ephemeral, has.ephemeral),
    ] {
        if lacks(wanted, used, has) {
            say(&format!("Insufficient {name}"));
        }
    }
    for (at, (name, _)) in wanted.extended.iter().enumerate() {
        if lacks_extended(cycle, node, at) {
            say(&format!("Insufficient {name}"));
        }
    }
}

fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    let nonzero = &cycle.needs.nonzero;
    let cpu = free(node.allocatable.milli_cpu, node.nonzero.0 + nonzero.milli_cpu);
    let memory = free(node.allocatable.memory, node.nonzero.1 + nonzero.memory);
    match (cpu, memory) {
        (Some(cpu), Some(memory)) => (cpu + memory) / 2,
        (cpu, memory) => cpu.or(memory).unwrap_or(0),
    }
}

/// The free share in percent. `None`: the node has none of it at all.
fn free(allocatable: i64, requested: i64) -> Option<i64> {
    (allocatable > 0).then(|| ((allocatable - requested).max(0)).saturating_mul(100) / allocatable)
}
