//! Which writes a policy or a binding is for: `matchConstraints` and `matchResources`; and the write as expressions see it.

use api::{Resource, Scope};
use machinery::Selector;
use serde_json::{Map, Value, json};

use crate::admission::{Attempt, Operation};
use crate::registry::tree::{list, text};

/// What policies are never asked about: policies themselves, so that a wrong one can be removed, and questions of access.
const EXEMPT: [(&str, &str); 9] = [
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// Whether policies are never asked about a resource.
pub(in crate::admission) fn is_exempt(resource: &Resource) -> bool {
    EXEMPT.iter().any(|(group, plural)| *resource.group == **group && *resource.plural == **plural)
}

/// What a policy or binding is for.
#[derive(Debug)]
pub(in crate::admission) struct Matches {
    /// `None` where it does not say: then everything.
    rules: Option<Vec<Rule>>,
    excluded: Vec<Rule>,
    namespaces: Selector,
    objects: Selector,
    /// Whether rules are only for the versions that they name.
    exact: bool,
}

#[derive(Debug)]
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    operations: Vec<String>,
    names: Vec<String>,
    scope: String,
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(|item| text(item).to_owned()).collect()
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            operations: texts(&rule["operations"]),
            names: texts(&rule["resourceNames"]),
            scope: text(&rule["scope"]).to_owned(),
        }
    }

    fn covers(&self, attempt: &Attempt<'_>, exact: bool) -> bool {
        let resource = attempt.resource;
        let says = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
        let scope = match &*self.scope {
            "Cluster" => resource.scope == Scope::Cluster,
            "Namespaced" => resource.scope != Scope::Cluster,
            _ => true,
        };
        says(&self.groups, &resource.group)
            && (!exact || says(&self.versions, &resource.version))
            && says(&self.operations, operation(attempt.operation))
            && (self.names.is_empty() || self.names.iter().any(|name| **name == *attempt.key.name))
            && self.resources.iter().any(|pattern| covers_resource(pattern, &resource.plural, attempt.subresource))
            && scope
    }
}

fn covers_resource(pattern: &str, plural: &str, subresource: &str) -> bool {
    let (resource, below) = pattern.split_once('/').unwrap_or((pattern, ""));
    (resource == "*" || resource == plural) && (below == "*" || below == subresource)
}

fn operation(of: Operation) -> &'static str {
    match of {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl Matches {
    pub(in crate::admission) fn of(given: &Value) -> Self {
        let rules = |field: &str| list(&given[field]).iter().map(Rule::of).collect::<Vec<_>>();
        let selector = |field: &str| match &given[field] {
            Value::Null => Selector::everything(),
            // What cannot be read is for nothing; it was refused when it was written.
            selector => Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing()),
        };
        Self {
            rules: given.get("resourceRules").filter(|rules| !list(rules).is_empty()).map(|_| rules("resourceRules")),
            excluded: rules("excludeResourceRules"),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            exact: given["matchPolicy"] == "Exact",
        }
    }

    /// Whether a write is one of those.
    pub(in crate::admission) fn covers(
        &self,
        attempt: &Attempt<'_>,
        object: &Value,
        namespace: Option<&Value>,
    ) -> bool {
        let by_rules = match &self.rules {
            None => true,
            Some(rules) => rules.iter().any(|rule| rule.covers(attempt, self.exact)),
        };
        by_rules
            && !self.excluded.iter().any(|rule| rule.covers(attempt, self.exact))
            && self.in_namespace(attempt, object, namespace)
            && self.selects(attempt, object)
    }

    fn in_namespace(&self, attempt: &Attempt<'_>, object: &Value, namespace: Option<&Value>) -> bool {
        if self.namespaces.is_everything() {
            return true;
        }
        let is_namespace = attempt.resource.group.is_empty() && attempt.resource.plural == "namespaces";
        match namespace {
            Some(namespace) => has_labels(&self.namespaces, namespace),
            None if is_namespace => {
                let own = if object.is_object() { Some(object) } else { attempt.old };
                own.is_some_and(|own| has_labels(&self.namespaces, own))
            }
            // What stands in no namespace is for every one.
            None => true,
        }
    }

    fn selects(&self, attempt: &Attempt<'_>, object: &Value) -> bool {
        if self.objects.is_everything() {
            return true;
        }
        let mut either = [Some(object).filter(|object| object.is_object()), attempt.old].into_iter().flatten();
        either.any(|object| has_labels(&self.objects, object))
    }
}

fn has_labels(selector: &Selector, object: &Value) -> bool {
    selector.matches(|key| object["metadata"]["labels"][key].as_str())
}

/// The write as `request`: the fields of an `AdmissionRequest`, without those that are empty.
pub(in crate::admission) fn request(attempt: &Attempt<'_>) -> Value {
    let resource = attempt.resource;
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let plural = json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let user = attempt.context.user;
    let mut info = Map::new();
    info.insert("username".to_owned(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".to_owned(), user.uid.as_str().into());
    }
    info.insert("groups".to_owned(), user.groups.clone().into());
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    let mut request = Map::new();
    request.insert("kind".to_owned(), kind.clone());
    request.insert("resource".to_owned(), plural.clone());
    request.insert("requestKind".to_owned(), kind);
    request.insert("requestResource".to_owned(), plural);
    let texts = [
        ("subResource", attempt.subresource),
        ("requestSubResource", attempt.subresource),
        ("name", &*attempt.key.name),
        ("namespace", &*attempt.key.namespace),
    ];
    for (field, value) in texts.into_iter().filter(|(_, value)| !value.is_empty()) {
        request.insert(field.to_owned(), value.into());
    }
    request.insert("operation".to_owned(), operation(attempt.operation).into());
    request.insert("userInfo".to_owned(), info.into());
    request.insert("dryRun".to_owned(), attempt.context.dry_run.into());
    request.into()
}
