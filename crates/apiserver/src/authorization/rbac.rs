//! Role-based access control over an index that the watch caches keep: roles by name, bindings by subject.
//!
//! A request costs the bindings of its user and groups, never a walk over all. The index changes in the same step as the
//! caches, so a read that waited for its revision sees the roles of that revision. Rules are evaluated as the Kubernetes
//! documentation's "Using RBAC Authorization" says; there are only permissions, so the order of roles does not matter.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use api::{ApiError, Object, resources};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Attributes;
use crate::authentication::UserInfo;
use crate::watch_cache::{Caches, Observer};

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs; `*` is all.
    #[serde(deserialize_with = "null_is_empty")]
    pub verbs: Vec<String>,
    /// API groups; the core group is empty, `*` is all.
    #[serde(deserialize_with = "null_is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(deserialize_with = "null_is_empty")]
    pub resources: Vec<String>,
    /// Names of objects; none is all.
    #[serde(deserialize_with = "null_is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resource's; a last `*` is any end.
    #[serde(rename = "nonResourceURLs", deserialize_with = "null_is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == "*" || item == value)
}

impl Rule {
    /// Whether the rule permits the request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource() {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, &attributes.path));
        }
        has(&self.api_groups, &attributes.group)
            && self.covers_resource(&attributes.resource, &attributes.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&attributes.name))
    }

    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|pattern| {
            if pattern == "*" {
                return true;
            }
            match pattern.split_once('/') {
                None => subresource.is_empty() && pattern == resource,
                // `*/scale` is that subresource of everything; `pods/*` is no pattern.
                Some(("*", of_all)) => !subresource.is_empty() && of_all == subresource,
                Some((of, sub)) => of == resource && sub == subresource,
            }
        })
    }

    /// The rule in the smallest pieces, each with one verb, group, resource and name, or one verb and path.
    fn pieces(&self) -> Vec<Rule> {
        let one = |value: &String| vec![value.clone()];
        let mut pieces = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                pieces.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let piece =
                        Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                    if self.resource_names.is_empty() {
                        pieces.push(piece);
                    } else {
                        let named = |name| Rule { resource_names: one(name), ..piece.clone() };
                        pieces.extend(self.resource_names.iter().map(named));
                    }
                }
            }
        }
        pieces
    }

    /// Whether this rule permits everything that one piece of another permits.
    fn covers(&self, piece: &Rule) -> bool {
        let first = |list: &[String]| list.first().cloned().unwrap_or_default();
        if !has(&self.verbs, &first(&piece.verbs)) {
            return false;
        }
        if let Some(url) = piece.non_resource_urls.first() {
            return self.non_resource_urls.iter().any(|own| own == url || path_matches(own, url));
        }
        let wanted = first(&piece.resources);
        let (resource, subresource) = wanted.split_once('/').unwrap_or((&wanted, ""));
        has(&self.api_groups, &first(&piece.api_groups))
            && (self.resources.contains(&wanted) || self.covers_resource(resource, subresource))
            && (self.resource_names.is_empty()
                || (!piece.resource_names.is_empty() && self.resource_names.contains(&first(&piece.resource_names))))
    }

    /// The rule as `SelfSubjectRulesReview` shows it.
    fn to_json(&self) -> (bool, Value) {
        if self.non_resource_urls.is_empty() {
            let mut rule = json!({"verbs": self.verbs, "apiGroups": self.api_groups, "resources": self.resources});
            if !self.resource_names.is_empty() {
                rule["resourceNames"] = self.resource_names.clone().into();
            }
            (true, rule)
        } else {
            (false, json!({"verbs": self.verbs, "nonResourceURLs": self.non_resource_urls}))
        }
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// Who a binding is for, as a user's name or group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// A binding without its subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Binding {
    /// Empty: in all namespaces and for cluster scope.
    namespace: String,
    name: String,
    role_kind: String,
    role: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawRole {
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawBinding {
    subjects: Option<Vec<RawSubject>>,
    role_ref: RawRoleRef,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawSubject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Default)]
struct Index {
    /// By (namespace, name); cluster roles have no namespace.
    roles: HashMap<(String, String), Arc<[Rule]>>,
    bindings: HashMap<Subject, Vec<Binding>>,
}

/// Decides by roles and bindings.
#[derive(Debug, Default)]
pub struct Rbac {
    index: Arc<RwLock<Index>>,
}

const POISON: &str = "nothing panics while it holds the roles";

/// Why a request is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit(pub String);

impl Rbac {
    /// Loads roles and bindings, and follows them.
    pub async fn start(caches: &Arc<Caches>) -> Result<Self, ApiError> {
        let rbac = Self::default();
        for resource in [resources::CLUSTER_ROLES, resources::ROLES] {
            caches.of(resource).await?.observe(Arc::new(FollowRoles(rbac.index.clone())));
        }
        for resource in [resources::CLUSTER_ROLE_BINDINGS, resources::ROLE_BINDINGS] {
            caches.of(resource).await?.observe(Arc::new(FollowBindings(rbac.index.clone())));
        }
        Ok(rbac)
    }

    /// Whether a rule of the user's permits the request, and which binding brought it.
    pub fn permits(&self, user: &UserInfo, attributes: &Attributes) -> Option<Permit> {
        let index = self.index.read().expect(POISON);
        index.of(user, &attributes.namespace).find_map(|(binding, subject, rules)| {
            rules.iter().any(|rule| rule.allows(attributes)).then(|| {
                let kind = if binding.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
                let place = if binding.namespace.is_empty() { "" } else { "/" };
                let (what, name) = match subject {
                    Subject::User(name) => ("User", name),
                    Subject::Group(name) => ("Group", name),
                };
                Permit(format!(
                    "RBAC: allowed by {kind} \"{}{place}{}\" of {} \"{}\" to {what} \"{name}\"",
                    binding.name, binding.namespace, binding.role_kind, binding.role
                ))
            })
        })
    }

    /// All rules of a user in a namespace: for resources, and for other paths.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>) {
        let index = self.index.read().expect(POISON);
        let rules = index.of(user, namespace).flat_map(|(_, _, rules)| rules.iter().map(Rule::to_json));
        let (resource, other): (Vec<_>, Vec<_>) = rules.partition(|(resource, _)| *resource);
        let strip = |rules: Vec<(bool, Value)>| rules.into_iter().map(|(_, rule)| rule).collect();
        (strip(resource), strip(other))
    }

    /// Those pieces of `wanted` that the user does not hold in the namespace (empty: in all).
    pub fn missing(&self, user: &UserInfo, namespace: &str, wanted: &[Rule]) -> Vec<Rule> {
        let index = self.index.read().expect(POISON);
        let own: Vec<&Rule> = index.of(user, namespace).flat_map(|(_, _, rules)| rules.iter()).collect();
        let pieces = wanted.iter().flat_map(Rule::pieces);
        pieces.filter(|piece| !own.iter().any(|rule| rule.covers(piece))).collect()
    }

    /// The rules of a role; `None` when it does not exist. Cluster roles have no namespace.
    pub fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        let index = self.index.read().expect(POISON);
        index.roles.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

impl Index {
    /// The bindings that count for a user in a namespace, with what they name.
    fn of<'a>(
        &'a self,
        user: &UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Binding, &'a Subject, &'a Arc<[Rule]>)> {
        let subjects: Vec<Subject> = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(Subject::Group))
            .collect();
        subjects.into_iter().filter_map(|subject| self.bindings.get_key_value(&subject)).flat_map(
            move |(subject, bindings)| {
                let here = move |binding: &&Binding| binding.namespace.is_empty() || binding.namespace == namespace;
                bindings.iter().filter(here).filter_map(move |binding| {
                    let of_role = if binding.role_kind == "ClusterRole" { "" } else { &binding.namespace };
                    let rules = self.roles.get(&(of_role.to_owned(), binding.role.clone()))?;
                    Some((binding, subject, rules))
                })
            },
        )
    }

    fn set_binding(&mut self, object: &Object, present: bool) {
        let namespace = object.key().namespace.to_string();
        let raw: RawBinding = match serde_json::from_slice(object.json()) {
            Ok(raw) => raw,
            Err(error) => return skip(object, &error),
        };
        let name = object.key().name.to_string();
        for subject in raw.subjects.unwrap_or_default() {
            let subject = match &*subject.kind {
                "User" => Subject::User(subject.name),
                "Group" => Subject::Group(subject.name),
                // A role binding's own namespace is the default where upstream's clients leave it out.
                "ServiceAccount" => {
                    let of = if subject.namespace.is_empty() { &namespace } else { &subject.namespace };
                    Subject::User(format!("system:serviceaccount:{of}:{}", subject.name))
                }
                _ => continue,
            };
            let bindings = self.bindings.entry(subject.clone()).or_default();
            bindings.retain(|binding| binding.namespace != namespace || binding.name != name);
            if present {
                bindings.push(Binding {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    role_kind: raw.role_ref.kind.clone(),
                    role: raw.role_ref.name.clone(),
                });
            }
            if bindings.is_empty() {
                self.bindings.remove(&subject);
            }
        }
    }
}

