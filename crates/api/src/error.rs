//! The API's errors: what becomes a `Status` object, and what a client reads from one.

use serde_json::{Value, json};

/// The machine-readable reason of a failure, under the names of `meta/v1` `StatusReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    RequestEntityTooLarge,
    TooManyRequests,
    ServerTimeout,
    Timeout,
    InternalError,
    ServiceUnavailable,
    Unknown,
}

impl Reason {
    /// Every reason with its HTTP status.
    pub const ALL: &[(Reason, &'static str, u16)] = &[
        (Reason::BadRequest, "BadRequest", 400),
        (Reason::Unauthorized, "Unauthorized", 401),
        (Reason::Forbidden, "Forbidden", 403),
        (Reason::NotFound, "NotFound", 404),
        (Reason::AlreadyExists, "AlreadyExists", 409),
        (Reason::Conflict, "Conflict", 409),
        (Reason::Gone, "Gone", 410),
        (Reason::Expired, "Expired", 410),
        (Reason::Invalid, "Invalid", 422),
        (Reason::MethodNotAllowed, "MethodNotAllowed", 405),
        (Reason::NotAcceptable, "NotAcceptable", 406),
        (Reason::UnsupportedMediaType, "UnsupportedMediaType", 415),
        (Reason::RequestEntityTooLarge, "RequestEntityTooLarge", 413),
        (Reason::TooManyRequests, "TooManyRequests", 429),
        (Reason::ServerTimeout, "ServerTimeout", 500),
        (Reason::Timeout, "Timeout", 504),
        (Reason::InternalError, "InternalError", 500),
        (Reason::ServiceUnavailable, "ServiceUnavailable", 503),
        (Reason::Unknown, "", 500),
    ];

    /// The name in `Status.reason`.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// The HTTP status that goes with it.
    pub fn code(self) -> u16 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(500, |row| row.2)
    }
}

/// A failure of an API call, in the shape of `meta/v1` `Status`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// `Status.details` (`name`, `group`, `kind`, `causes`, `retryAfterSeconds`), or null.
    pub details: Value,
}

impl ApiError {
    /// An error with the reason's own status and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { code: reason.code(), reason, message: message.into(), details: Value::Null }
    }

    /// `pods "x" not found`
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self::about(Reason::NotFound, group, plural, name, format!("{} \"{name}\" not found", qualified(group, plural)))
    }

    /// `pods "x" already exists`
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, plural));
        Self::about(Reason::AlreadyExists, group, plural, name, message)
    }

    /// `Operation cannot be fulfilled on pods "x": why`
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, plural));
        Self::about(Reason::Conflict, group, plural, name, message)
    }

    /// An error whose details name the object.
    pub fn about(reason: Reason, group: &str, plural: &str, name: &str, message: impl Into<String>) -> Self {
        let mut details = serde_json::Map::new();
        for (field, value) in [("name", name), ("group", group), ("kind", plural)] {
            if !value.is_empty() {
                details.insert(field.to_owned(), value.into());
            }
        }
        Self { details: Value::Object(details), ..Self::new(reason, message) }
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.name(), "code": self.code});
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        if self.reason == Reason::Unknown {
            status.as_object_mut().map(|fields| fields.remove("reason"));
        }
        status
    }

    /// Reads a `Status` body; a body that is none becomes the message (at most 1 kB of it).
    pub fn from_response(code: u16, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |field: &str| status.get(field).and_then(Value::as_str);
        let reason = text("reason").and_then(|name| Reason::ALL.iter().find(|row| row.1 == name)).map(|row| row.0);
        let by_code = || Reason::ALL.iter().find(|row| row.2 == code).map_or(Reason::Unknown, |row| row.0);
        let message = text("message").map_or_else(
            || format!("HTTP {code}: {}", String::from_utf8_lossy(&body[..body.len().min(1024)])),
            str::to_owned,
        );
        let details = status.get("details").cloned().unwrap_or_default();
        Self { code, reason: reason.unwrap_or_else(by_code), message, details }
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    /// Whether the object was changed by someone else first.
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }
}

fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
