//! A CronJob makes a Job each time that its schedule says so.
//!
//! A Job's name holds the minute that it was due, so that none is made twice. Of several times that were missed only the
//! last is made up for, within `startingDeadlineSeconds`. Defined by the CronJob API reference; events, reasons and the way
//! that missed times are counted are upstream's.

mod due;

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{DeleteOptions, EventType, Next, ObjectReference, Propagation, ReconcileError};
use futures::FutureExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use machinery::{cron, time};
use serde_json::{Value, json};

use crate::{Ctx, Descriptor, claims, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "cronjob-controller",
    reconciles: resources::CRON_JOBS,
    owns: &[resources::JOBS],
    watches: &[],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Says on a Job when it was due.
const DUE_ANNOTATION: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// A timer that rang early would find that nothing is due yet.
const PADDING: Duration = Duration::from_millis(100);

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::CRON_JOBS).get(key) else { return Ok(Next::OnChange) };
    let jobs = ctx.cache(resources::JOBS).owned_by(object.uid());
    let jobs = jobs.into_iter().filter(|job| job.controller().is_some_and(|owner| *owner.uid == *object.uid()));
    let jobs: Vec<(Object, Value)> = jobs.map(|job| (job.clone(), job.to_value())).collect();
    let cron_job = object.to_value();
    let plan = plan(&object, &cron_job, &jobs, ctx.clock.now());
    apply(ctx, &object, &cron_job, plan).await
}

/// What one reconcile does.
#[derive(Debug, Default)]
struct Plan {
    status: Value,
    events: Vec<(EventType, &'static str, String)>,
    delete: Vec<Object>,
    /// The Job to make, and for when.
    create: Option<(Value, Timestamp)>,
    next: Option<Duration>,
}

impl Plan {
    fn say(&mut self, kind: EventType, reason: &'static str, message: String) {
        self.events.push((kind, reason, message));
    }

    fn active(&self) -> Vec<Value> {
        self.status["active"].as_array().cloned().unwrap_or_default()
    }

    fn is_active(&self, job: &Object) -> bool {
        self.active().iter().any(|active| active["uid"] == job.uid())
    }

    fn set_active(&mut self, active: Vec<Value>) {
        if active.is_empty() {
            self.status.as_object_mut().map(|fields| fields.remove("active"));
        } else {
            self.status["active"] = active.into();
        }
    }

    fn drop_active(&mut self, uid: &str) {
        let mut active = self.active();
        active.retain(|one| one["uid"] != uid);
        self.set_active(active);
    }
}

fn plan(object: &Object, cron_job: &Value, jobs: &[(Object, Value)], now: Timestamp) -> Plan {
    let status = &cron_job["status"];
    let mut plan = Plan { status: if status.is_object() { status.clone() } else { json!({}) }, ..Plan::default() };
    for (job, value) in jobs {
        note_job(&mut plan, job, value);
    }
    for active in plan.active() {
        if jobs.iter().all(|(job, _)| active["uid"] != job.uid()) {
            let name = active["name"].as_str().unwrap_or_default();
            plan.say(EventType::Normal, "MissingJob", format!("Active job went missing: {name}"));
            plan.drop_active(active["uid"].as_str().unwrap_or_default());
        }
    }
    if !object.is_deleting() {
        plan_next(&mut plan, object, cron_job, jobs, now);
    }
    clean_up(&mut plan, cron_job, jobs);
    plan
}

fn ended(job: &Value) -> Option<&'static str> {
    ["Complete", "Failed"].into_iter().find(|kind| conditions::is_true(&job["status"], kind))
}

