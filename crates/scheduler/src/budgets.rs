//! Disruption budgets as preemption counts them: victims that a budget cannot spare are taken last.
//!
//! A budget that selects by nothing protects nothing here, as upstream. Public behaviour: "PodDisruptionBudget and
//! preemption" in the Kubernetes documentation.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Key, Object};
use machinery::Selector;
use machinery::labels::SelectorError;
use serde::Deserialize;
use serde_json::Value;

use crate::image::Counted;
use crate::wire;

/// A budget cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// It has another shape.
    #[error("not a disruption budget")]
    Shape(#[from] serde_json::Error),
    /// Its selector is none.
    #[error("the budget's label selector is wrong")]
    Selector(#[from] SelectorError),
}

/// All budgets, by namespace.
#[derive(Debug, Default)]
pub struct Budgets(HashMap<Arc<str>, HashMap<Arc<str>, Budget>>);

#[derive(Debug)]
struct Budget {
    selector: Selector,
    /// `status.disruptionsAllowed`.
    allowed: i64,
    /// Names of pods that are on their way out already and are no longer counted: keys of `status.disruptedPods`.
    disrupted: Vec<Box<str>>,
}

impl Budgets {
    /// Takes in a budget's state.
    pub fn apply(&mut self, object: &Object) -> Result<(), BudgetError> {
        let Wire { spec, status } = wire::decode(object)?;
        let selector = Selector::from_label_selector(&spec.selector)?;
        let disrupted = status.disrupted_pods.into_keys().collect();
        let budget = Budget { selector, allowed: status.disruptions_allowed, disrupted };
        let Key { namespace, name } = object.key().clone();
        self.0.entry(namespace).or_default().insert(name, budget);
        Ok(())
    }

    /// Forgets a budget.
    pub fn remove(&mut self, key: &Key) {
        let Some(of_namespace) = self.0.get_mut(&key.namespace) else { return };
        of_namespace.remove(&key.name);
        if of_namespace.is_empty() {
            self.0.remove(&key.namespace);
        }
    }

    /// A tally in which nobody has gone yet.
    pub fn tally(&self) -> Tally<'_> {
        Tally { budgets: self, taken: HashMap::new() }
    }
}

/// What the victims of one node would take of the budgets.
pub struct Tally<'a> {
    budgets: &'a Budgets,
    taken: HashMap<(&'a str, &'a str), i64>,
}

impl<'a> Tally<'a> {
    /// Counts one more pod that would go. Whether a budget cannot spare it.
    pub fn overdraws(&mut self, pod: &Counted) -> bool {
        let budgets: &'a Budgets = self.budgets;
        let Some((namespace, of_namespace)) = budgets.0.get_key_value(&pod.key.namespace) else { return false };
        let mut overdrawn = false;
        for (name, budget) in of_namespace {
            let protects = !budget.selector.is_everything() && budget.selector.matches_pairs(&pod.needs.labels);
            if protects && !budget.disrupted.iter().any(|gone| **gone == *pod.key.name) {
                let taken = self.taken.entry((&**namespace, &**name)).or_default();
                *taken += 1;
                overdrawn |= *taken > budget.allowed;
            }
        }
        overdrawn
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Wire {
    spec: Spec,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    selector: Value,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    disruptions_allowed: i64,
    disrupted_pods: HashMap<Box<str>, serde::de::IgnoredAny>,
}
