//! A namespace that is being deleted loses its contents, resource by resource, and then goes itself.
//!
//! Pods go first: other objects, such as network policies, still guard them while they end. The conditions in the status
//! tell what is left and why. Defined by "Namespaces" in the Kubernetes documentation and KEP-5080; condition types,
//! reasons and messages are upstream's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, Resource, Verb, resources};
use bytes::Bytes;
use control::{ClientError, Informers, Next, ReconcileError, Served, Trigger, WatchScope};
use futures::FutureExt;
use http::Method;
use machinery::time;
use serde_json::{Value, json};

use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "namespace-controller",
    reconciles: resources::NAMESPACES,
    owns: &[],
    watches: &[Trigger { resource: resources::PODS, keys: namespace_of_ending_pod }],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const FINALIZER: &str = "kubernetes";

/// How soon to look again at contents whose finalizers somebody else has to take away. Nothing tells of those: not every
/// resource has a cache here.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

fn namespace_of_ending_pod(informers: &Informers, pod: &Object) -> Vec<Key> {
    let key = Key::new("", pod.key().namespace.clone());
    let ending = informers.all(resources::NAMESPACES).get(&key).is_some_and(|namespace| namespace.is_deleting());
    if ending { vec![key] } else { vec![] }
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::NAMESPACES).get(key) else { return Ok(Next::OnChange) };
    if !object.is_deleting() || !has_finalizer(&object.to_value()) {
        return Ok(Next::OnChange);
    }
    let (served, content) = delete_served(ctx, &key.name).await?;
    let mut namespace = object.to_value();
    namespace["status"] = status(&namespace, &served, &content, &time::seconds(ctx.clock.now()));
    if namespace["status"] != object.to_value()["status"] {
        let body = Bytes::from(namespace.to_string());
        let written = ctx.client.update_status(resources::NAMESPACES, key, body).await?;
        namespace["metadata"]["resourceVersion"] = written.revision().to_string().into();
    }
    if let Some((what, error)) = content.failed.into_iter().next() {
        tracing::debug!(namespace = %key, what, "cannot delete contents");
        return Err(error.into());
    }
    if !content.left.is_empty() || !served.failed.is_empty() {
        return Ok(Next::After(LOOK_AGAIN));
    }
    finalize(ctx, key, namespace).await
}

fn has_finalizer(namespace: &Value) -> bool {
    namespace["spec"]["finalizers"].as_array().is_some_and(|finalizers| finalizers.iter().any(|name| name == FINALIZER))
}

async fn finalize(ctx: &Ctx, key: &Key, mut namespace: Value) -> Result<Next, ReconcileError> {
    if let Some(finalizers) = namespace["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|name| name != FINALIZER);
    }
    let uri = format!("{}/finalize", resources::NAMESPACES.path(None, Some(&key.name)));
    let body = Bytes::from(namespace.to_string());
    match ctx.client.request(Method::PUT, &uri, Some("application/json"), body).await {
        Err(error) if error.is_not_found() => {}
        done => drop(done?),
    }
    Ok(Next::OnChange)
}

/// What deleting came to.
#[derive(Debug, Default)]
struct Contents {
    /// Resources of which something is left, and how much.
    left: BTreeMap<String, usize>,
    /// Finalizers that hold something, and how much.
    finalizers: BTreeMap<String, usize>,
    /// Resources that could not be deleted or listed.
    failed: Vec<(String, ClientError)>,
}

/// Deletes what there is of all that is known to be served. That nothing is left is believed only of what is served at this
/// moment: a definition may have come just before the namespace went.
async fn delete_served(ctx: &Ctx, namespace: &str) -> Result<(Arc<Served>, Contents), ClientError> {
    let follower = ctx.informers.served();
    let known = follower.latest();
    if let Some(known) = &known {
        let contents = delete_contents(ctx, namespace, known).await;
        if !contents.left.is_empty() || !contents.failed.is_empty() {
            return Ok((known.clone(), contents));
        }
    }
    let now = follower.ask().await?;
    let contents = match known == Some(now.clone()) {
        true => Contents::default(),
        false => delete_contents(ctx, namespace, &now).await,
    };
    Ok((now, contents))
}

async fn delete_contents(ctx: &Ctx, namespace: &str, served: &Served) -> Contents {
    let mut contents = Contents::default();
    let namespaced = served.resources.iter().filter(|resource| resource.namespaced());
    let (pods, others): (Vec<_>, Vec<_>) = namespaced.partition(|resource| **resource == *resources::PODS);
    for group in [pods, others] {
        for resource in group {
            if let Err(error) = delete_all(ctx, namespace, resource, &mut contents).await {
                contents.failed.push((resource.plural.to_string(), error));
            }
        }
        if !contents.left.is_empty() || !contents.failed.is_empty() {
            break;
        }
    }
    contents
}

