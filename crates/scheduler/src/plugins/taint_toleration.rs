//! `TaintToleration`: taints keep pods away that do not tolerate them; those that only weigh lower the score.

use super::{Normalize, Plugin, Score};
use crate::cycle::Cycle;
use crate::image::{Effect, Node, NodeTaint, What};
use crate::intern::{Interner, Symbol};
use crate::pod::Toleration;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "TaintToleration",
    relevant: |_| true,
    filter: Some(|cycle, node| admits(&cycle.tolerations, node)),
    explain,
    score: Some(Score { score, normalize: Normalize::ReverseByLargest, weight: 3 }),
    hints: What::TAINTS,
    everywhere: false,
};

/// A toleration whose texts are interned, as far as any node has them.
pub struct Compiled {
    /// `None`: every key.
    key: Option<Symbol>,
    /// `None`: every value.
    value: Option<Symbol>,
    /// `None`: every effect.
    effect: Option<Effect>,
}

/// Leaves out the tolerations that no taint of any node can meet.
pub fn compile(tolerations: &[Toleration], interner: &Interner) -> Vec<Compiled> {
    let compiled = tolerations.iter().filter_map(|toleration| {
        let key = if toleration.key.is_empty() { None } else { Some(interner.find(&toleration.key)?) };
        let value = if &*toleration.operator == "Exists" { None } else { Some(interner.find(&toleration.value)?) };
        let effect = match &*toleration.effect {
            "" => None,
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => return None,
        };
        Some(Compiled { key, value, effect })
    });
    compiled.collect()
}

impl Compiled {
    fn tolerates(&self, taint: &NodeTaint) -> bool {
        self.key.is_none_or(|key| key == taint.key)
            && self.value.is_none_or(|value| value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// Whether one of the tolerations meets a taint that no node needs to have.
pub fn tolerates(tolerations: &[Toleration], key: &str, value: &str, effect: &str) -> bool {
    tolerations.iter().any(|toleration| {
        (toleration.key.is_empty() || &*toleration.key == key)
            && (&*toleration.operator == "Exists" || &*toleration.value == value)
            && (toleration.effect.is_empty() || &*toleration.effect == effect)
    })
}

/// Whether all taints of a node that keep pods away are tolerated.
pub fn admits(tolerations: &[Compiled], node: &Node) -> bool {
    untolerated(tolerations, node).is_none()
}

fn untolerated<'a>(tolerations: &[Compiled], node: &'a Node) -> Option<&'a NodeTaint> {
    let mut hard = node.taints.iter().filter(|taint| taint.effect != Effect::PreferNoSchedule);
    hard.find(|taint| !tolerations.iter().any(|toleration| toleration.tolerates(taint)))
}

fn explain(cycle: &Cycle<'_>, node: &Node, say: &mut dyn FnMut(&str)) {
    if let Some(taint) = untolerated(&cycle.tolerations, node) {
        let text = |symbol| cycle.image.interner().text(symbol);
        say(&format!("node(s) had untolerated taint {{{}: {}}}", text(taint.key), text(taint.value)));
    }
}

/// How many taints that only weigh are not tolerated.
fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    let soft = node.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
    soft.filter(|taint| !cycle.tolerations.iter().any(|toleration| toleration.tolerates(taint))).count() as i64
}
