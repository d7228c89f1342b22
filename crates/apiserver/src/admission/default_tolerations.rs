//! `DefaultTolerationSeconds`: a pod stays for five minutes on a node that is not ready or not reachable, unless it says
//! itself what it tolerates.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attempt, Descriptor, Operation, Plugin, is_main};
use crate::registry::tree::{list, present, set, text};

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "DefaultTolerationSeconds", plugin: |_| Arc::new(DefaultTolerationSeconds) };

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        // Also where a change writes the list anew without them.
        if matches!(attempt.operation, Operation::Create | Operation::Update)
            && is_main(attempt, resources::PODS)
            && let Some(spec) = present(pod, "spec")
        {
            add(spec);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn add(spec: &mut Value) {
    let mut tolerations = list(&spec["tolerations"]).to_vec();
    let given = tolerations.len();
    for taint in TAINTS {
        let tolerates = |toleration: &Value| {
            let (key, effect) = (text(&toleration["key"]), text(&toleration["effect"]));
            (key == taint || key.is_empty()) && matches!(effect, "NoExecute" | "")
        };
        if !tolerations.iter().any(tolerates) {
            let toleration =
                json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
            tolerations.push(toleration);
        }
    }
    if tolerations.len() > given {
        set(spec, "tolerations", tolerations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_says_itself_stands() {
        for (own, expected) in [
            (json!([]), 2),
            (json!([{"operator": "Exists"}]), 1),
            (json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"}]), 2),
            (json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoSchedule"}]), 3),
        ] {
            let mut spec = json!({"tolerations": own});
            add(&mut spec);
            assert_eq!(list(&spec["tolerations"]).len(), expected, "{own}");
        }
    }
}
