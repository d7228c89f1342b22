//! Pods leave a node whose `NoExecute` taints they do not tolerate, at once or when their toleration runs out.
//!
//! A taint says since when it is there only where the node controller set it. Of others the moment counts in which they were seen first;
//! it is remembered in memory only, so that after a restart the time of a toleration begins anew.
//!
//! Defined by "Taints and Tolerations" in the Kubernetes documentation; the controller is upstream's
//! taint-eviction-controller.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{DeleteOptions, EventType, Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::{Value, json};

use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "taint-eviction-controller",
    reconciles: resources::PODS,
    owns: &[],
    watches: &[Trigger { resource: resources::NODES, keys: pods_of_tainted }],
    reads: &[],
    workers_max: 8,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// When taints were seen first that do not say it themselves: by node, then by key, value and effect. Bounded: what is here is on a node now.
#[derive(Debug, Default)]
pub struct Noticed(Mutex<BTreeMap<String, BTreeMap<String, Timestamp>>>);

impl Noticed {
    /// Writes into each taint of a node since when it is there.
    fn date(&self, node: &str, taints: &mut [Value], now: Timestamp) {
        let mut nodes = self.0.lock().expect("no holder of the taints' lock panics");
        let before = nodes.remove(node).unwrap_or_default();
        let mut present = BTreeMap::new();
        for taint in taints.iter_mut().filter(|taint| taint["timeAdded"].as_str().is_none()) {
            let name = format!("{}={}:{}", taint["key"], taint["value"], taint["effect"]);
            let since = before.get(&name).copied().unwrap_or(now);
            taint["timeAdded"] = since.to_string().into();
            present.insert(name, since);
        }
        if !present.is_empty() {
            nodes.insert(node.to_owned(), present);
        }
    }
}

/// Called with the old state too: pods of a node that lost its taints are looked at once more.
fn pods_of_tainted(informers: &Informers, node: &Object) -> Vec<Key> {
    if no_execute(&node.to_value()).is_empty() {
        return vec![];
    }
    let pods = informers.all(resources::PODS).by_field("spec.nodeName", &node.key().name);
    pods.iter().map(|pod| pod.key().clone()).collect()
}

fn no_execute(node: &Value) -> Vec<Value> {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.filter(|taint| taint["effect"] == "NoExecute").cloned().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::PODS).get(key) else { return Ok(Next::OnChange) };
    let node = object.field(resources::PODS, "spec.nodeName").unwrap_or_default();
    let taints = ctx.cache(resources::NODES).get(&Key::new("", node)).map(|node| no_execute(&node.to_value()));
    let (mut taints, now) = (taints.unwrap_or_default(), ctx.clock.now());
    ctx.settings.noticed_taints.date(node, &mut taints, now);
    if taints.is_empty() || object.is_deleting() {
        return Ok(Next::OnChange);
    }
    match plan(&object.to_value(), &taints, now) {
        Plan::Stay => Ok(Next::OnChange),
        Plan::StayFor(time) => Ok(Next::After(time)),
        Plan::Leave => evict(ctx, &object, now).await,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Stay,
    StayFor(Duration),
    Leave,
}

fn plan(pod: &Value, taints: &[Value], now: Timestamp) -> Plan {
    let tolerations: Vec<&Value> = pod["spec"]["tolerations"].as_array().into_iter().flatten().collect();
    let mut first: Option<SignedDuration> = None;
    for taint in taints {
        let tolerating: Vec<&&Value> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if tolerating.is_empty() {
            return Plan::Leave;
        }
        // The shortest of the tolerations counts; one without a time is for ever.
        let shortest = tolerating.iter().filter_map(|toleration| toleration["tolerationSeconds"].as_i64()).min();
        let Some(seconds) = shortest else { continue };
        let since = taint["timeAdded"].as_str().and_then(|text| time::parse(text).ok()).unwrap_or(now);
        let rest = SignedDuration::from_secs(seconds.max(0)) - now.duration_since(since);
        first = Some(first.map_or(rest, |first| first.min(rest)));
    }
    match first {
        None => Plan::Stay,
        Some(rest) => match Duration::try_from(rest) {
            Ok(rest) if !rest.is_zero() => Plan::StayFor(rest),
            _ => Plan::Leave,
        },
    }
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (effect, key) = (text(&toleration["effect"]), text(&toleration["key"]));
    let exists = toleration["operator"] == "Exists";
    (effect.is_empty() || effect == text(&taint["effect"]))
        && (key == text(&taint["key"]) || key.is_empty() && exists)
        && (exists || text(&toleration["value"]) == text(&taint["value"]))
}

