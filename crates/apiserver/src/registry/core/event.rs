//! Events, in both groups that serve them. The newer group is stricter about what is new.

use std::sync::Arc;

use machinery::names;
use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{set, text};
use crate::registry::{Context, Descriptor, Strategy, check};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::EVENTS, strategy: |_| Arc::new(EventStrategy { form: &CORE }) };
/// The line of the group `events.k8s.io`.
pub const DESCRIPTOR_V1: Descriptor =
    Descriptor { resource: api::resources::EVENTS_V1, strategy: |_| Arc::new(EventStrategy { form: &EVENTS }) };

const NAME_LENGTH_MAX: usize = 128;
const NOTE_LENGTH_MAX: usize = 1024;

/// The names of an event's fields in a group. Paths in errors are those of the older one but for the controller.
struct Form {
    about: &'static str,
    message: &'static str,
    controller: &'static str,
    count: &'static str,
    first: &'static str,
    last: &'static str,
    source: &'static str,
    is_strict: bool,
}

static CORE: Form = Form {
    about: "involvedObject",
    message: "message",
    controller: "reportingComponent",
    count: "count",
    first: "firstTimestamp",
    last: "lastTimestamp",
    source: "source",
    is_strict: false,
};
static EVENTS: Form = Form {
    about: "regarding",
    message: "note",
    controller: "reportingController",
    count: "deprecatedCount",
    first: "deprecatedFirstTimestamp",
    last: "deprecatedLastTimestamp",
    source: "deprecatedSource",
    is_strict: true,
};

struct EventStrategy {
    form: &'static Form,
}

impl Strategy for EventStrategy {
    fn default(&self, event: &mut Value) {
        // Empty text is what Go leaves where nothing was said.
        for field in ["reportingComponent", "reportingInstance"] {
            if !self.form.is_strict && event.is_object() && event.get(field).is_none_or(Value::is_null) {
                set(event, field, "");
            }
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, event: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(event, "");
        self.validate_any(&mut errors, &root);
        if self.form.is_strict {
            series(&mut errors, &root);
            if !root.at("eventTime").is_set() {
                errors.push(root.at("eventTime").required(""));
            }
            if !["Normal", "Warning"].contains(&root.at("type").text()) {
                let why = format!("has invalid value: {}", root.at("type").text());
                errors.push(root.at("type").invalid_as("", &why));
            }
            let old_fields = [(self.form.first, "firstTimestamp"), (self.form.last, "lastTimestamp")];
            for (field, shown) in
                old_fields.into_iter().chain([(self.form.count, "count"), (self.form.source, "source")])
            {
                let given = root.at(field).value();
                let empty = given.is_null() || *given == 0 || given.as_object().is_some_and(serde_json::Map::is_empty);
                if !empty {
                    errors.push(root.at(shown).invalid_as("", "needs to be unset"));
                }
            }
        }
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        self.validate_any(&mut errors, &root);
        if !self.form.is_strict {
            return errors;
        }
        if new["series"] != old["series"] {
            series(&mut errors, &root);
        }
        let form = self.form;
        for (field, shown) in [
            (form.about, "involvedObject"),
            ("reason", "reason"),
            (form.message, "message"),
            (form.source, "source"),
            (form.first, "firstTimestamp"),
            (form.last, "lastTimestamp"),
            (form.count, "count"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("action", "action"),
            ("related", "related"),
            (form.controller, "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ] {
            if new[field] != old[field] {
                errors.push(root.at(shown).invalid_as(new[field].clone(), "field is immutable"));
            }
        }
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

impl EventStrategy {
    /// What holds of events in both groups. An event with a time of its own is of the newer kind.
    fn validate_any(&self, errors: &mut Errors, root: &At<'_>) {
        let metadata = root.at("metadata");
        let (own, about) = (metadata.at("namespace").text(), root.at(self.form.about));
        let shown = root.at("involvedObject");
        let shown = shown.text_at("namespace").with(about.text_at("namespace").value()).value().clone();
        let given = text(&shown);
        let timed = root.at("eventTime").is_set();
        let fits = match (given.is_empty(), timed) {
            (true, false) => matches!(own, "" | "default"),
            (true, true) => matches!(own, "default" | "kube-system"),
            (false, true) => true,
            (false, false) => own == given,
        };
        if !fits {
            let path = root.at("involvedObject");
            errors.push(path.at("namespace").invalid_as(given, "does not match event.namespace"));
        }
        if !timed {
            return;
        }
        let controller = root.text_at(self.form.controller);
        check::required(errors, &controller);
        check::text(errors, &controller, names::qualified_name);
        for field in ["reportingInstance", "action", "reason"] {
            check::required(errors, &root.at(field));
            too_long(errors, &root.at(field), root.at(field).text(), NAME_LENGTH_MAX);
        }
        too_long(errors, &root.at("message"), root.at(self.form.message).text(), NOTE_LENGTH_MAX);
    }
}

fn too_long(errors: &mut Errors, at: &At<'_>, given: &str, max: usize) {
    if given.len() > max {
        errors.push(at.invalid_as("", &format!("can have at most {max} characters")));
    }
}

fn series(errors: &mut Errors, root: &At<'_>) {
    let series = root.at("series");
    if !series.is_set() {
        return;
    }
    if series.at("count").number().unwrap_or(0) < 2 {
        errors.push(root.at("series.count").invalid_as("", "should be at least 2"));
    }
    if !series.at("lastObservedTime").is_set() {
        errors.push(root.at("series.lastObservedTime").required(""));
    }
}
