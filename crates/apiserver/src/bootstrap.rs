//! What every cluster has: namespaces, priority classes, the `kubernetes` service with its endpoints, and
//! the CA that clients are verified by.
//!
//! Written when the server starts, where it is missing; the endpoints also where they show another address. What clients
//! depend on is put back while the server runs.

mod keeper;

use std::net::SocketAddr;
use std::sync::Arc;

use api::{ApiError, Resource, resources};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use control::Body;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::authentication::{MASTERS, UserInfo, last_used};
use crate::authorization::policy;
use crate::config::StartError;
use crate::flow::defaults::AUTO_UPDATE;
use crate::request::body::RequestBody;
use crate::request::{Origin, Request, handle};
use crate::{Config, Server, flow};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// An object that every cluster has.
pub(super) struct Wanted {
    pub(super) resource: &'static Resource,
    pub(super) namespace: &'static str,
    pub(super) name: String,
    object: Value,
    /// The fields that are put right where they differ; fields that are not here are left alone.
    kept: &'static [&'static str],
    /// Whether it says since when it is there: then it is made with the day of its writing, and left alone while it says one.
    dated: bool,
    /// Whether it comes back when it is deleted or changed while the server runs.
    pub(super) watched: bool,
}

impl Wanted {
    fn new(
        resource: &'static Resource,
        namespace: &'static str,
        object: Value,
        kept: &'static [&'static str],
        watched: bool,
    ) -> Self {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Self { resource, namespace, name, object, kept, dated: false, watched }
    }
}

/// All of them, in the order in which they are written.
pub(super) fn wanted(config: &Config) -> Vec<Wanted> {
    let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let mut all: Vec<_> =
        NAMESPACES.iter().map(|name| Wanted::new(resources::NAMESPACES, "", namespace(name), &[], true)).collect();
    let levels = flow::defaults::levels().into_iter();
    all.extend(levels.map(|level| Wanted::new(resources::PRIORITY_LEVEL_CONFIGURATIONS, "", level, &["spec"], true)));
    let schemas = flow::defaults::schemas().into_iter();
    all.extend(schemas.map(|schema| Wanted::new(resources::FLOW_SCHEMAS, "", schema, &["spec"], true)));
    all.extend(priority_classes().map(|class| Wanted::new(resources::PRIORITY_CLASSES, "", class, &[], false)));
    let (services, slices) = (resources::SERVICES, resources::ENDPOINT_SLICES);
    all.push(Wanted::new(services, "default", service(config), &[], true));
    all.push(Wanted::new(slices, "default", endpoint_slice(config.advertise), &["endpoints", "ports"], true));
    all.push(Wanted::new(resources::ENDPOINTS, "default", endpoints(config.advertise), &["subsets"], true));
    all.push(Wanted::new(resources::CONFIG_MAPS, "kube-system", client_authentication(config), &["data"], true));
    all.push(Wanted::new(resources::CONFIG_MAPS, "kube-public", cluster_info(config), &["data"], true));
    let tracking = last_used::tracking(config.clock.now());
    let tracking = Wanted::new(resources::CONFIG_MAPS, "kube-system", tracking, &["data"], true);
    all.push(Wanted { dated: true, ..tracking });
    all
}

/// What servers that extend the API verify clients by; the role `extension-apiserver-authentication-reader` lets them read it.
fn client_authentication(config: &Config) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": String::from_utf8_lossy(&config.ca_pem)}})
}

/// Where the cluster is and by which CA it is known, for machines that join. Controllers sign it with bootstrap tokens.
fn cluster_info(config: &Config) -> Value {
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://{}\n  name: \"\"\n\
         contexts: null\ncurrent-context: \"\"\nkind: Config\nusers: null\n",
        STANDARD.encode(&config.ca_pem),
        config.advertise
    );
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": kubeconfig}})
}

fn priority_classes() -> impl Iterator<Item = Value> {
    let all = [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    all.into_iter().map(|(name, value, description)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description})
    })
}

/// Writes what is missing.
pub(crate) async fn write(server: &Arc<Server>) -> Result<(), StartError> {
    let all = wanted(&server.config);
    let (first, rest): (Vec<_>, Vec<_>) = all.iter().partition(|wanted| wanted.namespace.is_empty());
    for wanted in first {
        ensure(server, wanted).await?;
    }
    write_policy(server).await?;
    for wanted in rest {
        ensure(server, wanted).await?;
    }
    Ok(())
}

/// Puts back what is deleted or changed, as soon as it is.
pub(crate) fn keep(server: &Arc<Server>) {
    server.tasks.spawn("keeper of the cluster's own objects", keeper::run(server.clone(), server.stop.clone()));
}

