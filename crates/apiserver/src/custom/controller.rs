//! Keeps the status of definitions what it should be, and ends deleted ones: their objects go first, then they do.
//!
//! Woken by changes of definitions and, while one is being deleted, of its objects; never by a clock. What is to be done is
//! decided anew from the caches each time, so it may be cut off anywhere.

use std::sync::Arc;

use api::object::Tree;
use api::{ApiError, Key, Object, resources};
use base::Stop;
use control::queue::Done;
use futures::{FutureExt, StreamExt, stream};
use http::HeaderMap;
use serde_json::Value;

use super::definition::Storage;
use super::status::{self, CLEANUP_FINALIZER};
use crate::Server;
use crate::authentication::{MASTERS, UserInfo};
use crate::registry::Plain;
use crate::request::Call;
use crate::request::delete::{Options, delete_object};
use crate::request::info::Target;
use crate::request::managed::Owners;
use crate::request::metadata;
use crate::request::negotiate::Form;
use crate::request::query::Query;
use crate::request::write::{Changed, modify};
use crate::server::Served;
use crate::watch_cache::{Observer, Pace};

/// How many objects of a deleted definition are deleted at the same time.
const PARALLEL: usize = 16;

/// Works until `stop`.
pub(crate) async fn run(server: Arc<Server>, stop: Stop) {
    let queue = &server.definitions.queue;
    while let Some(name) = stop.or_stopped(queue.next()).await {
        let done = match reconcile(&server, &name).await {
            Ok(()) => Done::Settled,
            Err(error) => {
                tracing::debug!(definition = &*name, error = %error, "trying again");
                Done::Failed
            }
        };
        queue.done(&name, done);
    }
}

async fn reconcile(server: &Arc<Server>, name: &str) -> Result<(), ApiError> {
    let cache = server.caches.of(resources::CUSTOM_RESOURCE_DEFINITIONS).await?;
    let Some(object) = cache.get(&Key::new("", name)) else { return Ok(()) };
    if object.is_deleting() {
        return end(server, &object).await;
    }
    let group = object.to_value()["spec"]["group"].as_str().unwrap_or_default().to_owned();
    let taken = server.definitions.names_taken(&group, name);
    write_status(server, &object, |definition, now| definition["status"] = status::plan(definition, &taken, now)).await
}

/// Ends a deleted definition: as far as it goes now; what is left wakes this again when it goes.
async fn end(server: &Arc<Server>, object: &Object) -> Result<(), ApiError> {
    if !object.index().finalizers.iter().any(|name| **name == *CLEANUP_FINALIZER) {
        return Ok(());
    }
    let established = status::holds(&object.to_value(), "Established");
    let storage = server.definitions.storage(&object.key().name);
    if let Some(storage) = storage.filter(|_| established) {
        let condition = status::deletion_in_progress();
        write_status(server, object, |it, now| status::set_condition(&mut it["status"], &condition, now)).await?;
        let deleted = delete_instances(server, object, &storage).await;
        if let Err(error) = deleted {
            let condition = status::deletion_failed(&error.message);
            write_status(server, object, |it, now| status::set_condition(&mut it["status"], &condition, now)).await?;
            return Err(error);
        }
        if deleted.is_ok_and(|left| left > 0) {
            return Ok(());
        }
    }
    let condition = status::deletion_completed(established);
    write_status(server, object, |definition, now| {
        status::set_condition(&mut definition["status"], &condition, now);
        if let Some(finalizers) = definition["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|name| name != CLEANUP_FINALIZER);
        }
    })
    .await
}

/// Deletes every object. Gives how many are left, held by their finalizers.
async fn delete_instances(
    server: &Arc<Server>,
    definition: &Object,
    storage: &Arc<Storage>,
) -> Result<usize, ApiError> {
    server.caches.loaded(&storage.cache).await?;
    storage.wake_when_empty(|| WhenEmpty { server: Arc::downgrade(server), name: (*definition.key().name).into() });
    server.caches.fresh().await;
    let call = internal_call(server, served(storage), "delete", "", &Key::new("", ""));
    let context = call.context(false);
    let snapshot = server.caches.snapshot(&storage.cache);
    // Those that are marked already wait for others.
    let keys: Vec<Key> = snapshot
        .entries(None)
        .filter(|entry| !entry.object.is_deleting())
        .map(|entry| entry.object.key().clone())
        .collect();
    let options = Options::default();
    let deletions: Vec<_> = keys.iter().map(|key| delete_object(&call, &context, key, &options).boxed()).collect();
    let mut results = stream::iter(deletions).buffer_unordered(PARALLEL);
    let mut failed = None;
    while let Some(result) = results.next().await {
        failed = result.err().filter(|error| !error.is_not_found()).or(failed);
    }
    drop(results);
    if let Some(error) = failed {
        return Err(error);
    }
    server.caches.fresh().await;
    Ok(server.caches.snapshot(&storage.cache).len())
}

/// Wakes the end of a definition when its last object goes.
struct WhenEmpty {
    server: std::sync::Weak<Server>,
    name: Box<str>,
}

impl Observer for WhenEmpty {
    fn changed(&self, _: Option<&Object>, new: Option<&Object>) {
        if new.is_none()
            && let Some(server) = self.server.upgrade()
        {
            server.definitions.queue.add(&self.name);
        }
    }
}

/// Changes a definition's status, and what else goes with it. Nothing is written where nothing changes.
async fn write_status(
    server: &Arc<Server>,
    object: &Object,
    change: impl Fn(&mut Value, &str) + Send + Sync,
) -> Result<(), ApiError> {
    let Some(served) = server.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else { return Ok(()) };
    let call = internal_call(server, served, "update", "status", object.key());
    let context = call.context(false);
    let now = metadata::time(context.now);
    let uid = object.uid().to_owned();
    let apply = |old: &Tree| {
        let mut new = old.object.clone();
        // Another one of that name may have come since this was decided.
        if new["metadata"]["uid"] == *uid {
            change(&mut new, &now);
        }
        Ok(Changed { object: new, owners: Owners::Untouched })
    };
    match modify(&call, &context, object.key(), &apply).await {
        Err(error) if error.is_not_found() => Ok(()),
        written => written.map(drop),
    }
}

/// Objects in the form in which they are stored, whether or not that is served.
fn served(storage: &Arc<Storage>) -> Arc<Served> {
    Arc::new(Served {
        resource: storage.row.clone(),
        stored: storage.row.clone(),
        strategy: Arc::new(Plain),
        posted: Vec::new(),
        custom: None,
        cache: Some(storage.cache.clone()),
    })
}

fn internal_call(server: &Arc<Server>, served: Arc<Served>, verb: &'static str, part: &str, key: &Key) -> Call {
    let target = Target {
        group: served.resource.group.to_string(),
        version: served.resource.version.to_string(),
        resource: served.resource.plural.to_string(),
        subresource: part.to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        rest: String::new(),
    };
    let user = Arc::new(UserInfo::new("system:apiserver", &[MASTERS]));
    let (query, headers, form) = (Query::default(), HeaderMap::new(), Form::default());
    let (pace, notes) = (Pace::AtOnce, Arc::default());
    Call { server: server.clone(), served, user, target, verb, query, headers, form, pace, notes }
}
