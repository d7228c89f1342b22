//! How many pods a budget expects, and how many of them are to be healthy.

use std::collections::BTreeMap;

use api::{Key, Object, OwnerReference, Resource, resources};
use control::ClientError;
use serde_json::Value;

use crate::Ctx;
use crate::scale::{self, ScaleError};

/// What a budget's numbers come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// How many pods there should be.
    pub(super) pods: i64,
    /// How many of them are to be healthy.
    pub(super) healthy: i64,
    /// Whether a pod had no controller where the controllers' scale counts.
    pub(super) has_unmanaged: bool,
}

/// Why the numbers cannot be worked out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExpectedError {
    #[error(transparent)]
    Scale(#[from] ScaleError),
    #[error("found no controllers for pod {0:?}")]
    NoController(String),
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NoPercentage,
}

impl ExpectedError {
    /// The API call that failed and may succeed later, where that was the reason.
    pub(super) fn into_client_error(self) -> Option<ClientError> {
        match self {
            Self::Scale(ScaleError::Client(error)) => Some(error),
            _ => None,
        }
    }
}

/// Works the numbers out. `minAvailable` as a number counts the pods themselves; everything else counts what their
/// controllers are scaled to.
pub(super) async fn of(ctx: &Ctx, spec: &Value, pods: &[Object]) -> Result<Expected, ExpectedError> {
    let (most_away, least) = (&spec["maxUnavailable"], &spec["minAvailable"]);
    if !most_away.is_null() {
        let (pods, has_unmanaged) = scale_of_controllers(ctx, pods).await?;
        let healthy = (pods - scaled(most_away, pods)?).max(0);
        return Ok(Expected { pods, healthy, has_unmanaged });
    }
    match least {
        Value::Null => Ok(Expected::default()),
        Value::Number(_) => {
            let pods = i64::try_from(pods.len()).unwrap_or(i64::MAX);
            Ok(Expected { pods, healthy: least.as_i64().unwrap_or(0), has_unmanaged: false })
        }
        _ => {
            let (pods, has_unmanaged) = scale_of_controllers(ctx, pods).await?;
            Ok(Expected { pods, healthy: scaled(least, pods)?, has_unmanaged })
        }
    }
}

/// A number as it is, or a percentage of `total`, rounded up.
fn scaled(value: &Value, total: i64) -> Result<i64, ExpectedError> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok());
    let percent = percent.ok_or(ExpectedError::NoPercentage)?;
    Ok((percent.saturating_mul(total) + 99) / 100)
}

/// The sum of the scales of all that controls the pods, and whether a pod is controlled by nothing.
async fn scale_of_controllers(ctx: &Ctx, pods: &[Object]) -> Result<(i64, bool), ExpectedError> {
    // By the pods' controller first, since many pods share one; then by what that is controlled by.
    let (mut known, mut scales, mut unmanaged) = (BTreeMap::new(), BTreeMap::new(), false);
    for pod in pods {
        let Some(owner) = pod.controller() else {
            unmanaged = true;
            continue;
        };
        if known.contains_key(&*owner.uid) {
            continue;
        }
        let found = find(ctx, &pod.key().namespace, owner).await?;
        let (uid, replicas) = found.ok_or_else(|| ExpectedError::NoController(pod.key().name.to_string()))?;
        known.insert(owner.uid.to_string(), ());
        scales.insert(uid, replicas);
    }
    Ok((scales.values().sum(), unmanaged))
}

/// The uid and scale of what a pod's controller reference leads to: a Deployment rather than its ReplicaSet.
async fn find(ctx: &Ctx, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i64)>, ScaleError> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let key = Key::new(namespace, &*owner.name);
    let cached = |resource: &Resource| ctx.cache(resource).get_uid(&key, &owner.uid);
    let of = |object: Option<Object>| object.map(|object| (object.uid().to_owned(), replicas(&object.to_value())));
    match (group, &*owner.kind) {
        ("", "ReplicationController") => Ok(of(cached(resources::REPLICATION_CONTROLLERS))),
        ("apps", "StatefulSet") => Ok(of(cached(resources::STATEFUL_SETS))),
        ("apps", "ReplicaSet") => {
            let Some(set) = cached(resources::REPLICA_SETS) else { return Ok(None) };
            match set.controller().filter(|deployment| *deployment.kind == *"Deployment") {
                Some(deployment) => {
                    let key = Key::new(namespace, &*deployment.name);
                    Ok(of(ctx.cache(resources::DEPLOYMENTS).get_uid(&key, &deployment.uid)))
                }
                None => Ok(of(Some(set))),
            }
        }
        _ => {
            let resource = scale::resource_of(&ctx.client, &owner.api_version, &owner.kind).await?;
            let scale = scale::get(&ctx.client, &resource, &key).await?;
            let ours = scale.filter(|scale| scale["metadata"]["uid"] == *owner.uid);
            Ok(ours.map(|scale| (owner.uid.to_string(), scale["spec"]["replicas"].as_i64().unwrap_or(0))))
        }
    }
}

fn replicas(workload: &Value) -> i64 {
    workload["spec"]["replicas"].as_i64().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentages_round_up() {
        for (value, total, expected) in [
            (json!(3), 10, Some(3)),
            (json!("30%"), 10, Some(3)),
            (json!("34%"), 10, Some(4)),
            (json!("1%"), 1, Some(1)),
            (json!("0%"), 7, Some(0)),
            (json!("3"), 7, None),
        ] {
            assert_eq!(scaled(&value, total).ok(), expected, "{value} of {total}");
        }
    }
}
