//! Elections over the harness's API, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{Clock, Random};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::harness::Api;
use crate::{Body, Transport, TransportError};

/// A connection that can be cut.
struct Cable(Arc<dyn Transport>, Arc<AtomicBool>);

impl Transport for Cable {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        if self.1.load(Ordering::SeqCst) {
            let error = TransportError { server: "test".into(), source: "cut".into() };
            return async move { Err(error) }.boxed();
        }
        self.0.send(request)
    }
}

struct Candidate {
    cut: Arc<AtomicBool>,
    leads: Arc<AtomicBool>,
    stop: Stop,
}

fn candidate(api: &Api, tasks: &Tasks, name: &'static str) -> Candidate {
    let (cut, leads, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Stop::new());
    let client = Client::new(Arc::new(Cable(api.transport(), cut.clone())), name);
    let elector =
        LeaderElector::new(client, Arc::new(api.clock()) as SharedClock, "kube-system", "l", name, Timing::default());
    let (flag, signal) = (leads.clone(), stop.clone());
    tasks.spawn(name, async move {
        let lead = |stop: Stop| {
            let flag = flag.clone();
            async move {
                flag.store(true, Ordering::SeqCst);
                stop.stopped().await;
                flag.store(false, Ordering::SeqCst);
            }
        };
        elector.run(signal, lead).await;
    });
    Candidate { cut, leads, stop }
}

/// Seconds until the condition holds.
async fn wait(api: &Api, what: &str, holds: impl Fn() -> bool) -> i64 {
    let start = api.clock().now();
    for _ in 0..600 {
        if holds() {
            return api.clock().now().duration_since(start).as_secs();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute: {what}");
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_follows_never_two() {
    let (api, tasks) = (Api::new(Random::from_seed(1)), Tasks::new("test"));
    let is = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
    let a = candidate(&api, &tasks, "a");
    wait(&api, "a leads", || is(&a.leads)).await;
    let b = candidate(&api, &tasks, "b");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(is(&a.leads) && !is(&b.leads), "a leader that renews stays");

    a.cut.store(true, Ordering::SeqCst);
    let lost = wait(&api, "a notices", || !is(&a.leads)).await;
    assert!(lost <= 12 && !is(&b.leads), "a stops before b may start");
    wait(&api, "b leads", || is(&b.leads)).await;

    a.cut.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(is(&b.leads) && !is(&a.leads));
    b.stop.stop();
    assert!(wait(&api, "a leads again", || is(&a.leads)).await <= 3, "a released lease is taken at once");
    a.stop.stop();
    tasks.join().await;
    let lease = api.get(resources::LEASES, "kube-system", "l").expect("the lease");
    assert_eq!((&lease["spec"]["leaseTransitions"], &lease["spec"]["holderIdentity"]), (&2.into(), &"".into()));
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_creates_its_lease_and_then_renews_it() {
    let api = Api::new(Random::from_seed(1));
    let client = Client::new(api.transport(), "test");
    let clock: SharedClock = Arc::new(api.clock());
    for _ in 0..2 {
        renew(&client, &clock, "kube-node-lease", "node", "node", 40).await.expect("renewed");
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let lease = api.get(resources::LEASES, "kube-node-lease", "node").expect("the lease");
    assert_eq!(lease["spec"]["renewTime"], "2030-01-01T00:00:10.000000Z");
    assert_eq!(lease["spec"]["holderIdentity"], "node");
}
