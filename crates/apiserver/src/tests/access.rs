//! Users who are not administrators: what they may do, what they are told, and how pods get their identity.

use bytes::Bytes;
use control::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{Cluster, read};
use crate::authentication::UserInfo;

impl Cluster {
    pub(crate) async fn as_user(&self, user: &UserInfo, method: Method, uri: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request =
            Request::builder().method(method).uri(uri).header("content-type", "application/json").body(body).unwrap();
        let response: http::Response<Body> = self.server.transport(user.clone()).send(request).await.unwrap();
        let status = response.status();
        (status, serde_json::from_slice(&read(response.into_body()).await).unwrap_or_default())
    }
}

#[tokio::test]
async fn a_binding_to_a_default_role_opens_its_namespace_and_nothing_else() {
    let cluster = Cluster::start().await;
    let eve = UserInfo::new("eve", &[]);
    let list = async |namespace: &str| {
        let uri = format!("/api/v1/namespaces/{namespace}/pods");
        cluster.as_user(&eve, Method::GET, &uri, Value::Null).await
    };
    let (status, refused) = list("default").await;
    let why = r#"pods is forbidden: User "eve" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert_eq!((status, refused["message"].as_str()), (StatusCode::FORBIDDEN, Some(why)));
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "view"}, "subjects": [{"kind": "User", "name": "eve"}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    assert_eq!(list("default").await.0, StatusCode::OK);
    assert_eq!(list("kube-system").await.0, StatusCode::FORBIDDEN);
    let review = |verb: &str, resource: &str| json!({"spec": {"resourceAttributes": {"namespace": "default", "verb": verb, "resource": resource}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (verb, resource, allowed) in [("list", "pods", true), ("delete", "pods", false), ("get", "secrets", false)] {
        let (status, answer) = cluster.as_user(&eve, Method::POST, path, review(verb, resource)).await;
        assert_eq!((status, &answer["status"]["allowed"]), (StatusCode::CREATED, &json!(allowed)), "{verb} {resource}");
    }
    let rules = json!({"spec": {"namespace": "default"}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, answer) = cluster.as_user(&eve, Method::POST, path, rules).await;
    assert!(answer["status"]["resourceRules"].as_array().is_some_and(|rules| rules.len() > 5), "{answer}");
}

#[tokio::test]
async fn a_pods_token_is_its_accounts_identity_until_the_pod_has_gone() {
    let cluster = Cluster::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = cluster.post("/api/v1/namespaces/default/pods", pod).await;
    let request = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1",
        "name": "p", "uid": pod["metadata"]["uid"]}}});
    let issued = cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await;
    let review = json!({"spec": {"token": issued["status"]["token"]}});
    let reviewed = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", review.clone()).await;
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(reviewed["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    let gone = cluster.call(Method::DELETE, "/api/v1/namespaces/default/pods/p", &Value::Null).await;
    assert_eq!(gone.0, StatusCode::OK);
    let reviewed = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed["status"]["authenticated"], false, "{reviewed}");
}

#[tokio::test]
async fn a_node_reaches_its_own_pods_objects_only() {
    let cluster = Cluster::start().await;
    let (mine, other) = (UserInfo::node("n1"), UserInfo::node("n2"));
    let node = json!({"metadata": {"name": "n1"}});
    let (status, answer) = cluster.as_user(&mine, Method::POST, "/api/v1/nodes", node.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let (status, answer) = cluster.as_user(&other, Method::POST, "/api/v1/nodes", node).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    cluster
        .post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}))
        .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i",
        "envFrom": [{"secretRef": {"name": "s"}}]}]}});
    cluster.post("/api/v1/namespaces/default/pods", pod).await;
    let secret = "/api/v1/namespaces/default/secrets/s";
    assert_eq!(cluster.as_user(&mine, Method::GET, secret, Value::Null).await.0, StatusCode::OK);
    let (status, refused) = cluster.as_user(&other, Method::GET, secret, Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let why = "no relationship found between node 'n2' and this object";
    assert!(refused["message"].as_str().unwrap().ends_with(why), "{refused}");
    let status = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}});
    let path = "/api/v1/namespaces/default/pods/p/status";
    assert_eq!(cluster.as_user(&other, Method::PUT, path, status.clone()).await.0, StatusCode::FORBIDDEN);
    let (code, answer) = cluster.as_user(&mine, Method::PUT, path, status).await;
    assert_eq!((code, &answer["status"]["phase"]), (StatusCode::OK, &json!("Running")), "{answer}");
}

/// Tokens that secrets hold are let in, and the day of their last use is written down, until they are marked invalid.
#[tokio::test]
async fn uses_of_tokens_in_secrets_are_tracked() {
    let cluster = Cluster::start().await;
    let map = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    assert_eq!(cluster.get(map).await["data"], json!({"since": "2030-01-01"}));
    let account = json!({"metadata": {"name": "bot"}, "secrets": [{"name": "old"}]});
    let account = cluster.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    let of = |secret: &str| {
        cluster.server.access().tokens.sign(&json!({"iss": "kubernetes/serviceaccount",
            "sub": "system:serviceaccount:default:bot", "kubernetes.io/serviceaccount/namespace": "default",
            "kubernetes.io/serviceaccount/secret.name": secret, "kubernetes.io/serviceaccount/service-account.name": "bot",
            "kubernetes.io/serviceaccount/service-account.uid": account["metadata"]["uid"]}))
    };
    let mut events = cluster.watch("/api/v1/namespaces/default/secrets?watch=1").await;
    for (name, warning) in [("old", true), ("own", false)] {
        let token = of(name);
        let secret = json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "bot"}},
            "type": "kubernetes.io/service-account-token", "stringData": {"token": token}});
        cluster.post("/api/v1/namespaces/default/secrets", secret).await;
        let review = json!({"spec": {"token": token}}).to_string();
        let request =
            Request::post("/apis/authentication.k8s.io/v1/tokenreviews").header("content-type", "application/json");
        let answer = cluster.send(request.body(review.into()).unwrap()).await;
        let warned = answer.headers().get("warning").and_then(|text| text.to_str().ok()).unwrap_or_default().to_owned();
        assert_eq!(warned.contains("Use tokens from the TokenRequest API"), warning, "{name}: {warned}");
        let review: Value = serde_json::from_slice(&read(answer.into_body()).await).unwrap();
        assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:bot");
        let labelled = loop {
            let event = events.next().await.unwrap();
            if event["type"] == "MODIFIED" {
                break event["object"]["metadata"].clone();
            }
        };
        assert_eq!(
            (&labelled["name"], &labelled["labels"]),
            (&json!(name), &json!({"kubernetes.io/legacy-token-last-used": "2030-01-01"}))
        );
    }
    let mark = json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": "2029-12-31"}}});
    cluster.call(Method::PATCH, "/api/v1/namespaces/default/secrets/own", &mark).await;
    let review = json!({"spec": {"token": of("own")}});
    let review = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(review["status"]["authenticated"], json!(false));
    // Since when uses are watched is known for good.
    let mut maps = cluster.watch("/api/v1/namespaces/kube-system/configmaps?watch=1").await;
    let wrong = json!({"data": {"since": "lately"}});
    assert_eq!(cluster.call(Method::PATCH, map, &wrong).await.0, StatusCode::OK);
    while maps.next().await.unwrap()["object"]["data"]["since"] != "2030-01-01" {}
    while maps.next().await.unwrap()["object"]["data"]["since"] != "lately" {}
    while maps.next().await.unwrap()["object"]["data"]["since"] != "2030-01-01" {}
}
