//! Changes of a running pod's resources, whole.

use super::*;

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

impl Cluster {
    fn resize(&self, name: &str, container: usize, resources: Value) {
        let mut pod = self.get(name).unwrap();
        pod["spec"]["containers"][container]["resources"] = resources;
        let generation = pod["metadata"]["generation"].as_i64().unwrap_or(1);
        pod["metadata"]["generation"] = (generation + 1).into();
        self.api.put(pod);
    }

    fn shown(&self, name: &str, field: &str) -> Value {
        self.get(name).unwrap()["status"]["containerStatuses"][0][field].clone()
    }

    fn resize_condition(&self, name: &str, kind: &str) -> Value {
        let pod = self.get(name).unwrap();
        let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
    }
}

#[tokio::test]
async fn resources_change_in_place_or_with_a_restart_and_survive_the_kubelet() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster.pod(
        "a",
        json!({"containers": [{"name": "c", "image": "busybox:1", "resources": resources("100m", "64Mi"),
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}),
    );
    cluster.phase("a", "Running").await;
    assert_eq!(cluster.shown("a", "allocatedResources"), json!({"cpu": "100m", "memory": "64Mi"}));
    cluster.resize("a", 0, resources("200m", "64Mi"));
    until("the processor's share is changed", || cluster.shown("a", "resources") == resources("200m", "64Mi")).await;
    until("no condition is left", || cluster.resize_condition("a", "PodResizeInProgress").is_null()).await;
    assert_eq!((cluster.shown("a", "restartCount"), cluster.runtime.counts()), (json!(0), (1, 1)));
    cluster.resize("a", 0, resources("200m", "96Mi"));
    until("it is restarted with more memory", || {
        cluster.shown("a", "restartCount") == 1 && cluster.shown("a", "resources") == resources("200m", "96Mi")
    })
    .await;
    let made = cluster.runtime.configs().pop().unwrap().linux.unwrap().resources.unwrap();
    assert_eq!(made.memory_limit_in_bytes, 96 << 20);
    kubelet.end().await;
    // What was asked for while no kubelet ran is done by the next one, in place.
    cluster.resize("a", 0, resources("300m", "96Mi"));
    let kubelet = cluster.start().await;
    until("the next kubelet goes on", || cluster.shown("a", "resources") == resources("300m", "96Mi")).await;
    assert_eq!(cluster.shown("a", "restartCount"), 1);
    kubelet.end().await;
}

#[tokio::test]
async fn what_does_not_fit_waits_and_what_never_will_is_said_to() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let memory = |share: u64| {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let kilobytes: u64 = text.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
        json!({"requests": {"memory": format!("{}Ki", kilobytes / 100 * share)}})
    };
    let spec = |resources: Value| json!({"containers": [{"name": "c", "image": "busybox:1", "resources": resources}]});
    cluster.pod("a", spec(memory(20)));
    cluster.pod("b", spec(memory(40)));
    cluster.phase("a", "Running").await;
    cluster.phase("b", "Running").await;
    cluster.resize("a", 0, memory(200));
    until("it is infeasible", || cluster.resize_condition("a", "PodResizePending")["reason"] == "Infeasible").await;
    let message = cluster.resize_condition("a", "PodResizePending")["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Node didn't have enough capacity: memory, requested: "), "{message}");
    cluster.resize("a", 0, memory(70));
    until("it is deferred", || cluster.resize_condition("a", "PodResizePending")["reason"] == "Deferred").await;
    assert_eq!(cluster.shown("a", "allocatedResources"), memory(20)["requests"]);
    cluster.delete("b");
    until("it fits when the other is gone", || cluster.shown("a", "allocatedResources") == memory(70)["requests"])
        .await;
    until("nothing waits", || cluster.resize_condition("a", "PodResizePending").is_null()).await;
    kubelet.end().await;
}

/// The kernel kills for memory that is taken away while it is in use.
#[tokio::test]
async fn memory_in_use_is_not_taken_away() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster
        .pod("a", json!({"containers": [{"name": "c", "image": "busybox:1", "resources": resources("100m", "64Mi")}]}));
    cluster.phase("a", "Running").await;
    cluster.runtime.use_memory(48 << 20);
    cluster.resize("a", 0, resources("100m", "32Mi"));
    until("it is said why not", || cluster.resize_condition("a", "PodResizeInProgress")["reason"] == "Error").await;
    let message = cluster.resize_condition("a", "PodResizeInProgress")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("below current usage"), "{message}");
    cluster.runtime.use_memory(16 << 20);
    until("it is done when it can be", || cluster.resize_condition("a", "PodResizeInProgress").is_null()).await;
    kubelet.end().await;
}
