//! FlowSchemas and PriorityLevelConfigurations as the dispatcher uses them, and which schema a request falls under.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::HeaderValue;
use serde::Deserialize;

use super::metrics::SchemaMetrics;
use super::seats::{LevelLimits, Queuing};
use crate::authentication::UserInfo;
use crate::request::info::RequestInfo;

/// The level that always exists, and takes what belongs nowhere.
pub(crate) const CATCH_ALL: &str = "catch-all";

/// All that requests are sorted by.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// In the order in which they are tried.
    pub(crate) schemas: Vec<Arc<Schema>>,
    pub(crate) levels: BTreeMap<Arc<str>, LevelLimits>,
}

/// A FlowSchema whose level exists.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) name: Arc<str>,
    pub(crate) level: Arc<str>,
    pub(crate) uid: HeaderValue,
    pub(crate) level_uid: HeaderValue,
    pub(crate) metrics: SchemaMetrics,
    spec: SchemaSpec,
}

/// The parts of a FlowSchema that are used. Null and absent are the same everywhere.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FlowSchema {
    metadata: Meta,
    spec: SchemaSpec,
}

/// The parts of a PriorityLevelConfiguration that are used.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PriorityLevel {
    metadata: Meta,
    spec: LevelSpec,
}

#[derive(Debug, Clone, Deserialize)]
struct Meta {
    name: Arc<str>,
    #[serde(default)]
    uid: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SchemaSpec {
    priority_level_configuration: Reference,
    matching_precedence: i32,
    distinguisher_method: Option<Method>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Reference {
    name: Arc<str>,
}

#[derive(Debug, Clone, Deserialize)]
struct Method {
    #[serde(rename = "type")]
    by: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    user: Option<Named>,
    group: Option<Named>,
    service_account: Option<Named>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    namespace: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PathRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    paths: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LevelSpec {
    #[serde(rename = "type")]
    kind: String,
    limited: Option<Limited>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Limited {
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LimitResponse {
    #[serde(rename = "type")]
    kind: String,
    queuing: Option<QueuingSpec>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct QueuingSpec {
    queues: u32,
    hand_size: u32,
    queue_length_limit: u32,
}

/// The API's defaults.
impl Default for QueuingSpec {
    fn default() -> Self {
        Self { queues: 64, hand_size: 8, queue_length_limit: 50 }
    }
}

/// Shares of a level that names none. The API's default.
const SHARES: u32 = 30;
/// More queues than the API lets a level have would only cost memory.
const QUEUES_MAX: u32 = 10_000;
/// A larger hand would make each arrival look at many queues.
const HAND_MAX: u32 = 64;

impl FlowSchema {
    /// Takes over what a mandatory object says, whatever was made of it.
    pub(crate) fn become_like(&mut self, mandatory: Self) {
        self.spec = mandatory.spec;
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.metadata.name
    }
}

impl PriorityLevel {
    /// Takes over what a mandatory object says, whatever was made of it.
    pub(crate) fn become_like(&mut self, mandatory: Self) {
        self.spec = mandatory.spec;
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.metadata.name
    }

    fn shares(&self) -> u32 {
        let limited = self.spec.limited.as_ref();
        limited.map_or(0, |limited| limited.nominal_concurrency_shares.unwrap_or(SHARES))
    }

    /// The level's part of `total` seats, of which `all_shares` are shared out.
    fn limits(&self, total: u32, all_shares: u32) -> LevelLimits {
        let Some(limited) = &self.spec.limited else {
            return LevelLimits { exempt: self.spec.kind == "Exempt", nominal: 1, min: 0, max: 1, queuing: None };
        };
        let nominal = (u64::from(total) * u64::from(self.shares())).div_ceil(u64::from(all_shares.max(1)));
        let nominal = u32::try_from(nominal).unwrap_or(total).max(1);
        let percent = |percent: u32| (nominal * percent.min(1_000) + 50) / 100;
        let queuing = limited.limit_response.queuing.clone().filter(|_| limited.limit_response.kind == "Queue");
        LevelLimits {
            exempt: false,
            nominal,
            min: nominal - percent(limited.lendable_percent.min(100)),
            max: nominal + limited.borrowing_limit_percent.map_or(total, percent),
            queuing: queuing.map(|queuing| Queuing {
                queues: queuing.queues.clamp(1, QUEUES_MAX) as usize,
                hand: queuing.hand_size.clamp(1, HAND_MAX) as usize,
                length_max: queuing.queue_length_limit as usize,
            }),
        }
    }
}

impl Config {
    /// Sorts and links the objects. A schema whose level does not exist matches nothing.
    pub(crate) fn of(
        schemas: &BTreeMap<Arc<str>, FlowSchema>,
        levels: &BTreeMap<Arc<str>, PriorityLevel>,
        total: u32,
    ) -> Self {
        let shares = levels.values().map(PriorityLevel::shares).sum();
        let uid = |uid: &str| HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""));
        let linked = schemas.values().filter_map(|schema| {
            let level = levels.get(&schema.spec.priority_level_configuration.name)?;
            Some(Arc::new(Schema {
                name: schema.metadata.name.clone(),
                level: level.metadata.name.clone(),
                uid: uid(&schema.metadata.uid),
                level_uid: uid(&level.metadata.uid),
                metrics: SchemaMetrics::of(&schema.metadata.name, &level.metadata.name),
                spec: schema.spec.clone(),
            }))
        });
        let mut schemas: Vec<_> = linked.collect();
        schemas.sort_by(|a, b| (a.spec.matching_precedence, &a.name).cmp(&(b.spec.matching_precedence, &b.name)));
        let levels = levels.iter().map(|(name, level)| (name.clone(), level.limits(total, shares))).collect();
        Self { schemas, levels }
    }

    /// The schema that a request falls under, and which flow of it the request belongs to.
    pub(crate) fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Option<(&Arc<Schema>, u64)> {
        let matches = |schema: &&Arc<Schema>| schema.spec.rules.iter().any(|rule| rule.matches(user, info));
        // `catch-all` is the last, and takes whom it does not name too.
        let schema = self.schemas.iter().find(matches).or(self.schemas.last())?;
        Some((schema, schema.flow(user, info)))
    }
}

impl Schema {
    fn flow(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        let by = self.spec.distinguisher_method.as_ref().map(|method| &*method.by);
        let distinguisher = match by {
            Some("ByUser") => &*user.name,
            Some("ByNamespace") => info.target.as_ref().map_or("", |target| &*target.namespace),
            _ => "",
        };
        let mut hasher = DefaultHasher::new();
        (&*self.name, distinguisher).hash(&mut hasher);
        hasher.finish()
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let about = || match &info.target {
            Some(_) => self.resource_rules.iter().any(|rule| rule.matches(info)),
            None => self.non_resource_rules.iter().any(|rule| rule.matches(info)),
        };
        self.subjects.iter().any(|subject| subject.matches(user)) && about()
    }
}

impl Subject {
    fn matches(&self, user: &UserInfo) -> bool {
        let any = |name: &str| name == "*";
        let by_user = self.user.as_ref().is_some_and(|named| any(&named.name) || named.name == user.name);
        let by_group = self.group.as_ref().is_some_and(|named| any(&named.name) || user.in_group(&named.name));
        let by_account = self.service_account.as_ref().is_some_and(|named| {
            let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
            account.is_some_and(|(namespace, name)| {
                namespace == named.namespace && (any(&named.name) || name == named.name)
            })
        });
        by_user || by_group || by_account
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let Some(target) = &info.target else { return false };
        let resource = |wanted: &String| match wanted.split_once('/') {
            _ if wanted == "*" => true,
            Some(("*", subresource)) => subresource == target.subresource,
            Some((resource, subresource)) => resource == target.resource && subresource == target.subresource,
            None => target.subresource.is_empty() && *wanted == target.resource,
        };
        let place = match &*target.namespace {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        has(&self.verbs, info.verb)
            && self.resources.iter().any(resource)
            && has(&self.api_groups, &target.group)
            && place
    }
}

impl PathRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let path = |wanted: &String| {
            let below = wanted.strip_suffix('*').unwrap_or(wanted).trim_end_matches('/');
            wanted == "*"
                || *wanted == info.path
                || info.path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/'))
        };
        has(&self.verbs, info.verb) && self.paths.iter().any(path)
    }
}

fn has(wanted: &[String], value: &str) -> bool {
    wanted.iter().any(|wanted| wanted == "*" || wanted == value)
}
