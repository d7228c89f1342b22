//! Which signals are below their thresholds, and which pod goes first. Pure; ranks, reasons and messages are upstream's.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::resources::Qos;
use crate::settings::{Eviction, Signal};

/// Pods of this priority and above are never evicted: the cluster cannot do without them.
pub(crate) const CRITICAL_PRIORITY: i32 = 2_000_000_000;

impl Signal {
    /// As messages name what is short.
    fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeDisk | Self::ImageDisk => "ephemeral-storage",
            Self::NodeInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    pub(crate) fn is_disk(self) -> bool {
        matches!(self, Self::NodeDisk | Self::NodeInodes | Self::ImageDisk)
    }
}

/// What there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) available: i64,
    pub(crate) capacity: i64,
}

/// A signal below a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short {
    pub(crate) signal: Signal,
    pub(crate) available: i64,
    pub(crate) threshold: i64,
    /// By a soft threshold.
    pub(crate) soft: bool,
}

/// The thresholds that the node was below when it was looked at last, and since when; with whether they are soft.
#[derive(Debug, Default)]
pub(crate) struct Watched(BTreeMap<(Signal, bool), Instant>);

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What is below a threshold: the node's conditions.
    pub(crate) below: Vec<Short>,
    /// What must be acted on, the most urgent first.
    pub(crate) urgent: Vec<Short>,
}

impl Watched {
    /// Compares levels with thresholds. What is not measured is not short.
    pub(crate) fn look(&mut self, levels: impl Fn(Signal) -> Option<Level>, settings: &Eviction, now: Instant) -> Seen {
        let soft = settings.soft.iter().map(|soft| (soft.signal, true, soft.threshold, soft.grace));
        let hard = Signal::ALL.map(|signal| (signal, false, settings.hard(signal), Duration::ZERO));
        let mut thresholds: Vec<_> = hard.into_iter().chain(soft).collect();
        thresholds.sort_by_key(|(signal, soft, ..)| (*signal, *soft));
        let (mut seen, mut met) = (Seen::default(), BTreeMap::new());
        for (signal, soft, threshold, grace) in thresholds {
            let Some(level) = levels(signal) else { continue };
            let Some(threshold) = threshold.of(level.capacity) else { continue };
            let since = self.0.get(&(signal, soft)).copied();
            // Once below it, the node frees more than it must: else it would be below it again at once.
            let more = settings.minimum_reclaim.iter().filter(|(of, _)| *of == signal && since.is_some());
            let more = more.filter_map(|(_, more)| more.of(level.capacity)).max().unwrap_or(0);
            if level.available >= threshold.saturating_add(more) {
                continue;
            }
            let since = *met.entry((signal, soft)).or_insert(since.unwrap_or(now));
            let short = Short { signal, available: level.available, threshold, soft };
            seen.below.push(short);
            if now.duration_since(since) >= grace {
                seen.urgent.push(short);
            }
        }
        self.0 = met;
        seen
    }
}

/// What one container takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
    pub(crate) memory_bytes: i64,
    pub(crate) memory_request: i64,
    pub(crate) disk_bytes: i64,
    pub(crate) disk_request: i64,
}

/// What one pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) uid: String,
    pub(crate) priority: i32,
    pub(crate) critical: bool,
    pub(crate) containers: Vec<ContainerUsage>,
    /// Its volumes on the node's disk.
    pub(crate) volumes_bytes: i64,
}

impl Usage {
    fn sum(&self, of: fn(&ContainerUsage) -> i64) -> i64 {
        self.containers.iter().map(of).fold(0, i64::saturating_add)
    }

    /// Used and asked for.
    fn of(&self, signal: Signal) -> (i64, i64) {
        match signal {
            Signal::Memory | Signal::Pids => (self.sum(|one| one.memory_bytes), self.sum(|one| one.memory_request)),
            _ => (self.sum(|one| one.disk_bytes).saturating_add(self.volumes_bytes), self.sum(|one| one.disk_request)),
        }
    }
}

