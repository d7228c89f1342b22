//! Component statuses: not stored, but found out when somebody asks. Deprecated since 1.19 and still asked for by
//! `kubectl get cs`.
//!
//! Upstream knocks at the ports of its neighbours; here the datastore is asked, and the process says of its own components
//! whether they run ([`Config::components`](crate::Config::components)). Names, conditions and texts are upstream's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{ApiError, Object, Reason, resources};
use http::StatusCode;
use serde_json::{Value, json};

use crate::request::info::Target;
use crate::request::negotiate::View;
use crate::request::respond::{self, Answer};
use crate::request::{Call, selectors};
use crate::{Server, table};

/// A component of the process that is not the API server.
#[derive(Debug, Clone)]
pub struct Component {
    /// Such as `scheduler`.
    pub name: &'static str,
    /// Whether it runs now.
    pub running: Arc<AtomicBool>,
}

/// Whether a request is for component statuses.
pub(crate) fn serves(target: &Target) -> bool {
    target.group.is_empty() && target.resource == resources::COMPONENT_STATUSES.plural
}

/// Answers `get` and `list`.
pub(crate) fn answer(call: &Call) -> Result<Answer, ApiError> {
    let (resource, now) = (resources::COMPONENT_STATUSES, call.server.config.clock.now());
    let mut found: Vec<Object> = Vec::new();
    for status in statuses(&call.server) {
        let parsed = Object::parse(resource, status.to_string().into());
        found.push(parsed.map_err(|why| ApiError::new(Reason::InternalError, base::chain(&why)))?);
    }
    if call.verb == "get" {
        let named = found.into_iter().find(|object| *object.key().name == *call.target.name);
        let object = named.ok_or_else(|| ApiError::not_found("", "componentstatus", &call.target.name))?;
        return Ok(respond::object(StatusCode::OK, call.form, &object, &call.served, now));
    }
    let filter = selectors::filter(call)?;
    found.retain(|object| filter.matches(object));
    let items = found.iter().map(Object::to_value);
    let list = |kind: &str, version: &str, items: Vec<Value>| json!({"kind": kind, "apiVersion": version, "metadata": {}, "items": items});
    let body = match call.form.view {
        View::Table => table::of_list(&call.served, call.form.rows, items, &json!({}), now),
        View::Metadata => {
            let items = items.map(|item| respond::metadata_of(&item)).collect();
            list("PartialObjectMetadataList", "meta.k8s.io/v1", items)
        }
        View::Whole => list("ComponentStatusList", "v1", items.collect()),
    };
    Ok(respond::encoded(StatusCode::OK, call.form, body.to_string().into()))
}

/// The statuses of all components, by name.
fn statuses(server: &Server) -> Vec<Value> {
    let config = &server.config;
    let mut all: Vec<Value> = config
        .components
        .iter()
        .map(|component| {
            let failure = (!component.running.load(Ordering::Relaxed)).then_some("the component does not run");
            status(component.name, if failure.is_some() { "False" } else { "True" }, failure.unwrap_or("ok"), None)
        })
        .collect();
    let failure = config.store.failure();
    let (healthy, message) = if failure.is_some() { ("False", "") } else { ("True", "ok") };
    all.push(status("etcd-0", healthy, message, failure.as_deref()));
    all.sort_by(|a, b| a["metadata"]["name"].as_str().cmp(&b["metadata"]["name"].as_str()));
    all
}

fn status(name: &str, healthy: &str, message: &str, error: Option<&str>) -> Value {
    let mut condition = json!({"type": "Healthy", "status": healthy});
    for (field, text) in [("message", message), ("error", error.unwrap_or_default())] {
        if !text.is_empty() {
            condition[field] = text.into();
        }
    }
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
}
