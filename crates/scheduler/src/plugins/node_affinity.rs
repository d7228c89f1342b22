//! `NodeAffinity`: node selector, required and preferred node affinity.

use super::{Normalize, Plugin, Score};
use crate::cycle::Cycle;
use crate::image::{Image, Node, NodeIndex, What};
use crate::intern::{Interner, Symbol};
use crate::pod::{NodeConstraints, NodeSelectorRequirement, NodeSelectorTerm};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeAffinity",
    relevant: |cycle| !cycle.affinity.is_empty(),
    filter: Some(|cycle, node| cycle.affinity.admits(cycle.image, node)),
    explain: |_, _, say| say("node(s) didn't match Pod's node affinity/selector"),
    score: Some(Score { score, normalize: Normalize::ByLargest, weight: 2 }),
    hints: What::LABELS,
    everywhere: false,
};

/// Constraints whose texts are interned.
#[derive(Default)]
pub struct Compiled {
    /// Labels that the node must have. `None` in a pair: no node has that text.
    selector: Vec<(Option<Symbol>, Option<Symbol>)>,
    required: Option<Vec<Term>>,
    preferred: Vec<(i64, Term)>,
}

struct Term {
    labels: Vec<Requirement>,
    names: Vec<NodeSelectorRequirement>,
}

struct Requirement {
    key: Option<Symbol>,
    operator: Operator,
    /// Those of the values that some node has.
    values: Vec<Symbol>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    /// An operator that does not exist, or a number that is none: met by no node.
    Never,
}

impl Compiled {
    /// Interns the constraints of a pod.
    pub fn new(constraints: &NodeConstraints, interner: &Interner) -> Self {
        let find = |text: &str| interner.find(text);
        Self {
            selector: constraints.selector.iter().map(|(key, value)| (find(key), find(value))).collect(),
            required: constraints
                .required
                .as_ref()
                .map(|terms| terms.iter().map(|term| Term::new(term, interner)).collect()),
            preferred: constraints
                .preferred
                .iter()
                .map(|preferred| (preferred.weight, Term::new(&preferred.preference, interner)))
                .collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.required.is_none() && self.preferred.is_empty()
    }

    /// Whether selector and required terms admit a node.
    pub fn admits(&self, image: &Image, node: &Node) -> bool {
        let selected = |(key, value): &(Option<Symbol>, Option<Symbol>)| match (key, value) {
            (Some(key), Some(value)) => node.label(*key) == Some(*value),
            _ => false,
        };
        self.selector.iter().all(selected)
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(image, node)))
    }

    /// The nodes that the required terms name, where each names some: as for pods of a daemon set, which would otherwise look
    /// at every node to find their own.
    pub fn named_nodes(&self, image: &Image) -> Option<Vec<NodeIndex>> {
        let mut named = Vec::new();
        for term in self.required.as_ref()? {
            let requirement = term.names.iter().find(|r| &*r.operator == "In" && &*r.key == "metadata.name")?;
            named.extend(requirement.values.iter().filter_map(|name| image.find(name)));
        }
        named.sort_unstable();
        named.dedup();
        Some(named)
    }
}

impl Term {
    fn new(term: &NodeSelectorTerm, interner: &Interner) -> Self {
        let labels = term.match_expressions.iter().map(|requirement| Requirement::new(requirement, interner));
        Self { labels: labels.collect(), names: term.match_fields.clone() }
    }

    /// A term without requirements matches nothing.
    fn matches(&self, image: &Image, node: &Node) -> bool {
        !(self.labels.is_empty() && self.names.is_empty())
            && self.labels.iter().all(|requirement| requirement.matches(image, node))
            && self.names.iter().all(|requirement| name_matches(requirement, &node.name))
    }
}

fn name_matches(requirement: &NodeSelectorRequirement, name: &str) -> bool {
    let among = requirement.values.iter().any(|value| **value == *name);
    match &*requirement.operator {
        "In" => &*requirement.key == "metadata.name" && among,
        "NotIn" => &*requirement.key == "metadata.name" && !among,
        _ => false,
    }
}

impl Requirement {
    fn new(requirement: &NodeSelectorRequirement, interner: &Interner) -> Self {
        let number = || requirement.values.first().and_then(|value| value.parse().ok());
        let operator = match &*requirement.operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => number().map_or(Operator::Never, Operator::Gt),
            "Lt" => number().map_or(Operator::Never, Operator::Lt),
            _ => Operator::Never,
        };
        let values = requirement.values.iter().filter_map(|value| interner.find(value)).collect();
        Self { key: interner.find(&requirement.key), operator, values }
    }

    fn matches(&self, image: &Image, node: &Node) -> bool {
        let value = self.key.and_then(|key| node.label(key));
        let number = || value.and_then(|value| image.interner().text(value).parse::<i64>().ok());
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(&value)),
            Operator::NotIn => !value.is_some_and(|value| self.values.contains(&value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(limit) => number().is_some_and(|number| number > limit),
            Operator::Lt(limit) => number().is_some_and(|number| number < limit),
            Operator::Never => false,
        }
    }
}

/// The weights of the preferred terms that match.
fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    let preferred = cycle.affinity.preferred.iter();
    preferred.filter(|(_, term)| term.matches(cycle.image, node)).map(|(weight, _)| weight).sum()
}
