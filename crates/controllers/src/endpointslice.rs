//! A service's pods in slices of at most 100, so that one pod's change is one small object's change.
//!
//! Slices are changed as little as possible: an endpoint stays in its slice, new ones go first where something changes
//! anyway. Defined by the EndpointSlice API reference; labels and placement are upstream's endpointslice-controller's.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{DeleteOptions, Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Map, Value, json};

use crate::claims;
use crate::service::{self, Backend, Family, Port};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "endpointslice-controller",
    reconciles: resources::SERVICES,
    owns: &[],
    watches: &[
        Trigger { resource: resources::PODS, keys: service::services_of_pod },
        Trigger { resource: resources::ENDPOINT_SLICES, keys: service_of_slice },
    ],
    reads: &[resources::NODES],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// A slice has at most so many endpoints: every watcher gets the whole of it when one of them changes.
const ENDPOINTS_MAX: usize = 100;

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const NAME: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

fn service_of_slice(_: &Informers, slice: &Object) -> Vec<Key> {
    let ours = slice.label(MANAGED_BY) == Some(NAME);
    let service = slice.label(SERVICE_NAME).filter(|_| ours);
    service.map(|name| Key::new(slice.key().namespace.clone(), name)).into_iter().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    // Slices of a service that is gone are the garbage collector's.
    let Some(object) = ctx.cache(resources::SERVICES).get(key) else { return Ok(Next::OnChange) };
    let service = object.to_value();
    if object.is_deleting() || !service::selects(&service) {
        return Ok(Next::OnChange);
    }
    let slices = ctx.cache(resources::ENDPOINT_SLICES).with_label(SERVICE_NAME, &key.name);
    let ours = |slice: &Object| slice.key().namespace == key.namespace && slice.label(MANAGED_BY) == Some(NAME);
    let present: Vec<Object> = slices.into_iter().filter(|slice| ours(slice) && !slice.is_deleting()).collect();
    let template = template(&object, &service);
    let mut actions = Vec::new();
    let families = service::families(&service);
    for family in &families {
        let backends = service::backends(ctx, &object, &service, *family);
        let wanted = wanted(ctx, &service, backends);
        let of_family = present.iter().filter(|slice| slice.to_value()["addressType"] == family.name());
        actions.extend(plan(&template, *family, wanted, of_family.map(Object::to_value).collect()));
    }
    let other = |slice: &&Object| !families.iter().any(|family| slice.to_value()["addressType"] == family.name());
    actions.extend(present.iter().filter(other).map(|slice| Action::Delete(slice.to_value())));
    for action in actions {
        apply(ctx, key, action).await?;
    }
    Ok(Next::OnChange)
}

/// Endpoints by the address that tells them apart, grouped by their ports.
pub(crate) type Wanted = BTreeMap<Vec<Port>, BTreeMap<String, Value>>;

fn wanted(ctx: &Ctx, service: &Value, backends: Vec<Backend>) -> Wanted {
    let nodes = ctx.cache(resources::NODES);
    let tolerant = service["spec"]["publishNotReadyAddresses"] == true;
    let mut wanted = Wanted::new();
    for backend in backends {
        let ready = tolerant || backend.serving && !backend.terminating;
        let mut endpoint = json!({"addresses": [backend.address],
            "conditions": {"ready": ready, "serving": backend.serving, "terminating": backend.terminating}});
        if let Some(hostname) = backend.hostname {
            endpoint["hostname"] = hostname.into();
        }
        endpoint["targetRef"] = backend.target;
        if let Some(node) = backend.node {
            let zone = nodes.get(&Key::new("", node.as_str())).and_then(|node| node.label(ZONE).map(str::to_owned));
            endpoint["nodeName"] = node.into();
            if let Some(zone) = zone {
                endpoint["zone"] = zone.into();
            }
        }
        if ready && let Some(hints) = hints(&service["spec"]["trafficDistribution"], &endpoint) {
            endpoint["hints"] = hints;
        }
        let identity = identity(&endpoint);
        wanted.entry(backend.ports).or_default().insert(identity, endpoint);
    }
    wanted
}

