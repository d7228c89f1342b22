//! What flow control counts, in upstream's names.

use base::metrics::{Counter, Counters, Family, Gauge, Gauges, Histogram, Histograms};

static REJECTED: Counters<3> = Counters::counters(
    "apiserver_flowcontrol_rejected_requests_total",
    "Number of requests rejected by API Priority and Fairness subsystem",
    ["priority_level", "flow_schema", "reason"],
);

static DISPATCHED: Counters<2> = Counters::counters(
    "apiserver_flowcontrol_dispatched_requests_total",
    "Number of requests executed by API Priority and Fairness subsystem",
    ["priority_level", "flow_schema"],
);

static IN_QUEUE: Gauges<2> = Gauges::gauges(
    "apiserver_flowcontrol_current_inqueue_requests",
    "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
    ["priority_level", "flow_schema"],
);

static EXECUTING: Gauges<2> = Gauges::gauges(
    "apiserver_flowcontrol_current_executing_requests",
    "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
    ["priority_level", "flow_schema"],
);

static WAIT_SECONDS: Histograms<3> = Histograms::histograms(
    "apiserver_flowcontrol_request_wait_duration_seconds",
    "Length of time a request spent waiting in its queue",
    ["priority_level", "flow_schema", "execute"],
    &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0],
);

static NOMINAL_SEATS: Gauges<1> = Gauges::gauges(
    "apiserver_flowcontrol_nominal_limit_seats",
    "Nominal number of execution seats configured for each priority level",
    ["priority_level"],
);

static LOWER_SEATS: Gauges<1> = Gauges::gauges(
    "apiserver_flowcontrol_lower_limit_seats",
    "Configured lower bound on number of execution seats available to each priority level",
    ["priority_level"],
);

static UPPER_SEATS: Gauges<1> = Gauges::gauges(
    "apiserver_flowcontrol_upper_limit_seats",
    "Configured upper bound on number of execution seats available to each priority level",
    ["priority_level"],
);

/// The families of flow control.
pub(crate) const METRICS: &[&dyn Family] =
    &[&REJECTED, &DISPATCHED, &IN_QUEUE, &EXECUTING, &WAIT_SECONDS, &NOMINAL_SEATS, &LOWER_SEATS, &UPPER_SEATS];

/// What one schema counts.
#[derive(Debug)]
pub(crate) struct SchemaMetrics {
    pub(crate) dispatched: &'static Counter,
    pub(crate) in_queue: &'static Gauge,
    pub(crate) executing: &'static Gauge,
    pub(crate) waited: &'static Histogram,
}

impl SchemaMetrics {
    pub(crate) fn of(schema: &str, level: &str) -> Self {
        let labels = [level, schema];
        Self {
            dispatched: DISPATCHED.with(labels),
            in_queue: IN_QUEUE.with(labels),
            executing: EXECUTING.with(labels),
            waited: WAIT_SECONDS.with([level, schema, "true"]),
        }
    }
}

/// Counts a refused request.
pub(crate) fn rejected(level: &str, schema: &str, reason: &str) {
    REJECTED.with([level, schema, reason]).inc();
}

/// Shows a level's seats.
pub(crate) fn seats(level: &str, nominal: u32, lower: u32, upper: u32) {
    NOMINAL_SEATS.with([level]).set(nominal.into());
    LOWER_SEATS.with([level]).set(lower.into());
    UPPER_SEATS.with([level]).set(upper.into());
}
