//! What a body's fields must be: the schema's judgement, as the answer to a request.

use api::schema::{self, DecodeError, Decoded, Strictness, TypeRef, type_of};
use api::{ApiError, Reason};
use bytes::Bytes;
use serde_json::Value;

use crate::request::Call;
use crate::request::body;

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
    judged(call, schema::decode(bytes, of_call(call)?, strictness))
}

/// Reads a tree that YAML or a patch gave.
pub fn read_tree(call: &Call, strictness: Strictness, tree: &Value) -> Result<(Value, Vec<String>), ApiError> {
    judged(call, schema::check(tree, of_call(call)?, strictness))
}

fn judged(call: &Call, decoded: Result<Decoded, DecodeError>) -> Result<(Value, Vec<String>), ApiError> {
    match decoded {
        Ok(Decoded { value, warnings }) => Ok((value, warnings)),
        // What is no JSON at all is not the type's business.
        Err(DecodeError::Syntax(error)) => Err(body::malformed(&error)),
        Err(error) => Err(error.to_api_error(&call.served.resource)),
    }
}
