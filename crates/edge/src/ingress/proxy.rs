//! One request: where it goes, what is said of its client, what comes back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, EXPECT, FORWARDED, HOST, HeaderName, LOCATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::Shared;
use super::metrics::REQUESTS;
use super::routes::Route;
use super::upstream::{Answer, Connection, Endpoint, Lease, Outgoing, Protocol, SendError};

/// How long a pod may take to begin its answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How many addresses a request is tried at.
const TRIES_MAX: usize = 4;

/// Headers that are between two neighbours only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 4] =
    [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// What a client may not say of itself: pods believe it.
const OURS: [HeaderName; 6] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
    FORWARDED,
];

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    pub(super) tls: bool,
    pub(super) port: u16,
}

/// Why a request is answered here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    Status(StatusCode, &'static str),
    ToHttps(String),
}

/// Answers a request.
pub(super) async fn answer(shared: &Arc<Shared>, client: Client, request: Request<Incoming>) -> Response<Answer> {
    let answered = match route(shared, client, &request) {
        Ok((route, host)) => pass(shared, client, route, &host, request).await,
        Err(refusal) => Err(refusal),
    };
    let response = answered.unwrap_or_else(|refusal| refused(&refusal));
    REQUESTS.with([response.status().as_str()]).inc();
    response
}

fn refused(refusal: &Refusal) -> Response<Answer> {
    let (status, text, location) = match refusal {
        Refusal::Status(status, text) => (*status, *text, None),
        Refusal::ToHttps(to) => (StatusCode::PERMANENT_REDIRECT, "", HeaderValue::from_str(to).ok()),
    };
    let body = if text.is_empty() { Bytes::new() } else { Bytes::from(format!("{} {text}\n", status.as_u16())) };
    let mut response = Response::new(Answer::Own(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    location.and_then(|location| response.headers_mut().insert(LOCATION, location));
    response
}

/// The host that a request is for: of the target, else of the one header. Both are taken as they are, with their port.
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.clone());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next()?;
    // With two of them the pod could believe the other one.
    hosts.next().is_none().then(|| Authority::try_from(host.as_bytes()).ok()).flatten()
}

fn route<B>(shared: &Shared, client: Client, request: &Request<B>) -> Result<(Route, Authority), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Status(StatusCode::METHOD_NOT_ALLOWED, "this is no forward proxy"));
    }
    let wrong = Refusal::Status(StatusCode::BAD_REQUEST, "the request names no host, or not one");
    let authority = authority(request).filter(|authority| !authority.as_str().contains('@')).ok_or(wrong)?;
    if !shared.is_ready() {
        return Err(Refusal::Status(StatusCode::SERVICE_UNAVAILABLE, "the ingress controller is starting"));
    }
    let (route, redirects) = shared.routes().route(authority.host(), request.uri().path());
    if let (true, false, Some(port)) = (redirects, client.tls, shared.https_port) {
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        return Err(Refusal::ToHttps(format!("https://{}{port}{target}", authority.host())));
    }
    Ok((route, authority))
}

async fn pass(
    shared: &Arc<Shared>,
    client: Client,
    route: Route,
    host: &Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let backend = match route {
        Route::To(backend) => backend,
        Route::Unserved => return Err(unavailable("the backend is no Service, and others are not served")),
        Route::Nowhere => return Err(Refusal::Status(StatusCode::NOT_FOUND, "no Ingress has this host and path")),
    };
    let pool = shared.pool(&backend);
    let upgrade = wants_upgrade(&request)
        .then(|| Upgrade { to: request.headers()[UPGRADE].clone(), client: hyper::upgrade::on(&mut request) });
    prepare(client, host, upgrade.as_ref().map(|upgrade| &upgrade.to), &mut request);
    let mut request = request.map(Outgoing::Client);
    // What has no body and changes nothing, or changes it to the same, may be said twice.
    let again = request.method().is_idempotent() && request.body().is_end_stream() && upgrade.is_none();
    let mut tried = Vec::new();
    let mut failed = unavailable("the Service has no endpoint that is ready");
    while tried.len() < TRIES_MAX {
        let Some(endpoint) = Endpoint::choose(&pool.endpoints, &tried, &shared.random) else { break };
        tried.push(endpoint.address);
        let (connection, reused) = match endpoint.connect(&shared.tasks).await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::debug!(error = base::chain(&error), "a pod is passed over");
                failed = bad_gateway("no endpoint of the Service takes connections");
                continue;
            }
        };
        aim(&mut request, endpoint, host);
        let copy = again.then(|| copy(&request));
        match send(connection, request).await? {
            Ok((response, lease)) => return Ok(passed_back(shared, upgrade, response, lease)),
            Err(SendError::Unsent(back)) => request = *back,
            Err(SendError::Sent(error)) => {
                tracing::debug!(%error, address = %endpoint.address, "a pod failed to answer");
                failed = bad_gateway("the endpoint closed the connection without an answer");
                let Some(copy) = copy else { break };
                request = copy;
            }
        }
        if reused {
            // A connection that was idle may have been closed just then: the address gets another chance.
            tried.pop();
        }
    }
    Err(failed)
}

