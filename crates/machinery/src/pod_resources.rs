//! What a pod asks for as a whole: the sums that the scheduler, quotas and limits go by.
//!
//! Ordinary containers run side by side and add up. Init containers run one after the other, each beside the sidecars that
//! were started before it, so the largest of those moments counts if it is larger. What the pod says for itself as a whole
//! stands instead of the sum. A running pod that is being resized counts with the larger of what is wished and what it has.
//!
//! Public behaviour: the Kubernetes documentation's "Resource sharing within containers", "Pod-level resources" and
//! "Resize CPU and Memory Resources".

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Quantity;

/// Amounts by resource name, such as `cpu`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a map of amounts. What is no quantity is left out: validation has refused it, or will.
pub fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    let parsed = entries.filter_map(|(name, amount)| Some((name.clone(), amount_of(amount)?)));
    parsed.collect()
}

fn amount_of(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// The map as it stands in an object.
pub fn to_value(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::String(amount.to_string()))).collect()
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let known = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        // A sum that begins with nothing takes the first amount as it is written, zero too.
        *known = if known.is_zero() { *amount } else { *known + *amount };
    }
}

/// Raises each amount in `sum` to that in `other`.
pub fn raise(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match sum.get_mut(name) {
            Some(known) if *known >= *amount => {}
            Some(known) => *known = *amount,
            None => drop(sum.insert(name.clone(), *amount)),
        }
    }
}

/// Requests or limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Requests,
    Limits,
}

impl Half {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// What the pod requests, its overhead included.
pub fn requests(pod: &Value) -> Amounts {
    let mut sum = of_containers(pod, Half::Requests);
    of_pod(pod, Half::Requests, &mut sum);
    add(&mut sum, &amounts(&pod["spec"]["overhead"]));
    sum
}

/// What the pod is limited to. Overhead counts only beside a limit: without one there is nothing to add it to.
pub fn limits(pod: &Value) -> Amounts {
    let mut sum = of_containers(pod, Half::Limits);
    of_pod(pod, Half::Limits, &mut sum);
    for (name, amount) in amounts(&pod["spec"]["overhead"]) {
        if let Some(limit) = sum.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = *limit + amount;
        }
    }
    sum
}

/// Whether the pod says for itself what it needs, for any resource that it can say that of.
pub fn says_for_itself(pod: &Value) -> bool {
    [Half::Requests, Half::Limits]
        .iter()
        .any(|half| amounts(&pod["spec"]["resources"][half.field()]).keys().any(|name| is_pod_level(name)))
}

/// Whether a pod can ask for this resource as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn of_pod(pod: &Value, half: Half, sum: &mut Amounts) {
    let own = amounts(&pod["spec"]["resources"][half.field()]);
    sum.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
}

fn of_containers(pod: &Value, half: Half) -> Amounts {
    let (mut sum, mut sidecars, mut at_most) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in list(&pod["spec"]["containers"]) {
        add(&mut sum, &of_container(pod, container, "containerStatuses", half));
    }
    for container in list(&pod["spec"]["initContainers"]) {
        if container["restartPolicy"] == "Always" {
            let own = of_container(pod, container, "initContainerStatuses", half);
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut at_most, &sidecars);
        } else {
            let mut moment = amounts(&container["resources"][half.field()]);
            add(&mut moment, &sidecars);
            raise(&mut at_most, &moment);
        }
    }
    raise(&mut sum, &at_most);
    sum
}

/// What a container counts with: its wish and, once it runs, what it was given, whichever is more.
fn of_container(pod: &Value, container: &Value, statuses: &str, half: Half) -> Amounts {
    let wished = amounts(&container["resources"][half.field()]);
    let status = list(&pod["status"][statuses]).iter().find(|status| status["name"] == container["name"]);
    let Some(status) = status.filter(|status| !status["resources"].is_null()) else { return wished };
    let mut counted = amounts(&status["resources"][half.field()]);
    if half == Half::Requests {
        raise(&mut counted, &amounts(&status["allocatedResources"]));
    }
    if !resize_is_infeasible(pod) {
        raise(&mut counted, &wished);
    }
    counted
}

fn resize_is_infeasible(pod: &Value) -> bool {
    let mut conditions = list(&pod["status"]["conditions"]).iter();
    conditions.any(|condition| condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }

    #[test]
    fn sums_moments_sidecars_and_the_pods_own_word() {
        let sidecar = |cpu| {
            let mut sidecar = container("s", cpu);
            sidecar["restartPolicy"] = "Always".into();
            sidecar
        };
        let two = json!([container("a", "1"), container("b", "500m")]);
        for (spec, requested, limited) in [
            (json!({"containers": two}), "1500m", "1500m"),
            (json!({"containers": two, "initContainers": [container("i", "2")]}), "2", "2"),
            (json!({"containers": two, "initContainers": [sidecar("1"), container("i", "1")]}), "2500m", "2500m"),
            (json!({"containers": two, "initContainers": [sidecar("1"), container("i", "3")]}), "4", "4"),
            (json!({"containers": two, "initContainers": [container("i", "2"), sidecar("1")]}), "2500m", "2500m"),
            (json!({"containers": two, "overhead": {"cpu": "100m"}}), "1600m", "1600m"),
            (json!({"containers": two, "resources": {"requests": {"cpu": "3"}}}), "3", "1500m"),
            (json!({"containers": [{"name": "a"}], "overhead": {"cpu": "100m"}}), "100m", "none"),
        ] {
            let pod = json!({"spec": spec});
            let shown = |amounts: Amounts| amounts.get("cpu").map_or("none".to_owned(), Quantity::to_string);
            assert_eq!((&*shown(requests(&pod)), &*shown(limits(&pod))), (requested, limited), "{pod}");
        }
    }

    #[test]
    fn a_resize_counts_with_the_larger_side_until_it_is_refused() {
        let pod = |wished: &str, reason: &str| {
            json!({"spec": {"containers": [container("a", wished)]}, "status": {
                "conditions": [{"type": "PodResizePending", "reason": reason}],
                "containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "2"},
                    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]}})
        };
        for (wished, reason, counted) in [("3", "Deferred", "3"), ("3", "Infeasible", "2"), ("1", "Deferred", "2")] {
            assert_eq!(requests(&pod(wished, reason))["cpu"].to_string(), counted, "{wished} {reason}");
        }
    }
}
