//! Built-in resources: list, watch, apply on the server, patch a status, run a command, scale, evict.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use kube::api::{AttachParams, DeleteParams, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// The program's name among the managers of fields.
pub(crate) const MANAGER: &str = "rust-program";

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) async fn objects(client: Client) {
    let version = client.apiserver_version().await.unwrap();
    assert_eq!((&*version.major, &*version.minor), ("1", "36"));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let first = namespaces.list(&ListParams::default().limit(1)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.continue_.is_some()), (1, true));
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let wanted = ListParams::default().labels("program=rust");
    let streaming = watcher::Config::default().labels("program=rust").streaming_lists();
    let mut events = watcher(maps.clone(), streaming).default_backoff().applied_objects().boxed();
    let map = |data: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {"name": "settings", "labels": {"program": "rust"}}})
    };
    let apply = PatchParams::apply(MANAGER);
    let applied = maps.patch("settings", &apply, &Patch::Apply(map(json!({"a": "1", "b": "1"})))).await.unwrap();
    assert_eq!(applied.managed_fields()[0].manager.as_deref(), Some(MANAGER));
    assert_eq!(events.try_next().await.unwrap().unwrap().uid(), applied.uid());
    let other = PatchParams::apply("other");
    let refused = maps.patch("settings", &other, &Patch::Apply(map(json!({"a": "2"})))).await.unwrap_err();
    assert!(refused.to_string().contains("Apply failed with 1 conflict"), "{refused}");
    maps.patch("settings", &other.force(), &Patch::Apply(map(json!({"a": "2"})))).await.unwrap();
    assert_eq!(events.try_next().await.unwrap().unwrap().data.unwrap()["a"], "2");
    let listed = maps.list_metadata(&wanted).await.unwrap();
    assert_eq!(listed.items[0].name_any(), "settings");
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": null}}))).await.unwrap();
    let now = maps.get("settings").await.unwrap();
    assert_eq!(now.data.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
    maps.delete_collection(&DeleteParams::default(), &wanted).await.unwrap();
    assert!(maps.get_opt("settings").await.unwrap().is_none());
    let nodes: Api<Node> = Api::all(client);
    let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0);
    let condition = json!({"status": {"conditions": [{"type": "example.test/Rusty", "status": "True",
        "lastTransitionTime": "2030-01-01T00:00:00Z", "reason": "Test", "message": ""}]}});
    let patched =
        nodes.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Strategic(condition)).await.unwrap();
    let kinds: Vec<String> = patched.status.unwrap().conditions.unwrap().into_iter().map(|one| one.type_).collect();
    assert!(kinds.len() > 1 && kinds.contains(&"example.test/Rusty".to_owned()), "merged by type: {kinds:?}");
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
        "terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": "example.test/web:1",
            "command": ["sh", "-c", "echo ahoy; exec sleep 3600"]}]}})
}

pub(crate) async fn pods(client: Client) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    pods.create(&PostParams::default(), &read(pod("one"))).await.unwrap();
    await_condition(pods.clone(), "one", conditions::is_pod_running()).await.unwrap();
    let mut lines = pods.log_stream("one", &LogParams { follow: true, ..LogParams::default() }).await.unwrap();
    let mut said = vec![0; 5];
    futures::AsyncReadExt::read_exact(&mut lines, &mut said).await.unwrap();
    assert_eq!(said, b"ahoy\n");
    let mut ran = pods.exec("one", ["cat"], &AttachParams::default().stdin(true).stderr(false)).await.unwrap();
    let (mut input, mut output) = (ran.stdin().unwrap(), ran.stdout().unwrap());
    tokio::io::AsyncWriteExt::write_all(&mut input, b"there and back").await.unwrap();
    let mut back = vec![0; 14];
    tokio::io::AsyncReadExt::read_exact(&mut output, &mut back).await.unwrap();
    assert_eq!(back, b"there and back");
    ran.abort();
    let mut failed = pods.exec("one", ["sh", "-c", "exit 3"], &AttachParams::default()).await.unwrap();
    let status = failed.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
    pods.delete("one", &DeleteParams::default()).await.unwrap();
}

pub(crate) async fn scales_and_evicts(client: Client) {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let template = pod("web");
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": template["metadata"], "spec": template["spec"]}}});
    deployments.create(&PostParams::default(), &read(deployment)).await.unwrap();
    let more = Patch::Merge(json!({"spec": {"replicas": 2}}));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &more).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(2));
    let ready = |web: Option<&Deployment>| {
        web.and_then(|web| web.status.as_ref()).is_some_and(|status| status.ready_replicas == Some(2))
    };
    await_condition(deployments.clone(), "web", ready).await.unwrap();
    assert_eq!(deployments.get_scale("web").await.unwrap().status.unwrap().replicas, 2);
    let pods: Api<Pod> = Api::default_namespaced(client);
    let evicted = pods.list(&ListParams::default().labels("app=web")).await.unwrap().items.remove(0);
    let (name, uid) = (evicted.name_any(), evicted.uid().unwrap());
    pods.evict(&name, &EvictParams::default()).await.unwrap();
    await_condition(pods, &name, conditions::is_deleted(&uid)).await.unwrap();
    await_condition(deployments.clone(), "web", ready).await.unwrap();
    deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
}
