//! The Node object and its lease: registers the node (or takes over the object that is there), keeps its status true, and
//! renews the lease, the only write of an idle node.
//!
//! The status is written when something in it changed, by whomever, and every five minutes. The node is Ready as soon as the runtime says
//! so: nothing waits for a timer.

pub(crate) mod facts;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::typed::Quantity;
use api::typed::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use api::{Key, Typed};
use base::{Backoff, SharedClock, Stop, chain};
use control::{Cache, Change, Changes, Client, ClientError, PatchType};
use cri::{Runtime, v1};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::resources::Capacity;
use crate::status::seconds;
use crate::volumes::local::VOLUMES_DIRECTORY;
use facts::{Facts, Pressure};

/// How often the lease is renewed and the machine looked at. The node counts as lost after four times as long.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// How long the lease holds.
const LEASE_SECONDS: i32 = 40;
/// How old the status may get without a change.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);
/// How soon after a report it is looked whether somebody else changed the status: two that disagree must not write without
/// end.
const OVERRULED_PAUSE: Duration = Duration::from_secs(1);
/// Images that the status names at most, the largest first; upstream's limit.
const IMAGES_MAX: usize = 50;

/// What the node's object is made from.
pub(crate) struct Registration {
    pub(crate) name: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) port: u16,
    pub(crate) version: String,
    pub(crate) volumes_dir: PathBuf,
    pub(crate) client: Client,
    /// The node's own object.
    pub(crate) node: Cache,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: SharedClock,
    /// What runs short.
    pub(crate) pressure: watch::Receiver<Pressure>,
    /// Wakes the status up when images came or went.
    pub(crate) images_changed: Arc<tokio::sync::Notify>,
    /// What pods may ask for.
    pub(crate) allocatable: Capacity,
    /// Told when the API has a ready node.
    pub(crate) reported: tokio::sync::watch::Sender<bool>,
}

/// What was seen of the machine and its runtime at one moment.
struct Seen {
    facts: Facts,
    pressure: Pressure,
    runtime_version: String,
    runtime: Result<v1::RuntimeStatus, String>,
    images: Vec<v1::Image>,
}

/// Registers the node and keeps it true until `stop`.
pub(crate) async fn run(registration: Registration, facts: Facts, stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut reported: Option<Reported> = None;
    let mut images = registration.images().await;
    let mut pressure = registration.pressure.clone();
    let mut changes = registration.node.changes();
    while !stop.is_stopped() {
        let seen = registration.look(facts.clone(), images.clone()).await;
        let healthy = seen.runtime.is_ok() && not_ready(&seen).is_none();
        let round = async {
            reported = registration.report(&seen, reported.take()).await?;
            renew_lease(&registration, reported.as_ref()).await
        };
        let wait = match stop.or_stopped(round).await {
            None => break,
            Some(Ok(())) if healthy => {
                registration.reported.send_replace(true);
                backoff.reset();
                RENEW_INTERVAL
            }
            Some(Ok(())) => backoff.next_delay(),
            Some(Err(error)) => {
                tracing::warn!(node = registration.name, error = chain(&error), "cannot report the node; trying again");
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = stop.stopped() => break,
            Ok(()) = pressure.changed() => {}
            () = registration.images_changed.notified() => images = registration.images().await,
            () = overruled(&mut changes, &mut reported) => {}
            () = tokio::time::sleep(wait) => {
                // Images that came without the kubelet (by an import) show with the next full report.
                if reported.as_ref().is_none_or(Reported::is_due) {
                    images = registration.images().await;
                }
            }
        }
    }
}

/// Waits until somebody else has changed the node's status, as the node controller does when it has heard nothing for too long,
/// and takes that in.
async fn overruled(changes: &mut Changes, reported: &mut Option<Reported>) {
    tokio::time::sleep(OVERRULED_PAUSE).await;
    loop {
        let (Change::Applied(object), Some(known)) = (changes.next().await, &mut *reported) else { continue };
        if object.revision() <= known.revision {
            continue;
        }
        let now = Reported { at: known.at, ..Reported::new(&object) };
        if std::mem::replace(known, now).status != known.status {
            return;
        }
    }
}

/// What the API has of the node.
struct Reported {
    uid: String,
    revision: u64,
    status: Value,
    at: tokio::time::Instant,
}

impl Reported {
    fn new(object: &api::Object) -> Self {
        let status = object.to_value()["status"].take();
        Self { uid: object.uid().to_owned(), revision: object.revision(), status, at: tokio::time::Instant::now() }
    }

    fn is_due(&self) -> bool {
        self.at.elapsed() >= REPORT_INTERVAL
    }
}

impl Registration {
    async fn images(&self) -> Vec<v1::Image> {
        self.runtime.list_images().await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "cannot list images for the node's status");
            Vec::new()
        })
    }

    async fn look(&self, facts: Facts, images: Vec<v1::Image>) -> Seen {
        let version = self.runtime.version().await;
        let pressure = *self.pressure.borrow();
        Seen {
            facts,
            pressure,
            runtime_version: version
                .map(|version| format!("{}://{}", version.runtime_name, version.runtime_version))
                .unwrap_or_default(),
            runtime: self.runtime.status().await.map_err(|error| chain(&error)),
            images,
        }
    }

    fn key(&self) -> Key {
        Key::new("", self.name.as_str())
    }

    /// Writes what changed; returns what the API has then, or nothing where the node is gone.
    async fn report(&self, seen: &Seen, reported: Option<Reported>) -> Result<Option<Reported>, ClientError> {
        let now = self.clock.now();
        let known = match reported {
            Some(known) => known,
            None => self.register(seen, now).await?,
        };
        let wanted = status(self, seen, &known.status, now);
        let Some(patch) = status_patch(&known.status, &wanted, known.is_due()) else {
            return Ok(Some(known));
        };
        let client = &self.client;
        match client.patch(Node::resource(), &self.key(), Some("status"), PatchType::StrategicMerge, &patch).await {
            Ok(object) => Ok(Some(Reported::new(&object))),
            // Somebody deleted the node: the next round registers it again.
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates the node, or takes over the one that is there.
    async fn register(&self, seen: &Seen, now: Timestamp) -> Result<Reported, ClientError> {
        let volumes = self.volumes_dir.to_string_lossy();
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": labels(&self.name, &seen.facts),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true",
                    VOLUMES_DIRECTORY: volumes}},
            "spec": {},
            "status": status(self, seen, &Value::Null, now),
        });
        let body = serde_json::to_vec(&node).expect("writing JSON to memory does not fail");
        let object = match self.client.create(Node::resource(), "", body.into()).await {
            Ok(object) => {
                tracing::info!(node = self.name, "registered the node");
                object
            }
            Err(error) if error.is_already_exists() => {
                let patch = json!({"metadata": {"labels": labels(&self.name, &seen.facts),
                    "annotations": {VOLUMES_DIRECTORY: volumes}}});
                self.client.patch(Node::resource(), &self.key(), None, PatchType::StrategicMerge, &patch).await?
            }
            Err(error) => return Err(error),
        };
        Ok(Reported::new(&object))
    }
}

