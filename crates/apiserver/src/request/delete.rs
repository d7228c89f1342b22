//! `delete` and `deletecollection`: at once, in time, or when the last finalizer is gone.
//!
//! A deleted object that something holds back keeps a deletion mark. Pods are given time to end, other objects none. How
//! dependents are treated is written down as a finalizer, which the garbage collector acts on.

use api::object::Tree;
use api::{ApiError, Key, Object, Reason, storage_key};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Value, json};
use store::{Precondition, Revision, TxnOutcome, Write};

use super::negotiate::BodyKind;
use super::query::{Query, dry_run};
use super::respond::{self, Answer};
use super::write::{attempt, commit, encode_stored, from_stored_bytes, mutate, validate};
use super::{Call, body, metadata, selectors};
use crate::admission::Operation;
use crate::conversion;
use crate::invalid::invalid_options;
use crate::registry::Context;

/// How many objects of a collection are deleted at the same time.
const PARALLEL: usize = 16;
const ATTEMPTS_MAX: usize = 64;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions`, from body and query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Seconds that the object is given to end.
    pub grace_seconds: Option<i64>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this resource version.
    pub resource_version: Option<u64>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// Whether nothing is to happen.
    pub dry_run: bool,
    /// The old form of `propagation` was used: `orphanDependents: false`.
    pub cascade_asked: bool,
}

/// `propagationPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents stay and lose their owner.
    Orphan,
    /// Dependents go afterwards.
    Background,
    /// Dependents go first.
    Foreground,
}

impl Options {
    fn read(call: &Call, bytes: &Bytes) -> Result<Self, ApiError> {
        let given =
            if bytes.is_empty() { Value::Null } else { body::decode(BodyKind::of_object(&call.headers)?, bytes)? };
        Self::of(&given, &call.query)
    }

    /// Options from a `DeleteOptions` tree (null: none), and where that says nothing from the query.
    pub fn of(given: &Value, query: &Query) -> Result<Self, ApiError> {
        let text = |field: &str| given[field].as_str().or_else(|| query.get(field)).map(str::to_owned);
        let orphan = given["orphanDependents"].as_bool();
        let orphan = orphan.or_else(|| query.get("orphanDependents").map(|_| query.flag("orphanDependents")));
        let policy = match text("propagationPolicy").as_deref() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let message = format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported \
                     values: \"Background\", \"Foreground\", \"Orphan\""
                );
                return Err(ApiError::new(Reason::Invalid, message));
            }
        };
        if policy.is_some() && orphan.is_some() {
            let message = "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: orphanDependents and \
                           deletionPropagation cannot be both set";
            return Err(ApiError::new(Reason::Invalid, message));
        }
        let by_flag = orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background });
        Ok(Self {
            // Less than nothing stands for the shortest time there is.
            grace_seconds: given["gracePeriodSeconds"]
                .as_i64()
                .or(query.number("gracePeriodSeconds")?)
                .map(|seconds| if seconds < 0 { 1 } else { seconds }),
            uid: given["preconditions"]["uid"].as_str().map(str::to_owned),
            resource_version: precondition_version(given)?,
            propagation: policy.or(by_flag),
            dry_run: is_dry_run(given, query)?,
            cascade_asked: orphan == Some(false),
        })
    }
}

fn precondition_version(given: &Value) -> Result<Option<u64>, ApiError> {
    let Some(text) = given["preconditions"]["resourceVersion"].as_str() else { return Ok(None) };
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::new(Reason::BadRequest, format!("invalid resourceVersion {text:?} in preconditions")))
}

fn is_dry_run(given: &Value, query: &Query) -> Result<bool, ApiError> {
    let in_body = given["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut errors = Vec::new();
    let dry_run = dry_run(in_body.chain(query.all("dryRun")), &mut errors);
    if errors.is_empty() { Ok(dry_run) } else { Err(invalid_options("DeleteOptions", &errors)) }
}

/// How a deletion ended.
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Object),
    /// Something holds it back; it is marked.
    Marked(Object),
}

