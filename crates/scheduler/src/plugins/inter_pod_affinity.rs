//! `InterPodAffinity`: pods that want to be near others or far from them, and pods that others want to be far from.
//!
//! What matters of other pods is where they are: for each topology key and value, how many there are. That is counted once
//! for all nodes, over the namespaces that the terms name; pods without such terms cost nothing, unless others keep away
//! from them. Preferences of pods that run already are not weighed.

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
    /// How many pods match all required terms, by domain.
    near_pods: HashMap<Domain, usize>,
    /// Whether the pod matches its own required terms: the first of a group has nobody to be near.
    near_itself: bool,
    /// Where pods are that this one keeps away from.
    far: Vec<Domain>,
    /// Where pods are that keep away from this one.
    unwelcome: Vec<Domain>,
    /// What preferred terms add up to, by domain.
    preferred: HashMap<Domain, i64>,
}

/// Counts, if there is anything to count.
pub fn compile(image: &Image, pod: &PodInfo) -> Option<Compiled> {
    let terms = &pod.needs.pods;
    let mut compiled = Compiled::default();
    for (key, node, other) in image.keeping_away() {
        let keeps_away = other.pods.anti.iter().filter(|term| matches(image, term, key.namespace.as_ref(), pod));
        compiled.unwelcome.extend(keeps_away.filter_map(|term| domain(image, node, &term.topology_key)));
    }
    if terms.is_empty() {
        return (!compiled.unwelcome.is_empty()).then_some(compiled);
    }
    let own = &*pod.key.namespace;
    let find = |term: &AffinityTerm| image.interner().find(&term.topology_key);
    compiled.near = terms.required.iter().map(find).collect();
    compiled.near_itself = terms.required.iter().all(|term| matches(image, term, own, pod));
    image.each_pod(scope(pod), |key, node, other, _| {
        let selects = |term: &AffinityTerm| selects(image, term, own, &key.namespace, &other.labels);
        if !terms.required.is_empty() && terms.required.iter().all(selects) {
            for term in &terms.required {
                if let Some(domain) = domain(image, node, &term.topology_key) {
                    *compiled.near_pods.entry(domain).or_default() += 1;
                }
            }
        }
        let far = terms.anti.iter().filter(|term| selects(term));
        compiled.far.extend(far.filter_map(|term| domain(image, node, &term.topology_key)));
        for (weight, term) in terms.preferred.iter().filter(|(_, term)| selects(term)) {
            if let Some(domain) = domain(image, node, &term.topology_key) {
                *compiled.preferred.entry(domain).or_default() += weight;
            }
        }
    });
    for domains in [&mut compiled.far, &mut compiled.unwelcome] {
        domains.sort_unstable();
        domains.dedup();
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
    let within = |domains: &[Domain]| domains.iter().any(|(key, value)| node.label(*key) == Some(*value));
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
        all_near &= compiled.near_pods.contains_key(&(key, value));
    }
    all_near || (compiled.near_pods.is_empty() && compiled.near_itself)
}

fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    let preferred = cycle.pod_affinity.iter().flat_map(|compiled| &compiled.preferred);
    preferred.filter(|((key, value), _)| node.label(*key) == Some(*value)).map(|(_, weight)| weight).sum()
}