/// Keeps the list of running Jobs, and the time of the last success.
fn note_job(plan: &mut Plan, job: &Object, value: &Value) {
    let name = &job.key().name;
    let Some(kind) = ended(value) else {
        if !plan.is_active(job) {
            let message = format!("Saw a job that the controller did not create or forgot: {name}");
            plan.say(EventType::Warning, "UnexpectedJob", message);
        }
        return;
    };
    if plan.is_active(job) {
        plan.drop_active(job.uid());
        plan.say(EventType::Normal, "SawCompletedJob", format!("Saw completed job: {name}, condition: {kind}"));
    }
    let completed = &value["status"]["completionTime"];
    let (last, this) = (parsed(&plan.status["lastSuccessfulTime"]), parsed(completed));
    if kind == "Complete" && this.is_some() && this > last {
        plan.status["lastSuccessfulTime"] = completed.clone();
    }
}

fn parsed(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| time::parse(text).ok())
}

/// Decides whether a Job is due, and when to look again.
fn plan_next(plan: &mut Plan, object: &Object, cron_job: &Value, jobs: &[(Object, Value)], now: Timestamp) {
    let spec = &cron_job["spec"];
    let zone_name = spec["timeZone"].as_str().unwrap_or_default();
    let Some(zone) = cron::time_zone(zone_name) else {
        let message = format!("invalid timeZone: {zone_name:?}: unknown time zone {zone_name}");
        return plan.say(EventType::Warning, "UnknownTimeZone", message);
    };
    if spec["suspend"] == true {
        return;
    }
    let text = spec["schedule"].as_str().unwrap_or_default();
    let schedule = match cron::parse(text) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {text:?} : {error}");
            return plan.say(EventType::Warning, "UnparseableSchedule", message);
        }
    };
    if text.contains("TZ") {
        let message = format!(
            "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
        );
        plan.say(EventType::Warning, "UnsupportedSchedule", message);
    }
    let created = parsed(&cron_job["metadata"]["creationTimestamp"]).unwrap_or(now);
    let since = parsed(&plan.status["lastScheduleTime"]).unwrap_or(created);
    let deadline = spec["startingDeadlineSeconds"].as_i64();
    let due = due::due(&schedule, &zone, since, deadline, now);
    plan.next = due::next(&schedule, &zone, since, now).map(|at| at + PADDING);
    let Some(due) = due else { return };
    if due.too_many {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.say(EventType::Warning, "TooManyMissedTimes", message.to_owned());
    }
    if deadline.is_some_and(|seconds| now.duration_since(due.at).as_secs() > seconds) {
        let at = due.at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let message = format!("Missed scheduled time to start a job: {at}");
        return plan.say(EventType::Warning, "MissSchedule", message);
    }
    start(plan, object, cron_job, jobs, due.at, &zone);
}

/// A Job is due: makes it, as far as those that still run let it.
fn start(plan: &mut Plan, object: &Object, cron_job: &Value, jobs: &[(Object, Value)], at: Timestamp, zone: &TimeZone) {
    let job = new_job(object, cron_job, at, zone);
    if parsed(&plan.status["lastScheduleTime"]) == Some(at) {
        return;
    }
    // Made already, but its answer was lost or its note in the status.
    if let Some((made, value)) = jobs.iter().find(|(made, _)| job["metadata"]["name"] == *made.key().name) {
        plan.status["lastScheduleTime"] = time::seconds(at).into();
        if ended(value).is_none() && !plan.is_active(made) {
            let mut active = plan.active();
            active.push(reference(made));
            plan.set_active(active);
            plan.events.retain(|(_, reason, _)| *reason != "UnexpectedJob");
        }
        return;
    }
    let running = plan.active();
    match cron_job["spec"]["concurrencyPolicy"].as_str() {
        Some("Forbid") if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.say(EventType::Normal, "JobAlreadyActive", message.to_owned());
        }
        Some("Replace") => {
            let old = jobs.iter().filter(|(job, _)| running.iter().any(|one| one["uid"] == job.uid()));
            plan.delete.extend(old.map(|(job, _)| job.clone()));
        }
        _ => {}
    }
    plan.create = Some((job, at));
}

