//! A cluster role with an aggregation rule has the rules of all cluster roles that its selectors match.
//!
//! Defined by "Aggregated ClusterRoles" in the Kubernetes documentation.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{Cache, CustomIndex, Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use machinery::labels::Selector;
use serde_json::Value;

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "clusterrole-aggregation-controller",
    reconciles: resources::CLUSTER_ROLES,
    owns: &[],
    watches: &[Trigger { resource: resources::CLUSTER_ROLES, keys: aggregators }],
    reads: &[],
    workers_max: 2,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Finds the roles that aggregate.
const AGGREGATING: CustomIndex = CustomIndex { name: "aggregationRule", values: aggregates };

fn aggregates(role: &Object) -> Vec<String> {
    let selects = !selectors(&role.to_value()).is_empty();
    selects.then(String::new).into_iter().collect()
}

fn selectors(role: &Value) -> Vec<Selector> {
    let rows = role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
    rows.filter_map(|row| Selector::from_label_selector(row).ok()).collect()
}

/// The roles that take up this one's rules.
fn aggregators(informers: &Informers, role: &Object) -> Vec<Key> {
    let all = informers.all(resources::CLUSTER_ROLES).by_index(&AGGREGATING, "");
    let takes = |other: &Object| {
        selectors(&other.to_value()).iter().any(|selector| selector.matches_pairs(&role.index().labels))
    };
    all.into_iter().filter(takes).map(|other| other.key().clone()).collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let roles = ctx.cache(resources::CLUSTER_ROLES);
    let Some(object) = roles.get(key) else { return Ok(Next::OnChange) };
    let mut role = object.to_value();
    let selectors = selectors(&role);
    if selectors.is_empty() {
        return Ok(Next::OnChange);
    }
    let parts: Vec<Vec<Object>> = selectors.iter().map(|selector| matching(&roles, selector)).collect();
    let rules = plan(key, &parts);
    let present = role["rules"].as_array().map_or(&[][..], Vec::as_slice);
    if present == rules {
        return Ok(Next::OnChange);
    }
    role["rules"] = rules.into();
    ctx.client.update(resources::CLUSTER_ROLES, key, Bytes::from(role.to_string())).await?;
    Ok(Next::OnChange)
}

fn matching(roles: &Cache, selector: &Selector) -> Vec<Object> {
    let candidates = match selector.exact() {
        Some((label, value)) => roles.with_label(label, value),
        None => roles.all(),
    };
    candidates.into_iter().filter(|role| selector.matches_pairs(&role.index().labels)).collect()
}

/// The rules of all but the role itself, each once, by selector and name.
fn plan(key: &Key, parts: &[Vec<Object>]) -> Vec<Value> {
    let mut rules: Vec<Value> = vec![];
    for part in parts {
        let mut others: Vec<&Object> = part.iter().filter(|other| other.key() != key).collect();
        others.sort_by(|a, b| a.key().cmp(b.key()));
        for other in others {
            for rule in other.to_value()["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::json;

    use super::*;
    use crate::fixtures::settings;

    fn role(name: &str, label: &str, rules: &Value) -> Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "labels": {"to": label}}, "rules": rules})
    }

    #[tokio::test(start_paused = true)]
    async fn rules_follow_the_roles_that_are_selected() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let mut view = role("view", "edit", &json!([]));
        view["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]});
        let mut edit = role("edit", "none", &Value::Null);
        edit["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "edit"}}]});
        let rules = |api: &control::harness::Api, name: &str| {
            api.get(resources::CLUSTER_ROLES, "", name).expect("the role")["rules"].clone()
        };
        let steps = [
            // What is aggregated is aggregated again.
            Step::Do(&|api| assert_eq!(rules(api, "edit"), json!([rule("get"), rule("list")]))),
            Step::Do(&|api| api.delete(resources::CLUSTER_ROLES, "", "b")),
            Step::Do(&|api| assert_eq!(rules(api, "edit"), json!([rule("get")]))),
            // A label that goes takes the rules along.
            Step::Do(&|api| drop(api.put(role("a", "nobody", &json!([rule("get")]))))),
            Step::Do(&|api| drop(api.put(role("c", "view", &json!([rule("watch"), rule("watch")]))))),
        ];
        let objects = [
            view,
            edit,
            role("a", "view", &json!([rule("get")])),
            role("b", "view", &json!([rule("get"), rule("list")])),
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert_eq!(rules(&end, "view"), json!([rule("watch")]));
        assert_eq!(rules(&end, "edit"), json!([rule("watch")]));
    }
}
