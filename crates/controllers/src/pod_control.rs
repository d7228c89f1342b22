//! Making and deleting the pods of a workload, with upstream's events.
//!
//! Pods are made in growing batches: if something refuses them, such as a quota, it refuses one and not hundreds. Names are
//! chosen here and not by the server, so that a lost answer can be traced.

use api::{Object, Resource, resources};
use bytes::Bytes;
use control::{ClientError, DeleteOptions, EventType, ObjectReference};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{Ctx, claims};

/// The first batch of new pods; each further one is twice as large.
const FIRST_BATCH: usize = 1;

/// Makes and deletes pods for one owner.
pub(crate) struct PodControl<'a> {
    ctx: &'a Ctx,
    resource: &'a Resource,
    owner: &'a Object,
    about: ObjectReference,
}

impl<'a> PodControl<'a> {
    pub(crate) fn new(ctx: &'a Ctx, resource: &'a Resource, owner: &'a Object) -> Self {
        Self { ctx, resource, owner, about: ObjectReference::from((resource, owner)) }
    }

    /// A pod as the template says, with a random name.
    pub(crate) fn pod(&self, template: &Value) -> Value {
        self.named_pod(template, &format!("{}-", self.owner.key().name))
    }

    /// A pod as the template says, whose name is `prefix` and something random.
    pub(crate) fn named_pod(&self, template: &Value, prefix: &str) -> Value {
        let owner = claims::owner_reference(self.resource, self.owner);
        pod_from_template(template, prefix, &self.ctx.random.name_suffix(5), &owner)
    }

    /// Makes pods in growing batches, each at the same time; stops after the first batch with a failure. Where the
    /// namespace is being deleted nothing more is made, which is no failure.
    pub(crate) async fn create_all(&self, pods: Vec<Value>) -> Result<(), ClientError> {
        let (mut pods, mut batch) = (pods.into_iter().peekable(), FIRST_BATCH);
        while pods.peek().is_some() {
            let made = join_all(pods.by_ref().take(batch).map(|pod| self.create(pod))).await;
            // All of a batch are heard before the first failure ends it.
            made.into_iter().collect::<Result<Vec<()>, _>>()?;
            batch *= 2;
        }
        Ok(())
    }

    async fn create(&self, pod: Value) -> Result<(), ClientError> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let body = Bytes::from(pod.to_string());
        match self.ctx.client.create(resources::PODS, &self.owner.key().namespace, body).await {
            Ok(_) => {
                self.event(EventType::Normal, "SuccessfulCreate", &format!("Created pod: {name}"));
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                self.event(EventType::Warning, "FailedCreate", &format!("Error creating: {error}"));
                Err(error)
            }
        }
    }

    /// Deletes pods, all at the same time.
    pub(crate) async fn delete_all<'p>(&self, pods: impl IntoIterator<Item = &'p Object>) -> Result<(), ClientError> {
        let deleted = join_all(pods.into_iter().map(|pod| self.delete(pod))).await;
        deleted.into_iter().collect::<Result<Vec<()>, _>>().map(drop)
    }

    async fn delete(&self, pod: &Object) -> Result<(), ClientError> {
        match self.ctx.client.delete(resources::PODS, pod.key(), &DeleteOptions::of_uid(pod.uid())).await {
            Ok(()) => {
                let message = format!("Deleted pod: {}", pod.key().name);
                self.event(EventType::Normal, "SuccessfulDelete", &message);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                self.event(EventType::Warning, "FailedDelete", &format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }

    /// An event about the owner.
    pub(crate) fn event(&self, kind: EventType, reason: &str, message: &str) {
        self.ctx.recorder.event(&self.about, kind, reason, message);
    }
}

/// A pod as its template says.
fn pod_from_template(template: &Value, prefix: &str, suffix: &str, owner: &Value) -> Value {
    // As long as a generated name may be: 63 characters, of which 5 are the suffix.
    let base: String = prefix.chars().take(58).collect();
    let mut meta = json!({"name": format!("{base}{suffix}"), "generateName": prefix});
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field).filter(|value| !value.is_null()) {
            meta[field] = value.clone();
        }
    }
    meta["ownerReferences"] = json!([owner]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_to_their_length() {
        let prefix = format!("{}-", "x".repeat(80));
        let pod = pod_from_template(&json!({"spec": {}}), &prefix, "abcde", &Value::Null);
        assert_eq!(pod["metadata"]["name"].as_str().map(str::len), Some(63));
    }
}
