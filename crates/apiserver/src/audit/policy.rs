//! Which requests are logged, and how much of them: the first rule that matches decides.
//!
//! What is secret never stands in the log, whatever a policy says: secrets, tokens and the answers that hold them are
//! logged with their metadata only.

use serde::Deserialize;

use super::event::Stage;
use crate::authentication::UserInfo;
use crate::authorization::Attributes;

/// How much of a request is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// Who, what, when.
    Metadata,
    /// And the body that was sent.
    Request,
    /// And the body that was answered.
    RequestResponse,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// An `audit.k8s.io/v1` `Policy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    api_version: String,
    kind: String,
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is not of the form.
    #[error("not an audit policy: {0}")]
    Form(String),
    /// It is of another kind or version.
    #[error("it is {found:?}, not a Policy of audit.k8s.io/v1")]
    Kind {
        /// Its API version and kind.
        found: String,
    },
    /// It would log nothing, silently.
    #[error("it has no rules")]
    Empty,
}

/// What a policy says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    pub(crate) omit_managed_fields: bool,
    omit_stages: Vec<String>,
}

impl Verdict {
    pub(crate) fn logs(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omit_stages.iter().any(|omitted| omitted == stage.name())
    }
}

/// What is logged without a policy file: every write, everything that enters pods, and who reads secrets. Not the heartbeat
/// of the cluster: leases, events, reviews.
const DEFAULT: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  resources:
  - group: ""
    resources: [events]
  - group: events.k8s.io
  - group: coordination.k8s.io
  - group: authentication.k8s.io
  - group: authorization.k8s.io
- level: None
  userGroups: ["system:nodes"]
  resources:
  - group: ""
    resources: [nodes/status, pods/status]
- level: Metadata
  resources:
  - group: ""
    resources: [pods/exec, pods/attach, pods/portforward, pods/proxy, services/proxy, nodes/proxy]
- level: None
  users: ["system:apiserver"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: Metadata
  resources:
  - group: ""
    resources: [secrets]
- level: None
  verbs: [get, list, watch, head, options]
- level: Metadata
"#;

impl Policy {
    /// Reads a policy file.
    pub fn parse(yaml: &str) -> Result<Self, PolicyError> {
        let policy: Self = serde_saphyr::from_str(yaml).map_err(|error| PolicyError::Form(error.to_string()))?;
        if (&*policy.api_version, &*policy.kind) != ("audit.k8s.io/v1", "Policy") {
            return Err(PolicyError::Kind { found: format!("{} {}", policy.api_version, policy.kind) });
        }
        if policy.rules.is_empty() { Err(PolicyError::Empty) } else { Ok(policy) }
    }

    /// What is logged without a policy file.
    pub fn standard() -> Self {
        Self::parse(DEFAULT).expect("the built-in policy is of the form")
    }

    /// How a request is logged. `None` stands for a sender who is not known.
    pub(crate) fn verdict(&self, user: Option<&UserInfo>, asked: &Attributes) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.matches(user, asked));
        let level = rule.map_or(Level::None, |rule| rule.level);
        let level = if is_confidential(asked) { level.min(Level::Metadata) } else { level };
        let omit_stages = rule.map(|rule| &rule.omit_stages).into_iter().flatten().chain(&self.omit_stages);
        let omit_managed_fields = rule.and_then(|rule| rule.omit_managed_fields).unwrap_or(self.omit_managed_fields);
        Verdict { level, omit_managed_fields, omit_stages: omit_stages.cloned().collect() }
    }
}

/// Whether bodies hold what only their owner may know.
fn is_confidential(asked: &Attributes) -> bool {
    matches!(
        (&*asked.group, &*asked.resource, &*asked.subresource),
        ("", "secrets", _) | ("", "serviceaccounts", "token") | ("authentication.k8s.io", "tokenreviews", _)
    )
}

