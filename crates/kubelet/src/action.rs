//! The actions that probes and life cycle hooks share: run a command, ask over HTTP, connect, ask over gRPC.
//!
//! Nothing here follows a redirect to another host, checks a certificate (a pod's own, which nobody vouches for) or reads
//! more than a little of an answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::typed::IntOrString;
use api::typed::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction};
use base::chain;
use bytes::{BufMut, Bytes, BytesMut};
use cri::{Runtime, RuntimeError};
use futures::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 10 << 10;
const REDIRECTS_MAX: usize = 10;

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// It was carried out and says no.
    Failure(String),
}

/// Where a container is reached.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) container_id: String,
    pub(crate) pod_ip: Option<IpAddr>,
}

/// Runs a command in the container.
pub(crate) async fn exec(runtime: &dyn Runtime, target: &Target, action: &ExecAction, timeout: Duration) -> Outcome {
    let command = action.command.clone().unwrap_or_default();
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    match runtime.exec_sync(&target.container_id, command, seconds).await {
        Ok(done) if done.exit_code == 0 => Outcome::Success,
        Ok(done) => {
            let output = if done.stdout.is_empty() { done.stderr } else { done.stdout };
            let shown = &output[..output.len().min(ANSWER_BYTES_MAX)];
            Outcome::Failure(String::from_utf8_lossy(shown).trim_end().to_owned())
        }
        Err(RuntimeError::DeadlineExceeded(_)) => {
            Outcome::Failure(format!("command timed out after {}s", timeout.as_secs()))
        }
        Err(error) => Outcome::Failure(chain(&error)),
    }
}

/// The number of a port that may be named.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn host(own: Option<&String>, target: &Target) -> Option<String> {
    own.filter(|host| !host.is_empty()).cloned().or_else(|| target.pod_ip.map(|ip| ip.to_string()))
}

/// Asks over HTTP or HTTPS: any status from 200 to 399 will do.
pub(crate) async fn http_get(
    action: &HTTPGetAction,
    container: &Container,
    target: &Target,
    timeout: Duration,
) -> Outcome {
    let Some(host) = host(action.host.as_ref(), target) else {
        return Outcome::Failure("the pod has no address yet".into());
    };
    let Some(port) = port(&action.port, container) else {
        return Outcome::Failure(format!("container {} has no port {:?}", container.name, action.port));
    };
    let secure = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let mut path = action.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    // On the heap while it lasts: a prober that waits for its next turn keeps nothing of it.
    let asked = Box::pin(async {
        for _ in 0..REDIRECTS_MAX {
            let url = format!("{}://{host}:{port}{path}", if secure { "https" } else { "http" });
            let answer = get(&host, port, secure, &path, action)
                .await
                .map_err(|error| format!("Get \"{url}\": {}", chain(&*error)))?;
            match same_host_redirect(&answer, &host, port) {
                Some(next) => path = next,
                None => return Ok(answer.status().as_u16()),
            }
        }
        Err(format!("stopped after {REDIRECTS_MAX} redirects"))
    });
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(200..=399)) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(message)) => Outcome::Failure(message),
        Err(_) => Outcome::Failure(format!(
            "Get \"{}://{host}:{port}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            if secure { "https" } else { "http" }
        )),
    }
}

/// Where an answer sends us, if that is on the same host; a redirect to another one counts as an answer.
fn same_host_redirect(answer: &http::Response<Bytes>, host: &str, port: u16) -> Option<String> {
    if !answer.status().is_redirection() {
        return None;
    }
    let location: http::Uri = answer.headers().get(http::header::LOCATION)?.to_str().ok()?.parse().ok()?;
    let here =
        location.host().is_none_or(|other| other == host) && location.port_u16().is_none_or(|other| other == port);
    here.then(|| location.path_and_query().map_or("/", |path| path.as_str()).to_owned())
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn get(
    host: &str,
    port: u16,
    secure: bool,
    path: &str,
    action: &HTTPGetAction,
) -> Result<http::Response<Bytes>, BoxError> {
    let mut request = http::Request::get(path)
        .header(http::header::USER_AGENT, "kube-probe/1.36")
        .header(http::header::ACCEPT, "*/*");
    let mut named_host = false;
    for header in action.http_headers.iter().flatten() {
        named_host |= header.name.eq_ignore_ascii_case("host");
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    if !named_host {
        request = request.header(http::header::HOST, format!("{host}:{port}"));
    }
    let request = request.body(Full::new(Bytes::new()))?;
    let stream = TcpStream::connect((host, port)).await?;
    if !secure {
        return send(stream, request).await;
    }
    // Probes accept every certificate: they ask whether the pod answers, not who it is.
    let config = control::unverified_tls();
    let name = rustls_pki_types::ServerName::try_from(host.to_owned())?;
    send(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?, request).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<http::Response<Bytes>, BoxError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        // What the probe needs is in the head; a long body is no failure.
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        Ok::<_, BoxError>(http::Response::from_parts(head, body))
    };
    match select(Box::pin(exchange), Box::pin(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, exchange)) => exchange.await,
    }
}

