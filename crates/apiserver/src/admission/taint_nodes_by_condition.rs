//! `TaintNodesByCondition`: a new node takes no pods before the node lifecycle controller has seen it ready.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attempt, Descriptor, Operation, Plugin, is_main};
use crate::registry::tree::{child, list, set};

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "TaintNodesByCondition", plugin: |_| Arc::new(TaintNodesByCondition) };

const NOT_READY: &str = "node.kubernetes.io/not-ready";

struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, node: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        if attempt.operation == Operation::Create && is_main(attempt, resources::NODES) {
            let mut taints = list(&node["spec"]["taints"]).to_vec();
            if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
                taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
                if let Some(spec) = child(node, "spec") {
                    set(spec, "taints", taints);
                }
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
