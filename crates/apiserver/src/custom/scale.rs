//! `/scale` of custom resources: where the definition says that the numbers are.

use api::{ApiError, Reason};
use serde_json::{Map, Value};

use super::definition::ScalePaths;
use crate::invalid::FieldError;

/// The value at a path such as `.spec.replicas`.
pub fn get<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    names(path).try_fold(object, |value, name| value.as_object()?.get(name))
}

/// Sets the value at a path; makes the maps on the way. Fails where something else stands there.
pub fn set(object: &mut Value, path: &str, new: Value) -> Result<(), ApiError> {
    let mut place = object;
    for name in names(path) {
        let fields = place.as_object_mut().ok_or_else(|| {
            let message = format!("Internal error occurred: value cannot be set because {path} is not an object");
            ApiError::new(Reason::InternalError, message)
        })?;
        place = fields.entry(name).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = new;
    Ok(())
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('.').split('.')
}

/// What is wrong with the wanted number.
pub fn spec_errors(paths: &ScalePaths, object: &Value) -> Vec<FieldError> {
    count_errors(object, &paths.spec_replicas_path)
}

/// What is wrong with the numbers that are shown.
pub fn status_errors(paths: &ScalePaths, object: &Value) -> Vec<FieldError> {
    let mut errors = count_errors(object, &paths.status_replicas_path);
    if let Some(path) = &paths.label_selector_path
        && let Some(value) = get(object, path).filter(|value| !value.is_string())
    {
        let why = format!("{path} accessor error: {value} is of the wrong type, expected string");
        errors.push(FieldError::invalid(path.as_str(), &"".into(), &why));
    }
    errors
}

fn count_errors(object: &Value, path: &str) -> Vec<FieldError> {
    let Some(value) = get(object, path) else { return Vec::new() };
    let why = match value.as_i64() {
        None => format!("{path} accessor error: {value} is of the wrong type, expected int64"),
        Some(count) if count < 0 => "should be a non-negative integer".to_owned(),
        Some(count) if count > i64::from(i32::MAX) => format!("should be less than or equal to {}", i32::MAX),
        Some(_) => return Vec::new(),
    };
    vec![FieldError::invalid(path, value, &why)]
}
