//! `/scale`: how many replicas a workload wants, in the one shape that autoscalers know.

use api::object::Tree;
use api::{ApiError, Object, Reason};
use bytes::Bytes;
use http::StatusCode;
use machinery::apply::path::Step;
use machinery::apply::{Managers, Tracker, Writer, scale};
use serde_json::{Value, json};

use super::apply::{self, Configuration};
use super::body::decode;
use super::negotiate::{BodyKind, View};
use super::patch::Patch;
use super::query::WriteOptions;
use super::respond::{self, Answer};
use super::write::Changed;
use super::{Call, managed, metadata, read, write};
use crate::custom;
use crate::invalid::{FieldError, invalid};
use crate::registry::Context;
use crate::table;

/// Answers `get`.
pub async fn get(call: Call) -> Result<Answer, ApiError> {
    let object = read::find(&call).await?;
    answer(&call, &object)
}

/// Answers `update` and `patch`: only `spec.replicas` is taken over.
pub async fn write(mut call: Call, body: Bytes) -> Result<Answer, ApiError> {
    let options = WriteOptions::of(&call)?;
    let given = match (call.verb, BodyKind::of_patch(&call.headers)) {
        ("update", _) => Given::Scale(decode(BodyKind::of_object(&call.headers)?, &body)?),
        (_, Ok(BodyKind::Apply)) => Given::Configuration(Configuration::read(&call, &options, &body)?),
        _ => Given::Patch(Patch::read(&call, &body)?),
    };
    // The workload itself is what is written: its own rules hold, and its generation counts.
    call.target.subresource.clear();
    let context = call.context(options.dry_run);
    let key = call.key();
    let change = |old: &Tree| {
        let before = scale_of(&call, &old.object)?;
        let owners = Owners::new(&call, &context, old);
        let (after, managers) = match &given {
            Given::Scale(scale) => (scale.clone(), owners.updated(&before, scale)),
            Given::Patch(patch) => {
                let after = patch.apply(&call, &Tree { object: before.clone(), managed_fields: None })?;
                let managers = owners.updated(&before, &after);
                (after, managers)
            }
            Given::Configuration(configuration) => owners.applied(&before, configuration)?,
        };
        let old = &old.object;
        let replicas = after["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let error = FieldError::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
            return Err(invalid(&call.served.resource, &key.name, &[error]));
        }
        let name = metadata::text(&after, "name");
        if !name.is_empty() && *name != *key.name {
            let message = format!("the name of the object ({name}) does not match the name on the URL ({})", key.name);
            return Err(ApiError::new(Reason::BadRequest, message));
        }
        let mut new = old.clone();
        match call.served.strategy.scale_paths() {
            Some(paths) => custom::scale::set(&mut new, &paths.spec_replicas_path, replicas.into())?,
            None => new["spec"]["replicas"] = replicas.into(),
        }
        let fields = metadata::fields(&mut new);
        fields.shift_remove("resourceVersion");
        for field in ["resourceVersion", "uid"] {
            let named = metadata::text(&after, field);
            if !named.is_empty() {
                fields.insert(field.to_owned(), named.into());
            }
        }
        Ok(Changed { object: new, owners: managed::Owners::Are(managers) })
    };
    let object = write::modify(&call, &context, &key, &change).await?;
    answer(&call, &object)
}

enum Given {
    Scale(Value),
    Patch(Patch),
    Configuration(Configuration),
}

/// Who owns the workload's fields, when its scale is written.
struct Owners<'a> {
    managers: Managers,
    path: Vec<Step>,
    api_version: String,
    name: String,
    now: String,
    old: &'a Tree,
}

impl<'a> Owners<'a> {
    fn new(call: &Call, context: &Context<'_>, old: &'a Tree) -> Self {
        let path = call.served.strategy.scale_paths().map_or("spec.replicas", |paths| &paths.spec_replicas_path);
        Self {
            managers: managed::of(Some(old)),
            path: path.trim_start_matches('.').split('.').map(Step::field).collect(),
            api_version: call.served.resource.api_version(),
            name: managed::manager(call),
            now: metadata::time(context.now),
            old,
        }
    }

