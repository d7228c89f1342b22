//! What must hold of a definition besides its schemas. Paths, texts and order are upstream's
//! `ValidateCustomResourceDefinition`.

use machinery::names;
use serde_json::{Value, json};

use super::{expressions, open_api, structural};
use crate::custom::schema::{Schema, Type};
use crate::custom::status;
use crate::invalid::FieldError;
use crate::registry::tree::{immutable, is_set, list, text};

const SELECTABLE_FIELDS_MAX: usize = 8;
const APPROVAL: &str = "api-approved.kubernetes.io";

/// All that is wrong with a definition, which was `old` before.
pub(super) fn validate(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (name, spec) = (&definition["metadata"]["name"], &definition["spec"]);
    if old.is_none() && *name != format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"])) {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    errors.extend(spec_errors(spec, old.map(|old| &old["spec"])));
    if let Some(old) = old {
        let before = &old["spec"];
        if status::holds(old, "Established") {
            immutable(&mut errors, &spec["scope"], &before["scope"], "spec.scope");
            immutable(&mut errors, &spec["names"]["kind"], &before["names"]["kind"], "spec.names.kind");
        }
        immutable(&mut errors, &spec["group"], &before["group"], "spec.group");
        immutable(&mut errors, &spec["names"]["plural"], &before["names"]["plural"], "spec.names.plural");
    }
    errors.extend(stored_version_errors(definition));
    errors.extend(approval_errors(definition, old));
    if spec["preserveUnknownFields"] == true && old.is_none_or(|old| old["spec"]["preserveUnknownFields"] != true) {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &true.into(), why));
    }
    errors
}

fn spec_errors(spec: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let group = text(&spec["group"]);
    let complaints = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !complaints.is_empty() {
        errors.push(FieldError::invalid("spec.group", &spec["group"], &complaints.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", &spec["group"], "should be a domain with at least one dot"));
    }
    one_of(&mut errors, &spec["scope"], "spec.scope", &["Cluster", "Namespaced"]);
    let versions = list(&spec["versions"]);
    for (at, version) in versions.iter().enumerate() {
        if !is_set(&version["schema"], "openAPIV3Schema") {
            errors.push(FieldError::required(format!("spec.versions[{at}].schema.openAPIV3Schema"), ""));
        }
    }
    for (at, version) in versions.iter().enumerate() {
        let before = old.and_then(|old| list(&old["versions"]).iter().find(|before| before["name"] == version["name"]));
        let unchanged = before.is_some_and(|before| before["schema"] == version["schema"]);
        version_errors(version, &format!("spec.versions[{at}]"), unchanged, &mut errors);
    }
    let twice = (1..versions.len()).any(|at| versions[..at].iter().any(|it| it["name"] == versions[at]["name"]));
    if twice {
        let why = "must contain unique version names";
        errors.push(FieldError::invalid("spec.versions", &spec["versions"], why));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &spec["versions"], why));
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"][field]).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
    }
    errors.extend(name_errors(&spec["names"], "spec.names"));
    conversion_errors(&spec["conversion"], &mut errors);
    errors
}

fn one_of(errors: &mut Vec<FieldError>, value: &Value, path: &str, allowed: &[&str]) {
    match text(value) {
        "" => errors.push(FieldError::required(path, "")),
        given if allowed.contains(&given) => {}
        _ => errors.push(FieldError::not_supported(path, value, allowed)),
    }
}

/// What is wrong with names that are asked for or accepted.
pub(super) fn name_errors(given: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut label = |value: &Value, path: String, mixed: bool| {
        let name = text(value);
        let complaints = if mixed { names::dns1035_label(&name.to_lowercase()) } else { names::dns1035_label(name) };
        if !name.is_empty() && !complaints.is_empty() {
            let prefix = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(FieldError::invalid(path, value, &format!("{prefix}{}", complaints.join(","))));
        }
    };
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        label(&given[field], format!("{path}.{field}"), mixed);
    }
    for field in ["shortNames", "categories"] {
        for (at, name) in list(&given[field]).iter().enumerate() {
            label(name, format!("{path}.{field}[{at}]"), false);
        }
    }
    if !text(&given["kind"]).is_empty() && given["kind"] == given["listKind"] {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{path}.listKind"), &given["listKind"], why));
    }
    errors
}

/// What is wrong with the versions that objects may be stored in.
pub(super) fn stored_version_errors(definition: &Value) -> Vec<FieldError> {
    const PATH: &str = "status.storedVersions";
    let stored = &definition["status"]["storedVersions"];
    if list(stored).is_empty() {
        return vec![FieldError::invalid(PATH, &json!([]), "must have at least one stored version")];
    }
    let versions = list(&definition["spec"]["versions"]);
    let mut errors = Vec::new();
    for version in versions.iter().filter(|version| version["storage"] == true) {
        if !list(stored).contains(&version["name"]) {
            let why = format!("must have the storage version {}", text(&version["name"]));
            errors.push(FieldError::invalid(PATH, stored, &why));
        }
    }
    for (at, name) in list(stored).iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let name_text = text(name);
            let why = format!(
                "missing from spec.versions; {name_text} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name_text} and removes {name_text} from \
                 status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("{PATH}[{at}]"), name, &why));
        }
    }
    errors
}

