//! Admission through the request path: what plugins give, refuse, warn of and count.

use futures::future::join_all;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::Cluster;
use crate::authentication::UserInfo;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, container: &Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (field, value) in container.as_object().into_iter().flatten() {
        pod["spec"]["containers"][0][field] = value.clone();
    }
    pod
}

fn requests(cpu: &str) -> Value {
    json!({"resources": {"requests": {"cpu": cpu}}})
}

/// A quota with its status, as the quota controller leaves it.
async fn quota(cluster: &Cluster, name: &str, spec: Value, used: Value) {
    let path = "/api/v1/namespaces/default/resourcequotas";
    let hard = spec["hard"].clone();
    let mut quota = cluster.post(path, json!({"metadata": {"name": name}, "spec": spec})).await;
    quota["status"] = json!({"hard": hard, "used": used});
    let (status, answer) = cluster.call(Method::PUT, &format!("{path}/{name}/status"), &quota).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

async fn used(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&format!("/api/v1/namespaces/default/resourcequotas/{name}")).await["status"]["used"].clone()
}

#[tokio::test]
async fn a_quota_is_exact_however_many_write_at_once() {
    let cluster = Cluster::start().await;
    let hard = json!({"hard": {"pods": "5", "requests.cpu": "2"}});
    quota(&cluster, "q", hard, json!({"pods": "0", "requests.cpu": "0"})).await;
    let names: Vec<String> = (0..40).map(|at| format!("p{at}")).collect();
    let pods: Vec<Value> = names.iter().map(|name| pod(name, &requests("100m"))).collect();
    let answers = join_all(pods.iter().map(|pod| cluster.call(Method::POST, PODS, pod))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(status, _)| *status == StatusCode::CREATED);
    assert_eq!(made.len(), 5);
    for (status, answer) in &refused {
        let message = answer["message"].as_str().unwrap();
        let why = "is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5";
        assert!(*status == StatusCode::FORBIDDEN && message.ends_with(why), "{answer}");
    }
    assert_eq!(used(&cluster, "q").await, json!({"pods": "5", "requests.cpu": "500m"}));
}

#[tokio::test]
async fn a_dry_run_asks_the_quota_and_takes_nothing() {
    let cluster = Cluster::start().await;
    quota(&cluster, "q", json!({"hard": {"count/configmaps": "1"}}), json!({"count/configmaps": "0"})).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let (status, _) =
        cluster.call(Method::POST, &format!("{maps}?dryRun=All"), &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(used(&cluster, "q").await, json!({"count/configmaps": "0"}));
    cluster.post(maps, json!({"metadata": {"name": "a"}})).await;
    let (status, answer) =
        cluster.call(Method::POST, &format!("{maps}?dryRun=All"), &json!({"metadata": {"name": "b"}})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let why = "configmaps \"b\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, \
               limited: count/configmaps=1";
    assert_eq!(answer["message"], why);
}

#[tokio::test]
async fn a_limit_range_fills_in_and_holds_to() {
    let cluster = Cluster::start().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container",
        "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}});
    cluster.post("/api/v1/namespaces/default/limitranges", range).await;
    let made = cluster.post(PODS, pod("a", &json!({}))).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}}));
    let note = "LimitRanger plugin set: cpu request for container c; cpu limit for container c";
    assert_eq!(made["metadata"]["annotations"]["kubernetes.io/limit-ranger"], note);
    let greedy = pod("b", &json!({"resources": {"limits": {"cpu": "2"}}}));
    let (status, answer) = cluster.call(Method::POST, PODS, &greedy).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["message"], "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
}