async fn evict(ctx: &Ctx, object: &Object, now: Timestamp) -> Result<Next, ReconcileError> {
    let mut pod = object.to_value();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint"});
    conditions::set(&mut pod["status"], condition, &time::seconds(now));
    if pod["status"] != object.to_value()["status"] {
        ctx.client.update_status(resources::PODS, object.key(), Bytes::from(pod.to_string())).await?;
    }
    match ctx.client.delete(resources::PODS, object.key(), &DeleteOptions::of_uid(object.uid())).await {
        Err(error) if error.is_not_found() => return Ok(Next::OnChange),
        deleted => deleted?,
    }
    let about = ObjectReference::from((resources::PODS, object));
    let message = format!("Marking for deletion Pod {}", object.key());
    ctx.recorder.event(&about, EventType::Normal, "TaintManagerEviction", &message);
    Ok(Next::OnChange)
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    const NOW: &str = "2030-01-01T00:10:00Z";

    #[test]
    fn what_a_toleration_is_worth() {
        let taint = json!({"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": "2030-01-01T00:05:00Z"});
        let minutes = |count: u64| Plan::StayFor(Duration::from_secs(count * 60));
        let rows = [
            (json!([]), Plan::Leave),
            (json!([{"operator": "Exists"}]), Plan::Stay),
            (json!([{"key": "k", "value": "v"}]), Plan::Stay),
            (json!([{"key": "k", "value": "other"}]), Plan::Leave),
            (json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), Plan::Leave),
            (json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 600}]), minutes(5)),
            (json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}]), Plan::Leave),
            (
                json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 900}, {"operator": "Exists"}]),
                minutes(10),
            ),
        ];
        for (tolerations, expected) in rows {
            let pod = json!({"spec": {"tolerations": tolerations}});
            assert_eq!(
                plan(&pod, std::slice::from_ref(&taint), NOW.parse().expect("a time")),
                expected,
                "{tolerations}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pods_leave_when_their_toleration_runs_out_or_stay_when_the_taint_goes() {
        let pod = |name: &str, node: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"nodeName": node, "tolerations": [{"operator": "Exists", "tolerationSeconds": 300}]},
                "status": {"phase": "Running"}})
        };
        let node = |name: &str| {
            let taint = json!({"key": "k", "effect": "NoExecute", "timeAdded": "2030-01-01T00:00:00Z"});
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [taint]}})
        };
        let steps = [
            Step::Wait(Duration::from_secs(200)),
            Step::Do(&|api| {
                assert_eq!(api.list(resources::PODS).len(), 2);
                api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}, "spec": {}}));
            }),
            Step::Wait(Duration::from_secs(100)),
        ];
        let objects = [node("a"), node("b"), pod("leaves", "a"), pod("stays", "b")];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        let left: Vec<_> = end.list(resources::PODS).iter().map(|pod| pod["metadata"]["name"].clone()).collect();
        assert_eq!(left, ["stays"]);
    }

    /// A taint that a person had set says nothing of its time, and every look at a pod began its time anew: it stayed for ever.
    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_toleration_runs_from_when_the_taint_was_seen() {
        let pod = |name: &str, seconds: i64| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"nodeName": "a", "tolerations": [{"operator": "Exists", "tolerationSeconds": seconds}]},
                "status": {"phase": "Running"}})
        };
        let taints = json!([{"key": "k", "effect": "NoExecute"}]);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"taints": taints}});
        let count =
            |wanted: usize| move |api: &control::harness::Api| assert_eq!(api.list(resources::PODS).len(), wanted);
        let (both, one) = (count(2), count(1));
        let steps = [
            Step::Wait(Duration::from_secs(50)),
            Step::Do(&both),
            Step::Wait(Duration::from_secs(20)),
            Step::Do(&one),
            Step::Wait(Duration::from_secs(100)),
        ];
        let end = check_converges(&CONTROLLER, settings(), &[node, pod("soon", 60), pod("late", 3600)], &steps).await;
        let left: Vec<_> = end.list(resources::PODS).iter().map(|pod| pod["metadata"]["name"].clone()).collect();
        assert_eq!(left, ["late"]);
    }

    #[test]
    fn what_a_node_lost_is_forgotten() {
        let (noticed, now) = (Noticed::default(), NOW.parse().expect("a time"));
        let later = now + Duration::from_secs(60);
        let dated = |taints: Value, at: Timestamp| {
            let mut taints = taints.as_array().expect("a list").clone();
            noticed.date("a", &mut taints, at);
            taints.first().map(|taint| taint["timeAdded"].as_str().expect("a time").to_owned())
        };
        let taint = || json!([{"key": "k", "effect": "NoExecute"}]);
        assert_eq!(dated(taint(), now), Some(now.to_string()));
        assert_eq!(dated(taint(), later), Some(now.to_string()));
        assert_eq!(dated(json!([]), later), None);
        assert!(noticed.0.lock().expect("nobody panicked").is_empty());
        assert_eq!(dated(taint(), later), Some(later.to_string()));
    }
}