/// From where a ready endpoint should be used: from its own zone, or its own node, where the service prefers that.
fn hints(preference: &Value, endpoint: &Value) -> Option<Value> {
    let preference = preference.as_str()?;
    let mut hints = json!({});
    if !endpoint["zone"].is_null() && matches!(preference, "PreferClose" | "PreferSameZone" | "PreferSameNode") {
        hints["forZones"] = json!([{"name": endpoint["zone"]}]);
    }
    if !endpoint["nodeName"].is_null() && preference == "PreferSameNode" {
        hints["forNodes"] = json!([{"name": endpoint["nodeName"]}]);
    }
    hints.as_object().is_some_and(|hints| !hints.is_empty()).then_some(hints)
}

/// Address and pod: a new pod with an old address is another endpoint.
pub(crate) fn identity(endpoint: &Value) -> String {
    format!("{} {}", endpoint["addresses"][0], endpoint["targetRef"]["uid"])
}

/// A slice without endpoints and ports, as the service wants it labelled.
fn template(object: &Object, service: &Value) -> Value {
    let mut labels: Map<String, Value> = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.remove(service::HEADLESS);
    if service["spec"]["clusterIP"] == "None" {
        labels.insert(service::HEADLESS.to_owned(), "".into());
    }
    labels.insert(SERVICE_NAME.to_owned(), (&*object.key().name).into());
    labels.insert(MANAGED_BY.to_owned(), NAME.into());
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"generateName": format!("{}-", object.key().name), "namespace": &*object.key().namespace,
            "labels": labels, "ownerReferences": [claims::owner_reference(resources::SERVICES, object)]}})
}

#[derive(Debug)]
pub(crate) enum Action {
    Create(Value),
    Update(Value),
    Delete(Value),
}

/// Brings the slices of one address family to what is wanted.
pub(crate) fn plan(template: &Value, family: Family, mut wanted: Wanted, present: Vec<Value>) -> Vec<Action> {
    if wanted.is_empty() {
        // One empty slice tells that the service is known and has nobody.
        wanted.insert(vec![], BTreeMap::new());
    }
    let mut groups: BTreeMap<Vec<Port>, Vec<Value>> = BTreeMap::new();
    let mut actions = Vec::new();
    for slice in present {
        let ports = ports_of(&slice);
        if wanted.contains_key(&ports) {
            groups.entry(ports).or_default().push(slice);
        } else {
            actions.push(Action::Delete(slice));
        }
    }
    for (ports, endpoints) in wanted {
        let present = groups.remove(&ports).unwrap_or_default();
        actions.extend(plan_group(template, family, &ports, endpoints, present));
    }
    // An old slice takes the place of a new one where both are needed: one write less, and the name stays.
    reuse(&mut actions);
    actions
}

fn ports_of(slice: &Value) -> Vec<Port> {
    let mut ports: Vec<Port> = slice["ports"].as_array().into_iter().flatten().map(Port::of).collect();
    ports.sort();
    ports
}

/// One slice in the making.
struct Draft {
    old: Option<Value>,
    endpoints: Vec<Value>,
    changed: bool,
}

fn plan_group(
    template: &Value,
    family: Family,
    ports: &[Port],
    mut wanted: BTreeMap<String, Value>,
    present: Vec<Value>,
) -> Vec<Action> {
    let mut drafts: Vec<Draft> = present.into_iter().map(|slice| keep(slice, &mut wanted)).collect();
    // The fullest that change anyway first, then the fullest of the others.
    drafts.sort_by_key(|draft| (!draft.changed, std::cmp::Reverse(draft.endpoints.len())));
    let mut rest = wanted.into_values().peekable();
    for draft in &mut drafts {
        while draft.endpoints.len() < ENDPOINTS_MAX && rest.peek().is_some() {
            draft.endpoints.extend(rest.next());
            draft.changed = true;
        }
    }
    while rest.peek().is_some() {
        let endpoints: Vec<Value> = rest.by_ref().take(ENDPOINTS_MAX).collect();
        drafts.push(Draft { old: None, endpoints, changed: true });
    }
    // Empty slices go, but for the last.
    let used = drafts.iter().filter(|draft| !draft.endpoints.is_empty()).count();
    if drafts.is_empty() {
        drafts.push(Draft { old: None, endpoints: vec![], changed: true });
    }
    let mut spare = usize::from(used == 0);
    let actions = drafts.into_iter().filter_map(|draft| {
        if draft.endpoints.is_empty() {
            if spare == 0 {
                return draft.old.map(Action::Delete);
            }
            spare -= 1;
        }
        write(template, family, ports, draft)
    });
    actions.collect()
}

