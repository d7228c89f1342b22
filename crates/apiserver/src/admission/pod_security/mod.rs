//! `PodSecurity`: holds pods to the Pod Security Standards that their namespace's labels name.
//!
//! `pod-security.kubernetes.io/enforce` refuses pods; `warn` and `audit` speak of pods and of what makes pods. Nobody is
//! exempt and nothing is enforced without a label, as upstream's default configuration has it. The standards themselves are
//! in [`checks`]. Public behaviour: the Kubernetes documentation's "Pod Security Admission".

mod checks;
mod containers;
mod policy;
mod security_context;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{ApiError, Reason, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use self::checks::{Pod, evaluate};
use self::policy::{Level, LevelVersion, Policy};
use super::{Attempt, Descriptor, Operation, Plugin, find, forbidden};
use crate::invalid::invalid;
use crate::registry::tree::{list, text};
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "PodSecurity", plugin: |parts| Arc::new(PodSecurity { caches: parts.caches.clone() }) };

/// How many pods are looked at when a namespace is labelled. Without it one request could decode a hundred thousand.
const PODS_MAX: usize = 3000;
const ANNOTATION: &str = "pod-security.kubernetes.io/";

struct PodSecurity {
    caches: Arc<Caches>,
}

impl Plugin for PodSecurity {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if !matches!(attempt.operation, Operation::Create | Operation::Update) {
                return Ok(());
            }
            match (&*attempt.resource.group, &*attempt.resource.plural) {
                ("", "namespaces") if attempt.subresource.is_empty() => self.namespace(attempt, object).await,
                ("", "pods") if matches!(attempt.subresource, "" | "ephemeralcontainers" | "resize") => {
                    self.pod(attempt, object).await
                }
                (group, plural) if attempt.subresource.is_empty() => match template(group, plural, object) {
                    Some(template) => self.template(attempt, template).await,
                    None => Ok(()),
                },
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

/// The pod template of what makes pods.
fn template<'a>(group: &str, plural: &str, object: &'a Value) -> Option<&'a Value> {
    let spec = &object["spec"];
    let template = match (group, plural) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers") | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") => {
            &spec["template"]
        }
        ("batch", "jobs") => &spec["template"],
        ("batch", "cronjobs") => &spec["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template.is_object().then_some(template)
}

impl PodSecurity {
    /// The policy of the attempt's namespace, and what is wrong with its labels.
    async fn policy(&self, attempt: &Attempt<'_>) -> Result<(Policy, Option<String>), ApiError> {
        let namespace = &*attempt.key.namespace;
        let found = find(&self.caches, resources::NAMESPACES, "", namespace).await?;
        let why = || {
            let message = format!("Internal error occurred: failed to lookup namespace {namespace:?}");
            ApiError::new(Reason::InternalError, message)
        };
        let (policy, errors) = Policy::of(&found.ok_or_else(why)?.to_value()["metadata"]["labels"]);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Ok((policy, (!errors.is_empty()).then(|| errors.join(", "))))
    }

    async fn pod(&self, attempt: &Attempt<'_>, pod: &Value) -> Result<(), ApiError> {
        let (policy, wrong) = self.policy(attempt).await?;
        if wrong.is_none() && policy.is_privileged() {
            annotate(attempt, "enforce-policy", policy.enforce.to_string());
            return Ok(());
        }
        if let (Operation::Update, Some(old)) = (attempt.operation, attempt.old)
            && !is_significant(pod, old)
        {
            return Ok(());
        }
        let pod = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
        annotate(attempt, "enforce-policy", policy.enforce.to_string());
        let refused = details(policy.enforce, &pod)
            .map(|details| forbidden(attempt, &format!("violates PodSecurity \"{}\": {details}", policy.enforce)));
        self.tell(attempt, &policy, wrong, &pod, refused.is_none());
        refused.map_or(Ok(()), Err)
    }

    async fn template(&self, attempt: &Attempt<'_>, template: &Value) -> Result<(), ApiError> {
        let (policy, wrong) = self.policy(attempt).await?;
        let silent = policy.warn.level == Level::Privileged && policy.audit.level == Level::Privileged;
        if wrong.is_some() || !silent {
            let pod = Pod { metadata: &template["metadata"], spec: &template["spec"] };
            self.tell(attempt, &policy, wrong, &pod, true);
        }
        Ok(())
    }

    /// Warns the client, where it is not refused anyway, and the audit log.
    fn tell(&self, attempt: &Attempt<'_>, policy: &Policy, wrong: Option<String>, pod: &Pod<'_>, warn: bool) {
        if let Some(wrong) = wrong {
            annotate(attempt, "error", format!("Failed to parse policy: {wrong}"));
        }
        let would = |standard: LevelVersion| {
            details(standard, pod).map(|details| format!("would violate PodSecurity \"{standard}\": {details}"))
        };
        if let Some(violation) = would(policy.audit) {
            annotate(attempt, "audit-violations", violation);
        }
        if let Some(violation) = would(policy.warn).filter(|_| warn) {
            attempt.context.notes.warn(violation);
        }
    }

