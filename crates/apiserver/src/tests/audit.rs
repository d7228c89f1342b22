//! The audit log, from a request to its line.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::Cluster;
use crate::audit::{AuditConfig, Policy};
use crate::authentication::UserInfo;
use crate::request::Origin;
use crate::request::body::RequestBody;
use crate::request::info::RequestInfo;
use crate::request::notes::Notes;
use crate::request::query::Query;

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
    let mut told = line(&path, |line| line["auditID"] == "mine" && line["stage"] == "ResponseComplete").await;
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
    let told = line(&path, |line| line["user"]["username"] == "bob" && line["stage"] == "ResponseComplete").await;
    assert_eq!(told["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(told["responseStatus"]["reason"], "Forbidden");
    drop(cluster.watch("/api/v1/pods?watch=1").await);
    line(&path, |line| line["verb"] == "watch" && line["stage"] == "ResponseStarted").await;
    line(&path, |line| line["verb"] == "watch" && line["stage"] == "ResponseComplete").await;
    let told = line(&path, |line| line["verb"] == "watch" && line["stage"] == "RequestReceived").await;
    assert_eq!((&told["user"]["username"], &told["responseStatus"]), (&json!("admin"), &Value::Null));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("correct horse") && !text.contains("Y29ycmVjdCBob3JzZ"), "a secret is in the log");
}

/// A policy names senders, whoever they act as, and each rule leaves out the stages that it names.
#[tokio::test]
async fn a_rule_goes_by_the_sender_and_leaves_stages_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [ResponseStarted]\nrules:\n\
                  - {level: None, users: [eve]}\n\
                  - {level: Metadata, verbs: [create], omitStages: [ResponseComplete]}\n\
                  - {level: Metadata, omitStages: [RequestReceived]}\n";
    let audit = AuditConfig { policy: Policy::parse(policy).unwrap(), path: path.clone() };
    let cluster = Cluster::audited(audit).await;
    let map = json!({"metadata": {"name": "c"}});
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header("audit-id", "first")
        .header("x-forwarded-for", "192.0.2.7, unknown, 2001:db8::1")
        .header("x-real-ip", "192.0.2.7")
        .header("impersonate-user", "eve")
        .header("impersonate-group", "system:masters");
    cluster.send(request.body(map.to_string().into()).unwrap()).await;
    let request = Request::get("/api/v1/namespaces/default/configmaps/c").header("audit-id", "last");
    cluster.send(request.header("x-real-ip", "192.0.2.8").body(Bytes::new()).unwrap()).await;
    let told = line(&path, |line| line["auditID"] == "last").await;
    assert_eq!((&told["stage"], &told["sourceIPs"]), (&json!("ResponseComplete"), &json!(["192.0.2.8"])));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let first: Vec<_> = lines.filter(|line| line["auditID"] == "first").collect();
    let [received] = &*first else { panic!("only what the rule leaves in: {first:?}") };
    assert_eq!(
        (&received["stage"], &received["sourceIPs"]),
        (&json!("RequestReceived"), &json!(["192.0.2.7", "2001:db8::1"]))
    );
    for later in ["impersonatedUser", "annotations", "responseStatus"] {
        assert_eq!(received[later], Value::Null, "{later}");
    }
}

#[tokio::test]
async fn a_panic_while_a_request_is_answered_is_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let cluster = Cluster::audited(AuditConfig { policy: Policy::standard(), path: path.clone() }).await;
    let (parts, ()) = Request::post("/api/v1/nodes").header("audit-id", "bad").body(()).unwrap().into_parts();
    let info = RequestInfo::of(&parts, &Query::of(&parts.uri));
    let user = Arc::new(UserInfo::new("eve", &[]));
    let request = crate::request::Request {
        parts,
        body: RequestBody::Full(Bytes::new()),
        origin: Origin::Connection(None, Some("192.0.2.9".parse().unwrap())),
    };
    let notes = Arc::new(Notes::with(cluster.server.audit.begin(&request, &info)));
    cluster.server.audit.received(&notes, &user);
    let watched = cluster.server.audit.watch_for_panic(&notes);
    let unwound = std::panic::catch_unwind(AssertUnwindSafe(move || {
        let _watched = watched;
        panic!("as a defect would");
    }));
    assert!(unwound.is_err());
    let told = line(&path, |line| line["auditID"] == "bad").await;
    assert_eq!((&told["stage"], &told["responseStatus"]["code"]), (&json!("Panic"), &json!(500)));
    assert_eq!(
        (&told["responseStatus"]["reason"], &told["sourceIPs"]),
        (&json!("InternalError"), &json!(["192.0.2.9"]))
    );
}