/// The pod that goes first: of those that use more than they asked for the least important, then who uses most beyond it. With
/// too few process ids only importance counts.
pub(crate) fn first<'a>(signal: Signal, pods: &'a [Usage]) -> Option<&'a Usage> {
    let rank = |pod: &&'a Usage| {
        let (used, request) = pod.of(signal);
        let exceeds = signal != Signal::Pids && used > request;
        (!exceeds, pod.priority, Reverse(used.saturating_sub(request)), pod.uid.clone())
    };
    pods.iter().filter(|pod| !pod.critical).min_by_key(rank)
}

/// Why it goes.
pub(crate) fn message(short: Short, pod: &Usage) -> String {
    let shown = |amount: i64| {
        if short.signal == Signal::Pids || short.signal == Signal::NodeInodes {
            amount.to_string()
        } else {
            binary(amount)
        }
    };
    let resource = short.signal.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        shown(short.threshold),
        shown(short.available)
    );
    for container in &pod.containers {
        let (used, request) = match short.signal {
            Signal::Memory => (container.memory_bytes, container.memory_request),
            Signal::NodeDisk | Signal::ImageDisk => (container.disk_bytes, container.disk_request),
            Signal::NodeInodes | Signal::Pids => continue,
        };
        if used > request {
            text.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                shown(used),
                shown(request)
            ));
        }
    }
    text
}

/// A number of bytes as a quantity: in the largest unit that leaves no rest, but at least in Ki.
pub(crate) fn binary(bytes: i64) -> String {
    let (mut amount, mut unit) = (bytes, "");
    for next in ["Ki", "Mi", "Gi", "Ti"] {
        if amount == 0 || amount % 1024 != 0 {
            // What was measured has a rest of bytes that nobody wants to read.
            return if unit.is_empty() && amount > 1024 {
                format!("{}Ki", amount / 1024)
            } else {
                format!("{amount}{unit}")
            };
        }
        (amount, unit) = (amount / 1024, next);
    }
    format!("{amount}{unit}")
}

