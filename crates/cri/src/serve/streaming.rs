//! Addresses of sessions: each is good once, for a minute, and only on this machine.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Stop, Tasks};
use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use streams::{exec, port_forward, upgrade};
use tokio::time::Instant;
use tonic::Status;

use crate::runtime::{ExecStart, Runtime};

/// Addresses that wait to be used; upstream's streaming server keeps as many.
const WAITING_MAX: usize = 1000;
/// How long one is good.
const GOOD: Duration = Duration::from_secs(60);

/// What an address leads to.
pub(super) enum Session {
    /// A process, or a container's main one.
    Process(ExecStart, exec::Options),
    /// Ports of this sandbox.
    Ports(String),
}

pub(super) struct Sessions {
    runtime: Arc<dyn Runtime>,
    port: u16,
    tasks: Tasks,
    stop: Stop,
    waiting: Mutex<BTreeMap<String, (Instant, Session)>>,
}

impl Sessions {
    pub(super) fn new(runtime: Arc<dyn Runtime>, port: u16, tasks: Tasks, stop: Stop) -> Self {
        Self { runtime, port, tasks, stop, waiting: Mutex::default() }
    }

    /// The address of a session.
    pub(super) fn address(&self, session: Session) -> Result<String, Status> {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let now = Instant::now();
        let mut waiting = self.waiting.lock().expect("no holder of the sessions' lock panics");
        waiting.retain(|_, (since, _)| now.duration_since(*since) < GOOD);
        if waiting.len() >= WAITING_MAX {
            return Err(Status::resource_exhausted("too many sessions wait to be opened"));
        }
        let address = format!("http://127.0.0.1:{}/{token}", self.port);
        waiting.insert(token, (now, session));
        Ok(address)
    }

    fn take(&self, token: &str) -> Option<Session> {
        let mut waiting = self.waiting.lock().expect("no holder of the sessions' lock panics");
        waiting.remove(token).filter(|(since, _)| since.elapsed() < GOOD).map(|(_, session)| session)
    }

    fn open(self: &Arc<Self>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let token = request.uri().path().trim_start_matches('/');
        let Some(session) = self.take(token) else {
            return refusal(StatusCode::NOT_FOUND, "there is no such session: its address was used, or is too old");
        };
        let offer = match session {
            Session::Process(..) => exec::OFFER,
            Session::Ports(_) => port_forward::OFFER,
        };
        let asked = request.extensions_mut().remove::<OnUpgrade>();
        let mut accepted = match upgrade::accept(request.headers(), asked, offer) {
            Ok(accepted) => accepted,
            Err(refused) => return refusal(refused.status, &refused.message),
        };
        let response = std::mem::take(&mut accepted.response).map(|()| Full::default());
        let (runtime, stop) = (self.runtime.clone(), self.stop.clone());
        self.tasks.spawn("session", async move {
            if let Some(Err(error)) = stop.or_stopped(Box::pin(run(accepted, session, runtime))).await {
                tracing::debug!(error = base::chain(&*error), "a session ended early");
            }
        });
        response
    }
}

async fn run(accepted: upgrade::Accepted, session: Session, runtime: Arc<dyn Runtime>) -> Result<(), exec::BoxError> {
    let opened = accepted.open().await?;
    match session {
        Session::Process(start, options) => {
            let start = async { runtime.exec(start).await.map_err(|error| base::chain(&error)) }.boxed();
            exec::serve(opened, options, start).await
        }
        Session::Ports(sandbox) => {
            let connect = move |port: u16| {
                let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
                async move { runtime.port_forward(&sandbox, port).await.map_err(|error| base::chain(&error)) }.boxed()
            };
            port_forward::serve(opened, &[], Arc::new(connect)).await
        }
    }
}

fn refusal(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(message.to_owned()));
    *response.status_mut() = status;
    response
}

/// Serves one connection of the streams' port.
pub(super) async fn connection(stream: tokio::net::TcpStream, sessions: Arc<Sessions>) {
    let service = service_fn(move |request| {
        let response = sessions.open(request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    if let Err(error) = served {
        tracing::debug!(error = base::chain(&error), "a client of a session went away");
    }
}