/// What of a slice's endpoints is still wanted, in its new state.
fn keep(slice: Value, wanted: &mut BTreeMap<String, Value>) -> Draft {
    let old: Vec<Value> = slice["endpoints"].as_array().cloned().unwrap_or_default();
    let endpoints: Vec<Value> = old.iter().filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect();
    Draft { changed: endpoints != old, endpoints, old: Some(slice) }
}

fn write(template: &Value, family: Family, ports: &[Port], draft: Draft) -> Option<Action> {
    let create = draft.old.is_none();
    let before = draft.old.clone();
    let mut slice = draft.old.unwrap_or_else(|| template.clone());
    for field in ["labels", "annotations", "ownerReferences"] {
        if !template["metadata"][field].is_null() {
            slice["metadata"][field] = template["metadata"][field].clone();
        }
    }
    slice["addressType"] = family.name().into();
    slice["endpoints"] = draft.endpoints.into();
    slice["ports"] = ports.iter().map(Port::to_slice_port).collect::<Vec<_>>().into();
    if create {
        return Some(Action::Create(slice));
    }
    let same = before.is_some_and(|before| {
        let same = |field: &str| before["metadata"][field] == slice["metadata"][field];
        !draft.changed && same("labels") && same("ownerReferences")
    });
    (!same).then_some(Action::Update(slice))
}

fn reuse(actions: &mut Vec<Action>) {
    while let (Some(create), Some(delete)) = (
        actions.iter().position(|action| matches!(action, Action::Create(_))),
        actions.iter().position(|action| matches!(action, Action::Delete(_))),
    ) {
        let (first, second) = (create.max(delete), create.min(delete));
        let pair = [actions.remove(first), actions.remove(second)];
        let (mut new, mut old) = (Value::Null, Value::Null);
        for action in pair {
            match action {
                Action::Create(value) => new = value,
                Action::Delete(value) | Action::Update(value) => old = value,
            }
        }
        for field in ["endpoints", "ports", "addressType"] {
            old[field] = new[field].take();
        }
        for field in ["labels", "ownerReferences"] {
            old["metadata"][field] = new["metadata"][field].take();
        }
        actions.push(Action::Update(old));
    }
}

