//! Leases: a heartbeat of one holder ([`renew`]), and the election of a leader among several ([`LeaderElector`]).
//!
//! At most one elector leads at a time, as long as clocks run at about the same speed: times are measured from when a
//! renewal was seen here, never compared with another machine's clock. The rules and figures are those of client-go's
//! leader election.

use std::future::Future;
use std::time::Duration;

use api::{Key, Object, resources};
use base::{SharedClock, Stop, Tasks, chain};
use bytes::Bytes;
use futures::future::{Either, select};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cache::Cache;
use crate::client::{Client, ClientError, PatchType, WatchScope};
use crate::informer::Informers;
use machinery::time;

/// Renews the lease of a holder that nobody contends with, such as a node's heartbeat. Creates it where it is missing.
pub async fn renew(
    client: &Client,
    clock: &SharedClock,
    namespace: &str,
    name: &str,
    holder: &str,
    duration_seconds: i32,
) -> Result<Object, ClientError> {
    renew_owned(client, clock, &Key::new(namespace, name), holder, duration_seconds, None).await
}

/// The same; a lease that is created is owned by `owner`, an entry of `metadata.ownerReferences`.
pub async fn renew_owned(
    client: &Client,
    clock: &SharedClock,
    key: &Key,
    holder: &str,
    duration_seconds: i32,
    owner: Option<&Value>,
) -> Result<Object, ClientError> {
    let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": duration_seconds,
        "renewTime": time::micros(clock.now())});
    let patch = json!({ "spec": spec });
    match client.patch(resources::LEASES, key, None, PatchType::Merge, &patch).await {
        Err(error) if error.is_not_found() => {}
        patched => return patched,
    }
    let mut lease = body(key, &spec);
    if let Some(owner) = owner {
        lease["metadata"]["ownerReferences"] = json!([owner]);
    }
    client.create(resources::LEASES, &key.namespace, Bytes::from(lease.to_string())).await
}

fn body(key: &Key, spec: &Value) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace}, "spec": spec})
}

/// The times of an election.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Others take over when the leader has not renewed for so long.
    pub lease: Duration,
    /// A leader that could not renew for so long stops leading; shorter than `lease`.
    pub renew_deadline: Duration,
    /// How often the leader renews.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), renew_deadline: seconds(10), retry: seconds(2) }
    }
}

/// Leads while it holds a lease.
pub struct LeaderElector {
    client: Client,
    clock: SharedClock,
    key: Key,
    identity: String,
    timing: Timing,
}

impl LeaderElector {
    /// An elector for the lease `namespace/name`; `identity` is this candidate's, different from all others'.
    pub fn new(
        client: Client,
        clock: SharedClock,
        namespace: &str,
        name: &str,
        identity: &str,
        timing: Timing,
    ) -> Self {
        Self { client, clock, key: Key::new(namespace, name), identity: identity.to_owned(), timing }
    }

    /// Until `stop`: waits for the lease, runs `lead` while it is held, and waits again. `lead` must return soon after its
    /// signal, which is given when the lease is lost. The lease is given up at the end, so that another leads at once.
    pub async fn run<F: Future<Output = ()>>(self, stop: Stop, lead: impl Fn(Stop) -> F) {
        let tasks = Tasks::new("leader election");
        let watching = stop.child();
        let informers = Informers::new(self.client.clone(), tasks.clone(), watching.clone());
        let cache = informers.cache(resources::LEASES, WatchScope::key(&self.key));
        while let Some(lease) = stop.or_stopped(self.acquire(&cache)).await {
            tracing::info!(lease = %self.key, identity = self.identity, "became the leader");
            let leading = stop.child();
            let lead = std::pin::pin!(lead(leading.clone()));
            let hold = std::pin::pin!(stop.or_stopped(self.hold(lease)));
            if let Either::Right((_, lead)) = select(lead, hold).await {
                leading.stop();
                lead.await;
            }
            tracing::info!(lease = %self.key, identity = self.identity, "no longer the leader");
            self.release().await;
        }
        watching.stop();
        tasks.join().await;
    }

