//! Answers: statuses, objects and errors as HTTP responses.

use std::io::Write;

use api::{ApiError, Object};
use bytes::Bytes;
use control::Body;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::negotiate::{Form, Syntax, View};
use crate::{Served, table};

/// What the server answers.
pub type Answer = Response<Body>;

/// Smaller answers are not worth compressing. Upstream's threshold.
pub const GZIP_MIN: usize = 128 * 1024;

/// An answer with JSON.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "application/json", Body::Full(body.into()))
}

/// An answer with text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", Body::Full(body.into()))
}

/// An answer of any media type. Answers of the API are never cached on the way.
pub fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An error as a `Status`.
pub fn error(error: &ApiError) -> Answer {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, error.to_status().to_string());
    if let Some(seconds) = error.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `Status` of a success; `details` may be null.
pub fn success(status: StatusCode, details: Value) -> Answer {
    let mut body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if !details.is_null() {
        body["details"] = details;
    }
    json(status, body.to_string())
}

/// One object in the form that the client asked for.
pub fn object(status: StatusCode, form: Form, object: &Object, served: &Served, now: jiff::Timestamp) -> Answer {
    let json_bytes = match form.view {
        View::Whole => object.json().clone(),
        View::Metadata => metadata_of(&object.to_value()).to_string().into(),
        View::Table => table::of_object(served, form.rows, &object.to_value(), now).to_string().into(),
    };
    encoded(status, form, json_bytes)
}

/// Encoded JSON in the syntax that the client asked for, compressed where that is worth it.
pub fn encoded(status: StatusCode, form: Form, body: Bytes) -> Answer {
    let (content_type, body) = match form.syntax {
        Syntax::Json => ("application/json", body),
        Syntax::Yaml => ("application/yaml", to_yaml(&body).into()),
    };
    if !form.gzip || body.len() < GZIP_MIN {
        return with_type(status, content_type, Body::Full(body));
    }
    let mut response = with_type(status, content_type, Body::Full(gzip(&body).into()));
    mark_compressed(&mut response);
    response
}

/// Says that a body is compressed.
pub fn mark_compressed(response: &mut Answer) {
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Adds `Warning` headers in the form that the API uses.
pub fn add_warnings(response: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        // A warning that is no header text (control characters) is left out: it is advice only.
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// `PartialObjectMetadata` of an object.
pub fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// JSON as YAML.
pub fn to_yaml(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    serde_saphyr::to_string(&value).unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned())
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("compressing into memory does not fail")
}
