//! What is counted about one request.

use std::sync::Arc;

use base::metrics::{Gauge, Held};
use control::Body;
use futures::StreamExt;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::{INFLIGHT, LONG_RUNNING, REQUEST_SECONDS, REQUESTS, RESPONSE_SIZES};
use crate::request::info::{RequestInfo, Target};
use crate::request::respond::Answer;
use crate::server::Served;

const COMPONENT: &str = "apiserver";

/// A request, from its head on.
pub(crate) struct Seen {
    begun: Instant,
    verb: &'static str,
    dry_run: &'static str,
    scope: &'static str,
    subresource: String,
    served: Option<Arc<Served>>,
    /// Watches and streams, which last as long as their clients like.
    long_running: bool,
    /// Streams to containers and through proxies.
    pub(crate) streams: bool,
    _inflight: Option<Held<'static>>,
}

impl Seen {
    /// Notes what a request is about. `served` is its resource, where it is about one.
    pub(crate) fn begin(method: &Method, info: &RequestInfo, served: Option<&Arc<Served>>, dry_run: bool) -> Self {
        let target = info.target.as_ref();
        let stream = target.is_some_and(is_stream);
        let long_running = info.verb == "watch" || stream;
        let kind = if matches!(*method, Method::GET | Method::HEAD) { "readOnly" } else { "mutating" };
        // A subresource that is not in the table is a stranger's text, not a label.
        let subresource = target.zip(served).and_then(|(target, served)| {
            let known = served.resource.subresource(&target.subresource);
            known.map(|_| target.subresource.clone())
        });
        Self {
            begun: Instant::now(),
            verb: if stream { "CONNECT" } else { verb(info.verb) },
            dry_run: if dry_run { "All" } else { "" },
            scope: served.and(target).map_or("", scope),
            subresource: subresource.unwrap_or_default(),
            served: served.cloned(),
            long_running,
            streams: stream,
            _inflight: (!long_running).then(|| INFLIGHT.with([kind]).hold()),
        }
    }

    /// Counts the request with its answer.
    pub(crate) fn end(self, answer: Answer) -> Answer {
        let (group, version, resource) = self.resource();
        let (verb, dry_run, scope, subresource) = (self.verb, self.dry_run, self.scope, &*self.subresource);
        let status = if answer.status() == StatusCode::SWITCHING_PROTOCOLS { StatusCode::OK } else { answer.status() };
        let code = status.as_str();
        REQUESTS.with([verb, dry_run, group, version, resource, subresource, scope, COMPONENT, code]).inc();
        if self.long_running {
            return self.hold_stream(answer);
        }
        let labels = [verb, dry_run, group, version, resource, subresource, scope, COMPONENT];
        REQUEST_SECONDS.with(labels).observe(self.begun.elapsed());
        if let (Body::Full(body), "GET" | "LIST") = (answer.body(), verb) {
            let labels = [verb, group, version, resource, subresource, scope, COMPONENT];
            RESPONSE_SIZES.with(labels).observe_value(body.len() as f64);
        }
        answer
    }

    /// The stream counts as long-running until it ends or its client goes.
    fn hold_stream(&self, answer: Answer) -> Answer {
        if !matches!(answer.body(), Body::Stream(_)) {
            return answer;
        }
        let running = self.gauge().hold();
        answer.map(|body| match body {
            Body::Stream(stream) => Body::Stream(Holding { stream, _running: running }.boxed()),
            full @ Body::Full(_) => full,
        })
    }

    fn gauge(&self) -> &'static Gauge {
        let (group, version, resource) = self.resource();
        LONG_RUNNING.with([self.verb, group, version, resource, &self.subresource, self.scope, COMPONENT])
    }

    fn resource(&self) -> (&str, &str, &str) {
        self.served.as_ref().map_or(("", "", ""), |served| {
            (&*served.resource.group, &*served.resource.version, &*served.resource.plural)
        })
    }
}

struct Holding<S> {
    stream: S,
    _running: Held<'static>,
}

impl<S: futures::Stream + Unpin> futures::Stream for Holding<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

fn is_stream(target: &Target) -> bool {
    matches!(&*target.subresource, "exec" | "attach" | "portforward" | "proxy" | "log")
}

fn verb(name: &'static str) -> &'static str {
    match name {
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

fn scope(target: &Target) -> &'static str {
    match (&*target.name, &*target.namespace) {
        ("", "") => "cluster",
        ("", _) => "namespace",
        _ => "resource",
    }
}
