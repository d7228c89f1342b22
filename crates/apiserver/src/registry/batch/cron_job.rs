//! Cron jobs.

use std::sync::Arc;

use machinery::cron;
use serde_json::{Value, json};

use super::job;
use crate::invalid::FieldError;
use crate::registry::apps::workload::warn_of_name;
use crate::registry::tree::{child, is_set, not_negative, one_of, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::CRON_JOBS, strategy: |_| Arc::new(CronJobStrategy) };

struct CronJobStrategy;

impl Strategy for CronJobStrategy {
    fn default(&self, cron: &mut Value) {
        let Some(spec) = child(cron, "spec") else { return };
        set_default(spec, "concurrencyPolicy", "Allow");
        if !is_set(spec, "suspend") {
            set(spec, "suspend", false);
        }
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = child(spec, "jobTemplate").and_then(|template| child(template, "spec")) {
            // Completions and the like are defaulted in the jobs that are made: the template is shown as written.
            crate::registry::pod_spec::default_template(template);
        }
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        let mut errors = machinery::names::dns1123_subdomain(name);
        // The jobs' names are this one with a suffix of eleven characters.
        if name.len() > 52 {
            errors.push("must be no more than 52 characters".to_owned());
        }
        errors
    }

    fn prepare_for_create(&self, _: &Context<'_>, cron: &mut Value) {
        set(cron, "status", json!({}));
    }

    fn validate(&self, _: &Context<'_>, cron: &Value) -> Vec<FieldError> {
        let mut errors = validate_spec(&cron["spec"]);
        if text(&cron["spec"]["schedule"]).contains("TZ") {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(FieldError::invalid("spec.schedule", &cron["spec"]["schedule"], why));
        }
        errors
    }

    /// A zone inside the schedule, which older servers allowed, may stay.
    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate_spec(&new["spec"]);
        let schedule = &new["spec"]["schedule"];
        let had_zone = text(&old["spec"]["schedule"]).contains("TZ");
        let complaint = match (text(schedule).contains("TZ"), had_zone) {
            (true, false) => Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
            (true, true) if is_set(&new["spec"], "timeZone") => {
                Some("cannot use both timeZone field and TZ or CRON_TZ in schedule")
            }
            _ => None,
        };
        errors.extend(complaint.map(|why| FieldError::invalid("spec.schedule", schedule, why)));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        warn_of_name(&mut warnings, new, old);
        if old.is_none_or(|old| old["spec"] != new["spec"]) {
            warnings.extend(job::spec_warnings(&new["spec"]["jobTemplate"]["spec"], "spec.jobTemplate.spec"));
        }
        // Upstream's path has a `spec` too many.
        if old.is_some() && text(&new["spec"]["schedule"]).contains("TZ") {
            warnings.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
        warnings
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate_spec(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(&spec["schedule"]).is_empty() {
        errors.push(FieldError::required("spec.schedule", ""));
    } else if let Err(error) = cron::parse(text(&spec["schedule"])) {
        errors.push(FieldError::invalid("spec.schedule", &spec["schedule"], &error.to_string()));
    }
    validate_time_zone(&mut errors, spec);
    one_of(&mut errors, &spec["concurrencyPolicy"], "spec.concurrencyPolicy", &["Allow", "Forbid", "Replace"]);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(&mut errors, &spec[field], &format!("spec.{field}"));
    }
    let template = &spec["jobTemplate"]["spec"];
    errors.extend(job::validate_spec(template, "spec.jobTemplate.spec"));
    if is_set(template, "selector") {
        let why = "`selector` will be auto-generated";
        errors.push(FieldError::invalid("spec.jobTemplate.spec.selector", &template["selector"], why));
    }
    if template["manualSelector"] == true {
        let path = "spec.jobTemplate.spec.manualSelector";
        errors.push(FieldError::not_supported(path, &template["manualSelector"], &["nil", "false"]));
    }
    errors
}

fn validate_time_zone(errors: &mut Vec<FieldError>, spec: &Value) {
    let Some(zone) = spec["timeZone"].as_str() else { return };
    let mut complain = |why: &str| errors.push(FieldError::invalid("spec.timeZone", &spec["timeZone"], why));
    if zone.is_empty() {
        complain("timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("Local") {
        complain("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if cron::time_zone(zone).is_none() {
        complain(&format!("unknown time zone {zone}"));
    }
}
