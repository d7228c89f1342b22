//! `NodeRestriction`: what the node authorizer cannot see, because it is in the object: a node makes only mirror pods, bound
//! to itself, and changes neither its taints nor the labels that administrators reserve.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::future::BoxFuture;
use serde_json::Value;

use super::service_account::MIRROR;
use super::{Attempt, Descriptor, Operation, Plugin, forbidden, is_main};
use crate::authorization::node::NodeAuthorizer;
use crate::registry::tree::{entries, text};

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor { name: "NodeRestriction", plugin: |_| Arc::new(NodeRestriction) };

const RESERVED: &str = "node-restriction.kubernetes.io/";

struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        let checked = match NodeAuthorizer::node_of(attempt.context.user) {
            Some(node) => check(node, attempt, object).map_err(|why| forbidden(attempt, &why)),
            None => Ok(()),
        };
        Box::pin(std::future::ready(checked))
    }
}

fn check(node: &str, attempt: &Attempt<'_>, object: &Value) -> Result<(), String> {
    let creates = attempt.operation == Operation::Create;
    if is_main(attempt, resources::PODS) && creates {
        return check_pod(node, object);
    }
    if is_main(attempt, resources::NODES) && attempt.operation != Operation::Delete {
        return check_node(node, attempt, object);
    }
    let named_after = is_main(attempt, resources::LEASES) || is_main(attempt, resources::CSI_NODES);
    if named_after && creates && *attempt.key.name != *node {
        return Err(format!("can only access {} with the same name as the requesting node", attempt.resource.singular));
    }
    Ok(())
}

fn check_pod(node: &str, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if text(&pod["spec"]["nodeName"]) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    Ok(())
}

fn check_node(node: &str, attempt: &Attempt<'_>, object: &Value) -> Result<(), String> {
    if *attempt.key.name != *node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", attempt.key.name));
    }
    let before = attempt.old.unwrap_or(&Value::Null);
    if attempt.operation == Operation::Update && object["spec"]["taints"] != before["spec"]["taints"] {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let labels = |object: &Value| -> Vec<(String, Value)> {
        let reserved = entries(&object["metadata"]["labels"])
            .filter(|(key, _)| key.split_once('/').is_some_and(|(domain, _)| format!("{domain}/").ends_with(RESERVED)));
        reserved.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let (after, old) = (labels(object), labels(before));
    let changed: Vec<&str> = after
        .iter()
        .chain(&old)
        .filter(|label| !(after.contains(label) && old.contains(label)))
        .map(|(key, _)| key.as_str())
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to modify labels: {}", changed.join(", ")))
}