async fn delete_all(
    ctx: &Ctx,
    namespace: &str,
    resource: &Resource,
    contents: &mut Contents,
) -> Result<(), ClientError> {
    let scope = WatchScope::namespace(namespace);
    // Most resources have nothing here: reading is cheaper than a deletion that finds nothing.
    let before = match ctx.client.list(resource, &scope).await {
        // No longer served: its objects went with its definition.
        Err(error) if error.is_not_found() => return Ok(()),
        listed => listed?,
    };
    if before.items.is_empty() {
        return Ok(());
    }
    if resource.serves(Verb::DeleteCollection) {
        let uri = resource.path(Some(namespace), None);
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        let body = Bytes::from(options.to_string());
        ctx.client.request(Method::DELETE, &uri, Some("application/json"), body).await?;
    } else {
        for object in before.items.iter().filter(|object| !object.is_deleting()) {
            match ctx.client.delete(resource, object.key(), &control::DeleteOptions::of_uid(object.uid())).await {
                Err(error) if error.is_not_found() => {}
                deleted => deleted?,
            }
        }
    }
    let left = ctx.client.list(resource, &scope).await?.items;
    if !left.is_empty() {
        let name = if resource.group.is_empty() {
            format!("{}.", resource.plural)
        } else {
            format!("{}.{}", resource.plural, resource.group)
        };
        contents.left.insert(name, left.len());
        for finalizer in left.iter().flat_map(|object| &object.index().finalizers) {
            *contents.finalizers.entry(finalizer.to_string()).or_default() += 1;
        }
    }
    Ok(())
}

/// The status with its five conditions.
fn status(namespace: &Value, served: &Served, contents: &Contents, now: &str) -> Value {
    let mut status = namespace["status"].clone();
    status["phase"] = "Terminating".into();
    let joined = |parts: Vec<String>| parts.join(", ");
    let discovery = served.failed.iter().map(|(group, error)| format!("{group}: {error}")).collect::<Vec<_>>();
    let failures = contents.failed.iter().map(|(what, error)| format!("{what}: {error}")).collect::<Vec<_>>();
    let left = contents.left.iter().map(|(what, count)| format!("{what} has {count} resource instances"));
    let held = contents.finalizers.iter().map(|(what, count)| format!("{what} in {count} resource instances"));
    let (left, held): (Vec<_>, Vec<_>) = (left.collect(), held.collect());
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!discovery.is_empty()).then(|| {
                let count = discovery.len();
                ("DiscoveryFailed", format!("Discovery failed for some groups, {count} failing: {}", joined(discovery)))
            }),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then(|| {
                let text =
                    format!("Failed to delete all resource types, {} remaining: {}", failures.len(), joined(failures));
                ("ContentDeletionFailed", text)
            }),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!left.is_empty())
                .then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", joined(left)))),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!held.is_empty()).then(|| {
                let text = format!("Some content in the namespace has finalizers remaining: {}", joined(held));
                ("SomeFinalizersRemain", text)
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    for (kind, problem, (good_reason, good_message)) in rows {
        let value = if problem.is_some() { "True" } else { "False" };
        let (reason, message) = problem.unwrap_or((good_reason, good_message.to_owned()));
        let condition = json!({"type": kind, "status": value, "reason": reason, "message": message});
        conditions::set(&mut status, condition, now);
    }
    status
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::{definition, namespace, settings};

    fn in_a(kind: &str, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "a"}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_namespace_takes_its_contents_with_it_pods_first() {
        let mut held = in_a("Pod", "held");
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        let mut other = in_a("Secret", "other");
        other["metadata"]["namespace"] = "b".into();
        let objects = [namespace("a"), namespace("b"), held, in_a("Pod", "free"), in_a("ConfigMap", "map"), other];
        let steps = [
            Step::Do(&|api| api.delete(resources::NAMESPACES, "", "a")),
            Step::Do(&|api| {
                let status = &api.get(resources::NAMESPACES, "", "a").expect("still there")["status"];
                let remaining = conditions::find(status, "NamespaceContentRemaining").expect("a condition");
                assert_eq!(remaining["message"], "Some resources are remaining: pods. has 1 resource instances");
                assert!(conditions::is_true(status, "NamespaceFinalizersRemaining"));
                assert_eq!(api.list(resources::CONFIG_MAPS).len(), 1, "the rest waits for the pods");
                api.change_each(resources::PODS, |pod| {
                    pod["metadata"].as_object_mut().is_some_and(|meta| meta.remove("finalizers").is_some())
                });
                api.delete(resources::PODS, "a", "held");
            }),
            Step::Wait(LOOK_AGAIN),
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        let left: Vec<_> = end.all().iter().map(|object| object["metadata"]["name"].clone()).collect();
        assert_eq!(left, ["b", "other"]);
    }

    #[tokio::test(start_paused = true)]
    async fn custom_resources_go_too_also_those_of_a_definition_that_came_just_before() {
        let custom = |kind: &str, name: &str| {
            let mut object = in_a(kind, name);
            object["apiVersion"] = "example.com/v1".into();
            object
        };
        let mut elsewhere = custom("Boat", "elsewhere");
        elsewhere["metadata"]["namespace"] = "b".into();
        let boats = definition("boats", "Boat", "Namespaced");
        let objects = [namespace("a"), namespace("b"), boats, custom("Boat", "boat"), elsewhere];
        let late = |api: &control::harness::Api| {
            api.put(definition("rafts", "Raft", "Namespaced"));
            api.put(custom("Raft", "raft"));
            api.delete(resources::NAMESPACES, "", "a");
        };
        let end = check_converges(&CONTROLLER, settings(), &objects, &[Step::Do(&late), Step::Wait(LOOK_AGAIN)]).await;
        let kept = end.all().into_iter().filter(|object| object["kind"] != "CustomResourceDefinition");
        let left: Vec<_> = kept.map(|object| object["metadata"]["name"].clone()).collect();
        assert_eq!(left, ["b", "elsewhere"]);
    }
}
