//! `patch`: JSON patch, merge patch, strategic merge patch; server-side apply is next door, in [`super::apply`].
//!
//! A patch that names no resource version is applied again to the newer object when somebody else was first.

use api::object::Tree;
use api::{ApiError, Reason};
use bytes::Bytes;
use http::StatusCode;
use machinery::patch::PatchError;
use machinery::strategic;
use serde_json::Value;

use super::negotiate::BodyKind;
use super::query::WriteOptions;
use super::respond::Answer;
use super::write::{modify, place, written};
use super::{Call, apply, body};
use crate::fields;

/// Answers `patch` of an object or a subresource.
pub async fn patch(call: Call, body: Bytes) -> Result<Answer, ApiError> {
    let options = WriteOptions::of(&call)?;
    if BodyKind::of_patch(&call.headers)? == BodyKind::Apply {
        return apply::answer(call, &options, &body).await;
    }
    let patch = Patch::read(&call, &body)?;
    let context = call.context(options.dry_run);
    let change = |old: &Tree| {
        let patched = patch.apply(&call, old)?;
        let (mut new, found) = fields::read_tree(&call, options.strictness, &patched)?;
        // A patch cannot make the object another one.
        place(&call, &mut new)?;
        found.into_iter().for_each(|warning| call.notes.warn(warning));
        Ok(new.into())
    };
    let changed = modify(&call, &context, &call.key(), &change).await?;
    Ok(written(&call, StatusCode::OK, &changed))
}

/// A decoded patch.
pub struct Patch {
    kind: BodyKind,
    patch: Value,
}

impl Patch {
    /// Reads a patch of a kind that is served.
    pub fn read(call: &Call, body: &Bytes) -> Result<Self, ApiError> {
        let kind = BodyKind::of_patch(&call.headers)?;
        if kind == BodyKind::StrategicPatch && call.served.custom.is_some() {
            let message = "the body of the request was in an unknown format - accepted media types include: \
                           application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            return Err(ApiError::new(Reason::UnsupportedMediaType, message));
        }
        Ok(Self { kind, patch: body::json(body)? })
    }

    /// The patched tree.
    pub fn apply(&self, call: &Call, old: &Tree) -> Result<Value, ApiError> {
        let mut new = old.object.clone();
        if let (true, Some(raw)) = (self.names_managed_fields(), &old.managed_fields) {
            new["metadata"]["managedFields"] = body::json(raw.get().as_bytes())?;
        }
        match self.kind {
            BodyKind::JsonPatch => {
                machinery::patch::json(&mut new, &self.patch).map_err(|error| json_error(call, &error))?;
            }
            BodyKind::StrategicPatch => {
                self.must_be_object()?;
                let schema = fields::of_call(call)?;
                new = strategic::merge(new, self.patch.clone(), &schema)
                    .map_err(|error| ApiError::new(Reason::BadRequest, error.to_string()))?;
            }
            _ => {
                self.must_be_object()?;
                machinery::patch::merge(&mut new, &self.patch);
            }
        }
        // A merge patch speaks of fields only: it cannot make the object another one.
        if !self.names_revision() {
            crate::request::metadata::fields(&mut new).shift_remove("resourceVersion");
        }
        Ok(new)
    }

    /// Whether the patch is meant for one resource version only.
    fn names_revision(&self) -> bool {
        match &self.patch {
            Value::Array(operations) => operations.iter().any(|operation| {
                operation["path"] == "/metadata/resourceVersion"
                    && matches!(operation["op"].as_str(), Some("replace" | "add"))
            }),
            patch => patch.pointer("/metadata/resourceVersion").is_some_and(|version| !version.is_null()),
        }
    }

    /// Whether the patch may look at or change managed fields.
    fn names_managed_fields(&self) -> bool {
        match &self.patch {
            Value::Array(operations) => operations.iter().any(|operation| {
                let touches =
                    |path: &str| matches!(path, "" | "/metadata") || path.starts_with("/metadata/managedFields");
                ["path", "from"].iter().any(|field| operation[*field].as_str().is_some_and(touches))
            }),
            patch => patch.pointer("/metadata/managedFields").is_some(),
        }
    }

    fn must_be_object(&self) -> Result<(), ApiError> {
        if self.patch.is_object() {
            return Ok(());
        }
        Err(ApiError::new(Reason::BadRequest, "the patch is not a JSON object"))
    }
}

fn json_error(call: &Call, error: &PatchError) -> ApiError {
    let resource = &*call.served.resource;
    let reason = match error {
        PatchError::Malformed(_) => Reason::BadRequest,
        PatchError::TooLarge(_) => Reason::RequestEntityTooLarge,
        PatchError::Inapplicable(_) => Reason::Invalid,
    };
    let message = match error {
        PatchError::Inapplicable(_) => {
            format!("the server rejected our request due to an error in our request: {error}")
        }
        _ => error.to_string(),
    };
    ApiError::about(reason, &resource.group, &resource.plural, &call.target.name, message)
}
