//! What every cluster has: namespaces, priority classes, and the `kubernetes` service with its endpoints.
//!
//! Written when the server starts, where it is missing; the endpoints also where they show another address.

use std::net::SocketAddr;
use std::sync::Arc;

use api::ApiError;
use bytes::Bytes;
use control::Body;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::authentication::{MASTERS, UserInfo};
use crate::authorization::policy;
use crate::config::StartError;
use crate::request::body::RequestBody;
use crate::request::{Origin, Request, handle};
use crate::{Config, Server};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing.
pub(crate) async fn write(server: &Arc<Server>) -> Result<(), StartError> {
    for name in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(server, "/api/v1/namespaces", name, object, &[]).await?;
    }
    for (name, value, description) in [
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
    ] {
        let object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description});
        ensure(server, "/apis/scheduling.k8s.io/v1/priorityclasses", name, object, &[]).await?;
    }
    write_policy(server).await?;
    let config = &server.config;
    ensure(server, "/api/v1/namespaces/default/services", "kubernetes", service(config), &[]).await?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    ensure(server, slices, "kubernetes", endpoint_slice(config.advertise), &["endpoints", "ports"]).await?;
    ensure(server, "/api/v1/namespaces/default/endpoints", "kubernetes", endpoints(config.advertise), &["subsets"])
        .await
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

/// Creates the object where it is missing, and changes those `fields` of it that differ.
async fn ensure(
    server: &Arc<Server>,
    collection: &str,
    name: &str,
    object: Value,
    fields: &[&str],
) -> Result<(), StartError> {
    let path = format!("{collection}/{name}");
    let failed = |source: ApiError| StartError::Bootstrap { path: path.clone(), source };
    let (status, found) = call(server, Method::GET, &path, Bytes::new()).await;
    if status == StatusCode::NOT_FOUND {
        let (status, body) = call(server, Method::POST, collection, object.to_string().into()).await;
        // Another server of the cluster may have been first.
        let written = status.is_success() || status == StatusCode::CONFLICT;
        return if written { Ok(()) } else { Err(failed(ApiError::from_response(status.as_u16(), &body))) };
    }
    if !status.is_success() {
        return Err(failed(ApiError::from_response(status.as_u16(), &found)));
    }
    let mut found: Value = serde_json::from_slice(&found).unwrap_or_default();
    if fields.iter().all(|field| found[*field] == object[*field]) {
        return Ok(());
    }
    for field in fields {
        found[*field] = object[*field].clone();
    }
    let (status, body) = call(server, Method::PUT, &path, found.to_string().into()).await;
    if status.is_success() { Ok(()) } else { Err(failed(ApiError::from_response(status.as_u16(), &body))) }
}

async fn call(server: &Arc<Server>, method: Method, path: &str, body: Bytes) -> (StatusCode, Bytes) {
    let request = http::Request::builder().method(method).uri(path).body(()).expect("bootstrap paths are URIs");
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
    let address = config.service_cidr.hosts().next().map(|address| address.to_string()).unwrap_or_default();
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
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