#[tokio::test]
async fn a_namespaces_label_refuses_pods_and_warns_of_what_makes_them() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, pod("old", &json!({"securityContext": {"privileged": true}}))).await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let answer = send(&cluster, Method::PATCH, "/api/v1/namespaces/default", &label).await;
    let warned: Vec<_> = answer.headers().get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(
        warned,
        [
            r#"299 - "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"""#,
            r#"299 - "old: privileged""#
        ]
    );
    let (status, answer) =
        cluster.call(Method::POST, PODS, &pod("new", &json!({"securityContext": {"privileged": true}}))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        answer["message"],
        "pods \"new\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set \
         securityContext.privileged=true)"
    );
    cluster.post(PODS, pod("fine", &json!({}))).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    let deployment =
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let answer = send(&cluster, Method::POST, "/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    let warning = r#"299 - "would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)""#;
    assert_eq!((answer.status(), answer.headers()["warning"].to_str().unwrap()), (StatusCode::CREATED, warning));
    let wrong = json!({"metadata": {"labels": {"pod-security.kubernetes.io/warn": "strict"}}});
    let (status, answer) = cluster.call(Method::PATCH, "/api/v1/namespaces/default", &wrong).await;
    assert_eq!((status, &answer["reason"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("Invalid")), "{answer}");
}

async fn send(cluster: &Cluster, method: Method, uri: &str, body: &Value) -> http::Response<control::Body> {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(uri).header("content-type", kind);
    cluster.send(request.body(body.to_string().into()).unwrap()).await
}

/// `kubectl delete namespace default` went through: deletions asked only the validating half of admission, and the check is
/// in the mutating one.
#[tokio::test]
async fn the_namespaces_that_every_cluster_needs_stay() {
    let cluster = Cluster::start().await;
    for name in ["default", "kube-system", "kube-public"] {
        let (status, answer) = cluster.call(Method::DELETE, &format!("/api/v1/namespaces/{name}"), &Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_eq!(answer["message"], format!("namespaces {name:?} is forbidden: this namespace may not be deleted"));
    }
}

#[tokio::test]
async fn storage_gets_its_class_and_its_protection() {
    let cluster = Cluster::start().await;
    let class = |name: &str| {
        json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "example.com/p"})
    };
    cluster.post("/apis/storage.k8s.io/v1/storageclasses", class("gold")).await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let made = cluster.post(claims, claim).await;
    assert_eq!(made["spec"]["storageClassName"], "gold");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let bound = json!({"status": {"phase": "Bound"}});
    let (status, answer) = cluster.call(Method::PATCH, &format!("{claims}/c/status"), &bound).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let grown = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let (status, answer) = cluster.call(Method::PATCH, &format!("{claims}/c"), &grown).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
}

#[tokio::test]
async fn a_node_gets_tokens_only_for_pods_that_run_on_it() {
    let cluster = Cluster::start().await;
    let mut bound = pod("p", &json!({}));
    bound["spec"]["nodeName"] = "n1".into();
    let made = cluster.post(PODS, bound).await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = |uid: &str, audiences: Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}})
    };
    for (node, body, expected) in [
        ("n1", request(uid, json!([])), "ok"),
        ("n1", request("other", json!([])), "the UID in the bound object reference (other) does not match"),
        ("n1", request("", json!([])), "node requested token with a pod binding without a uid"),
        ("n1", json!({"spec": {}}), "node requested token not bound to a pod"),
        ("n1", request(uid, json!(["vault"])), "audience \"vault\" not found in pod spec volume"),
        ("n2", request(uid, json!([])), "no relationship found between node 'n2' and this object"),
    ] {
        let user = UserInfo::node(node);
        let (status, answer) = cluster.as_user(&user, Method::POST, path, body).await;
        if expected == "ok" {
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        } else {
            assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
            assert!(answer["message"].as_str().unwrap().contains(expected), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_pod_learns_from_its_labels_where_its_node_is() {
    let cluster = Cluster::start().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "x"});
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": labels}})).await;
    let pod = |name: &str, node: Value| {
        json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "claimed", "app": "a"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
    };
    cluster.post(PODS, pod("bound", Value::Null)).await;
    let target = |name: &str, node: &str| json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
    cluster.call(Method::POST, &format!("{PODS}/bound/binding"), &target("bound", "n")).await;
    cluster.post(PODS, pod("placed", "n".into())).await;
    let wanted = json!({"topology.kubernetes.io/zone": "z", "app": "a", "topology.kubernetes.io/region": "r"});
    for name in ["bound", "placed"] {
        assert_eq!(cluster.get(&format!("{PODS}/{name}")).await["metadata"]["labels"], wanted, "{name}");
    }
    // Of a node that is not here nothing is said.
    cluster.post(PODS, pod("elsewhere", Value::Null)).await;
    cluster.call(Method::POST, &format!("{PODS}/elsewhere/binding"), &target("elsewhere", "m")).await;
    let labels = cluster.get(&format!("{PODS}/elsewhere")).await["metadata"]["labels"].clone();
    assert_eq!(labels["topology.kubernetes.io/zone"], "claimed");
}

/// A client that replaces the list leaves out what the server put in: that stays, as it may not be taken out.
#[tokio::test]
async fn tolerations_that_the_server_added_survive_a_new_list() {
    let cluster = Cluster::start().await;
    let mut pod = cluster
        .post(PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .await;
    pod["spec"]["tolerations"] = json!([{"key": "own", "operator": "Exists"}]);
    let (status, changed) = cluster.call(Method::PUT, &format!("{PODS}/p"), &pod).await;
    assert_eq!((status, &changed["metadata"]["generation"]), (StatusCode::OK, &json!(2)), "{changed}");
    let keys: Vec<_> =
        changed["spec"]["tolerations"].as_array().unwrap().iter().map(|one| one["key"].clone()).collect();
    assert_eq!(keys, ["own", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
}
