//! `/scale`: how many replicas a workload wants, in the one shape that autoscalers know.

use api::{ApiError, Object, Reason};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::body::decode;
use super::negotiate::{BodyKind, View};
use super::patch::Patch;
use super::query::WriteOptions;
use super::respond::{self, Answer};
use super::{Call, metadata, read, write};
use crate::invalid::{FieldError, invalid};
use crate::table;

/// Answers `get`.
pub async fn get(call: Call) -> Result<Answer, ApiError> {
    let object = read::find(&call).await?;
    Ok(answer(&call, &object))
}

/// Answers `update` and `patch`: only `spec.replicas` is taken over.
pub async fn write(mut call: Call, body: Bytes) -> Result<Answer, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let given = match call.verb {
        "update" => Given::Scale(decode(BodyKind::of_object(&call.headers)?, &body)?),
        _ => Given::Patch(Patch::read(&call, &body)?),
    };
    // The workload itself is what is written: its own rules hold, and its generation counts.
    call.target.subresource.clear();
    let context = call.context(options.dry_run);
    let key = call.key();
    let change = |old: &Value| {
        let before = scale_of(old);
        let after = match &given {
            Given::Scale(scale) => scale.clone(),
            Given::Patch(patch) => patch.apply(&call, &before)?,
        };
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
        new["spec"]["replicas"] = replicas.into();
        let fields = metadata::fields(&mut new);
        fields.shift_remove("resourceVersion");
        for field in ["resourceVersion", "uid"] {
            let named = metadata::text(&after, field);
            if !named.is_empty() {
                fields.insert(field.to_owned(), named.into());
            }
        }
        Ok(new)
    };
    let (object, _) = write::modify(&call, &context, &key, &change).await?;
    Ok(answer(&call, &object))
}

enum Given {
    Scale(Value),
    Patch(Patch),
}

fn answer(call: &Call, object: &Object) -> Answer {
    let scale = scale_of(&object.to_value());
    let shown = match call.form.view {
        View::Whole => scale,
        View::Metadata => respond::metadata_of(&scale),
        View::Table => table::of_scale(&scale, call.form.rows, call.server.config.clock.now()),
    };
    respond::encoded(StatusCode::OK, call.form, shown.to_string().into())
}

/// The `autoscaling/v1` `Scale` of a workload.
fn scale_of(object: &Value) -> Value {
    let mut own = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            own[field] = value.clone();
        }
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(0);
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": own, "spec": {"replicas": wanted}, "status": status})
}

/// A selector as text; that of a replication controller is a plain map.
fn selector_text(selector: &Value) -> String {
    let is_map = selector
        .as_object()
        .is_some_and(|map| !map.contains_key("matchLabels") && !map.contains_key("matchExpressions"));
    let selector = if is_map { json!({"matchLabels": selector}) } else { selector.clone() };
    machinery::labels::Selector::from_label_selector(&selector).map(|selector| selector.to_string()).unwrap_or_default()
}
