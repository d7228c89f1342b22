//! The templates that a DaemonSet or StatefulSet has had, each in a ControllerRevision, with numbers that grow.
//!
//! A revision holds a patch that puts its template back: `kubectl rollout undo` sends it as it is. A template that comes
//! back is not stored twice: its revision gets the next number.

use std::collections::BTreeSet;

use api::{Key, Object, Resource, resources};
use bytes::Bytes;
use control::{DeleteOptions, ReconcileError};
use machinery::labels::Selector;
use serde_json::{Value, json};

use crate::template;
use crate::{Ctx, claims};

/// One revision.
#[derive(Debug, Clone)]
pub(crate) struct Revision {
    object: Object,
    /// Its place in the order.
    number: i64,
    /// The pod template.
    pub(crate) template: Value,
}

impl Revision {
    fn of(object: Object) -> Self {
        let value = object.to_value();
        let mut template = value["data"]["spec"]["template"].clone();
        template.as_object_mut().map(|fields| fields.remove("$patch"));
        Self { number: value["revision"].as_i64().unwrap_or(0), template, object }
    }

    pub(crate) fn name(&self) -> &str {
        &self.object.key().name
    }

    /// A label of the revision itself.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.object.label(key)
    }
}

/// An owner's revisions, the oldest first.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) revisions: Vec<Revision>,
    /// Which of them holds the owner's present template.
    update: usize,
}

impl History {
    /// The revision of the owner's present template.
    pub(crate) fn update(&self) -> &Revision {
        &self.revisions[self.update]
    }
}

/// Whose history, and how it is kept.
pub(crate) struct Owner<'a> {
    pub(crate) resource: &'static Resource,
    pub(crate) object: &'a Object,
    pub(crate) value: &'a Value,
    pub(crate) selector: &'a Selector,
    /// The label of revisions that holds their hash.
    pub(crate) hash_label: &'static str,
}

/// What has to be done so that the present template has the newest revision.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep(usize),
    Renumber(usize, i64),
    Create(i64),
}

/// Decides over the revisions, the oldest first.
fn plan(revisions: &[Revision], template: &Value) -> Step {
    let wanted = template::canonical(template);
    let next = revisions.last().map_or(0, |last| last.number) + 1;
    match revisions.iter().rposition(|revision| template::canonical(&revision.template) == wanted) {
        Some(at) if at + 1 == revisions.len() => Step::Keep(at),
        Some(at) => Step::Renumber(at, next),
        None => Step::Create(next),
    }
}

/// The owner's history, brought up to date: orphaned revisions adopted, and the present template's the newest.
pub(crate) async fn bring_up_to_date(ctx: &Ctx, owner: &Owner<'_>) -> Result<History, ReconcileError> {
    let claims = claims::claims(&ctx.cache(resources::CONTROLLER_REVISIONS), owner.object, owner.selector);
    claims::settle(ctx, owner.resource, owner.object, resources::CONTROLLER_REVISIONS, &claims).await?;
    let mut revisions: Vec<Revision> = claims.owned.into_iter().chain(claims.adopt).map(Revision::of).collect();
    revisions.sort_by(|a, b| (a.number, a.name()).cmp(&(b.number, b.name())));
    let template = &owner.value["spec"]["template"];
    match plan(&revisions, template) {
        Step::Keep(update) => Ok(History { revisions, update }),
        Step::Renumber(at, number) => {
            let mut value = revisions[at].object.to_value();
            value["revision"] = number.into();
            let (key, body) = (revisions[at].object.key().clone(), Bytes::from(value.to_string()));
            ctx.client.update(resources::CONTROLLER_REVISIONS, &key, body).await?;
            let mut revision = revisions.remove(at);
            revision.number = number;
            revisions.push(revision);
            Ok(History { update: revisions.len() - 1, revisions })
        }
        Step::Create(number) => {
            revisions.push(create(ctx, owner, number).await?);
            Ok(History { update: revisions.len() - 1, revisions })
        }
    }
}

