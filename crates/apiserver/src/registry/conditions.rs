//! What a list of `meta/v1` `Condition`s must be. The older conditions of core kinds have rules of their own.

use std::collections::BTreeSet;

use serde_json::Value;

use super::tree::{list, named, text};
use crate::invalid::FieldError;

const REASON_LENGTH_MAX: usize = 1024;
const MESSAGE_LENGTH_MAX: usize = 32 * 1024;

const REASON_SHAPE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
    alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  \
    or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
    '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// Complains about conditions. The texts are apimachinery's.
pub fn validate(errors: &mut Vec<FieldError>, conditions: &Value, path: &str) {
    let mut types = BTreeSet::new();
    for (at, condition) in list(conditions).iter().enumerate() {
        let path = format!("{path}[{at}]");
        if !types.insert(text(&condition["type"])) {
            errors.push(FieldError::duplicate(format!("{path}.type"), &condition["type"]));
        }
        named(errors, &condition["type"], &format!("{path}.type"), machinery::names::qualified_name);
        if !matches!(text(&condition["status"]), "True" | "False" | "Unknown") {
            let supported = ["False", "True", "Unknown"];
            let status = Value::from(text(&condition["status"]));
            errors.push(FieldError::not_supported(format!("{path}.status"), &status, &supported));
        }
        if condition["observedGeneration"].as_i64().is_some_and(|generation| generation < 0) {
            let why = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(
                format!("{path}.observedGeneration"),
                &condition["observedGeneration"],
                why,
            ));
        }
        if text(&condition["lastTransitionTime"]).is_empty() {
            errors.push(FieldError::required(format!("{path}.lastTransitionTime"), ""));
        }
        reason(errors, &condition["reason"], &format!("{path}.reason"));
        if text(&condition["message"]).len() > MESSAGE_LENGTH_MAX {
            errors.push(FieldError::too_long(format!("{path}.message"), MESSAGE_LENGTH_MAX));
        }
    }
}

fn reason(errors: &mut Vec<FieldError>, reason: &Value, path: &str) {
    let given = text(reason);
    if given.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let inside = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b',' | b':');
    let (first, last) = (given.as_bytes()[0], given.as_bytes()[given.len() - 1]);
    let shaped =
        first.is_ascii_alphabetic() && given.bytes().all(inside) && (last.is_ascii_alphanumeric() || last == b'_');
    if !shaped {
        errors.push(FieldError::invalid(path, reason, REASON_SHAPE));
    }
    if given.len() > REASON_LENGTH_MAX {
        errors.push(FieldError::too_long(path, REASON_LENGTH_MAX));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_with_conditions() {
        let good = json!({"type": "Ready", "status": "True", "reason": "All_good:x", "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z"});
        let with = |field: &str, value: Value| {
            let mut condition = good.clone();
            condition[field] = value;
            condition
        };
        let rows = [
            (json!([good]), vec![]),
            (json!([good, good]), vec![r#"c[1].type: Duplicate value: "Ready""#.to_owned()]),
            (
                json!([with("status", json!("Yes"))]),
                vec![
                    r#"c[0].status: Unsupported value: "Yes": supported values: "False", "True", "Unknown""#.to_owned(),
                ],
            ),
            (
                json!([with("observedGeneration", json!(-1))]),
                vec!["c[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero".to_owned()],
            ),
            (json!([with("reason", json!(""))]), vec!["c[0].reason: Required value".to_owned()]),
            (
                json!([with("reason", json!("ends with space "))]),
                vec![format!(r#"c[0].reason: Invalid value: "ends with space ": {REASON_SHAPE}"#)],
            ),
            (
                json!([with("lastTransitionTime", Value::Null)]),
                vec!["c[0].lastTransitionTime: Required value".to_owned()],
            ),
        ];
        for (conditions, expected) in rows {
            let mut errors = Vec::new();
            validate(&mut errors, &conditions, "c");
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{conditions}");
        }
    }
}
