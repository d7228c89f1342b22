//! `ResourceQuota`: a write that would exceed a quota of its namespace is refused, and one that does not is counted in the
//! quota's status before it is stored.
//!
//! Exact under concurrency: `status.used` is changed by compare and swap, so two writers never take the same last unit. The
//! writers of a namespace that come together are counted together: the first of them decides for all that wait, then hands
//! the lead to one that came meanwhile. A write that fails afterwards stays counted until the quota controller, which adds
//! usage up from the objects, corrects it. What counts for what is [`machinery::quota`]. Public behaviour: the Kubernetes
//! documentation's "Resource Quotas".

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use api::{ApiError, Reason, resources, storage_key};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use machinery::pod_resources::{self, Amounts, amounts};
use machinery::{Quantity, quota};
use serde_json::Value;
use store::{Precondition, Revision, Store, Txn, TxnOutcome, Write};
use tokio::sync::oneshot;

use super::{Attempt, Descriptor, Operation, Plugin, forbidden};
use crate::registry::tree::{child, set, text};
use crate::request::metadata;
use crate::watch_cache::{Caches, store_failed};

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "ResourceQuota",
    plugin: |parts| {
        Arc::new(ResourceQuota {
            caches: parts.caches.clone(),
            store: parts.config.store.clone(),
            waiting: Mutex::default(),
        })
    },
};

/// How often a batch is counted anew because somebody else changed a quota. Without an end a controller that writes in a
/// loop could hold up a namespace.
const ATTEMPTS_MAX: usize = 64;
const POISON: &str = "nothing panics while it holds the waiting writes";

struct ResourceQuota {
    caches: Arc<Caches>,
    store: Arc<dyn Store>,
    /// By namespace, the writes that came while another one was being counted. An entry exists while somebody leads.
    waiting: Mutex<HashMap<Arc<str>, Vec<Waiting>>>,
}

/// What a write asks of the quotas.
struct Asked {
    group: String,
    plural: String,
    subresource: String,
    object: Value,
    /// Before an update.
    old: Option<Value>,
    dry_run: bool,
    now: Timestamp,
}

struct Waiting {
    asked: Asked,
    turn: oneshot::Sender<Turn>,
}

/// What becomes of a write that waited.
enum Turn {
    /// It was decided with others.
    Decided(Result<(), Refused>),
    /// It leads now: it decides for these, of which it is the first.
    Lead(Box<Asked>, Vec<Waiting>),
}

#[derive(Debug, Clone)]
enum Refused {
    /// A quota refuses it.
    Quota(String),
    /// The server failed.
    Failed(ApiError),
}

impl Plugin for ResourceQuota {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if attempt.key.namespace.is_empty() || !attempt.resource.namespaced() || !counts(attempt, object) {
                return Ok(());
            }
            let cache = self.caches.of(resources::RESOURCE_QUOTAS).await?;
            if self.caches.snapshot(&cache).entries(Some(&attempt.key.namespace)).next().is_none() {
                return Ok(());
            }
            self.count(asked(attempt, object), &attempt.key.namespace).await.map_err(|refused| match refused {
                Refused::Quota(why) => forbidden(attempt, &why),
                Refused::Failed(error) => error,
            })
        }
        .boxed()
    }
}

fn asked(attempt: &Attempt<'_>, object: &Value) -> Asked {
    Asked {
        group: attempt.resource.group.to_string(),
        plural: attempt.resource.plural.to_string(),
        subresource: attempt.subresource.to_owned(),
        object: object.clone(),
        old: attempt.old.cloned(),
        dry_run: attempt.context.dry_run,
        now: attempt.context.now,
    }
}

