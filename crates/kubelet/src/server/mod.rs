//! The kubelet's own endpoints, for the API server and for those who watch nodes: logs, exec, attach, port forwarding, pods,
//! statistics, metrics, configuration.
//!
//! TLS, always; `access` decides who gets what. Connections, headers and queues are bounded. Paths and parameters are upstream's.

mod access;
mod logs;
mod metrics;
mod portforward;
mod stats;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object};
use base::metrics::Family;
use base::{Stop, chain};
use bytes::Bytes;
use cri::v1;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use self::access::{Access, User};
use crate::host::Host;
use crate::identity;

/// Connections at once; each follower of a log and each session is one.
const CONNECTIONS_MAX: usize = 512;
/// How long a client may take for its handshake and for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command of `/run` may take: its output is held until it ends.
const RUN_SECONDS_MAX: i64 = 120;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where the endpoints are served, and to whom.
pub struct ServerConfig {
    /// The socket.
    pub listener: TcpListener,
    /// Must verify the client certificates that are shown; a client without one shows a token.
    pub tls: Arc<rustls::ServerConfig>,
    /// The common names of client certificates that may do everything: the API server's.
    pub trusted_names: Vec<String>,
    /// What `/metrics` shows beside the kubelet's own.
    pub metrics: Vec<&'static dyn Family>,
}

/// Serves until `stop`; sessions and followed logs end with it.
pub(crate) async fn run(config: ServerConfig, host: Arc<Host>, stop: Stop) {
    let acceptor = TlsAcceptor::from(config.tls);
    let access = Arc::new(Access::new(host.node_name.clone(), host.client.clone(), config.trusted_names));
    let metrics: Arc<[&'static dyn Family]> = config.metrics.into();
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
        let (acceptor, stop, tasks) = (acceptor.clone(), stop.clone(), host.tasks.clone());
        let connection = Connection { stop: stop.clone(), _permit: Arc::new(permit) };
        let served = Served { host: host.clone(), access: access.clone(), metrics: metrics.clone() };
        tasks.spawn(format!("connection from {peer}"), async move {
            let served = stop.or_stopped(Box::pin(serve(stream, acceptor, served, connection))).await;
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

/// What all connections share.
#[derive(Clone)]
struct Served {
    host: Arc<Host>,
    access: Arc<Access>,
    metrics: Arc<[&'static dyn Family]>,
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    served: Served,
    connection: Connection,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await??;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| User::of(chain.first()?)).map(Arc::new);
    let service = service_fn(move |request: Request<Incoming>| {
        let (served, shown, connection) = (served.clone(), shown.clone(), connection.clone());
        async move {
            let allowed =
                served.access.check(shown.as_ref(), request.method(), request.uri().path(), request.headers()).await;
            let response = match allowed {
                Ok(()) => handle(&served, request, &connection).await,
                Err(Refusal(status, message)) => text(status, message),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await?;
    Ok(())
}

async fn handle(served: &Served, request: Request<Incoming>, connection: &Connection) -> Response<Body> {
    let host = &served.host;
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let get = request.method() == Method::GET;
    let answer = match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] if get => Ok(text(StatusCode::OK, "ok")),
        ["pods"] if get => Ok(pods(host.pods.all().iter().map(|pod| pod.json().to_owned()))),
        ["runningpods"] if get => running_pods(host).await,
        ["configz"] if get => Ok(json(configz(host).to_string())),
        ["stats", "summary"] if get => stats::summary(host).await,
        ["metrics"] if get => metrics::own(host, &served.metrics).await,
        ["metrics", "cadvisor"] if get => stats::cadvisor(host).await,
        ["metrics", "probes"] if get => Ok(metrics::probes(host)),
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
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
            if request.method() == Method::POST =>
        {
            run_command(host, namespace, pod, container, &query).await
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

/// A list of pods from their bytes.
fn pods(pods: impl Iterator<Item = impl AsRef<[u8]>>) -> Response<Body> {
    let mut body = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (index, pod) in pods.enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(pod.as_ref());
    }
    body.extend_from_slice(b"]}");
    json(body)
}

/// The pods that the runtime runs, whatever the API says, with what it knows of their containers.
async fn running_pods(host: &Host) -> Result<Response<Body>, Refusal> {
    let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
    let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
    let running = host.runtime.list_containers(Some(filter)).await;
    let running = running.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
    let mut containers: BTreeMap<identity::Identity, Vec<Value>> = BTreeMap::new();
    for container in running {
        let Some(pod) = identity::Identity::from_labels(&container.labels) else { continue };
        let name = container.labels.get(identity::CONTAINER_NAME).cloned().unwrap_or_default();
        let image = container.image.map(|image| image.user_specified_image).filter(|image| !image.is_empty());
        let image = image.unwrap_or(container.image_ref);
        containers.entry(pod).or_default().push(json!({"name": name, "image": image, "resources": {}}));
    }
    let list = containers.into_iter().map(|(pod, containers)| {
        let metadata = json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid});
        json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}}).to_string()
    });
    Ok(pods(list))
}

/// What was chosen about the node, in the words of upstream's configuration file. No secrets are among it.
fn configz(host: &Host) -> Value {
    let settings = &host.settings;
    let addresses: Vec<String> = host.cluster_dns.iter().map(ToString::to_string).collect();
    json!({"kubeletconfig": {
        "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true, "cacheTTL": "2m0s"}},
        "authorization": {"mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"}},
        "clusterDNS": addresses, "clusterDomain": host.cluster_domain,
        "maxPods": settings.pods_max, "staticPodPath": settings.manifests,
        "maxParallelImagePulls": settings.image_pulls_max,
        "imageGCHighThresholdPercent": settings.image_gc.high_percent,
        "imageGCLowThresholdPercent": settings.image_gc.low_percent,
        "imageMinimumGCAge": crate::status::go_duration(settings.image_gc.age_min.as_secs()),
        "imagePullCredentialsVerificationPolicy": settings.image_verification.name(),
        "evictionPressureTransitionPeriod": crate::status::go_duration(settings.eviction.transition.as_secs()),
        "containerLogMaxSize": settings.log_bytes_max.to_string(),
        "containerLogMaxFiles": settings.log_files_max,
        "allowedUnsafeSysctls": settings.unsafe_sysctls,
    }})
}

/// Runs a command in a container and answers with what it wrote.
async fn run_command(
    host: &Host,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let found = find_pod(host, namespace, pod)?;
    let runs = find_runs(host, &found, container).await?;
    let is_running = |run: &&v1::Container| run.state() == v1::ContainerState::ContainerRunning;
    let Some(run) = runs.iter().find(is_running) else {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")));
    };
    // Upstream splits one text at its spaces.
    let command = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let ran = host.runtime.exec_sync(&run.id, command, RUN_SECONDS_MAX).await;
    let ran = ran.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
    let output = [&ran.stdout[..], &ran.stderr[..]].concat();
    match ran.exit_code {
        0 => Ok(text(StatusCode::OK, String::from_utf8_lossy(&output))),
        code => {
            let message = format!("command '{}' exited with {code}: ", query.get("cmd").unwrap_or_default());
            Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, message + &String::from_utf8_lossy(&output)))
        }
    }
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
