//! The pods of this node: one watch of the API brings them, the runtime's events tell of their containers, and each has a
//! worker that both wake.
//!
//! What the runtime has of pods that the API no longer has, or that were started under another uid, gets a worker as well,
//! whose only work is to clean up. Nothing is cleaned up before the API has told all the pods that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::typed::core::v1::Pod;
use api::{Key, Object, Typed};
use base::{Backoff, Stop, chain};
use bytes::Bytes;
use control::Change;
use cri::RuntimeError;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::Notify;

use crate::host::{Host, Workers};
use crate::identity::{self, Identity};
use crate::inbox::Inbox;
use crate::static_pods::StaticPod;
use crate::volumes;
use crate::worker::Worker;

/// How often the runtime's list is compared with the workers although every event arrived. It finds what no event told: a
/// runtime that lost its state, a sandbox that somebody made or removed by hand.
const SAFETY_INTERVAL: Duration = Duration::from_secs(300);

/// Runs the node's pods until `stop`.
pub(crate) async fn run(pods: Pods) {
    let stop = pods.stop.clone();
    let mut changes = pods.host.pods.changes();
    let follow = pods.clone().follow_runtime(stop.clone());
    pods.host.tasks.spawn("runtime events", follow);
    loop {
        let Some(change) = stop.or_stopped(changes.next()).await else { return };
        match change {
            Change::Applied(object) => pods.applied(object),
            Change::Deleted(object) => pods.deleted(&object),
            Change::Synced => pods.synced.notify_one(),
        }
    }
}

/// The node's pods and their workers.
#[derive(Clone)]
pub(crate) struct Pods {
    host: Arc<Host>,
    workers: Workers,
    /// Told when all pods that the API has are known.
    synced: Arc<Notify>,
    stop: Stop,
}

impl Pods {
    pub(crate) fn new(host: Arc<Host>, stop: Stop) -> Self {
        Self { workers: host.workers.clone(), host, synced: Arc::default(), stop }
    }

    /// Gives each static pod a worker, and tells those whose file has gone. One whose name is still taken waits.
    pub(crate) fn run_static(&self, known: &BTreeMap<String, StaticPod>) {
        let mut taken = Vec::new();
        for (uid, (key, inbox)) in self.lock().iter() {
            let wanted = known.values().any(|pod| pod.identity.uid == *uid);
            if self.statics().contains(uid) && !wanted {
                inbox.put(|mail| mail.gone = true);
            }
            taken.push((uid.clone(), key.clone()));
        }
        for pod in known.values() {
            if taken.iter().any(|(uid, key)| *uid == pod.identity.uid || key == pod.object.key()) {
                continue;
            }
            self.statics().insert(pod.identity.uid.clone());
            self.start(pod.identity.clone(), pod.object.clone(), false);
            // Its mirror pod may be there already, and was told to nobody.
            if let Some(mirror) = self.host.pods.get(pod.object.key()) {
                self.applied(mirror);
            }
        }
    }

    fn statics(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.host.statics.lock().expect("no holder of the list of static pods panics")
    }

    /// The worker of the static pod that a mirror pod stands for; an outdated mirror pod has none and gets none.
    fn mirrored(&self, object: &Object) -> Option<Option<Arc<Inbox>>> {
        let uid = identity::mirrored(object)?;
        Some(self.lock().get(&uid).map(|(_, inbox)| inbox.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Key, Arc<Inbox>)>> {
        self.workers.lock().expect("no holder of the list of workers panics")
    }

    fn applied(&self, object: Object) {
        if let Some(worker) = self.mirrored(&object) {
            worker.iter().for_each(|inbox| inbox.put(|mail| mail.pod = Some(object.clone())));
            return;
        }
        // A pod that was deleted and made anew under its name in between: the old one is gone.
        for (uid, (key, inbox)) in self.lock().iter() {
            // Nor does a pod of the API end the one of a file.
            if key == object.key() && uid != object.uid() && !self.statics().contains(uid) {
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
        if let Some(worker) = self.mirrored(object) {
            worker.iter().for_each(|inbox| inbox.put(|mail| mail.mirror_gone = true));
            return;
        }
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
        let (workers, host) = (self.workers.clone(), self.host.clone());
        self.host.tasks.spawn(name, async move {
            // Also after a panic, so that the next event about the pod starts a new worker.
            let _forget = Forget { workers, uid, host };
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
        // Nothing is cleaned up before it is known what the API has; what happens is passed on from the start.
        if self.host.pods.is_synced() {
            self.reconcile().await?;
        }
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
                () = self.synced.notified() => self.reconcile().await?,
                _ = safety.tick(), if self.host.pods.is_synced() => {
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
        self.remove_logs(&found).await;
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

    /// The same for their logs: a process that ended between the two left logs behind for good.
    async fn remove_logs(&self, found: &BTreeMap<String, Identity>) {
        let Ok(mut entries) = tokio::fs::read_dir(&self.host.log_dir).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            let &[_, _, uid] = name.split('_').collect::<Vec<_>>().as_slice() else { continue };
            if self.lock().contains_key(uid) || found.contains_key(uid) {
                continue;
            }
            if let Err(error) = tokio::fs::remove_dir_all(entry.path()).await {
                tracing::warn!(directory = %entry.path().display(), error = chain(&error), "cannot remove the logs of a pod that is gone");
            }
        }
    }
}

/// An object for a pod of which only sandbox and containers are left. Nobody says any more how long these may take, and
/// whoever deleted the pod has waited: they get a second.
fn stand_in(identity: &Identity) -> Object {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
        "metadata": {"namespace": identity.namespace, "name": identity.name, "uid": identity.uid,
            "deletionGracePeriodSeconds": 1}});
    let json = Bytes::from(serde_json::to_vec(&pod).expect("writing JSON to memory does not fail"));
    Object::parse(Pod::resource(), json).expect("it was just made as a pod")
}

struct Forget {
    workers: Workers,
    uid: String,
    host: Arc<Host>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if let Ok(mut workers) = self.workers.lock() {
            workers.remove(&self.uid);
        }
        if let Ok(mut statics) = self.host.statics.lock() {
            statics.remove(&self.uid);
        }
        // A static pod may have waited for the name.
        self.host.released.notify_waiters();
    }
}
