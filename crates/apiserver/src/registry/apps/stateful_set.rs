//! Stateful sets: of their spec only replicas, template and a few policies may change.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{validate_selector, validate_template};
use crate::invalid::FieldError;
use crate::registry::tree::{child, list_mut, not_negative, one_of, present, remove, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::STATEFUL_SETS, strategy: |_| Arc::new(StatefulSetStrategy) };

const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

struct StatefulSetStrategy;

impl Strategy for StatefulSetStrategy {
    fn default(&self, set_object: &mut Value) {
        let Some(spec) = child(set_object, "spec") else { return };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = child(spec, "updateStrategy") {
            set_default(strategy, "type", "RollingUpdate");
            if text(&strategy["type"]) == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
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
            if let Some(spec) = present(claim, "spec") {
                set_default(spec, "volumeMode", "Filesystem");
            }
            if let Some(status) = child(claim, "status") {
                set_default(status, "phase", "Pending");
            }
        }
        pod_spec::default_template(spec);
    }

    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        set(object, "status", json!({"replicas": 0, "availableReplicas": 0}));
    }

    fn validate(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let spec = &object["spec"];
        let mut errors = Vec::new();
        one_of(&mut errors, &spec["podManagementPolicy"], "spec.podManagementPolicy", &["OrderedReady", "Parallel"]);
        one_of(
            &mut errors,
            &spec["updateStrategy"]["type"],
            "spec.updateStrategy.type",
            &["RollingUpdate", "OnDelete"],
        );
        not_negative(&mut errors, &spec["replicas"], "spec.replicas");
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        validate_selector(&mut errors, spec);
        // Claims become volumes of their pods: mounts may name them.
        let mut template = spec.clone();
        let claims: Vec<Value> = super::super::tree::list(&spec["volumeClaimTemplates"])
            .iter()
            .map(|claim| json!({"name": claim["metadata"]["name"], "emptyDir": {}}))
            .collect();
        if let Some(pod) = present(&mut template, "template").and_then(|template| present(template, "spec")) {
            let mut volumes = super::super::tree::list(&pod["volumes"]).to_vec();
            volumes.retain(|volume| !claims.iter().any(|claim| claim["name"] == volume["name"]));
            volumes.extend(claims);
            set(pod, "volumes", volumes);
        }
        errors.extend(validate_template(&template));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let fixed = |object: &Value| {
            let mut spec = object["spec"].clone();
            CHANGEABLE.iter().for_each(|field| remove(&mut spec, field));
            for claim in list_mut(&mut spec, "volumeClaimTemplates") {
                remove(claim, "status");
            }
            spec
        };
        let mut errors = self.validate(context, new);
        if fixed(new) != fixed(old) {
            let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                       'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                       'minReadySeconds' are forbidden";
            errors.push(FieldError::forbidden("spec", why));
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}