fn version_errors(version: &Value, path: &str, unchanged: bool, errors: &mut Vec<FieldError>) {
    let complaints = names::dns1035_label(text(&version["name"]));
    if !complaints.is_empty() {
        errors.push(FieldError::invalid(format!("{path}.name"), &version["name"], &complaints.join(",")));
    }
    deprecation_errors(version, path, errors);
    let schema = &version["schema"]["openAPIV3Schema"];
    let has_status = is_set(&version["subresources"], "status");
    if schema.is_object() {
        schema_errors(schema, has_status, &format!("{path}.schema"), unchanged, errors);
    }
    subresource_errors(&version["subresources"], &format!("{path}.subresources"), errors);
    for (at, column) in list(&version["additionalPrinterColumns"]).iter().enumerate() {
        column_errors(column, &format!("{path}.additionalPrinterColumns[{at}]"), errors);
    }
    selectable_field_errors(version, path, errors);
}

fn deprecation_errors(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let warning = &version["deprecationWarning"];
    let Some(given) = warning.as_str() else { return };
    let mut complain = |why: &str| errors.push(FieldError::invalid(format!("{path}.deprecationWarning"), warning, why));
    if version["deprecated"] != true {
        return complain("can only be set for deprecated versions");
    }
    if given.len() > 256 {
        complain("must be <= 256 characters long");
    }
    if given.is_empty() {
        complain("must not be an empty string");
    }
    if let Some((at, _)) = given.char_indices().find(|(_, sign)| sign.is_control()) {
        complain(&format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

fn schema_errors(schema: &Value, has_status: bool, path: &str, unchanged: bool, errors: &mut Vec<FieldError>) {
    let path = format!("{path}.openAPIV3Schema");
    if has_status {
        root_errors(schema, &path, errors);
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let structural = structural::errors(schema, &path);
    let is_structural = structural.is_empty();
    errors.extend(structural);
    let before = errors.len();
    if is_structural {
        open_api::default_errors(schema, &path, errors);
    }
    open_api::errors(schema, &path, errors);
    if is_structural && errors.len() == before {
        errors.extend(expressions::errors(schema, &path, unchanged));
    }
}

/// With a status of its own, an object's parts are validated apart: only what says something of a part may be said.
fn root_errors(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const ALLOWED: &[(&str, &str)] = &[
        ("description", "Description"),
        ("type", "Type"),
        ("format", "Format"),
        ("title", "Title"),
        ("maximum", "Maximum"),
        ("exclusiveMaximum", "ExclusiveMaximum"),
        ("minimum", "Minimum"),
        ("exclusiveMinimum", "ExclusiveMinimum"),
        ("maxLength", "MaxLength"),
        ("minLength", "MinLength"),
        ("pattern", "Pattern"),
        ("maxItems", "MaxItems"),
        ("minItems", "MinItems"),
        ("uniqueItems", "UniqueItems"),
        ("multipleOf", "MultipleOf"),
        ("required", "Required"),
        ("items", "Items"),
        ("properties", "Properties"),
        ("externalDocs", "ExternalDocs"),
        ("example", "Example"),
        ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
        ("x-kubernetes-validations", "XValidations"),
    ];
    if schema["type"] != "object" {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.push(FieldError::invalid(format!("{path}.type"), &text(&schema["type"]).into(), why));
    }
    let zero = |value: &Value| value.is_null() || *value == false || *value == "" || list_is_empty(value);
    let fields = schema.as_object().into_iter().flatten().filter(|(_, value)| !zero(value));
    if fields.map(|(name, _)| name).any(|name| !ALLOWED.iter().any(|(allowed, _)| allowed == name)) {
        let names: Vec<&str> = ALLOWED.iter().map(|(_, name)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.push(FieldError::invalid(path, schema, &why));
    }
}

fn list_is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn subresource_errors(subresources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(scale) = subresources.get("scale") else { return };
    for (field, below) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let path = format!("{path}.scale.{field}");
        if text(&scale[field]).is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if is_simple_path(&scale[field], &path, errors) && !text(&scale[field]).starts_with(below) {
            let why = format!("should be a json path under {}", below.trim_end_matches('.'));
            errors.push(FieldError::invalid(path, &scale[field], &why));
        }
    }
    let selector = &scale["labelSelectorPath"];
    let path = format!("{path}.scale.labelSelectorPath");
    let below = [".spec.", ".status."].iter().any(|below| text(selector).starts_with(below));
    if !text(selector).is_empty() && is_simple_path(selector, &path, errors) && !below {
        let why = "should be a json path under either .spec or .status";
        errors.push(FieldError::invalid(path, selector, why));
    }
}

fn is_simple_path(value: &Value, path: &str, errors: &mut Vec<FieldError>) -> bool {
    let simple = text(value).starts_with('.');
    if !simple {
        errors.push(FieldError::invalid(path, value, "must be a simple json path starting with ."));
    }
    simple
}

fn column_errors(column: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if text(&column["name"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let one_of = format!("must be one of {}", TYPES.join(","));
    match text(&column["type"]) {
        "" => errors.push(FieldError::required(format!("{path}.type"), &one_of)),
        kind if TYPES.contains(&kind) => {}
        _ => errors.push(FieldError::invalid(format!("{path}.type"), &column["type"], &one_of)),
    }
    let format = text(&column["format"]);
    if !format.is_empty() && !FORMATS.contains(&format) {
        let why = format!("must be one of {}", FORMATS.join(","));
        errors.push(FieldError::invalid(format!("{path}.format"), &column["format"], &why));
    }
    let at = format!("{path}.JSONPath");
    if text(&column["jsonPath"]).is_empty() {
        errors.push(FieldError::required(at, ""));
    } else {
        is_simple_path(&column["jsonPath"], &at, errors);
    }
}

fn selectable_field_errors(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fields = list(&version["selectableFields"]);
    let schema = Schema::compile(&version["schema"]["openAPIV3Schema"]);
    let mut seen: Vec<&str> = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        let (path, given) = (format!("{path}.selectableFields[{at}].jsonPath"), text(&field["jsonPath"]));
        let Some(names) = given.strip_prefix('.').filter(|names| !names.is_empty()) else {
            if given.is_empty() {
                errors.push(FieldError::required(path, ""));
            } else {
                let why = "is an invalid path: expected [ or . but got: ".to_owned() + given;
                errors.push(FieldError::invalid(path, &field["jsonPath"], &why));
            }
            continue;
        };
        let Some(place) = schema.at(names.split('.')) else {
            let why = "is an invalid path: does not refer to a valid field";
            errors.push(FieldError::invalid(path, &field["jsonPath"], why));
            continue;
        };
        if names == "metadata" || names.starts_with("metadata.") {
            let why = "must not point to fields in metadata";
            errors.push(FieldError::invalid(&*path, &field["jsonPath"], why));
        }
        if !matches!(place.kind, Type::String | Type::Boolean | Type::Integer) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats \
                       are allowed.";
            errors.push(FieldError::invalid(&*path, &field["jsonPath"], why));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(path, &field["jsonPath"]));
        } else {
            seen.push(given);
        }
    }
    if seen.len() > SELECTABLE_FIELDS_MAX {
        errors.push(FieldError::too_many(format!("{path}.selectableFields"), seen.len(), SELECTABLE_FIELDS_MAX));
    }
}

fn conversion_errors(conversion: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "spec.conversion";
    if !conversion.is_object() {
        return;
    }
    one_of(errors, &conversion["strategy"], "spec.conversion.strategy", &["None", "Webhook"]);
    let webhook = &conversion["webhook"];
    if conversion["strategy"] != "Webhook" {
        if is_set(webhook, "clientConfig") {
            let why = "should not be set when strategy is not set to Webhook";
            errors.push(FieldError::forbidden(format!("{PATH}.webhookClientConfig"), why));
        }
        return;
    }
    let config = &webhook["clientConfig"];
    if !config.is_object() {
        let why = "required when strategy is set to Webhook";
        errors.push(FieldError::required(format!("{PATH}.webhookClientConfig"), why));
    } else if is_set(config, "url") == is_set(config, "service") {
        let why = "exactly one of url or service is required";
        errors.push(FieldError::required(format!("{PATH}.webhookClientConfig"), why));
    }
    let versions = list(&webhook["conversionReviewVersions"]);
    if versions.is_empty() {
        errors.push(FieldError::required(format!("{PATH}.conversionReviewVersions"), ""));
    } else if !versions.iter().any(|version| matches!(text(version), "v1" | "v1beta1")) {
        let why = "must include at least one of v1, v1beta1";
        let path = format!("{PATH}.conversionReviewVersions");
        errors.push(FieldError::invalid(path, &webhook["conversionReviewVersions"], why));
    }
}

/// Groups of the Kubernetes community want an approval.
fn approval_errors(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let group = text(&definition["spec"]["group"]);
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')));
    let given = |object: &Value| object["metadata"]["annotations"][APPROVAL].clone();
    let approval = given(definition);
    let state = |approval: &Value| match text(approval) {
        "" => 0,
        approval if approval.starts_with("unapproved") => 1,
        approval if approval.split_once("://").is_some_and(|(scheme, host)| !scheme.is_empty() && !host.is_empty()) => {
            2
        }
        _ => 3,
    };
    if !protected || old.is_some_and(|old| state(&given(old)) == state(&approval)) {
        return Vec::new();
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state(&approval) {
        0 => vec![FieldError::required(
            path,
            &format!("protected groups must have approval annotation {APPROVAL:?}, {SEE}"),
        )],
        3 => {
            let why = format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
                 \"unapproved\", {SEE}"
            );
            vec![FieldError::invalid(path, &approval, &why)]
        }
        _ => Vec::new(),
    }
}
