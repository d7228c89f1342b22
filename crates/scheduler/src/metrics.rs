//! What the scheduler counts, in upstream's names.

use std::time::Duration;

use base::metrics::{Counters, Family, Gauges, Histograms};
use tokio::time::Instant;

use crate::plugins::PluginSet;

/// The only profile.
pub(crate) const PROFILE: &str = "default-scheduler";

/// Of so many attempts one has its extension points timed: reading the clock five times a pod would cost as much as placing
/// it in a small cluster.
const SAMPLE: u64 = 16;

static ATTEMPTS: Counters<2> = Counters::counters(
    "scheduler_schedule_attempts_total",
    "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while \
     'error' means an internal scheduler problem.",
    ["profile", "result"],
);

static ATTEMPT_SECONDS: Histograms<2> = Histograms::histograms(
    "scheduler_scheduling_attempt_duration_seconds",
    "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
    ["profile", "result"],
    ATTEMPT,
);

static ALGORITHM_SECONDS: Histograms<0> = Histograms::histograms(
    "scheduler_scheduling_algorithm_duration_seconds",
    "Scheduling algorithm latency in seconds",
    [],
    ATTEMPT,
);

static SLI_SECONDS: Histograms<1> = Histograms::histograms(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve \
     multiple scheduling attempts.",
    ["attempts"],
    &[
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
        1310.72, 2621.44, 5242.88,
    ],
);

static POD_ATTEMPTS: Histograms<0> = Histograms::histograms(
    "scheduler_pod_scheduling_attempts",
    "Number of attempts to successfully schedule a pod.",
    [],
    &[1.0, 2.0, 4.0, 8.0, 16.0],
);

static PENDING: Gauges<1> = Gauges::gauges(
    "scheduler_pending_pods",
    "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of \
     pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to \
     schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule \
     because they are gated.",
    ["queue"],
);

static INCOMING: Counters<2> = Counters::counters(
    "scheduler_queue_incoming_pods_total",
    "Number of pods added to scheduling queues by event and queue type.",
    ["event", "queue"],
);

static UNSCHEDULABLE: Gauges<2> = Gauges::gauges(
    "scheduler_unschedulable_pods",
    "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that \
     caused it to not schedule and so this metric have meaning only when broken down by plugin.",
    ["plugin", "profile"],
);

static PREEMPTION_ATTEMPTS: Counters<0> =
    Counters::counters("scheduler_preemption_attempts_total", "Total preemption attempts in the cluster till now", []);

static PREEMPTION_VICTIMS: Histograms<0> = Histograms::histograms(
    "scheduler_preemption_victims",
    "Number of selected preemption victims",
    [],
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
);

static EXTENSION_POINTS: Histograms<3> = Histograms::histograms(
    "scheduler_framework_extension_point_duration_seconds",
    "Latency for running all plugins of a specific extension point.",
    ["extension_point", "profile", "status"],
    &[0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048],
);

const ATTEMPT: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

/// The families of the scheduler.
pub const METRICS: &[&dyn Family] = &[
    &ATTEMPTS,
    &ATTEMPT_SECONDS,
    &ALGORITHM_SECONDS,
    &SLI_SECONDS,
    &POD_ATTEMPTS,
    &PENDING,
    &INCOMING,
    &UNSCHEDULABLE,
    &PREEMPTION_ATTEMPTS,
    &PREEMPTION_VICTIMS,
    &EXTENSION_POINTS,
];

/// How an attempt to place a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

fn scheduled(attempts: u32, waited: Duration) {
    // Upstream tells apart no more than this either.
    let label = if attempts > 15 { "16+".to_owned() } else { attempts.to_string() };
    SLI_SECONDS.with([&label]).observe(waited);
    POD_ATTEMPTS.with([]).observe_value(f64::from(attempts));
}

/// Who waits where.
pub(crate) fn pending(queue: &'static str, pods: usize) {
    PENDING.with([queue]).set(i64::try_from(pods).unwrap_or(i64::MAX));
}

/// A pod came into a queue.
pub(crate) fn incoming(event: &str, queue: &str) {
    INCOMING.with([event, queue]).inc();
}

/// These plugins refuse one pod more, or one less.
pub(crate) fn refused_by(plugins: PluginSet, by: i64) {
    plugins.iter().for_each(|plugin| UNSCHEDULABLE.with([plugin.name, PROFILE]).add(by));
}

/// Room was looked for by removing others; `victims`: how many go, where that helps.
pub(crate) fn preempted(victims: Option<usize>) {
    PREEMPTION_ATTEMPTS.with([]).inc();
    if let Some(victims) = victims {
        PREEMPTION_VICTIMS.with([]).observe_value(victims as f64);
    }
}

/// The clock of one attempt: how long it took in all, and, of one in [`SAMPLE`], each extension point.
pub(crate) struct Watch {
    begun: Instant,
    /// How often the pod was tried, and when it came.
    history: Option<(u32, Instant)>,
    last: Option<Instant>,
}

impl Watch {
    /// Of the attempt of that number, at a pod with that past.
    pub(crate) fn start(number: u64, history: Option<(u32, Instant)>) -> Self {
        let begun = Instant::now();
        Self { begun, history, last: number.is_multiple_of(SAMPLE).then_some(begun) }
    }

    /// An extension point has ended.
    pub(crate) fn point(&mut self, point: &str, status: &str) {
        if let Some(last) = &mut self.last {
            let now = Instant::now();
            EXTENSION_POINTS.with([point, PROFILE, status]).observe(now - *last);
            *last = now;
        }
    }

    /// The pod has its node, or has none.
    pub(crate) fn decided(&self) {
        ALGORITHM_SECONDS.with([]).observe(self.begun.elapsed());
    }

    /// The attempt is over.
    pub(crate) fn end(&self, attempt: Attempt) {
        let result = match attempt {
            Attempt::Scheduled => "scheduled",
            Attempt::Unschedulable => "unschedulable",
            Attempt::Error => "error",
        };
        ATTEMPTS.with([PROFILE, result]).inc();
        ATTEMPT_SECONDS.with([PROFILE, result]).observe(self.begun.elapsed());
        if let (Attempt::Scheduled, Some((attempts, came))) = (attempt, self.history) {
            scheduled(attempts, came.elapsed());
        }
    }
}
