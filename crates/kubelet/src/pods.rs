//! The pods of this node: one watch of the API brings them, the runtime's events tell of their containers, and each has a
//! worker that both wake.
//!
//! What the runtime has of pods that the API no longer has, or that were started under another uid, gets a worker as well,
//! whose only work is to clean up. Nothing is cleaned up before the API has told all the pods that it has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::typed::core::v1::Pod;
use api::{Key, Object, Typed};
use base::{Backoff, Stop, chain};
use bytes::Bytes;
use control::Change;
use cri::RuntimeError;
use futures::StreamExt;
use serde_json::json;

use crate::host::Host;
use crate::identity::Identity;
use crate::inbox::Inbox;
use crate::volumes;
use crate::worker::Worker;

/// How often the runtime's list is compared with the workers although every event arrived. It finds what no event told: a
/// runtime that lost its state, a sandbox that somebody made or removed by hand.
const SAFETY_INTERVAL: Duration = Duration::from_secs(300);

type Workers = Arc<Mutex<BTreeMap<String, (Key, Arc<Inbox>)>>>;

/// Runs the node's pods until `stop`.
pub(crate) async fn run(host: Arc<Host>, stop: Stop) {
    let workers: Workers = Arc::default();
    let pods = Pods { host, workers, stop: stop.clone() };
    let mut changes = pods.host.pods.changes();
    loop {
        let Some(change) = stop.or_stopped(changes.next()).await else { return };
        match change {
            Change::Applied(object) => pods.applied(object),
            Change::Deleted(object) => pods.deleted(&object),
            Change::Synced => {
                let (watched, stop) = (pods.clone(), stop.clone());
                pods.host.tasks.spawn("runtime events", watched.follow_runtime(stop));
            }
        }
    }
}

#[derive(Clone)]
struct Pods {
    host: Arc<Host>,
    workers: Workers,
    stop: Stop,
}

impl Pods {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Key, Arc<Inbox>)>> {
        self.workers.lock().expect("no holder of the list of workers panics")
    }

    fn applied(&self, object: Object) {
        // A pod that was deleted and made anew under its name in between: the old one is gone.
        for (uid, (key, inbox)) in self.lock().iter() {
            if key == object.key() && uid != object.uid() {
                inbox.put(|mail| mail.gone = true);
            }
        }
        let known = self.lock().get(object.uid()).map(|(_, inbox)| inbox.clone());
        match known {
            Some(inbox) => inbox.put(|mail| mail.pod = Some(object)),
            None => self.start(Identity::of(&object), object, false),
        }
    }

    fn deleted(&self, object: &Object) {
        if let Some((_, inbox)) = self.lock().get(object.uid()) {
            // Its last state says how long its containers may still take.
            let last = object.clone();
            inbox.put(|mail| {
                mail.pod = Some(last);
                mail.gone = true;
            });
        }
    }

    fn start(&self, identity: Identity, object: Object, gone: bool) {
        let inbox = Arc::new(Inbox::default());
        let uid = identity.uid.clone();
        self.lock().insert(uid.clone(), (identity.key(), inbox.clone()));
        let name = format!("pod {}", identity.display());
        let worker = Worker::new(self.host.clone(), identity, object, gone, inbox, self.stop.child());
        let workers = self.workers.clone();
        self.host.tasks.spawn(name, async move {
            // Also after a panic, so that the next event about the pod starts a new worker.
            let _forget = Forget { workers, uid };
            Box::pin(worker.run()).await;
        });
    }

    /// Passes the runtime's events on to the workers; lists once at each (re)start of the stream and once in a while.
    async fn follow_runtime(self, stop: Stop) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        while !stop.is_stopped() {
            match stop.or_stopped(self.follow_once()).await {
                None => return,
                Some(Ok(())) => backoff.reset(),
                Some(Err(error)) => {
                    tracing::warn!(error = chain(&error), "cannot follow the runtime's events; trying again");
                }
            }
            if stop.or_stopped(tokio::time::sleep(backoff.next_delay())).await.is_none() {
                return;
            }
        }
    }

    async fn follow_once(&self) -> Result<(), RuntimeError> {
        let mut events = self.host.runtime.events().await?;
        self.reconcile().await?;
        // What happened before the stream began is in the workers' first look, or in this second one.
        self.lock().values().for_each(|(_, inbox)| inbox.put(|mail| mail.runtime = true));
        let mut safety = tokio::time::interval_at(tokio::time::Instant::now() + SAFETY_INTERVAL, SAFETY_INTERVAL);
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return Ok(()) };
                    if let Some((_, inbox)) = self.lock().get(&event.pod_uid) {
                        inbox.put(|mail| mail.runtime = true);
                    }
                    // Nobody listens where no log is followed.
                    let _ = self.host.changes.send(event);
                }
                _ = safety.tick() => {
                    self.reconcile().await?;
                    self.lock().values().for_each(|(_, inbox)| inbox.put(|mail| mail.runtime = true));
                }
            }
        }
    }

    /// Gives a worker to what the runtime or the disk has of pods that are gone.
    async fn reconcile(&self) -> Result<(), RuntimeError> {
        let mut found = BTreeMap::new();
        for sandbox in self.host.runtime.list_pod_sandboxes(None).await? {
            found.extend(Identity::from_labels(&sandbox.labels).map(|identity| (identity.uid.clone(), identity)));
        }
        for container in self.host.runtime.list_containers(None).await? {
            found.extend(Identity::from_labels(&container.labels).map(|identity| (identity.uid.clone(), identity)));
        }
        for (uid, identity) in &found {
            if !self.lock().contains_key(uid) {
                tracing::info!(pod = identity.display(), "removing what is left of a pod that is gone");
                self.start(identity.clone(), stand_in(identity), true);
            }
        }
        self.remove_directories(&found).await;
        Ok(())
    }

    /// Removes directories of pods that neither the API nor the runtime has.
    async fn remove_directories(&self, found: &BTreeMap<String, Identity>) {
        let Ok(mut entries) = tokio::fs::read_dir(self.host.root_dir.join("pods")).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.lock().contains_key(&name) || found.contains_key(&name) {
                continue;
            }
            if let Err(error) = volumes::tear_down(entry.path()).await {
                tracing::warn!(directory = %entry.path().display(), error = chain(&error), "cannot remove the directory of a pod that is gone");
            }
        }
    }
}

/// An object for a pod of which only sandbox and containers are left.
fn stand_in(identity: &Identity) -> Object {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
        "metadata": {"namespace": identity.namespace, "name": identity.name, "uid": identity.uid}});
    let json = Bytes::from(serde_json::to_vec(&pod).expect("writing JSON to memory does not fail"));
    Object::parse(Pod::resource(), json).expect("it was just made as a pod")
}

struct Forget {
    workers: Workers,
    uid: String,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if let Ok(mut workers) = self.workers.lock() {
            workers.remove(&self.uid);
        }
    }
}