fn skip(object: &Object, error: &serde_json::Error) {
    tracing::error!(key = %object.key(), %error, "skipping a role or binding that cannot be read");
}

struct FollowRoles(Arc<RwLock<Index>>);

impl Observer for FollowRoles {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(object) = new.or(old) else { return };
        let key = (object.key().namespace.to_string(), object.key().name.to_string());
        let rules = new.map(|new| serde_json::from_slice::<RawRole>(new.json()));
        let mut index = self.0.write().expect(POISON);
        match rules {
            Some(Ok(role)) => drop(index.roles.insert(key, role.rules.unwrap_or_default().into())),
            Some(Err(error)) => {
                // Rights that cannot be read are none.
                index.roles.remove(&key);
                skip(object, &error);
            }
            None => drop(index.roles.remove(&key)),
        }
    }
}

struct FollowBindings(Arc<RwLock<Index>>);

impl Observer for FollowBindings {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let mut index = self.0.write().expect(POISON);
        if let Some(old) = old {
            index.set_binding(old, false);
        }
        if let Some(new) = new {
            index.set_binding(new, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(rule: Value) -> Rule {
        serde_json::from_value(rule).unwrap()
    }

    fn resource(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            namespace: "a".into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_match_as_documented() {
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        let named = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]});
        let log = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods/log"]});
        let scale = json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["*/scale"]});
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        let table = [
            (&pods, resource("get", "", "pods", "x"), true),
            (&pods, resource("list", "", "pods", ""), false),
            (&pods, resource("get", "", "pods/log", "x"), false),
            (&pods, resource("get", "apps", "pods", "x"), false),
            (&named, resource("get", "", "pods", "x"), true),
            (&named, resource("get", "", "pods", "y"), false),
            (&named, resource("get", "", "pods", ""), false),
            (&log, resource("watch", "", "pods/log", ""), true),
            (&log, resource("get", "", "pods", ""), false),
            (&scale, resource("get", "apps", "deployments/scale", "x"), true),
            (&scale, resource("get", "apps", "deployments", "x"), false),
            (&all, resource("delete", "batch", "jobs/status", "x"), true),
        ];
        for (given, attributes, allowed) in table {
            assert_eq!(rule(given.clone()).allows(&attributes), allowed, "{given} {attributes:?}");
        }
        let urls = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/metrics/*"]}));
        for (path, allowed) in [("/healthz", true), ("/healthz/x", false), ("/metrics/x", true), ("/", false)] {
            let attributes = Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
            assert_eq!(urls.allows(&attributes), allowed, "{path}");
        }
        assert!(!rule(all).allows(&Attributes { verb: "get".into(), path: "/x".into(), ..Attributes::default() }));
    }

    #[test]
    fn rights_come_from_bindings_of_user_group_and_account_and_go_with_them() {
        let rbac = Rbac::default();
        let (roles, bindings) = (FollowRoles(rbac.index.clone()), FollowBindings(rbac.index.clone()));
        let object = |resource, value: Value| Object::parse(resource, value.to_string().into()).unwrap();
        let reader = object(
            resources::CLUSTER_ROLES,
            json!({"metadata": {"name": "reader"},
                "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        let binding = object(
            resources::ROLE_BINDINGS,
            json!({"metadata": {"name": "b", "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
                "subjects": [{"kind": "Group", "name": "devs"}, {"kind": "ServiceAccount", "name": "bot"}]}),
        );
        let (dev, bot) = (UserInfo::new("eve", &["devs"]), UserInfo::service_account("a", "bot"));
        let get = resource("get", "", "pods", "x");
        bindings.changed(None, Some(&binding));
        assert_eq!(rbac.permits(&dev, &get), None, "a binding without its role gives nothing");
        roles.changed(None, Some(&reader));
        let why = r#"RBAC: allowed by RoleBinding "b/a" of ClusterRole "reader" to Group "devs""#;
        assert_eq!(rbac.permits(&dev, &get), Some(Permit(why.to_owned())));
        assert!(rbac.permits(&bot, &get).is_some());
        assert_eq!(rbac.permits(&dev, &Attributes { namespace: "b".into(), ..get.clone() }), None);
        let wanted = rule(json!({"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}));
        let missing = rbac.missing(&dev, "a", &[wanted]);
        assert_eq!(missing, [rule(json!({"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]}))]);
        bindings.changed(Some(&binding), None);
        assert_eq!(rbac.permits(&dev, &get), None);
        assert!(rbac.index.read().unwrap().bindings.is_empty());
    }
}
