//! Which daemon pods are missing and which are too many. Pure: a view in, a plan out.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use api::Object;
use control::{EventType, Next};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::nodes::{Fit, Placement, add_tolerations, pin, target};
use super::update;
use crate::pods::PodView;

pub(super) const HASH_LABEL: &str = "controller-revision-hash";

/// How many pods one reconcile makes or deletes at most; the next goes on.
const BURST: usize = 250;

/// All that a plan is made from.
pub(super) struct View<'a> {
    pub(super) set: &'a Value,
    /// The hash of the present template.
    pub(super) hash: &'a str,
    pub(super) nodes: Vec<Object>,
    pub(super) pods: Vec<DaemonPod<'a>>,
    /// How much longer a node's failed pod stays.
    pub(super) failed_stays: &'a (dyn Fn(&str) -> Duration + Sync),
}

/// A pod of the set, and the node that it is for.
pub(super) struct DaemonPod<'a> {
    pub(super) object: &'a Object,
    node: String,
    /// Placed by the scheduler.
    bound: bool,
    phase: String,
    ready: bool,
    pub(super) available: bool,
    /// When a ready pod becomes available by the passing of time alone.
    next: Option<Duration>,
    created: Option<Timestamp>,
}

impl<'a> DaemonPod<'a> {
    /// `None` for a pod that asks for no node, and for one that has ended and is being deleted already.
    pub(super) fn of(object: &'a Object, set: &Value, now: Timestamp) -> Option<Self> {
        let view = PodView::of(object);
        if view.is_terminal() && object.is_deleting() {
            return None;
        }
        let bound = !view.spec.node_name.is_empty();
        let node = if bound { view.spec.node_name.to_string() } else { target(&object.to_value()["spec"])?.to_owned() };
        let min_ready = SignedDuration::from_secs(set["spec"]["minReadySeconds"].as_i64().unwrap_or(0));
        let ready = view.is_ready();
        let next = if ready { view.time_to_available(min_ready, now) } else { None };
        Some(Self {
            object,
            node,
            bound,
            phase: view.status.phase.to_string(),
            ready,
            available: ready && next.is_none(),
            next,
            created: view.metadata.creation_timestamp,
        })
    }

    pub(super) fn is_updated(&self, hash: &str) -> bool {
        self.object.label(HASH_LABEL) == Some(hash)
    }
}

/// What to do, and the status.
pub(super) struct Plan {
    /// The templates of new pods.
    pub(super) create: Vec<Value>,
    pub(super) delete: Vec<Object>,
    /// The nodes whose failed pod gives way.
    pub(super) failed: Vec<String>,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    pub(super) status: Value,
    pub(super) next: Next,
}

/// Each node's pods, the oldest first.
pub(super) type ByNode<'a> = BTreeMap<&'a str, Vec<&'a DaemonPod<'a>>>;

/// Decides.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let placement = Placement::of(&view.set["spec"]["template"]["spec"]);
    let fits: BTreeMap<&str, Fit> = view.nodes.iter().map(|node| (&*node.key().name, placement.fit(node))).collect();
    let mut pods: ByNode<'_> = BTreeMap::new();
    for pod in &view.pods {
        pods.entry(&pod.node).or_default().push(pod);
    }
    for on_node in pods.values_mut() {
        // Of two, the one that the scheduler has placed and that is older is the one to keep.
        on_node.sort_by_key(|pod| (!pod.bound, pod.created, pod.object.uid()));
    }
    let status = status(view, &fits, &pods);
    let mut work = Work { view, create: vec![], delete: vec![], failed: vec![], events: vec![], waits: vec![] };
    work.waits.extend(view.pods.iter().filter_map(|pod| pod.next));
    for (node, fit) in &fits {
        work.manage(node, *fit, pods.get(node).map_or(&[][..], Vec::as_slice));
    }
    // The garbage collector of pods leaves alone what no node has seen.
    let lost = view.pods.iter().filter(|pod| !pod.bound && !fits.contains_key(&*pod.node) && !pod.object.is_deleting());
    work.delete.extend(lost.map(|pod| pod.object.clone()));
    if work.create.is_empty() && work.delete.is_empty() && view.set["spec"]["updateStrategy"]["type"] != "OnDelete" {
        let update = update::plan(view, &fits, &pods);
        work.create = update.create;
        work.delete = update.delete;
    }
    work.finish(status)
}

struct Work<'a> {
    view: &'a View<'a>,
    /// The nodes to make pods for.
    create: Vec<String>,
    delete: Vec<Object>,
    failed: Vec<String>,
    events: Vec<(EventType, &'static str, String)>,
    waits: Vec<Duration>,
}

