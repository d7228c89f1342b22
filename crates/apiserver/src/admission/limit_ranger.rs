//! `LimitRanger`: what a `LimitRange` gives containers that say nothing, and what it holds containers, pods and claims to.
//!
//! Defaults are noted in the pod's annotation `kubernetes.io/limit-ranger`. Public behaviour: the Kubernetes documentation's
//! "Limit Ranges".

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{ApiError, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::Quantity;
use machinery::pod_resources::{self, Amounts, amounts};
use serde_json::Value;

use super::{Attempt, Descriptor, Operation, Plugin, forbidden, is_main};
use crate::registry::tree::{child, list, list_mut, present, set, text};
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "LimitRanger", plugin: |parts| Arc::new(LimitRanger { caches: parts.caches.clone() }) };

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

struct LimitRanger {
    caches: Arc<Caches>,
}

impl Plugin for LimitRanger {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if !concerns(attempt) || attempt.resource.plural != "pods" {
                return Ok(());
            }
            for range in self.ranges(attempt).await? {
                set_defaults(&range, object);
            }
            Ok(())
        }
        .boxed()
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if !concerns(attempt) {
                return Ok(());
            }
            for range in self.ranges(attempt).await? {
                let why = match &*attempt.resource.plural {
                    "pods" => check_pod(&range, object),
                    _ => check_claim(&range, object),
                };
                if !why.is_empty() {
                    return Err(forbidden(attempt, &aggregate(&why)));
                }
            }
            Ok(())
        }
        .boxed()
    }
}

/// New pods, pods that are resized, and claims; nothing that is being deleted.
fn concerns(attempt: &Attempt<'_>) -> bool {
    if attempt.operation == Operation::Delete
        || attempt.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null())
    {
        return false;
    }
    let of_pods = attempt.resource.group.is_empty() && attempt.resource.plural == "pods";
    (of_pods && attempt.subresource == "resize")
        || (of_pods && is_main(attempt, resources::PODS) && attempt.operation == Operation::Create)
        || is_main(attempt, resources::PERSISTENT_VOLUME_CLAIMS)
}

impl LimitRanger {
    /// The limits of the namespace, each limit range's in turn.
    async fn ranges(&self, attempt: &Attempt<'_>) -> Result<Vec<Value>, ApiError> {
        let cache = self.caches.of(resources::LIMIT_RANGES).await?;
        // A range that was acknowledged holds for the next pod.
        self.caches.fresh().await;
        let snapshot = self.caches.snapshot(&cache);
        let ranges = snapshot.entries(Some(&attempt.key.namespace)).map(|entry| entry.object.to_value());
        Ok(ranges.map(|mut range| range["spec"]["limits"].take()).collect())
    }
}

