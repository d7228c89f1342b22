//! Stateful sets: of their spec only replicas, template and a few policies may change.

use std::sync::Arc;

use serde_json::{Value, json};

use super::workload::{AtMost, Workload, WorkloadStrategy};
use crate::invalid::FieldError;
use crate::registry::at::At;
use crate::registry::tree::{
    child, is_set, list, list_mut, named, not_negative, one_of, present, remove, set, set_default, text,
};
use crate::registry::{Descriptor, claim_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::STATEFUL_SETS, strategy: |_| Arc::new(WorkloadStrategy(StatefulSet)) };

const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

struct StatefulSet;

impl Workload for StatefulSet {
    const SELECTS_FOR: &'static str = "statefulset";
    const WITHOUT_DEADLINE: Option<&'static str> = Some("StatefulSet");
    const COUNTS: &'static [&'static str] =
        &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    const AT_MOST: &'static [AtMost] = &[
        ("readyReplicas", "replicas", "status.replicas"),
        ("currentReplicas", "replicas", "status.replicas"),
        ("updatedReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "readyReplicas", "status.readyReplicas"),
    ];

    fn default_spec(&self, spec: &mut Value) {
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = child(spec, "updateStrategy") {
            if text(&strategy["type"]).is_empty() {
                set(strategy, "type", "RollingUpdate");
                child(strategy, "rollingUpdate");
            }
            if text(&strategy["type"]) == "RollingUpdate"
                && let Some(rolling) = present(strategy, "rollingUpdate")
            {
                set_default(rolling, "partition", 0);
            }
        }
        if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
            set_default(policy, "whenDeleted", "Retain");
            set_default(policy, "whenScaled", "Retain");
        }
        for claim in list_mut(spec, "volumeClaimTemplates") {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = child(claim, "spec") {
                claim_spec::default(spec);
            }
            if let Some(status) = child(claim, "status") {
                set_default(status, "phase", "Pending");
            }
        }
    }

    fn new_status(&self) -> Value {
        json!({"replicas": 0, "availableReplicas": 0})
    }

    /// `maxUnavailable` is behind a feature gate that is off in 1.36: as there, it is dropped unless it was there before.
    fn prepare(&self, object: &mut Value, old: Option<&Value>) {
        let had = |old: &Value| is_set(&old["spec"]["updateStrategy"]["rollingUpdate"], "maxUnavailable");
        if old.is_some_and(had) {
            return;
        }
        let strategy = present(object, "spec").and_then(|spec| present(spec, "updateStrategy"));
        if let Some(rolling) = strategy.and_then(|strategy| present(strategy, "rollingUpdate")) {
            remove(rolling, "maxUnavailable");
        }
    }

    fn validate_spec(&self, spec: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let policy = &spec["podManagementPolicy"];
        if !matches!(text(policy), "OrderedReady" | "Parallel") {
            let why = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid("spec.podManagementPolicy", policy, why));
        }
        validate_strategy(&mut errors, &spec["updateStrategy"]);
        for field in ["whenDeleted", "whenScaled"] {
            let path = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
            one_of(&mut errors, &spec["persistentVolumeClaimRetentionPolicy"][field], &path, &["Retain", "Delete"]);
        }
        not_negative(&mut errors, &spec["replicas"], "spec.replicas");
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        not_negative(&mut errors, &spec["ordinals"]["start"], "spec.ordinals.start");
        errors
    }

    /// A service name that no pod could have a subdomain of, and templates that no claim could be made of.
    fn validate_new_spec(&self, spec: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for claim in At::new(&spec["volumeClaimTemplates"], "spec.volumeClaimTemplates").items() {
            claim_spec::validate(&mut errors, &claim.at("spec"));
        }
        if !text(&spec["serviceName"]).is_empty() {
            named(&mut errors, &spec["serviceName"], "spec.serviceName", machinery::names::dns1123_label);
        }
        errors
    }

    /// Claims become volumes of their pods: mounts may name them. Hostname and subdomain are the controller's.
    fn template(&self, spec: &Value) -> Value {
        let mut template = spec["template"].clone();
        let claims: Vec<Value> = list(&spec["volumeClaimTemplates"])
            .iter()
            .map(|claim| json!({"name": claim["metadata"]["name"], "emptyDir": {}}))
            .collect();
        if let Some(pod) = present(&mut template, "spec") {
            let mut volumes = list(&pod["volumes"]).to_vec();
            volumes.retain(|volume| !claims.iter().any(|claim| claim["name"] == volume["name"]));
            volumes.extend(claims);
            set(pod, "volumes", volumes);
            remove(pod, "hostname");
            remove(pod, "subdomain");
        }
        template
    }

    const TOLERATES_OLD_TEMPLATE: bool = true;

    /// Upstream's paths of claims lack the `spec`, and have it with a capital letter in an update.
    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let spec = &new["spec"];
        for claim in At::new(&spec["volumeClaimTemplates"], "spec.volumeClaimTemplates").items() {
            let wanted = claim.at("spec");
            let shown = if old.is_some() { claim.at("Spec") } else { claim };
            claim_spec::warn(&mut warnings, &shown.with(wanted.value()));
        }
        if spec["revisionHistoryLimit"].as_i64().is_some_and(|limit| limit < 0) {
            let why = "a negative value retains all historical revisions; a value >= 0 is recommended";
            warnings.push(format!("spec.revisionHistoryLimit: {why}"));
        }
        warnings
    }

    fn validate_spec_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fixed = |spec: &Value| {
            let mut spec = spec.clone();
            CHANGEABLE.iter().for_each(|field| remove(&mut spec, field));
            for claim in list_mut(&mut spec, "volumeClaimTemplates") {
                remove(claim, "status");
            }
            spec
        };
        if fixed(new) == fixed(old) {
            return Vec::new();
        }
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                   'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                   'minReadySeconds' are forbidden";
        vec![FieldError::forbidden("spec", why)]
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        machinery::names::dns1123_label(name)
    }
}

fn validate_strategy(errors: &mut Vec<FieldError>, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    match text(&strategy["type"]) {
        "RollingUpdate" => {
            not_negative(errors, &rolling["partition"], "spec.updateStrategy.rollingUpdate.partition");
        }
        "OnDelete" if is_set(strategy, "rollingUpdate") => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid("spec.updateStrategy.rollingUpdate", rolling, why));
        }
        "OnDelete" => {}
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid("spec.updateStrategy", strategy, why));
        }
    }
}
