//! What the workloads of this group have in common: one [`Strategy`] over what each kind says of itself.
//!
//! Their selector is fixed, their template's pods run for good, their status is the controller's: counts that cannot be
//! negative or larger than what they are a part of.

use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::tree::{
    child, entries, immutable, is_set, label_selector, list, not_negative, percent_or_number, present, set, text,
};
use crate::registry::{Context, Strategy, pod_spec};

/// What one kind says of itself.
pub(super) trait Workload: Send + Sync + 'static {
    /// Its name in the complaint about an empty selector.
    const SELECTS_FOR: &'static str;

    /// Its name in the complaint about a deadline for its pods; `None` where the deadline goes with the restart policy.
    const WITHOUT_DEADLINE: Option<&'static str> = None;

    /// The counts of its status.
    const COUNTS: &'static [&'static str];

    /// Which counts cannot be larger than which.
    const AT_MOST: &'static [AtMost] = &[];

    /// Sets what the spec leaves out, but for the template.
    fn default_spec(&self, spec: &mut Value);

    /// The status of a new object.
    fn new_status(&self) -> Value;

    /// Prepares metadata for a create, and for an update of `old`.
    fn prepare(&self, _object: &mut Value, _old: Option<&Value>) {}

    /// All that is wrong with the spec but for selector and template.
    fn validate_spec(&self, spec: &Value) -> Vec<FieldError>;

    /// All that is wrong with a new spec and is tolerated in one that is there.
    fn validate_new_spec(&self, _spec: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// The template as the pods will have it.
    fn template(&self, spec: &Value) -> Value {
        spec["template"].clone()
    }

    /// All that is wrong with a change of the spec.
    fn validate_spec_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        immutable(&mut errors, &new["selector"], &old["selector"], "spec.selector");
        errors
    }

    /// Warnings about what is the kind's own.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether a template that was wrong before may stay wrong.
    const TOLERATES_OLD_TEMPLATE: bool = false;

    /// What a write of the status sets back.
    const STATUS_RESET: &'static [&'static [&'static str]] = &[&["spec"]];

    /// All that is wrong with a name.
    fn name_errors(&self, name: &str) -> Vec<String> {
        machinery::names::dns1123_subdomain(name)
    }
}

/// The strategy of a workload.
pub(super) struct WorkloadStrategy<W>(pub(super) W);

impl<W: Workload> Strategy for WorkloadStrategy<W> {
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        if subresource.is_empty() { &[&["status"]] } else { W::STATUS_RESET }
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = child(object, "spec") else { return };
        self.0.default_spec(spec);
        pod_spec::default_template(spec);
    }

    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        set(object, "status", self.0.new_status());
        if let Some(spec) = present(object, "spec") {
            pod_spec::drop_disabled_in_template(spec, None);
        }
        self.0.prepare(object, None);
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        crate::registry::keep_status(new, old);
        if let Some(spec) = present(new, "spec") {
            pod_spec::drop_disabled_in_template(spec, Some(&old["spec"]));
        }
        self.0.prepare(new, Some(old));
    }

    fn validate(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_always(&object["spec"]);
        errors.extend(self.0.validate_new_spec(&object["spec"]));
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_always(&new["spec"]);
        if W::TOLERATES_OLD_TEMPLATE && !errors.is_empty() && !self.validate_always(&old["spec"]).is_empty() {
            errors = self.validate_around(&new["spec"]);
        }
        errors.extend(self.0.validate_spec_update(&new["spec"], &old["spec"]));
        errors
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        validate_counts(&new["status"], &old["status"], W::COUNTS, W::AT_MOST)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = match old {
            Some(old) if old["spec"] == new["spec"] => Vec::new(),
            _ => pod_spec::template_warnings(&new["spec"]["template"], "spec.template"),
        };
        warnings.extend(self.0.warnings(new, old));
        warnings
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        self.0.name_errors(name)
    }

    fn has_generation(&self) -> bool {
        true
    }
}

