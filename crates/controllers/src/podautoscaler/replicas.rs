//! How many replicas bring a metric to its target.
//!
//! Pods that are going or have failed count for nothing. Those without a value, and those not ready yet, count against the
//! change that the others propose: as if they used nothing where it is more replicas, as much as is wanted where it is
//! fewer. If that turns the proposal around, nothing is changed. The figures are upstream's.

use std::collections::BTreeSet;

use api::Object;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::Value;

use super::metrics::{Sample, Samples, quantity};
use crate::conditions;

/// For so long after its start a pod's CPU usage is that of starting.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod whose readiness changed only within so long after its start has never been ready.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// How far from the target nothing is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    down: f64,
    up: f64,
}

impl Tolerance {
    pub(super) fn of(behavior: &Value, default: f64) -> Self {
        let of = |direction: &str| {
            let said = quantity(&behavior[direction]["tolerance"]);
            said.map_or(default, |said| said.nanos() as f64 / 1e9)
        };
        Self { down: of("scaleDown"), up: of("scaleUp") }
    }

    fn bears(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// The target's pods and what is known of it.
pub(super) struct Pods<'a> {
    pub(super) pods: &'a [Object],
    pub(super) current: i64,
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
}

/// What one metric proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i64,
    /// The average, or the total, in thousandths.
    pub(super) usage: i64,
    /// Percent of what is requested.
    pub(super) utilization: Option<i64>,
}

/// Pods by what their value is worth.
#[derive(Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// To a percentage of what the pods request.
pub(super) fn by_utilization(
    pods: &Pods<'_>,
    mut samples: Samples,
    resource: &str,
    container: &str,
    percent: i64,
) -> Result<Proposal, String> {
    let groups = group(pods, &mut samples, Some(resource))?;
    let requests = requests(pods.pods, resource, container)?;
    let utilization = |samples: &Samples| {
        let known = samples.iter().filter_map(|(name, sample)| Some((sample.value, requests.get(name)?)));
        let (used, requested, count) =
            known.fold((0_i64, 0_i64, 0_i64), |sum, (used, asked)| (sum.0 + used, sum.1 + asked, sum.2 + 1));
        if requested == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        Ok((used * 100 / requested, used / count))
    };
    let (now, usage) = utilization(&samples)?;
    let ratio = now as f64 / percent as f64;
    let fallback = |name: &str| requests.get(name).map_or(0, |request| request * percent.max(100) / 100);
    let replicas =
        weigh(
            pods,
            &groups,
            samples,
            ratio,
            &fallback,
            &|samples| Ok(utilization(samples)?.0 as f64 / percent as f64),
        )?;
    Ok(Proposal { replicas, usage, utilization: Some(now) })
}

/// To an average value.
pub(super) fn by_usage(
    pods: &Pods<'_>,
    mut samples: Samples,
    resource: Option<&str>,
    wanted: i64,
) -> Result<Proposal, String> {
    let groups = group(pods, &mut samples, resource)?;
    let average = |samples: &Samples| {
        samples.values().map(|sample| sample.value).sum::<i64>() / i64::try_from(samples.len()).unwrap_or(1).max(1)
    };
    let usage = average(&samples);
    let ratio = |samples: &Samples| average(samples) as f64 / wanted as f64;
    let first = ratio(&samples);
    let replicas = weigh(pods, &groups, samples, first, &|_| wanted, &|samples| Ok(ratio(samples)))?;
    Ok(Proposal { replicas, usage, utilization: None })
}

/// To a total that the ready pods share.
pub(super) fn by_total(pods: &Pods<'_>, usage: i64, wanted: i64) -> Result<Proposal, String> {
    let ratio = usage as f64 / wanted as f64;
    let proposal = |replicas: i64| Ok(Proposal { replicas, usage, utilization: None });
    if pods.current == 0 {
        return proposal(ceil(ratio));
    }
    if pods.tolerance.bears(ratio) {
        return proposal(pods.current);
    }
    if pods.pods.is_empty() {
        return Err(
            "unable to calculate ready pods: no pods returned by selector while calculating replica count".to_owned()
        );
    }
    let ready = pods.pods.iter().filter(|pod| {
        let tree = pod.to_value();
        tree["status"]["phase"] == "Running" && conditions::is_true(&tree["status"], "Ready")
    });
    proposal(ceil(ratio * ready.count() as f64))
}