/// Stores the present template. A name that another template's revision has is a collision of hashes: the next attempt
/// hashes with a higher count.
async fn create(ctx: &Ctx, owner: &Owner<'_>, number: i64) -> Result<Revision, ReconcileError> {
    let revision = new_revision(owner, number);
    let namespace = &owner.object.key().namespace;
    let body = Bytes::from(revision.to_string());
    let error = match ctx.client.create(resources::CONTROLLER_REVISIONS, namespace, body).await {
        Ok(created) => return Ok(Revision::of(created)),
        Err(error) if error.is_already_exists() => error,
        Err(error) => return Err(error.into()),
    };
    let name = revision["metadata"]["name"].as_str().unwrap_or_default();
    let taken = ctx.client.get(resources::CONTROLLER_REVISIONS, &Key::new(namespace.clone(), name)).await?;
    let ours = taken.controller().is_some_and(|controller| *controller.uid == *owner.object.uid());
    let taken = Revision::of(taken);
    if ours && template::canonical(&taken.template) == template::canonical(&owner.value["spec"]["template"]) {
        // Made by an earlier attempt whose answer was lost.
        return Ok(taken);
    }
    let mut value = owner.value.clone();
    let count = value["status"]["collisionCount"].as_i64().unwrap_or(0);
    value["status"]["collisionCount"] = (count + 1).into();
    ctx.client.update_status(owner.resource, owner.object.key(), Bytes::from(value.to_string())).await?;
    Err(error.into())
}

fn new_revision(owner: &Owner<'_>, number: i64) -> Value {
    let template = &owner.value["spec"]["template"];
    let hash = template::hash(template, owner.value["status"]["collisionCount"].as_i64().unwrap_or(0));
    let key = owner.object.key();
    // As long as a name may be, with the hash and its dash.
    let base: String = key.name.chars().take(223).collect();
    let mut meta = json!({"name": format!("{base}-{hash}"), "namespace": &*key.namespace,
        "ownerReferences": [claims::owner_reference(owner.resource, owner.object)]});
    for (field, from) in [("labels", &template["metadata"]), ("annotations", &owner.value["metadata"])] {
        if let Some(value) = from.get(field).filter(|value| !value.is_null()) {
            meta[field] = value.clone();
        }
    }
    meta["labels"][owner.hash_label] = hash.into();
    let mut template = template.clone();
    template["$patch"] = "replace".into();
    // Sorted, as upstream's controllers and clients write it: they compare bytes.
    json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": meta,
        "data": {"spec": {"template": template::sorted(&template)}}, "revision": number})
}

/// Deletes the oldest of `candidates` that are beyond `surplus`, in their order.
pub(crate) async fn delete_oldest(ctx: &Ctx, candidates: &[&Revision], surplus: usize) -> Result<(), ReconcileError> {
    for revision in candidates.iter().take(surplus) {
        let options = DeleteOptions::of_uid(revision.object.uid());
        match ctx.client.delete(resources::CONTROLLER_REVISIONS, revision.object.key(), &options).await {
            Err(error) if error.is_not_found() => {}
            deleted => deleted?,
        }
    }
    Ok(())
}

/// What the owner's `spec.revisionHistoryLimit` allows; everything where it says nothing.
pub(crate) fn limit(owner: &Value) -> usize {
    let limit = owner["spec"]["revisionHistoryLimit"].as_u64();
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// The values of a label over some pods.
pub(crate) fn labels_of<'a>(pods: impl IntoIterator<Item = &'a Object>, label: &str) -> BTreeSet<&'a str> {
    pods.into_iter().filter_map(|pod| pod.label(label)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str, number: i64, image: &str) -> Revision {
        let value = json!({"metadata": {"name": name, "namespace": "n"}, "revision": number,
            "data": {"spec": {"template": {"spec": {"image": image}, "$patch": "replace"}}}});
        let bytes = Bytes::from(value.to_string());
        Revision::of(Object::parse(resources::CONTROLLER_REVISIONS, bytes).expect("an object"))
    }

    /// Upstream's test of a DaemonSet's history found no revision of its template: it compares bytes, and ours held the
    /// fields in another order.
    #[test]
    fn data_is_written_as_upstream_writes_it() {
        let value = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"template":
            {"spec": {"containers": [{"name": "c", "image": "i"}]}, "metadata": {"labels": {"b": "1", "a": "2"}}}}});
        let object = Object::parse(resources::DAEMON_SETS, Bytes::from(value.to_string())).expect("an object");
        let selector = Selector::everything();
        let owner = Owner {
            resource: resources::DAEMON_SETS,
            object: &object,
            value: &value,
            selector: &selector,
            hash_label: "hash",
        };
        assert_eq!(
            new_revision(&owner, 1)["data"].to_string(),
            r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"2","b":"1"}},"spec":{"containers":[{"image":"i","name":"c"}]}}}}"#
        );
    }

    #[test]
    fn a_template_that_comes_back_gets_the_next_number() {
        let history = [revision("a", 1, "one"), revision("b", 2, "two")];
        let plan = |image: &str| plan(&history, &json!({"spec": {"image": image}}));
        assert_eq!(plan("two"), Step::Keep(1));
        assert_eq!(plan("one"), Step::Renumber(0, 3));
        assert_eq!(plan("three"), Step::Create(3));
    }
}
