//! The metadata of every object: what the server sets, what nobody may change, and what must be well formed.
//!
//! Texts and order follow apimachinery's `ValidateObjectMeta` and `ValidateObjectMetaUpdate`.

use api::{Key, Resource};
use jiff::Timestamp;
use machinery::names;
use serde_json::{Map, Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::{Context, Strategy, check};

/// The finalizers that need no domain in their names.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];
/// A generated name's base is cut so that base and suffix fit a DNS label.
const GENERATED_BASE_MAX: usize = 58;
const SUFFIX_LENGTH: usize = 5;
/// All annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Whether `metadata.name` is still to be made from `metadata.generateName`.
pub fn is_generated(object: &Value) -> bool {
    text(object, "name").is_empty() && !text(object, "generateName").is_empty()
}

/// Makes a name of `metadata.generateName`.
pub fn generate_name(context: &Context<'_>, object: &mut Value) {
    let base = text(object, "generateName");
    let mut end = base.len().min(GENERATED_BASE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let name = format!("{}{}", &base[..end], context.random.name_suffix(SUFFIX_LENGTH));
    object["metadata"]["name"] = name.into();
}

/// Sets what the server sets in a new object, and clears what users may not.
pub fn fill_for_create(context: &Context<'_>, strategy: &dyn Strategy, object: &mut Value) {
    let metadata = fields(object);
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
        "resourceVersion",
        "generation",
    ] {
        metadata.shift_remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), time(context.now).into());
    if strategy.has_generation() {
        metadata.insert("generation".to_owned(), 1.into());
    }
}

/// Keeps in a changed object what updates never change.
pub fn keep_for_update(new: &mut Value, old: &Value) {
    let kept = ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"];
    let old = &old["metadata"];
    let metadata = fields(new);
    for field in ["selfLink", "managedFields", "resourceVersion"] {
        metadata.shift_remove(field);
    }
    for field in kept {
        match old.get(field) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.shift_remove(field)),
        }
    }
    if metadata.get("uid").is_none_or(|uid| uid == "") {
        metadata.insert("uid".to_owned(), old["uid"].clone());
    }
}

/// Leaves one owner reference of those that are the same, and tells the client.
pub fn one_of_each_owner(context: &Context<'_>, object: &mut Value) {
    let Some(Value::Array(owners)) = object.pointer_mut("/metadata/ownerReferences") else { return };
    let (mut kept, mut twice): (Vec<Value>, Vec<String>) = (Vec::with_capacity(owners.len()), Vec::new());
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    if !twice.is_empty() {
        context.notes.warn(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject \
             such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        ));
    }
}

/// Counts a change of what the object wants.
pub fn bump_generation(strategy: &dyn Strategy, new: &mut Value, old: &Value) {
    let wants = |object: &Value| {
        let mut object = object.as_object().cloned().unwrap_or_default();
        let uncounted = |name: &str| match name {
            "metadata" | "apiVersion" | "kind" => true,
            "status" => !strategy.counts_status(),
            _ => false,
        };
        object.retain(|name, _| !uncounted(name));
        object
    };
    if wants(new) != wants(old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// All that is wrong with a new object's metadata.
pub fn validate(resource: &Resource, strategy: &dyn Strategy, object: &Value, key: &Key) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, "name");
    let base = text(object, "generateName");
    if !base.is_empty() {
        let complaints = strategy.name_errors(&names::without_last_dash(base));
        errors.extend(complaints.iter().map(|why| FieldError::invalid("metadata.generateName", &json!(base), why)));
    }
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        let invalid = |why: String| FieldError::invalid("metadata.name", &json!(name), &why);
        errors.extend(strategy.name_errors(name).into_iter().map(invalid));
    }
    if resource.namespaced() {
        let invalid = |why: String| FieldError::invalid("metadata.namespace", &json!(&*key.namespace), &why);
        errors.extend(names::dns1123_label(&key.namespace).into_iter().map(invalid));
    } else if !text(object, "namespace").is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    let root = At::new(object, "metadata");
    let at = root.with(&object["metadata"]);
    check::labels(&mut errors, &at.at("labels"));
    validate_annotations(&mut errors, &at.at("annotations"));
    validate_owners(&mut errors, &at.at("ownerReferences"));
    validate_finalizers(&mut errors, &at.at("finalizers"));
    // Definitions are checked as the objects that they define: their own finalizer has no path.
    let defines = matches!(&*resource.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
    if !defines && api::resources::find(&resource.group, &resource.version, &resource.plural).is_some() {
        validate_old_finalizers(&mut errors, &at.at("finalizers"));
    }
    errors
}

