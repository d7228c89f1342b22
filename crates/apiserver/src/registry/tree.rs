//! Small steps on JSON trees that strategies are written with. A field of the wrong type is left alone: the schema's check
//! has refused it, or will.

use machinery::Quantity;
use serde_json::{Map, Value};

use crate::invalid::FieldError;

/// The items of a list; none where it is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The items of a list, to change.
pub fn list_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut [Value] {
    value.get_mut(field).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// The text; empty where there is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The fields of a map; none where it is no map.
pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Whether a field has a value other than null.
pub fn is_set(value: &Value, field: &str) -> bool {
    value.get(field).is_some_and(|value| !value.is_null())
}

/// Sets a field that is absent, null or an empty text.
pub fn set_default(value: &mut Value, field: &str, default: impl Into<Value>) {
    let Some(fields) = value.as_object_mut() else { return };
    if fields.get(field).is_none_or(|value| value.is_null() || value == "") {
        fields.insert(field.to_owned(), default.into());
    }
}

/// Sets a field, whatever it was.
pub fn set(value: &mut Value, field: &str, new: impl Into<Value>) {
    if let Some(fields) = value.as_object_mut() {
        fields.insert(field.to_owned(), new.into());
    }
}

/// Removes a field.
pub fn remove(value: &mut Value, field: &str) {
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove(field);
    }
}

/// The map in a field, made where it is absent; `None` where the field is something else.
pub fn child<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let fields = value.as_object_mut()?;
    let child = fields.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    child.is_object().then_some(child)
}

/// The map in a field, where it is.
pub fn present<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    value.get_mut(field).filter(|child| child.is_object())
}

/// Copies a field from `old`, or removes it where `old` has none.
pub fn keep(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(kept) => set(new, field, kept.clone()),
        None => remove(new, field),
    }
}

/// Complains unless the field's text is one of `supported`. An absent field is another's business.
pub fn one_of(errors: &mut Vec<FieldError>, value: &Value, path: &str, supported: &[&str]) {
    if let Some(given) = value.as_str()
        && !supported.contains(&given)
    {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// Complains about a negative number.
pub fn not_negative(errors: &mut Vec<FieldError>, value: &Value, path: &str) {
    if value.as_i64().is_some_and(|number| number < 0) {
        errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// A number that is not negative, or the number of a percentage; else what is wrong with it.
pub fn percent_or_number(value: &Value) -> Result<u64, String> {
    let Some(text) = value.as_str() else {
        return value.as_u64().ok_or_else(|| "must be greater than or equal to 0".to_owned());
    };
    let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for \
         validation is '[0-9]+%')"
            .to_owned()
    })
}

/// Complains where a field differs from what it was.
pub fn immutable(errors: &mut Vec<FieldError>, new: &Value, old: &Value, path: &str) {
    if new != old {
        errors.push(FieldError::invalid(path, new, "field is immutable"));
    }
}

/// Complaints about a name, as errors.
pub fn named(errors: &mut Vec<FieldError>, value: &Value, path: &str, check: fn(&str) -> Vec<String>) {
    errors.extend(check(text(value)).iter().map(|why| FieldError::invalid(path, value, why)));
}

/// Reads a quantity, which JSON may write as a number.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Complains about labels that are none.
pub fn labels(errors: &mut Vec<FieldError>, labels: &Value, path: &str) {
    for (key, value) in entries(labels) {
        let key_errors = machinery::names::qualified_name(key);
        errors.extend(key_errors.iter().map(|why| FieldError::invalid(path, &Value::from(key.as_str()), why)));
        named(errors, value, path, machinery::names::label_value);
    }
}

/// Complains about a label selector that cannot be read.
pub fn label_selector(errors: &mut Vec<FieldError>, selector: &Value, path: &str) {
    labels(errors, &selector["matchLabels"], &format!("{path}.matchLabels"));
    for (at, expression) in list(&selector["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{at}]");
        let values = list(&expression["values"]).len();
        match text(&expression["operator"]) {
            "In" | "NotIn" if values == 0 => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{path}.values"), why));
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{path}.values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{path}.operator"), &expression["operator"], why));
            }
        }
        named(errors, &expression["key"], &format!("{path}.key"), machinery::names::qualified_name);
    }
}