    /// Waits until the lease is free and takes it.
    async fn acquire(&self, cache: &Cache) -> Object {
        cache.synced().await;
        loop {
            match cache.get(&self.key).and_then(|lease| self.held_until(cache, &lease)) {
                Some(until) if until > Instant::now() => {
                    let known = cache.get(&self.key).map(|lease| lease.revision());
                    let changed = cache.wait_until(|cache| cache.get(&self.key).map(|lease| lease.revision()) != known);
                    // A renewal starts the time over, a release ends it: both are changes.
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
                _ => match self.take(cache.get(&self.key).as_ref()).await {
                    Ok(lease) => return lease,
                    Err(error) => {
                        tracing::debug!(lease = %self.key, error = chain(&error), "cannot take the lease");
                        tokio::time::sleep(self.timing.retry).await;
                    }
                },
            }
        }
    }

    /// Until when somebody else holds the lease; `None` when it is free or ours.
    fn held_until(&self, cache: &Cache, lease: &Object) -> Option<Instant> {
        let value = lease.to_value();
        let holder = value["spec"]["holderIdentity"].as_str().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return None;
        }
        let seconds = value["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(self.timing.lease.as_secs());
        cache.received_at(&self.key).map(|seen| seen + Duration::from_secs(seconds))
    }

    async fn take(&self, lease: Option<&Object>) -> Result<Object, ClientError> {
        let now = self.clock.now();
        let old = lease.map(Object::to_value).unwrap_or_default();
        let transitions = old["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
        let ours = old["spec"]["holderIdentity"] == self.identity.as_str();
        let acquired = old["spec"]["acquireTime"].as_str().filter(|_| ours).map(str::to_owned);
        let transitions = if ours || lease.is_none() { transitions } else { transitions + 1 };
        let spec = self.spec(now, &acquired.unwrap_or_else(|| time::micros(now)), transitions);
        match lease {
            None => {
                let body = Bytes::from(body(&self.key, &spec).to_string());
                self.client.create(resources::LEASES, &self.key.namespace, body).await
            }
            Some(lease) => self.replace(lease, spec).await,
        }
    }

    fn spec(&self, now: Timestamp, acquired: &str, transitions: i64) -> Value {
        json!({"holderIdentity": self.identity, "leaseDurationSeconds": self.timing.lease.as_secs(),
            "acquireTime": acquired, "renewTime": time::micros(now), "leaseTransitions": transitions})
    }

    /// Writes the spec only if the lease is still as it was read.
    async fn replace(&self, lease: &Object, spec: Value) -> Result<Object, ClientError> {
        let mut value = lease.to_value();
        value["spec"] = spec;
        self.client.update(resources::LEASES, &self.key, Bytes::from(value.to_string())).await
    }

    /// Renews until that has not worked for too long, or another holds the lease.
    async fn hold(&self, mut lease: Object) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.timing.retry).await;
            let deadline = renewed + self.timing.renew_deadline;
            match tokio::time::timeout_at(deadline, self.take(Some(&lease))).await {
                Ok(Ok(object)) => (lease, renewed) = (object, Instant::now()),
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.key, error = chain(&error), "cannot renew the lease");
                    match self.client.get(resources::LEASES, &self.key).await {
                        Ok(object) if object.to_value()["spec"]["holderIdentity"] != self.identity.as_str() => return,
                        Ok(object) => lease = object,
                        Err(_) => {}
                    }
                }
                Err(_) => return,
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Gives the lease up if it is ours. A failure costs the others the wait until it runs out.
    async fn release(&self) {
        let released = async {
            let lease = self.client.get(resources::LEASES, &self.key).await?;
            let mut value = lease.to_value();
            if value["spec"]["holderIdentity"] == self.identity.as_str() {
                value["spec"]["holderIdentity"] = "".into();
                value["spec"]["leaseDurationSeconds"] = 1.into();
                let body = Bytes::from(value.to_string());
                self.client.update(resources::LEASES, &self.key, body).await?;
            }
            Ok::<_, ClientError>(())
        };
        match tokio::time::timeout(self.timing.retry, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(lease = %self.key, error = chain(&error), "cannot release the lease"),
            Err(_) => tracing::debug!(lease = %self.key, "no answer while releasing the lease"),
        }
    }
}

#[cfg(test)]
mod tests;