/// The lease goes with its node.
async fn renew_lease(registration: &Registration, reported: Option<&Reported>) -> Result<(), ClientError> {
    let Registration { client, clock, name, .. } = registration;
    let owner = reported.map(|node| json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid}));
    let key = Key::new("kube-node-lease", name.as_str());
    control::lease::renew_owned(client, clock, &key, name, LEASE_SECONDS, owner.as_ref()).await.map(drop)
}

fn labels(name: &str, facts: &Facts) -> BTreeMap<&'static str, String> {
    [
        ("beta.kubernetes.io/arch", facts.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts.architecture),
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
    ]
    .map(|(label, value)| (label, value.to_owned()))
    .into()
}

/// The status of the node; `known` is the one that the API has, whose transition times are kept.
fn status(registration: &Registration, seen: &Seen, known: &Value, now: Timestamp) -> Value {
    let known_status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {}, "status": known});
    let known_node =
        serde_json::to_vec(&known_status).ok().and_then(|json| Node::decode(&json).ok()).unwrap_or_default();
    let status = NodeStatus {
        addresses: Some(addresses(registration)),
        capacity: Some(quantities(seen.facts.capacity)),
        // What pods may ask for leaves out what is reserved and what eviction keeps free.
        allocatable: Some(quantities(registration.allocatable)),
        conditions: Some(conditions(seen, &known_node, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(registration.port) }),
        }),
        // So an API server need not translate sessions over WebSocket.
        declared_features: Some(vec!["ExtendWebSocketsToKubelet".to_owned()]),
        images: Some(images(&seen.images)),
        node_info: Some(NodeSystemInfo {
            architecture: seen.facts.architecture.to_owned(),
            boot_id: seen.facts.boot_id.clone(),
            container_runtime_version: seen.runtime_version.clone(),
            kernel_version: seen.facts.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: registration.version.clone(),
            machine_id: seen.facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: seen.facts.os_image.clone(),
            system_uuid: seen.facts.system_uuid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let node = Node { status: Some(status), ..Default::default() };
    let mut value: Value = serde_json::from_slice(&node.encode()).expect("what was encoded is JSON");
    value["status"].take()
}

fn addresses(registration: &Registration) -> Vec<NodeAddress> {
    let ips = registration.ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() });
    ips.chain([NodeAddress { type_: "Hostname".into(), address: registration.name.clone() }]).collect()
}

