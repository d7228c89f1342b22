//! One event, as a line of the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Trail;
use super::policy::{Level, Verdict};
use crate::authentication::review::user_info;
use crate::authorization::Attributes;
use crate::request::body;
use crate::request::negotiate::BodyKind;

/// When in a request's life an event is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The head of the answer was sent; streams only.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
        }
    }
}

/// An event whose bodies are still encoded: the log's task decodes them.
#[derive(Debug)]
pub(crate) struct Event {
    fields: Value,
    level: Level,
    request: Option<(BodyKind, Bytes)>,
    response: Option<Bytes>,
    omit_managed_fields: bool,
}

impl Event {
    pub(crate) fn of(
        trail: &Trail,
        verdict: &Verdict,
        stage: Stage,
        now: Timestamp,
        code: u16,
        response: Option<Bytes>,
        mut annotations: BTreeMap<String, String>,
    ) -> Self {
        let mut fields = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": verdict.level.name(), "auditID": trail.id,
            "stage": stage.name(), "requestURI": trail.uri, "verb": trail.attributes.verb,
        });
        match trail.who.get() {
            Some((sender, other)) => {
                fields["user"] = user_info(sender);
                if let Some(other) = other {
                    fields["impersonatedUser"] = user_info(other);
                }
            }
            None => fields["user"] = json!({}),
        }
        if !trail.user_agent.is_empty() {
            fields["userAgent"] = trail.user_agent.as_str().into();
        }
        if trail.attributes.is_resource() {
            fields["objectRef"] = object_reference(&trail.attributes);
        }
        fields["responseStatus"] = json!({"metadata": {}, "code": code});
        fields["requestReceivedTimestamp"] = machinery::time::micros(trail.received).into();
        fields["stageTimestamp"] = machinery::time::micros(now).into();
        if let Some((decision, reason)) = trail.decision.get() {
            annotations.insert("authorization.k8s.io/decision".to_owned(), (*decision).to_owned());
            annotations.insert("authorization.k8s.io/reason".to_owned(), reason.clone());
        }
        if !annotations.is_empty() {
            fields["annotations"] = json!(annotations);
        }
        let request = trail.request.get().cloned();
        Self { fields, level: verdict.level, request, response, omit_managed_fields: verdict.omit_managed_fields }
    }

    /// The line, without its end.
    pub(crate) fn encode(mut self) -> Vec<u8> {
        if let Some((kind, bytes)) = &self.request
            && let Ok(object) = body::decode(*kind, bytes)
        {
            self.fields["requestObject"] = self.shown(object);
        }
        let response: Option<Value> = self.response.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        if let Some(response) = response {
            if response["kind"] == "Status" {
                for field in ["status", "message", "reason", "details"] {
                    if let Some(value) = response.get(field) {
                        self.fields["responseStatus"][field] = value.clone();
                    }
                }
            }
            if self.level == Level::RequestResponse {
                self.fields["responseObject"] = self.shown(response);
            }
        }
        serde_json::to_vec(&self.fields).unwrap_or_default()
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.omit_managed_fields {
            let items = object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten();
            items.for_each(drop_managed_fields);
            drop_managed_fields(&mut object);
        }
        object
    }
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

fn object_reference(attributes: &Attributes) -> Value {
    let mut reference = serde_json::Map::new();
    for (field, value) in [
        ("resource", &attributes.resource),
        ("namespace", &attributes.namespace),
        ("name", &attributes.name),
        ("apiGroup", &attributes.group),
        ("apiVersion", &attributes.version),
        ("subresource", &attributes.subresource),
    ] {
        if !value.is_empty() {
            reference.insert(field.to_owned(), value.as_str().into());
        }
    }
    reference.into()
}
