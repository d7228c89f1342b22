//! What is forwarded: logs, exec, attach and port-forward to the pod's kubelet, and the proxy subresources of nodes, pods
//! and services.
//!
//! Upgraded connections (WebSocket, SPDY) are passed through byte for byte: the server understands nothing of them and
//! keeps nothing of them. Where a node does not know what its client speaks, [`sessions`] translates.

mod sessions;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::{ApiError, Key, Object, Reason, resources};
use bytes::Bytes;
use control::{Body, TransportError};
use futures::StreamExt;
use http::header::{AUTHORIZATION, CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use streams::BoxDuplex;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::admission::Operation;
use crate::request::body::RequestBody;
use crate::request::info::Target;
use crate::request::respond::Answer;
use crate::request::{Call, Request, write};
use crate::server::Server;

/// A kubelet or pod that does not answer is given up on.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How much of a kubelet's document is read: some kilobytes for each of its pods.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// How much of a kubelet's error is read.
const ERROR_BYTES_MAX: usize = 16 * 1024;

type Outgoing = UnsyncBoxBody<Bytes, hyper::Error>;

/// Whether a request is one to forward.
pub(crate) fn serves(target: &Target) -> bool {
    let forwarded: &[&str] = match (&*target.group, &*target.resource) {
        ("", "pods") => &["log", "exec", "attach", "portforward", "proxy"],
        ("", "nodes" | "services") => &["proxy"],
        _ => &[],
    };
    forwarded.contains(&&*target.subresource) && !target.name.is_empty()
}

/// Whether a request begins a session: whoever may only `get` must not, whatever its method.
pub(crate) fn begins_session(target: &Target) -> bool {
    &*target.resource == "pods" && matches!(&*target.subresource, "exec" | "attach" | "portforward") && serves(target)
}

/// Where a request is forwarded to.
struct Destination {
    address: SocketAddr,
    /// Whether the other side speaks TLS, and is shown the server's own certificate (kubelets only).
    security: Security,
    path_and_query: String,
    /// Whether the other side says that it knows all that is spoken over WebSocket.
    websockets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Kubelet,
    Plain,
}

/// Answers a forwarded request.
pub(crate) async fn answer(call: Call, request: Request) -> Result<Answer, ApiError> {
    let subresource = call.target.subresource.clone();
    let destination = match (&*call.served.resource.plural, &*subresource) {
        ("pods", "proxy") => pod_proxy(&call, &request).await?,
        ("services", "proxy") => service_proxy(&call, &request).await?,
        ("nodes", _) => node_proxy(&call, &request).await?,
        _ => {
            let pod = object(&call, resources::PODS, &call.key()).await?;
            admit(&call).await?;
            match pod_stream(&call, &pod.to_value()).await? {
                Some(destination) => match sessions::translation(&call, &destination) {
                    Some(translation) => return translation.answer(&call, destination, request).await,
                    None => destination,
                },
                // The logs of a pod that runs nowhere yet are empty.
                None => return Ok(crate::request::respond::text(StatusCode::OK, Bytes::new())),
            }
        }
    };
    let is_log = subresource == "log";
    if is_log && streams::websocket::is_asked(&call.headers) {
        return sessions::log(&call, destination, request).await;
    }
    forward(&call, destination, request, is_log).await
}

async fn admit(call: &Call) -> Result<(), ApiError> {
    let context = call.context(false);
    let key = call.key();
    let attempt = write::attempt(call, &context, Operation::Connect, &key, None);
    write::validate(call, &attempt, &Value::Null).await
}

async fn object(call: &Call, resource: &'static api::Resource, key: &Key) -> Result<Object, ApiError> {
    let cache = call.server.caches.of(resource).await?;
    call.server.caches.fresh().await;
    cache.get(key).ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &key.name))
}

/// The kubelet's path for a pod's logs and streams; `None` for the logs of a pod without a node.
async fn pod_stream(call: &Call, pod: &Value) -> Result<Option<Destination>, ApiError> {
    let subresource = &*call.target.subresource;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let key = call.key();
    let container = match subresource {
        "portforward" => String::new(),
        _ => format!("/{}", container(call, pod)?),
    };
    if node.is_empty() {
        let message = format!("pod {} does not have a host assigned", key.name);
        return if subresource == "log" { Ok(None) } else { Err(ApiError::new(Reason::BadRequest, message)) };
    }
    let (endpoint, names): (_, &[(&str, &str)]) = match subresource {
        "log" => ("containerLogs", LOG_PARAMETERS),
        "portforward" => ("portForward", &[("ports", "port")]),
        name => (name, STREAM_PARAMETERS),
    };
    let query: Vec<String> = names
        .iter()
        .flat_map(|(ours, theirs)| {
            call.query.all(ours).map(move |value| format!("{theirs}={}", encode(&flag(ours, value))))
        })
        .collect();
    let path = format!("/{endpoint}/{}/{}{container}?{}", key.namespace, key.name, query.join("&"));
    kubelet(call, node, path).await.map(Some)
}

