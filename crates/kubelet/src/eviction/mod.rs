//! Keeps the node alive when memory, disk or process ids run short: says so in the node's conditions, frees images that nobody
//! uses, and then ends one pod at a time, the most dispensable first. Pods that use more of the disk than their limits allow go
//! too.
//!
//! The kernel tells of none of this in time, so that the machine is looked at every ten seconds, as upstream does; what pods use
//! is measured only when something is short or a pod has a limit.

mod local;
pub(crate) mod plan;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::typed::core::v1::Pod;
use api::{Object, Typed};
use base::{Stop, chain};
use tokio::time::Instant;

use crate::host::Host;
use crate::identity::{self, Identity};
use crate::image_gc::ImageGc;
use crate::metrics;
use crate::node::facts::{self, Pressure};
use crate::plan::Verdict;
use crate::resources;
use crate::settings::Signal;
use plan::{ContainerUsage, Level, Short, Usage, Watched};

/// How often the machine is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// Seconds that an evicted pod's containers get where there is no time to lose.
const GRACE_SECONDS: i64 = 1;

/// Watches the machine until `stop`.
pub(crate) async fn run(host: Arc<Host>, gc: Arc<ImageGc>, stop: Stop) {
    let (mut seen, mut watched) = (Conditions::default(), Watched::default());
    let image_disk = image_disk(&host).await;
    loop {
        // On the heap while it lasts: what waits for its next turn keeps nothing of it.
        let looked = Box::pin(look(&host, &gc, image_disk.as_ref(), &mut seen, &mut watched));
        if stop.or_stopped(looked).await.is_none() {
            return;
        }
        if stop.or_stopped(tokio::time::sleep(INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Where the images are, if that is another disk than the kubelet's own.
async fn image_disk(host: &Host) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let list = host.runtime.image_fs_info().await.ok()?;
    let path = PathBuf::from(&list.first()?.fs_id.as_ref()?.mountpoint);
    let device = |path: &std::path::Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    (device(&path)? != device(&host.root_dir)?).then_some(path)
}

async fn look(
    host: &Arc<Host>,
    gc: &ImageGc,
    image_disk: Option<&PathBuf>,
    conditions: &mut Conditions,
    watched: &mut Watched,
) {
    let settings = &host.settings.eviction;
    let mut measure = async || {
        let levels = facts::levels(&host.root_dir, image_disk.map(PathBuf::as_path)).await;
        watched.look(|signal| level(&levels, signal), settings, Instant::now())
    };
    let mut seen = measure().await;
    let pressure = conditions.with(&seen.below, Instant::now(), settings.transition);
    host.pressure.send_if_modified(|known| std::mem::replace(known, pressure) != pressure);
    if seen.urgent.iter().any(|short| short.signal.is_disk()) && gc.delete_unused(host).await {
        seen = measure().await;
    }
    if let Some(urgent) = seen.urgent.first() {
        evict_one(host, *urgent).await;
    } else {
        local::check(host).await;
    }
}

fn level(levels: &facts::Levels, signal: Signal) -> Option<Level> {
    match signal {
        Signal::Memory => levels.memory,
        Signal::NodeDisk => levels.node_disk,
        Signal::NodeInodes => levels.node_inodes,
        Signal::ImageDisk => levels.image_disk,
        Signal::Pids => levels.pids,
    }
}

/// When each condition was last true, so that it stays for a while.
#[derive(Default)]
struct Conditions {
    memory: Option<Instant>,
    disk: Option<Instant>,
    pids: Option<Instant>,
}

impl Conditions {
    fn with(&mut self, short: &[Short], now: Instant, transition: Duration) -> Pressure {
        let one = |at: &mut Option<Instant>, is: fn(Signal) -> bool| {
            if short.iter().any(|short| is(short.signal)) {
                *at = Some(now);
            }
            at.is_some_and(|at| now.duration_since(at) < transition || at == now)
        };
        Pressure {
            memory: one(&mut self.memory, |signal| signal == Signal::Memory),
            disk: one(&mut self.disk, Signal::is_disk),
            pids: one(&mut self.pids, |signal| signal == Signal::Pids),
        }
    }
}

async fn evict_one(host: &Arc<Host>, short: Short) {
    let mut pods = Vec::new();
    for object in host.pods.all() {
        if let Some(pod) = active(&object) {
            pods.push(usage(host, Identity::of(&object), &pod, short.signal.is_disk()).await);
        }
    }
    let Some(pod) = plan::first(short.signal, &pods) else {
        tracing::warn!(signal = ?short.signal, "the node runs short and has no pod to evict");
        return;
    };
    metrics::EVICTIONS.with([short.signal.name()]).inc();
    let grace_seconds = match short.soft {
        true => host.settings.eviction.pod_grace_seconds_max,
        false => GRACE_SECONDS,
    };
    evict(host, &pod.uid, plan::message(short, pod), grace_seconds);
}

/// Ends a pod; its worker does the rest. Its containers get no longer than their own grace period.
fn evict(host: &Host, uid: &str, message: String, grace_seconds: i64) {
    tracing::warn!(pod = uid, message, "evicting a pod");
    let verdict = Verdict { reason: "Evicted".into(), message, grace_seconds: Some(grace_seconds) };
    if let Some((_, inbox)) = host.workers.lock().expect("no holder of the list of workers panics").get(uid) {
        inbox.put(|mail| mail.verdict = Some(verdict));
    }
}

/// The pod, unless it has ended or is ending.
fn active(object: &Object) -> Option<Pod> {
    let mut pod = Pod::decode(object.json()).ok()?;
    identity::adopt_ephemeral(&mut pod);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some();
    (!over).then_some(pod)
}

/// Whether the cluster cannot do without a pod.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    priority >= plan::CRITICAL_PRIORITY || identity::is_static(pod)
}

async fn usage(host: &Host, identity: Identity, pod: &Pod, disk: bool) -> Usage {
    let mut containers = Vec::new();
    for (name, id) in local::running(host, &identity).await {
        let Some((_, spec)) = identity::containers(pod).find(|(_, spec)| spec.name == name) else { continue };
        let stats = host.runtime.container_stats(&id).await.unwrap_or_default();
        let number = |value: Option<cri::v1::UInt64Value>| {
            value.map_or(0, |value| i64::try_from(value.value).unwrap_or(i64::MAX))
        };
        let layer = number(stats.writable_layer.and_then(|layer| layer.used_bytes));
        let logs = if disk { local::log_bytes(host, &identity, &name).await } else { 0 };
        containers.push(ContainerUsage {
            memory_bytes: number(stats.memory.and_then(|memory| memory.working_set_bytes)),
            memory_request: resources::requested(spec, "memory"),
            disk_bytes: layer.saturating_add(logs),
            disk_request: resources::requested(spec, "ephemeral-storage"),
            name,
        });
    }
    let volumes = if disk { local::volume_bytes(host, &identity, pod).await } else { Vec::new() };
    Usage {
        uid: identity.uid,
        priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
        critical: is_critical(pod),
        containers,
        volumes_bytes: volumes.iter().map(|(_, bytes)| *bytes).fold(0, i64::saturating_add),
    }
}

/// Why a pod may not start here now.
pub(crate) fn refusal(host: &Host, pod: &Pod) -> Option<String> {
    let pressure = *host.pressure.borrow();
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let mut matching = tolerations.filter(|one| {
        let key = one.key.as_deref().unwrap_or_default();
        let effect = one.effect.as_deref().unwrap_or_default();
        let any = key.is_empty() && one.operator.as_deref() == Some("Exists");
        (any || key == "node.kubernetes.io/memory-pressure") && matches!(effect, "" | "NoSchedule")
    });
    let newcomer = plan::Newcomer {
        critical: is_critical(pod),
        qos: resources::qos(pod),
        tolerates_memory_pressure: matching.next().is_some(),
    };
    plan::refuses(pressure.memory, pressure.disk, pressure.pids, newcomer)
}

/// Logs what of a measurement failed; it counts as nothing then.
fn measured(what: &std::path::Path, result: std::io::Result<(u64, u64)>) -> i64 {
    match result {
        Ok((bytes, _)) => i64::try_from(bytes).unwrap_or(i64::MAX),
        Err(error) => {
            tracing::warn!(path = %what.display(), error = chain(&error), "cannot measure what a pod uses");
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_stays_for_a_while() {
        let (mut seen, transition) = (Conditions::default(), Duration::from_secs(300));
        let start = Instant::now();
        let short = Short { signal: Signal::NodeInodes, available: 0, threshold: 1, soft: false };
        assert_eq!(seen.with(&[], start, transition), Pressure::default());
        assert!(seen.with(&[short], start, transition).disk);
        assert!(seen.with(&[], start + Duration::from_secs(299), transition).disk);
        assert!(!seen.with(&[], start + Duration::from_secs(300), transition).disk);
        assert!(seen.with(&[short], start + Duration::from_secs(301), Duration::ZERO).disk);
    }
}
