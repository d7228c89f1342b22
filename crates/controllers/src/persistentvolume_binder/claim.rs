//! A claim finds its volume, or says what it waits for.
//!
//! The order of writes is upstream's: volume, its status, claim, its status. Whatever of it was cut off is done at the next
//! look, since each of the four is written only where it is not yet right.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use super::{Report, matching};
use crate::volume_claims::{
    self, BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIMS, PODS_BY_CLAIM, PROVISIONER, PROVISIONER_BETA, PodVolumes,
    SELECTED_NODE, VOLUMES, annotate, annotation, by_claim, by_class, by_volume, claim_of, class, has_class, refers_to,
};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "persistentvolume-binder-controller",
    reconciles: resources::PERSISTENT_VOLUME_CLAIMS,
    owns: &[],
    watches: &[
        Trigger { resource: resources::PERSISTENT_VOLUMES, keys: of_volume },
        Trigger { resource: resources::STORAGE_CLASSES, keys: of_class },
        Trigger { resource: resources::PODS, keys: of_pod },
    ],
    reads: &[],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// A volume's provisioner that stands for none.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// By these a class is the cluster's default.
const DEFAULT_MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The claim that a volume is for, those that name it and, where it is free, those that look for one of its class.
fn of_volume(informers: &Informers, object: &Object) -> Vec<Key> {
    let (volume, claims) = (object.to_value(), informers.all(resources::PERSISTENT_VOLUME_CLAIMS));
    let mut keys = volume_claims::keys(&claims.by_index(&CLAIMS, &by_volume(&object.key().name)));
    match claim_of(&volume) {
        Some(key) => keys.push(key),
        None => keys.extend(volume_claims::keys(&claims.by_index(&CLAIMS, &by_class(class(&volume))))),
    }
    keys
}

/// The claims that look for a volume of a class and, since it may be the default, those that name none.
fn of_class(informers: &Informers, object: &Object) -> Vec<Key> {
    let claims = informers.all(resources::PERSISTENT_VOLUME_CLAIMS);
    let mut found = claims.by_index(&CLAIMS, &by_class(&object.key().name));
    found.extend(claims.by_index(&CLAIMS, &by_class("")));
    volume_claims::keys(&found)
}

/// A claim that waits for its first consumer says so.
fn of_pod(informers: &Informers, pod: &Object) -> Vec<Key> {
    let claims = informers.all(resources::PERSISTENT_VOLUME_CLAIMS);
    let waits = |key: &Key| claims.get(key).is_some_and(|claim| !is_named(&claim.to_value()));
    volume_claims::claim_keys(pod).into_iter().filter(waits).collect()
}

/// Whether a claim names its volume.
fn is_named(claim: &Value) -> bool {
    claim["spec"]["volumeName"].as_str().is_some_and(|name| !name.is_empty())
}

/// What a plan is made from.
pub(super) struct View<'a> {
    pub(super) claim: &'a Value,
    /// The volume that it names, if it exists.
    pub(super) named: Option<Value>,
    /// The volumes that may be for it.
    pub(super) candidates: Vec<Value>,
    /// Its storage class, if it exists.
    pub(super) class: Option<Value>,
    /// The cluster's default class.
    pub(super) default_class: Option<String>,
    /// The pods that use it and have no node.
    pub(super) waiting_pods: Vec<String>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// It waits, and says for what.
    Wait(Option<Report>),
    /// Something is wrong that others have to mend; its phase stays.
    Tell(Report),
    /// It gets this volume.
    Bind(Box<Value>),
    /// It gets the default class.
    AssignClass(String),
    /// A provisioner is told to make a volume.
    Provision(String),
    /// Its volume is gone.
    Lost(Report),
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::PERSISTENT_VOLUME_CLAIMS).get(key) else { return Ok(Next::OnChange) };
    let claim = object.to_value();
    let plan = plan(&view(key, &claim, ctx));
    apply(ctx, &object, claim, plan).await
}

fn view<'a>(key: &Key, claim: &'a Value, ctx: &Ctx) -> View<'a> {
    let volumes = ctx.cache(resources::PERSISTENT_VOLUMES);
    let classes = ctx.cache(resources::STORAGE_CLASSES);
    let decode = |objects: Vec<Object>| objects.iter().map(Object::to_value).collect::<Vec<_>>();
    let named = claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty());
    let candidates = || {
        let mut found = volumes.by_index(&VOLUMES, &by_claim(key));
        found.extend(volumes.by_index(&VOLUMES, &by_class(class(claim))));
        decode(found)
    };
    View {
        claim,
        named: named.and_then(|name| volumes.get(&Key::new("", name))).map(|volume| volume.to_value()),
        candidates: if named.is_none() { candidates() } else { Vec::new() },
        class: classes.get(&Key::new("", class(claim))).map(|class| class.to_value()),
        default_class: if has_class(claim) { None } else { default_class(&decode(classes.all())) },
        waiting_pods: waiting_pods(key, ctx),
    }
}