const LOG_PARAMETERS: &[(&str, &str)] = &[
    ("follow", "follow"),
    ("previous", "previous"),
    ("sinceSeconds", "sinceSeconds"),
    ("sinceTime", "sinceTime"),
    ("timestamps", "timestamps"),
    ("tailLines", "tailLines"),
    ("limitBytes", "limitBytes"),
    ("stream", "stream"),
];

const STREAM_PARAMETERS: &[(&str, &str)] =
    &[("command", "command"), ("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// The kubelet knows the streams' flags as `1`.
fn flag(name: &str, value: &str) -> String {
    match name {
        "stdin" | "stdout" | "stderr" | "tty" => {
            let unset = matches!(value, "" | "0") || value.eq_ignore_ascii_case("false");
            u8::from(!unset).to_string()
        }
        _ => value.to_owned(),
    }
}

/// The container that is meant: the named one, or the only one, or the one that the pod names as its default.
fn container(call: &Call, pod: &Value) -> Result<String, ApiError> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let names = |list: &str| {
        pod["spec"][list].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str())
    };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(asked) = call.query.get("container") {
        if lists.iter().any(|list| names(list).any(|known| known == asked)) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::new(Reason::BadRequest, format!("container {asked} is not valid for pod {name}")));
    }
    let all: Vec<&str> = names("containers").collect();
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (&all[..], default.filter(|default| all.contains(default))) {
        ([only], _) => Ok((*only).to_owned()),
        (_, Some(default)) => Ok(default.to_owned()),
        _ => {
            let message =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", all.join(" "));
            Err(ApiError::new(Reason::BadRequest, message))
        }
    }
}

async fn kubelet(call: &Call, node: &str, path_and_query: String) -> Result<Destination, ApiError> {
    let node = object(call, resources::NODES, &Key::new("", node)).await?.to_value();
    let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let of_type = |kind: &str| addresses.iter().find(|address| address["type"] == kind);
    let ip =
        ["InternalIP", "ExternalIP"].iter().find_map(|kind| of_type(kind)?["address"].as_str()?.parse::<IpAddr>().ok());
    let port =
        node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let ip = ip.ok_or_else(|| {
        ApiError::new(
            Reason::ServiceUnavailable,
            format!("node {name:?} has no address that its kubelet can be reached at"),
        )
    })?;
    let features = node["status"]["declaredFeatures"].as_array().into_iter().flatten();
    Ok(Destination {
        address: SocketAddr::new(ip, port.unwrap_or(10250)),
        security: Security::Kubelet,
        path_and_query,
        websockets: features.into_iter().any(|feature| feature == "ExtendWebSocketsToKubelet"),
    })
}

/// Asks a node's kubelet for a document.
pub(crate) async fn fetch(call: &Call, node: &str, path: &str) -> Result<Bytes, ApiError> {
    let destination = kubelet(call, node, path.to_owned()).await?;
    let empty: Outgoing = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    let mut request = http::Request::new(empty);
    let wrong = |error: http::uri::InvalidUri| ApiError::new(Reason::InternalError, error.to_string());
    *request.uri_mut() = destination.path_and_query.parse().map_err(wrong)?;
    *request.headers_mut() = outgoing_headers(&HeaderMap::new(), destination.address, false);
    let response = send(call, &destination, request).await.map_err(|error| unreachable(&destination, &error))?;
    if !response.status().is_success() {
        return Err(kubelet_error(response).await);
    }
    let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await;
    let unread = |error: Box<dyn std::error::Error + Send + Sync>| {
        let message = format!("cannot read the answer of the kubelet at {}: {error}", destination.address);
        ApiError::new(Reason::ServiceUnavailable, message)
    };
    Ok(body.map_err(unread)?.to_bytes())
}

/// A node's kubelet or, where another port is named, whatever listens there on its address.
async fn node_proxy(call: &Call, request: &Request) -> Result<Destination, ApiError> {
    let (_, name, port) = split_target(&call.target.name);
    let kubelet = kubelet(call, name, rest(call, request)).await?;
    if port.is_empty() || port == kubelet.address.port().to_string() {
        return Ok(kubelet);
    }
    let port = port
        .parse()
        .map_err(|_| ApiError::new(Reason::BadRequest, format!("invalid node request {:?}", call.target.name)))?;
    let address = SocketAddr::new(kubelet.address.ip(), port);
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        return Err(ApiError::new(Reason::BadRequest, format!("address not allowed for node {name:?}")));
    }
    Ok(Destination { address, security: Security::Plain, websockets: false, ..kubelet })
}

