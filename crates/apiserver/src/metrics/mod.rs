//! `/metrics`: what the server counts while it works, and what it looks up when asked. The names, labels and buckets are
//! those of upstream's "Kubernetes Metrics Reference".

mod process;
mod request;
mod store;

use std::sync::Arc;

use base::metrics::{Counters, Family, Gauges, Histograms, Text};
use http::StatusCode;

pub(crate) use request::Seen;
pub(crate) use store::Measured;

use crate::request::respond::{self, Answer};
use crate::{Server, flow};

/// `apiserver_request_total`
pub(crate) static REQUESTS: Counters<9> = Counters::counters(
    "apiserver_request_total",
    "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
    ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"],
)
.slots(4096);

/// `apiserver_request_duration_seconds`
pub(crate) static REQUEST_SECONDS: Histograms<8> = Histograms::histograms(
    "apiserver_request_duration_seconds",
    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
    ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"],
    &[
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0,
        30.0, 45.0, 60.0,
    ],
)
.slots(2048);

/// `apiserver_response_sizes`
pub(crate) static RESPONSE_SIZES: Histograms<7> = Histograms::histograms(
    "apiserver_response_sizes",
    "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
    ["verb", "group", "version", "resource", "subresource", "scope", "component"],
    &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9],
)
.slots(1024);

/// `apiserver_current_inflight_requests`
pub(crate) static INFLIGHT: Gauges<1> = Gauges::gauges(
    "apiserver_current_inflight_requests",
    "Number of requests of this apiserver that run now, per request kind.",
    ["request_kind"],
);

/// `apiserver_longrunning_requests`
pub(crate) static LONG_RUNNING: Gauges<7> = Gauges::gauges(
    "apiserver_longrunning_requests",
    "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
    ["verb", "group", "version", "resource", "subresource", "scope", "component"],
)
.slots(1024);

/// `apiserver_watch_events_total`
pub(crate) static WATCH_EVENTS: Counters<3> = Counters::counters(
    "apiserver_watch_events_total",
    "Number of events sent in watch clients",
    ["group", "version", "resource"],
);

/// `apiserver_tls_handshake_errors_total`
pub(crate) static HANDSHAKE_ERRORS: Counters<0> = Counters::counters(
    "apiserver_tls_handshake_errors_total",
    "Number of requests dropped with 'TLS handshake error from' error",
    [],
);

/// `apiserver_request_terminations_total`
pub(crate) static TERMINATIONS: Counters<1> = Counters::counters(
    "apiserver_request_terminations_total",
    "Number of requests which apiserver terminated in self-defense.",
    ["code"],
);

/// `apiserver_open_connections`, which upstream does not have.
pub(crate) static CONNECTIONS: Gauges<0> =
    Gauges::gauges("apiserver_open_connections", "Number of open connections of clients.", []);

/// The API server's families.
pub const METRICS: &[&dyn Family] = &[
    &REQUESTS,
    &REQUEST_SECONDS,
    &RESPONSE_SIZES,
    &INFLIGHT,
    &LONG_RUNNING,
    &WATCH_EVENTS,
    &HANDSHAKE_ERRORS,
    &TERMINATIONS,
    &crate::audit::EVENTS,
    &crate::audit::LOST,
    &crate::authentication::AUTO_TOKENS,
    &crate::authentication::INVALID_TOKENS,
    &crate::authentication::MANUAL_TOKENS,
    &CONNECTIONS,
    &store::SECONDS,
    &store::REQUESTS,
    &store::ERRORS,
];

/// Answers a scrape.
pub(crate) fn answer(server: &Arc<Server>) -> Answer {
    let mut text = Text::default();
    for family in
        METRICS.iter().chain(flow::metrics::METRICS).chain(control::metrics::METRICS).chain(&server.config.metrics)
    {
        family.write(&mut text);
    }
    stored_objects(server, &mut text);
    build_info(server, &mut text);
    process::write(&mut text);
    respond::with_type(StatusCode::OK, Text::MEDIA_TYPE, control::Body::Full(text.into_string().into()))
}

/// Counted in the watch cache: resources that nobody has used since the start are not in memory and not shown.
fn stored_objects(server: &Arc<Server>, text: &mut Text) {
    let counts = server.caches.object_counts();
    text.family(
        "apiserver_resource_objects",
        "Number of stored objects at the time of last check split by kind.",
        "gauge",
    );
    for (cache, count) in &counts {
        let resource = cache.resource();
        let labels = [("group", &*resource.group), ("resource", &*resource.plural)];
        text.sample("apiserver_resource_objects", &labels, *count as f64);
    }
    text.family(
        "apiserver_storage_objects",
        "Number of stored objects at the time of last check split by kind.",
        "gauge",
    );
    for (cache, count) in &counts {
        let resource = cache.resource();
        let qualified = match &*resource.group {
            "" => resource.plural.to_string(),
            group => format!("{}.{group}", resource.plural),
        };
        text.sample("apiserver_storage_objects", &[("resource", &qualified)], *count as f64);
    }
}

fn build_info(server: &Arc<Server>, text: &mut Text) {
    let version = &server.config.version;
    let help = "A metric with a constant '1' value labeled by major, minor, git version, git commit, build date, and platform.";
    text.family("kubernetes_build_info", help, "gauge");
    let labels = [
        ("build_date", &*version.build_date),
        ("git_commit", &*version.git_commit),
        ("git_version", &*version.git_version),
        ("major", "1"),
        ("minor", "36"),
        ("platform", &*version.platform),
    ];
    text.sample("kubernetes_build_info", &labels, 1.0);
}
