//! What a kubelet says about usage, and the rates between two times that it was asked.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

/// CPU time so far, in nanoseconds, and memory now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    cpu_nanoseconds: u64,
    memory_bytes: u64,
}

/// One answer of a kubelet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    node: Counters,
    /// By the pod's uid and the container's name.
    pods: BTreeMap<String, BTreeMap<String, Counters>>,
}

/// What something uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) cpu_nanocores: u64,
    pub(super) memory_bytes: u64,
}

/// What a node and its pods use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) at: Timestamp,
    pub(super) window: Duration,
    pub(super) node: Usage,
    pub(super) pods: BTreeMap<String, BTreeMap<String, Usage>>,
}

impl Sample {
    /// Reads a kubelet's `/stats/summary`.
    pub(super) fn of(body: &[u8], at: Timestamp) -> Option<Self> {
        let summary: Value = serde_json::from_slice(body).ok()?;
        let node = counters(&summary["node"])?;
        let mut pods = BTreeMap::new();
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let Some(uid) = pod["podRef"]["uid"].as_str() else { continue };
            let containers = pod["containers"].as_array().into_iter().flatten();
            let containers =
                containers.filter_map(|container| Some((container["name"].as_str()?.to_owned(), counters(container)?)));
            pods.insert(uid.to_owned(), containers.collect());
        }
        Some(Self { at, node, pods })
    }
}

fn counters(of: &Value) -> Option<Counters> {
    let cpu_nanoseconds = of["cpu"]["usageCoreNanoSeconds"].as_u64()?;
    Some(Counters { cpu_nanoseconds, memory_bytes: of["memory"]["workingSetBytes"].as_u64()? })
}

impl Measured {
    /// `None` where no time has passed. A container that was started anew in between counts from its start.
    pub(super) fn between(before: &Sample, now: &Sample) -> Option<Self> {
        let window = Duration::try_from(now.at.duration_since(before.at)).ok().filter(|window| !window.is_zero())?;
        let usage = |before: Counters, now: Counters| {
            let used = now.cpu_nanoseconds.checked_sub(before.cpu_nanoseconds).unwrap_or(now.cpu_nanoseconds);
            let nanocores = u128::from(used) * 1_000_000_000 / window.as_nanos();
            Usage { cpu_nanocores: u64::try_from(nanocores).unwrap_or(u64::MAX), memory_bytes: now.memory_bytes }
        };
        let mut pods = BTreeMap::new();
        for (uid, containers) in &now.pods {
            // A pod that is new since then has no rate yet.
            let Some(earlier) = before.pods.get(uid) else { continue };
            let of = |(name, now): (&String, &Counters)| {
                let before = earlier.get(name).copied()?;
                Some((name.clone(), usage(before, *now)))
            };
            let containers: Option<BTreeMap<String, Usage>> = containers.iter().map(of).collect();
            if let Some(containers) = containers.filter(|containers| !containers.is_empty()) {
                pods.insert(uid.clone(), containers);
            }
        }
        Some(Self { at: now.at, window, node: usage(before.node, now.node), pods })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample(second: i64, node: u64, containers: &[(&str, u64)]) -> Sample {
        let of = |cpu: u64| json!({"cpu": {"usageCoreNanoSeconds": cpu}, "memory": {"workingSetBytes": 4096}});
        let containers: Vec<Value> = containers
            .iter()
            .map(|(name, cpu)| {
                let mut container = of(*cpu);
                container["name"] = (*name).into();
                container
            })
            .collect();
        let summary = json!({"node": of(node), "pods": [{"podRef": {"uid": "u"}, "containers": containers}]});
        let at = Timestamp::from_second(second).expect("a time");
        Sample::of(summary.to_string().as_bytes(), at).expect("a summary")
    }

    #[test]
    fn rates_are_taken_between_two_samples() {
        let (before, now) = (sample(100, 1000, &[("c", 500)]), sample(110, 11_000, &[("c", 5500)]));
        let measured = Measured::between(&before, &now).expect("rates");
        assert_eq!(measured.window, Duration::from_secs(10));
        assert_eq!(measured.node, Usage { cpu_nanocores: 1000, memory_bytes: 4096 });
        assert_eq!(measured.pods["u"]["c"].cpu_nanocores, 500);
        // Started anew: its time counts from zero.
        let anew = Measured::between(&now, &sample(120, 12_000, &[("c", 1000)])).expect("rates");
        assert_eq!(anew.pods["u"]["c"].cpu_nanocores, 100);
        // A container that was not there has no rate, and so its pod has none.
        let more = Measured::between(&now, &sample(120, 12_000, &[("c", 6000), ("d", 1)])).expect("rates");
        assert!(more.pods.is_empty());
        assert_eq!(Measured::between(&now, &now), None);
        assert_eq!(Sample::of(b"{}", Timestamp::UNIX_EPOCH), None);
    }
}
