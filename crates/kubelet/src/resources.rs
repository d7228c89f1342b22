//! Requests and limits: quality of service, cgroup settings, and the values that `resourceFieldRef` gives.
//!
//! Figures are upstream's: 1024 shares a core (at least 2), a quota of 100 ms periods (at least 1 ms), and an
//! `oom_score_adj` by quality of service.

use std::collections::BTreeMap;

use api::typed::Quantity;
use api::typed::core::v1::{Container, Pod, ResourceFieldSelector};
use cri::v1;

use crate::identity;
use crate::settings::{Settings, Threshold};

const PERIOD_MICROSECONDS: i64 = 100_000;
const QUOTA_MICROSECONDS_MIN: i64 = 1_000;
const SHARES_MIN: i64 = 2;

/// How a pod is treated when resources run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// What the machine has, for shares of it and for the values of absent limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capacity {
    pub(crate) milli_cpu: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) ephemeral_bytes: i64,
    pub(crate) pods: i64,
}

impl Capacity {
    /// What pods may ask for: without what is reserved, and what eviction keeps free.
    pub(crate) fn less(self, settings: &Settings) -> Self {
        let Settings { reserved, eviction, .. } = settings;
        let free = |threshold: Threshold, capacity: i64| threshold.of(capacity).unwrap_or(0);
        let memory = reserved.memory_bytes.saturating_add(free(eviction.memory, self.memory_bytes));
        let disk = reserved.ephemeral_bytes.saturating_add(free(eviction.node_disk, self.ephemeral_bytes));
        Self {
            milli_cpu: (self.milli_cpu - reserved.milli_cpu).max(0),
            memory_bytes: (self.memory_bytes.saturating_sub(memory)).max(0),
            ephemeral_bytes: (self.ephemeral_bytes.saturating_sub(disk)).max(0),
            ..self
        }
    }
}

type List = Option<BTreeMap<String, Quantity>>;

fn parse(quantity: &Quantity) -> Option<machinery::quantity::Quantity> {
    machinery::quantity::Quantity::parse(&quantity.0).ok()
}

fn milli(list: Option<&List>, name: &str) -> Option<i64> {
    list?.as_ref()?.get(name).and_then(parse).map(|quantity| clamp(quantity.milli_value()))
}

fn whole(list: Option<&List>, name: &str) -> Option<i64> {
    list?.as_ref()?.get(name).and_then(parse).map(|quantity| clamp(quantity.value()))
}

fn clamp(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn requests(container: &Container) -> Option<&List> {
    container.resources.as_ref().map(|resources| &resources.requests)
}

fn limits(container: &Container) -> Option<&List> {
    container.resources.as_ref().map(|resources| &resources.limits)
}

/// CPU and memory request of a container; a limit without a request asks for the limit.
fn request(container: &Container) -> (Option<i64>, Option<i64>) {
    (
        milli(requests(container), "cpu").or_else(|| milli(limits(container), "cpu")),
        whole(requests(container), "memory").or_else(|| whole(limits(container), "memory")),
    )
}

/// What a container asks for of a resource, in whole units.
pub(crate) fn requested(container: &Container, name: &str) -> i64 {
    whole(requests(container), name).unwrap_or(0)
}

/// A container's limit of a resource, as it is written and in whole units.
pub(crate) fn limited<'a>(container: &'a Container, name: &str) -> Option<(&'a str, i64)> {
    let limit = limits(container)?.as_ref()?.get(name)?;
    Some((limit.0.as_str(), bytes(limit).filter(|bytes| *bytes > 0)?))
}

/// A quantity in whole units.
pub(crate) fn bytes(quantity: &Quantity) -> Option<i64> {
    parse(quantity).map(|quantity| clamp(quantity.value()))
}

