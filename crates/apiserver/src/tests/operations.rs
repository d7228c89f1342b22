//! What operators see: metrics and health.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, PODS, config_map, read};

async fn text(cluster: &Cluster, uri: &str) -> (StatusCode, String) {
    let answer = cluster.send(Request::get(uri).body(bytes::Bytes::new()).unwrap()).await;
    let status = answer.status();
    (status, String::from_utf8(read(answer.into_body()).await.to_vec()).unwrap())
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let cluster = Cluster::start().await;
    // The cluster itself has none of them.
    let secrets = "/api/v1/namespaces/default/secrets";
    cluster.post(secrets, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})).await;
    cluster.call(Method::GET, &format!("{secrets}/none"), &Value::Null).await;
    cluster.call(Method::GET, &format!("{secrets}/a/what/ever"), &Value::Null).await;
    let mut events = cluster.watch(&format!("{secrets}?watch=1")).await;
    assert_eq!(events.short().await, "ADDED a");
    let (status, shown) = text(&cluster, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let about = r#"group="",version="v1",resource="secrets",subresource="""#;
    for line in [
        format!(
            r#"apiserver_request_total{{verb="POST",dry_run="",{about},scope="namespace",component="apiserver",code="201"}} 1"#
        ),
        format!(
            r#"apiserver_request_total{{verb="GET",dry_run="",{about},scope="resource",component="apiserver",code="404"}} 2"#
        ),
        format!(
            r#"apiserver_request_duration_seconds_count{{verb="POST",dry_run="",{about},scope="namespace",component="apiserver"}} 1"#
        ),
        format!(r#"apiserver_longrunning_requests{{verb="WATCH",{about},scope="namespace",component="apiserver"}} 1"#),
        r#"apiserver_watch_events_total{group="",version="v1",resource="secrets"} 1"#.to_owned(),
        r#"apiserver_storage_objects{resource="secrets"} 1"#.to_owned(),
        r#"etcd_requests_total{operation="create",group="",resource="secrets"} 1"#.to_owned(),
        r#"apiserver_current_inflight_requests{request_kind="readOnly"} 1"#.to_owned(),
        r#"apiserver_current_inflight_requests{request_kind="mutating"} 0"#.to_owned(),
    ] {
        assert!(shown.lines().any(|shown| *shown == line), "{line}\nin\n{shown}");
    }
    assert!(shown.contains("\nprocess_resident_memory_bytes "), "{shown}");
    let families: Vec<_> = shown.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let mut distinct = families.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(families.len(), distinct.len(), "each family is written once");
    drop(events);
    let (_, shown) = text(&cluster, "/metrics").await;
    let ended =
        format!(r#"apiserver_longrunning_requests{{verb="WATCH",{about},scope="namespace",component="apiserver"}} 0"#);
    assert!(shown.contains(&ended), "{shown}");
}

#[tokio::test]
async fn health_is_short_verbose_and_exact() {
    let cluster = Cluster::start().await;
    let passed = "[+]ping ok\n[+]etcd ok\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check passed\n";
    for (uri, status, expected) in [
        ("/readyz", 200, "ok"),
        ("/healthz", 200, "ok"),
        ("/readyz?verbose", 200, passed),
        ("/livez?verbose", 200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n"),
        ("/livez?verbose&exclude=etcd", 200, "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n"),
        (
            "/livez?verbose&exclude=x&exclude=y",
            200,
            "[+]ping ok\n[+]etcd ok\nwarn: some health checks cannot be excluded: no matches for \"x\",\"y\"\nlivez check passed\n",
        ),
        ("/readyz/etcd", 200, "ok"),
        ("/livez/ping", 200, "ok"),
    ] {
        let (code, shown) = text(&cluster, uri).await;
        assert_eq!((code.as_u16(), &*shown), (status, expected), "{uri}");
    }
    assert_eq!(text(&cluster, "/livez/shutdown").await.0, StatusCode::NOT_FOUND);
    cluster.stop.stop();
    let (status, shown) = text(&cluster, "/readyz").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(shown.ends_with("[-]shutdown failed: reason withheld\nreadyz check failed\n"), "{shown}");
    assert_eq!(text(&cluster, "/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_every_cluster_has_comes_back_when_it_is_deleted_or_changed() {
    let cluster = Cluster::start().await;
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let level = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/catch-all";
    for path in ["/api/v1/namespaces/default/services/kubernetes", slice, level] {
        let uid = |object: &Value| object["metadata"]["uid"].clone();
        let (collection, name) = path.rsplit_once('/').unwrap();
        let before = cluster.get(path).await;
        let revision = before["metadata"]["resourceVersion"].as_str().unwrap();
        let query = format!("watch=1&resourceVersion={revision}&fieldSelector=metadata.name%3D{name}");
        let mut events = cluster.watch(&format!("{collection}?{query}")).await;
        cluster.call(Method::DELETE, path, &Value::Null).await;
        assert_eq!(events.short().await, format!("DELETED {name}"));
        let added = events.next().await.unwrap();
        assert_eq!(added["type"], "ADDED");
        assert_ne!(uid(&added["object"]), uid(&before), "{path}");
    }
    let changed = json!({"endpoints": [{"addresses": ["203.0.113.9"]}]});
    let mut events = cluster.watch(&format!("{}?watch=1", slice.rsplit_once('/').unwrap().0)).await;
    assert_eq!(events.short().await, "ADDED kubernetes");
    cluster.call(Method::PATCH, slice, &changed).await;
    assert_eq!(events.next().await.unwrap()["object"]["endpoints"][0]["addresses"][0], "203.0.113.9");
    assert_eq!(events.next().await.unwrap()["object"]["endpoints"][0]["addresses"][0], "192.0.2.1");
}

#[tokio::test]
async fn answers_name_the_flow_schema_and_the_priority_level() {
    let cluster = Cluster::start().await;
    let flows = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let uid = async |kind: &str| {
        let object = cluster.get(&format!("{flows}/{kind}/exempt")).await;
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let (schema, level) = (uid("flowschemas").await, uid("prioritylevelconfigurations").await);
    let answer = cluster.send(Request::get("/api/v1/nodes/none").body(bytes::Bytes::new()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["x-kubernetes-pf-flowschema-uid"], schema);
    assert_eq!(answer.headers()["x-kubernetes-pf-prioritylevel-uid"], level);
}

fn event(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Test", "message": "m",
        "type": "Normal", "source": {"component": "test"}})
}

#[tokio::test(start_paused = true)]
async fn events_go_an_hour_after_they_were_last_written() {
    let cluster = Cluster::start().await;
    let events = "/api/v1/namespaces/default/events";
    for name in ["first", "second", "updated"] {
        cluster.post(events, event(name)).await;
    }
    let mut watch = cluster.watch(&format!("{events}?watch=1&timeoutSeconds=100000")).await;
    for name in ["first", "second", "updated"] {
        assert_eq!(watch.short().await, format!("ADDED {name}"));
    }
    cluster.pass(Duration::from_secs(1800)).await;
    cluster.call(Method::PATCH, &format!("{events}/updated"), &json!({"count": 2})).await;
    assert_eq!(watch.short().await, "MODIFIED updated");
    let before = cluster.server.caches().applied();
    cluster.pass(Duration::from_secs(1801)).await;
    assert_eq!(watch.short().await, "DELETED first");
    assert_eq!(watch.short().await, "DELETED second");
    assert_eq!(cluster.server.caches().applied(), before + 1, "they went in one write");
    cluster.pass(Duration::from_secs(1800)).await;
    assert_eq!(watch.short().await, "DELETED updated");
}

#[tokio::test]
async fn a_backup_is_for_administrators_and_whole() {
    let cluster = Cluster::start().await;
    cluster.post(CONFIG_MAPS, config_map("kept", json!({"k": "v"}))).await;
    let request = || Request::get("/datastore/backup").body(bytes::Bytes::new()).unwrap();
    let answer = cluster.send(request()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let bytes = read(answer.into_body()).await;
    let items: Vec<_> = store::backup::Reader::open(&bytes[..]).unwrap().map(Result::unwrap).collect();
    assert!(items.iter().any(|item| item.key == "/registry/core/configmaps/default/kept"));
    let someone = cluster.server.transport(crate::authentication::UserInfo::new("jane", &[]));
    assert_eq!(someone.send(request()).await.unwrap().status(), StatusCode::FORBIDDEN);
}

/// Who waits for a change of a pod to be observed goes by its generation.
#[tokio::test]
async fn what_a_pod_wants_counts_by_each_path() {
    let cluster = Cluster::start().await;
    let container = |name: &str| json!({"name": name, "image": "i", "resources": {"requests": {"cpu": "20m"}}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container("c")]}});
    assert_eq!(cluster.post(PODS, pod).await["metadata"]["generation"], 1);
    let resize = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "25m"}}}]}});
    let more = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
    let status = json!({"status": {"message": "seen"}});
    for (path, change, generation) in
        [("resize", &resize, 2), ("resize", &resize, 2), ("ephemeralcontainers", &more, 3), ("status", &status, 3)]
    {
        let (code, changed) = cluster.call(Method::PATCH, &format!("{PODS}/p/{path}"), change).await;
        assert_eq!(
            (code, &changed["metadata"]["generation"]),
            (StatusCode::OK, &json!(generation)),
            "{path}: {changed}"
        );
    }
}
