//! What the objects of one resource come to for each quota that counts them, moved by differences.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Key, Object, Resource, resources};
use jiff::Timestamp;
use machinery::Quantity;
use machinery::pod_resources::{Amounts, add};
use machinery::quota;
use serde_json::Value;

use super::plan::Counted;

/// What a quota counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// Its spec.
    pub(super) spec: Value,
    /// The names under `hard`.
    pub(super) names: Vec<String>,
}

impl Quota {
    pub(super) fn of(spec: &Value) -> Self {
        let names = spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        Self { spec: spec.clone(), names }
    }

    /// What an object counts for here.
    fn usage(&self, resource: &Resource, object: &Value, now: Timestamp) -> Amounts {
        if !quota::in_scope(&self.spec, &resource.group, &resource.plural, object) {
            return Amounts::new();
        }
        let mut usage = quota::usage(&resource.group, &resource.plural, object, now);
        usage.retain(|name, _| self.names.contains(name));
        usage
    }
}

#[derive(Debug)]
struct Sum {
    quota: Arc<Quota>,
    used: Amounts,
    /// What went since the status was last written.
    released: Amounts,
}

/// The sums of one resource.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sums: BTreeMap<Key, Sum>,
    /// Pods that are being deleted: once their time is over they no longer count, though nothing changes then.
    ending: BTreeMap<Key, Object>,
}

impl Tally {
    /// Nothing counted yet.
    pub(super) fn of(quotas: Vec<(Key, Arc<Quota>)>) -> Self {
        let sum = |quota| Sum { quota, used: Amounts::new(), released: Amounts::new() };
        Self { sums: quotas.into_iter().map(|(key, quota)| (key, sum(quota))).collect(), ending: BTreeMap::new() }
    }

    /// Takes in a change from `old` to `new`. Gives the quotas that it moved.
    pub(super) fn change(&mut self, resource: &Resource, old: Option<&Object>, new: Option<&Object>) -> Vec<Key> {
        let Some(any) = old.or(new) else { return vec![] };
        let namespace = any.key().namespace.clone();
        let from = Key { namespace: namespace.clone(), name: "".into() };
        let sums = self.sums.range_mut(from..).take_while(|(key, _)| key.namespace == namespace);
        let (mut moved, mut trees) = (vec![], None);
        for (key, sum) in sums {
            let (old, new) = trees.get_or_insert_with(|| (old.map(Object::to_value), new.map(Object::to_value)));
            // As if no pod's time were ever over: what a difference takes away is what another one added.
            let usage = |tree: &Option<Value>| {
                tree.as_ref().map_or_else(Amounts::new, |tree| sum.quota.usage(resource, tree, Timestamp::MIN))
            };
            let (before, after) = (usage(old), usage(new));
            if before != after {
                sum.replace(&before, &after);
                moved.push(key.clone());
            }
        }
        if trees.is_some() && *resource.plural == *resources::PODS.plural && resource.group.is_empty() {
            self.ending.remove(any.key());
            if let Some(pod) = new.filter(|pod| pod.is_deleting()) {
                self.ending.insert(pod.key().clone(), pod.clone());
            }
        }
        moved
    }

    /// Takes over what was counted anew. Gives the quotas concerned.
    pub(super) fn replace(&mut self, mut counted: Self) -> Vec<Key> {
        for (key, sum) in std::mem::take(&mut self.sums) {
            if let Some(same) = counted.sums.get_mut(&key) {
                same.released = sum.released;
            }
        }
        *self = counted;
        self.sums.keys().cloned().collect()
    }

    /// Adds what this resource comes to for a quota; `None` while it has not been counted.
    pub(super) fn report(
        &self,
        resource: &Resource,
        key: &Key,
        quota: &Arc<Quota>,
        now: Timestamp,
        into: &mut Counted,
    ) -> Option<()> {
        let sum = self.sums.get(key).filter(|sum| Arc::ptr_eq(&sum.quota, quota))?;
        let names = quota::counted(&resource.group, &resource.plural, quota.names.iter().map(String::as_str));
        let mut used: Amounts = names.into_iter().map(|name| (name.to_owned(), Quantity::ZERO)).collect();
        add(&mut used, &sum.used);
        let from = Key { namespace: key.namespace.clone(), name: "".into() };
        for (_, pod) in self.ending.range(from..).take_while(|(pod, _)| pod.namespace == key.namespace) {
            let tree = pod.to_value();
            let (counted, counts) = (quota.usage(resource, &tree, Timestamp::MIN), quota.usage(resource, &tree, now));
            if counted == counts {
                into.look_again_for(&tree, now);
            }
            subtract(&mut used, &counted);
            add(&mut used, &counts);
        }
        add(&mut into.used, &used);
        add(&mut into.released, &sum.released);
        Some(())
    }

    /// What the status now shows as gone.
    pub(super) fn forget_released(&mut self, key: &Key, released: &Amounts) {
        if let Some(sum) = self.sums.get_mut(key) {
            sum.released.retain(|name, amount| {
                let left = *amount - released.get(name).copied().unwrap_or(Quantity::ZERO);
                *amount = left;
                !left.is_negative() && !left.is_zero()
            });
        }
    }
}

impl Sum {
    fn replace(&mut self, before: &Amounts, after: &Amounts) {
        subtract(&mut self.used, before);
        add(&mut self.used, after);
        for (name, amount) in before {
            let less = *amount - after.get(name).copied().unwrap_or(Quantity::ZERO);
            if !less.is_zero() && !less.is_negative() {
                add(&mut self.released, &Amounts::from([(name.clone(), less)]));
            }
        }
    }
}

fn subtract(sum: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        if let Some(known) = sum.get_mut(name) {
            *known = *known - *amount;
        }
    }
}