/// To a total that is so much for each replica; `stated`: how many there are.
pub(super) fn per_pod(pods: &Pods<'_>, stated: i64, usage: i64, wanted: i64) -> Proposal {
    let ratio = usage as f64 / (wanted as f64 * stated as f64);
    let replicas = if pods.tolerance.bears(ratio) { stated } else { ceil(usage as f64 / wanted as f64) };
    Proposal { replicas, usage: ceil(usage as f64 / stated.max(1) as f64), utilization: None }
}

/// Sorts the pods, and takes out the values that count for nothing.
fn group(pods: &Pods<'_>, samples: &mut Samples, resource: Option<&str>) -> Result<Groups, String> {
    if pods.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let mut groups = Groups::default();
    for pod in pods.pods {
        let tree = pod.to_value();
        let (name, status) = (pod.key().name.to_string(), &tree["status"]);
        let phase = status["phase"].as_str().unwrap_or_default();
        if pod.is_deleting() || phase == "Failed" {
            samples.remove(&name);
        } else if phase == "Pending" {
            samples.remove(&name);
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(sample) if resource == Some("cpu") && is_starting(status, sample, pods.now) => {
                    samples.remove(&name);
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    match samples.is_empty() {
        true => Err("did not receive metrics for targeted pods (pods might be unready)".to_owned()),
        false => Ok(groups),
    }
}

/// Whether a pod's CPU usage tells of its start and not of its work.
fn is_starting(status: &Value, sample: &Sample, now: Timestamp) -> bool {
    let at = |value: &Value| value.as_str().and_then(|at| time::parse(at).ok());
    let (Some(ready), Some(started)) = (conditions::find(status, "Ready"), at(&status["startTime"])) else {
        return true;
    };
    let changed = at(&ready["lastTransitionTime"]).unwrap_or(started);
    let unready = ready["status"] == "False";
    if started + CPU_INITIALIZATION > now {
        return unready || sample.at.is_some_and(|at| at < changed + sample.window);
    }
    unready && started + INITIAL_READINESS > changed
}

/// The replicas that a ratio of use to target asks for, once the pods without a value have been weighed.
fn weigh(
    pods: &Pods<'_>,
    groups: &Groups,
    mut samples: Samples,
    ratio: f64,
    missing: &dyn Fn(&str) -> i64,
    again: &dyn Fn(&Samples) -> Result<f64, String>,
) -> Result<i64, String> {
    let unready_count = !groups.unready.is_empty() && ratio > 1.0;
    if !unready_count && groups.missing.is_empty() {
        let asked = ceil(ratio * groups.ready as f64);
        return Ok(if pods.tolerance.bears(ratio) { pods.current } else { asked });
    }
    let sample = |value: i64| Sample { value, at: None, window: SignedDuration::ZERO };
    for name in &groups.missing {
        if ratio < 1.0 {
            samples.insert(name.clone(), sample(missing(name)));
        } else if ratio > 1.0 {
            samples.insert(name.clone(), sample(0));
        }
    }
    if unready_count {
        samples.extend(groups.unready.iter().map(|name| (name.clone(), sample(0))));
    }
    let weighed = again(&samples)?;
    if pods.tolerance.bears(weighed) || ratio < 1.0 && weighed > 1.0 || ratio > 1.0 && weighed < 1.0 {
        return Ok(pods.current);
    }
    let asked = ceil(weighed * samples.len() as f64);
    let turned = weighed < 1.0 && asked > pods.current || weighed > 1.0 && asked < pods.current;
    Ok(if turned { pods.current } else { asked })
}

/// What each pod requests of a resource, in thousandths; of one container, where one is named.
fn requests(
    pods: &[Object],
    resource: &str,
    container: &str,
) -> Result<std::collections::BTreeMap<String, i64>, String> {
    let of = |pod: &Object| {
        let (tree, name) = (pod.to_value(), pod.key().name.to_string());
        let whole = &tree["spec"]["resources"]["requests"];
        if container.is_empty() && whole.as_object().is_some_and(|requests| !requests.is_empty()) {
            let all = machinery::pod_resources::requests(&tree);
            let request = all.get(resource).map(|request| request.milli_value());
            let missing = || format!("missing pod-level request for {resource} in Pod {name}");
            return Ok((name.clone(), request.ok_or_else(missing)?));
        }
        let list = |field: &str| tree["spec"][field].as_array().cloned().unwrap_or_default().into_iter();
        let sidecars = list("initContainers").filter(|container| container["restartPolicy"] == "Always");
        let mut sum = 0;
        for one in list("containers").chain(sidecars) {
            if !container.is_empty() && one["name"] != container {
                continue;
            }
            let Some(request) = quantity(&one["resources"]["requests"][resource]) else {
                let container = one["name"].as_str().unwrap_or_default();
                return Err(format!("missing request for {resource} in container {container} of Pod {name}"));
            };
            sum += request.milli_value();
        }
        Ok((name, sum))
    };
    pods.iter().map(of).collect()
}

/// Rounded up; what is no number, or too large for one, is the largest.
fn ceil(value: f64) -> i64 {
    if value.is_finite() { value.ceil().min(f64::from(i32::MAX)) as i64 } else { i64::from(i32::MAX) }
}

#[cfg(test)]
mod tests {
    use api::{Object, resources};
    use serde_json::json;

    use super::*;

    const NOW: &str = "2030-01-01T01:00:00Z";

    /// A pod: name, phase, whether it is ready, and since when it runs.
    fn pod(name: &str, phase: &str, ready: bool, started: &str) -> Object {
        let status = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name, "namespace": "n"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": started,
                "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": started}]}});
        Object::parse(resources::PODS, pod.to_string().into()).expect("a pod")
    }

    fn samples(rows: &[(&str, i64)]) -> Samples {
        let sample = |value| Sample { value, at: NOW.parse().ok(), window: SignedDuration::from_secs(60) };
        rows.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect()
    }

    fn utilization(pods: &[Object], rows: &[(&str, i64)], percent: i64) -> Result<(i64, Option<i64>), String> {
        let current = i64::try_from(pods.len()).expect("few pods");
        let tolerance = Tolerance { down: 0.1, up: 0.1 };
        let pods = Pods { pods, current, tolerance, now: NOW.parse().expect("a time") };
        by_utilization(&pods, samples(rows), "cpu", "", percent).map(|found| (found.replicas, found.utilization))
    }

    #[test]
    fn replicas_bring_the_utilization_to_its_target() {
        let old = "2030-01-01T00:00:00Z";
        let running = |name: &str| pod(name, "Running", true, old);
        let two = [running("a"), running("b")];
        assert_eq!(utilization(&two, &[("a", 900), ("b", 900)], 50), Ok((4, Some(90))));
        assert_eq!(utilization(&two, &[("a", 540), ("b", 540)], 50), Ok((2, Some(54))), "near enough");
        assert_eq!(utilization(&two, &[("a", 100), ("b", 100)], 50), Ok((1, Some(10))));
        // One without a value weighs as if it used nothing, and so turns the proposal around.
        assert_eq!(utilization(&two, &[("a", 600)], 50), Ok((2, Some(60))));
        // Where it is fewer, as if it used all that it requests.
        assert_eq!(utilization(&two, &[("a", 100)], 50), Ok((2, Some(10))));
        // One that starts uses nothing yet.
        let starting = [running("a"), pod("b", "Pending", false, NOW)];
        assert_eq!(utilization(&starting, &[("a", 1500)], 50), Ok((3, Some(150))));
        let fresh = [running("a"), pod("b", "Running", false, "2030-01-01T00:59:00Z")];
        assert_eq!(utilization(&fresh, &[("a", 1500), ("b", 9000)], 50), Ok((3, Some(150))));
        assert!(utilization(&[], &[("a", 1)], 50).is_err());
        assert!(utilization(&two, &[], 50).is_err());
    }

    #[test]
    fn totals_and_averages() {
        let pods = [pod("a", "Running", true, NOW), pod("b", "Running", true, NOW)];
        let tolerance = Tolerance { down: 0.1, up: 0.1 };
        let of = |current| Pods { pods: &pods, current, tolerance, now: NOW.parse().expect("a time") };
        assert_eq!(by_total(&of(2), 30_000, 10_000).map(|found| found.replicas), Ok(6));
        assert_eq!(by_total(&of(2), 10_500, 10_000).map(|found| found.replicas), Ok(2));
        assert_eq!(by_total(&of(0), 30_000, 10_000).map(|found| found.replicas), Ok(3));
        let found = per_pod(&of(2), 2, 50_000, 10_000);
        assert_eq!((found.replicas, found.usage), (5, 25_000));
        let found = by_usage(&of(2), samples(&[("a", 3000), ("b", 1000)]), None, 1000).expect("a proposal");
        assert_eq!((found.replicas, found.usage), (4, 2000));
    }
}
