//! What operators see: metrics and health.

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, config_map, read};

async fn text(cluster: &Cluster, uri: &str) -> (StatusCode, String) {
    let answer = cluster.send(Request::get(uri).body(bytes::Bytes::new()).unwrap()).await;
    let status = answer.status();
    (status, String::from_utf8(read(answer.into_body()).await.to_vec()).unwrap())
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let cluster = Cluster::start().await;
    cluster.post(CONFIG_MAPS, config_map("a", json!({}))).await;
    cluster.call(Method::GET, &format!("{CONFIG_MAPS}/none"), &Value::Null).await;
    cluster.call(Method::GET, "/api/v1/namespaces/default/configmaps/a/what/ever", &Value::Null).await;
    let mut events = cluster.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(events.short().await, "ADDED a");
    let (status, shown) = text(&cluster, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let about = r#"group="",version="v1",resource="configmaps",subresource="""#;
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
        r#"apiserver_watch_events_total{group="",version="v1",resource="configmaps"} 1"#.to_owned(),
        r#"apiserver_storage_objects{resource="configmaps"} 1"#.to_owned(),
        r#"etcd_requests_total{operation="create",group="",resource="configmaps"} 1"#.to_owned(),
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
