//! What a list asks for: which moment, how much of it, and where to go on. Combinations that make no sense are refused in
//! upstream's words.

use api::{ApiError, Key, Reason};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::invalid::{FieldError, invalid_options};
use crate::request::query::Query;

/// Which moment a list is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Everything that is committed when the request comes.
    Consistent,
    /// What the cache has.
    Any,
    /// This revision or a later one.
    NotOlderThan(u64),
    /// This revision.
    Exact(u64),
}

/// What a list asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The moment.
    pub moment: Moment,
    /// The most items of a page; 0 for all.
    pub limit: usize,
    /// The last key of the page before.
    pub after: Option<Key>,
}

impl Options {
    /// Reads a list's query.
    pub fn of(query: &Query) -> Result<Self, ApiError> {
        let limit = query.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
        check(query)?;
        let revision = query.resource_version()?;
        if let Some(token) = query.get("continue") {
            let token = Token::read(token)
                .map_err(|why| ApiError::new(Reason::BadRequest, format!("invalid continue token: {why}")))?;
            if revision.is_some_and(|revision| revision != 0) {
                let message = "specifying resource version is not allowed when using continue";
                return Err(ApiError::new(Reason::BadRequest, message));
            }
            let moment = u64::try_from(token.rv).map_or(Moment::Consistent, Moment::Exact);
            return Ok(Self { moment, limit, after: Some(token.last()) });
        }
        let moment = match (query.get("resourceVersionMatch"), revision) {
            (_, None) => Moment::Consistent,
            (_, Some(0)) => Moment::Any,
            (Some("Exact"), Some(revision)) => Moment::Exact(revision),
            // Paged lists at a revision were exact before resourceVersionMatch, and still are without it.
            (None, Some(revision)) if limit > 0 => Moment::Exact(revision),
            (_, Some(revision)) => Moment::NotOlderThan(revision),
        };
        // What the cache has comes whole, as upstream's: a second page could not show the same moment.
        let limit = if moment == Moment::Any { 0 } else { limit };
        Ok(Self { moment, limit, after: None })
    }
}

fn check(query: &Query) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let mut errors = Vec::new();
    if let Some(given) = query.get(FIELD) {
        if query.get("resourceVersion").is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if query.get("continue").is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if !["Exact", "NotOlderThan"].contains(&given) {
            errors.push(FieldError::not_supported(FIELD, &json!(given), &["Exact", "NotOlderThan", ""]));
        }
        if given == "Exact" && query.get("resourceVersion") == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(FIELD, why));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid_options("ListOptions", &errors)) }
}

/// Where a paged list goes on: upstream's token, opaque to clients.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Token {
    v: String,
    /// The first page's revision; -1 to go on at the present.
    rv: i64,
    /// The last key that was sent, and a zero byte: what comes behind it.
    start: String,
}

/// The token of the page behind `last`; of revision -1 to go on at the present.
pub fn token(rv: i64, last: &Key) -> String {
    let token = Token { v: "meta.k8s.io/v1".to_owned(), rv, start: format!("{last}\0") };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token is plain JSON"))
}

impl Token {
    fn read(token: &str) -> Result<Self, String> {
        let invalid = |why: &dyn std::fmt::Display| format!("continue key is not valid: {why}");
        let json = URL_SAFE_NO_PAD.decode(token).map_err(|why| invalid(&why))?;
        let token: Self = serde_json::from_slice(&json).map_err(|why| invalid(&why))?;
        if token.v != "meta.k8s.io/v1" {
            let why = "continue key is not valid: server does not recognize this encoded version";
            return Err(format!("{why} {}", token.v));
        }
        if token.rv == 0 {
            return Err(invalid(&"incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(invalid(&"encoded start key empty (version meta.k8s.io/v1)"));
        }
        if token.start.split('/').count() > 2 || token.start.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(&token.start));
        }
        Ok(token)
    }

    fn last(&self) -> Key {
        let start = self.start.trim_end_matches('\0');
        let (namespace, name) = start.split_once('/').unwrap_or(("", start));
        Key::new(namespace, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<Options, String> {
        let query = Query::of(&format!("/?{query}").parse().unwrap());
        Options::of(&query).map_err(|error| error.message)
    }

    #[test]
    fn reads_what_makes_sense() {
        let key = Key::new("ns", "a");
        let options = |moment, limit, after| Ok(Options { moment, limit, after });
        let table = [
            (String::new(), options(Moment::Consistent, 0, None)),
            ("limit=5".to_owned(), options(Moment::Consistent, 5, None)),
            ("resourceVersion=0&limit=5".to_owned(), options(Moment::Any, 0, None)),
            ("resourceVersion=7".to_owned(), options(Moment::NotOlderThan(7), 0, None)),
            ("resourceVersion=7&limit=5".to_owned(), options(Moment::Exact(7), 5, None)),
            (
                "resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan".to_owned(),
                options(Moment::NotOlderThan(7), 5, None),
            ),
            ("resourceVersion=7&resourceVersionMatch=Exact".to_owned(), options(Moment::Exact(7), 0, None)),
            (format!("limit=5&continue={}", token(7, &key)), options(Moment::Exact(7), 5, Some(key))),
            (
                format!("continue={}", token(-1, &Key::new("", "n"))),
                options(Moment::Consistent, 0, Some(Key::new("", "n"))),
            ),
        ];
        for (query, expected) in table {
            assert_eq!(of(&query), expected, "{query}");
        }
    }

    #[test]
    fn refuses_the_rest_in_upstreams_words() {
        let encoded = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let table = [
            (
                "resourceVersionMatch=Exact".to_owned(),
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "resourceVersion=0&resourceVersionMatch=Exact".to_owned(),
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                "resourceVersion=1&resourceVersionMatch=x".to_owned(),
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"x\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
            (
                "sendInitialEvents=true".to_owned(),
                "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ),
            (
                format!("resourceVersion=5&continue={}", token(7, &Key::new("a", "b"))),
                "specifying resource version is not allowed when using continue",
            ),
            (
                format!("continue={}", encoded(r#"{"v":"v2","rv":1,"start":"a"}"#)),
                "invalid continue token: continue key is not valid: server does not recognize this encoded version v2",
            ),
            (
                format!("continue={}", encoded(r#"{"v":"meta.k8s.io/v1","start":"a"}"#)),
                "invalid continue token: continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                format!("continue={}", encoded(r#"{"v":"meta.k8s.io/v1","rv":1}"#)),
                "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
            ),
            (
                format!("continue={}", encoded(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a"}"#)),
                "invalid continue token: continue key is not valid: ../a",
            ),
        ];
        for (query, expected) in table {
            assert_eq!(of(&query), Err(expected.to_owned()), "{query}");
        }
    }
}
