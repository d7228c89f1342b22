//! `metrics.k8s.io`: how much CPU and memory nodes and pods use now, for `kubectl top` and autoscalers.
//!
//! Nothing is stored and nothing runs by itself: when somebody asks and what is known is older than 15 seconds, every
//! kubelet is asked once, and rates are taken against the time before. The very first question waits a second for that.
//! Defined by the Metrics API (KEP 437); the shapes are metrics-server's.

mod sample;
mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use api::{ApiError, Key, Object, Reason, Resource, Scope, Verb, resources};
use futures::{FutureExt, StreamExt, stream};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use self::sample::{Measured, Sample, Usage};
use crate::authentication::UserInfo;
use crate::request::info::Target;
use crate::request::negotiate::{Form, View};
use crate::request::query::Query;
use crate::request::respond::{self, Answer};
use crate::request::{Call, selectors};
use crate::{Server, kubelet_proxy};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// What was measured is believed for this long: autoscalers ask as often.
const FRESH: Duration = Duration::from_secs(15);
/// A sample older than this says nothing about now: it is too far back to take a rate against.
const OLD: Duration = Duration::from_secs(300);
/// How long the first question waits for its second sample.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// A kubelet that takes longer is left out, so that one sick node does not hide the others.
const KUBELET_TIME_MAX: Duration = Duration::from_secs(10);
/// How many kubelets are asked at the same time.
const PARALLEL: usize = 16;

static NODES: LazyLock<Resource> = LazyLock::new(|| row("nodes", "NodeMetrics", Scope::Cluster));
static PODS: LazyLock<Resource> = LazyLock::new(|| row("pods", "PodMetrics", Scope::Namespaced));

fn row(plural: &'static str, kind: &'static str, scope: Scope) -> Resource {
    Resource {
        group: GROUP.into(),
        version: VERSION.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: "".into(),
        short_names: (&[]).into(),
        categories: (&[]).into(),
        scope,
        verbs: vec![Verb::Get, Verb::List].into(),
        subresources: (&[]).into(),
        selectable_fields: (&[]).into(),
        stored_as: None,
    }
}

/// The rows of the group, for discovery.
pub(crate) fn rows() -> [&'static Resource; 2] {
    [&NODES, &PODS]
}

/// Whether a request is for this group.
pub(crate) fn serves(target: &Target) -> bool {
    target.group == GROUP && target.version == VERSION && rows().iter().any(|row| row.plural == target.resource)
}

/// What is remembered of each node: bounded by the nodes that there are.
#[derive(Debug)]
pub(crate) struct Kept {
    nodes: Mutex<BTreeMap<String, Known>>,
    /// One collection at a time; whoever waits for it uses what it brought.
    collecting: Semaphore,
}

#[derive(Debug, Clone, Default)]
struct Known {
    sample: Option<Arc<Sample>>,
    measured: Option<Arc<Measured>>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { nodes: Mutex::default(), collecting: Semaphore::new(1) }
    }
}

impl Kept {
    fn of(&self, node: &str) -> Known {
        self.nodes.lock().expect(POISON).get(node).cloned().unwrap_or_default()
    }

    fn set(&self, node: &str, known: Known) {
        self.nodes.lock().expect(POISON).insert(node.to_owned(), known);
    }
}

const POISON: &str = "no holder of the metrics' lock panics";

