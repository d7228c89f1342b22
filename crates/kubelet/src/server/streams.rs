//! `/exec` and `/attach`: a process in a container, with its streams. How its bytes travel is in the crate `streams`.

use std::sync::Arc;

use base::chain;
use bytes::Bytes;
use cri::{ExecStart, v1};
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use streams::exec::{self, Options};
use streams::upgrade::{self, Accepted, Offer};

use super::{Body, Connection, Query, Refusal, find_pod, find_runs, full};
use crate::host::Host;

/// What the client wants connected.
fn options(query: &Query, attached: bool) -> Result<Options, Refusal> {
    let tty = query.is_set(&["tty"]);
    let options = Options {
        stdin: query.is_set(&["input", "stdin"]),
        stdout: query.is_set(&["output", "stdout"]),
        // A terminal has one output.
        stderr: query.is_set(&["error", "stderr"]) && !tty,
        tty,
        attached,
    };
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr".into()));
    }
    Ok(options)
}

pub(super) async fn exec(
    host: &Arc<Host>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    let command = query.all("command");
    if command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify a command".into()));
    }
    open(host, (namespace, pod, container), command, query, request, connection).await
}

pub(super) async fn attach(
    host: &Arc<Host>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    open(host, (namespace, pod, container), Vec::new(), query, request, connection).await
}

async fn open(
    host: &Arc<Host>,
    place: (&str, &str, &str),
    command: Vec<String>,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    let (namespace, pod, container) = place;
    let options = options(query, command.is_empty())?;
    let object = find_pod(host, namespace, pod)?;
    let run = find_runs(host, &object, container).await?.into_iter().next();
    let running = run.filter(|run| run.state == v1::ContainerState::ContainerRunning as i32);
    let run =
        running.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))?;
    let (response, accepted) = accept(request, exec::OFFER)?;
    let start = ExecStart { container_id: run.id, command, tty: options.tty, stdin: options.stdin };
    let (runtime, connection) = (host.runtime.clone(), connection.clone());
    host.tasks.spawn(format!("session in {container} of {namespace}/{pod}"), async move {
        let serve = async {
            let opened = accepted.open().await?;
            let start = async { runtime.exec(start).await.map_err(|error| chain(&error)) }.boxed();
            exec::serve(opened, options, start).await
        };
        if let Some(Err(error)) = connection.stop.or_stopped(Box::pin(serve)).await {
            tracing::debug!(error = chain(&*error), "a session ended early");
        }
    });
    Ok(response)
}

/// The answer to a request's upgrade, and what follows it.
pub(super) fn accept(mut request: Request<Incoming>, offer: Offer) -> Result<(Response<Body>, Accepted), Refusal> {
    let asked = request.extensions_mut().remove::<OnUpgrade>();
    let accepted = upgrade::accept(request.headers(), asked, offer);
    let mut accepted = accepted.map_err(|refused| Refusal(refused.status, refused.message))?;
    let response = std::mem::take(&mut accepted.response).map(|()| full(Bytes::new()));
    Ok((response, accepted))
}
