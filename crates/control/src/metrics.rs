//! What clients and work queues count, in upstream's names.

use base::metrics::{Counter, Counters, Family, Gauge, Gauges, Histogram, Histograms};
use tokio::time::Instant;

use crate::TransportError;

static REQUESTS: Counters<3> = Counters::counters(
    "rest_client_requests_total",
    "Number of HTTP requests, partitioned by status code, method, and host.",
    ["code", "method", "host"],
);

static REQUEST_SECONDS: Histograms<2> = Histograms::histograms(
    "rest_client_request_duration_seconds",
    "Request latency in seconds. Broken down by verb, and host.",
    ["verb", "host"],
    &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0],
);

static ADDS: Counters<1> =
    Counters::counters("workqueue_adds_total", "Total number of adds handled by workqueue", ["name"]);

static DEPTH: Gauges<1> = Gauges::gauges("workqueue_depth", "Current depth of workqueue", ["name"]);

static RETRIES: Counters<1> =
    Counters::counters("workqueue_retries_total", "Total number of retries handled by workqueue", ["name"]);

static QUEUE_SECONDS: Histograms<1> = Histograms::histograms(
    "workqueue_queue_duration_seconds",
    "How long in seconds an item stays in workqueue before being requested.",
    ["name"],
    DURATIONS,
);

static WORK_SECONDS: Histograms<1> = Histograms::histograms(
    "workqueue_work_duration_seconds",
    "How long in seconds processing an item from workqueue takes.",
    ["name"],
    DURATIONS,
);

const DURATIONS: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// The families of clients and work queues.
pub const METRICS: &[&dyn Family] =
    &[&REQUESTS, &REQUEST_SECONDS, &ADDS, &DEPTH, &RETRIES, &QUEUE_SECONDS, &WORK_SECONDS];

/// Runs a transport's request and counts it.
pub async fn request<B>(
    method: http::Method,
    host: &str,
    send: impl Future<Output = Result<http::Response<B>, TransportError>>,
) -> Result<http::Response<B>, TransportError> {
    let begun = Instant::now();
    let answer = send.await;
    let status = answer.as_ref().map(http::Response::status);
    let code = status.as_ref().map_or("<error>", http::StatusCode::as_str);
    REQUESTS.with([code, method.as_str(), host]).inc();
    REQUEST_SECONDS.with([method.as_str(), host]).observe(begun.elapsed());
    answer
}

/// What one work queue counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueMetrics {
    pub(crate) adds: &'static Counter,
    pub(crate) depth: &'static Gauge,
    pub(crate) retries: &'static Counter,
    pub(crate) waited: &'static Histogram,
    pub(crate) worked: &'static Histogram,
}

impl QueueMetrics {
    pub(crate) fn of(name: &str) -> Self {
        Self {
            adds: ADDS.with([name]),
            depth: DEPTH.with([name]),
            retries: RETRIES.with([name]),
            waited: QUEUE_SECONDS.with([name]),
            worked: WORK_SECONDS.with([name]),
        }
    }
}