/// `name`, `name:port` or `scheme:name:port`, as the proxy subresources name their target.
fn split_target(name: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = name.split(':').collect();
    match parts[..] {
        [scheme, name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", name, ""),
    }
}

async fn pod_proxy(call: &Call, request: &Request) -> Result<Destination, ApiError> {
    let (_, name, port) = split_target(&call.target.name);
    let pod = object(call, resources::PODS, &Key::new(&*call.target.namespace, name)).await?.to_value();
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok());
    let ip: IpAddr =
        ip.ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, format!("address not allocated for pod {name:?}")))?;
    let declared = &pod["spec"]["containers"][0]["ports"][0]["containerPort"];
    let port = port.parse().ok().or_else(|| declared.as_u64().and_then(|port| u16::try_from(port).ok())).unwrap_or(80);
    Ok(Destination {
        address: SocketAddr::new(ip, port),
        security: Security::Plain,
        path_and_query: rest(call, request),
        websockets: false,
    })
}

/// A service's proxy picks one of its ready endpoints.
async fn service_proxy(call: &Call, request: &Request) -> Result<Destination, ApiError> {
    let (_, name, port) = split_target(&call.target.name);
    let key = Key::new(&*call.target.namespace, name);
    let service = object(call, resources::SERVICES, &key).await?.to_value();
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let matching = ports.iter().find(|candidate| {
        port.is_empty()
            || candidate["name"] == port
            || candidate["port"].as_u64().is_some_and(|number| number.to_string() == port)
    });
    let unavailable =
        || ApiError::new(Reason::ServiceUnavailable, format!("no endpoints available for service {name:?}"));
    let port_name = matching.ok_or_else(unavailable)?["name"].as_str().unwrap_or_default().to_owned();
    let cache = call.server.caches.of(resources::ENDPOINT_SLICES).await?;
    let snapshot = call.server.caches.snapshot(&cache);
    let slices = snapshot
        .entries(Some(&key.namespace))
        .filter(|entry| entry.object.label("kubernetes.io/service-name") == Some(name))
        .map(|entry| entry.object.to_value());
    let targets: Vec<SocketAddr> = slices.flat_map(|slice| ready_targets(&slice, &port_name)).collect();
    let chosen = targets.get(call.server.config.random.below(targets.len())).ok_or_else(unavailable)?;
    let path_and_query = rest(call, request);
    Ok(Destination { address: *chosen, security: Security::Plain, path_and_query, websockets: false })
}