/// Whether a write can change what its object counts for.
fn counts(attempt: &Attempt<'_>, object: &Value) -> bool {
    let (group, plural) = (&*attempt.resource.group, &*attempt.resource.plural);
    let creates = attempt.operation == Operation::Create;
    let updates = attempt.operation == Operation::Update;
    let old = attempt.old.unwrap_or(&Value::Null);
    match (group, plural, attempt.subresource) {
        // Events are not counted, nor what is answered and not stored.
        ("" | "events.k8s.io", "events", _) => false,
        ("", "bindings", _) | ("authorization.k8s.io" | "authentication.k8s.io", _, _) => false,
        ("", "pods", "") => creates || (updates && quota::has_deadline(object) != quota::has_deadline(old)),
        ("", "pods", "resize") => updates,
        ("", "services", "") => creates || updates,
        ("", "persistentvolumeclaims", "") => creates || updates,
        ("", "persistentvolumeclaims", "status") => {
            let fields = ["allocatedResources", "currentVolumeAttributesClassName", "modifyVolumeStatus"];
            updates && fields.iter().any(|field| object["status"][*field] != old["status"][*field])
        }
        (_, _, "") => creates,
        _ => false,
    }
}

impl ResourceQuota {
    /// Waits for this write's turn, or takes the lead, until it is decided.
    async fn count(&self, asked: Asked, namespace: &Arc<str>) -> Result<(), Refused> {
        let (asked, others) = match self.join(asked, namespace) {
            Ok(asked) => (asked, Vec::new()),
            Err(turn) => match turn.await {
                Ok(Turn::Decided(decided)) => return decided,
                Ok(Turn::Lead(asked, others)) => (*asked, others),
                Err(_) => return Err(failed("Internal error occurred: resource quota evaluation was cut off")),
            },
        };
        let _lead = Lead { plugin: self, namespace };
        let (mut batch, mut turns) = (vec![asked], Vec::with_capacity(others.len()));
        for other in others {
            batch.push(other.asked);
            turns.push(other.turn);
        }
        let mut decided = self.decide(&batch, namespace).await.into_iter();
        let own = decided.next().unwrap_or_else(|| Err(failed("Internal error occurred: nothing was decided")));
        for (turn, decided) in turns.into_iter().zip(decided) {
            // Its client may have gone.
            let _ = turn.send(Turn::Decided(decided));
        }
        own
    }

    /// Takes the lead of a namespace, or a place among those who wait.
    fn join(&self, asked: Asked, namespace: &Arc<str>) -> Result<Asked, oneshot::Receiver<Turn>> {
        let mut waiting = self.waiting.lock().expect(POISON);
        match waiting.get_mut(namespace) {
            None => {
                waiting.insert(namespace.clone(), Vec::new());
                Ok(asked)
            }
            Some(others) => {
                let (turn, decided) = oneshot::channel();
                others.push(Waiting { asked, turn });
                Err(decided)
            }
        }
    }

    /// Decides in the order of arrival and writes what is used once for all of them.
    async fn decide(&self, batch: &[Asked], namespace: &str) -> Vec<Result<(), Refused>> {
        for _ in 0..ATTEMPTS_MAX {
            match self.decide_once(batch, namespace).await {
                Ok(Some(decided)) => return decided,
                // Somebody changed a quota meanwhile: count from what stands there now.
                Ok(None) => self.caches.fresh().await,
                Err(error) => return batch.iter().map(|_| Err(Refused::Failed(error.clone()))).collect(),
            }
        }
        let busy = "Internal error occurred: the quotas of the namespace change too fast; try again";
        batch.iter().map(|_| Err(failed(busy))).collect()
    }

