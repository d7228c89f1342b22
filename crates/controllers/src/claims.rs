//! Which objects a controller's object owns, which it adopts and which it lets go.
//!
//! An object whose controller reference names the owner is owned while the selector matches it, and released when not. An
//! object without a controller that the selector matches is adopted. Nothing is adopted by, or released from, an owner that
//! is being deleted: that is the garbage collector's to settle.

use api::{Key, Object, Resource};
use control::{Cache, CustomIndex, PatchType, ReconcileError};
use machinery::labels::Selector;
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

/// Sorts the objects of a cache by what they are to the owner.
pub(crate) fn claims(cache: &Cache, owner: &Object, selector: &Selector) -> Claims {
    let matches = |object: &Object| selector.matches_pairs(&object.index().labels);
    let ours = |object: &Object| object.controller().is_some_and(|controller| *controller.uid == *owner.uid());
    let owned = cache.owned_by(owner.uid()).into_iter().filter(ours);
    let (owned, strangers): (Vec<_>, Vec<_>) = owned.partition(matches);
    if owner.is_deleting() {
        return Claims { owned, ..Claims::default() };
    }
    let orphan = |object: &Object| {
        object.key().namespace == owner.key().namespace && object.controller().is_none() && !object.is_deleting()
    };
    let adopt = candidates(cache, &owner.key().namespace, selector).into_iter();
    let adopt = adopt.filter(|object| orphan(object) && matches(object)).collect();
    Claims { owned, adopt, release: strangers }
}

/// Everything that the selector may match, found by one label where it asks for one.
fn candidates(cache: &Cache, namespace: &str, selector: &Selector) -> Vec<Object> {
    match selector.exact() {
        Some((key, value)) => cache.with_label(key, value),
        None => cache.in_namespace(namespace),
    }
}

/// Adopts and releases. The owner is read afresh before the first adoption: a cache may not know yet that it is going.
pub(crate) async fn settle(
    ctx: &Ctx,
    owner_resource: &Resource,
    owner: &Object,
    resource: &Resource,
    claims: &Claims,
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
        patch_owners(ctx, resource, object, owners).await?;
    }
    for object in &claims.release {
        patch_owners(ctx, resource, object, owners_without(object, owner.uid())).await?;
    }
    Ok(())
}

/// Replaces an object's owner references, if it is still as it was read.
pub(crate) async fn patch_owners(
    ctx: &Ctx,
    resource: &Resource,
    object: &Object,
    owners: Vec<Value>,
) -> Result<(), ReconcileError> {
    let patch = json!({"metadata": {"uid": object.uid(), "resourceVersion": object.revision().to_string(),
        "ownerReferences": owners}});
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

/// Finds owners by one pair of their `spec.selector.matchLabels`, so that an orphan's labels lead to its possible owners.
pub(crate) const BY_SELECTOR: CustomIndex = CustomIndex { name: "spec.selector.matchLabels", values: selector_pair };

fn selector_pair(object: &Object) -> Vec<String> {
    let value = object.to_value();
    let labels = value["spec"]["selector"]["matchLabels"].as_object();
    let pairs = labels.into_iter().flatten().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    // A selector of expressions only may match anything: its pair is empty.
    vec![pairs.min().unwrap_or_default()]
}

/// The owners in `cache` that may adopt an object without a controller.
pub(crate) fn adopters(cache: &Cache, object: &Object) -> Vec<Key> {
    if object.controller().is_some() {
        return vec![];
    }
    let labels: Vec<(&str, &str)> = object.index().labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    selecting(cache, &object.key().namespace, &labels)
}

/// The objects in `cache`, of one namespace, whose `spec.selector` matches those labels.
pub(crate) fn selecting(cache: &Cache, namespace: &str, labels: &[(&str, &str)]) -> Vec<Key> {
    let label = |wanted: &str| labels.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    let found = pairs.chain([String::new()]).flat_map(|pair| cache.by_index(&BY_SELECTOR, &pair));
    let found = found.filter(|owner| {
        *owner.key().namespace == *namespace && {
            let selector = Selector::from_label_selector(&owner.to_value()["spec"]["selector"]);
            selector.is_ok_and(|selector| selector.matches(label))
        }
    });
    found.map(|owner| owner.key().clone()).collect()
}
