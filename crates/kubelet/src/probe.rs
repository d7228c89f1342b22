//! Probes: one task for each probe of each running container, which reports when what it knows changes.
//!
//! A probe waits for its initial delay, counts from when the container started, and then asks once a period. Liveness and
//! readiness are not asked before the container has started, as its startup probe says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::typed::core::v1::{Container, Probe};
use base::Stop;
use cri::Runtime;
use tokio::time::Instant;

use crate::action::{self, Outcome, Target};
use crate::identity::Identity;
use crate::plan::ProbeKind;

/// What a probe reports to.
pub(crate) trait Report: Send + Sync {
    /// The probe's verdict changed, or is known for the first time.
    fn verdict(&self, container_id: &str, kind: ProbeKind, healthy: bool);
    /// One attempt failed.
    fn failed(&self, kind: ProbeKind, message: &str);
}

/// A probe of a running container.
pub(crate) struct Prober {
    pub(crate) kind: ProbeKind,
    pub(crate) container: Container,
    pub(crate) target: Target,
    /// How long the container has been running.
    pub(crate) age: Duration,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) report: Arc<dyn Report>,
    pub(crate) tally: Counted,
}

/// Which probe of which container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) pod: Identity,
    pub(crate) container: String,
    pub(crate) kind: ProbeKind,
}

/// How often a probe succeeded, and how often it failed.
#[derive(Debug, Default)]
struct Tally([AtomicU64; 2]);

/// How often each probe that is asked succeeded and failed. One that ends is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Tallies(Mutex<BTreeMap<Name, Arc<Tally>>>);

/// A probe's place among them, for as long as it is asked.
pub(crate) struct Counted {
    all: Arc<Tallies>,
    name: Name,
    own: Arc<Tally>,
}

impl Tallies {
    /// A place for a probe that begins.
    pub(crate) fn count(self: &Arc<Self>, name: Name) -> Counted {
        let own = Arc::<Tally>::default();
        self.lock().insert(name.clone(), own.clone());
        Counted { all: self.clone(), name, own }
    }

    /// All of them, with successes and failures.
    pub(crate) fn all(&self) -> Vec<(Name, [u64; 2])> {
        let read = |tally: &Tally| [0, 1].map(|at| tally.0[at].load(Ordering::Relaxed));
        self.lock().iter().map(|(name, tally)| (name.clone(), read(tally))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Tally>>> {
        self.0.lock().expect("no holder of the counts panics")
    }
}

impl Counted {
    fn add(&self, success: bool) {
        self.own.0[usize::from(!success)].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // The next container of the same name may have begun already.
        if all.get(&self.name).is_some_and(|there| Arc::ptr_eq(there, &self.own)) {
            all.remove(&self.name);
        }
    }
}

impl ProbeKind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The probe of that kind in a container's spec.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }

    /// How messages name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Counts answers until as many agree as the thresholds ask for.
#[derive(Debug)]
struct Counter {
    successes_needed: u32,
    failures_needed: u32,
    last: Option<bool>,
    run: u32,
}

impl Counter {
    fn new(kind: ProbeKind, probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            // One success is enough for liveness and startup, whatever the spec says.
            successes_needed: if kind == ProbeKind::Readiness { at_least_one(probe.success_threshold, 1) } else { 1 },
            failures_needed: at_least_one(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// The verdict, once enough answers in a row agree.
    fn take(&mut self, healthy: bool) -> Option<bool> {
        self.run = if self.last == Some(healthy) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(healthy);
        let needed = if healthy { self.successes_needed } else { self.failures_needed };
        (self.run >= needed).then_some(healthy)
    }
}

impl Prober {
    /// Probes until `stop`, or until nothing can change any more.
    pub(crate) async fn run(self, stop: Stop) {
        let Some(probe) = self.kind.of(&self.container).cloned() else { return };
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(
                value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default),
            )
        };
        let (period, timeout) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
        let delay = seconds(probe.initial_delay_seconds, 0).saturating_sub(self.age);
        let mut next = Instant::now() + delay;
        let mut counter = Counter::new(self.kind, &probe);
        let mut reported = None;
        loop {
            if stop.or_stopped(tokio::time::sleep_until(next)).await.is_none() {
                return;
            }
            next = Instant::now() + period;
            let Some(outcome) = stop.or_stopped(self.ask(&probe, timeout)).await else { return };
            self.tally.add(outcome == Outcome::Success);
            if let Outcome::Failure(message) = &outcome {
                self.report.failed(self.kind, message);
            }
            let verdict = counter.take(outcome == Outcome::Success);
            if let Some(healthy) = verdict.filter(|healthy| reported != Some(*healthy)) {
                self.report.verdict(&self.target.container_id, self.kind, healthy);
                reported = Some(healthy);
                // A container that has started has started; one that failed is replaced, and its successor probed anew.
                if self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !healthy) {
                    return;
                }
            }
        }
    }

    async fn ask(&self, probe: &Probe, timeout: Duration) -> Outcome {
        let (container, target) = (&self.container, &self.target);
        if let Some(action) = &probe.exec {
            return action::exec(&*self.runtime, target, action, timeout).await;
        }
        if let Some(action) = &probe.http_get {
            return action::http_get(action, container, target, timeout).await;
        }
        if let Some(action) = &probe.tcp_socket {
            return action::tcp_connect(action, container, target, timeout).await;
        }
        match &probe.grpc {
            Some(action) => action::grpc(action, target, timeout).await,
            None => Outcome::Failure("missing probe handler".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_counted_while_it_is_asked() {
        let (all, pod) =
            (Arc::<Tallies>::default(), Identity { namespace: "ns".into(), name: "p".into(), uid: "u".into() });
        let name = || Name { pod: pod.clone(), container: "c".into(), kind: ProbeKind::Liveness };
        let first = all.count(name());
        [true, true, false].into_iter().for_each(|success| first.add(success));
        assert_eq!(all.all(), [(name(), [2, 1])]);
        let second = all.count(name());
        drop(first);
        assert_eq!(all.all(), [(name(), [0, 0])], "the one of the next container stays");
        drop(second);
        assert_eq!(all.all(), []);
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Default::default() };
        for (kind, answers, wanted) in
            [(ProbeKind::Readiness, "1101001", "-1---0-"), (ProbeKind::Liveness, "1101001", "11-1-01")]
        {
            let mut counter = Counter::new(kind, &probe);
            let verdicts = answers.chars().map(|answer| match counter.take(answer == '1') {
                Some(true) => '1',
                Some(false) => '0',
                None => '-',
            });
            assert_eq!(verdicts.collect::<String>(), wanted, "{kind:?}");
        }
    }
}