/// All that is wrong with a changed object's metadata.
pub fn validate_update(
    resource: &Resource,
    strategy: &dyn Strategy,
    new: &Value,
    old: &Value,
    key: &Key,
) -> Vec<FieldError> {
    let mut errors = validate(resource, strategy, new, key);
    for field in ["name", "namespace", "uid"] {
        let (now, before) = (&new["metadata"][field], &old["metadata"][field]);
        if now != before {
            errors.push(FieldError::invalid(format!("metadata.{field}"), now, "field is immutable"));
        }
    }
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let before = list(old, "finalizers");
        let added: Vec<_> = list(new, "finalizers").into_iter().filter(|name| !before.contains(name)).collect();
        if !added.is_empty() {
            let names: Vec<_> = added.iter().map(ToString::to_string).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                names.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &why));
        }
    }
    errors
}

/// All that is wrong with annotations: upstream names the map, not the entry.
pub fn validate_annotations(errors: &mut Errors, at: &At<'_>) {
    let mut total = 0;
    for (key, value) in at.entries() {
        errors.extend(names::qualified_name(&key.to_lowercase()).iter().map(|why| at.invalid_as(key, why)));
        total += key.len() + value.text().len();
    }
    if total > ANNOTATIONS_BYTES_MAX {
        errors.push(at.too_long(ANNOTATIONS_BYTES_MAX));
    }
}

/// Owners, of which one may be the controller. Upstream's paths leave out the index.
fn validate_owners(errors: &mut Errors, at: &At<'_>) {
    let mut controller = None;
    for owner in at.items() {
        let version = owner.at("apiVersion").text();
        let fields = [("apiVersion", "version must not be empty"), ("kind", "must not be empty")];
        for (field, why) in fields.into_iter().chain([("name", "must not be empty"), ("uid", "must not be empty")]) {
            let given = owner.at(field).text();
            if given.is_empty() || (field == "apiVersion" && version.ends_with('/')) {
                errors.push(at.at(field).invalid_as(given, why));
            }
        }
        if version == "v1" && owner.at("kind").text() == "Event" {
            errors.push(at.invalid_as(owner.value().clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if !owner.at("controller").is_true() {
            continue;
        }
        let name = format!("{}/{}", owner.at("kind").text(), owner.at("name").text());
        if let Some(first) = &controller {
            let why = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
            );
            errors.push(at.invalid(&why));
        } else {
            controller = Some(name);
        }
    }
}

fn validate_finalizers(errors: &mut Errors, at: &At<'_>) {
    for finalizer in at.items() {
        let name = finalizer.text();
        errors.extend(names::qualified_name(name).iter().map(|why| at.invalid_as(name, why)));
    }
    let has = |name: &str| at.items().any(|finalizer| finalizer.text() == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(at.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

/// The kinds of the core group, and those that upstream checks with their code, want more of finalizers.
fn validate_old_finalizers(errors: &mut Errors, at: &At<'_>) {
    for finalizer in at.items() {
        let known = finalizer.text().contains('/') || STANDARD_FINALIZERS.contains(&finalizer.text());
        if !known {
            errors.push(finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified"));
        }
    }
}

/// A string of the metadata; empty where absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The metadata, made an object where it is none.
pub fn fields(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata.as_object_mut().expect("it was made an object")
}

/// A time stamp as the API writes it.
pub fn time(at: Timestamp) -> String {
    machinery::time::seconds(at)
}

fn list<'a>(object: &'a Value, field: &str) -> Vec<&'a Value> {
    object["metadata"][field].as_array().into_iter().flatten().collect()
}
