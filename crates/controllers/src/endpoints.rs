//! The older view of a service's pods, one `Endpoints` object a service: for clients that do not know EndpointSlices.
//!
//! Defined by the Endpoints API reference; at most 1,000 addresses, as upstream's endpoints controller.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Key, resources};
use bytes::Bytes;
use control::{DeleteOptions, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use crate::service::{self, Backend, Family, Port};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "endpoint-controller",
    reconciles: resources::SERVICES,
    owns: &[],
    watches: &[
        Trigger { resource: resources::PODS, keys: service::services_of_pod },
        Trigger { resource: resources::ENDPOINTS, keys: |_, endpoints| vec![endpoints.key().clone()] },
    ],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Larger objects are a burden to every watcher; EndpointSlices have the rest.
const ADDRESSES_MAX: usize = 1000;

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const NAME: &str = "endpoint-controller";

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let present = ctx.cache(resources::ENDPOINTS).get(key);
    let Some(object) = ctx.cache(resources::SERVICES).get(key) else {
        // Users may keep Endpoints of their own without a service: only ours go.
        if let Some(ours) = present.filter(|endpoints| endpoints.label(MANAGED_BY) == Some(NAME)) {
            match ctx.client.delete(resources::ENDPOINTS, key, &DeleteOptions::of_uid(ours.uid())).await {
                Err(error) if error.is_not_found() => {}
                deleted => deleted?,
            }
        }
        return Ok(Next::OnChange);
    };
    let service = object.to_value();
    if object.is_deleting() || !service::selects(&service) {
        return Ok(Next::OnChange);
    }
    let family = service::families(&service).first().copied().unwrap_or(Family::V4);
    let backends = service::backends(ctx, &object, &service, family);
    let old = present.map(|endpoints| endpoints.to_value());
    let wanted = plan(&service, &backends, old.as_ref());
    if old.as_ref() == Some(&wanted) {
        return Ok(Next::OnChange);
    }
    let body = Bytes::from(wanted.to_string());
    match old {
        Some(_) => drop(ctx.client.update(resources::ENDPOINTS, key, body).await?),
        None => match ctx.client.create(resources::ENDPOINTS, &key.namespace, body).await {
            Err(error) if error.is_namespace_terminating() => {}
            created => drop(created?),
        },
    }
    Ok(Next::OnChange)
}

fn plan(service: &Value, backends: &[Backend], old: Option<&Value>) -> Value {
    let meta = &service["metadata"];
    let mut wanted = old.cloned().unwrap_or_else(|| {
        json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]}})
    });
    let mut labels = meta["labels"].as_object().cloned().unwrap_or_default();
    if service["spec"]["clusterIP"] == "None" {
        labels.insert(service::HEADLESS.to_owned(), "".into());
    }
    labels.insert(MANAGED_BY.to_owned(), NAME.into());
    wanted["metadata"]["labels"] = labels.into();
    let serving: Vec<&Backend> = backends.iter().filter(|backend| !backend.terminating).collect();
    if serving.len() > ADDRESSES_MAX {
        wanted["metadata"]["annotations"][OVER_CAPACITY] = "truncated".into();
    } else if let Some(annotations) = wanted["metadata"]["annotations"].as_object_mut() {
        annotations.remove(OVER_CAPACITY);
    }
    let subsets = subsets(service, &serving[..serving.len().min(ADDRESSES_MAX)]);
    match subsets.is_empty() {
        true => drop(wanted.as_object_mut().map(|fields| fields.remove("subsets"))),
        false => wanted["subsets"] = subsets.into(),
    }
    wanted
}

/// Pods with the same ports stand together, the ready apart from the others.
fn subsets(service: &Value, backends: &[&Backend]) -> Vec<Value> {
    let mut groups: BTreeMap<&[Port], (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for backend in backends {
        let mut address = json!({"ip": backend.address});
        if let Some(hostname) = &backend.hostname {
            address["hostname"] = hostname.as_str().into();
        }
        if let Some(node) = &backend.node {
            address["nodeName"] = node.as_str().into();
        }
        address["targetRef"] = backend.target.clone();
        let group = groups.entry(&backend.ports).or_default();
        let tolerant = service["spec"]["publishNotReadyAddresses"] == true;
        if backend.serving || tolerant { group.0.push(address) } else { group.1.push(address) }
    }
    let subsets = groups.into_iter().map(|(ports, (ready, not_ready))| {
        let mut subset = json!({});
        if !ready.is_empty() {
            subset["addresses"] = ready.into();
        }
        if !not_ready.is_empty() {
            subset["notReadyAddresses"] = not_ready.into();
        }
        if !ports.is_empty() {
            subset["ports"] = ports.iter().map(Port::to_endpoint_port).collect::<Vec<_>>().into();
        }
        subset
    });
    subsets.collect()
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::settings;
    use crate::service::fixtures::{pod, service};

    #[tokio::test(start_paused = true)]
    async fn one_object_follows_the_pods_and_goes_with_the_service() {
        let subsets = |api: &control::harness::Api| {
            api.get(resources::ENDPOINTS, "n", "web").expect("the endpoints")["subsets"].clone()
        };
        let steps = [
            Step::Do(&|api| {
                let subsets = subsets(api);
                assert_eq!(subsets[0]["addresses"][0]["ip"], "10.42.0.1");
                assert_eq!(subsets[0]["notReadyAddresses"][0]["ip"], "10.42.0.2");
                assert_eq!(subsets[0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
                api.delete(resources::PODS, "n", "a");
            }),
            Step::Do(&|api| assert_eq!(subsets(api)[0].get("addresses"), None)),
            Step::Do(&|api| api.delete(resources::PODS, "n", "b")),
            Step::Do(&|api| assert_eq!(subsets(api), Value::Null)),
            Step::Do(&|api| api.delete(resources::SERVICES, "n", "web")),
        ];
        let objects = [service(), pod("a", 1, true), pod("b", 2, false)];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert!(end.list(resources::ENDPOINTS).is_empty());
    }
}
