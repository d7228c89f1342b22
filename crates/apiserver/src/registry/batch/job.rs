//! Jobs: the server gives each a selector and labels by its own uid, so that no two jobs claim the same pods.

mod policies;
mod status;

use std::sync::Arc;

use api::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::invalid::{FieldError, FieldErrorKind};
use crate::registry::apps::workload::warn_of_name;
use crate::registry::tree::{
    child, immutable, is_set, label_selector, list_mut, not_negative, one_of, present, set, set_default, text,
};
use crate::registry::{Context, Descriptor, Reservation, Strategy, pod_spec, tree};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor { resource: api::resources::JOBS, strategy: |_| Arc::new(JobStrategy) };

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const DEFAULT_BACKOFF_LIMIT: i64 = 6;

/// Of indexed jobs; with more the status, which lists indexes, could become too large.
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;

/// From so many completions on, a job with a limit per index has narrower bounds.
const MANY_COMPLETIONS: i64 = 100_000;
const MANY_COMPLETIONS_PARALLELISM_MAX: i64 = 10_000;
const MANY_COMPLETIONS_FAILED_MAX: i64 = 10_000;

const MANAGED_BY_LENGTH_MAX: usize = 63;

struct JobStrategy;

/// Sets what a job's spec leaves out.
fn default_spec(spec: &mut Value) {
    // Neither given: one pod that must succeed once. Only parallelism given: a work queue.
    if !is_set(spec, "completions") && !is_set(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let indexed_limit = is_set(spec, "backoffLimitPerIndex");
    set_default(spec, "backoffLimit", if indexed_limit { i64::from(i32::MAX) } else { DEFAULT_BACKOFF_LIMIT });
    set_default(spec, "completionMode", "NonIndexed");
    for field in ["suspend", "manualSelector"] {
        if !is_set(spec, field) {
            set(spec, field, false);
        }
    }
    let replacement = if is_set(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set_default(spec, "podReplacementPolicy", replacement);
    pod_spec::default_template(spec);
}

/// All that is wrong with a job's spec at `path`, but for its selector.
pub(super) fn validate_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(&mut errors, &spec[field], &at(field));
    }
    if is_set(spec, "maxFailedIndexes") && !is_set(spec, "backoffLimitPerIndex") {
        errors.push(FieldError::required(at("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    validate_managed_by(&mut errors, &spec["managedBy"], &at("managedBy"));
    one_of(&mut errors, &spec["completionMode"], &at("completionMode"), &["NonIndexed", "Indexed"]);
    if text(&spec["completionMode"]) == "Indexed" {
        validate_indexed(&mut errors, spec, path);
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if is_set(spec, field) {
                errors.push(FieldError::invalid(at(field), &spec[field], "requires indexed completion mode"));
            }
        }
    }
    policies::validate(&mut errors, spec, path);
    errors.extend(pod_spec::validate_template(&spec["template"], &at("template"), &["Always", "OnFailure", "Never"]));
    validate_restart_policy(&mut errors, spec, &at("template.spec.restartPolicy"));
    errors
}

/// Warnings about a job's spec, at `path`.
pub(super) fn spec_warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let more = |field: &str, limit: i64| spec[field].as_i64().is_some_and(|number| number > limit);
    if text(&spec["completionMode"]) == "Indexed"
        && more("completions", MANY_COMPLETIONS)
        && more("parallelism", MANY_COMPLETIONS_PARALLELISM_MAX)
    {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings.extend(pod_spec::template_warnings(&spec["template"], &format!("{path}.template")));
    warnings
}

fn validate_managed_by(errors: &mut Vec<FieldError>, value: &Value, path: &str) {
    let Some(name) = value.as_str() else { return };
    let (domain, rest) = name.split_once('/').unwrap_or((name, ""));
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if rest.is_empty() || !machinery::names::dns1123_subdomain(domain).is_empty() {
        errors.push(FieldError::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    if name.len() > MANAGED_BY_LENGTH_MAX {
        errors.push(FieldError::too_long(path, MANAGED_BY_LENGTH_MAX));
    }
}

fn validate_indexed(errors: &mut Vec<FieldError>, spec: &Value, path: &str) {
    let at = |field: &str| format!("{path}.{field}");
    let Some(completions) = spec["completions"].as_i64() else {
        errors.push(FieldError::required(at("completions"), "when completion mode is Indexed"));
        return;
    };
    let mut at_most = |field: &str, max: i64, more: &str| {
        if spec[field].as_i64().is_some_and(|number| number > max) {
            let why = format!("must be less than or equal to {max}{more}");
            errors.push(FieldError::invalid(at(field), &spec[field], &why));
        }
    };
    at_most("parallelism", INDEXED_PARALLELISM_MAX, " when completion mode is Indexed");
    at_most("maxFailedIndexes", FAILED_INDEXES_MAX, "");
    if completions > MANY_COMPLETIONS && is_set(spec, "backoffLimitPerIndex") {
        let more = format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
        at_most("parallelism", MANY_COMPLETIONS_PARALLELISM_MAX, &more);
        at_most("maxFailedIndexes", MANY_COMPLETIONS_FAILED_MAX, &more);
        if !is_set(spec, "maxFailedIndexes") {
            let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.push(FieldError::required(at("maxFailedIndexes"), &why));
        }
    }
    if spec["maxFailedIndexes"].as_i64().is_some_and(|failed| failed > completions) {
        let why = "must be less than or equal to completions";
        errors.push(FieldError::invalid(at("maxFailedIndexes"), &spec["maxFailedIndexes"], why));
    }
}

fn validate_restart_policy(errors: &mut Vec<FieldError>, spec: &Value, path: &str) {
    let policy = &spec["template"]["spec"]["restartPolicy"];
    match text(policy) {
        "" | "Always" => errors.push(FieldError::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if is_set(spec, "podFailurePolicy") => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(path, policy, why));
        }
        _ => {}
    }
}

impl Strategy for JobStrategy {
    fn default(&self, job: &mut Value) {
        // The template has the job's own labels where the job has none.
        let labels = job["spec"]["template"]["metadata"]["labels"].clone();
        if labels.as_object().is_some_and(|labels| !labels.is_empty())
            && let Some(metadata) = child(job, "metadata")
            && metadata["labels"].as_object().is_none_or(serde_json::Map::is_empty)
        {
            set(metadata, "labels", labels);
        }
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
        let mut errors = Vec::new();
        validate_generated_selector(&mut errors, job);
        errors.extend(validate_spec(&job["spec"], "spec"));
        validate_selector(&mut errors, &job["spec"]);
        validate_hostnames(&mut errors, job);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let (after, before) = (&new["spec"], &old["spec"]);
        validate_completions(&mut errors, after, before);
        validate_template_update(&mut errors, after, old);
        for field in
            ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
        {
            immutable(&mut errors, &after[field], &before[field], &format!("spec.{field}"));
        }
        errors
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        status::validate(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        warn_of_name(&mut warnings, new, old);
        if old.is_none_or(|old| old["spec"] != new["spec"]) {
            warnings.extend(spec_warnings(&new["spec"], "spec"));
        }
        warnings
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// As the first clients of this version expect it.
    fn orphans_by_default(&self) -> bool {
        true
    }
}

fn validate_selector(errors: &mut Vec<FieldError>, spec: &Value) {
    if !is_set(spec, "selector") {
        return errors.push(FieldError::required("spec.selector", ""));
    }
    label_selector(errors, &spec["selector"], "spec.selector");
    let labels = &spec["template"]["metadata"]["labels"];
    let matches = machinery::Selector::from_label_selector(&spec["selector"])
        .is_ok_and(|selector| selector.matches(|key| labels.get(key).and_then(Value::as_str)));
    if !matches {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, why));
    }
}

/// Labels that the server gives must be as it gave them: those of another job would claim its pods.
fn validate_generated_selector(errors: &mut Vec<FieldError>, job: &Value) {
    let spec = &job["spec"];
    if spec["manualSelector"] == true || !is_set(spec, "selector") {
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let (uid, name) = (&job["metadata"]["uid"], &job["metadata"]["name"]);
    let expected = UID_LABELS.iter().zip(NAME_LABELS).flat_map(|(of_uid, of_name)| [(*of_uid, uid), (of_name, name)]);
    let expected: Vec<(&str, &Value)> = expected.collect();
    for (label, value) in &expected {
        if !is_set(labels, label) {
            let why = format!("must be '{}'", text(value));
            errors.push(FieldError::required("spec.template.metadata.labels", &why));
        } else if labels[*label] != **value {
            let why = format!("must be '{}'", text(value));
            errors.push(FieldError::invalid("spec.template.metadata.labels", labels, &why));
        }
    }
    let given = |key: &str| expected.iter().find(|(label, _)| *label == key).map(|(_, value)| text(value));
    let selector = machinery::Selector::from_label_selector(&spec["selector"]);
    if selector.is_ok_and(|selector| !selector.matches(given)) {
        errors.push(FieldError::invalid("spec.selector", &spec["selector"], "`selector` not auto-generated"));
    }
}

/// The pods of an indexed job have hostnames made of its name.
fn validate_hostnames(errors: &mut Vec<FieldError>, job: &Value) {
    let completions = job["spec"]["completions"].as_i64().filter(|completions| *completions > 0);
    let (Some(completions), "Indexed") = (completions, text(&job["spec"]["completionMode"])) else { return };
    let hostname = format!("{}-{}", text(&job["metadata"]["name"]), completions - 1);
    if !machinery::names::dns1123_label(&hostname).is_empty() {
        let why = format!("will not able to create pod with invalid DNS label: {hostname}");
        errors.push(FieldError::invalid("metadata.name", &job["metadata"]["name"], &why));
    }
}

/// An elastic indexed job grows and shrinks as one; of others the number is fixed.
fn validate_completions(errors: &mut Vec<FieldError>, new: &Value, old: &Value) {
    if text(&new["completionMode"]) != "Indexed" {
        immutable(errors, &new["completions"], &old["completions"], "spec.completions");
    } else if new["completions"] != old["completions"]
        && is_set(new, "completions")
        && new["completions"] != new["parallelism"]
    {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid("spec.completions", &new["completions"], why));
    }
}

/// While a job is suspended, a queueing controller decides where its pods will run and with how much.
fn validate_template_update(errors: &mut Vec<FieldError>, new: &Value, old: &Value) {
    let mut before = old["spec"]["template"].clone();
    let after = &new["template"];
    if old["spec"]["suspend"] != true || !may_change_template(old) {
        return immutable(errors, after, &before, "spec.template");
    }
    if let Some(spec) = present(&mut before, "spec") {
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            tree::keep(spec, &after["spec"], field);
        }
        let node_affinity = after["spec"]["affinity"]["nodeAffinity"].clone();
        if let Some(affinity) = child(spec, "affinity") {
            set(affinity, "nodeAffinity", node_affinity);
        }
        for containers in ["containers", "initContainers"] {
            let changed = after["spec"][containers].as_array().cloned().unwrap_or_default();
            for (container, changed) in list_mut(spec, containers).iter_mut().zip(changed) {
                if container["name"] == changed["name"] {
                    tree::keep(container, &changed, "resources");
                }
            }
        }
    }
    if let Some(metadata) = child(&mut before, "metadata") {
        tree::keep(metadata, &after["metadata"], "annotations");
        tree::keep(metadata, &after["metadata"], "labels");
    }
    if without_empty(after) != without_empty(&before) {
        errors.push(FieldError::invalid("spec.template", after, "field is immutable"));
    }
}

/// Whether a suspended job's pods have ended, so that none runs by the old template.
fn may_change_template(job: &Value) -> bool {
    let none = |field: &str| job["status"][field].as_i64().unwrap_or(0) == 0;
    let condition = tree::list(&job["status"]["conditions"]).iter();
    let suspended = condition.into_iter().any(|one| one["type"] == "Suspended" && one["status"] == "True");
    (!is_set(&job["status"], "startTime") || suspended) && none("active")
}

/// A tree without its empty maps and nulls, which say the same as nothing.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), without_empty(value)));
            let said = |value: &Value| !value.is_null() && value.as_object().is_none_or(|fields| !fields.is_empty());
            Value::Object(fields.filter(|(_, value)| said(value)).collect())
        }
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

/// Gives a job the labels and the selector of its uid, where it does not have them.
fn generate_selector(job: &mut Value) {
    let (uid, name) = (text(&job["metadata"]["uid"]).to_owned(), text(&job["metadata"]["name"]).to_owned());
    let Some(spec) = child(job, "spec") else { return };
    let labels =
        child(spec, "template").and_then(|template| child(template, "metadata")).and_then(|meta| child(meta, "labels"));
    if let Some(labels) = labels {
        UID_LABELS.iter().for_each(|label| set_default(labels, label, uid.as_str()));
        NAME_LABELS.iter().for_each(|label| set_default(labels, label, name.as_str()));
    }
    if let Some(labels) = child(spec, "selector").and_then(|selector| child(selector, "matchLabels")) {
        set_default(labels, UID_LABELS[1], uid);
    }
}

/// `field: Invalid value: why`, where the value would say nothing.
fn inconsistent(field: &str, why: &str) -> FieldError {
    FieldError { kind: FieldErrorKind::Invalid, field: field.to_owned(), detail: why.to_owned() }
}
