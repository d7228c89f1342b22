//! The pod spec, which pods and everything that makes pods share: upstream's defaults, checks and warnings.
//!
//! One file a topic. Errors come in upstream's order, under upstream's paths, of which some are not the way to the value.
//! Left out is what upstream has behind features that are off by default in 1.36; their fields are dropped ([`drop_disabled`]).

mod annotations;
mod containers;
mod defaults;
mod env;
mod mounts;
mod network;
mod placement;
mod probes;
mod projected;
mod resources;
mod security;
pub(crate) mod status;
pub(crate) mod update;
pub(crate) mod volume_sources;
mod volumes;
mod warnings;
mod windows;

#[cfg(test)]
mod tests;

pub use defaults::quality_of_service;
pub use defaults::{default, default_account, default_pod, default_template, drop_disabled, drop_disabled_in_template};
pub(crate) use defaults::{default_sources_of_storage, select_own_labels, take_app_armor_annotations};
pub(crate) use placement::tolerations;
pub(crate) use resources::{overhead, resource_quantity, round_up};
pub(crate) use volumes::host_path;
pub use warnings::{pod as pod_warnings, template as template_warnings};

use machinery::names;
use serde_json::Value;

use super::at::{At, Errors};
use super::{check, tree};
use crate::invalid::FieldError;

/// The fields of a spec that list containers, in the order in which they start.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What a spec's checks need to know of the object that it is in.
#[derive(Clone, Copy, Default)]
struct Meta<'a> {
    /// The pod's name; empty in a template, and where it is not known.
    name: &'a str,
    /// Whether the object is a pod.
    is_pod: bool,
    /// Whether the kubelet made the pod from a file.
    is_mirror: bool,
}

/// What the checks of containers need to know of their pod.
struct Scope<'a> {
    volumes: volumes::Volumes<'a>,
    claims: resources::Claims<'a>,
    grace_seconds: Option<i64>,
    host_users: bool,
    restart_policy: &'a str,
}

/// All that is wrong with a template, at `path`, whose pods may be restarted as `restart` says.
pub fn validate_template(template: &Value, path: &str, restart: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = At::new(template, path);
    template_spec(&mut errors, &at);
    let policy = at.at("spec");
    let policy = policy.at("restartPolicy");
    if !restart.contains(&policy.text()) && (policy.has_text() || errors.is_empty()) {
        let already = errors.iter().any(|error| error.field == policy.path());
        if !already {
            errors.push(policy.not_supported(restart));
        }
    }
    errors
}

