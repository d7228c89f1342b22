//! A request's body: read to a bound, decoded as a tree.

use std::time::Duration;

use api::schema::Strictness;
use api::{ApiError, Reason};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::negotiate::BodyKind;

/// The largest body. Upstream's limit: a larger object does not fit etcd.
pub const BODY_MAX: usize = 3 << 20;

/// A body that may not have arrived yet.
pub enum RequestBody {
    /// All of it.
    Full(Bytes),
    /// From a connection.
    Incoming(Incoming),
}

impl RequestBody {
    /// Waits for all of it, and for each piece at most `stall_max`.
    pub async fn read(self, stall_max: Duration) -> Result<Bytes, ApiError> {
        let incoming = match self {
            Self::Full(bytes) if bytes.len() > BODY_MAX => return Err(too_large()),
            Self::Full(bytes) => return Ok(bytes),
            Self::Incoming(incoming) => incoming,
        };
        if incoming.size_hint().lower() > BODY_MAX as u64 {
            return Err(too_large());
        }
        let (mut body, mut whole) = (Limited::new(incoming, BODY_MAX), BytesMut::new());
        loop {
            let Ok(frame) = tokio::time::timeout(stall_max, body.frame()).await else { return Err(super::timed_out()) };
            match frame {
                None => return Ok(whole.freeze()),
                Some(Ok(frame)) => whole.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
                Some(Err(error)) => {
                    let message = format!("cannot read the request's body: {error}");
                    return Err(ApiError::new(Reason::BadRequest, message));
                }
            }
        }
    }
}

fn too_large() -> ApiError {
    ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {BODY_MAX}"))
}

/// Decodes a body. Null stands for absent in all built-in types, so nulls are dropped.
pub fn decode(kind: BodyKind, body: &[u8]) -> Result<Value, ApiError> {
    let mut value = match kind {
        BodyKind::Yaml | BodyKind::Apply => yaml(body)?,
        BodyKind::Protobuf => protobuf(body)?,
        _ => json(body)?,
    };
    drop_nulls(&mut value);
    Ok(value)
}

/// Decodes JSON.
pub fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

/// The error of a body that is no JSON.
pub fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(Reason::BadRequest, format!("the body of the request is not JSON: {error}"))
}

/// Decodes YAML.
pub fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    let text =
        std::str::from_utf8(body).map_err(|_| ApiError::new(Reason::BadRequest, "the YAML body is not UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|error| ApiError::new(Reason::BadRequest, format!("the body of the request is not YAML: {error}")))
}

/// Decodes YAML in which keys may be given twice: the last one holds, and the client is warned or refused.
pub fn yaml_with_duplicates(body: &[u8], strictness: Strictness) -> Result<(Value, Vec<String>), ApiError> {
    let refuse = |why: String| ApiError::new(Reason::BadRequest, why);
    let text = std::str::from_utf8(body).map_err(|_| refuse("error decoding YAML: not UTF-8".to_owned()))?;
    let strict = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => error,
    };
    let Some(twice) = given_twice(&strict) else { return Err(refuse(format!("error decoding YAML: {strict}"))) };
    let complaint = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {twice}");
    if strictness == Strictness::Strict {
        return Err(refuse(format!("error strict decoding YAML: {complaint}")));
    }
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
    let value = serde_saphyr::from_str_with_options(text, options);
    let value = value.map_err(|error| refuse(format!("error decoding YAML: {error}")))?;
    Ok((value, if strictness == Strictness::Warn { vec![complaint] } else { Vec::new() }))
}

/// `line 3: key "a" already set in map`
fn given_twice(error: &serde_saphyr::Error) -> Option<String> {
    match error {
        serde_saphyr::Error::WithSnippet { error, .. } => given_twice(error),
        serde_saphyr::Error::DuplicateMappingKey { key, location } => {
            let key = key.as_deref().unwrap_or_default();
            Some(format!("line {}: key {key:?} already set in map", location.line()))
        }
        _ => None,
    }
}

/// Decodes Kubernetes' protobuf form.
pub fn protobuf(body: &[u8]) -> Result<Value, ApiError> {
    let (_, _, value) = api::protobuf::decode(body).map_err(|error| {
        ApiError::new(Reason::BadRequest, format!("the body of the request is unusable: {}", base::chain(&error)))
    })?;
    Ok(value)
}

/// Removes null entries of objects.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
