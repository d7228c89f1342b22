//! `PodTopologyLabels`: a pod learns from its labels in which zone and region its node is, once it has one.
//!
//! Defined by "PodTopologyLabels" under "Admission Control" in the Kubernetes documentation.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Descriptor, Operation, Plugin, find, is_main};
use crate::registry::tree::text;
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "PodTopologyLabels",
    plugin: |parts| Arc::new(PodTopologyLabels { caches: parts.caches.clone() }),
};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

struct PodTopologyLabels {
    caches: Arc<Caches>,
}

impl Plugin for PodTopologyLabels {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let resource = attempt.resource;
            let binding = *resource == *resources::PODS && attempt.subresource == "binding";
            let node = match () {
                () if attempt.operation != Operation::Create => return Ok(()),
                // A binding's labels become the pod's.
                () if binding && object["target"]["kind"] == "Node" => &object["target"]["name"],
                () if is_main(attempt, resources::PODS) => &object["spec"]["nodeName"],
                () => return Ok(()),
            };
            let node = text(node).to_owned();
            if node.is_empty() {
                return Ok(());
            }
            // Of a node that is not known nothing is said: pods may be bound before their node is here.
            let Some(node) = find(&self.caches, resources::NODES, "", &node).await? else { return Ok(()) };
            for name in LABELS {
                if let Some(value) = node.label(name) {
                    object["metadata"]["labels"][name] = value.into();
                }
            }
            Ok(())
        }
        .boxed()
    }
}
