//! The resource table: one row for each resource that the API serves. Discovery, routing, storage and clients walk it.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// Where objects of a resource live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One for the whole cluster.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// What can be done with a resource, under the names that discovery and RBAC use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `create`
    Create,
    /// `delete`
    Delete,
    /// `deletecollection`
    DeleteCollection,
    /// `get`
    Get,
    /// `list`
    List,
    /// `patch`
    Patch,
    /// `update`
    Update,
    /// `watch`
    Watch,
}

/// A part of an object with its own path, such as `/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// The last part of its path: `status`, `scale`, `binding`, `log`, `exec`.
    pub name: Cow<'static, str>,
    /// The group, version and kind of its bodies where they differ from the parent's (`autoscaling/v1 Scale`).
    pub kind: Option<(Cow<'static, str>, Cow<'static, str>, Cow<'static, str>)>,
    /// What can be done with it.
    pub verbs: Cow<'static, [Verb]>,
}

/// The form in which a resource is stored where that is not its own: several groups or versions may show the same objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAs {
    /// The stored form's group.
    pub group: Cow<'static, str>,
    /// The stored form's version.
    pub version: Cow<'static, str>,
    /// The stored form's kind.
    pub kind: Cow<'static, str>,
}

/// One resource in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version, such as `v1`.
    pub version: Cow<'static, str>,
    /// The kind, such as `Pod`.
    pub kind: Cow<'static, str>,
    /// The plural, lower-case name in paths, such as `pods`.
    pub plural: Cow<'static, str>,
    /// The singular name, such as `pod`.
    pub singular: Cow<'static, str>,
    /// Names for the command line, such as `po`.
    pub short_names: Cow<'static, [Cow<'static, str>]>,
    /// Groups of resources for the command line, such as `all`.
    pub categories: Cow<'static, [Cow<'static, str>]>,
    /// Where its objects live.
    pub scope: Scope,
    /// What can be done with it. Resources without `Get` and `List` (reviews) are not stored.
    pub verbs: Cow<'static, [Verb]>,
    /// Its subresources.
    pub subresources: Cow<'static, [Subresource]>,
    /// Field paths besides `metadata.name` and `metadata.namespace` that field selectors and indexes may use, such as
    /// `spec.nodeName`. Kept beside the bytes of each object.
    pub selectable_fields: Cow<'static, [Cow<'static, str>]>,
    /// The form that is stored, where it is not this one. The plural is the same in all forms.
    pub stored_as: Option<StoredAs>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether `verb` is served.
    pub fn serves(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// Its subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The path of its collection (`namespace`: that one namespace's), without a trailing slash.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() { "/api/".to_owned() } else { format!("/apis/{}/", self.group) };
        path.push_str(&self.version);
        if let Some(namespace) = namespace.filter(|_| self.namespaced()) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// A row that may have been made while the program runs, as a custom resource definition makes it. Cloning shares it, and
/// following it costs a branch: rows of the built-in table are never counted.
#[derive(Debug, Clone)]
pub enum Row {
    /// Of the built-in table.
    BuiltIn(&'static Resource),
    /// Made from a definition; goes with the last who holds it.
    Custom(Arc<Resource>),
}

impl Deref for Row {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        match self {
            Self::BuiltIn(resource) => resource,
            Self::Custom(resource) => resource,
        }
    }
}

impl From<&'static Resource> for Row {
    fn from(resource: &'static Resource) -> Self {
        Self::BuiltIn(resource)
    }
}

impl From<Resource> for Row {
    fn from(resource: Resource) -> Self {
        Self::Custom(Arc::new(resource))
    }
}
