//! Nobody gives rights that they do not hold: to write a role one needs its rules or the verb `escalate` on it, to bind one
//! needs the role's rules or the verb `bind` on it. Upstream does this in the storage of these resources.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Descriptor, Operation, Plugin, forbidden, is_main};
use crate::Access;
use crate::authorization::rbac::Rule;
use crate::authorization::{Attributes, Decision};
use crate::registry::tree::text;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "RBACEscalation", plugin: |parts| Arc::new(RbacEscalation { access: parts.access.clone() }) };

const GROUP: &str = "rbac.authorization.k8s.io";

struct RbacEscalation {
    access: Arc<Access>,
}

impl Plugin for RbacEscalation {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(std::future::ready(self.check(attempt, object)))
    }
}

impl RbacEscalation {
    fn check(&self, attempt: &Attempt<'_>, object: &Value) -> Result<(), ApiError> {
        if attempt.resource.group != GROUP || !matches!(attempt.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if is_main(attempt, resources::ROLES) || is_main(attempt, resources::CLUSTER_ROLES) {
            self.check_role(attempt, object)
        } else {
            self.check_binding(attempt, object)
        }
    }

    fn check_role(&self, attempt: &Attempt<'_>, role: &Value) -> Result<(), ApiError> {
        let same = |old: &Value| old["rules"] == role["rules"] && old["aggregationRule"] == role["aggregationRule"];
        if attempt.old.is_some_and(same) || self.may(attempt, "escalate", &attempt.resource.plural, &attempt.key.name) {
            return Ok(());
        }
        // Nobody knows what an aggregated role will hold: it takes every right to write one.
        let mut wanted = rules(role);
        if role.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
            let all = |field: &str| vec![field.to_owned()];
            wanted.push(Rule { verbs: all("*"), api_groups: all("*"), resources: all("*"), ..Rule::default() });
        }
        self.check_held(attempt, &wanted)
    }

    fn check_binding(&self, attempt: &Attempt<'_>, binding: &Value) -> Result<(), ApiError> {
        if attempt.old.is_some_and(|old| old["subjects"] == binding["subjects"] && old["roleRef"] == binding["roleRef"])
        {
            return Ok(());
        }
        let (kind, name) = (text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
        let (plural, namespace) =
            if kind == "ClusterRole" { ("clusterroles", "") } else { ("roles", &*attempt.key.namespace) };
        if self.may(attempt, "bind", plural, name) {
            return Ok(());
        }
        let rules = self.access.authorization.rbac.role(namespace, name);
        let rules = rules.ok_or_else(|| ApiError::not_found(GROUP, plural, name))?;
        self.check_held(attempt, &rules)
    }

    fn may(&self, attempt: &Attempt<'_>, verb: &str, plural: &str, name: &str) -> bool {
        let asked = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: plural.to_owned(),
            namespace: attempt.key.namespace.to_string(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        matches!(self.access.authorization.decide(attempt.context.user, &asked), Decision::Allow { .. })
    }

    fn check_held(&self, attempt: &Attempt<'_>, wanted: &[Rule]) -> Result<(), ApiError> {
        let user = attempt.context.user;
        let missing = self.access.authorization.rbac.missing(user, &attempt.key.namespace, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = missing.iter().map(shown).collect();
        let why = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            user.groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join(" "),
            missing.join("\n")
        );
        Err(forbidden(attempt, &why))
    }
}

fn rules(role: &Value) -> Vec<Rule> {
    // A rule that cannot be read is refused by the schema's check; here it is one that asks for everything.
    let all = || vec!["*".to_owned()];
    let everything = Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
    let rules = role["rules"].as_array().into_iter().flatten();
    rules.map(|rule| serde_json::from_value(rule.clone()).unwrap_or_else(|_| everything.clone())).collect()
}

fn shown(rule: &Rule) -> String {
    let quoted = |list: &[String]| list.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ");
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Resources", &rule.resources),
        ("Verbs", &rule.verbs),
    ];
    let fields = fields.iter().filter(|(_, list)| !list.is_empty());
    let fields: Vec<String> = fields.map(|(name, list)| format!("{name}:[{}]", quoted(list))).collect();
    format!("{{{}}}", fields.join(", "))
}
