//! Who gets what from the node's endpoints.

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use super::*;

/// The API server: it knows two tokens, and who may read metrics or everything.
fn review(review: &mut Value) {
    let spec = review["spec"].clone();
    if review["kind"] == "TokenReview" {
        let user = match spec["token"].as_str() {
            Some("of-metrics") => "system:serviceaccount:monitoring:prometheus",
            Some("of-admin") => "admin",
            _ => return,
        };
        review["status"] = json!({"authenticated": true, "user": {"username": user, "groups": ["g"]}});
        return;
    }
    let attributes = &spec["resourceAttributes"];
    assert_eq!((&attributes["resource"], &attributes["name"]), (&json!("nodes"), &json!("node-1")));
    let wants = (attributes["verb"].as_str().unwrap(), attributes["subresource"].as_str().unwrap());
    let allowed = match spec["user"].as_str().unwrap() {
        "admin" => true,
        "system:serviceaccount:monitoring:prometheus" => wants == ("get", "metrics"),
        "reader" => wants == ("get", "proxy"),
        "pod-reader" => wants == ("get", "pods"),
        _ => false,
    };
    review["status"] = json!({"allowed": allowed});
}

/// Asks with a certificate of that name, or with none, and with a token, or with none.
async fn ask(
    cluster: &Cluster,
    kubelet: &Kubelet,
    name: &str,
    token: &str,
    method: &str,
    path: &str,
) -> (StatusCode, String) {
    let stream = match name {
        "" => cluster.identities.connect_unnamed(kubelet.address).await,
        name => cluster.identities.connect(kubelet.address, name).await,
    };
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    kubelet.tasks.spawn("client", async move { drop(driver.await) });
    let mut request = Request::builder().method(method).uri(path).header("host", "node");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Nobody but the API server was let in, so that a monitoring system could not read what a node counts.
#[tokio::test]
async fn the_api_server_says_who_may_do_what() {
    let cluster = Cluster::new();
    cluster.api.on_review(review);
    let kubelet = cluster.start().await;
    cluster.pod(
        "web",
        json!({"containers": [{"name": "c", "image": "busybox:1", "readinessProbe": {"exec": {"command": ["true"]}}}]}),
    );
    cluster.phase("web", "Running").await;
    let exec = "/exec/default/web/c?command=true&output=1";
    for (name, token, method, path, expected) in [
        ("kube-apiserver", "", "GET", "/pods", 200),
        ("", "", "GET", "/healthz", 401),
        ("", "made-up", "GET", "/metrics", 401),
        ("", "of-metrics", "GET", "/metrics", 200),
        ("", "of-metrics", "GET", "/metrics/cadvisor", 200),
        ("", "of-metrics", "GET", "/metrics/resource", 200),
        ("", "of-metrics", "GET", "/stats/summary", 403),
        ("", "of-metrics", "GET", "/pods", 403),
        ("", "of-metrics", "GET", exec, 403),
        ("", "of-admin", "GET", "/configz", 200),
        ("", "of-admin", "GET", "/nothing", 404),
        ("pod-reader", "", "GET", "/pods", 200),
        ("pod-reader", "", "GET", "/runningpods/", 200),
        ("pod-reader", "", "GET", "/configz", 403),
        ("reader", "", "GET", "/pods", 200),
        ("reader", "", "GET", "/healthz/ping", 200),
        ("reader", "", "GET", "/metrics", 403),
        ("reader", "", "GET", exec, 403),
        ("stranger", "of-admin", "GET", "/pods", 403),
    ] {
        let (status, body) = ask(&cluster, &kubelet, name, token, method, path).await;
        assert_eq!(status.as_u16(), expected, "{name}{token} {path}: {body}");
        match expected {
            401 => assert_eq!(body, "Unauthorized"),
            403 => assert!(body.starts_with("Forbidden (user="), "{body}"),
            _ => {}
        }
    }
    let (_, body) = ask(&cluster, &kubelet, "reader", "", "GET", exec).await;
    assert_eq!(body, "Forbidden (user=reader, verb=create, resource=nodes, subresource(s)=[proxy])");
    kubelet.end().await;
}

#[tokio::test]
async fn what_runs_is_shown_and_counted() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster.pod(
        "web",
        json!({"containers": [{"name": "c", "image": "busybox:1", "readinessProbe": {"exec": {"command": ["true"]}}}]}),
    );
    cluster.phase("web", "Running").await;
    let get = async |path: &str| {
        let (status, body) = ask(&cluster, &kubelet, "kube-apiserver", "", "GET", path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    };
    let pods: Value = serde_json::from_str(&get("/runningpods/").await).unwrap();
    assert_eq!((&pods["kind"], &pods["items"][0]["metadata"]["name"]), (&json!("PodList"), &json!("web")));
    assert_eq!(pods["items"][0]["spec"]["containers"][0]["name"], "c");
    let config: Value = serde_json::from_str(&get("/configz").await).unwrap();
    assert_eq!(config["kubeletconfig"]["maxPods"], 110);
    let own = get("/metrics").await;
    for line in [
        "kubelet_node_name{node=\"node-1\"} 1",
        "kubelet_running_pods 1",
        "kubelet_running_containers{container_state=\"running\"} 1",
        "# TYPE kubelet_started_containers_total counter",
    ] {
        assert!(own.lines().any(|own| own == line), "{line}: {own}");
    }
    let uid = cluster.get("web").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let counted =
        format!("container=\"c\",namespace=\"default\",pod=\"web\",pod_uid=\"{uid}\",probe_type=\"Readiness\"");
    let line = format!("prober_probe_total{{{counted},result=\"successful\"}} ");
    until("the probe is asked", || cluster.get("web").is_some_and(|pod| *condition(&pod, "Ready") == "True")).await;
    let probes = get("/metrics/probes").await;
    assert!(probes.lines().any(|own| own.strip_prefix(&line).is_some_and(|count| count != "0")), "{probes}");
    assert!(get("/metrics/cadvisor").await.contains("container_memory_working_set_bytes{container=\"c\""));
    let (status, body) = ask(&cluster, &kubelet, "kube-apiserver", "", "POST", "/run/default/web/c?cmd=true").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    kubelet.end().await;
}
