//! `RuntimeClass`: a pod carries its runtime class's overhead, and goes only where the class can run.

use std::sync::Arc;

use api::{ApiError, Object, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::pod_resources::amounts;
use serde_json::{Value, json};

use super::{Attempt, Descriptor, Operation, Plugin, find, forbidden, is_main};
use crate::registry::tree::{child, entries, list, present, set, text};
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "RuntimeClass", plugin: |parts| Arc::new(RuntimeClass { caches: parts.caches.clone() }) };

struct RuntimeClass {
    caches: Arc<Caches>,
}

impl Plugin for RuntimeClass {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            match self.class(attempt, pod).await? {
                Some(class) => fill(&class.to_value(), pod).map_err(|why| forbidden(attempt, &why)),
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, pod: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if attempt.operation != Operation::Create || !is_main(attempt, resources::PODS) {
                return Ok(());
            }
            let class = self.class(attempt, pod).await?.map(|class| class.to_value());
            check(class.as_ref(), pod).map_err(|why| forbidden(attempt, why))
        }
        .boxed()
    }
}

impl RuntimeClass {
    /// The class that a new pod names.
    async fn class(&self, attempt: &Attempt<'_>, pod: &Value) -> Result<Option<Object>, ApiError> {
        let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
        if attempt.operation != Operation::Create || !is_main(attempt, resources::PODS) {
            return Ok(None);
        }
        let class = find(&self.caches, resources::RUNTIME_CLASSES, "", name).await?;
        let missing = || forbidden(attempt, &format!("pod rejected: RuntimeClass {name:?} not found"));
        class.map(Some).ok_or_else(missing)
    }
}

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn fill(class: &Value, pod: &mut Value) -> Result<(), String> {
    let Some(spec) = present(pod, "spec") else { return Ok(()) };
    let overhead = &class["overhead"]["podFixed"];
    if !class["overhead"].is_null() {
        let own = amounts(&spec["overhead"]);
        if !own.is_empty() && own != amounts(overhead) {
            return Err(OTHER_OVERHEAD.to_owned());
        }
        if !overhead.is_null() {
            set(spec, "overhead", overhead.clone());
        }
    }
    let scheduling = &class["scheduling"];
    for (key, value) in entries(&scheduling["nodeSelector"]) {
        let own = text(&spec["nodeSelector"][key]).to_owned();
        if !spec["nodeSelector"][key].is_null() && own != text(value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {own}",
                text(value)
            ));
        }
        if let Some(selector) = child(spec, "nodeSelector") {
            set(selector, key, value.clone());
        }
    }
    if !list(&scheduling["tolerations"]).is_empty() {
        let all: Vec<Value> =
            list(&spec["tolerations"]).iter().chain(list(&scheduling["tolerations"])).cloned().collect();
        set(spec, "tolerations", merged(&all));
    }
    Ok(())
}

fn check(class: Option<&Value>, pod: &Value) -> Result<(), &'static str> {
    let overhead = class.map(|class| &class["overhead"]).filter(|overhead| !overhead.is_null());
    let own = &pod["spec"]["overhead"];
    match overhead {
        Some(overhead) if amounts(&overhead["podFixed"]) != amounts(own) => Err(OTHER_OVERHEAD),
        None if !own.is_null() => {
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
        }
        _ => Ok(()),
    }
}

/// Tolerations without those that another one includes.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let included = kept.iter().any(|other| includes(other, toleration))
            || all[at + 1..].iter().any(|other| other != toleration && includes(other, toleration));
        if !included {
            kept.push(toleration.clone());
        }
    }
    kept
}

fn includes(wide: &Value, narrow: &Value) -> bool {
    let field = |toleration: &Value, name: &str| text(&toleration[name]).to_owned();
    let seconds = |toleration: &Value| toleration["tolerationSeconds"].as_i64();
    if wide == narrow {
        return true;
    }
    if field(wide, "key") != field(narrow, "key")
        && (!field(wide, "key").is_empty() || wide["operator"] != json!("Exists"))
    {
        return false;
    }
    if field(wide, "effect") != field(narrow, "effect") && !field(wide, "effect").is_empty() {
        return false;
    }
    if wide["effect"] == "NoExecute"
        && let Some(most) = seconds(wide)
        && seconds(narrow).is_none_or(|asked| asked > most)
    {
        return false;
    }
    match &*field(wide, "operator") {
        "Exists" => true,
        "" | "Equal" => narrow["operator"] == "Equal" && field(wide, "value") == field(narrow, "value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_overhead_selector_and_tolerations_of_its_class() {
        let class = json!({"overhead": {"podFixed": {"memory": "64Mi"}}, "scheduling": {
            "nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {"nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "vm", "operator": "Equal", "value": "x", "effect": "NoSchedule"}]}});
        fill(&class, &mut pod).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"nodeSelector": {"disk": "ssd", "vm": "yes"}, "overhead": {"memory": "64Mi"},
                "tolerations": [{"key": "vm", "operator": "Exists"}]})
        );
        assert_eq!(check(Some(&class), &pod), Ok(()));
        assert_eq!(
            check(None, &pod).unwrap_err(),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        );
        let mut other = json!({"spec": {"overhead": {"memory": "1Mi"}}});
        assert_eq!(fill(&class, &mut other).unwrap_err(), OTHER_OVERHEAD);
        let mut elsewhere = json!({"spec": {"nodeSelector": {"vm": "no"}}});
        assert_eq!(
            fill(&class, &mut elsewhere).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"
        );
    }
}