/// Answers `delete` of one object.
pub async fn one(call: Call, body: Bytes) -> Result<Answer, ApiError> {
    let options = Options::read(&call, &body)?;
    let context = call.context(options.dry_run);
    let key = call.key();
    let resource = &*call.served.resource;
    match delete_object(&call, &context, &key, &options).await? {
        Deleted::Marked(object) => {
            let status = if options.cascade_asked { StatusCode::ACCEPTED } else { StatusCode::OK };
            Ok(respond::object(status, call.form, &object, &call.served, context.now))
        }
        Deleted::Gone(object) if resource.plural == "pods" => {
            Ok(respond::object(StatusCode::OK, call.form, &object, &call.served, context.now))
        }
        Deleted::Gone(object) => {
            let mut details = json!({"name": &*key.name, "kind": resource.plural, "uid": object.uid()});
            if !resource.group.is_empty() {
                details["group"] = (*resource.group).into();
            }
            Ok(respond::success(call.form, StatusCode::OK, details))
        }
    }
}

/// Answers `deletecollection`: what matches when the request comes.
pub async fn collection(call: Call, body: Bytes) -> Result<Answer, ApiError> {
    let options = Options::read(&call, &body)?;
    let context = call.context(options.dry_run);
    let cache = call.cache().await?;
    let filter = selectors::filter(&call)?;
    call.server.caches.fresh().await;
    let snapshot = call.server.caches.snapshot(&cache);
    let matching = snapshot.entries(filter.namespace.as_deref()).filter(|entry| filter.matches(&entry.object));
    let keys: Vec<Key> = matching.map(|entry| entry.object.key().clone()).collect();
    // Boxed here, since a stream of borrowing futures is too general for the compiler.
    let deletions: Vec<_> = keys.iter().map(|key| delete_object(&call, &context, key, &options).boxed()).collect();
    let deleted: Vec<Option<Object>> = stream::iter(deletions)
        .buffered(PARALLEL)
        .map(|result| match result {
            Ok(Deleted::Gone(object) | Deleted::Marked(object)) => Ok(Some(object)),
            // Somebody else deleted it first: that is what was asked for.
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        })
        .try_collect()
        .await?;
    let resource = &*call.served.resource;
    let items: Vec<Value> = deleted.into_iter().flatten().map(|object| object.to_value()).collect();
    let list = json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": call.server.caches.applied().to_string()}, "items": items});
    Ok(respond::encoded(StatusCode::OK, call.form, list.to_string().into()))
}

/// Deletes one object, again from its newer state if somebody else changed it meanwhile.
pub async fn delete_object(
    call: &Call,
    context: &Context<'_>,
    key: &Key,
    options: &Options,
) -> Result<Deleted, ApiError> {
    let resource = &*call.served.resource;
    let cache = call.cache().await?;
    for _ in 0..ATTEMPTS_MAX {
        // Deletions are rarer than changes and their preconditions finer: always begin with what is committed.
        call.server.caches.fresh().await;
        let current =
            cache.get(key).ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &key.name))?;
        if let Some(deleted) = delete_once(call, context, key, options, &current).await? {
            return Ok(deleted);
        }
    }
    Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, super::write::MODIFIED))
}