    async fn decide_once(
        &self,
        batch: &[Asked],
        namespace: &str,
    ) -> Result<Option<Vec<Result<(), Refused>>>, ApiError> {
        let cache = self.caches.of(resources::RESOURCE_QUOTAS).await?;
        let snapshot = self.caches.snapshot(&cache);
        let objects: Vec<_> = snapshot.entries(Some(namespace)).map(|entry| entry.object.clone()).collect();
        let before: Vec<Value> = objects.iter().map(api::Object::to_value).collect();
        let mut quotas = before.clone();
        let decided = batch.iter().map(|asked| match charge(&quotas, asked) {
            Ok(used) => {
                if !asked.dry_run {
                    for (quota, used) in quotas.iter_mut().zip(used) {
                        set_used(quota, used);
                    }
                }
                Ok(())
            }
            Err(why) => Err(Refused::Quota(why)),
        });
        let decided: Vec<_> = decided.collect();
        let mut txn = Txn { preconditions: Vec::new(), writes: Vec::new() };
        for ((object, before), after) in objects.iter().zip(&before).zip(quotas) {
            if after["status"]["used"] != before["status"]["used"] {
                let key = Bytes::from(storage_key::of(resources::RESOURCE_QUOTAS, object.key()));
                txn.preconditions.push(Precondition::ModifiedAt(key.clone(), Revision(object.revision())));
                txn.writes.push(Write::Put(key, encode(after)));
            }
        }
        if txn.writes.is_empty() {
            return Ok(Some(decided));
        }
        match self.store.txn(txn).await.map_err(|error| store_failed(&error))? {
            TxnOutcome::Committed(revision) => {
                // Whoever leads next counts from here.
                self.caches.reached(revision.0).await;
                Ok(Some(decided))
            }
            TxnOutcome::Refused { .. } => Ok(None),
        }
    }
}

/// Held by whoever decides for a namespace; dropped, it passes the lead on.
struct Lead<'a> {
    plugin: &'a ResourceQuota,
    namespace: &'a Arc<str>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut waiting = self.plugin.waiting.lock().expect(POISON);
        let mut others = waiting.get_mut(self.namespace).map(std::mem::take).unwrap_or_default();
        while !others.is_empty() {
            let first = others.remove(0);
            match first.turn.send(Turn::Lead(Box::new(first.asked), others)) {
                Ok(()) => return,
                // That one's client has gone: the next one leads.
                Err(Turn::Lead(_, rest)) => others = rest,
                Err(Turn::Decided(_)) => return,
            }
        }
        waiting.remove(self.namespace);
    }
}

fn failed(why: &str) -> Refused {
    Refused::Failed(ApiError::new(Reason::InternalError, why))
}

/// What each quota counts as used with this write (`None`: it is not concerned), or why it is refused.
fn charge(quotas: &[Value], asked: &Asked) -> Result<Vec<Option<Amounts>>, String> {
    let usage = quota::usage(&asked.group, &asked.plural, &asked.object, asked.now);
    let before = asked.old.as_ref().map(|old| quota::usage(&asked.group, &asked.plural, old, asked.now));
    quotas.iter().map(|quota| charge_one(quota, asked, &usage, before.as_ref())).collect()
}

fn charge_one(
    quota: &Value,
    asked: &Asked,
    usage: &Amounts,
    before: Option<&Amounts>,
) -> Result<Option<Amounts>, String> {
    let (spec, name) = (&quota["spec"], text(&quota["metadata"]["name"]));
    let hard = amounts(&quota["status"]["hard"]);
    let names = quota::counted(&asked.group, &asked.plural, hard.keys().map(String::as_str));
    let concerned = |object: &Value| quota::in_scope(spec, &asked.group, &asked.plural, object);
    if names.is_empty() || !concerned(&asked.object) {
        return Ok(None);
    }
    if (&*asked.group, &*asked.plural) == ("", "pods")
        && let Some(why) = quota::unspecified(&asked.object, &names)
    {
        return Err(format!("failed quota: {name}: {why}"));
    }
    let used = amounts(&quota["status"]["used"]);
    if names.iter().any(|name| !used.contains_key(*name)) {
        let names: Vec<_> = names.iter().copied().collect();
        return Err(format!("status unknown for quota: {name}, resources: {}", names.join(",")));
    }
    let negative: Vec<_> =
        usage.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let before = before.filter(|_| asked.old.as_ref().is_some_and(concerned));
    let wanted: Amounts = usage
        .iter()
        .filter(|(name, _)| hard.contains_key(*name))
        .map(|(name, amount)| (name.clone(), more_than(*amount, before.and_then(|before| before.get(name)))))
        .filter(|(_, amount)| !amount.is_zero())
        .collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut total = used.clone();
    pod_resources::add(&mut total, &wanted);
    let exceeded: BTreeSet<&str> =
        wanted.keys().filter(|name| total[*name] > hard[*name]).map(String::as_str).collect();
    // What a status says has happened already.
    if exceeded.is_empty() || asked.subresource == "status" {
        return Ok(Some(total));
    }
    let shown = |amounts: &Amounts| {
        let shown = amounts.iter().filter(|(name, _)| exceeded.contains(name.as_str()));
        shown.map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        shown(&wanted),
        shown(&used),
        shown(&hard)
    ))
}

