//! A request's query, decoded, and the options that the API's verbs read from it.

use std::borrow::Cow;

use api::schema::Strictness;
use api::{ApiError, Reason};
use http::Uri;

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
    pub fn of(query: &Query) -> Result<Self, ApiError> {
        let dry_run = dry_run(query.all("dryRun").filter(|value| !value.is_empty()))?;
        let given = query.get("fieldValidation");
        let strictness = Strictness::parse(given).ok_or_else(|| {
            let given = given.unwrap_or_default();
            let message = format!(
                "fieldValidation: Unsupported value: {given:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            );
            ApiError::new(Reason::Invalid, message)
        })?;
        Ok(Self { dry_run, strictness })
    }
}

/// Whether values of `dryRun` ask for one; the only one there is is `All`.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    let mut asked = false;
    for value in values {
        if value != "All" {
            let message = format!("dryRun: Unsupported value: {value:?}: supported values: \"All\"");
            return Err(ApiError::new(Reason::Invalid, message));
        }
        asked = true;
    }
    Ok(asked)
}