/// One attempt; `None` when somebody else changed the object first.
async fn delete_once(
    call: &Call,
    context: &Context<'_>,
    key: &Key,
    options: &Options,
    current: &Object,
) -> Result<Option<Deleted>, ApiError> {
    let resource = &*call.served.resource;
    check_preconditions(call, key, options, current)?;
    let Tree { object, managed_fields } = current.to_tree();
    let managed_fields = managed_fields.as_ref().map_or(&[][..], |raw| raw.get().as_bytes());
    let old = conversion::from_stored(&call.served, object);
    let attempt = attempt(call, context, Operation::Delete, key, Some(&old));
    mutate(call, &attempt, &mut Value::Null).await?;
    validate(call, &attempt, &Value::Null).await?;
    let plan = plan(call, context, options, &old);
    let shown = |object: &Object| conversion::object_from_stored(&call.served, object.clone());
    let storage_key = Bytes::from(storage_key::of(resource, key));
    let precondition = Precondition::ModifiedAt(storage_key.clone(), Revision(current.revision()));
    match plan {
        Plan::Nothing => Ok(Some(Deleted::Marked(shown(current)?))),
        Plan::Remove if context.dry_run => Ok(Some(Deleted::Gone(shown(current)?))),
        Plan::Remove => {
            let outcome = commit(call, precondition, Write::Delete(storage_key), None).await?;
            match outcome {
                TxnOutcome::Committed(_) => Ok(Some(Deleted::Gone(shown(current)?))),
                TxnOutcome::Refused { .. } => Ok(None),
            }
        }
        Plan::Mark(marked) => {
            let stored = encode_stored(&call.served, marked, managed_fields);
            if context.dry_run {
                return from_stored_bytes(&call.served, &stored, Revision(current.revision()))
                    .map(|object| Some(Deleted::Marked(object)));
            }
            match commit(call, precondition, Write::Put(storage_key, stored.clone()), None).await? {
                TxnOutcome::Committed(revision) => {
                    from_stored_bytes(&call.served, &stored, revision).map(|object| Some(Deleted::Marked(object)))
                }
                TxnOutcome::Refused { .. } => Ok(None),
            }
        }
    }
}

fn check_preconditions(call: &Call, key: &Key, options: &Options, current: &Object) -> Result<(), ApiError> {
    let resource = &*call.served.resource;
    let conflict = |why: String| Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, &why));
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != current.uid()) {
        let found = current.uid();
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({found}). The object might have been deleted \
             and then recreated"
        ));
    }
    if let Some(version) = options.resource_version.filter(|version| *version != current.revision()) {
        let found = current.revision();
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({found}). The \
             object might have been modified"
        ));
    }
    Ok(())
}

enum Plan {
    /// It is being deleted already, as soon as this asks for.
    Nothing,
    /// Nothing holds it back.
    Remove,
    /// Something does.
    Mark(Value),
}

fn plan(call: &Call, context: &Context<'_>, options: &Options, old: &Value) -> Plan {
    let strategy = &*call.served.strategy;
    let grace = strategy.grace_seconds(old, options.grace_seconds).max(0);
    let mut new = old.clone();
    let mut finalizers = finalizers(old, options.propagation, strategy.orphans_by_default());
    let marked = !old["metadata"]["deletionTimestamp"].is_null();
    if !marked {
        let own = strategy.deletion_finalizers().iter().filter(|name| !finalizers.iter().any(|known| known == **name));
        let own: Vec<Value> = own.map(|name| Value::from(*name)).collect();
        finalizers.extend(own);
    }
    let held = !finalizers.is_empty() || strategy.stays_when_deleted(old);
    if !held && grace == 0 {
        return Plan::Remove;
    }
    let fields = metadata::fields(&mut new);
    match finalizers.is_empty() {
        true => drop(fields.shift_remove("finalizers")),
        false => drop(fields.insert("finalizers".to_owned(), finalizers.into())),
    }
    let left = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if !marked || left.is_some_and(|left| grace < left) {
        let at = context.now + SignedDuration::from_secs(grace);
        fields.insert("deletionTimestamp".to_owned(), metadata::time(at).into());
        fields.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        if let Some(generation) = fields.get("generation").and_then(Value::as_i64) {
            fields.insert("generation".to_owned(), (generation + 1).into());
        }
        strategy.prepare_for_deletion(&mut new);
    }
    if new == *old { Plan::Nothing } else { Plan::Mark(new) }
}

/// The finalizers that the object has while it is deleted in this way.
fn finalizers(object: &Value, propagation: Option<Propagation>, orphans_by_default: bool) -> Vec<Value> {
    let own = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let has = |name: &str| own.iter().any(|finalizer| *finalizer == name);
    let propagation = propagation.unwrap_or_else(|| match (has(ORPHAN), has(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (_, true) => Propagation::Foreground,
        _ if orphans_by_default => Propagation::Orphan,
        _ => Propagation::Background,
    });
    let mut finalizers: Vec<Value> =
        own.iter().filter(|name| **name != ORPHAN && **name != FOREGROUND).cloned().collect();
    match propagation {
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    finalizers
}