    fn tracker() -> Tracker<'static> {
        let reset = &*managed::SCALE_RESET;
        Tracker { versions: &managed::Scale, api_version: scale::API_VERSION, subresource: "scale", reset }
    }

    fn updated(&self, before: &Value, after: &Value) -> Managers {
        let in_scale = scale::to_scale(&self.managers, &self.path);
        let writer = Writer { name: &self.name, now: &self.now };
        let mut after = after.clone();
        metadata::fields(&mut after).shift_remove("managedFields");
        self.of_workload(&Self::tracker().update(Some(before), &after, in_scale, writer))
    }

    fn applied(&self, before: &Value, configuration: &Configuration) -> Result<(Value, Managers), ApiError> {
        configuration.check_kind(scale::API_VERSION, "Scale")?;
        let in_scale = scale::to_scale(&apply::managers_of(Some(self.old))?, &self.path);
        let writer = Writer { name: &self.name, now: &self.now };
        let applied = Self::tracker()
            .apply_for_users(Some(before), configuration.tree(), in_scale, writer, configuration.force())
            .map_err(|error| apply::refused(&error))?;
        let mut after = applied.object.unwrap_or_else(|| before.clone());
        if metadata::text(configuration.tree(), "resourceVersion").is_empty() {
            metadata::fields(&mut after).shift_remove("resourceVersion");
        }
        Ok((after, self.of_workload(&applied.managers)))
    }

    fn of_workload(&self, in_scale: &Managers) -> Managers {
        scale::to_workload(&self.managers, in_scale, &self.path, &self.api_version)
    }
}

fn answer(call: &Call, object: &Object) -> Result<Answer, ApiError> {
    let scale = scale_of(call, &object.to_value())?;
    let shown = match call.form.view {
        View::Whole => scale,
        View::Metadata => respond::metadata_of(&scale),
        View::Table => table::of_scale(&scale, call.form.rows, call.server.config.clock.now()),
    };
    Ok(respond::encoded(StatusCode::OK, call.form, shown.to_string().into()))
}

/// The `autoscaling/v1` `Scale` of a workload.
fn scale_of(call: &Call, object: &Value) -> Result<Value, ApiError> {
    let mut own = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            own[field] = value.clone();
        }
    }
    let (wanted, shown, selector) = match call.served.strategy.scale_paths() {
        None => {
            let count = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
            (count("spec"), count("status"), selector_text(&object["spec"]["selector"]))
        }
        Some(paths) => {
            let count = |path: &str| custom::scale::get(object, path).and_then(Value::as_i64);
            let missing = || {
                let path = &paths.spec_replicas_path;
                let message = format!("Internal error occurred: the spec replicas field {path:?} does not exist");
                ApiError::new(Reason::InternalError, message)
            };
            let selector = paths.label_selector_path.as_deref().and_then(|path| custom::scale::get(object, path));
            let selector = selector.and_then(Value::as_str).unwrap_or_default().to_owned();
            let wanted = count(&paths.spec_replicas_path).ok_or_else(missing)?;
            (wanted, count(&paths.status_replicas_path).unwrap_or(0), selector)
        }
    };
    let mut status = json!({"replicas": shown});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": own, "spec": {"replicas": wanted}, "status": status}),
    )
}

/// A selector as text; that of a replication controller is a plain map.
fn selector_text(selector: &Value) -> String {
    let is_map = selector
        .as_object()
        .is_some_and(|map| !map.contains_key("matchLabels") && !map.contains_key("matchExpressions"));
    let selector = if is_map { json!({"matchLabels": selector}) } else { selector.clone() };
    machinery::labels::Selector::from_label_selector(&selector).map(|selector| selector.to_string()).unwrap_or_default()
}
