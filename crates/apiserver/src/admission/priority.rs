//! `Priority`: the number that the scheduler and the kubelet go by comes from the pod's priority class, or from the class
//! that is the cluster's default.

use std::sync::Arc;

use api::{ApiError, Key, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Descriptor, Operation, Plugin, forbidden, is_main};
use crate::registry::tree::{is_set, keep, present, set, text};
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "Priority", plugin: |parts| Arc::new(Priority { caches: parts.caches.clone() }) };

struct Priority {
    caches: Arc<Caches>,
}

impl Plugin for Priority {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if !is_main(attempt, resources::PODS) {
                return Ok(());
            }
            match (attempt.operation, attempt.old) {
                (Operation::Create, _) => self.resolve(attempt, pod).await,
                (Operation::Update, Some(old)) => {
                    // A writer that leaves out what was computed does not take it away.
                    if let Some(spec) = present(pod, "spec") {
                        for field in ["priority", "preemptionPolicy"] {
                            if !is_set(spec, field) {
                                keep(spec, &old["spec"], field);
                            }
                        }
                    }
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, class: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let writes = matches!(attempt.operation, Operation::Create | Operation::Update);
            if !writes || !is_main(attempt, resources::PRIORITY_CLASSES) || class["globalDefault"] != true {
                return Ok(());
            }
            match self.default_class().await? {
                Some(other) if other["metadata"]["name"] != class["metadata"]["name"] => {
                    let name = text(&other["metadata"]["name"]);
                    let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
                    Err(forbidden(attempt, &why))
                }
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

impl Priority {
    /// The class that is the cluster's default: the lowest, should there be several.
    async fn default_class(&self) -> Result<Option<Value>, ApiError> {
        let cache = self.caches.of(resources::PRIORITY_CLASSES).await?;
        let snapshot = self.caches.snapshot(&cache);
        let classes = snapshot.entries(None).map(|entry| entry.object.to_value());
        let defaults = classes.filter(|class| class["globalDefault"] == true);
        Ok(defaults.min_by_key(|class| class["value"].as_i64().unwrap_or(0)))
    }

    async fn resolve(&self, attempt: &Attempt<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let name = text(&pod["spec"]["priorityClassName"]).to_owned();
        let class = if name.is_empty() {
            self.default_class().await?
        } else {
            let cache = self.caches.of(resources::PRIORITY_CLASSES).await?;
            let key = Key::new("", name.as_str());
            let mut class = cache.get(&key);
            if class.is_none() {
                self.caches.fresh().await;
                class = cache.get(&key);
            }
            let missing = || forbidden(attempt, &format!("no PriorityClass with name {name} was found"));
            Some(class.ok_or_else(missing)?.to_value())
        };
        let Some(spec) = present(pod, "spec") else { return Ok(()) };
        let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
        let policy = class.as_ref().map_or("PreemptLowerPriority", |class| text(&class["preemptionPolicy"]));
        let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
        if let Some(given) = spec["priority"].as_i64().filter(|given| *given != value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
                 computed {value} from the given PriorityClass name"
            );
            return Err(forbidden(attempt, &why));
        }
        if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != policy) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            );
            return Err(forbidden(attempt, &why));
        }
        if let (true, Some(class)) = (name.is_empty(), &class) {
            set(spec, "priorityClassName", class["metadata"]["name"].clone());
        }
        set(spec, "priority", value);
        set(spec, "preemptionPolicy", policy);
        Ok(())
    }
}
