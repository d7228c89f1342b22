//! What a CustomResourceDefinition says, as far as serving its objects needs it.
//!
//! Reading it is quick, since the dispatcher does it while others wait: schemas are left as the slices of the definition's
//! bytes that they are, and compiled when an object of their version is first written or read.

use std::sync::{Arc, Once, OnceLock};

use api::{Object, Resource, Row, Scope, Subresource, Verb};
use bytes::Bytes;
use machinery::apply::Versions;
use machinery::apply::schema::Place;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::columns::{Column, Columns};
use super::schema::{Expressions, Schema};
use crate::watch_cache::{Observer, ResourceCache};

const VERBS: &[Verb] = &[
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Create,
    Verb::Update,
    Verb::Watch,
];
const PART_VERBS: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// Names of a kind: `spec.names`, `status.acceptedNames`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Names {
    /// In paths.
    pub plural: String,
    /// For people.
    pub singular: String,
    /// For people in a hurry.
    pub short_names: Vec<String>,
    /// Of the objects.
    pub kind: String,
    /// Of their lists.
    pub list_kind: String,
    /// Groups of resources for the command line.
    pub categories: Vec<String>,
}

/// Where `/scale` finds its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ScalePaths {
    /// Such as `.spec.replicas`.
    pub spec_replicas_path: String,
    /// Such as `.status.replicas`.
    pub status_replicas_path: String,
    /// Such as `.status.selector`.
    pub label_selector_path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    spec: Spec<'a>,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec<'a> {
    group: String,
    names: Names,
    scope: String,
    #[serde(borrow)]
    versions: Vec<VersionSpec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    accepted_names: Names,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VersionSpec<'a> {
    name: String,
    served: bool,
    storage: bool,
    deprecated: bool,
    deprecation_warning: Option<String>,
    subresources: Subresources,
    additional_printer_columns: Vec<Column>,
    selectable_fields: Vec<SelectableField>,
    #[serde(borrow)]
    schema: VersionSchema<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subresources {
    status: Option<Value>,
    scale: Option<ScalePaths>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SelectableField {
    json_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VersionSchema<'a> {
    #[serde(borrow, rename = "openAPIV3Schema")]
    open_api: Option<&'a RawValue>,
}

/// A schema, compiled when it is first needed.
#[derive(Debug)]
pub struct LazySchema {
    json: Bytes,
    compiled: OnceLock<Schema>,
    expressions: OnceLock<Option<Box<Expressions>>>,
}

impl LazySchema {
    fn new(json: Bytes) -> Self {
        Self { json, compiled: OnceLock::new(), expressions: OnceLock::new() }
    }

    /// The compiled schema.
    pub fn get(&self) -> &Schema {
        self.compiled.get_or_init(|| Schema::compile(&self.published()))
    }

    /// The compiled rules, where there are any.
    pub fn expressions(&self) -> Option<&Expressions> {
        let compile = || Expressions::compile(&self.published(), true).map(Box::new);
        self.expressions.get_or_init(compile).as_deref()
    }

    /// The schema as it was written.
    pub fn published(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }
}

/// What all versions of a definition share: how objects are stored and cached.
#[derive(Debug)]
pub struct Storage {
    /// The row of the stored form, with the selectable fields of all versions.
    pub row: Row,
    /// The objects.
    pub cache: Arc<ResourceCache>,
    /// The schema of each version by its name, served or not: stored objects may be of any.
    pub schemas: Arc<Schemas>,
    /// Whether somebody follows the end of the objects.
    watched: Once,
}

impl Storage {
    /// Has the cache observed, once.
    pub(super) fn wake_when_empty<O: Observer>(&self, observer: impl FnOnce() -> O) {
        self.watched.call_once(|| self.cache.observe(Arc::new(observer())));
    }
}

/// The schemas of all versions, by name.
#[derive(Debug)]
pub struct Schemas {
    group: String,
    by_version: Vec<(String, LazySchema)>,
}

/// Who owns which fields is kept by versions; one that the definition no longer has cannot be read any more.
impl Versions for Schemas {
    fn root(&self, api_version: &str) -> Option<&dyn Place> {
        let schema = self.of(self.version_of(api_version)?)?;
        Some(schema)
    }

    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<Value> {
        let (from, to) = (self.version_of(from)?, self.version_of(to)?);
        let schema = self.of(to)?;
        let mut object = object.clone();
        object["apiVersion"] = format!("{}/{to}", self.group).into();
        if !self.are_same(from, to) {
            schema.get().prune(&mut object);
        }
        Some(object)
    }
}

impl Schemas {
    /// The schema of a version.
    pub fn of(&self, version: &str) -> Option<&LazySchema> {
        self.by_version.iter().find(|(name, _)| name == version).map(|(_, schema)| schema)
    }

    /// The version of this group that an object's `apiVersion` names.
    pub fn version_of<'a>(&self, api_version: &'a str) -> Option<&'a str> {
        api_version.strip_prefix(&*self.group)?.strip_prefix('/')
    }

    /// Whether two versions describe the same.
    pub fn are_same(&self, one: &str, other: &str) -> bool {
        let json = |version: &str| self.of(version).map(|schema| &schema.json);
        one == other || json(one) == json(other)
    }

    fn same_as(&self, other: &Self) -> bool {
        let names = |schemas: &Self| {
            schemas.by_version.iter().map(|(name, schema)| (name.clone(), schema.json.clone())).collect::<Vec<_>>()
        };
        names(self) == names(other)
    }
}

