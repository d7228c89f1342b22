//! A request's query, decoded, and the options that the API's verbs read from it.

use std::borrow::Cow;

use api::schema::Strictness;
use api::{ApiError, Reason};
use http::Uri;

use super::Call;
use super::managed::MANAGER_BYTES_MAX;
use super::negotiate::BodyKind;
use crate::invalid::{FieldError, FieldErrorKind, invalid_options};

/// Decoded pairs in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The query of a URI.
    pub fn of(uri: &Uri) -> Self {
        let text = uri.query().unwrap_or_default();
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of that name; `None` where it is absent or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| &**value)
    }

    /// All values of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Whether a boolean is given and true. As upstream, anything but `false` and `0` is.
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .is_some_and(|(_, value)| !matches!(&**value, "" | "0") && !value.eq_ignore_ascii_case("false"))
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                let message = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
                Err(ApiError::new(Reason::BadRequest, format!("{name}: {message}")))
            }
        }
    }

    /// A resource version: digits.
    pub fn resource_version(&self) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get("resourceVersion") else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let message = format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
            ApiError::new(Reason::BadRequest, format!("resourceVersion: {message}"))
        })
    }
}

/// `%41` becomes `A`; what is no escape stays.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let decoded =
            escaped.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    match String::from_utf8_lossy(&out) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

/// What a write is to do besides writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// `dryRun=All`: everything but storing.
    pub dry_run: bool,
    /// What becomes of unknown and duplicate fields.
    pub strictness: Strictness,
}

impl WriteOptions {
    /// Reads a write's query.
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let query = &call.query;
        let kind = match call.verb {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            _ => "UpdateOptions",
        };
        let mut errors = Vec::new();
        if call.verb == "patch" {
            errors.extend(apply_error(call));
        }
        errors.extend(query.get("fieldManager").into_iter().flat_map(manager_errors));
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let given = query.get("fieldValidation");
        let strictness = Strictness::parse(given);
        if strictness.is_none() {
            let given = given.unwrap_or_default().into();
            errors.push(FieldError::not_supported("fieldValidation", &given, &["Ignore", "Strict", "Warn"]));
        }
        match strictness {
            Some(strictness) if errors.is_empty() => Ok(Self { dry_run, strictness }),
            _ => Err(invalid_options(kind, &errors)),
        }
    }
}

/// `force` and a required manager are server-side apply's alone.
fn apply_error(call: &Call) -> Option<FieldError> {
    let is_apply = BodyKind::of_patch(&call.headers).is_ok_and(|kind| kind == BodyKind::Apply);
    if is_apply {
        let named = call.query.get("fieldManager").is_some();
        return (!named).then(|| FieldError::required("fieldManager", "is required for apply patch"));
    }
    let forced = call.query.get("force").is_some();
    forced.then(|| FieldError::forbidden("force", "may not be specified for non-apply patch"))
}

fn manager_errors(name: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long("fieldManager", MANAGER_BYTES_MAX));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.push(FieldError::invalid("fieldManager", &name.into(), &why));
    }
    errors
}

/// Whether values of `dryRun` ask for one; the only one there is is `All`.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        let given: Vec<_> = values.iter().map(|value| format!("{value:?}")).collect();
        let detail = format!("[]string{{{}}}: supported values: \"All\"", given.join(", "));
        errors.push(FieldError { kind: FieldErrorKind::NotSupported, field: "dryRun".to_owned(), detail });
    }
    !values.is_empty()
}
