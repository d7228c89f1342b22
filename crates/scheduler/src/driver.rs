//! Joins image, queue and cycle to the API.
//!
//! One task owns image and queue. It takes in what has happened, places the pods that are ready, and waits for the next
//! event. Writes run beside it, at most [`WRITES_MAX`] at a time; each reports its end to the task.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use api::resources::{NAMESPACES, NODES, PODS};
use api::{Key, Object};
use base::{Random, SharedClock, Stop, Tasks, chain};
use control::{Change, Changes, Client, ClientError, EventType, Informers, ObjectReference, Recorder};
use futures::future::select_all;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cycle::{Cycle, Rejections, Turn, place_watched};
use crate::facts::{FACTS, Helps};
use crate::image::{Image, NodeIndex, What};
use crate::metrics::{self, Attempt, Watch};
use crate::node::NodeInfo;
use crate::plugins::volume_binding;
use crate::pod::PodInfo;
use crate::preemption::{Preemption, preempt};
use crate::queue::Queue;
use crate::volumes::Decision;
use crate::waiting::{Step, Waiting};
use crate::writes;

/// The scheduler whose pods these are.
const NAME: &str = "default-scheduler";
/// Why the condition `PodScheduled` is false.
const UNSCHEDULABLE: &str = "Unschedulable";
/// What changes on a node when a pod goes, or needs something else.
const FREED: What = What::RESOURCES.and(What::PORTS).and(What::PODS).and(What::CLAIMS);
/// How many writes are under way at once. Without a limit a burst of pods would queue up in the API server, where it hurts
/// everybody.
const WRITES_MAX: usize = 256;
/// How many changes are taken in, and how many pods placed, before other tasks get a turn.
const CHANGES_IN_A_ROW: usize = 512;
const PODS_IN_A_ROW: usize = 64;

/// What the scheduler works with.
pub struct Config {
    /// Writes bindings and conditions, as `system:kube-scheduler`.
    pub client: Client,
    /// Where pods and nodes come from.
    pub informers: Informers,
    /// Time stamps of conditions.
    pub clock: SharedClock,
    /// Chooses among equally good nodes.
    pub random: Random,
    /// Events about pods.
    pub recorder: Recorder,
}

/// Schedules until `stop`. Returns when every write that it started has ended.
pub async fn run(config: Config, stop: Stop) -> Result<(), Infallible> {
    let tasks = Tasks::new("scheduler");
    let (results, outcomes) = mpsc::channel(WRITES_MAX);
    let scheduler = Scheduler {
        pods: config.informers.all(PODS).changes(),
        nodes: config.informers.all(NODES).changes(),
        namespaces: config.informers.all(NAMESPACES).changes(),
        facts: FACTS.iter().map(|fact| config.informers.all(fact.resource).changes()).collect(),
        unsynced: 3 + FACTS.len(),
        image: Image::default(),
        queue: Queue::default(),
        turn: Turn::new(config.random.below(usize::MAX) as u64),
        changed: BTreeMap::new(),
        claims_changed: BTreeSet::new(),
        volumes_changed: false,
        waiting: Waiting::default(),
        attempts: 0,
        writes: 0,
        results,
        outcomes,
        tasks: tasks.clone(),
        config,
    };
    let _ = stop.or_stopped(scheduler.run()).await;
    tasks.join().await;
    Ok(())
}

/// How a write ended.
enum Outcome {
    Asked { pod: Arc<PodInfo>, result: Result<(), ClientError> },
    Bound { pod: Arc<PodInfo>, node: Arc<str>, watch: Watch, result: Result<(), ClientError> },
    Preempted { pod: Arc<PodInfo>, result: Result<(), ClientError> },
    Reported { pod: Arc<PodInfo>, result: Result<(), ClientError> },
}

struct Scheduler {
    config: Config,
    tasks: Tasks,
    pods: Changes,
    nodes: Changes,
    namespaces: Changes,
    /// In the order of [`FACTS`].
    facts: Vec<Changes>,
    /// How many of them have not yet brought everything that was present at the start.
    unsynced: usize,
    image: Image,
    queue: Queue,
    turn: Turn,
    /// Nodes that changed since the waiting pods were last looked at.
    changed: BTreeMap<NodeIndex, What>,
    /// Claims that changed since then, and whether something else of storage did.
    claims_changed: BTreeSet<Key>,
    volumes_changed: bool,
    /// Pods that have a node and wait there for their volumes.
    waiting: Waiting,
    /// How many pods were looked at.
    attempts: u64,
    /// How many writes are under way.
    writes: usize,
    results: mpsc::Sender<Outcome>,
    outcomes: mpsc::Receiver<Outcome>,
}

