//! Health check node ports: where balancers outside ask whether a Service with `externalTrafficPolicy: Local` has endpoints
//! on this node. Upstream's answer, to any request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::Key;
use base::{Stop, Tasks};
use http::{Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// How many balancers may ask one port at a time; without a limit, idle connections would use up the descriptors.
const CONNECTIONS_MAX: usize = 64;

/// How long a request's head may take to arrive.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// What a port tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Health {
    service: Key,
    local_endpoints: usize,
    /// Whether the rules are in place.
    proxy_healthy: bool,
}

/// The ports that are asked.
pub(super) struct HealthChecks {
    ports: BTreeMap<u16, (watch::Sender<Health>, Stop)>,
    tasks: Tasks,
    stop: Stop,
}

impl HealthChecks {
    /// None yet; all end with `stop`.
    pub(super) fn new(stop: Stop) -> Self {
        Self { ports: BTreeMap::new(), tasks: Tasks::new("health check node ports"), stop }
    }

    /// Answers on these ports, and on no others.
    pub(super) fn update(&mut self, wanted: &BTreeMap<u16, (Key, usize)>, proxy_healthy: bool) {
        for (_, (_, stop)) in self.ports.extract_if(.., |port, _| !wanted.contains_key(port)) {
            stop.stop();
        }
        for (port, (service, local_endpoints)) in wanted {
            let health = Health { service: service.clone(), local_endpoints: *local_endpoints, proxy_healthy };
            match self.ports.get(port) {
                Some((told, _)) => drop(told.send_if_modified(|last| {
                    *last != health && {
                        *last = health;
                        true
                    }
                })),
                None => {
                    let (told, health) = watch::channel(health);
                    let (port, stop) = (*port, self.stop.child());
                    self.tasks.spawn(format!("health check node port {port}"), serve(port, health, stop.clone()));
                    self.ports.insert(port, (told, stop));
                }
            }
        }
    }

    /// Returns when nothing listens any more.
    pub(super) async fn end(self) {
        self.stop.stop();
        self.tasks.join().await;
    }
}

async fn serve(port: u16, health: watch::Receiver<Health>, stop: Stop) {
    let listener = match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await {
        Ok(listener) => listener,
        Err(error) => {
            let service = health.borrow().service.clone();
            tracing::warn!(%service, port, %error, "cannot listen on a health check node port; balancers see no endpoints here");
            return;
        }
    };
    let (tasks, permits) = (Tasks::new("health checks"), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    while let Some(accepted) = stop.or_stopped(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        // Beyond the limit: closed, which a balancer takes for unhealthy.
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let (health, stop) = (health.clone(), stop.clone());
        tasks.spawn("health check", async move {
            let answer = service_fn(move |_| std::future::ready(Ok::<_, Infallible>(answer(&health.borrow()))));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off is no matter.
            let _ = stop.or_stopped(connection).await;
            drop(permit);
        });
    }
    tasks.join().await;
}

fn answer(health: &Health) -> Response<String> {
    let Health { service, local_endpoints, proxy_healthy } = health;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": \
         {local_endpoints},\n\t\"serviceProxyHealthy\": {proxy_healthy}\n}}",
        service.namespace, service.name
    );
    let mut response = Response::new(body);
    if *local_endpoints == 0 || !proxy_healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let weight = local_endpoints.to_string();
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-content-type-options", "nosniff"),
        ("x-load-balancing-endpoint-weight", weight.as_str()),
    ] {
        response.headers_mut().insert(name, http::HeaderValue::from_str(value).expect("plain words"));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn tells_what_balancers_ask_for_and_stops_when_the_service_goes() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut checks = HealthChecks::new(Stop::new());
        let asked = async |checks: &mut HealthChecks, endpoints, healthy| {
            checks.update(&[(port, (Key::new("ns", "web"), endpoints))].into(), healthy);
            loop {
                // It listens in a moment.
                if let Ok(text) = ask(port).await {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        let text = asked(&mut checks, 2, true).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{text}");
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert!(text.ends_with(body), "{text}");
        for (endpoints, healthy) in [(0, true), (2, false)] {
            let text = asked(&mut checks, endpoints, healthy).await;
            assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
        }
        checks.update(&BTreeMap::new(), true);
        while ask(port).await.is_ok() {
            tokio::task::yield_now().await;
        }
        checks.end().await;
    }
}
