//! Why a pod is where it is, or nowhere: what every plugin says of every node, for a person to read.
//!
//! The same functions decide as in a cycle, but nothing is cut short: every node is looked at, every plugin that refuses
//! one is named, and every score is shown.

use std::collections::BTreeMap;

use api::resources::{NAMESPACES, NODES, PODS};
use api::{Object, Resource};

use crate::cycle::{Cycle, Turn, score};
use crate::facts::{FACTS, FactError};
use crate::image::Image;
use crate::node::NodeInfo;
use crate::pod::{PodError, PodInfo};
use crate::preemption::preempt;

/// What there is in the cluster, as far as placement looks at it.
#[derive(Default)]
pub struct Cluster {
    image: Image,
}

/// What is said of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The node.
    pub node: String,
    /// Each plugin that refuses it, with its reasons. Empty: the pod fits.
    pub refusals: Vec<(&'static str, Vec<String>)>,
    /// What each plugin gives it, weighed, where the pod fits.
    pub scores: BTreeMap<&'static str, i64>,
}

impl Verdict {
    /// All scores together.
    pub fn total(&self) -> i64 {
        self.scores.values().sum()
    }
}

/// What is said of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Scheduling gates that keep it from being looked at.
    pub gates: Vec<String>,
    /// The scheduler that it asks for.
    pub scheduler: String,
    /// Where it is now.
    pub node: Option<String>,
    /// The nodes: first those that it fits, the best first; then by name.
    pub verdicts: Vec<Verdict>,
    /// If it fits nowhere: which pods would go from which node, or why removing pods does not help.
    pub preemption: Option<Result<(String, Vec<String>), String>>,
}

impl Cluster {
    /// Takes in an object of one of [`resources`].
    ///
    /// # Errors
    /// What is wrong with the object, which then counts for nothing.
    pub fn add(&mut self, resource: &Resource, object: &Object) -> Result<(), FactError> {
        if resource == NODES {
            self.image.apply_node(NodeInfo::read(object)?);
        } else if resource == NAMESPACES {
            self.image.apply_namespace(&object.key().name, &object.index().labels);
        } else if resource == PODS {
            let pod = PodInfo::read(object)?;
            if let Some(node) = pod.node_name.as_deref().filter(|_| !pod.ended) {
                self.image.add_pod(&pod, node);
            }
        } else if let Some(fact) = FACTS.iter().find(|fact| fact.resource == resource) {
            (fact.apply)(&mut self.image, object)?;
        }
        Ok(())
    }

    /// Explains a pod's place as if it had none yet.
    ///
    /// # Errors
    /// The pod cannot be read.
    pub fn explain(&mut self, pod: &Object) -> Result<Explanation, PodError> {
        let mut pod = PodInfo::read(pod)?;
        let bound_to = pod.node_name.take();
        self.image.remove_pod(&pod.key);
        let image = &self.image;
        let cycle = Cycle::new(image, &pod);
        let (mut verdicts, mut fitting) = (Vec::new(), Vec::new());
        for index in image.order() {
            let node = image.node(*index);
            let refusals: Vec<_> = cycle
                .refusals(&cycle.with_promises(node))
                .into_iter()
                .map(|(plugin, why)| (plugin.name, why))
                .collect();
            if refusals.is_empty() {
                fitting.push(*index);
            }
            verdicts.push(Verdict { node: node.name.to_string(), refusals, scores: BTreeMap::new() });
        }
        score(&cycle, &fitting, &mut Vec::new(), |plugin, scores| {
            let fits = verdicts.iter_mut().filter(|verdict| verdict.refusals.is_empty());
            for (verdict, score) in fits.zip(scores) {
                verdict.scores.insert(plugin.name, *score);
            }
        });
        verdicts.sort_by_key(|verdict| {
            (!verdict.refusals.is_empty(), std::cmp::Reverse(verdict.total()), verdict.node.clone())
        });
        let preemption = fitting.is_empty().then(|| {
            preempt(image, &pod, &Turn::new(1)).map(|found| {
                let victims = found.victims.iter().map(|victim| victim.key.to_string()).collect();
                (image.node(found.node).name.to_string(), victims)
            })
        });
        Ok(Explanation {
            gates: pod.needs.gates.iter().map(ToString::to_string).collect(),
            scheduler: pod.scheduler_name.to_string(),
            node: bound_to.map(String::from),
            verdicts,
            preemption,
        })
    }
}

/// The resources that [`Cluster::add`] takes in.
pub fn resources() -> impl Iterator<Item = &'static Resource> {
    [NODES, NAMESPACES, PODS].into_iter().chain(FACTS.iter().map(|fact| fact.resource))
}