impl Scheduler {
    async fn run(mut self) {
        loop {
            self.take_in();
            self.give_hints();
            self.look_at_waiting();
            self.queue.advance(Instant::now());
            // Before everything is known a node looks emptier than it is.
            if self.unsynced == 0 {
                self.place_some();
            }
            self.queue.show();
            if self.can_place() {
                tokio::task::yield_now().await;
            } else {
                self.wait().await;
            }
        }
    }

    fn can_place(&self) -> bool {
        self.unsynced == 0 && self.queue.has_active() && self.writes < WRITES_MAX
    }

    /// Takes in what has happened already.
    fn take_in(&mut self) {
        while let Some((change, _)) = self.namespaces.try_next() {
            self.on_namespace(change);
        }
        for at in 0..self.facts.len() {
            while let Some((change, _)) = self.facts[at].try_next() {
                self.on_fact(at, change);
            }
        }
        for _ in 0..CHANGES_IN_A_ROW {
            let (node, pod) = (self.nodes.try_next(), self.pods.try_next());
            if node.is_none() && pod.is_none() {
                break;
            }
            node.into_iter().for_each(|(change, _)| self.on_node(change));
            pod.into_iter().for_each(|(change, _)| self.on_pod(change));
        }
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.on_outcome(outcome);
        }
    }

    /// Waits for something to happen, and takes it in.
    async fn wait(&mut self) {
        let due = [self.queue.next_due(), self.waiting.next_due()].into_iter().flatten().min();
        let far = Instant::now() + std::time::Duration::from_secs(3600);
        tokio::select! {
            change = self.nodes.next() => self.on_node(change),
            change = self.pods.next() => self.on_pod(change),
            change = self.namespaces.next() => self.on_namespace(change),
            (at, change) = next_of(&mut self.facts) => self.on_fact(at, change),
            Some(outcome) = self.outcomes.recv() => self.on_outcome(outcome),
            () = tokio::time::sleep_until(due.unwrap_or(far)), if due.is_some() => {}
        }
    }

    fn on_node(&mut self, change: Change) {
        match change {
            Change::Applied(object) => match NodeInfo::read(&object) {
                Ok(info) => {
                    let (index, what) = self.image.apply_node(info);
                    self.note(index, what);
                }
                Err(error) => skip("node", &object, &error),
            },
            Change::Deleted(object) => self.image.remove_node(&object.key().name),
            Change::Synced => self.unsynced -= 1,
        }
    }

    fn on_fact(&mut self, at: usize, change: Change) {
        let fact = &FACTS[at];
        if let Change::Applied(object) | Change::Deleted(object) = &change {
            match fact.helps {
                Helps::Nobody => {}
                Helps::ItsUsers => drop(self.claims_changed.insert(object.key().clone())),
                Helps::WhoWaitsForVolumes => self.volumes_changed = true,
            }
        }
        match change {
            Change::Applied(object) => {
                if let Err(error) = (fact.apply)(&mut self.image, &object) {
                    (fact.remove)(&mut self.image, object.key());
                    skip(&fact.resource.singular, &object, &*error);
                }
            }
            Change::Deleted(object) => (fact.remove)(&mut self.image, object.key()),
            Change::Synced => self.unsynced -= 1,
        }
    }

    /// Terms of pods may be about namespaces with certain labels.
    fn on_namespace(&mut self, change: Change) {
        match change {
            Change::Applied(object) => {
                if self.image.apply_namespace(&object.key().name, &object.index().labels)
                    && let Some(node) = self.image.order().first().copied()
                {
                    self.note(node, What::PODS);
                }
            }
            Change::Deleted(object) => self.image.remove_namespace(&object.key().name),
            Change::Synced => self.unsynced -= 1,
        }
    }

    fn on_pod(&mut self, change: Change) {
        match change {
            Change::Applied(object) => self.on_pod_applied(&object),
            Change::Deleted(object) => {
                self.forget(object.key());
                self.uncount(object.key());
            }
            Change::Synced => self.unsynced -= 1,
        }
    }

    fn on_pod_applied(&mut self, object: &Object) {
        let (key, uid) = (object.key(), object.uid());
        let node = object.field(PODS, "spec.nodeName").unwrap_or_default();
        if matches!(object.field(PODS, "status.phase"), Some("Succeeded" | "Failed")) {
            self.forget(key);
            self.uncount(key);
            return;
        }
        if !node.is_empty() {
            self.forget(key);
            // Most changes of a pod are its status: what it needs changes only with its generation, or its labels.
            let (generation, labels) = (object.index().generation, &object.index().labels);
            if self.image.confirm(key, uid, node, object.is_deleting())
                && self.image.is_current(key, generation, labels)
            {
                return;
            }
        } else if self.image.pod(key).is_some_and(|(counted, _, assumed)| assumed && counted == uid) {
            if object.is_deleting() && self.waiting.contains(key) {
                self.forget(key);
                self.uncount(key);
            }
            // It is being bound: this state is older.
            return;
        }
        match PodInfo::read(object) {
            Ok(pod) if node.is_empty() => self.on_pod_without_node(pod),
            Ok(pod) => {
                let before = self.image.add_pod(&pod, node);
                before.into_iter().for_each(|freed| self.note(freed, FREED));
                if let Some((_, node, _)) = self.image.pod(key) {
                    self.note(node, FREED);
                }
            }
            Err(error) => skip("pod", object, &error),
        }
    }

    fn on_pod_without_node(&mut self, pod: PodInfo) {
        // One of the same name that went unseen.
        self.uncount(&pod.key);
        if &*pod.scheduler_name == NAME && !pod.deleting {
            // A promise outlives a restart of the scheduler.
            let promised = pod.nominated_node.as_deref().and_then(|node| self.image.find(node));
            if let (Some(node), None) = (promised, self.image.nominated_node(&pod.key)) {
                self.image.nominate(&pod, node);
            }
            self.queue.upsert(Arc::new(pod), Instant::now());
        } else {
            self.forget(&pod.key);
        }
    }

    /// A pod that waits no longer; what was promised to it others may have.
    fn forget(&mut self, key: &Key) {
        self.queue.remove(key);
        if let Some(decision) = self.waiting.remove(key) {
            self.image.storage.revert(&decision);
        }
        if let Some(node) = self.image.withdraw(key) {
            self.note(node, FREED);
        }
    }

    fn uncount(&mut self, key: &Key) {
        if let Some(node) = self.image.remove_pod(key) {
            self.note(node, FREED);
        }
    }

    fn note(&mut self, node: NodeIndex, what: What) {
        if what != What::NOTHING {
            let noted = self.changed.entry(node).or_default();
            *noted = noted.and(what);
        }
    }

    /// Wakes the pods that were rejected and now fit a node that changed.
    fn give_hints(&mut self) {
        self.give_volume_hints();
        if self.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        let image = &self.image;
        let any = changed.values().fold(What::NOTHING, |all, what| all.and(*what));
        self.queue.hint(Instant::now(), event_of(any), |pod, plugins| {
            if plugins == Default::default() {
                // Rejected when there was no node at all.
                return any.contains(What::ALL);
            }
            if !plugins.hinted_by(any) {
                return false;
            }
            if plugins.iter().any(|plugin| plugin.everywhere && plugin.hints.meets(any)) {
                return true;
            }
            let cycle = Cycle::new(image, pod);
            changed.iter().any(|(node, what)| plugins.hinted_by(*what) && cycle.fits(image.node(*node)))
        });
    }

    /// Wakes the pods that were rejected for their volumes and whose turn may have come.
    fn give_volume_hints(&mut self) {
        let (claims, all) = (&self.claims_changed, self.volumes_changed);
        if claims.is_empty() && !all {
            return;
        }
        let event = if all { "PvUpdate" } else { "PvcUpdate" };
        self.queue.hint(Instant::now(), event, |pod, plugins| {
            let concerned = || pod.needs.claims.iter().any(|claim| claims.contains(&claim.key));
            plugins.hinted_by(What::VOLUMES) && (all || concerned())
        });
        // Left as they are for those that wait on their nodes.
    }

    /// Binds the pods whose volumes are bound, and gives up on those whose never will be.
    fn look_at_waiting(&mut self) {
        let changed = std::mem::take(&mut self.volumes_changed) | !std::mem::take(&mut self.claims_changed).is_empty();
        for (pod, step) in self.waiting.steps(&self.image.storage, changed, Instant::now()) {
            match step {
                Step::Bind { node, watch } => self.bind_now(pod, node, watch),
                Step::GiveUp { watch, decision, why } => {
                    watch.end(Attempt::Error);
                    self.image.storage.revert(&decision);
                    let message = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
                    self.give_back(&pod, &message);
                }
            }
        }
    }

    fn place_some(&mut self) {
        for _ in 0..PODS_IN_A_ROW {
            // Each attempt ends in at most one write, so that none has to be kept back.
            if self.writes >= WRITES_MAX {
                return;
            }
            let Some(pod) = self.queue.pop() else { return };
            self.attempts += 1;
            let mut watch = Watch::start(self.attempts, self.queue.history(&pod.key));
            let placed = place_watched(&self.image, &pod, &mut self.turn, &mut |at, status| watch.point(at, status));
            watch.decided();
            match placed {
                Ok(node) => self.bind(pod, node, watch),
                Err(rejections) => {
                    watch.end(Attempt::Unschedulable);
                    self.reject(pod, &rejections, &mut watch);
                }
            }
        }
    }

    /// Counts a pod where it was placed, and binds it, or first its volumes.
    fn bind(&mut self, pod: Arc<PodInfo>, node: NodeIndex, watch: Watch) {
        let decision = volume_binding::decide(&self.image, &pod, node);
        self.image.assume(&pod, node);
        self.note(node, What::PODS);
        let name = self.image.node(node).name.clone();
        match decision {
            None => self.bind_now(pod, name, watch),
            Some(decision) => self.reserve(pod, watch, decision),
        }
    }

    /// Writes what a pod's volumes need. The pod is bound when they are.
    fn reserve(&mut self, pod: Arc<PodInfo>, watch: Watch, decision: Decision) {
        self.image.storage.assume(&decision);
        self.waiting.insert(pod.clone(), watch, decision.clone(), Instant::now());
        let (client, informers) = (self.config.client.clone(), self.config.informers.clone());
        self.write("reserve volumes", async move {
            let result = writes::reserve_volumes(&client, &informers, &decision).await;
            Outcome::Asked { pod, result }
        });
    }

    fn bind_now(&mut self, pod: Arc<PodInfo>, node: Arc<str>, mut watch: Watch) {
        let client = self.config.client.clone();
        self.write("bind", async move {
            let result = writes::bind(&client, &pod, &node).await;
            watch.point("Bind", if result.is_ok() { "Success" } else { "Error" });
            Outcome::Bound { pod, node, watch, result }
        });
    }

    fn reject(&mut self, pod: Arc<PodInfo>, rejections: &Rejections, watch: &mut Watch) {
        self.queue.reject(&pod.key, rejections.plugins, Instant::now());
        if rejections.nodes == 0 {
            return self.say_why(pod, &rejections.to_string());
        }
        let preemption = preempt(&self.image, &pod, &self.turn);
        metrics::preempted(preemption.as_ref().ok().map(|preemption| preemption.victims.len()));
        watch.point("PostFilter", if preemption.is_ok() { "Success" } else { "Unschedulable" });
        match preemption {
            Ok(preemption) => self.preempt(pod, &rejections.to_string(), preemption),
            Err(why) => self.say_why(pod, &format!("{rejections} preemption: {why}")),
        }
    }

    /// Removes pods of lower priority and promises their room to this one, which is tried again when they are gone.
    fn preempt(&mut self, pod: Arc<PodInfo>, message: &str, preemption: Preemption) {
        let Preemption { node, victims, .. } = preemption;
        self.image.nominate(&pod, node);
        let name = &self.image.node(node).name;
        for victim in &victims {
            let message = format!("Preempted by pod {} on node {name}", pod.uid);
            self.config.recorder.event(&reference(&victim.key, &victim.uid), EventType::Normal, "Preempted", &message);
        }
        self.config.recorder.event(&about(&pod), EventType::Warning, "FailedScheduling", message);
        let now = self.config.clock.now();
        let mut patch = writes::condition(&pod, UNSCHEDULABLE, message, now);
        patch["status"]["nominatedNodeName"] = (**name).into();
        let client = self.config.client.clone();
        self.write("preempt", async move {
            let result = writes::preempt(&client, &victims, &pod, &patch, now).await;
            Outcome::Preempted { pod, result }
        });
    }

    /// The event at every attempt (equal ones are counted up), the condition only when it says something new.
    fn say_why(&mut self, pod: Arc<PodInfo>, message: &str) {
        self.config.recorder.event(&about(&pod), EventType::Warning, "FailedScheduling", message);
        if pod.reported.as_ref().is_some_and(|(was, said)| **was == *UNSCHEDULABLE && **said == *message) {
            return;
        }
        let patch = writes::condition(&pod, UNSCHEDULABLE, message, self.config.clock.now());
        let client = self.config.client.clone();
        self.write("report", async move {
            let result = writes::report(&client, &pod, &patch).await;
            Outcome::Reported { pod, result }
        });
    }

    /// Starts a write whose end comes back as an [`Outcome`]: there is room for as many as are under way.
    fn write(&mut self, name: &str, write: impl Future<Output = Outcome> + Send + 'static) {
        self.writes += 1;
        let results = self.results.clone();
        self.tasks.spawn(name, async move {
            // Nobody listens any more only when the scheduler has stopped.
            let _ = results.send(write.await).await;
        });
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        self.writes -= 1;
        match outcome {
            Outcome::Asked { pod, result: Ok(()) } => self.waiting.asked(&pod),
            Outcome::Asked { pod, result: Err(error) } => self.on_reserve_failed(&pod, &error),
            Outcome::Bound { pod, node, watch, result: Ok(()) } => {
                watch.end(Attempt::Scheduled);
                self.queue.finish(&pod);
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.config.recorder.event(&about(&pod), EventType::Normal, "Scheduled", &message);
            }
            Outcome::Bound { pod, node, watch, result: Err(error) } => {
                watch.end(Attempt::Error);
                self.on_bind_failed(&pod, &node, &error);
            }
            Outcome::Preempted { result: Ok(()), .. } | Outcome::Reported { result: Ok(()), .. } => {}
            Outcome::Preempted { pod, result: Err(error) } => {
                // Not every victim goes, so that their going may not wake the pod: its back-off does.
                tracing::warn!(pod = %pod.key, error = chain(&error), "cannot make room for a pod");
                self.image.withdraw(&pod.key);
                self.queue.hint(Instant::now(), "PreemptionFailure", |waiting, _| waiting.uid == pod.uid);
            }
            Outcome::Reported { pod, result: Err(error) } => {
                // Said again at the next attempt, since the pod then still lacks the condition.
                if !error.is_not_found() {
                    tracing::warn!(pod = %pod.key, error = chain(&error), "cannot write why a pod waits");
                }
            }
        }
    }

    /// A pod that is gone needs no volumes any more.
    fn on_reserve_failed(&mut self, pod: &PodInfo, error: &ClientError) {
        let Some((decision, watch)) = self.waiting.take(pod) else { return };
        watch.end(Attempt::Error);
        self.image.storage.revert(&decision);
        tracing::warn!(pod = %pod.key, error = chain(error), "cannot reserve volumes");
        self.give_back(pod, &format!("running PreBind plugin \"VolumeBinding\": {}", chain(error)));
    }

    /// Gives the node's room back and tries again later. If the binding was written all the same, the watch says so.
    fn on_bind_failed(&mut self, pod: &PodInfo, node: &str, error: &ClientError) {
        if error.is_not_found() {
            self.take_back(pod);
            return;
        }
        tracing::warn!(pod = %pod.key, node, error = chain(error), "cannot bind");
        self.give_back(pod, &format!("binding rejected: running Bind plugin \"DefaultBinder\": {}", chain(error)));
    }

    fn give_back(&mut self, pod: &PodInfo, message: &str) {
        if self.take_back(pod) {
            self.config.recorder.event(&about(pod), EventType::Warning, "FailedScheduling", message);
        }
    }

    /// Whether the pod still had the room that it was to get.
    fn take_back(&mut self, pod: &PodInfo) -> bool {
        let counted = self.image.pod(&pod.key);
        let held = counted.is_some_and(|(uid, _, assumed)| assumed && *uid == *pod.uid);
        if held {
            self.uncount(&pod.key);
            self.queue.retry(&pod.key, Instant::now());
        }
        held
    }
}

/// What upstream calls a change.
fn event_of(what: What) -> &'static str {
    let table = [
        (What::ALL, "NodeAdd"),
        (FREED, "AssignedPodDelete"),
        (What::RESOURCES, "NodeAllocatableUpdate"),
        (What::LABELS, "NodeLabelUpdate"),
        (What::TAINTS, "NodeTaintUpdate"),
    ];
    table.iter().find(|(of, _)| what.contains(*of)).map_or("AssignedPodAdd", |(_, name)| name)
}

/// The next change of any of these, and whose it is.
async fn next_of(all: &mut [Changes]) -> (usize, Change) {
    let (change, at, _) = select_all(all.iter_mut().map(|changes| Box::pin(changes.next()))).await;
    (at, change)
}

fn skip(kind: &str, object: &Object, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(kind, key = %object.key(), error = chain(error), "skipped: cannot be read");
}

fn about(pod: &PodInfo) -> ObjectReference {
    reference(&pod.key, &pod.uid)
}

fn reference(key: &Key, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        uid: uid.to_owned(),
        resource_version: String::new(),
        field_path: String::new(),
    }
}
