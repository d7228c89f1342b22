//! Events, in both groups that serve them.

use std::sync::Arc;

use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::tree::text;
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::EVENTS, strategy: |_| Arc::new(EventStrategy) };
/// The line of the group `events.k8s.io`.
pub const DESCRIPTOR_V1: Descriptor =
    Descriptor { resource: api::resources::EVENTS_V1, strategy: |_| Arc::new(EventStrategy) };

struct EventStrategy;

impl Strategy for EventStrategy {
    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, event: &Value) -> Vec<FieldError> {
        let (own, about) = (&event["metadata"]["namespace"], &event["involvedObject"]["namespace"]);
        // What is about an object without a namespace lies in `default`.
        let expected = if text(about).is_empty() { "default" } else { text(about) };
        let of_cluster = text(about).is_empty() && matches!(text(own), "" | "default" | "kube-system");
        if event.get("involvedObject").is_some() && text(own) != expected && !of_cluster {
            let why = "does not match event.namespace";
            return vec![FieldError::invalid("involvedObject.namespace", about, why)];
        }
        Vec::new()
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}
