//! `/portForward`: connections that end on the loopback of a pod's network. How their bytes travel is in the crate `streams`.

use std::sync::Arc;

use base::chain;
use cri::v1;
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use streams::port_forward::{self, Connect, PORTS_MAX};
use streams::websocket;

use super::streams::accept;
use super::{Body, Connection, Query, Refusal, find_pod};
use crate::host::Host;
use crate::identity;

pub(super) async fn serve(
    host: &Arc<Host>,
    namespace: &str,
    pod: &str,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    let channels = websocket::is_asked(request.headers())
        && !websocket::names_protocol(request.headers(), port_forward::TUNNEL_PROTOCOL);
    // Over SPDY each connection names its port.
    let ports = if channels { ports(query)? } else { Vec::new() };
    let object = find_pod(host, namespace, pod)?;
    let sandbox = sandbox(host, &object).await?;
    let (response, accepted) = accept(request, port_forward::OFFER)?;
    let (runtime, connection) = (host.runtime.clone(), connection.clone());
    let connect: Connect = Arc::new(move |port| {
        let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
        async move { runtime.port_forward(&sandbox, port).await.map_err(|error| chain(&error)) }.boxed()
    });
    host.tasks.spawn(format!("port forwarding to {namespace}/{pod}"), async move {
        let serve = async { port_forward::serve(accepted.open().await?, &ports, connect).await };
        if let Some(Err(error)) = connection.stop.or_stopped(Box::pin(serve)).await {
            tracing::debug!(error = chain(&*error), "port forwarding ended early");
        }
    });
    Ok(response)
}

fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let texts: Vec<_> = query.all("port").into_iter().chain(query.all("ports")).collect();
    let texts: Vec<_> = texts.iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() || texts.len() > PORTS_MAX {
        return Err(bad(format!("query parameter \"port\" is needed 1 to {PORTS_MAX} times")));
    }
    let parse = |text: &str| text.parse().ok().filter(|port| *port > 0);
    texts
        .into_iter()
        .map(|text| parse(text).ok_or_else(|| bad(format!("unable to parse {text:?} as a port"))))
        .collect()
}

/// The sandbox of a pod that runs.
async fn sandbox(host: &Host, pod: &api::Object) -> Result<String, Refusal> {
    let label_selector = [(identity::POD_UID.to_owned(), pod.uid().to_owned())].into();
    let state = Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady as i32 });
    let filter = v1::PodSandboxFilter { label_selector, state, ..Default::default() };
    let listed = host.runtime.list_pod_sandboxes(Some(filter)).await;
    let listed = listed.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
    let newest = listed.into_iter().max_by_key(|sandbox| sandbox.created_at);
    newest
        .map(|sandbox| sandbox.id)
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("no running sandbox of pod \"{}\"", pod.key().name)))
}