fn ready_targets(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let port = slice["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|port| port["name"].as_str().unwrap_or_default() == port_name);
    let Some(port) = port.and_then(|port| port["port"].as_u64()).and_then(|port| u16::try_from(port).ok()) else {
        return Vec::new();
    };
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    ready.filter_map(|endpoint| Some(SocketAddr::new(endpoint["addresses"][0].as_str()?.parse().ok()?, port))).collect()
}

/// What follows `/proxy` in the request's own spelling. The names before it may begin with the same word.
fn rest(call: &Call, request: &Request) -> String {
    debug_assert_eq!(call.target.subresource, "proxy");
    // `/api/v1/nodes/NAME/proxy` or `/api/v1/namespaces/NAMESPACE/pods/NAME/proxy`.
    let before = if call.target.namespace.is_empty() { 6 } else { 8 };
    let after = request.parts.uri.path().splitn(before + 1, '/').nth(before).unwrap_or_default();
    request.parts.uri.query().map_or_else(|| format!("/{after}"), |query| format!("/{after}?{query}"))
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

async fn forward(
    call: &Call,
    destination: Destination,
    mut request: Request,
    is_log: bool,
) -> Result<Answer, ApiError> {
    let upgrade = request.parts.extensions.remove::<OnUpgrade>();
    let headers = outgoing_headers(&call.headers, destination.address, upgrade.is_some());
    let body: Outgoing = match request.body {
        RequestBody::Full(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
        RequestBody::Incoming(incoming) => incoming.boxed_unsync(),
    };
    let method = if is_log { Method::GET } else { request.parts.method.clone() };
    let mut outgoing = http::Request::new(body);
    *outgoing.method_mut() = method;
    *outgoing.uri_mut() = destination.path_and_query.parse().map_err(|error| {
        ApiError::new(Reason::BadRequest, format!("cannot forward to {}: {error}", destination.path_and_query))
    })?;
    *outgoing.headers_mut() = headers;
    let response = send(call, &destination, outgoing).await.map_err(|error| unreachable(&destination, &error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return pass_through(call, upgrade, response);
    }
    if is_log && !response.status().is_success() {
        return Err(kubelet_error(response).await);
    }
    Ok(relayed(response, destination.address))
}

fn unreachable(destination: &Destination, error: &(dyn std::error::Error + 'static)) -> ApiError {
    let message = format!("error trying to reach {}: {}", destination.address, base::chain(error));
    ApiError::new(Reason::ServiceUnavailable, message)
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("no connection in {} s", CONNECT_MAX.as_secs())]
    Timeout,
    #[error("cannot connect")]
    Connect(#[from] std::io::Error),
    #[error("the request failed")]
    Request(#[from] hyper::Error),
}

async fn send(
    call: &Call,
    destination: &Destination,
    request: http::Request<Outgoing>,
) -> Result<Response<Incoming>, SendError> {
    let stream = connect(&call.server, destination).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    call.server.tasks.spawn("forwarded connection", async move {
        // Its end is the end of the answer's body, where errors are seen.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a forwarded connection ended with an error");
        }
    });
    Ok(sender.send_request(request).await?)
}

async fn connect(server: &Server, destination: &Destination) -> Result<BoxDuplex, SendError> {
    let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(destination.address));
    let stream = connecting.await.map_err(|_| SendError::Timeout)??;
    let _ = stream.set_nodelay(true);
    if destination.security == Security::Plain {
        return Ok(BoxDuplex::new(stream));
    }
    let mut config = (*server.config.kubelet_client).clone();
    // Upgrades are HTTP/1.1's.
    config.alpn_protocols.clear();
    let name = ServerName::IpAddress(destination.address.ip().into());
    let handshake = tokio::time::timeout(CONNECT_MAX, TlsConnector::from(Arc::new(config)).connect(name, stream));
    Ok(BoxDuplex::new(handshake.await.map_err(|_| SendError::Timeout)??))
}

/// The client's headers without those that are about its own connection or its credentials.
fn outgoing_headers(headers: &HeaderMap, address: SocketAddr, upgrade: bool) -> HeaderMap {
    let mut out = headers.clone();
    out.remove(AUTHORIZATION);
    out.remove(TRANSFER_ENCODING);
    for name in ["impersonate-user", "impersonate-group", "impersonate-uid", "keep-alive", "te", "trailer"] {
        out.remove(name);
    }
    if upgrade {
        out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        out.remove(CONNECTION);
        out.remove(UPGRADE);
    }
    out.insert(HOST, HeaderValue::from_str(&address.to_string()).expect("an address is header text"));
    out
}

/// Joins the client's and the kubelet's connections when both have switched protocols.
fn pass_through(call: &Call, client: Option<OnUpgrade>, mut response: Response<Incoming>) -> Result<Answer, ApiError> {
    let Some(client) = client else {
        return Err(ApiError::new(Reason::BadRequest, "Upgrade request required"));
    };
    let other = hyper::upgrade::on(&mut response);
    let stop = call.server.stop.clone();
    call.server.tasks.spawn("upgraded connection", async move {
        let both = async { tokio::try_join!(client, other) };
        let (client, other) = match both.await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a connection did not switch protocols"),
        };
        let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
        // Either side may just close: that is how most sessions end.
        let _ = stop.or_stopped(copy_bidirectional(&mut client, &mut other)).await;
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, Body::Full(Bytes::new())))
}

async fn kubelet_error(response: Response<Incoming>) -> ApiError {
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let mut error = ApiError::from_response(code, &body);
    if let Some(text) = error.message.strip_prefix(&format!("HTTP {code}: ")) {
        error.message = text.trim_end().to_owned();
    }
    error
}

fn relayed(response: Response<Incoming>, address: SocketAddr) -> Answer {
    let (mut parts, body) = response.into_parts();
    for name in [CONNECTION, TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let pieces = BodyStream::new(body).filter_map(move |frame| {
        let piece = match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(TransportError { server: address.to_string(), source: error.into() })),
        };
        std::future::ready(piece)
    });
    Response::from_parts(parts, Body::Stream(pieces.boxed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Python client writes `tty=False`, got a terminal for it, and its output came with carriage returns.
    #[test]
    fn flags_are_read_as_upstream_reads_them() {
        for (value, expected) in [("False", "0"), ("false", "0"), ("0", "0"), ("", "0"), ("True", "1"), ("1", "1")] {
            assert_eq!(flag("tty", value), expected, "{value:?}");
        }
        assert_eq!(flag("container", "False"), "False");
    }
}