/// All that is wrong with a template, but for what its owner asks of it.
pub(crate) fn template_spec(errors: &mut Errors, at: &At<'_>) {
    let (metadata, spec) = (at.at("metadata"), at.at("spec"));
    // Upstream's paths of a template leave `metadata` out.
    let annotations = at.at("annotations");
    let annotations = annotations.with(metadata.at("annotations").value());
    let labels = at.at("labels");
    check::labels(errors, &labels.with(metadata.at("labels").value()));
    crate::request::metadata::validate_annotations(errors, &annotations);
    annotations::validate(errors, &annotations, &spec);
    validate_spec(errors, &spec, Meta::default());
    annotations::seccomp_matches(errors, &metadata.at("annotations"), &spec);
    annotations::app_armor_matches(errors, &metadata.at("annotations"), &spec);
    if spec.at("ephemeralContainers").count() > 0 {
        errors.push(spec.at("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// All that is wrong with a pod, but for what depends on whether it is new.
pub(crate) fn validate_pod(errors: &mut Errors, pod: &Value) {
    let root = At::new(pod, "");
    let (metadata, spec) = (root.at("metadata"), root.at("spec"));
    let annotations = metadata.at("annotations");
    annotations::validate(errors, &annotations, &spec);
    let meta = Meta {
        name: metadata.at("name").text(),
        is_pod: true,
        is_mirror: annotations.at(annotations::MIRROR).is_set(),
    };
    validate_spec(errors, &spec, meta);
    if !spec.at("serviceAccountName").has_text() {
        for volume in spec.at("volumes").items() {
            for source in volume.at("projected").at("sources").items() {
                if source.at("serviceAccountToken").is_set() {
                    let why = "must not be specified when serviceAccountName is not set";
                    errors.push(source.at("serviceAccountToken").forbidden(why));
                }
            }
        }
    }
    for kind in ["containers", "initContainers"] {
        spec.at(kind).items().for_each(|container| containers::untrimmed_image(errors, &container));
    }
}

/// All that is wrong with a new pod.
pub(crate) fn validate_new_pod(pod: &Value) -> Errors {
    let mut errors = Vec::new();
    validate_pod(&mut errors, pod);
    let root = At::new(pod, "");
    let (metadata, spec) = (root.at("metadata"), root.at("spec"));
    if spec.at("ephemeralContainers").count() > 0 {
        errors.push(spec.at("ephemeralContainers").forbidden("cannot be set on create"));
    }
    if spec.at("nodeName").has_text() && spec.at("schedulingGates").count() > 0 {
        errors.push(spec.at("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    annotations::seccomp_matches(&mut errors, &metadata.at("annotations"), &spec);
    annotations::app_armor_matches(&mut errors, &metadata.at("annotations"), &spec);
    errors
}

fn validate_spec(errors: &mut Errors, spec: &At<'_>, meta: Meta<'_>) {
    if !spec.at("terminationGracePeriodSeconds").is_set() {
        errors.push(spec.at("terminationGracePeriodSeconds").required(""));
    }
    let volumes_at = spec.at("volumes");
    let scope = Scope {
        volumes: volumes::validate(errors, &volumes_at, &meta),
        claims: claim_names(spec),
        grace_seconds: spec.at("terminationGracePeriodSeconds").number(),
        host_users: *spec.at("hostUsers").value() != false,
        restart_policy: spec.at("restartPolicy").text(),
    };
    resource_claims(errors, &spec.at("resourceClaims"), meta);
    let [init, regular, ephemeral] = CONTAINER_LISTS.map(|kind| spec.at(kind));
    containers::regular(errors, &regular, &scope);
    containers::init(errors, &init, &regular, &scope);
    containers::ephemeral(errors, &ephemeral, &[regular, init], &scope);
    resources::of_pod(errors, spec, &scope.claims);
    network::host_network_ports(errors, spec, meta.is_pod);
    check::required_one_of(errors, &spec.at("restartPolicy"), &["Always", "OnFailure", "Never"]);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    check::required_one_of(errors, &spec.at("dnsPolicy"), &dns);
    check::labels(errors, &spec.at("nodeSelector"));
    security::of_pod(errors, spec);
    placement::affinity(errors, &spec.at("affinity"));
    network::dns(errors, spec);
    gates(errors, spec);
    placement::spread(errors, &spec.at("topologySpreadConstraints"));
    windows::host_process(errors, spec);
    security::host_users(errors, spec);
    network::host_name(errors, spec);
    named_things(errors, spec);
    security::operating_system(errors, spec);
    file_variables(errors, spec);
}

fn claim_names<'a>(spec: &At<'a>) -> resources::Claims<'a> {
    let claims = tree::list(spec.value().get("resourceClaims").unwrap_or(&Value::Null));
    claims.iter().map(|claim| tree::text(&claim["name"])).filter(|name| !name.is_empty()).collect()
}

fn resource_claims(errors: &mut Errors, at: &At<'_>, meta: Meta<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for claim in at.items() {
        if meta.is_mirror {
            errors.push(FieldError::forbidden("", "static pods do not support resource claims"));
            continue;
        }
        let (name, by_name) = (claim.at("name"), claim.at("resourceClaimName"));
        let by_template = claim.at("resourceClaimTemplateName");
        if !name.has_text() {
            errors.push(name.required(""));
        } else if !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        } else {
            check::text(errors, &name, names::dns1123_label);
        }
        let wrong = match (by_name.is_set(), by_template.is_set()) {
            (true, true) => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            (false, false) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => "",
        };
        if !wrong.is_empty() {
            let shown = serde_json::json!({"Name": name.text(), "ResourceClaimName": by_name.value(),
                "ResourceClaimTemplateName": by_template.value()});
            errors.push(claim.invalid_as(shown, wrong));
        }
        for reference in [by_name, by_template].iter().filter(|reference| reference.is_set()) {
            check::text(errors, reference, names::dns1123_subdomain);
        }
    }
}

fn gates(errors: &mut Errors, spec: &At<'_>) {
    for gate in spec.at("readinessGates").items() {
        check::text(errors, &gate.text_at("conditionType"), names::qualified_name);
    }
    let mut seen = std::collections::BTreeSet::new();
    for gate in spec.at("schedulingGates").items() {
        let name = gate.at("name").text();
        errors.extend(names::qualified_name(name).iter().map(|why| gate.invalid_as(name, why)));
        if !seen.insert(name.to_owned()) {
            errors.push(gate.duplicate_as(name));
        }
    }
}

/// The single fields that name something.
fn named_things(errors: &mut Errors, spec: &At<'_>) {
    check::optional_text(errors, &spec.at("serviceAccountName"), names::dns1123_subdomain);
    check::optional_text(errors, &spec.at("nodeName"), names::dns1123_subdomain);
    check::in_range(errors, &spec.at("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    check::optional_text(errors, &spec.at("hostname"), names::dns1123_label);
    check::optional_text(errors, &spec.at("subdomain"), names::dns1123_label);
    placement::tolerations(errors, &spec.at("tolerations"));
    network::host_aliases(errors, &spec.at("hostAliases"));
    check::optional_text(errors, &spec.at("priorityClassName"), names::dns1123_subdomain);
    if spec.at("runtimeClassName").is_set() {
        check::text(errors, &spec.at("runtimeClassName"), names::dns1123_subdomain);
    }
    let preemption = spec.at("preemptionPolicy");
    if preemption.is_set() {
        check::required_one_of(errors, &preemption, &["PreemptLowerPriority", "Never"]);
    }
    if spec.at("overhead").is_set() {
        resources::overhead(errors, &spec.at("overhead"));
    }
}

/// Variables that are read from a file need a volume that only the pod writes.
fn file_variables(errors: &mut Errors, spec: &At<'_>) {
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            for variable in container.at("env").items() {
                let from = variable.at("valueFrom");
                let file = from.at("fileKeyRef");
                if !file.is_set() {
                    continue;
                }
                let name = file.text_at("volumeName");
                let volumes = spec.at("volumes");
                let volume = volumes.items().filter(|volume| volume.at("name").text() == name.text()).last();
                match volume.map(|volume| volume.at("emptyDir").is_set()) {
                    None => errors.push(name.not_found()),
                    Some(false) => errors.push(name.invalid("referenced volume must be of type emptyDir")),
                    Some(true) => {}
                }
            }
        }
    }
}
