//! Endpoints that somebody keeps by hand, for a service without a selector, are shown as EndpointSlices too.
//!
//! Defined by "EndpointSlice mirroring" in the Kubernetes documentation; at most 1,000 addresses of each subset.

use std::net::IpAddr;
use std::time::Duration;

use api::{Key, Object, resources};
use control::{Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Map, Value, json};

use crate::endpointslice::{self, Action, MANAGED_BY, SERVICE_NAME, Wanted, identity};
use crate::service::{self, Family, Port};
use crate::{Ctx, Descriptor, claims};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "endpointslicemirroring-controller",
    reconciles: resources::ENDPOINTS,
    owns: &[],
    watches: &[
        Trigger { resource: resources::SERVICES, keys: |_, service| vec![service.key().clone()] },
        Trigger { resource: resources::ENDPOINT_SLICES, keys: endpoints_of_slice },
    ],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Larger mirrors would be a burden to every watcher; whoever has more keeps slices instead.
const ADDRESSES_MAX: usize = 1000;

const NAME: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations of the endpoints' own.
const NOT_MIRRORED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

fn endpoints_of_slice(_: &Informers, slice: &Object) -> Vec<Key> {
    let ours = slice.label(MANAGED_BY) == Some(NAME);
    let service = slice.label(SERVICE_NAME).filter(|_| ours);
    service.map(|name| Key::new(slice.key().namespace.clone(), name)).into_iter().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let slices = ctx.cache(resources::ENDPOINT_SLICES).with_label(SERVICE_NAME, &key.name);
    let ours = |slice: &Object| slice.key().namespace == key.namespace && slice.label(MANAGED_BY) == Some(NAME);
    let present: Vec<Value> =
        slices.iter().filter(|slice| ours(slice) && !slice.is_deleting()).map(Object::to_value).collect();
    let endpoints = ctx.cache(resources::ENDPOINTS).get(key);
    let service = ctx.cache(resources::SERVICES).get(key);
    let mirrored = endpoints.filter(|endpoints| is_mirrored(endpoints, service.as_ref()));
    let actions = match mirrored {
        Some(endpoints) => plan(&endpoints, &present),
        None => present.into_iter().map(Action::Delete).collect(),
    };
    for action in actions {
        endpointslice::apply(ctx, key, action).await?;
    }
    Ok(Next::OnChange)
}

fn is_mirrored(endpoints: &Object, service: Option<&Object>) -> bool {
    let selected = |service: &Object| service::has_selector(&service.to_value());
    let led = || !endpoints.to_value()["metadata"]["annotations"][LEADER].is_null();
    endpoints.label(SKIP) != Some("true") && service.is_some_and(|service| !selected(service)) && !led()
}

fn plan(endpoints: &Object, present: &[Value]) -> Vec<Action> {
    let tree = endpoints.to_value();
    let template = template(endpoints, &tree);
    let mut actions = Vec::new();
    for family in [Family::V4, Family::V6] {
        let wanted = wanted(&tree, family);
        let of_family: Vec<Value> =
            present.iter().filter(|slice| slice["addressType"] == family.name()).cloned().collect();
        if wanted.is_empty() {
            actions.extend(of_family.into_iter().map(Action::Delete));
        } else {
            actions.extend(endpointslice::plan(&template, family, wanted, of_family));
        }
    }
    actions
}

fn template(endpoints: &Object, tree: &Value) -> Value {
    let meta = &tree["metadata"];
    let mut labels: Map<String, Value> = meta["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), (&*endpoints.key().name).into());
    labels.insert(MANAGED_BY.to_owned(), NAME.into());
    let mut template = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"generateName": format!("{}-", endpoints.key().name), "namespace": &*endpoints.key().namespace,
            "labels": labels, "ownerReferences": [claims::owner_reference(resources::ENDPOINTS, endpoints)]}});
    let annotations = meta["annotations"].as_object().into_iter().flatten();
    let annotations: Map<String, Value> = annotations
        .filter(|(name, _)| !NOT_MIRRORED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !annotations.is_empty() {
        template["metadata"]["annotations"] = annotations.into();
    }
    template
}

fn wanted(tree: &Value, family: Family) -> Wanted {
    let mut wanted = Wanted::new();
    for subset in tree["subsets"].as_array().into_iter().flatten() {
        let ports: Vec<Port> = subset["ports"].as_array().into_iter().flatten().map(Port::of).collect();
        let of = |field: &str, ready: bool| {
            let addresses = subset[field].as_array().cloned().unwrap_or_default().into_iter();
            addresses.map(move |address| (address, ready))
        };
        let all = of("addresses", true).chain(of("notReadyAddresses", false)).take(ADDRESSES_MAX);
        for (address, ready) in all {
            let Ok(ip) = address["ip"].as_str().unwrap_or_default().parse::<IpAddr>() else { continue };
            if ip.is_ipv4() != (family == Family::V4) {
                continue;
            }
            let mut endpoint = json!({"addresses": [ip.to_string()], "conditions": {"ready": ready}});
            for field in ["hostname", "targetRef", "nodeName"] {
                if !address[field].is_null() && address[field] != "" {
                    endpoint[field] = address[field].clone();
                }
            }
            let mut sorted = ports.clone();
            sorted.sort();
            wanted.entry(sorted).or_default().insert(identity(&endpoint), endpoint);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_by_hand_is_mirrored_while_nothing_selects() {
        let service = |selector: &Value| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "n"},
                "spec": {"selector": selector, "ports": [{"port": 5432}]}})
        };
        let endpoints = |subsets: &Value| {
            json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": "db", "namespace": "n", "labels": {"team": "t"}}, "subsets": subsets})
        };
        let addresses = |api: &Api| {
            let slices = api.list(resources::ENDPOINT_SLICES).into_iter();
            let mut rows: Vec<String> = slices
                .flat_map(|slice| {
                    let kind = slice["addressType"].as_str().unwrap_or_default().to_owned();
                    let rows = slice["endpoints"].as_array().cloned().unwrap_or_default().into_iter();
                    rows.map(move |row| format!("{kind} {} {}", row["addresses"][0], row["conditions"]["ready"]))
                        .collect::<Vec<_>>()
                })
                .collect();
            rows.sort();
            rows
        };
        let port = json!([{"port": 5432, "protocol": "TCP"}]);
        let subset = json!([{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": port}]);
        let steps = [
            Step::Do(&|api| {
                let all = [r#"IPv4 "192.0.2.1" true"#, r#"IPv4 "192.0.2.2" false"#, r#"IPv6 "2001:db8::1" true"#];
                assert_eq!(addresses(api), all);
                let slice = api.list(resources::ENDPOINT_SLICES).remove(0);
                assert_eq!(slice["metadata"]["labels"], json!({"team": "t", SERVICE_NAME: "db", MANAGED_BY: NAME}));
                assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
            }),
            Step::Do(&|api| drop(api.put(endpoints(&json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": port}]))))),
            Step::Do(&|api| assert_eq!(addresses(api), [r#"IPv4 "192.0.2.9" true"#])),
            Step::Do(&|api| drop(api.put(service(&json!({"app": "db"}))))),
        ];
        let objects = [service(&Value::Null), endpoints(&subset)];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert!(addresses(&end).is_empty(), "what selects has slices of its own");
    }
}
