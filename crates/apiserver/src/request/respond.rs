//! Answers: statuses, objects and errors as HTTP responses.

use std::io::Write;

use api::protobuf::encode;
use api::{ApiError, Object, Reason};
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
pub fn error(form: Form, error: &ApiError) -> Answer {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = status(form, code, &error.to_status());
    if let Some(seconds) = error.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A `Status` in the syntax that the client asked for, whatever view it asked for.
pub fn status(form: Form, code: StatusCode, status: &Value) -> Answer {
    encoded(code, form, status.to_string().into())
}

/// `Status` of a success; `details` may be null.
pub fn success(form: Form, code: StatusCode, details: Value) -> Answer {
    let mut body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if !details.is_null() {
        body["details"] = details;
    }
    status(form, code, &body)
}

/// One object in the form that the client asked for.
pub fn object(status: StatusCode, form: Form, object: &Object, served: &Served, now: jiff::Timestamp) -> Answer {
    let json_bytes = match (form.view, form.syntax) {
        (View::Whole, Syntax::Protobuf) => return in_protobuf(status, form, object, &served.resource),
        (View::Whole, _) => object.json().clone(),
        (View::Metadata, _) => metadata_json(object.json()),
        (View::Table, _) => table::of_object(served, form.rows, &object.to_value(), now).to_string().into(),
    };
    encoded(status, form, json_bytes)
}

fn in_protobuf(status: StatusCode, form: Form, object: &Object, resource: &api::Resource) -> Answer {
    let made = api::schema::type_of(resource).map(|of| object.protobuf(of));
    match made {
        Some(Ok(raw)) => {
            let enveloped = encode::envelope(&resource.api_version(), &resource.kind, &raw);
            compressed(with_type(status, form.syntax.media_type(), Body::Full(Bytes::new())), form, enveloped.into())
        }
        Some(Err(why)) => error(Form::default(), &unwritable(&why)),
        None => encoded(status, Form { syntax: Syntax::Json, ..form }, object.json().clone()),
    }
}

/// Stored bytes that do not fit their type: our bug, or a datastore that somebody else wrote to.
pub fn unwritable(why: &encode::EncodeError) -> ApiError {
    let why = base::chain(why);
    tracing::error!(error = why, "an object cannot be written as protobuf");
    ApiError::new(Reason::InternalError, format!("Internal error occurred: {why}"))
}

/// Encoded JSON in the syntax that the client asked for, compressed where that is worth it. What has no protobuf form is sent
/// as JSON: the client reads the media type.
pub fn encoded(status: StatusCode, form: Form, body: Bytes) -> Answer {
    let (syntax, body) = match form.syntax {
        Syntax::Json if form.pretty => (Syntax::Json, indented(&body)),
        Syntax::Json => (Syntax::Json, body),
        Syntax::Yaml => (Syntax::Yaml, to_yaml(&body).into()),
        Syntax::Protobuf => match encode::document(&body) {
            Ok(Some(document)) => (Syntax::Protobuf, document.into()),
            Ok(None) => (Syntax::Json, body),
            Err(why) => return error(Form::default(), &unwritable(&why)),
        },
    };
    compressed(with_type(status, syntax.media_type(), Body::Full(Bytes::new())), form, body)
}

/// Puts a body into an answer, compressed where the client takes that and it is worth it.
fn compressed(mut answer: Answer, form: Form, body: Bytes) -> Answer {
    if form.gzip && body.len() > GZIP_MIN {
        *answer.body_mut() = Body::Full(gzip(&body).into());
        mark_compressed(&mut answer);
    } else {
        *answer.body_mut() = Body::Full(body);
    }
    answer
}

fn indented(json: &[u8]) -> Bytes {
    let indented = serde_json::from_slice::<Value>(json).and_then(|value| serde_json::to_vec_pretty(&value));
    indented.map_or_else(|_| Bytes::copy_from_slice(json), Bytes::from)
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

/// `PartialObjectMetadata` of an encoded object. Decodes nothing.
pub fn metadata_json(object: &[u8]) -> Bytes {
    let metadata = api::object::raw_metadata(object).unwrap_or("{}");
    format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{metadata}}}"#).into()
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