fn set_defaults(limits: &Value, pod: &mut Value) {
    let (mut requests, mut maxima) = (Amounts::new(), Amounts::new());
    for limit in list(limits).iter().filter(|limit| limit["type"] == "Container") {
        requests.extend(amounts(&limit["defaultRequest"]));
        maxima.extend(amounts(&limit["default"]));
    }
    let mut notes = Vec::new();
    if let Some(spec) = present(pod, "spec") {
        for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in list_mut(spec, field) {
                let name = text(&container["name"]).to_owned();
                for (half, defaults, word) in [("requests", &requests, "request"), ("limits", &maxima, "limit")] {
                    let added = add_missing(container, half, defaults);
                    if !added.is_empty() {
                        notes.push(format!("{} {word} for {what} {name}", added.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty()
        && let Some(annotations) = child(&mut pod["metadata"], "annotations")
    {
        set(annotations, ANNOTATION, format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Gives a container what it does not say itself; the names of that.
fn add_missing(container: &mut Value, half: &str, defaults: &Amounts) -> Vec<String> {
    let own = amounts(&container["resources"][half]);
    let missing: Vec<_> = defaults.iter().filter(|(name, _)| !own.contains_key(*name)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    if let Some(amounts) = child(container, "resources").and_then(|resources| child(resources, half)) {
        for (name, amount) in &missing {
            set(amounts, name, amount.to_string());
        }
    }
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

fn check_pod(limits: &Value, pod: &Value) -> Vec<String> {
    let mut why = Vec::new();
    for limit in list(limits) {
        match text(&limit["type"]) {
            "Container" => {
                let spec = &pod["spec"];
                for container in list(&spec["containers"]).iter().chain(list(&spec["initContainers"])) {
                    let asked = &container["resources"];
                    check(&mut why, limit, &amounts(&asked["requests"]), &amounts(&asked["limits"]));
                }
            }
            "Pod" => {
                // Limit ranges are about what users ask for: neither overhead nor what a running pod was given counts.
                let mut asked = pod.clone();
                asked["status"] = Value::Null;
                if let Some(spec) = asked["spec"].as_object_mut() {
                    spec.shift_remove("overhead");
                }
                check(&mut why, limit, &pod_resources::requests(&asked), &pod_resources::limits(&asked));
            }
            _ => {}
        }
    }
    why
}

fn check(why: &mut Vec<String>, limit: &Value, requests: &Amounts, limits: &Amounts) {
    let of = text(&limit["type"]);
    for (name, minimum) in amounts(&limit["min"]) {
        why.extend(below(of, &name, minimum, requests.get(&name), limits.get(&name)));
    }
    for (name, maximum) in amounts(&limit["max"]) {
        why.extend(above(of, &name, maximum, requests.get(&name), limits.get(&name)));
    }
    for (name, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        why.extend(beyond_ratio(of, &name, ratio, requests.get(&name), limits.get(&name)));
    }
}

fn below(
    of: &str,
    name: &str,
    minimum: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("minimum {name} usage per {of} is {minimum}");
    match (request, limit) {
        (None, _) => Some(format!("{rule}.  No request is specified")),
        (Some(request), _) if *request < minimum => Some(format!("{rule}, but request is {request}")),
        (_, Some(limit)) if *limit < minimum => Some(format!("{rule}, but limit is {limit}")),
        _ => None,
    }
}

fn above(
    of: &str,
    name: &str,
    maximum: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("maximum {name} usage per {of} is {maximum}");
    match (request, limit) {
        (_, None) => Some(format!("{rule}.  No limit is specified")),
        (_, Some(limit)) if *limit > maximum => Some(format!("{rule}, but limit is {limit}")),
        (Some(request), _) if *request > maximum => Some(format!("{rule}, but request is {request}")),
        _ => None,
    }
}

fn beyond_ratio(
    of: &str,
    name: &str,
    ratio: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("{name} max limit to request ratio per {of} is {ratio}");
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return Some(format!("{rule}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return Some(format!("{rule}, but no limit is specified or limit is 0"));
    };
    #[expect(clippy::cast_precision_loss, reason = "a ratio is compared and shown as a fraction, as upstream does")]
    let (provided, allowed) = (limit.nanos() as f64 / request.nanos() as f64, ratio.nanos() as f64 / 1_000_000_000.0);
    (provided > allowed).then(|| format!("{rule}, but provided ratio is {provided:.6}"))
}

fn check_claim(limits: &Value, claim: &Value) -> Vec<String> {
    let mut why = Vec::new();
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for limit in list(limits).iter().filter(|limit| limit["type"] == "PersistentVolumeClaim") {
        let of = text(&limit["type"]);
        for (name, minimum) in amounts(&limit["min"]) {
            why.extend(below(of, &name, minimum, requests.get(&name), None));
        }
        for (name, maximum) in amounts(&limit["max"]) {
            let rule = format!("maximum {name} usage per {of} is {maximum}");
            match requests.get(&name) {
                None => why.push(format!("{rule}.  No request is specified")),
                Some(request) if *request > maximum => why.push(format!("{rule}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    why
}

/// One reason as it is, several in brackets, each once.
fn aggregate(why: &[String]) -> String {
    let mut seen = BTreeSet::new();
    let once: Vec<&str> = why.iter().map(String::as_str).filter(|why| seen.insert(*why)).collect();
    if let [one] = &once[..] { (*one).to_owned() } else { format!("[{}]", once.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_get_what_they_do_not_say() {
        let limits =
            json!([{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"}}]);
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}],
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "3"}, "requests": {"cpu": "1", "memory": "2Mi"}}}]}});
        set_defaults(&limits, &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "2", "memory": "1Mi"}, "limits": {"cpu": "1"}})
        );
        assert_eq!(pod["spec"]["initContainers"][0]["resources"]["limits"], json!({"cpu": "3"}));
        let note = "LimitRanger plugin set: memory request for container a; cpu limit for container a";
        assert_eq!(pod["metadata"]["annotations"][ANNOTATION], note);
    }

    #[test]
    fn each_rule_has_its_words() {
        let pod = |requests: Value, limits: Value| json!({"spec": {"containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]}});
        let of = |kind: &str, rule: &str, amount: &str| json!([{"type": kind, rule: {"cpu": amount}}]);
        for (limits, requests, maxima, expected) in [
            (
                of("Container", "min", "100m"),
                json!({"cpu": "50m"}),
                json!({}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                of("Container", "min", "100m"),
                json!({}),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                of("Container", "max", "1"),
                json!({}),
                json!({}),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                of("Container", "max", "1"),
                json!({}),
                json!({"cpu": "1500m"}),
                "maximum cpu usage per Container is 1, but limit is 1500m",
            ),
            (
                of("Pod", "max", "1"),
                json!({"cpu": "2"}),
                json!({"cpu": "2"}),
                "maximum cpu usage per Pod is 1, but limit is 2",
            ),
            (
                of("Container", "maxLimitRequestRatio", "2"),
                json!({"cpu": "1"}),
                json!({"cpu": "3"}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (of("Container", "max", "2"), json!({"cpu": "2"}), json!({"cpu": "2"}), "[]"),
        ] {
            assert_eq!(aggregate(&check_pod(&limits, &pod(requests, maxima))), expected);
        }
        let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let limits = json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}, "min": {"storage": "3Gi"}}]);
        assert_eq!(
            aggregate(&check_claim(&limits, &claim)),
            "[minimum storage usage per PersistentVolumeClaim is 3Gi, but request is 2Gi, \
             maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi]"
        );
    }
}
