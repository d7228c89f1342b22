//! What a body's fields must be: the schema's judgement, as the answer to a request.

use api::schema::{self, DecodeError, Decoded, Strictness, TypeRef, type_of};
use api::{ApiError, Reason};
use bytes::Bytes;
use serde_json::Value;

use crate::custom::decode;
use crate::request::Call;
use crate::request::body;

/// How deep an object may be nested. JSON readers stop at 128 levels, and lists, events and tables add some of their own: a
/// deeper object, once stored, would make them unreadable.
const LEVELS_MAX: usize = 100;

/// Whether nothing in the tree lies deeper than so many levels.
fn shallower(tree: &Value, levels: usize) -> bool {
    match tree {
        Value::Object(fields) => levels > 0 && fields.values().all(|value| shallower(value, levels - 1)),
        Value::Array(items) => levels > 0 && items.iter().all(|value| shallower(value, levels - 1)),
        _ => true,
    }
}

/// The type of the objects that a call is about.
pub fn of_call(call: &Call) -> Result<TypeRef, ApiError> {
    let resource = &*call.served.resource;
    type_of(resource).ok_or_else(|| {
        let message = format!("Internal error occurred: no schema of {} in {}", resource.kind, resource.api_version());
        ApiError::new(Reason::InternalError, message)
    })
}

/// Reads a JSON body, whose bytes still show what is given twice. Gives the object and the warnings.
pub fn read(call: &Call, strictness: Strictness, bytes: &Bytes) -> Result<(Value, Vec<String>), ApiError> {
    if let Some(version) = &call.served.custom {
        return decode::bytes(&version.row, version.schema(), bytes, strictness);
    }
    judged(call, schema::decode(bytes, of_call(call)?, strictness))
}

/// Reads a tree that YAML or a patch gave.
pub fn read_tree(call: &Call, strictness: Strictness, tree: &Value) -> Result<(Value, Vec<String>), ApiError> {
    if let Some(version) = &call.served.custom {
        return decode::tree(&version.row, version.schema(), tree, strictness);
    }
    judged(call, schema::check(tree, of_call(call)?, strictness))
}

fn judged(call: &Call, decoded: Result<Decoded, DecodeError>) -> Result<(Value, Vec<String>), ApiError> {
    match decoded {
        Ok(Decoded { value, .. }) if !shallower(&value, LEVELS_MAX) => {
            let message = format!("the body of the request is nested deeper than {LEVELS_MAX} levels");
            Err(ApiError::new(Reason::BadRequest, message))
        }
        Ok(Decoded { value, warnings }) => Ok((value, warnings)),
        // What is no JSON at all is not the type's business.
        Err(DecodeError::Syntax(error)) => Err(body::malformed(&error)),
        Err(error) => Err(error.to_api_error(&call.served.resource)),
    }
}
