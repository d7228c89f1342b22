//! Strategies of the `rbac.authorization.k8s.io` group. That nobody gives rights that they lack is checked by admission.

use std::sync::Arc;

use api::{Resource, resources};
use serde_json::Value;

use super::tree::{child, is_set, list, list_mut, set_default, text};
use super::{Context, Descriptor, Strategy};
use crate::invalid::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles.
pub const ROLE: Descriptor = role(resources::ROLES);
/// Cluster roles.
pub const CLUSTER_ROLE: Descriptor =
    Descriptor { resource: resources::CLUSTER_ROLES, strategy: |_| Arc::new(RoleStrategy { cluster: true }) };
/// Role bindings.
pub const ROLE_BINDING: Descriptor =
    Descriptor { resource: resources::ROLE_BINDINGS, strategy: |_| Arc::new(BindingStrategy { cluster: false }) };
/// Cluster role bindings.
pub const CLUSTER_ROLE_BINDING: Descriptor = Descriptor {
    resource: resources::CLUSTER_ROLE_BINDINGS,
    strategy: |_| Arc::new(BindingStrategy { cluster: true }),
};

const fn role(resource: &'static Resource) -> Descriptor {
    Descriptor { resource, strategy: |_| Arc::new(RoleStrategy { cluster: false }) }
}

struct RoleStrategy {
    cluster: bool,
}

impl Strategy for RoleStrategy {
    fn name_errors(&self, name: &str) -> Vec<String> {
        machinery::names::path_segment(name)
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, role: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (at, rule) in list(&role["rules"]).iter().enumerate() {
            let at = |field: &str| format!("rules[{at}].{field}");
            let has = |field: &str| !list(&rule[field]).is_empty();
            if !has("verbs") {
                errors.push(FieldError::required(at("verbs"), "verbs must contain at least one value"));
            }
            if has("nonResourceURLs") {
                if !self.cluster {
                    let why = "namespaced rules cannot apply to non-resource URLs";
                    errors.push(FieldError::invalid(at("nonResourceURLs"), &rule["nonResourceURLs"], why));
                }
                if has("apiGroups") || has("resources") || has("resourceNames") {
                    let why = "rules cannot apply to both regular resources and non-resource URLs";
                    errors.push(FieldError::invalid(at("nonResourceURLs"), &rule["nonResourceURLs"], why));
                }
                continue;
            }
            if !has("apiGroups") {
                let why = "resource rules must supply at least one api group";
                errors.push(FieldError::required(at("apiGroups"), why));
            }
            if !has("resources") {
                let why = "resource rules must supply at least one resource";
                errors.push(FieldError::required(at("resources"), why));
            }
        }
        errors
    }
}

struct BindingStrategy {
    cluster: bool,
}

impl Strategy for BindingStrategy {
    fn default(&self, binding: &mut Value) {
        if let Some(role) = child(binding, "roleRef") {
            set_default(role, "apiGroup", GROUP);
        }
        for subject in list_mut(binding, "subjects") {
            if matches!(text(&subject["kind"]), "User" | "Group") {
                set_default(subject, "apiGroup", GROUP);
            }
        }
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        machinery::names::path_segment(name)
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, binding: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let role = &binding["roleRef"];
        if text(&role["apiGroup"]) != GROUP {
            errors.push(FieldError::not_supported("roleRef.apiGroup", &role["apiGroup"], &[GROUP]));
        }
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        if !kinds.contains(&text(&role["kind"])) {
            errors.push(FieldError::not_supported("roleRef.kind", &role["kind"], kinds));
        }
        if text(&role["name"]).is_empty() {
            errors.push(FieldError::required("roleRef.name", ""));
        }
        for (at, subject) in list(&binding["subjects"]).iter().enumerate() {
            let at = |field: &str| format!("subjects[{at}].{field}");
            if text(&subject["name"]).is_empty() {
                errors.push(FieldError::required(at("name"), ""));
            }
            let kinds = ["ServiceAccount", "User", "Group"];
            if !kinds.contains(&text(&subject["kind"])) {
                errors.push(FieldError::not_supported(at("kind"), &subject["kind"], &kinds));
            }
            let account = text(&subject["kind"]) == "ServiceAccount";
            if account && self.cluster && !is_set(subject, "namespace") {
                errors.push(FieldError::required(at("namespace"), ""));
            }
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        if new["roleRef"] != old["roleRef"] {
            errors.push(FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
        }
        errors
    }
}
