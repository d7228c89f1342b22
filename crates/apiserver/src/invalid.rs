//! Why an object is refused: field errors in upstream's words, and the `Invalid` error that carries them.
//!
//! The texts are those of upstream's `field.Error`: clients and the conformance tests match them.

use api::{ApiError, Reason, Resource};
use serde_json::{Value, json};

/// What is wrong with a field, under the names of `meta/v1` `CauseType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// Nothing there, and something must be.
    Required,
    /// The value is malformed or may not be changed.
    Invalid,
    /// The value is none of those allowed.
    NotSupported,
    /// The field may not be set here.
    Forbidden,
    /// The value must be unique and is not.
    Duplicate,
    /// What the value names does not exist.
    NotFound,
    /// The value is longer than allowed.
    TooLong,
    /// The list has more entries than allowed.
    TooMany,
    /// The value is of another type.
    TypeInvalid,
}

impl FieldErrorKind {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Required => ("FieldValueRequired", "Required value"),
            Self::Invalid => ("FieldValueInvalid", "Invalid value"),
            Self::NotSupported => ("FieldValueNotSupported", "Unsupported value"),
            Self::Forbidden => ("FieldValueForbidden", "Forbidden"),
            Self::Duplicate => ("FieldValueDuplicate", "Duplicate value"),
            Self::NotFound => ("FieldValueNotFound", "Not found"),
            Self::TooLong => ("FieldValueTooLong", "Too long"),
            Self::TooMany => ("FieldValueTooMany", "Too many"),
            Self::TypeInvalid => ("FieldValueTypeInvalid", "Invalid value"),
        }
    }
}

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// What kind of thing.
    pub kind: FieldErrorKind,
    /// Where, such as `spec.containers[0].name`.
    pub field: String,
    /// The value and why, as it stands behind the kind's own words; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, field: impl Into<String>, detail: String) -> Self {
        Self { kind, field: field.into(), detail }
    }

    /// `spec.x: Required value: why`
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        Self::new(FieldErrorKind::Required, field, why.to_owned())
    }

    /// `spec.x: Invalid value: "v": why`
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self::new(FieldErrorKind::Invalid, field, with_value(value, why))
    }

    /// `spec.x: Invalid value: "string": spec.x in body must be of type integer: "string"`
    pub fn type_invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, field, with_value(value, why))
    }

    /// `spec.x: Unsupported value: "v": supported values: "a", "b"`
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let quoted: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let why = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, field, with_value(value, &why))
    }

    /// `spec.x: Forbidden: why`
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, why.to_owned())
    }

    /// `spec.x: Duplicate value: "v"`
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, with_value(value, ""))
    }

    /// `spec.x: Not found: "v"`
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new(FieldErrorKind::NotFound, field, with_value(value, ""))
    }

    /// `spec.x: Too long: may not be more than 63 bytes`
    pub fn too_long(field: impl Into<String>, bytes_max: usize) -> Self {
        Self::new(FieldErrorKind::TooLong, field, format!("may not be more than {bytes_max} bytes"))
    }

    /// `spec.x: Too many: 9: must have at most 8 items`
    pub fn too_many(field: impl Into<String>, count: usize, max: usize) -> Self {
        Self::new(FieldErrorKind::TooMany, field, format!("{count}: must have at most {max} items"))
    }

    /// The message without the field.
    pub fn message(&self) -> String {
        let words = self.kind.names().1;
        if self.detail.is_empty() { words.to_owned() } else { format!("{words}: {}", self.detail) }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

fn with_value(value: &Value, why: &str) -> String {
    if why.is_empty() { value.to_string() } else { format!("{value}: {why}") }
}

/// `Pod "x" is invalid: spec.containers: Required value`, with every error as a cause.
pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> ApiError {
    invalid_kind(&resource.group, &resource.kind, name, errors)
}

/// Why the options of a request, such as `PatchOptions`, are refused.
pub fn invalid_options(kind: &str, errors: &[FieldError]) -> ApiError {
    invalid_kind("meta.k8s.io", kind, "", errors)
}

fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> ApiError {
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let all = if let [one] = &texts[..] { one.clone() } else { format!("[{}]", texts.join(", ")) };
    let message = format!("{qualified} {name:?} is invalid: {all}");
    let causes = errors
        .iter()
        .map(|error| json!({"reason": error.kind.names().0, "message": error.message(), "field": error.field}));
    let mut error = ApiError::about(Reason::Invalid, group, kind, name, message);
    error.details["causes"] = causes.collect();
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_upstreams_words() {
        let field = "spec.replicas";
        let table = [
            (FieldError::required(field, ""), "spec.replicas: Required value"),
            (
                FieldError::invalid(field, &json!(-1), "must be 0 or more"),
                "spec.replicas: Invalid value: -1: must be 0 or more",
            ),
            (
                FieldError::not_supported(field, &json!("c"), &["a", "b"]),
                r#"spec.replicas: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (FieldError::duplicate(field, &json!("a")), r#"spec.replicas: Duplicate value: "a""#),
        ];
        for (error, text) in &table {
            assert_eq!(error.to_string(), *text);
        }
        let error = invalid(api::resources::DEPLOYMENTS, "web", &[table[0].0.clone(), table[1].0.clone()]);
        assert_eq!(
            error.message,
            r#"Deployment.apps "web" is invalid: [spec.replicas: Required value, spec.replicas: Invalid value: -1: must be 0 or more]"#
        );
        assert_eq!((error.code, &error.details["causes"][0]["reason"]), (422, &json!("FieldValueRequired")));
    }
}