/// Writes roles and bindings, and adds to those that are there what is missing in them.
async fn write_policy(server: &Arc<Server>) -> Result<(), StartError> {
    for (resource, wanted) in policy::objects() {
        let text = |field: &str| wanted["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let path = resource.path(Some(&namespace), Some(&name));
        let (status, found) = call(server, Method::GET, &path, Bytes::new()).await;
        let found: Option<Value> = status.is_success().then(|| serde_json::from_slice(&found).unwrap_or_default());
        let Some(next) = policy::reconcile(found.as_ref(), &wanted) else { continue };
        let (method, target) = match found {
            Some(_) => (Method::PUT, path.clone()),
            None => (Method::POST, resource.path(Some(&namespace), None)),
        };
        let (status, body) = call(server, method, &target, next.to_string().into()).await;
        if !status.is_success() && status != StatusCode::CONFLICT {
            return Err(StartError::Bootstrap { path, source: ApiError::from_response(status.as_u16(), &body) });
        }
    }
    Ok(())
}

/// Creates the object where it is missing, and puts the fields of it right that are to be kept.
pub(super) async fn ensure(server: &Arc<Server>, wanted: &Wanted) -> Result<(), StartError> {
    let path = wanted.resource.path(Some(wanted.namespace), Some(&wanted.name));
    let today = wanted.dated.then(|| last_used::tracking(server.config.clock.now()));
    let object = today.as_ref().unwrap_or(&wanted.object);
    let failed = |source: ApiError| StartError::Bootstrap { path: path.clone(), source };
    let (status, found) = call(server, Method::GET, &path, Bytes::new()).await;
    let (method, target, body) = match status {
        StatusCode::NOT_FOUND => (Method::POST, wanted.resource.path(Some(wanted.namespace), None), object.to_string()),
        status if !status.is_success() => return Err(failed(ApiError::from_response(status.as_u16(), &found))),
        _ => match corrected(&serde_json::from_slice(&found).unwrap_or_default(), wanted, object) {
            Some(corrected) => (Method::PUT, path.clone(), corrected.to_string()),
            None => return Ok(()),
        },
    };
    let (status, body) = call(server, method, &target, body.into()).await;
    // Another server of the cluster may have been first.
    let written = status.is_success() || status == StatusCode::CONFLICT;
    if written { Ok(()) } else { Err(failed(ApiError::from_response(status.as_u16(), &body))) }
}

/// The object as it is to be; `None` where it is so already, or an administrator has taken it over.
fn corrected(found: &Value, wanted: &Wanted, object: &Value) -> Option<Value> {
    if wanted.dated && last_used::says_since(found) {
        return None;
    }
    let ours = |object: &Value| object["metadata"]["annotations"][AUTO_UPDATE] == "true";
    let taken_over = ours(object) && !ours(found);
    let differs = |field: &&'static str| !covers(&found[*field], &object[*field]);
    if taken_over || found["metadata"]["deletionTimestamp"].is_string() || !wanted.kept.iter().any(differs) {
        return None;
    }
    let mut corrected = found.clone();
    for field in wanted.kept {
        corrected[*field] = object[*field].clone();
    }
    Some(corrected)
}

/// Whether everything that is wanted is there; defaults may have been added to it.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| found.get(name).is_some_and(|found| covers(found, value)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| covers(found, wanted))
        }
        _ => found == wanted,
    }
}

/// Does something as the server itself. A patch is a merge patch.
pub(crate) async fn call(server: &Arc<Server>, method: Method, path: &str, body: Bytes) -> (StatusCode, Bytes) {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(())
        .expect("bootstrap paths are URIs");
    let user = Arc::new(UserInfo::new("system:apiserver", &[MASTERS]));
    let (parts, ()) = request.into_parts();
    let answer =
        handle(server, Request { parts, body: RequestBody::Full(body), origin: Origin::Component(user) }).await;
    let status = answer.status();
    match answer.into_body() {
        Body::Full(body) => (status, body),
        Body::Stream(_) => (status, Bytes::new()),
    }
}

fn service(config: &Config) -> Value {
    let family = if config.service_cidr.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let address = config.service_cidr.hosts().next().map(|address| address.to_string()).unwrap_or_default();
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.advertise.port()}]}})
}

fn endpoint_slice(advertise: SocketAddr) -> Value {
    let family = if advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}]})
}

fn endpoints(advertise: SocketAddr) -> Value {
    json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": advertise.ip().to_string()}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}]}]})
}
