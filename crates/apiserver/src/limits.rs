//! How much clients may ask of the server. Each default is upstream's where upstream has the limit.

use std::time::Duration;

/// The server's limits, with what would happen without each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; more wait to be accepted. Each costs about 26 kB, and file descriptors are finite.
    pub connections_max: usize,
    /// Requests that run at a time and are not exempt, shared out by priority level. Upstream's
    /// `--max-requests-inflight` and `--max-mutating-requests-inflight` together. Without it, one greedy client would take
    /// the memory and time that nodes' heartbeats need.
    pub requests_max: u32,
    /// How long a request may take that is no watch and no stream, from its head to its answer. Without it a stuck request
    /// would hold its memory for ever.
    pub request_time_max: Duration,
    /// How long a client may take to send a request's head, or HTTP/2's preface. Without it connections that ask for nothing
    /// would keep others out.
    pub header_time_max: Duration,
    /// How long a client may pause while it sends a body or takes an answer. Without it a client that stopped half-way
    /// would hold what it was sent for as long as it likes.
    pub stall_max: Duration,
    /// How long `/readyz` fails before connections are refused when the server stops, so that load balancers turn away
    /// first. Upstream's `--shutdown-delay-duration`.
    pub shutdown_delay: Duration,
    /// How long requests may take to end when the server stops; then they are cut off.
    pub drain_max: Duration,
    /// How long events are kept after they were last written. Upstream's `--event-ttl`. Without it events would fill the
    /// datastore.
    pub event_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            requests_max: 600,
            request_time_max: Duration::from_secs(60),
            header_time_max: Duration::from_secs(30),
            stall_max: Duration::from_secs(60),
            shutdown_delay: Duration::ZERO,
            drain_max: Duration::from_secs(10),
            event_ttl: Duration::from_secs(3600),
        }
    }
}