/// Why a pod does not start while something is short; `None` where it may.
pub(crate) fn refuses(memory: bool, disk: bool, pids: bool, pod: Newcomer) -> Option<String> {
    if pod.critical {
        return None;
    }
    let listed: Vec<_> = [(memory, "MemoryPressure"), (disk, "DiskPressure"), (pids, "PIDPressure")]
        .into_iter()
        .filter(|one| one.0)
        .collect();
    if listed.is_empty() || (memory && !disk && !pids && (pod.qos != Qos::BestEffort || pod.tolerates_memory_pressure))
    {
        return None;
    }
    let names: Vec<_> = listed.into_iter().map(|(_, name)| name).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

/// What decides whether a pod may start under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) critical: bool,
    pub(crate) qos: Qos,
    pub(crate) tolerates_memory_pressure: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, Soft, Threshold};

    fn pod(uid: &str, priority: i32, used: i64, request: i64) -> Usage {
        let container = ContainerUsage {
            name: "c".into(),
            memory_bytes: used,
            memory_request: request,
            disk_bytes: used,
            disk_request: request,
        };
        let critical = priority >= CRITICAL_PRIORITY;
        Usage { uid: uid.into(), priority, critical, containers: vec![container], volumes_bytes: 0 }
    }

    #[test]
    fn signals_are_short_below_their_thresholds_only() {
        let settings = Settings::default().eviction;
        let levels = |signal| match signal {
            Signal::Memory => Some(Level { available: 99 << 20, capacity: 1 << 40 }),
            Signal::NodeDisk => Some(Level { available: 10, capacity: 100 }),
            Signal::NodeInodes => Some(Level { available: 4, capacity: 100 }),
            _ => None,
        };
        let seen = Watched::default().look(levels, &settings, Instant::now());
        let names: Vec<_> = seen.urgent.iter().map(|short| short.signal).collect();
        assert_eq!(names, [Signal::Memory, Signal::NodeInodes]);
        let off = Eviction { memory: Threshold::Off, node_inodes: Threshold::Off, ..settings };
        assert_eq!(Watched::default().look(levels, &off, Instant::now()), Seen::default());
    }

    /// Levels at moments, in seconds and bytes of memory; and what is then below a threshold and what is urgent: `h` and `s`.
    #[test]
    fn a_soft_threshold_waits_and_what_was_short_must_be_well_above() {
        let soft = Soft { signal: Signal::Memory, threshold: Threshold::Amount(300), grace: Duration::from_secs(30) };
        let settings = Eviction {
            memory: Threshold::Amount(100),
            soft: vec![soft],
            minimum_reclaim: vec![(Signal::Memory, Threshold::Amount(50))],
            ..Settings::default().eviction
        };
        let (mut watched, start) = (Watched::default(), Instant::now());
        for (second, available, below, urgent) in [
            (0, 400, "", ""),
            (10, 299, "s", ""),
            (30, 299, "s", ""),
            (40, 299, "s", "s"),
            (50, 349, "s", "s"),
            (60, 350, "", ""),
            (70, 320, "", ""),
            (80, 299, "s", ""),
            (90, 99, "hs", "h"),
            (100, 120, "hs", "h"),
            (110, 150, "s", "s"),
            (120, 1000, "", ""),
        ] {
            let levels = |signal| (signal == Signal::Memory).then_some(Level { available, capacity: 1000 });
            let seen = watched.look(levels, &settings, start + Duration::from_secs(second));
            let told = |list: &[Short]| list.iter().map(|one| if one.soft { 's' } else { 'h' }).collect::<String>();
            assert_eq!((told(&seen.below), told(&seen.urgent)), (below.into(), urgent.into()), "at {second}");
        }
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first_then_the_least_important() {
        let pods = [
            pod("modest", -5, 10, 20),
            pod("greedy", 0, 30, 10),
            pod("greedier", 0, 90, 10),
            pod("important", 9, 900, 0),
            pod("critical", CRITICAL_PRIORITY, 9_000, 0),
        ];
        let order = |signal: Signal| {
            let (mut left, mut names) = (pods.to_vec(), Vec::new());
            while let Some(uid) = first(signal, &left).map(|pod| pod.uid.clone()) {
                left.retain(|pod| pod.uid != uid);
                names.push(uid);
            }
            names.join(" ")
        };
        assert_eq!(order(Signal::Memory), "greedier greedy important modest");
        assert_eq!(order(Signal::NodeDisk), "greedier greedy important modest");
        assert_eq!(order(Signal::Pids), "modest greedier greedy important");
    }

    #[test]
    fn messages_are_upstream_s() {
        let short = Short { signal: Signal::Memory, available: 51 << 20, threshold: 100 << 20, soft: false };
        assert_eq!(
            message(short, &pod("a", 0, 64 << 20, 0)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51Mi. Container c was using 64Mi, \
             request is 0, has larger consumption of memory. "
        );
        for (bytes, wanted) in [(0, "0"), (1, "1"), (1025, "1Ki"), (1 << 30, "1Gi"), (5_000_000, "4882Ki")] {
            assert_eq!(binary(bytes), wanted);
        }
    }

    #[test]
    fn newcomers_wait_elsewhere_unless_the_node_needs_them() {
        let normal = Newcomer { critical: false, qos: Qos::BestEffort, tolerates_memory_pressure: false };
        let burstable = Newcomer { qos: Qos::Burstable, ..normal };
        assert_eq!(refuses(false, false, false, normal), None);
        assert_eq!(refuses(true, false, false, normal).unwrap(), "The node had condition: [MemoryPressure]. ");
        assert_eq!(refuses(true, false, false, burstable), None);
        assert_eq!(refuses(true, false, false, Newcomer { tolerates_memory_pressure: true, ..normal }), None);
        assert_eq!(
            refuses(true, true, false, burstable).unwrap(),
            "The node had condition: [MemoryPressure DiskPressure]. "
        );
        assert_eq!(refuses(true, true, true, Newcomer { critical: true, ..normal }), None);
    }
}