/// The quality of service of a pod: what the API says, which knows of resources of the pod as a whole too, or else what its
/// containers ask for.
pub(crate) fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let mut any = false;
    let mut guaranteed = true;
    for (_, container) in identity::containers(pod).filter(|(role, _)| *role != identity::Role::Ephemeral) {
        let (cpu, memory) = request(container);
        let limit = (milli(limits(container), "cpu"), whole(limits(container), "memory"));
        any |= [cpu, memory, limit.0, limit.1].into_iter().flatten().any(|value| value > 0);
        let full = limit.0.is_some_and(|value| value > 0) && limit.1.is_some_and(|value| value > 0);
        guaranteed &= full && limit == (cpu, memory);
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// What a pod asks of the node in milli-CPU and bytes of memory: its containers and sidecars together, or its hungriest
/// init container beside the sidecars before it, whichever is more; and its overhead.
pub(crate) fn pod_request(pod: &Pod) -> (i64, i64) {
    let mut main = (0_i64, 0_i64);
    let mut sidecars = (0_i64, 0_i64);
    let mut init = (0_i64, 0_i64);
    for (role, container) in identity::containers(pod) {
        let (cpu, memory) = request(container);
        let (cpu, memory) = (cpu.unwrap_or(0), memory.unwrap_or(0));
        match role {
            identity::Role::Main => main = (main.0.saturating_add(cpu), main.1.saturating_add(memory)),
            identity::Role::Sidecar => {
                sidecars = (sidecars.0.saturating_add(cpu), sidecars.1.saturating_add(memory));
            }
            identity::Role::Init => {
                init.0 = init.0.max(cpu.saturating_add(sidecars.0));
                init.1 = init.1.max(memory.saturating_add(sidecars.1));
            }
            // They ask for nothing.
            identity::Role::Ephemeral => {}
        }
    }
    let overhead = pod.spec.as_ref().map(|spec| &spec.overhead);
    // What the pod asks for as a whole stands in place of what its containers ask for.
    let whole_pod = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()).map(|resources| &resources.requests);
    let cpu = milli(whole_pod, "cpu").unwrap_or_else(|| main.0.saturating_add(sidecars.0).max(init.0));
    let memory = whole(whole_pod, "memory").unwrap_or_else(|| main.1.saturating_add(sidecars.1).max(init.1));
    (
        cpu.saturating_add(milli(overhead, "cpu").unwrap_or(0)),
        memory.saturating_add(whole(overhead, "memory").unwrap_or(0)),
    )
}

/// The cgroup settings of a container.
pub(crate) fn linux(pod: &Pod, container: &Container, capacity: Capacity) -> v1::LinuxContainerResources {
    let (cpu_request, _) = request(container);
    let oom_score_adj = oom_score_adj(pod, container, capacity);
    v1::LinuxContainerResources { oom_score_adj, ..group(cpu_request.unwrap_or(0), limits(container)) }
}

/// The settings of the pod's own control group, where the pod says what it gets as a whole.
pub(crate) fn whole_pod(pod: &Pod) -> Option<v1::LinuxContainerResources> {
    let own = pod.spec.as_ref()?.resources.as_ref()?;
    Some(group(pod_request(pod).0, Some(&own.limits)))
}

fn group(milli_cpu: i64, limits: Option<&List>) -> v1::LinuxContainerResources {
    let cpu_limit = milli(limits, "cpu").filter(|limit| *limit > 0);
    v1::LinuxContainerResources {
        cpu_period: PERIOD_MICROSECONDS,
        cpu_quota: cpu_limit
            .map_or(0, |limit| (limit.saturating_mul(PERIOD_MICROSECONDS) / 1000).max(QUOTA_MICROSECONDS_MIN)),
        cpu_shares: (milli_cpu.saturating_mul(1024) / 1000).max(SHARES_MIN),
        memory_limit_in_bytes: whole(limits, "memory").unwrap_or(0),
        ..Default::default()
    }
}

fn oom_score_adj(pod: &Pod, container: &Container, capacity: Capacity) -> i64 {
    // Pods that the node cannot do without (`system-node-critical`) are the last to be killed.
    if pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= 2_000_001_000) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let memory = request(container).1.unwrap_or(0);
            (1000 - memory.saturating_mul(1000) / capacity.memory_bytes.max(1)).clamp(2, 999)
        }
    }
}

