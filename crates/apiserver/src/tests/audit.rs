//! The audit log, from a request to its line.

use std::path::Path;
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::Cluster;
use crate::audit::{AuditConfig, Policy};
use crate::authentication::UserInfo;

/// The log's line of a request, as soon as it is written.
async fn line(path: &Path, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        if let Some(found) = lines.into_iter().find(|line| wanted(line)) {
            return found;
        }
        assert!(Instant::now() < end, "no such line in {text}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_is_a_line_that_says_who_what_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n";
    let audit = AuditConfig { policy: Policy::parse(policy).unwrap(), path: path.clone() };
    let cluster = Cluster::audited(audit).await;
    let map = json!({"metadata": {"name": "c"}, "data": {"a": "b"}});
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header("audit-id", "mine")
        .header("user-agent", "test/1")
        .header("impersonate-user", "eve")
        .header("impersonate-group", "system:masters");
    let answer = cluster.send(request.body(map.to_string().into()).unwrap()).await;
    assert_eq!((answer.status(), answer.headers()["audit-id"].to_str().unwrap()), (StatusCode::CREATED, "mine"));
    let mut told = line(&path, |line| line["auditID"] == "mine").await;
    assert_eq!(told["user"]["username"], "admin");
    assert_eq!(told["impersonatedUser"]["username"], "eve");
    assert_eq!(told["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(told["responseObject"]["metadata"]["name"], "c");
    assert_eq!(told["annotations"]["authorization.k8s.io/decision"], "allow");
    for gone in ["user", "impersonatedUser", "requestObject", "responseObject", "annotations"] {
        told.as_object_mut().unwrap().shift_remove(gone);
    }
    for (field, value) in [
        ("kind", json!("Event")),
        ("level", json!("RequestResponse")),
        ("stage", json!("ResponseComplete")),
        ("verb", json!("create")),
        ("userAgent", json!("test/1")),
        ("requestURI", json!("/api/v1/namespaces/default/configmaps")),
        ("objectRef", json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"})),
        ("responseStatus", json!({"metadata": {}, "code": 201})),
    ] {
        assert_eq!(told[field], value, "{field}");
    }
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "correct horse"}});
    cluster.post("/api/v1/namespaces/default/secrets", secret).await;
    let told = line(&path, |line| line["verb"] == "create" && line["objectRef"]["resource"] == "secrets").await;
    assert_eq!(told["level"], "Metadata");
    let refused = cluster.as_user(&UserInfo::new("bob", &[]), Method::GET, "/api/v1/nodes", Value::Null).await;
    assert_eq!(refused.0, StatusCode::FORBIDDEN);
    let told = line(&path, |line| line["user"]["username"] == "bob").await;
    assert_eq!(told["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(told["responseStatus"]["reason"], "Forbidden");
    drop(cluster.watch("/api/v1/pods?watch=1").await);
    line(&path, |line| line["verb"] == "watch" && line["stage"] == "ResponseStarted").await;
    line(&path, |line| line["verb"] == "watch" && line["stage"] == "ResponseComplete").await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("correct horse") && !text.contains("Y29ycmVjdCBob3JzZ"), "a secret is in the log");
}