fn quantities(amount: Capacity) -> BTreeMap<String, Quantity> {
    let cpu = match amount.milli_cpu % 1000 {
        0 => (amount.milli_cpu / 1000).to_string(),
        _ => format!("{}m", amount.milli_cpu),
    };
    [
        ("cpu", cpu),
        ("memory", format!("{}Ki", amount.memory_bytes / 1024)),
        ("ephemeral-storage", format!("{}Ki", amount.ephemeral_bytes / 1024)),
        ("pods", amount.pods.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), Quantity(value)))
    .into()
}

fn images(images: &[v1::Image]) -> Vec<ContainerImage> {
    let mut images: Vec<_> = images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let named = images.into_iter().take(IMAGES_MAX).map(|image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    named.collect()
}

/// Why the node is not ready, if it is not.
fn not_ready(seen: &Seen) -> Option<String> {
    let status = match &seen.runtime {
        Err(error) => return Some(format!("container runtime is down: {error}")),
        Ok(status) => status,
    };
    let failing = status.conditions.iter().filter(|condition| !condition.status);
    let messages = failing.map(|condition| {
        let what = if condition.r#type == "NetworkReady" {
            "container runtime network not ready"
        } else {
            "container runtime not ready"
        };
        format!("{what}: {}=false reason:{} message:{}", condition.r#type, condition.reason, condition.message)
    });
    Some(messages.collect::<Vec<_>>().join(", ")).filter(|message| !message.is_empty())
}

fn conditions(seen: &Seen, known: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = seen.pressure;
    let known = known.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition = |name: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let since = known.iter().find(|old| old.type_ == name && old.status == status);
        NodeCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(seconds(now)),
            last_transition_time: since.and_then(|old| old.last_transition_time.clone()).or_else(|| Some(seconds(now))),
        }
    };
    let either = |name, short, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if short { yes } else { no };
        condition(name, short, reason, message.to_owned())
    };
    vec![
        either(
            "MemoryPressure",
            pressure.memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        either(
            "DiskPressure",
            pressure.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        either(
            "PIDPressure",
            pressure.pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        match not_ready(seen) {
            None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
            Some(message) => condition("Ready", false, "KubeletNotReady", message),
        },
    ]
}

/// The patch from one status to the other, leaving fields alone that are not the kubelet's; `None` where nothing but
/// heartbeats differs and the status is not `due`.
fn status_patch(known: &Value, wanted: &Value, due: bool) -> Option<Value> {
    let mut changes = Map::new();
    for (field, value) in wanted.as_object().into_iter().flatten() {
        let same = known.get(field).is_some_and(|known| without_heartbeats(known) == without_heartbeats(value));
        if same && !(due && field == "conditions") {
            continue;
        }
        let mut value = value.clone();
        // Addresses are merged by type: two of one type, or one that went, need the list replaced.
        if let ("addresses", Some(list), true) = (field.as_str(), value.as_array_mut(), known.get(field).is_some()) {
            list.push(json!({"$patch": "replace"}));
        }
        changes.insert(field.clone(), value);
    }
    (!changes.is_empty()).then(|| json!({"status": changes}))
}

fn without_heartbeats(value: &Value) -> Value {
    let mut value = value.clone();
    for condition in value.as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastHeartbeatTime");
        }
    }
    // Conditions of others (a cloud's, a problem detector's) are theirs.
    if let Some(list) =
        value.as_array_mut().filter(|list| list.iter().any(|entry| entry.get("lastTransitionTime").is_some()))
    {
        list.retain(|entry| {
            matches!(entry["type"].as_str(), Some("MemoryPressure" | "DiskPressure" | "PIDPressure" | "Ready"))
        });
        list.sort_by_key(|entry| entry["type"].to_string());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_alone_are_written_only_when_due_and_others_conditions_do_not_count() {
        let condition = |name: &str, at: &str| json!({"type": name, "status": "False", "lastHeartbeatTime": at, "lastTransitionTime": "t"});
        let known = json!({"conditions": [condition("Other", "1"), condition("MemoryPressure", "1")], "capacity": {"cpu": "2"}});
        let wanted = json!({"conditions": [condition("MemoryPressure", "2")], "capacity": {"cpu": "2"}});
        assert_eq!(status_patch(&known, &wanted, false), None);
        let due = status_patch(&known, &wanted, true).unwrap();
        assert_eq!(due, json!({"status": {"conditions": [condition("MemoryPressure", "2")]}}));
        let grown = json!({"capacity": {"cpu": "4"}});
        assert_eq!(status_patch(&known, &grown, false), Some(json!({"status": {"capacity": {"cpu": "4"}}})));
    }
}