impl Work<'_> {
    /// One node: one pod where there should be one, none where there may be none.
    fn manage(&mut self, node: &str, fit: Fit, pods: &[&DaemonPod<'_>]) {
        if fit == Fit::Run && pods.is_empty() {
            return self.create.push(node.to_owned());
        }
        let live = pods.iter().filter(|pod| !pod.object.is_deleting());
        if fit == Fit::No {
            return self.delete.extend(live.map(|pod| pod.object.clone()));
        }
        let mut running = Vec::new();
        for pod in live {
            match &*pod.phase {
                "Failed" => match (self.view.failed_stays)(node) {
                    Duration::ZERO => {
                        self.failed.push(node.to_owned());
                        self.replace(pod, EventType::Warning, "FailedDaemonPod", ("failed", "kill"));
                    }
                    left => self.waits.push(left),
                },
                "Succeeded" => self.replace(pod, EventType::Normal, "SucceededDaemonPod", ("succeeded", "delete")),
                _ => running.push(*pod),
            }
        }
        if !update::allows_surge(self.view.set) {
            return self.delete.extend(running.iter().skip(1).map(|pod| pod.object.clone()));
        }
        if running.is_empty() && fit == Fit::Run {
            return self.create.push(node.to_owned());
        }
        if running.len() > 1 {
            self.keep_one_of_each(&running);
        }
    }

    /// While surging a node may have one pod of the present template beside one of an earlier, until the new one is
    /// available or the old one fails.
    fn keep_one_of_each(&mut self, running: &[&DaemonPod<'_>]) {
        let (mut new, mut old) = (None, None);
        for pod in running {
            let place = if pod.is_updated(self.view.hash) { &mut new } else { &mut old };
            match place {
                None => *place = Some(*pod),
                Some(_) => self.delete.push(pod.object.clone()),
            }
        }
        if let (Some(new), Some(old)) = (new, old)
            && (!old.ready || new.available)
        {
            self.delete.push(old.object.clone());
        }
    }

    fn replace(&mut self, pod: &DaemonPod<'_>, kind: EventType, reason: &'static str, (what, how): (&str, &str)) {
        let message =
            format!("Found {what} daemon pod {} on node {}, will try to {how} it", pod.object.key(), pod.node);
        self.events.push((kind, reason, message));
        self.delete.push(pod.object.clone());
    }

    fn finish(mut self, status: Value) -> Plan {
        let more = self.create.len() > BURST || self.delete.len() > BURST;
        self.create.truncate(BURST);
        self.delete.truncate(BURST);
        let mut template = self.view.set["spec"]["template"].clone();
        add_tolerations(&mut template["spec"]);
        template["metadata"]["labels"][HASH_LABEL] = self.view.hash.into();
        let generation = &self.view.set["metadata"]["annotations"]["deprecated.daemonset.template.generation"];
        if let Some(generation) = generation.as_str().filter(|text| text.parse::<i64>().is_ok()) {
            template["metadata"]["labels"]["pod-template-generation"] = generation.into();
        }
        let pinned = |node: String| {
            let mut template = template.clone();
            pin(&mut template["spec"], &node);
            template
        };
        self.waits.extend(more.then_some(Duration::ZERO));
        Plan {
            create: self.create.into_iter().map(pinned).collect(),
            delete: self.delete,
            failed: self.failed,
            events: self.events,
            status,
            next: self.waits.into_iter().min().map_or(Next::OnChange, Next::After),
        }
    }
}

/// The status, of the pods as they are.
fn status(view: &View<'_>, fits: &BTreeMap<&str, Fit>, pods: &ByNode<'_>) -> Value {
    let run: HashSet<&str> = fits.iter().filter(|(_, fit)| **fit == Fit::Run).map(|(node, _)| *node).collect();
    let mut first: Vec<&DaemonPod<'_>> = Vec::new();
    let mut misscheduled = 0;
    for (node, on_node) in pods.iter().filter(|(node, _)| fits.contains_key(**node)) {
        match on_node.first() {
            Some(pod) if run.contains(node) => first.push(pod),
            Some(_) => misscheduled += 1,
            None => {}
        }
    }
    let count = |holds: &dyn Fn(&&&DaemonPod<'_>) -> bool| first.iter().filter(holds).count();
    let available = count(&|pod| pod.available);
    let mut status = json!({
        "currentNumberScheduled": first.len(),
        "numberMisscheduled": misscheduled,
        "desiredNumberScheduled": run.len(),
        "numberReady": count(&|pod| pod.ready),
        "observedGeneration": view.set["metadata"]["generation"],
    });
    for (field, count) in [
        ("updatedNumberScheduled", count(&|pod| pod.is_updated(view.hash))),
        ("numberAvailable", available),
        ("numberUnavailable", run.len() - available),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    for field in ["collisionCount", "conditions"] {
        if let Some(value) = view.set["status"].get(field) {
            status[field] = value.clone();
        }
    }
    status
}
