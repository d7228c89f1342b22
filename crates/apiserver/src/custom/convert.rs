//! Between the stored form of custom resources and the versions that are served. Conversion is `None`: a version has another
//! `apiVersion`, and what its schema names.
//!
//! Stored bytes may be of an earlier schema or of a version that was the stored one then. They are brought to the form of
//! today when they come into the cache, with the defaults of their own version, as upstream does when it reads.

use std::borrow::Cow;

use api::{ApiError, Object, Reason, Resource};
use serde_json::Value;

use super::definition::{Schemas, Version};

/// How the encoding of an object begins, up to the version.
const HEAD: &[u8] = b"{\"apiVersion\":\"";

/// Stored bytes in the stored form of today.
pub fn normalized<'a>(schemas: &Schemas, stored_form: &Resource, stored: &'a [u8]) -> Cow<'a, [u8]> {
    let Ok(mut object) = serde_json::from_slice::<Value>(stored) else { return Cow::Borrowed(stored) };
    let before = object.clone();
    let written_in = object["apiVersion"].as_str().and_then(|version| schemas.version_of(version)).map(str::to_owned);
    if let Some(schema) = written_in.as_deref().and_then(|version| schemas.of(version)) {
        schema.get().prune(&mut object);
        schema.get().set_defaults(&mut object);
    }
    if written_in.as_deref() != Some(&*stored_form.version) {
        let same = written_in.is_some_and(|version| schemas.are_same(&version, &stored_form.version));
        into_version(schemas, stored_form, same, &mut object);
    }
    if object == before { Cow::Borrowed(stored) } else { Cow::Owned(api::object::encode(&object)) }
}

fn into_version(schemas: &Schemas, row: &Resource, same_schema: bool, object: &mut Value) {
    object["apiVersion"] = row.api_version().into();
    if !same_schema && let Some(schema) = schemas.of(&row.version) {
        schema.get().prune(object);
    }
}

/// A tree of the stored form in a version that is served.
pub fn from_stored(version: &Version, mut object: Value) -> Value {
    let (schemas, row) = (&version.storage.schemas, &version.row);
    let same = schemas.are_same(&version.storage.row.version, &row.version);
    into_version(schemas, row, same, &mut object);
    object
}

/// A tree of a version that is served in the stored form.
pub fn to_stored(version: &Version, mut object: Value) -> Value {
    let (schemas, row) = (&version.storage.schemas, &version.storage.row);
    let same = schemas.are_same(&version.row.version, &row.version);
    into_version(schemas, row, same, &mut object);
    object
}

/// An object of the stored form in a version that is served. Where the schemas are the same only the version in the bytes is
/// another: nothing is decoded.
pub fn object_from_stored(version: &Version, object: &Object) -> Result<Object, ApiError> {
    let (schemas, row) = (&version.storage.schemas, &version.row);
    let spliced = schemas.are_same(&version.storage.row.version, &row.version).then(|| spliced(row, object.json()));
    let bytes = match spliced.flatten() {
        Some(bytes) => bytes,
        None => api::object::encode(&from_stored(version, object.to_value())),
    };
    Object::parse(row, bytes.into()).map_err(|error| {
        ApiError::new(Reason::InternalError, format!("Internal error occurred: {}", base::chain(&error)))
    })
}

/// The bytes with another version in their head.
fn spliced(row: &Resource, json: &[u8]) -> Option<Vec<u8>> {
    let rest = json.strip_prefix(HEAD)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let version = row.api_version();
    Some([HEAD, version.as_bytes(), &rest[end..]].concat())
}