/// The newest of the classes that are marked as the default.
fn default_class(classes: &[Value]) -> Option<String> {
    let marked = |class: &&Value| DEFAULT_MARKS.iter().any(|mark| annotation(class, mark) == Some("true"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let order = |class: &Value| {
        (text(&class["metadata"]["creationTimestamp"]), std::cmp::Reverse(text(&class["metadata"]["name"])))
    };
    classes.iter().filter(marked).max_by_key(|class| order(class)).map(|class| text(&class["metadata"]["name"]))
}

fn waiting_pods(key: &Key, ctx: &Ctx) -> Vec<String> {
    let pods = ctx.cache(resources::PODS).by_index(&PODS_BY_CLAIM, &format!("{}/{}", key.namespace, key.name));
    let waits = |pod: &Object| PodVolumes::of(pod).is_some_and(|pod| !pod.is_scheduled() && !pod.is_terminated());
    pods.iter().filter(|pod| waits(pod)).map(|pod| pod.key().name.to_string()).collect()
}

/// Decides what a claim gets.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let bound_before = annotation(view.claim, BIND_COMPLETED).is_some();
    match (bound_before, is_named(view.claim)) {
        (true, _) => plan_bound(view),
        (false, true) => plan_named(view),
        (false, false) => plan_new(view),
    }
}

/// It was bound before: its volume must still be there and its own.
fn plan_bound(view: &View<'_>) -> Plan {
    let lost = |reason, message: &str| Plan::Lost(Report::warning(reason, message));
    if !is_named(view.claim) {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = &view.named else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    let reference = &volume["spec"]["claimRef"];
    if reference.is_null() || reference["uid"] == view.claim["metadata"]["uid"] {
        return Plan::Bind(Box::new(volume.clone()));
    }
    lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

/// It asks for one volume.
fn plan_named(view: &View<'_>) -> Plan {
    let Some(volume) = &view.named else { return Plan::Wait(None) };
    let name = volume["metadata"]["name"].as_str().unwrap_or_default();
    if refers_to(volume, view.claim) {
        return Plan::Bind(Box::new(volume.clone()));
    }
    if !volume["spec"]["claimRef"].is_null() {
        let message = format!("volume {name:?} already bound to a different claim.");
        return Plan::Wait(Some(Report::warning("FailedBinding", message)));
    }
    match matching::why_not(view.claim, volume) {
        Some(why) => {
            let message = format!("Cannot bind to requested volume {name:?}: {why}");
            Plan::Wait(Some(Report::warning("VolumeMismatch", message)))
        }
        None => Plan::Bind(Box::new(volume.clone())),
    }
}

/// It takes any volume that fits.
fn plan_new(view: &View<'_>) -> Plan {
    let mode = view.class.as_ref().map(|class| &class["volumeBindingMode"]);
    let scheduler_binds = mode.is_some_and(|mode| mode == "WaitForFirstConsumer");
    if let Some(volume) = matching::best(view.claim, &view.candidates, scheduler_binds) {
        return Plan::Bind(Box::new(volume.clone()));
    }
    if let Some(class) = &view.default_class {
        return Plan::AssignClass(class.clone());
    }
    if scheduler_binds && annotation(view.claim, SELECTED_NODE).is_none() {
        return Plan::Wait(Some(waits_for(&view.waiting_pods)));
    }
    if class(view.claim).is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return Plan::Wait(Some(Report::normal("FailedBinding", message)));
    }
    let failed = |message: String| Plan::Tell(Report::warning("ProvisioningFailed", message));
    let Some(found) = &view.class else {
        return failed(format!("storageclass.storage.k8s.io {:?} not found", class(view.claim)));
    };
    let provisioner = found["provisioner"].as_str().unwrap_or_default();
    if provisioner == NO_PROVISIONER {
        return failed(format!("no volume plugin matched name: {provisioner}"));
    }
    Plan::Provision(provisioner.to_owned())
}

fn waits_for(pods: &[String]) -> Report {
    match pods {
        [] => Report::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [pod] => Report::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => Report::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
    }
}

async fn apply(ctx: &Ctx, object: &Object, mut claim: Value, plan: Plan) -> Result<Next, ReconcileError> {
    let key = object.key();
    let about = ObjectReference::from((resources::PERSISTENT_VOLUME_CLAIMS, object));
    match plan {
        Plan::Wait(report) => {
            report.inspect(|report| report.send(ctx, &about));
            write_status(ctx, key, claim, "Pending", None).await?;
        }
        Plan::Tell(report) => report.send(ctx, &about),
        Plan::Lost(report) => {
            if claim["status"]["phase"] != "Lost" {
                write_status(ctx, key, claim, "Lost", None).await?;
                report.send(ctx, &about);
            }
        }
        Plan::AssignClass(class) => {
            claim["spec"]["storageClassName"] = class.into();
            write(ctx, key, &claim).await?;
        }
        Plan::Provision(provisioner) => {
            if annotation(&claim, PROVISIONER) != Some(&provisioner) {
                annotate(&mut claim, PROVISIONER, &provisioner);
                annotate(&mut claim, PROVISIONER_BETA, &provisioner);
                write(ctx, key, &claim).await?;
            }
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
                 system administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered."
            );
            Report::normal("ExternalProvisioning", message).send(ctx, &about);
        }
        Plan::Bind(volume) => bind(ctx, key, claim, *volume).await?,
    }
    Ok(Next::OnChange)
}

async fn write(ctx: &Ctx, key: &Key, claim: &Value) -> Result<Value, ReconcileError> {
    let written = ctx.client.update(resources::PERSISTENT_VOLUME_CLAIMS, key, Bytes::from(claim.to_string())).await?;
    Ok(written.to_value())
}

/// Writes what is not yet right of a pair.
async fn bind(ctx: &Ctx, key: &Key, claim: Value, volume: Value) -> Result<(), ReconcileError> {
    let volume_key = Key::new("", volume["metadata"]["name"].as_str().unwrap_or_default());
    let mut volume = match bound_volume(&volume, &claim) {
        Some(bound) => {
            let body = Bytes::from(bound.to_string());
            ctx.client.update(resources::PERSISTENT_VOLUMES, &volume_key, body).await?.to_value()
        }
        None => volume,
    };
    if volume["status"]["phase"] != "Bound" {
        volume["status"]["phase"] = "Bound".into();
        let body = Bytes::from(volume.to_string());
        volume = ctx.client.update_status(resources::PERSISTENT_VOLUMES, &volume_key, body).await?.to_value();
    }
    let claim = match bound_claim(&claim, &volume) {
        Some(bound) => write(ctx, key, &bound).await?,
        None => claim,
    };
    write_status(ctx, key, claim, "Bound", Some(&volume)).await
}

/// The volume as it is bound to the claim; `None` if it is.
pub(super) fn bound_volume(volume: &Value, claim: &Value) -> Option<Value> {
    let (reference, meta) = (&volume["spec"]["claimRef"], &claim["metadata"]);
    let same = ["name", "namespace", "uid"].iter().all(|field| reference[field] == meta[field]);
    if same {
        return None;
    }
    let mut bound = volume.clone();
    bound["spec"]["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"],
        "name": meta["name"], "uid": meta["uid"], "resourceVersion": meta["resourceVersion"]});
    if !refers_to(volume, claim) && annotation(volume, BOUND_BY_CONTROLLER).is_none() {
        annotate(&mut bound, BOUND_BY_CONTROLLER, "yes");
    }
    Some(bound)
}

