//! `InterPodAffinity`: pods that want to be near others or far from them, and pods that others want to be far from.
//!
//! What matters of other pods is where they are: for each topology key and value, how many there are. That is counted once
//! for all nodes, over the namespaces that the terms name; pods without such terms cost nothing, unless terms of pods that
//! run already are about them: what those must have near or would like near or far is weighed too.

use std::collections::HashMap;

use super::{Normalize, Plugin, Score};
use crate::cycle::Cycle;
use crate::image::{Image, Node, What};
use crate::intern::Symbol;
use crate::pod::{AffinityTerm, Namespaces, PodInfo};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "InterPodAffinity",
    relevant: |cycle| cycle.pod_affinity.is_some(),
    filter: Some(|cycle, node| refusal(cycle, node).is_none()),
    explain: |cycle, node, say| refusal(cycle, node).into_iter().for_each(say),
    score: Some(Score { score, normalize: Normalize::ByRange, weight: 2 }),
    hints: What::PODS.and(What::LABELS),
    everywhere: true,
};

/// A topology key with one of its values.
type Domain = (Symbol, Symbol);

/// What a pod's terms count up to.
#[derive(Default)]
pub struct Compiled {
    /// The topology key of each required term; `None`: no node has it.
    near: Vec<Option<Symbol>>,
    /// How many pods match all required terms.
    near_pods: Domains,
    /// Whether the pod matches its own required terms: the first of a group has nobody to be near.
    near_itself: bool,
    /// Where pods are that this one keeps away from.
    far: Domains,
    /// Where pods are that keep away from this one.
    unwelcome: Domains,
    /// What preferred terms add up to.
    preferred: Domains,
}

/// A number for each domain.
#[derive(Default)]
struct Domains {
    keys: Vec<Symbol>,
    numbers: HashMap<Domain, i64>,
}

impl Domains {
    fn add(&mut self, domain: Domain, number: i64) {
        if !self.keys.contains(&domain.0) {
            self.keys.push(domain.0);
        }
        *self.numbers.entry(domain).or_default() += number;
    }

    fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The numbers of the domains that a node is in.
    fn of(&self, node: &Node) -> impl Iterator<Item = i64> {
        self.keys.iter().filter_map(|key| self.numbers.get(&(*key, node.label(*key)?)).copied())
    }

    fn contains(&self, domain: &Domain) -> bool {
        self.numbers.contains_key(domain)
    }
}

/// Counts, if there is anything to count.
pub fn compile(image: &Image, pod: &PodInfo) -> Option<Compiled> {
    let terms = &pod.needs.pods;
    let mut compiled = Compiled::default();
    for (namespace, term, nodes) in image.keepers() {
        if matches(image, term, namespace, pod) {
            let domains = nodes.filter_map(|node| domain(image, node, &term.topology_key));
            domains.for_each(|domain| compiled.unwelcome.add(domain, 1));
        }
    }
    for (namespace, term, weight, nodes) in image.drawers() {
        if matches(image, term, namespace, pod) {
            let domains =
                nodes.filter_map(|(node, pods)| Some((domain(image, node, &term.topology_key)?, pods as i64)));
            domains.for_each(|(domain, pods)| compiled.preferred.add(domain, weight * pods));
        }
    }
    if terms.is_empty() {
        return (!compiled.unwelcome.is_empty() || !compiled.preferred.is_empty()).then_some(compiled);
    }
    let own = &*pod.key.namespace;
    let find = |term: &AffinityTerm| image.interner().find(&term.topology_key);
    compiled.near = terms.required.iter().map(find).collect();
    compiled.near_itself = terms.required.iter().all(|term| matches(image, term, own, pod));
    for (namespace, labels, crowd) in image.crowds(scope(pod)) {
        let selects = |term: &AffinityTerm| selects(image, term, own, namespace, labels);
        let domains = |term: &AffinityTerm| {
            let key = term.topology_key.clone();
            crowd.nodes(image).filter_map(move |(node, number)| Some((domain(image, node, &key)?, number.pods as i64)))
        };
        if !terms.required.is_empty() && terms.required.iter().all(selects) {
            for (domain, pods) in terms.required.iter().flat_map(domains) {
                compiled.near_pods.add(domain, pods);
            }
        }
        for term in terms.anti.iter().filter(|term| selects(term)) {
            domains(term).for_each(|(domain, pods)| compiled.far.add(domain, pods));
        }
        for (weight, term) in terms.preferred.iter().filter(|(_, term)| selects(term)) {
            for (domain, pods) in domains(term) {
                compiled.preferred.add(domain, weight * pods);
            }
        }
    }
    Some(compiled)
}

/// The one namespace that all terms are about, if there is one: then no other is walked over.
fn scope(pod: &PodInfo) -> Option<&str> {
    let terms = &pod.needs.pods;
    let all = terms.required.iter().chain(&terms.anti).chain(terms.preferred.iter().map(|(_, term)| term));
    all.into_iter().all(|term| term.namespaces == Namespaces::Own).then_some(&*pod.key.namespace)
}

/// Whether a term of a pod in namespace `of` is about `pod`.
fn matches(image: &Image, term: &AffinityTerm, of: &str, pod: &PodInfo) -> bool {
    selects(image, term, of, &pod.key.namespace, &pod.needs.labels)
}

fn selects(image: &Image, term: &AffinityTerm, of: &str, namespace: &str, labels: &[(Box<str>, Box<str>)]) -> bool {
    let named = match &term.namespaces {
        Namespaces::Own => of == namespace,
        Namespaces::Chosen { names, selector } => {
            names.iter().any(|name| **name == *namespace)
                || selector.matches(|key| image.namespace_label(namespace, key))
        }
    };
    named && term.selector.matches_pairs(labels)
}

fn domain(image: &Image, node: &Node, key: &str) -> Option<Domain> {
    let key = image.interner().find(key)?;
    node.present.then(|| node.label(key)).flatten().map(|value| (key, value))
}

fn refusal(cycle: &Cycle<'_>, node: &Node) -> Option<&'static str> {
    let compiled = cycle.pod_affinity.as_ref()?;
    let within = |domains: &Domains| domains.of(node).next().is_some();
    if !near_enough(compiled, node) {
        Some("node(s) didn't match pod affinity rules")
    } else if within(&compiled.far) {
        Some("node(s) didn't match pod anti-affinity rules")
    } else if within(&compiled.unwelcome) {
        Some("node(s) didn't satisfy existing pods anti-affinity rules")
    } else {
        None
    }
}

fn near_enough(compiled: &Compiled, node: &Node) -> bool {
    let mut all_near = true;
    for key in &compiled.near {
        let Some((key, value)) = key.and_then(|key| Some((key, node.label(key)?))) else { return false };
        all_near &= compiled.near_pods.contains(&(key, value));
    }
    all_near || (compiled.near_pods.is_empty() && compiled.near_itself)
}

fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    cycle.pod_affinity.as_ref().map_or(0, |compiled| compiled.preferred.of(node).sum())
}