/// One version, as it is served.
#[derive(Debug)]
pub struct Version {
    /// Its row.
    pub row: Row,
    /// How its objects are stored.
    pub storage: Arc<Storage>,
    /// Whether `/status` is served, and so status is not written with the rest.
    pub has_status: bool,
    /// Where `/scale` finds its numbers, where it is served.
    pub scale: Option<ScalePaths>,
    /// What writers and readers of the version are warned of.
    pub deprecation: Option<String>,
    /// Whether the definition is being deleted: nothing new is taken.
    pub terminating: bool,
    /// What `kubectl get` shows.
    pub columns: Columns,
}

impl Version {
    fn is_same(&self, other: &Self) -> bool {
        let rest = |it: &Self| (it.has_status, it.scale.clone(), it.deprecation.clone(), it.terminating);
        Arc::ptr_eq(&self.storage, &other.storage)
            && *self.row == *other.row
            && rest(self) == rest(other)
            && self.columns == other.columns
    }

    /// The schema of this version's objects.
    pub fn schema(&self) -> &Schema {
        self.lazy_schema().get()
    }

    /// The schema of this version's objects.
    pub fn lazy_schema(&self) -> &LazySchema {
        self.storage.schemas.of(&self.row.version).expect("a version's schema is made with it")
    }
}

/// A definition.
#[derive(Debug)]
pub struct Definition {
    /// The group.
    pub group: String,
    /// The names that are accepted.
    pub accepted: Names,
    /// The versions that are served; none before the definition is established.
    pub versions: Vec<Arc<Version>>,
    /// How objects are stored; `None` where no version is the stored one.
    pub storage: Option<Arc<Storage>>,
}

impl Definition {
    /// Reads a definition. Takes over from an `earlier` state of it what has not changed, so that watches go on.
    pub fn read(object: &Object, earlier: Option<&Self>) -> Self {
        let head: Head<'_> = serde_json::from_slice(object.json()).unwrap_or_default();
        let established = head.status.conditions.iter().any(|it| it.r#type == "Established" && it.status == "True");
        let storage = Self::storage(&head, object.json(), earlier);
        let served = head.spec.versions.iter().filter(|version| version.served);
        let shared = storage.iter().filter(|_| established);
        let version = |version: &VersionSpec<'_>, shared: &Arc<Storage>| {
            let row = row(&head, version, &fields_of(version));
            let version = Version {
                // The stored form itself where nothing tells them apart: then bytes need no rewriting.
                row: if *shared.row == row { shared.row.clone() } else { row.into() },
                storage: shared.clone(),
                has_status: version.subresources.status.is_some(),
                scale: version.subresources.scale.clone(),
                deprecation: deprecation(&head, version),
                terminating: object.is_deleting(),
                columns: Columns::of(&version.additional_printer_columns),
            };
            Self::kept(earlier, version)
        };
        let versions = shared.flat_map(|shared| served.clone().map(|it| version(it, shared))).collect();
        Self { versions, storage, group: head.spec.group, accepted: head.status.accepted_names }
    }

    /// The earlier state of a version, where nothing about it has changed.
    fn kept(earlier: Option<&Self>, now: Version) -> Arc<Version> {
        let kept = earlier.and_then(|earlier| earlier.versions.iter().find(|version| version.is_same(&now)));
        kept.cloned().unwrap_or_else(|| Arc::new(now))
    }