fn unavailable(text: &'static str) -> Refusal {
    Refusal::Status(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn bad_gateway(text: &'static str) -> Refusal {
    Refusal::Status(StatusCode::BAD_GATEWAY, text)
}

fn copy(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut copy = Request::new(Outgoing::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

type Sent = Result<(Response<Incoming>, Lease), SendError>;

async fn send(connection: Connection, request: Request<Outgoing>) -> Result<Sent, Refusal> {
    let late = Refusal::Status(StatusCode::GATEWAY_TIMEOUT, "the endpoint did not begin to answer in time");
    tokio::time::timeout(ANSWER_MAX, connection.send(request)).await.map_err(|_| late)
}

/// A client that wants another protocol on its connection, such as a WebSocket.
struct Upgrade {
    to: HeaderValue,
    client: OnUpgrade,
}

fn wants_upgrade<B>(request: &Request<B>) -> bool {
    let named = request.headers().get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut named = named.flat_map(|value| value.split(','));
    request.version() == Version::HTTP_11
        && request.headers().contains_key(UPGRADE)
        && named.any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
}

/// Takes out what is not meant for the pod, and says who asks.
fn prepare<B>(client: Client, host: &Authority, upgrade: Option<&HeaderValue>, request: &mut Request<B>) {
    let headers = request.headers_mut();
    let trailers = headers.get(TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    for name in [TE, EXPECT, UPGRADE].iter().chain(&OURS) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    let [forwarded_for, proto, forwarded_host, port, real_ip, _] = OURS;
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let ip = client.ip.to_canonical().to_string();
    for (name, value) in [
        (forwarded_for, text(&ip)),
        (real_ip, text(&ip)),
        (proto, Some(HeaderValue::from_static(if client.tls { "https" } else { "http" }))),
        (forwarded_host, text(host.as_str())),
        (port, Some(HeaderValue::from(client.port))),
    ] {
        value.and_then(|value| headers.insert(name, value));
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<HeaderName> = named
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Who lists these wants to hide them from the pod.
        .filter(|name| *name != HOST && !OURS.contains(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Gives a request the form that the endpoint's protocol has.
fn aim(request: &mut Request<Outgoing>, endpoint: &Endpoint, host: &Authority) {
    let target = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let host_value = HeaderValue::from_str(host.as_str()).ok();
    if endpoint.protocol == Protocol::Http2 {
        let mut parts = http::uri::Parts::default();
        (parts.scheme, parts.authority, parts.path_and_query) = (Some(Scheme::HTTP), Some(host.clone()), Some(target));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = Version::HTTP_2;
        for name in [HOST, CONNECTION, UPGRADE] {
            request.headers_mut().remove(name);
        }
    } else {
        *request.uri_mut() = target.into();
        *request.version_mut() = Version::HTTP_11;
        host_value.and_then(|host| request.headers_mut().insert(HOST, host));
    }
}

fn passed_back(
    shared: &Arc<Shared>,
    upgrade: Option<Upgrade>,
    mut response: Response<Incoming>,
    lease: Lease,
) -> Response<Answer> {
    let protocol = response.headers().get(UPGRADE).cloned();
    remove_hop_by_hop(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else { return refused(&bad_gateway("the endpoint changes a protocol unasked")) };
        let (pod, client) = (hyper::upgrade::on(&mut response), upgrade.client);
        shared.tasks.spawn("upgraded connection", async move {
            let _lease = lease;
            match tokio::try_join!(client, pod) {
                Ok((client, pod)) => {
                    let (mut client, mut pod) = (TokioIo::new(client), TokioIo::new(pod));
                    // Either side may go without a word.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
                }
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
        });
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.unwrap_or(upgrade.to));
        return response.map(|_| Answer::Own(http_body_util::Full::default()));
    }
    response.headers_mut().remove(UPGRADE);
    response.map(|body| Answer::passed(body, lease))
}
