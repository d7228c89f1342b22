//! Which objects a controller's object owns, which it adopts and which it lets go.
//!
//! An object whose controller reference names the owner is owned while the selector matches it, and released when not. An
//! object without a controller that the selector matches is adopted. Nothing is adopted by, or released from, an owner that
//! is being deleted: that is the garbage collector's to settle.

use api::{Key, Object, Resource, resources};
use control::{Cache, CustomIndex, PatchType, ReconcileError};
use machinery::labels::{Selector, SelectorError};
use serde_json::{Value, json};

use crate::Ctx;

/// What belongs to an owner.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Owned and matched.
    pub(crate) owned: Vec<Object>,
    /// Matched, and nobody's.
    pub(crate) adopt: Vec<Object>,
    /// Owned, and no longer matched.
    pub(crate) release: Vec<Object>,
}

/// The selector of an owner: a label selector or, in a ReplicationController, a plain map.
pub(crate) fn selector(resource: &Resource, owner: &Value, key: &Key) -> Result<Selector, ReconcileError> {
    parse_selector(resource, owner)
        .map_err(|error| ReconcileError::Invalid(format!("selector of {} {key}: {error}", resource.kind)))
}

fn parse_selector(resource: &Resource, owner: &Value) -> Result<Selector, SelectorError> {
    let selector = &owner["spec"]["selector"];
    if !has_plain_selector(resource) {
        return Selector::from_label_selector(selector);
    }
    let pairs = selector.as_object().into_iter().flatten();
    Selector::from_pairs(pairs.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))))
}

fn has_plain_selector(resource: &Resource) -> bool {
    *resource.kind == *resources::REPLICATION_CONTROLLERS.kind
}

/// Sorts the objects of a cache by what they are to the owner.
pub(crate) fn claims(cache: &Cache, owner: &Object, selector: &Selector) -> Claims {
    claims_where(cache, owner, selector, |_| true)
}

/// The same; of what the selector matches, only what also passes `filter` belongs to the owner.
pub(crate) fn claims_where(
    cache: &Cache,
    owner: &Object,
    selector: &Selector,
    filter: impl Fn(&Object) -> bool,
) -> Claims {
    let matches = |object: &Object| selector.matches_pairs(&object.index().labels) && filter(object);
    let ours = |object: &Object| object.controller().is_some_and(|controller| *controller.uid == *owner.uid());
    let owned = cache.owned_by(owner.uid()).into_iter().filter(ours);
    let (owned, strangers): (Vec<_>, Vec<_>) = owned.partition(matches);
    if owner.is_deleting() {
        return Claims { owned, ..Claims::default() };
    }
    let adopt = orphans(cache, &owner.key().namespace, selector).into_iter().filter(matches).collect();
    Claims { owned, adopt, release: strangers }
}

/// What nobody manages, under each of its labels and under its namespace alone. What has a manager, as nearly everything
/// has, is not in it: so a look for orphans costs what there are of them.
const ORPHANS: CustomIndex = CustomIndex { name: "orphans", values: orphan_values };

fn orphan_values(object: &Object) -> Vec<String> {
    if object.controller().is_some() || object.is_deleting() {
        return vec![];
    }
    let namespace = &object.key().namespace;
    let labels = object.index().labels.iter().map(|(key, value)| format!("{namespace}/{key}={value}"));
    labels.chain([format!("{namespace}/")]).collect()
}

/// Every orphan that the selector may match.
fn orphans(cache: &Cache, namespace: &str, selector: &Selector) -> Vec<Object> {
    let pair = selector.exact().map(|(key, value)| format!("{key}={value}")).unwrap_or_default();
    cache.by_index(&ORPHANS, &format!("{namespace}/{pair}"))
}

/// Adopts and releases. The owner is read afresh before the first adoption: a cache may not know yet that it is going.
pub(crate) async fn settle(
    ctx: &Ctx,
    owner_resource: &Resource,
    owner: &Object,
    resource: &Resource,
    claims: &Claims,
) -> Result<(), ReconcileError> {
    settle_with(ctx, owner_resource, owner, resource, claims, None).await
}