/// The claim as it is bound to the volume; `None` if it is.
fn bound_claim(claim: &Value, volume: &Value) -> Option<Value> {
    let name = &volume["metadata"]["name"];
    let (named, complete) = (claim["spec"]["volumeName"] == *name, annotation(claim, BIND_COMPLETED).is_some());
    if named && complete {
        return None;
    }
    let mut bound = claim.clone();
    if !named {
        bound["spec"]["volumeName"] = name.clone();
        if annotation(claim, BOUND_BY_CONTROLLER).is_none() {
            annotate(&mut bound, BOUND_BY_CONTROLLER, "yes");
        }
    }
    annotate(&mut bound, BIND_COMPLETED, "yes");
    Some(bound)
}

async fn write_status(
    ctx: &Ctx,
    key: &Key,
    mut claim: Value,
    phase: &str,
    volume: Option<&Value>,
) -> Result<(), ReconcileError> {
    let status = status(&claim["status"], phase, volume);
    if claim["status"] != status {
        claim["status"] = status;
        let body = Bytes::from(claim.to_string());
        ctx.client.update_status(resources::PERSISTENT_VOLUME_CLAIMS, key, body).await?;
    }
    Ok(())
}

/// A claim's status in a phase. Its capacity is the volume's when it becomes bound; later it may rightly differ.
fn status(old: &Value, phase: &str, volume: Option<&Value>) -> Value {
    let mut status = old.as_object().cloned().unwrap_or_default();
    let becomes = old["phase"] != phase;
    status.insert("phase".to_owned(), phase.into());
    let Some(volume) = volume else {
        for field in ["accessModes", "capacity", "currentVolumeAttributesClassName"] {
            status.remove(field);
        }
        return status.into();
    };
    status.insert("accessModes".to_owned(), volume["spec"]["accessModes"].clone());
    if becomes {
        status.insert("capacity".to_owned(), volume["spec"]["capacity"].clone());
        match &volume["spec"]["volumeAttributesClassName"] {
            Value::Null => status.remove("currentVolumeAttributesClassName"),
            name => status.insert("currentVolumeAttributesClassName".to_owned(), name.clone()),
        };
    }
    status.into()
}
