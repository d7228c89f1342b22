//! What the kubelet counts, under upstream's names.

use base::metrics::{Counters, Family};

/// `kubelet_started_pods_total`
pub(crate) static STARTED_PODS: Counters<0> =
    Counters::counters("kubelet_started_pods_total", "Cumulative number of pods started", []);

/// `kubelet_started_containers_total`; the type is `container`, `init_container` or `ephemeral_container`.
pub(crate) static STARTED_CONTAINERS: Counters<1> = Counters::counters(
    "kubelet_started_containers_total",
    "Cumulative number of containers started",
    ["container_type"],
);

/// `kubelet_evictions`
pub(crate) static EVICTIONS: Counters<1> = Counters::counters(
    "kubelet_evictions",
    "Cumulative number of pod evictions by eviction signal",
    ["eviction_signal"],
);

/// `kubelet_http_requests_total`, by the first part of the path.
pub(crate) static REQUESTS: Counters<2> = Counters::counters(
    "kubelet_http_requests_total",
    "Number of the http requests received since the server started",
    ["method", "path"],
);

/// All of them.
pub const METRICS: &[&dyn Family] = &[&STARTED_PODS, &STARTED_CONTAINERS, &EVICTIONS, &REQUESTS];