/// The same; what is adopted gets a finalizer as well, and what is released loses it.
pub(crate) async fn settle_with(
    ctx: &Ctx,
    owner_resource: &Resource,
    owner: &Object,
    resource: &Resource,
    claims: &Claims,
    finalizer: Option<&str>,
) -> Result<(), ReconcileError> {
    if !claims.adopt.is_empty() {
        let fresh = ctx.client.get(owner_resource, owner.key()).await?;
        if fresh.uid() != owner.uid() || fresh.is_deleting() {
            return Err(ReconcileError::Invalid(format!("{} is being deleted: it adopts nothing", owner.key())));
        }
    }
    for object in &claims.adopt {
        let mut owners = owners_without(object, owner.uid());
        owners.push(owner_reference(owner_resource, owner));
        let with = finalizer.map(|name| finalizers_without(object, name).chain([name.into()]).collect());
        patch_references(ctx, resource, object, owners, with).await?;
    }
    for object in &claims.release {
        let without = finalizer.map(|name| finalizers_without(object, name).collect());
        patch_references(ctx, resource, object, owners_without(object, owner.uid()), without).await?;
    }
    Ok(())
}

/// An object's finalizers but for one.
pub(crate) fn finalizers_without<'a>(object: &'a Object, name: &str) -> impl Iterator<Item = Value> + use<'a> {
    let name = name.to_owned();
    object.index().finalizers.iter().filter(move |have| ***have != *name).map(|have| Value::from(&**have))
}

/// Replaces an object's owner references, if it is still as it was read.
pub(crate) async fn patch_owners(
    ctx: &Ctx,
    resource: &Resource,
    object: &Object,
    owners: Vec<Value>,
) -> Result<(), ReconcileError> {
    patch_references(ctx, resource, object, owners, None).await
}

async fn patch_references(
    ctx: &Ctx,
    resource: &Resource,
    object: &Object,
    owners: Vec<Value>,
    finalizers: Option<Vec<Value>>,
) -> Result<(), ReconcileError> {
    let mut patch = json!({"metadata": {"uid": object.uid(), "resourceVersion": object.revision().to_string(),
        "ownerReferences": owners}});
    if let Some(finalizers) = finalizers {
        patch["metadata"]["finalizers"] = finalizers.into();
    }
    match ctx.client.patch(resource, object.key(), None, PatchType::Merge, &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        patched => Ok(patched.map(drop)?),
    }
}

/// An object's owner references but for one.
pub(crate) fn owners_without(object: &Object, uid: &str) -> Vec<Value> {
    let value = object.to_value();
    let owners = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.filter(|owner| owner["uid"] != uid).cloned().collect()
}

/// The reference that makes `owner` the controller of an object.
pub(crate) fn owner_reference(resource: &Resource, owner: &Object) -> Value {
    json!({"apiVersion": resource.api_version(), "kind": &*resource.kind, "name": &*owner.key().name,
        "uid": owner.uid(), "controller": true, "blockOwnerDeletion": true})
}

/// Finds owners by one pair of their selector, so that an orphan's labels lead to its possible owners.
const BY_SELECTOR: CustomIndex =
    CustomIndex { name: "spec.selector.matchLabels", values: |object| selector_pair(object, true) };

/// The same for owners whose selector is a plain map.
const BY_PLAIN_SELECTOR: CustomIndex =
    CustomIndex { name: "spec.selector", values: |object| selector_pair(object, false) };

fn selector_pair(object: &Object, label_selector: bool) -> Vec<String> {
    let value = object.to_value();
    let selector = &value["spec"]["selector"];
    let labels = if label_selector { &selector["matchLabels"] } else { selector };
    let labels = labels.as_object().into_iter().flatten();
    let pairs = labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    // A selector of expressions only may match anything: its pair is empty.
    vec![pairs.min().unwrap_or_default()]
}

/// The owners in `cache` that may adopt an object without a controller.
pub(crate) fn adopters(cache: &Cache, object: &Object) -> Vec<Key> {
    if object.controller().is_some() { vec![] } else { selecting_object(cache, object) }
}

/// The owners in `cache` whose selector matches an object.
pub(crate) fn selecting_object(cache: &Cache, object: &Object) -> Vec<Key> {
    let labels: Vec<(&str, &str)> = object.index().labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    selecting(cache, &object.key().namespace, &labels)
}

/// The objects in `cache`, of one namespace, whose `spec.selector` matches those labels.
pub(crate) fn selecting(cache: &Cache, namespace: &str, labels: &[(&str, &str)]) -> Vec<Key> {
    let resource = cache.resource();
    let index = if has_plain_selector(resource) { &BY_PLAIN_SELECTOR } else { &BY_SELECTOR };
    let label = |wanted: &str| labels.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    let found = pairs.chain([String::new()]).flat_map(|pair| cache.by_index(index, &pair));
    let found = found.filter(|owner| {
        *owner.key().namespace == *namespace
            && parse_selector(resource, &owner.to_value()).is_ok_and(|selector| selector.matches(label))
    });
    found.map(|owner| owner.key().clone()).collect()
}
