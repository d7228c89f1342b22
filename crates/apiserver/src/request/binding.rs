//! `pods/NAME/binding`: the scheduler's decision. Puts a pod on a node, once.

use std::sync::Arc;

use api::object::Tree;
use api::{ApiError, Key, resources};
use serde_json::{Value, json};

use super::managed::Owners;
use super::metadata;
use crate::Server;
use crate::registry::Context;
use crate::request::write::{Changed, modify};
use crate::server::Served;

/// Binds the pod that `key` names.
pub async fn bind(server: &Arc<Server>, context: &Context<'_>, key: &Key, binding: Value) -> Result<Value, ApiError> {
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    let pod_name = if key.name.is_empty() { metadata::text(&binding, "name").to_owned() } else { key.name.to_string() };
    let key = Key::new(key.namespace.clone(), pod_name);
    let conflict = |why: String| ApiError::conflict("", "pods", &key.name, &why);
    if node.is_empty() {
        let error = crate::invalid::FieldError::required("target.name", "");
        return Err(crate::invalid::invalid(resources::BINDINGS, &key.name, &[error]));
    }
    let change = |pod: &Tree| {
        let pod = &pod.object;
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", key.name)));
        }
        let bound = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if !bound.is_empty() {
            return Err(conflict(format!("pod {} is already assigned to node {bound:?}", key.name)));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", key.name)));
        }
        let mut pod = pod.clone();
        metadata::fields(&mut pod).shift_remove("resourceVersion");
        for field in ["uid", "resourceVersion"] {
            let named = metadata::text(&binding, field);
            if !named.is_empty() {
                metadata::fields(&mut pod).insert(field.to_owned(), named.into());
            }
        }
        pod["spec"]["nodeName"] = node.as_str().into();
        for field in ["annotations", "labels"] {
            for (name, value) in binding["metadata"][field].as_object().into_iter().flatten() {
                pod["metadata"][field][name] = value.clone();
            }
        }
        set_scheduled(&mut pod, &metadata::time(context.now));
        Ok(Changed { object: pod, owners: Owners::Untouched })
    };
    let served = server.find("", "v1", "pods").expect("pods are in the resource table");
    let call = super::Call::internal(server, served, context.user, &key, "binding");
    modify(&call, context, &key, &change).await?;
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let list = conditions.as_array_mut().expect("it was made a list");
    match list.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(known) => *known = condition,
        None => list.push(condition),
    }
}

impl super::Call {
    /// A call that the server makes itself while it answers another one.
    pub(crate) fn internal(
        server: &Arc<Server>,
        served: Arc<Served>,
        user: &crate::authentication::UserInfo,
        key: &Key,
        subresource: &str,
    ) -> Self {
        let resource = &*served.resource;
        Self {
            server: server.clone(),
            target: super::info::Target {
                group: resource.group.to_string(),
                version: resource.version.to_string(),
                resource: resource.plural.to_string(),
                subresource: subresource.to_owned(),
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                rest: String::new(),
            },
            served,
            user: Arc::new(user.clone()),
            verb: "patch",
            query: super::query::Query::default(),
            headers: [(http::header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver"))]
                .into_iter()
                .collect(),
            form: super::negotiate::Form::default(),
            pace: crate::watch_cache::Pace::AtOnce,
            notes: Arc::default(),
        }
    }
}
