//! Pods that go because something runs short, and pods that use more than they may.

use super::*;
use crate::settings::Threshold;

#[tokio::test(start_paused = true)]
async fn a_pod_that_fills_its_volume_or_its_logs_is_evicted() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let uid = cluster.pod(
        "volume",
        json!({"containers": [{"name": "c", "image": "busybox:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}]}),
    );
    let limits = json!({"limits": {"ephemeral-storage": "64Ki"}});
    let spec = json!({"containers": [{"name": "c", "image": "busybox:1", "resources": limits}]});
    let logs = cluster.pod("logs", spec.clone());
    cluster.pod("modest", spec);
    for name in ["volume", "logs", "modest"] {
        cluster.phase(name, "Running").await;
    }
    let volume = cluster.pod_dir(&uid).join("volumes/kubernetes.io~empty-dir/v/file");
    std::fs::write(volume, vec![7; 100_000]).unwrap();
    let log = cluster.dir.path().join("logs").join(format!("default_logs_{logs}")).join("c/0.log");
    std::fs::write(log, vec![b'x'; 100_000]).unwrap();
    for (name, message) in [
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". "),
        ("logs", "Container c exceeded its local ephemeral storage limit \"64Ki\". "),
    ] {
        cluster.phase(name, "Failed").await;
        let status = cluster.get(name).unwrap()["status"].clone();
        assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)));
        let list = status["conditions"].as_array().unwrap();
        let target = list.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
        assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
    }
    assert_eq!(cluster.get("modest").unwrap()["status"]["phase"], "Running");
    kubelet.end().await;
}

#[tokio::test(start_paused = true)]
async fn with_too_little_memory_the_node_says_so_and_its_pods_go() {
    let mut cluster = Cluster::new();
    cluster.settings.eviction.memory = Threshold::Amount(i64::MAX);
    let kubelet = cluster.start().await;
    let node = || cluster.api.get(Node::resource(), "", "node-1");
    until("the node is short of memory", || node().is_some_and(|node| *condition(&node, "MemoryPressure") == "True"))
        .await;
    let container = |requests: Value| json!({"containers": [{"name": "c", "image": "busybox:1", "resources": {"requests": requests}}]});
    cluster.pod("best-effort", container(json!({})));
    cluster.phase("best-effort", "Failed").await;
    let status = cluster.get("best-effort").unwrap()["status"].clone();
    assert_eq!(status["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    // `kubectl` showed it as ContainerCreating for good.
    assert_eq!(status["containerStatuses"], Value::Null);
    kubelet.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_soft_threshold_evicts_after_its_grace_period_and_gives_time_to_end() {
    let mut cluster = Cluster::new();
    let soft = |grace_seconds| crate::settings::Soft {
        signal: crate::settings::Signal::Memory,
        threshold: Threshold::Amount(i64::MAX),
        grace: Duration::from_secs(grace_seconds),
    };
    let eviction = crate::settings::Eviction {
        memory: Threshold::Off,
        pids: Threshold::Off,
        ..crate::Settings::default().eviction
    };
    cluster.settings.eviction =
        crate::settings::Eviction { soft: vec![soft(60)], pod_grace_seconds_max: 20, ..eviction };
    cluster.runtime.use_memory(64 << 20);
    let container = json!([{"name": "c", "image": "busybox:1", "resources": {"requests": {"memory": "1Mi"}}}]);
    cluster.pod("slow", json!({"terminationGracePeriodSeconds": 300, "containers": container}));
    let begun = tokio::time::Instant::now();
    let kubelet = cluster.start().await;
    cluster.phase("slow", "Running").await;
    let node = || cluster.api.get(Node::resource(), "", "node-1");
    until("the node says so at once", || node().is_some_and(|node| *condition(&node, "MemoryPressure") == "True"))
        .await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    tokio::time::sleep_until(begun + Duration::from_secs(55)).await;
    assert_eq!(cluster.get("slow").unwrap()["status"]["phase"], "Running");
    cluster.phase("slow", "Failed").await;
    assert_eq!(cluster.get("slow").unwrap()["status"]["reason"], "Evicted");
    assert_eq!(cluster.runtime.graces(), [20]);
    kubelet.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_pod_that_uses_most_beyond_its_request_goes_first_and_a_critical_one_never() {
    let mut cluster = Cluster::new();
    cluster.settings.eviction.pids = Threshold::Off;
    cluster.settings.eviction.memory = Threshold::Off;
    let kubelet = cluster.start().await;
    let spec = |priority: i32| {
        json!({"priority": priority, "containers": [{"name": "c", "image": "busybox:1",
        "resources": {"requests": {"memory": "1Mi"}}}]})
    };
    cluster.pod("important", spec(100));
    cluster.pod("dispensable", spec(0));
    cluster.pod("critical", spec(2_000_000_000));
    for name in ["important", "dispensable", "critical"] {
        cluster.phase(name, "Running").await;
    }
    kubelet.end().await;
    cluster.runtime.use_memory(64 << 20);
    cluster.settings.eviction.memory = Threshold::Percent(100);
    let kubelet = cluster.start().await;
    cluster.phase("dispensable", "Failed").await;
    assert_eq!(cluster.get("important").unwrap()["status"]["phase"], "Running", "one at a time");
    cluster.phase("important", "Failed").await;
    let message = cluster.get("important").unwrap()["status"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{message}");
    assert!(
        message.ends_with("Container c was using 64Mi, request is 1Mi, has larger consumption of memory. "),
        "{message}"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.get("critical").unwrap()["status"]["phase"], "Running");
    kubelet.end().await;
}
