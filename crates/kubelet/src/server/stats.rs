//! `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`: CPU and memory of the running containers, asked of the runtime when somebody
//! asks.

use std::collections::BTreeMap;
use std::fmt::Write;

use base::chain;
use base::metrics::Text;
use cri::v1;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::metrics::answer;
use super::{Body, Refusal, json as json_response, text};
use crate::host::Host;
use crate::identity::{CONTAINER_NAME, Identity};

/// The statistics of one container.
struct Usage {
    name: String,
    id: String,
    image: String,
    at: i64,
    cpu_nanoseconds: u64,
    working_set_bytes: u64,
    usage_bytes: u64,
    rootfs_bytes: u64,
}

async fn usage(host: &Host) -> Result<BTreeMap<Identity, Vec<Usage>>, Refusal> {
    let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
    let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
    let running = host.runtime.list_containers(Some(filter)).await;
    let running = running.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
    let mut pods: BTreeMap<Identity, Vec<Usage>> = BTreeMap::new();
    for container in running {
        let Some(pod) = Identity::from_labels(&container.labels) else { continue };
        // One that ended in between has no statistics.
        let Ok(stats) = host.runtime.container_stats(&container.id).await else { continue };
        let value = |value: Option<v1::UInt64Value>| value.map_or(0, |value| value.value);
        let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
        pods.entry(pod).or_default().push(Usage {
            name: container.labels.get(CONTAINER_NAME).cloned().unwrap_or_default(),
            id: container.id,
            image: container.image.map(|image| image.user_specified_image).unwrap_or_default(),
            at: cpu.timestamp,
            cpu_nanoseconds: value(cpu.usage_core_nano_seconds),
            working_set_bytes: value(memory.working_set_bytes),
            usage_bytes: value(memory.usage_bytes),
            rootfs_bytes: value(stats.writable_layer.and_then(|layer| layer.used_bytes)),
        });
    }
    Ok(pods)
}

/// What the whole node uses: CPU time in nanoseconds and bytes of memory.
async fn node_usage() -> (u64, u64) {
    let stat = tokio::fs::read_to_string("/proc/stat").await.unwrap_or_default();
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // All but idle and waiting for disks, at 100 ticks a second.
    let busy = ticks.iter().take(8).sum::<u64>() - ticks.get(3).unwrap_or(&0) - ticks.get(4).unwrap_or(&0);
    let meminfo = tokio::fs::read_to_string("/proc/meminfo").await.unwrap_or_default();
    let kilobytes = |field: &str| -> u64 {
        let line = meminfo.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    (busy * 10_000_000, kilobytes("MemTotal:").saturating_sub(kilobytes("MemAvailable:")) * 1024)
}

pub(super) async fn summary(host: &Host) -> Result<Response<Body>, Refusal> {
    let now = host.clock.now().to_string();
    let cpu = |at: &str, nanoseconds: u64| json!({"time": at, "usageCoreNanoSeconds": nanoseconds});
    let memory = |at: &str, usage: u64, working_set: u64| json!({"time": at, "usageBytes": usage, "workingSetBytes": working_set});
    let mut pods = Vec::new();
    for (pod, containers) in usage(host).await? {
        let sum = |of: fn(&Usage) -> u64| containers.iter().map(of).sum::<u64>();
        let list: Vec<Value> = containers
            .iter()
            .map(|usage| {
                let at = Timestamp::from_nanosecond(usage.at.into()).map_or_else(|_| now.clone(), |at| at.to_string());
                json!({"name": usage.name, "cpu": cpu(&at, usage.cpu_nanoseconds),
                    "memory": memory(&at, usage.usage_bytes, usage.working_set_bytes),
                    "rootfs": {"time": at, "usedBytes": usage.rootfs_bytes}})
            })
            .collect();
        pods.push(json!({
            "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "containers": list,
            "cpu": cpu(&now, sum(|usage| usage.cpu_nanoseconds)),
            "memory": memory(&now, sum(|usage| usage.usage_bytes), sum(|usage| usage.working_set_bytes)),
        }));
    }
    let (node_cpu, node_memory) = node_usage().await;
    let node = json!({"nodeName": host.node_name, "cpu": cpu(&now, node_cpu), "memory": memory(&now, node_memory, node_memory)});
    Ok(json_response(json!({"node": node, "pods": pods}).to_string()))
}

pub(super) async fn metrics(host: &Host) -> Result<Response<Body>, Refusal> {
    let pods = usage(host).await?;
    let (node_cpu, node_memory) = node_usage().await;
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let of_containers = |value: fn(&Usage) -> u64| -> Vec<(String, u64)> {
        let all = pods.iter().flat_map(|(pod, list)| list.iter().map(move |usage| (pod, usage)));
        all.map(|(pod, usage)| {
            let labels =
                format!("{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}", usage.name, pod.namespace, pod.name);
            (labels, value(usage))
        })
        .collect()
    };
    let of_pods = |value: fn(&Usage) -> u64| -> Vec<(String, u64)> {
        pods.iter()
            .map(|(pod, list)| {
                (format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.namespace, pod.name), list.iter().map(value).sum())
            })
            .collect()
    };
    let in_seconds =
        |list: Vec<(String, u64)>| list.into_iter().map(|(labels, value)| (labels, seconds(value))).collect::<Vec<_>>();
    let in_bytes =
        |list: Vec<(String, u64)>| list.into_iter().map(|(labels, value)| (labels, value as f64)).collect::<Vec<_>>();
    let cpu = |usage: &Usage| usage.cpu_nanoseconds;
    let memory = |usage: &Usage| usage.working_set_bytes;
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        &in_seconds(of_containers(cpu)),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        &in_bytes(of_containers(memory)),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        &[(String::new(), seconds(node_cpu))],
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        &[(String::new(), node_memory as f64)],
    );
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        &in_seconds(of_pods(cpu)),
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        &in_bytes(of_pods(memory)),
    );
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        &[(String::new(), 0.0)],
    );
    Ok(text(StatusCode::OK, out))
}