impl<W: Workload> WorkloadStrategy<W> {
    fn validate_always(&self, spec: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_around(spec);
        let template = self.0.template(spec);
        errors.extend(pod_spec::validate_template(&template, "spec.template", &["Always"]));
        errors
    }

    /// All but the template itself.
    fn validate_around(&self, spec: &Value) -> Vec<FieldError> {
        let mut errors = self.0.validate_spec(spec);
        validate_selector(&mut errors, spec, W::SELECTS_FOR);
        if let Some(kind) = W::WITHOUT_DEADLINE
            && is_set(&spec["template"]["spec"], "activeDeadlineSeconds")
        {
            let why = format!("activeDeadlineSeconds in {kind} is not Supported");
            errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", &why));
        }
        errors
    }
}

/// A warning for a new object whose name makes no good host name.
pub(in crate::registry) fn warn_of_name(warnings: &mut Vec<String>, object: &Value, old: Option<&Value>) {
    let wrong = machinery::names::dns1123_label(text(&object["metadata"]["name"]));
    if old.is_none() && !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label \
             is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

/// A count, one that it cannot be larger than, and that one's name in the complaint.
pub(in crate::registry) type AtMost = (&'static str, &'static str, &'static str);

/// All that is wrong with the counts of a status.
pub(in crate::registry) fn validate_counts(
    status: &Value,
    before: &Value,
    counts: &[&'static str],
    at_most: &[AtMost],
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in counts.iter().chain(&["observedGeneration", "collisionCount"]) {
        not_negative(&mut errors, &status[*field], &format!("status.{field}"));
    }
    let count = |status: &Value, field: &str| status[field].as_i64().unwrap_or(0);
    for (part, whole, named) in at_most {
        if count(status, part) > count(status, whole) {
            let why = format!("cannot be greater than {named}");
            errors.push(FieldError::invalid(format!("status.{part}"), &status[*part], &why));
        }
    }
    if count(status, "collisionCount") < count(before, "collisionCount") {
        let value = Value::from(count(status, "collisionCount"));
        errors.push(FieldError::invalid("status.collisionCount", &value, "cannot be decremented"));
    }
    errors
}

/// What every workload's selector must be: not empty, well formed, and matching the template's labels.
fn validate_selector(errors: &mut Vec<FieldError>, spec: &Value, kind: &str) {
    let selector = &spec["selector"];
    if !is_set(spec, "selector") {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    label_selector(errors, selector, "spec.selector");
    let empty = entries(&selector["matchLabels"]).next().is_none() && list(&selector["matchExpressions"]).is_empty();
    if empty {
        let why = format!("empty selector is invalid for {kind}");
        errors.push(FieldError::invalid("spec.selector", selector, &why));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let parsed = machinery::Selector::from_label_selector(selector);
    if parsed.is_ok_and(|selector| !selector.matches(|key| labels.get(key).and_then(Value::as_str))) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, why));
    }
}

/// Complains unless the value is a number that is not negative or a percentage, one of at most 100 % where `bounded`.
pub(super) fn share(errors: &mut Vec<FieldError>, value: &Value, path: &str, bounded: Bounded) {
    match percent_or_number(value) {
        Err(why) => errors.push(FieldError::invalid(path, value, &why)),
        Ok(percent) if bounded == Bounded::To100Percent && value.is_string() && percent > 100 => {
            errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
        }
        Ok(_) => {}
    }
}

/// Whether a percentage may be more than everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bounded {
    /// It may not.
    To100Percent,
    /// It may.
    Not,
}

/// Whether the value is a share of nothing.
pub(super) fn is_none(value: &Value) -> bool {
    percent_or_number(value).is_ok_and(|number| number == 0)
}

/// Sets the type of an update strategy, and says whether it is `RollingUpdate`.
pub(super) fn default_strategy<'a>(spec: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let strategy = child(spec, field)?;
    crate::registry::tree::set_default(strategy, "type", "RollingUpdate");
    if text(&strategy["type"]) == "RollingUpdate" { child(strategy, "rollingUpdate") } else { None }
}
