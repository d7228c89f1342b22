//! Which schema requests fall under, and what the server does when it is full.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::Method;

use super::{FlowControl, Seat};
use crate::authentication::UserInfo;
use crate::request::info::RequestInfo;
use crate::request::query::Query;

fn info(method: &str, uri: &str) -> RequestInfo {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
    RequestInfo::of(&parts, &Query::of(&parts.uri))
}

fn control(total: u32) -> Arc<FlowControl> {
    FlowControl::new(total, Duration::from_secs(60))
}

#[test]
fn requests_fall_under_the_schemas_of_the_documentation() {
    let (node, scheduler) = (UserInfo::node("a"), UserInfo::new("system:kube-scheduler", &[]));
    let own = UserInfo::service_account("kube-system", "deployment-controller");
    let account = UserInfo::service_account("default", "builder");
    let (person, admin) = (UserInfo::new("jane", &[]), UserInfo::new("root", &["system:masters"]));
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
    let table = [
        (&admin, "DELETE", "/api/v1/pods", "exempt"),
        (&UserInfo::anonymous(), "GET", "/healthz", "probes"),
        (&UserInfo::anonymous(), "GET", "/readyz/etcd", "probes"),
        (&UserInfo::anonymous(), "GET", "/version", "global-default"),
        (&node, "PUT", lease, "system-node-high"),
        (&node, "PATCH", "/api/v1/nodes/a/status", "system-node-high"),
        (&node, "GET", "/api/v1/nodes/a/proxy", "system-nodes"),
        (&node, "GET", "/api/v1/pods", "system-nodes"),
        (&scheduler, "PUT", lease, "system-leader-election"),
        (&scheduler, "PATCH", lease, "kube-scheduler"),
        (&scheduler, "GET", "/api/v1/pods", "kube-scheduler"),
        (&own, "GET", "/api/v1/pods", "kube-system-service-accounts"),
        (&own, "POST", "/apis/coordination.k8s.io/v1/namespaces/x/leases", "system-leader-election"),
        (&account, "GET", "/api/v1/pods", "service-accounts"),
        (&person, "GET", "/api/v1/pods", "global-default"),
        (&person, "GET", "/apis", "global-default"),
    ];
    let control = control(600);
    let config = control.config.read().unwrap().clone();
    for (user, method, uri, expected) in table {
        let (schema, _) = config.classify(user, &info(method, uri)).unwrap();
        assert_eq!(&*schema.name, expected, "{} {method} {uri}", user.name);
    }
    let flow = |user: &UserInfo, uri: &str| config.classify(user, &info("GET", uri)).unwrap().1;
    assert_ne!(flow(&person, "/apis"), flow(&UserInfo::new("joe", &[]), "/apis"), "users are flows");
    let in_namespace = |name: &str| format!("/api/v1/namespaces/{name}/pods");
    assert_ne!(flow(&own, &in_namespace("a")), flow(&own, &in_namespace("b")), "namespaces are flows");
    assert_eq!(flow(&person, &in_namespace("a")), flow(&person, &in_namespace("b")));
}

/// A client that opens as many requests as it can.
async fn flood(control: &Arc<FlowControl>, user: &UserInfo, uri: &str) -> (Vec<Seat>, usize) {
    let (mut seats, mut refused) = (Vec::new(), 0);
    for _ in 0..2000 {
        // One that has to wait is dropped here: its client has gone.
        match control.admit(user, &info("GET", uri)).now_or_never().map(|admitted| admitted.seat) {
            Some(Some(seat)) => seats.push(seat),
            Some(None) => refused += 1,
            None => {}
        }
    }
    (seats, refused)
}

#[tokio::test(start_paused = true)]
async fn a_greedy_client_starves_nobody() {
    let control = control(100);
    let (greedy, _) = flood(&control, &UserInfo::new("greedy", &[]), "/api/v1/pods").await;
    assert!((40..100).contains(&greedy.len()), "it borrows, but not everything: {}", greedy.len());
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
    let heartbeat = control.admit(&UserInfo::node("a"), &info("PUT", lease)).now_or_never();
    assert!(heartbeat.is_some_and(|admitted| admitted.seat.is_some()), "the heartbeat runs at once");
    let own = UserInfo::service_account("kube-system", "deployment-controller");
    let controller = control.admit(&own, &info("GET", "/api/v1/pods")).now_or_never();
    assert!(controller.is_some_and(|admitted| admitted.seat.is_some()), "controllers run at once");
    // Of the same level, another user waits for one seat of the greedy one's, not for all.
    let modest = UserInfo::new("modest", &[]);
    let asked = info("GET", "/api/v1/pods");
    let mut waiting = std::pin::pin!(control.admit(&modest, &asked));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(greedy);
    assert!(waiting.await.seat.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused_and_leaves_nothing_behind() {
    let control = control(100);
    let user = UserInfo::new("jane", &[]);
    let (held, _) = flood(&control, &user, "/api/v1/pods").await;
    let began = tokio::time::Instant::now();
    let refused = control.admit(&user, &info("GET", "/api/v1/pods")).await;
    assert!(refused.seat.is_none());
    assert_eq!(began.elapsed(), Duration::from_secs(15));
    drop(held);
    let again = control.admit(&user, &info("GET", "/api/v1/pods")).now_or_never();
    assert!(again.is_some_and(|admitted| admitted.seat.is_some()));
}
