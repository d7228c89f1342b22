//! What cluster DNS counts, in CoreDNS's names where it has one, so that its dashboards and alerts work.

use base::metrics::{Counters, Family, Gauges};

use super::respond::Via;
use super::wire::code;

static REQUESTS: Counters<2> = Counters::counters(
    "coredns_dns_requests_total",
    "Counter of DNS requests made per protocol and type.",
    ["proto", "type"],
);

static RESPONSES: Counters<1> =
    Counters::counters("coredns_dns_responses_total", "Counter of response status codes.", ["rcode"]);

static CACHE_HITS: Counters<1> = Counters::counters("coredns_cache_hits_total", "The count of cache hits.", ["type"]);

static CACHE_MISSES: Counters<0> = Counters::counters("coredns_cache_misses_total", "The count of cache misses.", []);

static CACHE_ENTRIES: Gauges<0> = Gauges::gauges("coredns_cache_entries", "The number of elements in the cache.", []);

static FORWARDS: Counters<1> =
    Counters::counters("coredns_forward_requests_total", "Counter of requests made per upstream.", ["to"]);

static FORWARD_FAILURES: Counters<1> = Counters::counters(
    "coredns_forward_healthcheck_failures_total",
    "Counter of the number of failed exchanges with an upstream.",
    ["to"],
);

static FORWARD_REFUSED: Counters<0> = Counters::counters(
    "coredns_forward_max_concurrent_rejects_total",
    "Counter of the number of queries rejected because the concurrent queries were at maximum.",
    [],
);

static CONNECTIONS: Gauges<0> = Gauges::gauges("timonier_dns_tcp_connections", "TCP connections that are open.", []);

static CONNECTIONS_REFUSED: Counters<0> = Counters::counters(
    "timonier_dns_tcp_connections_refused_total",
    "TCP connections that were closed at once since too many were open.",
    [],
);

static READY: Gauges<0> =
    Gauges::gauges("timonier_dns_ready", "Whether all services and endpoints are known (1) or not yet (0).", []);

/// The families of cluster DNS.
pub const METRICS: &[&dyn Family] = &[
    &REQUESTS,
    &RESPONSES,
    &CACHE_HITS,
    &CACHE_MISSES,
    &CACHE_ENTRIES,
    &FORWARDS,
    &FORWARD_FAILURES,
    &FORWARD_REFUSED,
    &CONNECTIONS,
    &CONNECTIONS_REFUSED,
    &READY,
];

pub(super) fn asked(via: Via, kind: u16) {
    let kind = match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        65 => "HTTPS",
        _ => "other",
    };
    REQUESTS.with([via.name(), kind]).inc();
}

pub(super) fn responded(code: u16) {
    RESPONSES.with([code_name(code)]).inc();
}

fn code_name(code: u16) -> &'static str {
    match code {
        code::NO_ERROR => "NOERROR",
        code::FORMAT_ERROR => "FORMERR",
        code::SERVER_FAILURE => "SERVFAIL",
        code::NO_NAME => "NXDOMAIN",
        code::NOT_IMPLEMENTED => "NOTIMP",
        code::REFUSED => "REFUSED",
        code::BAD_VERSION => "BADVERS",
        _ => "other",
    }
}

pub(super) fn cache_hit(is_no: bool) {
    CACHE_HITS.with([if is_no { "denial" } else { "success" }]).inc();
}

pub(super) fn cache_missed() {
    CACHE_MISSES.with([]).inc();
}

pub(super) fn cache_holds(entries: usize) {
    CACHE_ENTRIES.with([]).set(i64::try_from(entries).unwrap_or(i64::MAX));
}

pub(super) fn forwarded(to: &str) {
    FORWARDS.with([to]).inc();
}

pub(super) fn forward_failed(to: &str) {
    FORWARD_FAILURES.with([to]).inc();
}

pub(super) fn forward_refused() {
    FORWARD_REFUSED.with([]).inc();
}

pub(super) fn connection_opened() -> base::metrics::Held<'static> {
    CONNECTIONS.with([]).hold()
}

pub(super) fn connection_refused() {
    CONNECTIONS_REFUSED.with([]).inc();
}

pub(super) fn ready(is_ready: bool) {
    READY.with([]).set(i64::from(is_ready));
}
