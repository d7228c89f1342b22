//! One event, as a line of the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::Trail;
use super::policy::Level;
use crate::authentication::review::user_info;
use crate::authorization::Attributes;
use crate::request::body;
use crate::request::notes::Notes;

/// When in a request's life an event is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The request's head was read and its sender is known.
    RequestReceived,
    /// The head of the answer was sent; streams only.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The server failed in the middle of it.
    Panic,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::Panic => "Panic",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
        }
    }
}

/// An event as the request's path hands it over: nothing is copied or encoded before the log's task does.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) notes: Arc<Notes>,
    pub(crate) stage: Stage,
    pub(crate) at: Timestamp,
    pub(crate) code: u16,
    pub(crate) response: Option<Bytes>,
}

/// An event as it is written, in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<Value>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[_]>::is_empty")]
    source_ips: &'a [IpAddr],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectReference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<ResponseStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectReference<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

#[derive(Serialize)]
struct ResponseStatus {
    metadata: serde_json::Map<String, Value>,
    code: u16,
    /// Of a `Status` that was answered: what it says.
    #[serde(flatten)]
    told: serde_json::Map<String, Value>,
}

impl Event {
    /// Writes the line, without its end.
    pub(crate) fn encode(self, line: &mut Vec<u8>) {
        let Some((trail, verdict)) = self.notes.trail().and_then(|trail| Some((trail, trail.verdict.get()?))) else {
            return;
        };
        let shown = |object| if verdict.omit_managed_fields { without_managed_fields(object) } else { object };
        let sent = trail.request.get().and_then(|(kind, bytes)| body::decode(*kind, bytes).ok());
        let answered: Option<Value> = self.response.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let whole = verdict.level == Level::RequestResponse;
        // What came later is not yet known at the beginning.
        let begins = self.stage == Stage::RequestReceived;
        let user = trail.sender.get().map_or_else(|| json!({}), |sender| user_info(sender));
        let impersonated = trail.acts_as.get().filter(|_| !begins);
        let event = Line {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: verdict.level.name(),
            audit_id: &trail.id,
            stage: self.stage.name(),
            request_uri: &trail.uri,
            verb: &trail.attributes.verb,
            user,
            impersonated_user: impersonated.map(|other| user_info(other)),
            source_ips: &trail.source_ips,
            user_agent: &trail.user_agent,
            object_ref: trail.attributes.is_resource().then(|| object_reference(&trail.attributes)),
            response_status: (!begins).then(|| ResponseStatus {
                metadata: serde_json::Map::new(),
                code: self.code,
                told: answered.as_ref().map(told).unwrap_or_default(),
            }),
            request_object: sent.filter(|_| !begins).map(shown),
            response_object: answered.filter(|_| whole).map(shown),
            request_received_timestamp: machinery::time::micros(trail.received),
            stage_timestamp: machinery::time::micros(self.at),
            annotations: if begins { BTreeMap::new() } else { annotations(&self.notes, trail) },
        };
        serde_json::to_writer(line, &event).expect("strings and trees can be written into memory");
    }
}

/// What a `Status` says beside its code.
fn told(answered: &Value) -> serde_json::Map<String, Value> {
    let said = |field: &str| Some((field.to_owned(), answered.get(field)?.clone()));
    let fields = ["status", "message", "reason", "details"].into_iter().filter(|_| answered["kind"] == "Status");
    fields.filter_map(said).collect()
}

fn annotations(notes: &Notes, trail: &Trail) -> BTreeMap<String, String> {
    let mut annotations = notes.annotations();
    if let Some((decision, reason)) = trail.decision.get() {
        annotations.insert("authorization.k8s.io/decision".to_owned(), (*decision).to_owned());
        annotations.insert("authorization.k8s.io/reason".to_owned(), reason.clone());
    }
    annotations
}

fn without_managed_fields(mut object: Value) -> Value {
    let items = object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten();
    items.for_each(drop_managed_fields);
    drop_managed_fields(&mut object);
    object
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

fn object_reference(attributes: &Attributes) -> ObjectReference<'_> {
    ObjectReference {
        resource: &attributes.resource,
        namespace: &attributes.namespace,
        name: &attributes.name,
        api_group: &attributes.group,
        api_version: &attributes.version,
        subresource: &attributes.subresource,
    }
}