/// The value of a `resourceFieldRef`; an absent limit is what the node has. `None` where the field is not known.
pub(crate) fn field(
    pod: &Pod,
    own: Option<&str>,
    selector: &ResourceFieldSelector,
    capacity: Capacity,
) -> Option<String> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).or(own)?;
    let (_, container) = identity::containers(pod).find(|(_, container)| container.name == name)?;
    let divisor = selector.divisor.as_ref().and_then(parse);
    let (kind, resource) = selector.resource.split_once('.')?;
    let list = match kind {
        "limits" => limits(container),
        "requests" => requests(container),
        _ => return None,
    };
    if resource == "cpu" {
        let divisor = divisor.map_or(1000, |divisor| clamp(divisor.milli_value())).max(1);
        let divisor = if selector.divisor.as_ref().is_some_and(|divisor| divisor.0 == "0") { 1000 } else { divisor };
        let value = milli(list, "cpu").or_else(|| (kind == "limits").then_some(capacity.milli_cpu)).unwrap_or(0);
        return Some(divide_up(value, divisor).to_string());
    }
    let absent = match resource {
        "memory" => capacity.memory_bytes,
        "ephemeral-storage" => capacity.ephemeral_bytes,
        _ => 0,
    };
    let divisor = divisor.map_or(1, |divisor| clamp(divisor.value())).max(1);
    let value = whole(list, resource).or_else(|| (kind == "limits").then_some(absent)).unwrap_or(0);
    Some(divide_up(value, divisor).to_string())
}

fn divide_up(value: i64, divisor: i64) -> i64 {
    value / divisor + i64::from(value % divisor > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn with(resources: &str) -> Pod {
        pod(&format!(r#"{{"spec":{{"containers":[{{"name":"a","resources":{resources}}}]}}}}"#))
    }

    const CAPACITY: Capacity = Capacity { milli_cpu: 2000, memory_bytes: 1 << 30, ephemeral_bytes: 1 << 40, pods: 110 };

    #[test]
    fn quality_of_service_and_cgroup_settings_follow_requests_and_limits() {
        for (resources, qos_wanted, shares, quota, score) in [
            ("{}", Qos::BestEffort, 2, 0, 1000),
            (r#"{"requests":{"cpu":"500m","memory":"512Mi"}}"#, Qos::Burstable, 512, 0, 500),
            (r#"{"limits":{"cpu":"1","memory":"64Mi"}}"#, Qos::Guaranteed, 1024, 100_000, -997),
            (r#"{"limits":{"cpu":"1m"}}"#, Qos::Burstable, 2, 1000, 999),
        ] {
            let pod = with(resources);
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let linux = linux(&pod, container, CAPACITY);
            assert_eq!(
                (qos(&pod), linux.cpu_shares, linux.cpu_quota, linux.oom_score_adj),
                (qos_wanted, shares, quota, score),
                "{resources}"
            );
        }
    }

    /// A pod that asks for memory as a whole counted as one that asks for nothing, and was the first to be killed.
    #[test]
    fn the_class_is_the_one_that_the_api_has() {
        let pod = pod(
            r#"{"spec":{"resources":{"requests":{"memory":"1Mi"}},"containers":[{"name":"a"}]},"status":{"qosClass":"Burstable"}}"#,
        );
        assert_eq!(qos(&pod), Qos::Burstable);
        assert_eq!(oom_score_adj(&pod, &pod.spec.as_ref().unwrap().containers[0], CAPACITY), 999);
    }

    #[test]
    fn a_pod_that_says_what_it_gets_as_a_whole_has_a_group_with_these_limits() {
        let pod = pod(
            r#"{"spec":{"resources":{"requests":{"cpu":"250m"},"limits":{"cpu":"500m","memory":"48Mi"}},"containers":[{"name":"a"}]}}"#,
        );
        let group = whole_pod(&pod).unwrap();
        assert_eq!((group.cpu_shares, group.cpu_quota, group.memory_limit_in_bytes), (256, 50_000, 48 << 20));
        assert_eq!(whole_pod(&with("{}")), None);
    }

    #[test]
    fn a_resource_field_is_rounded_up_and_falls_back_to_the_node() {
        let pod = with(r#"{"limits":{"cpu":"1500m"},"requests":{"memory":"1Mi"}}"#);
        for (resource, divisor, wanted) in [
            ("limits.cpu", "0", "2"),
            ("limits.cpu", "1m", "1500"),
            ("limits.memory", "1Mi", "1024"),
            ("requests.memory", "1Ki", "1024"),
            ("requests.cpu", "1", "0"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor: Some(Quantity(divisor.to_owned())),
                resource: resource.to_owned(),
            };
            assert_eq!(field(&pod, Some("a"), &selector, CAPACITY).as_deref(), Some(wanted), "{resource} / {divisor}");
        }
    }
}