impl Rule {
    fn matches(&self, user: Option<&UserInfo>, asked: &Attributes) -> bool {
        let users = self.users.is_empty() || user.is_some_and(|user| self.users.contains(&user.name));
        let groups = self.user_groups.is_empty()
            || user.is_some_and(|user| user.groups.iter().any(|group| self.user_groups.contains(group)));
        let verbs = self.verbs.is_empty() || self.verbs.contains(&asked.verb);
        users && groups && verbs && self.concerns(asked)
    }

    fn concerns(&self, asked: &Attributes) -> bool {
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.is_resource()
                && (self.namespaces.is_empty() || self.namespaces.contains(&asked.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.have(asked)));
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        let path = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => *pattern == asked.path,
        };
        !asked.is_resource() && self.non_resource_urls.iter().any(path)
    }
}

impl GroupResources {
    fn have(&self, asked: &Attributes) -> bool {
        if self.group != asked.group && self.group != "*" {
            return false;
        }
        let (resource, subresource) = (&*asked.resource, &*asked.subresource);
        let one = |pattern: &String| match pattern.split_once('/') {
            None => pattern == "*" || (pattern == resource && subresource.is_empty()),
            Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
            Some((of, "*")) => of == resource,
            Some((of, sub)) => of == resource && sub == subresource,
        };
        let named = self.resource_names.is_empty() || self.resource_names.contains(&asked.name);
        self.resources.is_empty() || (named && self.resources.iter().any(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: &str, group: &str, resource: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_built_in_policy_logs_what_people_do() {
        let (policy, eve, node) = (Policy::standard(), UserInfo::new("eve", &[]), UserInfo::node("n"));
        for (user, asked, level) in [
            (&eve, asked("create", "apps", "deployments"), Level::Metadata),
            (&eve, asked("get", "apps", "deployments"), Level::None),
            (&eve, asked("get", "", "secrets"), Level::Metadata),
            (&node, asked("get", "", "secrets"), Level::None),
            (&eve, asked("get", "", "pods/exec"), Level::Metadata),
            (&node, asked("patch", "", "pods/status"), Level::None),
            (&node, asked("update", "coordination.k8s.io", "leases"), Level::None),
            (&eve, asked("create", "", "events"), Level::None),
            (&eve, Attributes { verb: "get".into(), path: "/livez".into(), ..Attributes::default() }, Level::None),
        ] {
            assert_eq!(policy.verdict(Some(user), &asked).level, level, "{} {asked:?}", user.name);
        }
    }

    #[test]
    fn the_first_rule_decides_and_secrets_stay_secret() {
        let policy = Policy::parse(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [ResponseStarted]\nomitManagedFields: true\nrules:\n\
             - level: Request\n  users: [eve]\n  namespaces: [a]\n  resources: [{group: '', resources: ['*/status', configmaps]}]\n\
             - level: RequestResponse\n  omitManagedFields: false\n",
        )
        .unwrap();
        let eve = UserInfo::new("eve", &[]);
        let within = |attributes: Attributes| Attributes { namespace: "a".into(), ..attributes };
        let level = |asked: &Attributes| policy.verdict(Some(&eve), asked).level;
        assert_eq!(level(&within(asked("get", "", "configmaps"))), Level::Request);
        assert_eq!(level(&within(asked("get", "", "pods/status"))), Level::Request);
        assert_eq!(level(&asked("get", "", "configmaps")), Level::RequestResponse);
        assert_eq!(level(&asked("get", "", "secrets")), Level::Metadata);
        let verdict = policy.verdict(None, &asked("get", "", "pods"));
        assert!(!verdict.omit_managed_fields && verdict.logs(Stage::ResponseComplete));
        assert!(!verdict.logs(Stage::ResponseStarted));
        for (text, why) in [
            ("kind: Policy\nrules: []", "it is \" Policy\", not a Policy of audit.k8s.io/v1"),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy", "it has no rules"),
        ] {
            assert_eq!(Policy::parse(text).unwrap_err().to_string(), why);
        }
    }
}
