//! Jobs: the server gives each a selector and labels by its own uid, so that no two jobs claim the same pods.

use std::sync::Arc;

use api::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{
    child, immutable, is_set, label_selector, not_negative, one_of, present, remove, set, set_default, text,
};
use crate::registry::{Context, Descriptor, Reservation, Strategy, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor { resource: api::resources::JOBS, strategy: |_| Arc::new(JobStrategy) };

const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
const DEFAULT_BACKOFF_LIMIT: i64 = 6;

struct JobStrategy;

/// Sets what a job's spec leaves out; cron jobs have one in their template.
pub(super) fn default_spec(spec: &mut Value) {
    // Neither given: one pod that must succeed once. Only parallelism given: a work queue.
    if !is_set(spec, "completions") && !is_set(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let indexed_limit = is_set(spec, "backoffLimitPerIndex");
    set_default(spec, "backoffLimit", if indexed_limit { i64::from(i32::MAX) } else { DEFAULT_BACKOFF_LIMIT });
    set_default(spec, "completionMode", "NonIndexed");
    if !is_set(spec, "suspend") {
        set(spec, "suspend", false);
    }
    let replacement = if is_set(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set_default(spec, "podReplacementPolicy", replacement);
    pod_spec::default_template(spec);
}

/// All that is wrong with a job's spec at `path`.
pub(super) fn validate_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "maxFailedIndexes",
    ] {
        not_negative(&mut errors, &spec[field], &format!("{path}.{field}"));
    }
    one_of(&mut errors, &spec["completionMode"], &format!("{path}.completionMode"), &["Indexed", "NonIndexed"]);
    if text(&spec["completionMode"]) == "Indexed" && !is_set(spec, "completions") {
        let why = "when completion mode is Indexed";
        errors.push(FieldError::required(format!("{path}.completions"), why));
    }
    let policy = &spec["template"]["spec"]["restartPolicy"];
    errors.extend(pod_spec::validate_template(
        &spec["template"],
        &format!("{path}.template"),
        &["Always", "OnFailure", "Never"],
    ));
    if text(policy) == "Always" {
        let why = FieldError::required(
            format!("{path}.template.spec.restartPolicy"),
            "valid values: \"OnFailure\", \"Never\"",
        );
        errors.push(why);
    }
    errors
}

impl Strategy for JobStrategy {
    fn default(&self, job: &mut Value) {
        if let Some(spec) = child(job, "spec") {
            default_spec(spec);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, job: &mut Value) {
        set(job, "status", json!({}));
    }

    /// The uid, which selector and labels are made of, is known only here.
    fn reserve<'a>(
        &'a self,
        _: &'a Context<'a>,
        job: &'a mut Value,
        old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Option<Reservation>, ApiError>> {
        if old.is_none() && job["spec"]["manualSelector"] != true {
            generate_selector(job);
        }
        std::future::ready(Ok(None)).boxed()
    }

    fn validate(&self, _: &Context<'_>, job: &Value) -> Vec<FieldError> {
        let mut errors = validate_spec(&job["spec"], "spec");
        label_selector(&mut errors, &job["spec"]["selector"], "spec.selector");
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        let matches = machinery::Selector::from_label_selector(&job["spec"]["selector"])
            .is_ok_and(|selector| selector.matches(|key| labels.get(key).and_then(Value::as_str)));
        if !matches {
            let why = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", labels, why));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let suspended = old["spec"]["suspend"] == true && !is_set(&old["status"], "startTime");
        for field in [
            "completions",
            "selector",
            "template",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
        ] {
            let (mut after, mut before) = (new["spec"][field].clone(), old["spec"][field].clone());
            if field == "template" && suspended {
                // A queueing controller decides where a suspended job will run.
                strip_placement(&mut after);
                strip_placement(&mut before);
            }
            // An elastic indexed job grows and shrinks as one.
            let elastic = field == "completions" && text(&new["spec"]["completionMode"]) == "Indexed";
            if elastic && new["spec"]["parallelism"] == new["spec"]["completions"] {
                continue;
            }
            immutable(&mut errors, &after, &before, &format!("spec.{field}"));
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn strip_placement(template: &mut Value) {
    let Some(spec) = present(template, "spec") else { return };
    for field in ["affinity", "nodeSelector", "tolerations", "schedulingGates"] {
        remove(spec, field);
    }
    if let Some(metadata) = present(template, "metadata") {
        remove(metadata, "annotations");
        remove(metadata, "labels");
    }
}

fn generate_selector(job: &mut Value) {
    let (uid, name) = (text(&job["metadata"]["uid"]).to_owned(), text(&job["metadata"]["name"]).to_owned());
    let Some(spec) = child(job, "spec") else { return };
    let labels =
        child(spec, "template").and_then(|template| child(template, "metadata")).and_then(|meta| child(meta, "labels"));
    if let Some(labels) = labels {
        UID_LABELS.iter().for_each(|label| set(labels, label, uid.as_str()));
        NAME_LABELS.iter().for_each(|label| set(labels, label, name.as_str()));
    }
    if let Some(labels) = child(spec, "selector").and_then(|selector| child(selector, "matchLabels")) {
        set(labels, UID_LABELS[0], uid);
    }
}
