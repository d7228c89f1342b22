//! The kubelet's own endpoints, for the API server: logs, exec, attach, port forwarding, statistics.
//!
//! TLS with a client certificate, always; a client whose name is not on the list gets 403 for everything. Connections,
//! headers and queues are bounded. Paths and parameters are upstream's.

mod logs;
mod portforward;
mod stats;
mod streams;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object};
use base::{Stop, chain};
use bytes::Bytes;
use cri::v1;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::host::Host;
use crate::identity;

/// Connections at once; each follower of a log and each session is one.
const CONNECTIONS_MAX: usize = 512;
/// How long a client may take for its handshake and for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where the endpoints are served, and to whom.
pub struct ServerConfig {
    /// The socket.
    pub listener: TcpListener,
    /// Must ask for client certificates and verify them.
    pub tls: Arc<rustls::ServerConfig>,
    /// The common names of client certificates that are let in.
    pub allowed_names: Vec<String>,
}

/// Serves until `stop`; sessions and followed logs end with it.
pub(crate) async fn run(config: ServerConfig, host: Arc<Host>, stop: Stop) {
    let acceptor = TlsAcceptor::from(config.tls);
    let allowed: Arc<[String]> = config.allowed_names.into();
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // A client that finds no free connection waits in the socket's own queue.
        let Some(Ok(permit)) = stop.or_stopped(connections.clone().acquire_owned()).await else { return };
        let Some(accepted) = stop.or_stopped(config.listener.accept()).await else { return };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, allowed, host, stop) = (acceptor.clone(), allowed.clone(), host.clone(), stop.clone());
        let connection = Connection { stop: stop.clone(), _permit: Arc::new(permit) };
        let tasks = host.tasks.clone();
        tasks.spawn(format!("connection from {peer}"), async move {
            let served = stop.or_stopped(Box::pin(serve(stream, acceptor, allowed, host, connection))).await;
            if let Some(Err(error)) = served {
                tracing::debug!(%peer, error = chain(&*error), "a connection ended");
            }
        });
    }
}

/// Held by whatever goes on over a connection, also after it was upgraded: it counts until the last of it has ended.
#[derive(Clone)]
struct Connection {
    stop: Stop,
    _permit: Arc<OwnedSemaphorePermit>,
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    allowed: Arc<[String]>,
    host: Arc<Host>,
    connection: Connection,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await??;
    let name = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
    let allowed = name.as_ref().is_some_and(|name| allowed.contains(name));
    let name: Arc<str> = name.unwrap_or_default().into();
    let service = service_fn(move |request| {
        let (host, name, connection) = (host.clone(), name.clone(), connection.clone());
        async move {
            let response = if allowed {
                handle(&host, request, &connection).await
            } else {
                text(StatusCode::FORBIDDEN, format!("Forbidden (user={name})"))
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await?;
    Ok(())
}

fn common_name(certificate: &rustls_pki_types::CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some(name)
}

async fn handle(host: &Arc<Host>, request: Request<Incoming>, connection: &Connection) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let get = request.method() == Method::GET;
    let answer = match parts.as_slice() {
        ["healthz"] if get => Ok(text(StatusCode::OK, "ok")),
        ["pods"] if get => Ok(pods(host)),
        ["stats", "summary"] if get => stats::summary(host).await,
        ["metrics", "resource"] if get => stats::metrics(host).await,
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(host, namespace, pod, container, &query, connection).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            streams::exec(host, namespace, pod, container, &query, request, connection).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            streams::attach(host, namespace, pod, container, &query, request, connection).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            portforward::serve(host, namespace, pod, &query, request, connection).await
        }
        _ => Err(Refusal(StatusCode::NOT_FOUND, "404 page not found".to_owned())),
    };
    answer.unwrap_or_else(|Refusal(status, message)| text(status, message))
}

/// An answer that is not what was asked for.
#[derive(Debug)]
struct Refusal(StatusCode, String);

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(message.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The pods of the node, as their bytes.
fn pods(host: &Host) -> Response<Body> {
    let mut body = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (index, pod) in host.pods.all().iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(pod.json());
    }
    body.extend_from_slice(b"]}");
    json(body)
}

fn find_pod(host: &Host, namespace: &str, pod: &str) -> Result<Object, Refusal> {
    let found = host.pods.get(&Key::new(namespace, pod));
    found.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found")))
}

/// The runs of a container of a pod, the newest first.
async fn find_runs(host: &Host, pod: &Object, container: &str) -> Result<Vec<v1::Container>, Refusal> {
    let uid = identity::Identity::of(pod).uid;
    let labels = [(identity::POD_UID, uid.as_str()), (identity::CONTAINER_NAME, container)];
    let label_selector: HashMap<_, _> = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
    let filter = v1::ContainerFilter { label_selector, ..Default::default() };
    let listed = host.runtime.list_containers(Some(filter)).await;
    let mut runs = listed.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
    let attempt =
        |run: &v1::Container| run.annotations.get(identity::RESTART_COUNT).and_then(|count| count.parse::<u32>().ok());
    runs.sort_by_key(|run| std::cmp::Reverse(attempt(run).or(run.metadata.as_ref().map(|metadata| metadata.attempt))));
    Ok(runs)
}

/// The parameters of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    fn is_set(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true" | "True" | "t" | "T" | "TRUE")))
    }
}

/// `%2F` and `+`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                match std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = after;
                    }
                    None => bytes.push(b'%'),
                }
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