    async fn namespace(&self, attempt: &Attempt<'_>, namespace: &Value) -> Result<(), ApiError> {
        let (policy, errors) = Policy::of(&namespace["metadata"]["labels"]);
        let (before, errors_before) = match attempt.old {
            Some(old) => Policy::of(&old["metadata"]["labels"]),
            None => (policy, Vec::new()),
        };
        // What was wrong before may stay: another change must not be held up by it.
        if !errors.is_empty() && errors != errors_before {
            return Err(invalid(attempt.resource, &attempt.key.name, &errors));
        }
        let (new, old) = (policy.enforce, before.enforce);
        let stricter =
            new != old && new.level != Level::Privileged && !(new.version == old.version && new.level <= old.level);
        if attempt.operation == Operation::Update && stricter {
            for warning in self.violations(&attempt.key.name, new).await? {
                attempt.context.notes.warn(warning);
            }
        }
        Ok(())
    }

    /// What pods of the namespace would be refused now.
    async fn violations(&self, namespace: &str, standard: LevelVersion) -> Result<Vec<String>, ApiError> {
        let cache = self.caches.of(resources::PODS).await?;
        let snapshot = self.caches.snapshot(&cache);
        let (mut first, mut copies, mut controllers) = (Vec::new(), Vec::new(), BTreeSet::new());
        for entry in snapshot.entries(Some(namespace)) {
            // One pod of each controller before the rest: they are alike.
            let mut owners = entry.object.index().owners.iter();
            match owners.find(|owner| owner.controller) {
                Some(owner) if !controllers.insert(owner.uid.clone()) => copies.push(&entry.object),
                _ => first.push(&entry.object),
            }
        }
        let total = first.len() + copies.len();
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for object in first.into_iter().chain(copies).take(PODS_MAX) {
            let pod = object.to_value();
            let violations = evaluate(standard, &Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
            if !violations.is_empty() {
                let reasons = violations.into_iter().map(|violation| violation.reason).collect::<Vec<_>>().join(", ");
                let (least, count) = found.entry(reasons).or_default();
                let name = &*object.key().name;
                if least.is_empty() || name < least.as_str() {
                    name.clone_into(least);
                }
                *count += 1;
            }
        }
        Ok(warnings(namespace, standard, total, &found))
    }
}

fn warnings(
    namespace: &str,
    standard: LevelVersion,
    total: usize,
    found: &BTreeMap<String, (String, usize)>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if total > PODS_MAX {
        let warning =
            format!("new PodSecurity enforce level only checked against the first {PODS_MAX} of {total} existing pods");
        warnings.push(warning);
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut pods: Vec<String> = found
        .iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            count => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    pods.sort();
    warnings.extend(pods);
    warnings
}

/// `reason (detail), ...`; `None` where the pod keeps to the standard.
fn details(standard: LevelVersion, pod: &Pod<'_>) -> Option<String> {
    let violations = evaluate(standard, pod);
    let texts = violations.iter().map(|violation| match &*violation.detail {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    });
    (!violations.is_empty()).then(|| texts.collect::<Vec<_>>().join(", "))
}

fn annotate(attempt: &Attempt<'_>, key: &str, value: String) {
    attempt.context.notes.annotate(format!("{ANNOTATION}{key}"), value);
}

/// Whether an update changes what the standards look at: new containers or other images. The rest cannot change.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let (spec, before) = (&pod["spec"], &old["spec"]);
    let images = |spec: &Value, field: &str| -> Vec<(String, String)> {
        let containers = list(&spec[field]).iter();
        containers
            .map(|container| (text(&container["name"]).to_owned(), text(&container["image"]).to_owned()))
            .collect()
    };
    let ephemeral = images(before, "ephemeralContainers");
    images(spec, "containers") != images(before, "containers")
        || images(spec, "initContainers") != images(before, "initContainers")
        || images(spec, "ephemeralContainers").iter().any(|container| !ephemeral.contains(container))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_would_be_refused_are_named_once_for_each_reason() {
        let standard = LevelVersion { level: Level::Baseline, version: policy::Version::Latest };
        let found = BTreeMap::from([
            ("hostPort".to_owned(), ("web-1".to_owned(), 3)),
            ("privileged".to_owned(), ("cni".to_owned(), 1)),
        ]);
        assert_eq!(
            warnings("a", standard, 4, &found),
            [
                "existing pods in namespace \"a\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "cni: privileged",
                "web-1 (and 2 other pods): hostPort"
            ]
        );
        assert!(warnings("a", standard, 4, &BTreeMap::new()).is_empty());
    }

    #[test]
    fn only_new_containers_and_images_count_as_a_change() {
        let pod = |image: &str, ephemeral: Value| json!({"spec": {"containers": [{"name": "c", "image": image}], "ephemeralContainers": ephemeral}});
        let debug = json!([{"name": "d", "image": "b"}]);
        for (new, old, significant) in [
            (pod("a", json!([])), pod("a", json!([])), false),
            (pod("b", json!([])), pod("a", json!([])), true),
            (pod("a", debug.clone()), pod("a", json!([])), true),
            (pod("a", debug.clone()), pod("a", debug), false),
        ] {
            assert_eq!(is_significant(&new, &old), significant, "{new}");
        }
    }
}
