//! What a job's status must be: consistent in itself, and never less than it was.

use std::collections::BTreeSet;

use machinery::time;
use serde_json::Value;

use super::inconsistent;
use super::policies::count_indexes;
use crate::invalid::FieldError;
use crate::registry::tree::{is_set, list, not_negative, text};

const CONDITIONS: &str = "status.conditions";

/// All that is wrong after a write of the status. What was wrong before may stay: a changed spec can make it so, and the
/// controller must be able to mend one thing after the other.
pub(super) fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let before = consistency(&new["spec"], &old["status"]);
    let mut errors = consistency(&new["spec"], &new["status"]);
    errors.retain(|error| !before.contains(error));
    validate_progress(&mut errors, new, old);
    errors
}

fn consistency(spec: &Value, status: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(&mut errors, &status[field], &format!("status.{field}"));
    }
    validate_uncounted(&mut errors, &status["uncountedTerminatedPods"]);
    validate_conditions(&mut errors, spec, status);
    validate_times(&mut errors, status);
    validate_finished(&mut errors, status);
    validate_indexes(&mut errors, spec, status);
    errors
}

fn is_true(status: &Value, kind: &str) -> bool {
    list(&status["conditions"]).iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn number(status: &Value, field: &str) -> i64 {
    status[field].as_i64().unwrap_or(0)
}

fn validate_uncounted(errors: &mut Vec<FieldError>, uncounted: &Value) {
    let mut seen = BTreeSet::new();
    for field in ["succeeded", "failed"] {
        for (at, uid) in list(&uncounted[field]).iter().enumerate() {
            let path = format!("status.uncountedTerminatedPods.{field}[{at}]");
            if text(uid).is_empty() {
                errors.push(FieldError::invalid(path, uid, "must not be empty"));
            } else if !seen.insert(text(uid)) {
                errors.push(FieldError::duplicate(path, uid));
            }
        }
    }
}

fn validate_conditions(errors: &mut Vec<FieldError>, spec: &Value, status: &Value) {
    let is = |kind: &str| is_true(status, kind);
    let (complete, failed) = (is("Complete"), is("Failed"));
    let (met, target) = (is("SuccessCriteriaMet"), is("FailureTarget"));
    let by_policy = is_set(spec, "successPolicy") && complete && !met;
    for (wrong, why) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (by_policy, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"),
    ] {
        if wrong {
            errors.push(inconsistent(CONDITIONS, why));
        }
    }
}

fn validate_times(errors: &mut Vec<FieldError>, status: &Value) {
    let (path, completion) = ("status.completionTime", &status["completionTime"]);
    let complete = is_true(status, "Complete");
    if is_set(status, "completionTime") && !complete {
        let why = "cannot set completionTime when there is no Complete=True condition";
        errors.push(FieldError::invalid(path, completion, why));
    }
    if complete && !is_set(status, "completionTime") {
        errors.push(FieldError::required(path, "completionTime is required for Complete jobs"));
    }
    let at = |value: &Value| time::parse(text(value)).ok();
    if at(&status["startTime"]).zip(at(completion)).is_some_and(|(start, end)| end < start) {
        errors.push(FieldError::invalid(path, completion, "must be equal to or after `startTime`"));
    }
}

fn validate_finished(errors: &mut Vec<FieldError>, status: &Value) {
    if number(status, "ready") > number(status, "active") {
        errors.push(FieldError::invalid("status.ready", &status["ready"], "cannot set more ready pods than active"));
    }
    if !is_true(status, "Complete") && !is_true(status, "Failed") {
        return;
    }
    for field in ["active", "terminating"] {
        if number(status, field) > 0 {
            let why = format!("{field}>0 is invalid for finished job");
            errors.push(FieldError::invalid(format!("status.{field}"), &status[field], &why));
        }
    }
    if !is_set(status, "startTime") {
        errors.push(FieldError::required("status.startTime", "startTime is required for finished job"));
    }
    let uncounted = &status["uncountedTerminatedPods"];
    if !list(&uncounted["succeeded"]).is_empty() || !list(&uncounted["failed"]).is_empty() {
        let why = "must be empty for finished job";
        errors.push(FieldError::invalid("status.uncountedTerminatedPods", uncounted, why));
    }
}

fn validate_indexes(errors: &mut Vec<FieldError>, spec: &Value, status: &Value) {
    let Some(completions) = spec["completions"].as_i64() else { return };
    let (completed, failed) = (&status["completedIndexes"], &status["failedIndexes"]);
    for (field, value) in [("completedIndexes", completed), ("failedIndexes", failed)] {
        if let Err(why) = count_indexes(text(value), completions) {
            let why = format!("error parsing {field}: {why}");
            errors.push(FieldError::invalid(format!("status.{field}"), value, &why));
        }
    }
    if !text(completed).is_empty() && text(&spec["completionMode"]) != "Indexed" {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(FieldError::invalid("status.completedIndexes", completed, why));
    }
    if is_set(status, "failedIndexes") && !is_set(spec, "backoffLimitPerIndex") {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(FieldError::invalid("status.failedIndexes", failed, why));
    }
    let ranges = |value: &Value| -> Vec<(i64, i64)> {
        let ends = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        text(value).split(',').filter_map(ends).collect()
    };
    let (completed, ranges_failed) = (ranges(completed), ranges(failed));
    let mut at = 0;
    for (first, last) in &ranges_failed {
        while completed.get(at).is_some_and(|range| range.1 < *first) {
            at += 1;
        }
        if let Some(range) = completed.get(at).filter(|range| range.0 <= *last) {
            let index = range.0.max(*first);
            let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
            return errors.push(FieldError::invalid("status.failedIndexes", failed, &why));
        }
    }
}

/// Counts grow, and what has ended stays so.
fn validate_progress(errors: &mut Vec<FieldError>, new: &Value, old: &Value) {
    let (status, before) = (&new["status"], &old["status"]);
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is_true(before, kind) && !is_true(status, kind) {
            errors.push(inconsistent(CONDITIONS, &format!("cannot disable the terminal {kind}=True condition")));
        }
    }
    let at = |status: &Value| time::parse(text(&status["completionTime"])).ok();
    if at(before).zip(at(status)).is_some_and(|(was, is)| was != is) {
        errors.push(FieldError::invalid("status.completionTime", &status["completionTime"], "field is immutable"));
    }
    // The counts of an indexed job that shrinks go with its indexes.
    let indexed = text(&new["spec"]["completionMode"]) == "Indexed";
    for field in ["failed", "succeeded"] {
        let shrinks = number(status, field) < number(before, field);
        if shrinks && !(field == "succeeded" && indexed) {
            let why = format!("cannot decrease the {field} counter");
            errors.push(FieldError::invalid(format!("status.{field}"), &status[field], &why));
        }
    }
}
