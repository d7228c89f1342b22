//! What a job's failure, success and replacement policies must be.

use std::collections::BTreeSet;

use serde_json::Value;

use super::inconsistent;
use crate::invalid::FieldError;
use crate::registry::tree::{is_set, list, named, not_negative, one_of, text};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const SUCCEEDED_INDEXES_LENGTH_MAX: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// All that is wrong with the policies of the spec at `path`.
pub(super) fn validate(errors: &mut Vec<FieldError>, spec: &Value, path: &str) {
    if is_set(spec, "podFailurePolicy") {
        let path = format!("{path}.podFailurePolicy.rules");
        let rules = list(&spec["podFailurePolicy"]["rules"]);
        if rules.len() > RULES_MAX {
            errors.push(FieldError::too_many(path.as_str(), rules.len(), RULES_MAX));
        }
        for (at, rule) in rules.iter().enumerate() {
            validate_failure_rule(errors, spec, rule, &format!("{path}[{at}]"));
        }
    }
    if is_set(spec, "successPolicy") && text(&spec["completionMode"]) == "Indexed" {
        validate_success_policy(errors, spec, &format!("{path}.successPolicy.rules"));
    }
    let replacement = format!("{path}.podReplacementPolicy");
    let supported: &[&str] =
        if is_set(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    one_of(errors, &spec["podReplacementPolicy"], &replacement, supported);
}

fn validate_failure_rule(errors: &mut Vec<FieldError>, spec: &Value, rule: &Value, path: &str) {
    let action = &rule["action"];
    let action_path = format!("{path}.action");
    match text(action) {
        "" => {
            let why = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
            errors.push(FieldError::required(action_path, why));
        }
        "FailIndex" if !is_set(spec, "backoffLimitPerIndex") => {
            let why = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(action_path, action, why));
        }
        _ => one_of(errors, action, &action_path, &ACTIONS),
    }
    let (codes, conditions) = (is_set(rule, "onExitCodes"), !list(&rule["onPodConditions"]).is_empty());
    if codes {
        validate_exit_codes(errors, spec, &rule["onExitCodes"], &format!("{path}.onExitCodes"));
    }
    if conditions {
        validate_conditions(errors, list(&rule["onPodConditions"]), &format!("{path}.onPodConditions"));
    }
    match (codes, conditions) {
        (true, true) => {
            errors.push(inconsistent(path, "specifying both OnExitCodes and OnPodConditions is not supported"));
        }
        (false, false) => {
            errors.push(inconsistent(path, "specifying one of OnExitCodes and OnPodConditions is required"));
        }
        _ => {}
    }
}

fn validate_exit_codes(errors: &mut Vec<FieldError>, spec: &Value, rule: &Value, path: &str) {
    let operator_path = format!("{path}.operator");
    if text(&rule["operator"]).is_empty() {
        errors.push(FieldError::required(operator_path, "valid values: [\"In\" \"NotIn\"]"));
    } else {
        one_of(errors, &rule["operator"], &operator_path, &["In", "NotIn"]);
    }
    if let Some(name) = rule["containerName"].as_str() {
        let pod = &spec["template"]["spec"];
        let mut containers = list(&pod["containers"]).iter().chain(list(&pod["initContainers"]));
        if !containers.any(|container| container["name"] == name) {
            let why = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(format!("{path}.containerName"), &rule["containerName"], why));
        }
    }
    let (values, values_path) = (list(&rule["values"]), format!("{path}.values"));
    if values.is_empty() {
        errors.push(FieldError::invalid(values_path.as_str(), &rule["values"], "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(values_path.as_str(), values.len(), EXIT_CODES_MAX));
    }
    let mut seen = BTreeSet::new();
    for (at, value) in values.iter().enumerate() {
        let path = format!("{values_path}[{at}]");
        if *value == 0 && rule["operator"] == "In" {
            errors.push(FieldError::invalid(path.as_str(), value, "must not be 0 for the In operator"));
        }
        if !seen.insert(value.as_i64()) {
            errors.push(FieldError::duplicate(path, value));
        }
    }
    if !values.is_sorted_by_key(Value::as_i64) {
        errors.push(FieldError::invalid(values_path, &rule["values"], "must be ordered"));
    }
}

fn validate_conditions(errors: &mut Vec<FieldError>, patterns: &[Value], path: &str) {
    if patterns.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, patterns.len(), CONDITIONS_MAX));
    }
    for (at, pattern) in patterns.iter().enumerate() {
        named(errors, &pattern["type"], &format!("{path}[{at}].type"), machinery::names::qualified_name);
        let status_path = format!("{path}[{at}].status");
        if text(&pattern["status"]).is_empty() {
            let why = "valid values: [\"False\" \"True\" \"Unknown\"]";
            errors.push(FieldError::required(status_path, why));
        } else {
            one_of(errors, &pattern["status"], &status_path, &["False", "True", "Unknown"]);
        }
    }
}

fn validate_success_policy(errors: &mut Vec<FieldError>, spec: &Value, path: &str) {
    let rules = list(&spec["successPolicy"]["rules"]);
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(path, why));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(path, rules.len(), RULES_MAX));
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (at, rule) in rules.iter().enumerate() {
        validate_success_rule(errors, rule, completions, &format!("{path}[{at}]"));
    }
}

fn validate_success_rule(errors: &mut Vec<FieldError>, rule: &Value, completions: i64, path: &str) {
    let (indexes, count) = (&rule["succeededIndexes"], &rule["succeededCount"]);
    if indexes.is_null() && count.is_null() {
        let why = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, why));
    }
    let indexes_path = format!("{path}.succeededIndexes");
    let mut total = 0;
    if text(indexes).len() > SUCCEEDED_INDEXES_LENGTH_MAX {
        errors.push(FieldError::too_long(indexes_path.as_str(), SUCCEEDED_INDEXES_LENGTH_MAX));
    }
    match count_indexes(text(indexes), completions) {
        Ok(count) => total = count,
        Err(why) => {
            let why = format!("error parsing succeededIndexes: {why}");
            errors.push(FieldError::invalid(indexes_path, indexes, &why));
        }
    }
    let count_path = format!("{path}.succeededCount");
    not_negative(errors, count, &count_path);
    let Some(wanted) = count.as_i64() else { return };
    if wanted > completions {
        let why = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(FieldError::invalid(count_path.as_str(), count, &why));
    }
    if !indexes.is_null() && wanted > total {
        let why = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(FieldError::invalid(count_path, count, &why));
    }
}

/// How many indexes a text such as `0,2-4` names.
pub(super) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    if text.is_empty() {
        return Ok(0);
    }
    let number = |text: &str| match text.parse::<i64>() {
        Ok(number) if number >= completions => Err(format!("too large index: {text:?}")),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
    };
    for interval in text.split(',') {
        let parts: Vec<&str> = interval.split('-').collect();
        let (first, end) = match &parts[..] {
            [only] => (number(only)?, number(only)?),
            [first, end] => {
                let (first, end) = (number(first)?, number(end)?);
                if first >= end {
                    return Err(format!("non-increasing order, previous: {first}, current: {end}"));
                }
                (first, end)
            }
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two \
                     parts separated by '-'"
                ));
            }
        };
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_or_refused() {
        assert_eq!(count_indexes("", 5), Ok(0));
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        for (text, why) in [
            ("5", "too large index: \"5\""),
            ("x", "cannot convert string to integer for index: \"x\""),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
        ] {
            assert_eq!(count_indexes(text, 5), Err(why.to_owned()));
        }
    }
}
