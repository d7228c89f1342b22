//! The checks that strategies are put together from: each looks at one place and says what is wrong there.

use machinery::names;

use super::at::{At, Errors, TextCheck};

const INT32_MAX: i64 = 2_147_483_647;
const FILE_MODE_MAX: i64 = 0o777;

/// A text that must pass a check.
pub fn text(errors: &mut Errors, at: &At<'_>, check: TextCheck) {
    errors.extend(check(at.text()).iter().map(|why| at.invalid(why)));
}

/// A text that may be absent and must else pass a check.
pub fn optional_text(errors: &mut Errors, at: &At<'_>, check: TextCheck) {
    if at.has_text() {
        text(errors, at, check);
    }
}

/// A text that must be there and pass a check.
pub fn required_text(errors: &mut Errors, at: &At<'_>, check: TextCheck) {
    if at.has_text() {
        text(errors, at, check);
    } else {
        errors.push(at.required(""));
    }
}

/// Something that must be there: a text other than the empty one.
pub fn required(errors: &mut Errors, at: &At<'_>) {
    if !at.has_text() {
        errors.push(at.required(""));
    }
}

/// One of a few words, where there is a value.
pub fn one_of(errors: &mut Errors, at: &At<'_>, supported: &[&str]) {
    if at.is_set() && !supported.contains(&at.text()) {
        errors.push(at.not_supported(supported));
    }
}

/// One of a few words, which must be there.
pub fn required_one_of(errors: &mut Errors, at: &At<'_>, supported: &[&str]) {
    if at.has_text() {
        one_of(errors, at, supported);
    } else {
        errors.push(at.required(""));
    }
}

/// A number that is not negative, where there is one.
pub fn not_negative(errors: &mut Errors, at: &At<'_>) {
    if at.number().is_some_and(|number| number < 0) {
        errors.push(at.invalid("must be greater than or equal to 0"));
    }
}

/// A number in a range, where there is one.
pub fn in_range(errors: &mut Errors, at: &At<'_>, least: i64, most: i64) {
    if at.number().is_some_and(|number| !(least..=most).contains(&number)) {
        errors.push(at.invalid(&format!("must be between {least} and {most}, inclusive")));
    }
}

/// The number of a user or group, where there is one.
pub fn user_or_group(errors: &mut Errors, at: &At<'_>) {
    in_range(errors, at, 0, INT32_MAX);
}

/// The number of a port. Absent counts as 0, which is none.
pub fn port_number(errors: &mut Errors, at: &At<'_>) {
    let number = at.number().unwrap_or(0);
    errors.extend(names::port_number(number).iter().map(|why| at.invalid_as(number, why)));
}

/// The number or the name of a port.
pub fn port(errors: &mut Errors, at: &At<'_>) {
    if at.value().is_string() { text(errors, at, names::port_name) } else { port_number(errors, at) }
}

/// The mode of a file, where there is one.
pub fn file_mode(errors: &mut Errors, at: &At<'_>) {
    if at.number().is_some_and(|mode| !(0..=FILE_MODE_MAX).contains(&mode)) {
        errors.push(at.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// A path without `..`.
pub fn path_without_backsteps(errors: &mut Errors, at: &At<'_>) {
    if at.text().split('/').any(|part| part == "..") {
        errors.push(at.invalid("must not contain '..'"));
    }
}

/// A relative path without `..`.
pub fn descending_path(errors: &mut Errors, at: &At<'_>) {
    if at.text().starts_with('/') {
        errors.push(at.invalid("must be a relative path"));
    }
    path_without_backsteps(errors, at);
}

/// A relative path whose names the kubelet does not use itself.
pub fn local_path(errors: &mut Errors, at: &At<'_>) {
    descending_path(errors, at);
    if at.text().starts_with("..") && !at.text().starts_with("../") {
        errors.push(at.invalid("must not start with '..'"));
    }
}

/// The key of a label.
pub fn label_key(errors: &mut Errors, at: &At<'_>) {
    text(errors, at, names::qualified_name);
}

/// Labels. Upstream names the map, not the entry.
pub fn labels(errors: &mut Errors, at: &At<'_>) {
    for (key, entry) in at.entries() {
        errors.extend(names::qualified_name(key).iter().map(|why| at.invalid_as(key, why)));
        errors.extend(names::label_value(entry.text()).iter().map(|why| at.invalid_as(entry.text(), why)));
    }
}

/// A label selector, where there is one.
pub fn label_selector(errors: &mut Errors, at: &At<'_>) {
    labels(errors, &at.at("matchLabels"));
    for requirement in at.at("matchExpressions").items() {
        label_requirement(errors, &requirement);
    }
}

fn label_requirement(errors: &mut Errors, at: &At<'_>) {
    let values = at.at("values");
    match at.at("operator").text() {
        "In" | "NotIn" if values.count() == 0 => {
            errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if values.count() > 0 => {
            errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.push(at.at("operator").invalid("not a valid selector operator")),
    }
    label_key(errors, &at.text_at("key"));
    for value in values.items() {
        text(errors, &value, names::label_value);
    }
}

/// A field that must stay as it was.
pub fn immutable(errors: &mut Errors, new: &At<'_>, old: &serde_json::Value) {
    if new.value() != old {
        errors.push(new.invalid_as(new.value().clone(), "field is immutable"));
    }
}