/// Connects and closes.
pub(crate) async fn tcp_connect(
    action: &TCPSocketAction,
    container: &Container,
    target: &Target,
    timeout: Duration,
) -> Outcome {
    let Some(host) = host(action.host.as_ref(), target) else {
        return Outcome::Failure("the pod has no address yet".into());
    };
    let Some(port) = port(&action.port, container) else {
        return Outcome::Failure(format!("container {} has no port {:?}", container.name, action.port));
    };
    match tokio::time::timeout(timeout, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(format!("dial tcp {host}:{port}: {error}")),
        Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// Asks `grpc.health.v1.Health/Check`.
pub(crate) async fn grpc(action: &GRPCAction, target: &Target, timeout: Duration) -> Outcome {
    let Some(ip) = target.pod_ip else { return Outcome::Failure("the pod has no address yet".into()) };
    let Ok(port) = u16::try_from(action.port) else { return Outcome::Failure(format!("invalid port {}", action.port)) };
    let service = action.service.as_deref().unwrap_or_default();
    match tokio::time::timeout(timeout, Box::pin(check_health(ip, port, service))).await {
        // Field 1 of the answer is the status; 1 is SERVING.
        Ok(Ok(answer)) if answer.ends_with(&[0x08, 0x01]) => Outcome::Success,
        Ok(Ok(_)) => Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into()),
        Ok(Err(error)) => Outcome::Failure(format!("error: {}", chain(&*error))),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{ip}:{port}\" within {}s",
            timeout.as_secs()
        )),
    }
}

async fn check_health(ip: IpAddr, port: u16, service: &str) -> Result<Bytes, BoxError> {
    let stream = TcpStream::connect((ip, port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let length = u8::try_from(service.len()).map_err(|_| "the service's name is longer than 255 bytes")?;
    let mut message = BytesMut::new();
    if length > 0 {
        message.put_u8(0x0a);
        // A length over 127 takes two bytes in protobuf.
        if length > 127 {
            message.put_u8(length | 0x80);
            message.put_u8(1);
        } else {
            message.put_u8(length);
        }
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len())?);
    frame.put_slice(&message);
    let request =
        http::Request::post(format!("http://{}/grpc.health.v1.Health/Check", std::net::SocketAddr::new(ip, port)))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .header(http::header::USER_AGENT, "kube-probe/1.36")
            .body(Full::new(frame.freeze()))?;
    let exchange = async move {
        let answer = sender.send_request(request).await?;
        Ok::<_, BoxError>(Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes())
    };
    match select(Box::pin(exchange), Box::pin(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, exchange)) => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn probe(answers: &[&str]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let action =
            HTTPGetAction { port: IntOrString::Int(port.into()), path: Some("healthz".into()), ..Default::default() };
        let target = Target { container_id: String::new(), pod_ip: "127.0.0.1".parse().ok() };
        let serve = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]);
                assert!(request.contains("user-agent: kube-probe/"), "{request}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let container = Container::default();
        let (outcome, ()) = tokio::join!(http_get(&action, &container, &target, Duration::from_secs(5)), serve);
        outcome
    }

    #[tokio::test]
    async fn http_answers_decide_and_redirects_on_the_same_host_are_followed() {
        let fine = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let moved = "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let away = "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n";
        let broken = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(probe(&[fine]).await, Outcome::Success);
        assert_eq!(probe(&[moved, fine]).await, Outcome::Success);
        assert_eq!(probe(&[away]).await, Outcome::Success);
        assert_eq!(probe(&[moved, broken]).await, Outcome::Failure("HTTP probe failed with statuscode: 503".into()));
    }
}
