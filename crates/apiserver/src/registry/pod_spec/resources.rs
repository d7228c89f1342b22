//! What containers and pods ask for: names, amounts, huge pages, claims, and how the pod's own resources and those of its
//! containers go together (KEP 2837).

use std::collections::BTreeSet;

use machinery::pod_resources::{self, Amounts};
use machinery::{Quantity, names};
use serde_json::Value;

use crate::registry::at::{At, Errors};
use crate::registry::resource_names::{self, is_huge_page, is_native};
use crate::registry::{check, tree};

const NEGATIVE: &str = "must be greater than or equal to 0";

/// The names of the pod's resource claims.
pub(super) type Claims<'a> = BTreeSet<&'a str>;

type NameCheck = fn(&mut Errors, &At<'_>, &str);

/// Checks a container's resources.
pub(super) fn of_container(errors: &mut Errors, at: &At<'_>, claims: &Claims<'_>) {
    requirements(errors, at, resource_names::container_resource, claims);
}

/// Checks what a runtime class adds to a pod.
pub(crate) fn overhead(errors: &mut Errors, at: &At<'_>) {
    // Upstream reads it as limits.
    let shown = at.at("limits").with(at.value());
    amounts(errors, &shown, resource_names::container_resource);
    huge_pages_need_company(errors, at, at.value(), &Value::Null);
}

/// Checks the pod's own resources.
pub(super) fn of_pod(errors: &mut Errors, spec: &At<'_>, claims: &Claims<'_>) {
    let at = spec.at("resources");
    if !at.is_set() {
        return;
    }
    if spec.at("os").at("name").text() == "windows" {
        errors.push(at.forbidden("may not be set for a windows pod"));
        return;
    }
    if at.at("claims").is_set() {
        errors.push(at.at("claims").forbidden("claims may not be set for Resources at pod-level"));
    }
    requirements(errors, &at, resource_names::pod_level_resource, claims);
    consistent(errors, spec, &at);
}

/// The pod's own amounts must cover what its containers ask for.
fn consistent(errors: &mut Errors, spec: &At<'_>, at: &At<'_>) {
    let (requests, limits) = (at.at("requests"), at.at("limits"));
    for (name, sum) in aggregate(spec.value(), "requests") {
        let own = requests.key(&name);
        if let Some(amount) = own.quantity().filter(|amount| sum > *amount) {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(own.invalid_as(amount.to_string(), &why));
        }
    }
    for (name, sum) in aggregate(spec.value(), "limits").into_iter().filter(|(name, _)| is_huge_page(name)) {
        let own = limits.key(&name);
        if let Some(amount) = own.quantity().filter(|amount| sum > *amount) {
            let why = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.push(own.invalid_as(amount.to_string(), &why));
        }
    }
    let containers = spec.at("containers");
    for (index, container) in containers.items().enumerate() {
        for (name, limit) in container.at("resources").at("limits").entries() {
            let (Some(asked), Some(most)) = (limit.quantity(), limits.key(name).quantity()) else { continue };
            if asked > most {
                let why = format!("must be less than or equal to pod limits of {most}");
                let shown = at.at("containers");
                errors.push(shown.index(index).key(name).at("limits").invalid_as(asked.to_string(), &why));
            }
        }
    }
}

/// What all containers of a spec need at the same time: the larger of the containers' sum with all sidecars, and of any one
/// init container with the sidecars that were started before it.
pub(super) fn aggregate(spec: &Value, kind: &str) -> Amounts {
    let amounts = |container: &Value| pod_resources::amounts(&container["resources"][kind]);
    let (mut all, mut sidecars, mut most) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in tree::list(&spec["containers"]) {
        pod_resources::add(&mut all, &amounts(container));
    }
    for container in tree::list(&spec["initContainers"]) {
        let mut needs = amounts(container);
        if container["restartPolicy"] == "Always" {
            pod_resources::add(&mut all, &needs);
            pod_resources::add(&mut sidecars, &needs);
            needs.clone_from(&sidecars);
        } else {
            pod_resources::add(&mut needs, &sidecars);
        }
        pod_resources::raise(&mut most, &needs);
    }
    pod_resources::raise(&mut all, &most);
    all
}

fn requirements(errors: &mut Errors, at: &At<'_>, name_check: NameCheck, claims: &Claims<'_>) {
    let (limits, requests) = (at.at("limits"), at.at("requests"));
    amounts(errors, &limits, name_check);
    for (name, request) in requests.entries() {
        name_check(errors, &request, name);
        resource_quantity(errors, &request, name);
        covered(errors, &requests, &limits, name, &request);
        whole_pages(errors, &request, name);
    }
    huge_pages_need_company(errors, at, limits.value(), requests.value());
    claim_names(errors, &at.at("claims"), claims);
}

fn amounts(errors: &mut Errors, at: &At<'_>, name_check: NameCheck) {
    for (name, limit) in at.entries() {
        name_check(errors, &limit, name);
        resource_quantity(errors, &limit, name);
        whole_pages(errors, &limit, name);
    }
}

/// A request needs a limit that covers it; what cannot be promised twice needs one that equals it.
fn covered(errors: &mut Errors, requests: &At<'_>, limits: &At<'_>, name: &str, request: &At<'_>) {
    let overcommits = is_native(name) && !is_huge_page(name);
    match (request.quantity(), limits.key(name).quantity()) {
        (Some(asked), Some(most)) if asked != most && !overcommits => {
            errors.push(requests.invalid_as(asked.to_string(), &format!("must be equal to {name} limit of {most}")));
        }
        (Some(asked), Some(most)) if asked > most => {
            let why = format!("must be less than or equal to {name} limit of {most}");
            errors.push(requests.invalid_as(asked.to_string(), &why));
        }
        (_, None) if !overcommits => {
            errors.push(limits.required("Limit must be set for non overcommitable resources"));
        }
        _ => {}
    }
}

/// An amount of a resource: not negative, and whole where the resource is counted.
pub(crate) fn resource_quantity(errors: &mut Errors, at: &At<'_>, name: &str) {
    let Some(amount) = at.quantity() else { return };
    if amount.is_negative() {
        errors.push(at.invalid_as(amount.to_string(), NEGATIVE));
    }
    if resource_names::is_counted(name) && amount.nanos() % 1_000_000_000 != 0 {
        errors.push(at.invalid_as(amount.to_string(), "must be an integer"));
    }
}

fn whole_pages(errors: &mut Errors, at: &At<'_>, name: &str) {
    let (Some(size), Some(amount)) = (name.strip_prefix("hugepages-"), at.quantity()) else { return };
    let page = Quantity::parse(size).ok().map(|size| size.value()).filter(|size| *size > 0);
    if page.is_none_or(|page| amount.value() % page != 0) {
        errors.push(at.invalid_as(amount.to_string(), &format!("{amount} is not positive integer multiple of {name}")));
    }
}

fn huge_pages_need_company(errors: &mut Errors, at: &At<'_>, limits: &Value, requests: &Value) {
    let names = || [limits, requests].into_iter().filter_map(Value::as_object).flat_map(|amounts| amounts.keys());
    if names().any(|name| is_huge_page(name)) && !names().any(|name| name == "cpu" || name == "memory") {
        errors.push(at.forbidden("HugePages require cpu or memory"));
    }
}

/// The claims that a container uses: whole ones by name, or single requests of one, each once.
fn claim_names(errors: &mut Errors, at: &At<'_>, known: &Claims<'_>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for claim in at.items() {
        let (name, request) = (claim.at("name").text(), claim.at("request"));
        if name.is_empty() {
            errors.push(claim.required(""));
            continue;
        }
        if seen.contains(name) {
            errors.push(claim.duplicate_as(name));
        } else {
            let mut key = name.to_owned();
            if request.has_text() {
                check::text(errors, &request, names::dns1123_label);
                key = format!("{name}/{}", request.text());
            }
            if seen.contains(&key) {
                errors.push(claim.duplicate_as(key.as_str()));
            } else if !request.has_text() {
                let parts = seen.iter().filter(|seen| seen.split_once('/').is_some_and(|(claim, _)| claim == name));
                errors.extend(parts.map(|_| claim.duplicate_as(name)));
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let mut error = claim.with(&Value::Null).duplicate_as(name);
            error.kind = crate::invalid::FieldErrorKind::NotFound;
            let names: Vec<_> = known.iter().copied().collect();
            let which = if names.is_empty() { " which is empty".to_owned() } else { format!(": {}", names.join(", ")) };
            error.detail = format!("{}: must be one of the names in pod.spec.resourceClaims{which}", Value::from(name));
            errors.push(error);
        }
    }
}

/// Amounts are kept to a thousandth, rounded up; what is finer nobody could give.
pub(crate) fn round_up(amounts: &mut Value) {
    const MILLI: i128 = 1_000_000;
    for amount in amounts.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        let Some(quantity) = tree::quantity(amount) else { continue };
        if quantity.nanos() % MILLI != 0 {
            let milli = quantity.nanos().div_euclid(MILLI) + 1;
            *amount = Quantity::from_milli(i64::try_from(milli).unwrap_or(i64::MAX)).to_string().into();
        }
    }
}
