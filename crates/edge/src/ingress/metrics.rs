//! What the ingress controller counts.

use base::metrics::{Counters, Family, Gauges};

pub(super) static REQUESTS: Counters<1> = Counters::counters(
    "timonier_ingress_requests_total",
    "Requests that came through an Ingress, by status.",
    ["code"],
);
pub(super) static CONNECTIONS: Gauges<0> =
    Gauges::gauges("timonier_ingress_connections", "Open connections of clients to the ingress controller.", []);

/// All of them.
pub const METRICS: &[&dyn Family] = &[&REQUESTS, &CONNECTIONS];