pub(crate) async fn apply(ctx: &Ctx, service: &Key, action: Action) -> Result<(), ReconcileError> {
    let key =
        |slice: &Value| Key::new(service.namespace.clone(), slice["metadata"]["name"].as_str().unwrap_or_default());
    match action {
        Action::Create(mut slice) => {
            // Named here and not by the server, so that a lost answer can be traced.
            let prefix: String = service.name.chars().take(57).collect();
            slice["metadata"]["name"] = format!("{prefix}-{}", ctx.random.name_suffix(5)).into();
            let body = Bytes::from(slice.to_string());
            match ctx.client.create(resources::ENDPOINT_SLICES, &service.namespace, body).await {
                Err(error) if error.is_namespace_terminating() => {}
                created => drop(created?),
            }
        }
        Action::Update(slice) => {
            ctx.client.update(resources::ENDPOINT_SLICES, &key(&slice), Bytes::from(slice.to_string())).await?;
        }
        Action::Delete(slice) => {
            let options = DeleteOptions::of_uid(slice["metadata"]["uid"].as_str().unwrap_or_default());
            match ctx.client.delete(resources::ENDPOINT_SLICES, &key(&slice), &options).await {
                Err(error) if error.is_not_found() => {}
                deleted => deleted?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Step, check_converges};

    use super::*;
    use crate::fixtures::settings;
    use crate::service::fixtures::{pod, service};

    /// Endpoints in each slice, the conditions of the first, and the ports.
    fn shape(api: &Api) -> Vec<(usize, Value, Value)> {
        let slices = api.list(resources::ENDPOINT_SLICES).into_iter();
        let mut shape: Vec<_> = slices
            .map(|slice| {
                let endpoints = slice["endpoints"].as_array().map_or(0, Vec::len);
                (endpoints, slice["endpoints"][0]["conditions"].clone(), slice["ports"].clone())
            })
            .collect();
        shape.sort_by_key(|row| row.0);
        shape
    }

    #[tokio::test(start_paused = true)]
    async fn slices_follow_the_pods_of_their_service() {
        let conditions = |ready: bool, serving: bool, terminating: bool| json!({"ready": ready, "serving": serving, "terminating": terminating});
        let ports = |port: u32| json!([{"name": "http", "port": port, "protocol": "TCP"}]);
        let steps = [
            Step::Do(&|api| assert_eq!(shape(api), [(0, Value::Null, json!([]))], "known, and nobody there")),
            Step::Do(&|api| drop(api.put(pod("a", 1, false)))),
            Step::Do(&|api| assert_eq!(shape(api), [(1, conditions(false, false, false), ports(8080))])),
            Step::Do(&|api| {
                let mut ending = pod("a", 1, true);
                ending["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
                api.put(ending);
            }),
            Step::Do(&|api| assert_eq!(shape(api), [(1, conditions(false, true, true), ports(8080))])),
            // A pod that serves the named port elsewhere cannot share a slice.
            Step::Do(&|api| {
                let mut other = pod("b", 2, true);
                other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
                api.put(other);
            }),
            Step::Do(&|api| assert_eq!(shape(api).len(), 2)),
            Step::Do(&|api| api.delete(resources::PODS, "n", "a")),
        ];
        let end = check_converges(&CONTROLLER, settings(), &[service()], &steps).await;
        assert_eq!(shape(&end), [(1, conditions(true, true, false), ports(9090))]);
        let slice = end.list(resources::ENDPOINT_SLICES).remove(0);
        assert_eq!(slice["metadata"]["labels"], json!({"team": "t", SERVICE_NAME: "web", MANAGED_BY: NAME}));
    }

    #[test]
    fn endpoints_say_from_where_they_should_be_used() {
        let endpoint = json!({"zone": "z", "nodeName": "n"});
        let zone = json!([{"name": "z"}]);
        for (preference, expected) in [
            (Value::Null, None),
            ("PreferClose".into(), Some(json!({"forZones": zone}))),
            ("PreferSameZone".into(), Some(json!({"forZones": zone}))),
            ("PreferSameNode".into(), Some(json!({"forZones": zone, "forNodes": [{"name": "n"}]}))),
            ("Unknown".into(), None),
        ] {
            assert_eq!(hints(&preference, &endpoint), expected, "{preference}");
        }
        assert_eq!(hints(&"PreferSameZone".into(), &json!({"nodeName": "n"})), None, "no zone, no hint");
    }

    #[test]
    fn a_slice_holds_a_hundred_and_one_change_touches_one() {
        let port = Port { name: String::new(), port: 80, protocol: "TCP".to_owned(), app_protocol: None };
        let endpoints = |numbers: std::ops::Range<u32>| {
            let rows = numbers.map(|number| {
                let endpoint = json!({"addresses": [format!("10.42.0.{number}")], "targetRef": {"uid": number}});
                (identity(&endpoint), endpoint)
            });
            Wanted::from([(vec![port.clone()], rows.collect())])
        };
        let template = json!({"metadata": {"labels": {}, "ownerReferences": []}});
        let made = plan(&template, Family::V4, endpoints(0..250), vec![]);
        let present: Vec<Value> = made
            .into_iter()
            .map(|action| match action {
                Action::Create(slice) => slice,
                other => panic!("{other:?}"),
            })
            .collect();
        let sizes: Vec<_> = present.iter().map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).collect();
        assert_eq!(sizes, [100, 100, 50]);
        assert!(plan(&template, Family::V4, endpoints(0..250), present.clone()).is_empty());
        assert_eq!(
            plan(&template, Family::V4, endpoints(1..251), present.clone()).len(),
            1,
            "the place is taken again"
        );
        assert_eq!(plan(&template, Family::V4, endpoints(0..251), present).len(), 1);
    }
}