fn new_job(object: &Object, cron_job: &Value, at: Timestamp, zone: &TimeZone) -> Value {
    let template = &cron_job["spec"]["jobTemplate"];
    let name = format!("{}-{}", object.key().name, at.as_second() / 60);
    let mut meta = json!({"name": name, "namespace": &*object.key().namespace,
        "ownerReferences": [claims::owner_reference(resources::CRON_JOBS, object)]});
    for field in ["labels", "annotations"] {
        if let Some(value) = template["metadata"].get(field).filter(|value| !value.is_null()) {
            meta[field] = value.clone();
        }
    }
    let utc = *zone == TimeZone::UTC;
    let due =
        if utc { time::seconds(at) } else { at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string() };
    meta["annotations"][DUE_ANNOTATION] = due.into();
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": template["spec"]})
}

fn reference(job: &Object) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "name": &*job.key().name, "namespace": &*job.key().namespace,
        "uid": job.uid(), "resourceVersion": job.revision().to_string()})
}

/// Jobs that ended and are beyond the limits of the history, the oldest first.
fn clean_up(plan: &mut Plan, cron_job: &Value, jobs: &[(Object, Value)]) {
    for (field, kind) in [("successfulJobsHistoryLimit", "Complete"), ("failedJobsHistoryLimit", "Failed")] {
        let limit = cron_job["spec"][field].as_u64().and_then(|limit| usize::try_from(limit).ok());
        let mut of_kind: Vec<_> = jobs.iter().filter(|(_, job)| ended(job) == Some(kind)).collect();
        let surplus = of_kind.len().saturating_sub(limit.unwrap_or(usize::MAX));
        of_kind.sort_by_key(|(job, value)| {
            let start = parsed(&value["status"]["startTime"]);
            (start.is_none(), start, job.key().name.clone())
        });
        plan.delete.extend(of_kind.into_iter().take(surplus).map(|(job, _)| job.clone()));
    }
}

async fn apply(ctx: &Ctx, object: &Object, cron_job: &Value, mut plan: Plan) -> Result<Next, ReconcileError> {
    let about = ObjectReference::from((resources::CRON_JOBS, object));
    let say = |kind, reason: &str, message: &str| ctx.recorder.event(&about, kind, reason, message);
    plan.events.iter().for_each(|(kind, reason, message)| say(*kind, reason, message));
    for job in std::mem::take(&mut plan.delete) {
        let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::of_uid(job.uid()) };
        match ctx.client.delete(resources::JOBS, job.key(), &options).await {
            Ok(()) => say(EventType::Normal, "SuccessfulDelete", &format!("Deleted job {}", job.key().name)),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                say(EventType::Warning, "FailedDelete", &format!("Deleted job: {error}"));
                return Err(error.into());
            }
        }
        plan.drop_active(job.uid());
    }
    if let Some((job, at)) = plan.create.take() {
        let body = Bytes::from(job.to_string());
        match ctx.client.create(resources::JOBS, &object.key().namespace, body).await {
            Ok(made) => {
                say(EventType::Normal, "SuccessfulCreate", &format!("Created job {}", made.key().name));
                let mut active = plan.active();
                active.push(reference(&made));
                plan.set_active(active);
                plan.status["lastScheduleTime"] = time::seconds(at).into();
            }
            // Somebody else's of that name, or everything goes: the next time may be luckier.
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
            Err(error) => {
                say(EventType::Warning, "FailedCreate", &format!("Error creating job: {error}"));
                return Err(error.into());
            }
        }
    }
    if plan.status != cron_job["status"] && !(cron_job["status"].is_null() && plan.status == json!({})) {
        let mut updated = cron_job.clone();
        updated["status"] = plan.status;
        let body = Bytes::from(updated.to_string());
        ctx.client.update_status(resources::CRON_JOBS, object.key(), body).await?;
    }
    Ok(plan.next.map_or(Next::OnChange, Next::After))
}

#[cfg(test)]
mod tests;