/// What is asked for on top of what counted before; what is given back is the controller's to take off.
fn more_than(amount: Quantity, before: Option<&Quantity>) -> Quantity {
    match before {
        Some(before) if *before >= amount => Quantity::ZERO,
        Some(before) => amount - *before,
        None => amount,
    }
}

/// The bytes to store; the store gives the resource version.
fn encode(mut quota: Value) -> Bytes {
    metadata::fields(&mut quota).shift_remove("resourceVersion");
    api::object::encode(&quota).into()
}

fn set_used(quota: &mut Value, used: Option<Amounts>) {
    if let (Some(used), Some(status)) = (used, child(quota, "status")) {
        set(status, "used", pod_resources::to_value(&used));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(quota: Value, object: Value, old: Option<Value>) -> Result<Vec<Option<Amounts>>, String> {
        let asked = Asked {
            group: String::new(),
            plural: "pods".to_owned(),
            subresource: String::new(),
            object,
            old,
            dry_run: false,
            now: "2030-01-01T00:00:00Z".parse().unwrap(),
        };
        charge(&[quota], &asked)
    }

    fn quota(spec: &Value, hard: &Value, used: &Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}})
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn refuses_in_upstreams_words_and_counts_what_it_allows() {
        let hard = json!({"pods": "2", "requests.cpu": "1"});
        for (spec, used, object, expected) in [
            (json!({}), json!({"pods": "0", "requests.cpu": "0"}), pod("1"), Ok("pods=1 requests.cpu=1")),
            (
                json!({}),
                json!({"pods": "2", "requests.cpu": "500m"}),
                pod("1"),
                Err("exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=2,requests.cpu=500m, limited: \
                     pods=2,requests.cpu=1"),
            ),
            (
                json!({}),
                json!({"pods": "0", "requests.cpu": "0"}),
                json!({"spec": {"containers": [{"name": "c"}]}}),
                Err("failed quota: q: must specify requests.cpu for: c"),
            ),
            (
                json!({}),
                json!({"pods": "0"}),
                pod("1"),
                Err("status unknown for quota: q, resources: pods,requests.cpu"),
            ),
            (json!({"scopes": ["BestEffort"]}), json!({"pods": "2", "requests.cpu": "0"}), pod("1"), Ok("nothing")),
        ] {
            let charged = pods(quota(&spec, &hard, &used), object, None).map(|mut used| match used.remove(0) {
                Some(used) => {
                    used.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
                }
                None => "nothing".to_owned(),
            });
            assert_eq!(charged.as_deref().map_err(String::as_str), expected);
        }
    }

    #[test]
    fn an_update_asks_only_for_what_it_adds() {
        let full = quota(&json!({}), &json!({"requests.cpu": "2"}), &json!({"requests.cpu": "2"}));
        assert_eq!(pods(full.clone(), pod("1"), Some(pod("2"))).unwrap(), [None]);
        let refused = pods(full, pod("3"), Some(pod("2"))).unwrap_err();
        assert_eq!(
            refused,
            "exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=2, limited: requests.cpu=2"
        );
    }
}
