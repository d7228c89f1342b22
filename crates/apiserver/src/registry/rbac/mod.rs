//! Strategies of the `rbac.authorization.k8s.io` group. That nobody gives rights that they lack is checked by admission.

use std::sync::Arc;

use api::{Resource, resources};
use serde_json::{Value, json};

use super::at::{At, Errors};
use super::tree::{child, list_mut, set_default, text};
use super::{Context, Descriptor, Strategy, check};
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
        let root = At::new(role, "");
        root.at("rules").items().for_each(|rule| validate_rule(&mut errors, &rule, self.cluster));
        let aggregation = root.at("aggregationRule");
        let selectors = aggregation.at("clusterRoleSelectors");
        if self.cluster && aggregation.is_set() && selectors.count() == 0 {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(selectors.required(why));
        }
        selectors.items().for_each(|selector| check::label_selector(&mut errors, &selector));
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

fn validate_rule(errors: &mut Errors, rule: &At<'_>, cluster: bool) {
    let has = |field: &str| rule.at(field).count() > 0;
    let urls = rule.at("nonResourceURLs");
    if !has("verbs") {
        errors.push(rule.at("verbs").required("verbs must contain at least one value"));
    }
    if urls.count() > 0 {
        if !cluster {
            errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
        }
        if has("apiGroups") || has("resources") || has("resourceNames") {
            errors.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
        }
        return;
    }
    if !has("apiGroups") {
        errors.push(rule.at("apiGroups").required("resource rules must supply at least one api group"));
    }
    if !has("resources") {
        errors.push(rule.at("resources").required("resource rules must supply at least one resource"));
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
        let root = At::new(binding, "");
        let role = root.at("roleRef");
        check::one_of(&mut errors, &role.text_at("apiGroup"), &[GROUP]);
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        check::one_of(&mut errors, &role.text_at("kind"), kinds);
        check::required_text(&mut errors, &role.at("name"), machinery::names::path_segment);
        root.at("subjects").items().for_each(|subject| validate_subject(&mut errors, &subject, self.cluster));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let part = |binding: &Value, field: &str| text(&binding["roleRef"][field]).to_owned();
        if ["apiGroup", "kind", "name"].iter().any(|field| part(new, field) != part(old, field)) {
            let shown =
                json!({"APIGroup": part(new, "apiGroup"), "Kind": part(new, "kind"), "Name": part(new, "name")});
            errors.push(At::new(new, "").at("roleRef").invalid_as(shown, "cannot change roleRef"));
        }
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

fn validate_subject(errors: &mut Errors, at: &At<'_>, cluster: bool) {
    let (name, group) = (at.at("name"), at.text_at("apiGroup"));
    check::required(errors, &name);
    match at.at("kind").text() {
        "ServiceAccount" => {
            check::optional_text(errors, &name, machinery::names::dns1123_subdomain);
            check::one_of(errors, &group, &[""]);
            if cluster {
                check::required(errors, &at.at("namespace"));
            }
        }
        "User" | "Group" => check::one_of(errors, &group, &[GROUP]),
        _ => errors.push(at.at("kind").not_supported(&["ServiceAccount", "User", "Group"])),
    }
}