/// Answers `get` and `list`.
pub(crate) async fn answer(
    server: &Arc<Server>,
    user: &UserInfo,
    target: &Target,
    verb: &str,
    query: &Query,
    form: Form,
) -> Result<Answer, ApiError> {
    if verb == "watch" {
        let kind = format!("{}.{GROUP}", target.resource);
        let message = format!("watch is not supported on resources of kind {kind:?}");
        return Err(ApiError::about(Reason::MethodNotAllowed, GROUP, &target.resource, "", message));
    }
    if !matches!(verb, "get" | "list") || !target.subresource.is_empty() {
        let message = "the server does not allow this method on the requested resource";
        return Err(ApiError::new(Reason::MethodNotAllowed, message));
    }
    let (row, described): (&Resource, &'static Resource) =
        if target.resource == NODES.plural { (&NODES, resources::NODES) } else { (&PODS, resources::PODS) };
    let cache = server.caches().of(described).await?;
    server.caches().fresh().await;
    let mut filter = selectors::of_query(described, described, query)?;
    filter.namespace = Some(target.namespace.as_str()).filter(|namespace| !namespace.is_empty()).map(Into::into);
    filter.name = Some(target.name.as_str()).filter(|name| !name.is_empty()).map(Into::into);
    let snapshot = server.caches().snapshot(&cache);
    let matching = snapshot.entries(filter.namespace.as_deref()).filter(|entry| filter.matches(&entry.object));
    let objects: Vec<Object> = matching.map(|entry| entry.object.clone()).collect();
    let nodes = nodes_of(described, &objects);
    let measured = measure(server, user, &nodes).await?;
    let mut items: Vec<Value> = objects.iter().filter_map(|object| item(row, object, &measured)).collect();
    if form.view == View::Table && (target.name.is_empty() || !items.is_empty()) {
        let table = table::of(row, items, form.rows);
        return Ok(respond::encoded(StatusCode::OK, form, table.to_string().into()));
    }
    let body = if target.name.is_empty() {
        json!({"kind": format!("{}List", row.kind), "apiVersion": row.api_version(), "metadata": {}, "items": items})
    } else {
        let found = items.pop();
        found.ok_or_else(|| {
            let name = match &*target.namespace {
                "" => target.name.clone(),
                namespace => format!("{namespace}/{}", target.name),
            };
            let kind = if row.namespaced() { "podmetrics" } else { "nodemetrics" };
            ApiError::not_found(GROUP, kind, &name)
        })?
    };
    Ok(respond::encoded(StatusCode::OK, form, body.to_string().into()))
}

/// The nodes whose kubelets know about the objects.
fn nodes_of(described: &Resource, objects: &[Object]) -> Vec<String> {
    let node = |object: &Object| match described.namespaced() {
        true => object.field(described, "spec.nodeName").unwrap_or_default().to_owned(),
        false => object.key().name.to_string(),
    };
    let mut nodes: Vec<String> = objects.iter().map(node).filter(|node| !node.is_empty()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

type ByNode = BTreeMap<String, Arc<Measured>>;

/// What the nodes use, measured anew where that is not known or too old.
async fn measure(server: &Arc<Server>, user: &UserInfo, nodes: &[String]) -> Result<ByNode, ApiError> {
    let kept = &server.resource_metrics;
    let _turn = kept.collecting.acquire().await.map_err(|_| {
        ApiError::new(Reason::ServiceUnavailable, "the server is shutting down: metrics are no longer collected")
    })?;
    let now = server.config.clock.now();
    let stale = |node: &&String| {
        let measured = kept.of(node).measured;
        measured.is_none_or(|measured| older(measured.at, now, FRESH))
    };
    let stale: Vec<&String> = nodes.iter().filter(stale).collect();
    forget_gone(server, kept).await?;
    let unknown = |node: &&&String| kept.of(node).sample.is_none_or(|sample| older(sample.at, now, OLD));
    let first: Vec<&String> = stale.iter().filter(unknown).copied().collect();
    if !first.is_empty() {
        collect(server, user, &first).await;
        tokio::time::sleep(FIRST_WINDOW).await;
    }
    collect(server, user, &stale).await;
    let known = nodes.iter().filter_map(|node| Some((node.clone(), kept.of(node).measured?)));
    Ok(known.collect())
}

fn older(at: Timestamp, now: Timestamp, than: Duration) -> bool {
    now.duration_since(at).unsigned_abs() > than
}

async fn forget_gone(server: &Arc<Server>, kept: &Kept) -> Result<(), ApiError> {
    let nodes = server.caches().of(resources::NODES).await?;
    kept.nodes.lock().expect(POISON).retain(|node, _| nodes.get(&Key::new("", node.as_str())).is_some());
    Ok(())
}

/// Takes a sample of each node.
async fn collect(server: &Arc<Server>, user: &UserInfo, nodes: &[&String]) {
    // Boxed here, since a stream of borrowing futures is too general for the compiler.
    let asked: Vec<_> = nodes.iter().map(|node| ask(server, user, node).boxed()).collect();
    stream::iter(asked).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
}

/// Takes a sample of a node. One that does not answer has none, and is named in the log.
async fn ask(server: &Arc<Server>, user: &UserInfo, node: &str) {
    let Some(served) = server.find("", "v1", "nodes") else { return };
    let call = Call::internal(server, served, user, &Key::new("", node), "proxy");
    let asked = tokio::time::timeout(KUBELET_TIME_MAX, kubelet_proxy::fetch(&call, node, "/stats/summary")).await;
    let mut known = server.resource_metrics.of(node);
    match asked {
        Ok(Ok(body)) => {
            let Some(sample) = Sample::of(&body, server.config.clock.now()).map(Arc::new) else {
                return tracing::warn!(%node, "cannot read what the kubelet says about usage");
            };
            if let Some(before) = known.sample.replace(sample.clone()) {
                known.measured = Measured::between(&before, &sample).map(Arc::new);
            }
            server.resource_metrics.set(node, known);
        }
        Ok(Err(error)) => tracing::warn!(%node, %error, "cannot ask the kubelet about usage"),
        Err(_) => tracing::warn!(%node, "the kubelet does not answer about usage"),
    }
}

/// One node's or pod's metrics; `None` where nothing is known of it.
fn item(row: &Resource, object: &Object, measured: &ByNode) -> Option<Value> {
    let key = object.key();
    let (of_node, usage) = if row.namespaced() {
        let node = object.field(resources::PODS, "spec.nodeName")?;
        let measured = measured.get(node)?;
        let pod = measured.pods.get(object.uid())?;
        let containers = pod.iter().map(|(name, usage)| json!({"name": name, "usage": shown(usage)}));
        (measured, json!({"containers": containers.collect::<Vec<_>>()}))
    } else {
        let measured = measured.get(&*key.name)?;
        (measured, json!({"usage": shown(&measured.node)}))
    };
    let at = machinery::time::seconds(of_node.at);
    let mut metadata = json!({"name": &*key.name, "creationTimestamp": at});
    if row.namespaced() {
        metadata["namespace"] = (&*key.namespace).into();
    }
    let labels = object.index().labels.iter().map(|(label, value)| (label.to_string(), (&**value).into()));
    let labels: serde_json::Map<String, Value> = labels.collect();
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    let mut item = json!({"kind": &*row.kind, "apiVersion": row.api_version(), "metadata": metadata, "timestamp": at,
        "window": machinery::duration::format(of_node.window)});
    for (field, value) in usage.as_object().into_iter().flatten() {
        item[field] = value.clone();
    }
    Some(item)
}

fn shown(usage: &Usage) -> Value {
    let memory = i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX);
    let memory = machinery::Quantity::from_value(memory, machinery::quantity::Format::BinarySi);
    json!({"cpu": format!("{}n", usage.cpu_nanocores), "memory": memory.to_string()})
}