    fn storage(head: &Head<'_>, json: &Bytes, earlier: Option<&Self>) -> Option<Arc<Storage>> {
        let version = head.spec.versions.iter().find(|version| version.storage)?;
        let schema = |version: &VersionSpec<'_>| {
            let json = version.schema.open_api.map_or_else(Bytes::new, |raw| json.slice_ref(raw.get().as_bytes()));
            (version.name.clone(), LazySchema::new(json))
        };
        let schemas =
            Schemas { group: head.spec.group.clone(), by_version: head.spec.versions.iter().map(schema).collect() };
        let mut fields: Vec<String> = head.spec.versions.iter().flat_map(fields_of).collect();
        fields.sort();
        fields.dedup();
        // In the order of the version's own list, where that has all: the rows are the same then.
        let own = fields_of(version);
        let fields = if own.len() == fields.len() { own } else { fields };
        let row = row(head, version, &fields);
        let kept = earlier.and_then(|earlier| earlier.storage.as_ref());
        if let Some(kept) = kept.filter(|kept| *kept.row == row && kept.schemas.same_as(&schemas)) {
            return Some(kept.clone());
        }
        let (row, schemas) = (Row::from(row), Arc::new(schemas));
        let cache = ResourceCache::custom(row.clone(), schemas.clone());
        Some(Arc::new(Storage { row, cache: Arc::new(cache), schemas, watched: Once::new() }))
    }
}

fn fields_of(version: &VersionSpec<'_>) -> Vec<String> {
    version.selectable_fields.iter().map(|field| field.json_path.trim_start_matches('.').to_owned()).collect()
}

fn row(head: &Head<'_>, version: &VersionSpec<'_>, fields: &[String]) -> Resource {
    // Names that were accepted once are served until others are, whatever the definition asks for by now.
    let accepted = &head.status.accepted_names;
    let names = if accepted.plural.is_empty() { &head.spec.names } else { accepted };
    let owned = |names: &[String]| names.iter().map(|name| name.clone().into()).collect();
    let mut subresources = Vec::new();
    if version.subresources.status.is_some() {
        subresources.push(Subresource { name: "status".into(), kind: None, verbs: PART_VERBS.into() });
    }
    if version.subresources.scale.is_some() {
        let kind = Some(("autoscaling".into(), "v1".into(), "Scale".into()));
        subresources.push(Subresource { name: "scale".into(), kind, verbs: PART_VERBS.into() });
    }
    Resource {
        group: head.spec.group.clone().into(),
        version: version.name.clone().into(),
        kind: names.kind.clone().into(),
        plural: names.plural.clone().into(),
        singular: names.singular.clone().into(),
        short_names: owned(&names.short_names),
        categories: owned(&names.categories),
        scope: if head.spec.scope == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        verbs: VERBS.into(),
        subresources: subresources.into(),
        selectable_fields: owned(fields),
        stored_as: None,
    }
}

fn deprecation(head: &Head<'_>, version: &VersionSpec<'_>) -> Option<String> {
    let named = |version: &str| format!("{}/{version} {}", head.spec.group, head.spec.names.kind);
    let better = head.spec.versions.iter().filter(|it| it.served && !it.deprecated).map(|it| &*it.name);
    let better = better.filter(|it| priority(it) > priority(&version.name)).max_by_key(|it| priority(it));
    let general = || {
        let instead = better.map(|better| format!("; use {}", named(better))).unwrap_or_default();
        format!("{} is deprecated{instead}", named(&version.name))
    };
    version.deprecated.then(|| version.deprecation_warning.clone().unwrap_or_else(general))
}

/// What makes a version the preferred one of several: `v2` before `v1` before `v1beta2` before `v1alpha1` before others,
/// which are in the order of the alphabet.
pub fn priority(version: &str) -> (u8, u64, u64, std::cmp::Reverse<&str>) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.len() - rest.trim_start_matches(|sign: char| sign.is_ascii_digit()).len();
        let major: u64 = rest[..digits].parse().ok()?;
        let minor = |name: &str| rest[digits..].strip_prefix(name)?.parse::<u64>().ok();
        match rest.len() == digits {
            true => Some((3, major, 0)),
            false => {
                minor("beta").map(|minor| (2, major, minor)).or_else(|| minor("alpha").map(|minor| (1, major, minor)))
            }
        }
    });
    let (kind, major, minor) = parsed.unwrap_or_default();
    (kind, major, minor, std::cmp::Reverse(if parsed.is_some() { "" } else { version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_by_their_stability() {
        let mut versions = [
            "foo1",
            "v1alpha1",
            "v11alpha2",
            "v10",
            "v3beta1",
            "v2",
            "v12alpha1",
            "v11beta2",
            "foo10",
            "v1",
            "v10beta3",
        ];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        let expected = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "v1alpha1",
            "foo1",
            "foo10",
        ];
        assert_eq!(versions, expected);
    }
}