/// The families of cAdvisor that dashboards of Kubernetes are made from, as far as the runtime tells.
pub(super) async fn cadvisor(host: &Host) -> Result<Response<Body>, Refusal> {
    type Value = fn(&Usage) -> f64;
    const FAMILIES: [(&str, &str, &str, Value); 5] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |usage| {
            usage.cpu_nanoseconds as f64 / 1e9
        }),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes.", |usage| usage.usage_bytes as f64),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |usage| {
            usage.working_set_bytes as f64
        }),
        ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container.", |usage| {
            usage.rootfs_bytes as f64
        }),
        ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |usage| {
            (usage.at / 1_000_000_000) as f64
        }),
    ];
    let pods = usage(host).await?;
    let (node_cpu, node_memory) = node_usage().await;
    let node = Usage {
        name: String::new(),
        id: "/".to_owned(),
        image: String::new(),
        at: host.clock.now().as_nanosecond().try_into().unwrap_or(i64::MAX),
        cpu_nanoseconds: node_cpu,
        working_set_bytes: node_memory,
        usage_bytes: node_memory,
        rootfs_bytes: 0,
    };
    let nobody = Identity { namespace: String::new(), name: String::new(), uid: String::new() };
    let all = || {
        let containers = pods.iter().flat_map(|(pod, list)| list.iter().map(move |usage| (pod, usage)));
        std::iter::once((&nobody, &node)).chain(containers)
    };
    let mut text = Text::default();
    for (name, kind, help, value) in FAMILIES {
        text.family(name, help, kind);
        for (pod, usage) in all() {
            let labels = [
                ("container", &*usage.name),
                ("id", &usage.id),
                ("image", &usage.image),
                ("name", if usage.name.is_empty() { "" } else { &usage.id }),
                ("namespace", &pod.namespace),
                ("pod", &pod.name),
            ];
            text.sample(name, &labels, value(usage));
        }
    }
    text.family("machine_cpu_cores", "Number of logical CPU cores.", "gauge");
    text.sample("machine_cpu_cores", &[], host.capacity.milli_cpu as f64 / 1000.0);
    text.family("machine_memory_bytes", "Amount of memory installed on the machine.", "gauge");
    text.sample("machine_memory_bytes", &[], host.capacity.memory_bytes as f64);
    Ok(answer(text))
}
