//! Cron jobs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::job;
use crate::invalid::FieldError;
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
        let spec = &cron["spec"];
        let mut errors = Vec::new();
        let schedule = text(&spec["schedule"]);
        if schedule.is_empty() {
            errors.push(FieldError::required("spec.schedule", ""));
        } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
            let count = schedule.split_whitespace().count();
            let why = format!("expected exactly 5 fields, found {count}: [{schedule}]");
            errors.push(FieldError::invalid("spec.schedule", &spec["schedule"], &why));
        }
        one_of(&mut errors, &spec["concurrencyPolicy"], "spec.concurrencyPolicy", &["Allow", "Forbid", "Replace"]);
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            not_negative(&mut errors, &spec[field], &format!("spec.{field}"));
        }
        errors.extend(job::validate_spec(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec"));
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}
