//! In which form an answer is wanted, and in which a body is written.

use api::{ApiError, Reason};
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};

/// What an answer shows of an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    /// All of it.
    #[default]
    Whole,
    /// Columns for people: `as=Table`.
    Table,
    /// `as=PartialObjectMetadata` and `PartialObjectMetadataList`.
    Metadata,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Syntax {
    /// `application/json`
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
}

/// What a table's row holds beside its cells: `includeObject`. Sorting by a field takes the whole object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RowObject {
    /// `Metadata`: a `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// `Object`: all of it.
    Whole,
    /// `None`
    Nothing,
}

impl RowObject {
    /// Reads the query parameter.
    pub fn parse(parameter: Option<&str>) -> Result<Self, ApiError> {
        match parameter {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("Object") => Ok(Self::Whole),
            Some("None") => Ok(Self::Nothing),
            Some(other) => {
                let message =
                    format!("includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty");
                Err(ApiError::new(Reason::BadRequest, message))
            }
        }
    }
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    /// What it shows.
    pub view: View,
    /// What the rows of a table hold.
    pub rows: RowObject,
    /// How it is written.
    pub syntax: Syntax,
    /// Whether it may be compressed.
    pub gzip: bool,
}

impl Form {
    /// What the client accepts, best first; JSON when it does not say.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let gzip = header(headers, &ACCEPT_ENCODING).split(',').any(|encoding| {
            let mut parts = encoding.split(';').map(str::trim);
            parts.next() == Some("gzip") && !parts.any(|part| part == "q=0")
        });
        let accept = header(headers, &ACCEPT);
        if accept.trim().is_empty() {
            return Ok(Self { gzip, ..Self::default() });
        }
        let found = accept.split(',').find_map(range);
        found.map(|(view, syntax)| Self { view, syntax, gzip, ..Self::default() }).ok_or_else(|| {
            let message = "only the following media types are accepted: application/json, application/yaml";
            ApiError::new(Reason::NotAcceptable, message)
        })
    }
}

/// One media range, when it is one that can be served.
fn range(range: &str) -> Option<(View, Syntax)> {
    let mut parts = range.split(';').map(str::trim);
    let syntax = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Syntax::Json,
        "application/yaml" => Syntax::Yaml,
        _ => return None,
    };
    let (mut name, mut group, mut version) = (None, None, None);
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => name = Some(value),
            Some(("g", value)) => group = Some(value),
            Some(("v", value)) => version = Some(value),
            _ => {}
        }
    }
    let view = match (name, group, version) {
        (None, ..) => View::Whole,
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => View::Table,
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            View::Metadata
        }
        _ => return None,
    };
    Some((view, syntax))
}

/// How a body is written, from its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf form.
    Protobuf,
    /// A JSON patch.
    JsonPatch,
    /// A merge patch.
    MergePatch,
    /// A strategic merge patch.
    StrategicPatch,
    /// A server-side apply configuration.
    Apply,
}

impl BodyKind {
    /// The kind of an object's body.
    pub fn of_object(headers: &HeaderMap) -> Result<Self, ApiError> {
        match media_type(headers) {
            "" | "application/json" => Ok(Self::Json),
            "application/yaml" => Ok(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Self::Protobuf),
            _ => {
                let message = "the body of the request was in an unknown format - accepted media types include: \
                               application/json, application/yaml, application/vnd.kubernetes.protobuf";
                Err(ApiError::new(Reason::UnsupportedMediaType, message))
            }
        }
    }

    /// The kind of a patch.
    pub fn of_patch(headers: &HeaderMap) -> Result<Self, ApiError> {
        match media_type(headers) {
            "application/json-patch+json" => Ok(Self::JsonPatch),
            "application/merge-patch+json" => Ok(Self::MergePatch),
            "application/strategic-merge-patch+json" => Ok(Self::StrategicPatch),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => {
                let message = "the body of the request was in an unknown format - accepted media types include: \
                               application/json-patch+json, application/merge-patch+json, \
                               application/strategic-merge-patch+json";
                Err(ApiError::new(Reason::UnsupportedMediaType, message))
            }
        }
    }
}

fn media_type(headers: &HeaderMap) -> &str {
    header(headers, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_first_form_that_can_be_served() {
        let table = [
            ("", Some((View::Whole, Syntax::Json))),
            ("*/*", Some((View::Whole, Syntax::Json))),
            ("application/vnd.kubernetes.protobuf,application/json", Some((View::Whole, Syntax::Json))),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io",
                Some((View::Table, Syntax::Json)),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some((View::Table, Syntax::Json)),
            ),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some((View::Metadata, Syntax::Json))),
            ("application/yaml", Some((View::Whole, Syntax::Yaml))),
            ("text/html", None),
        ];
        for (accept, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let seen = Form::of(&headers).ok().map(|form| (form.view, form.syntax));
            assert_eq!(seen, expected, "{accept}");
        }
    }
}
