//! Streams of exec, attach and port-forward: the runtime names an address, and speaks SPDY there.

use http::HeaderValue;
use streams::{BoxDuplex, ExecSession, exec, port_forward, upgrade};

use super::{Remote, Subject, of};
use crate::runtime::{ExecStart, RuntimeError};
use crate::v1;

/// Why a session could not be opened at the runtime's address.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the container runtime's streaming address {0:?} is not one of plain HTTP")]
    Address(String),
    #[error("cannot connect to the container runtime's streaming address {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the container runtime refused the session")]
    Ask(#[from] upgrade::AskError),
}

impl Remote {
    pub(super) async fn open_session(&self, start: ExecStart) -> Result<ExecSession, RuntimeError> {
        let ExecStart { container_id, command, tty, stdin } = start;
        let attached = command.is_empty();
        let options = exec::Options { stdin, stdout: true, stderr: !tty, tty, attached };
        let subject = of(if attached { "attach to" } else { "exec in" }, "container", &container_id);
        let url = if attached {
            let (container_id, stdout, stderr) = (container_id.clone(), true, !tty);
            let request = v1::AttachRequest { container_id, stdin, tty, stdout, stderr };
            self.call("RuntimeService/Attach", request, subject).await.map(|answer: v1::AttachResponse| answer.url)
        } else {
            let (container_id, stdout, stderr) = (container_id.clone(), true, !tty);
            let request = v1::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr };
            self.call("RuntimeService/Exec", request, subject).await.map(|answer: v1::ExecResponse| answer.url)
        }?;
        let (io, protocol) = opened(&url, exec::SPDY_PROTOCOLS, subject).await?;
        let (session, run) = exec::client::open(io, protocol, options);
        self.tasks.spawn("session", run);
        Ok(session)
    }

    pub(super) async fn open_port(&self, sandbox_id: &str, port: u16) -> Result<BoxDuplex, RuntimeError> {
        let subject = of("forward a port of", "sandbox", sandbox_id);
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port: vec![i32::from(port)] };
        let answer: v1::PortForwardResponse = self.call("RuntimeService/PortForward", request, subject).await?;
        let (io, _) = opened(&answer.url, &[port_forward::PROTOCOL], subject).await?;
        let (connection, run) = port_forward::client::open(io, port);
        self.tasks.spawn("forwarded port", async move {
            if let Err(why) = run.await {
                tracing::debug!(why, "a forwarded connection failed");
            }
        });
        Ok(BoxDuplex::new(connection))
    }
}

async fn opened(
    url: &str,
    protocols: &'static [&'static str],
    subject: Subject<'_>,
) -> Result<(BoxDuplex, String), RuntimeError> {
    open(url, protocols).await.map_err(|error| subject.failed(error))
}

async fn open(url: &str, protocols: &'static [&'static str]) -> Result<(BoxDuplex, String), StreamError> {
    let unusable = || StreamError::Address(url.to_owned());
    let url_parts: http::Uri = url.parse().map_err(|_| unusable())?;
    let authority = url_parts.authority().filter(|_| url_parts.scheme_str() == Some("http")).ok_or_else(unusable)?;
    let address = match authority.port() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    };
    let connected = tokio::net::TcpStream::connect(&address).await;
    let io = connected.map_err(|source| StreamError::Connect { address: address.clone(), source })?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| unusable())?;
    let target = url_parts.path_and_query().map_or("/", |target| target.as_str());
    let target: http::Uri = target.parse().map_err(|_| unusable())?;
    Ok(upgrade::ask(BoxDuplex::new(io), target, host, protocols).await?)
}
