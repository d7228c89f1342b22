//! Where a pod may be put: affinity, tolerations, topology spread.

use std::collections::BTreeSet;

use machinery::names;

use crate::registry::at::{At, Errors};
use crate::registry::check;
use crate::registry::node_selector;

const IN_BOTH: &str = "exists in both matchLabelKeys and labelSelector";

/// Checks `affinity`.
pub(super) fn affinity(errors: &mut Errors, at: &At<'_>) {
    let node = at.at("nodeAffinity");
    let required = node.at("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector::validate(errors, &required);
    }
    for term in node.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(errors, &term);
        node_selector::preference(errors, &term.at("preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at.at(kind);
        for term in pods.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(errors, &term);
        }
        for term in pods.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(errors, &term);
            pod_term(errors, &term.at("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut Errors, term: &At<'_>) {
    let weight = term.number_at("weight");
    if !(1..=100).contains(&weight.number().unwrap_or(0)) {
        errors.push(weight.invalid("must be in the range 1-100"));
    }
}

fn pod_term(errors: &mut Errors, at: &At<'_>) {
    check::label_selector(errors, &at.at("labelSelector"));
    check::label_selector(errors, &at.at("namespaceSelector"));
    for namespace in at.at("namespaces").items() {
        check::text(errors, &at.at("namespace").with(namespace.value()), names::dns1123_label);
    }
    label_keys(errors, at);
    let key = at.text_at("topologyKey");
    if !key.has_text() {
        errors.push(key.required("can not be empty"));
    }
    check::label_key(errors, &key);
}

/// `matchLabelKeys` and `mismatchLabelKeys`: labels whose value in the pod itself becomes a part of the selector.
fn label_keys(errors: &mut Errors, at: &At<'_>) {
    let (same, other, selector) = (at.at("matchLabelKeys"), at.at("mismatchLabelKeys"), at.at("labelSelector"));
    for keys in [&same, &other] {
        if keys.count() > 0 && !selector.is_set() {
            errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
        } else {
            keys.items().for_each(|key| check::label_key(errors, &key));
        }
    }
    let labels = selector.at("matchLabels");
    let mut selected: BTreeSet<String> = labels.entries().map(|(key, _)| key.to_owned()).collect();
    let expressions = selector.at("matchExpressions");
    for expression in expressions.items() {
        let key = expression.at("key").text();
        let position = same.items().filter(|one| one.text() == key).count();
        // What was made of the key itself stands in the selector once.
        if position > 0 && selected.contains(key) {
            let index = same.items().collect::<Vec<_>>().iter().rposition(|one| one.text() == key).unwrap_or(0);
            errors.push(at.index(index).invalid_as(key, IN_BOTH));
        }
        selected.insert(key.to_owned());
    }
    let excluded: BTreeSet<String> = other.items().map(|key| key.text().to_owned()).collect();
    for key in same.items().filter(|key| excluded.contains(key.text())) {
        errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
    }
}

/// Checks `tolerations`.
pub(crate) fn tolerations(errors: &mut Errors, at: &At<'_>) {
    for toleration in at.items() {
        let (key, operator) = (toleration.at("key"), toleration.at("operator"));
        let (value, effect) = (toleration.at("value").text(), toleration.text_at("effect"));
        check::optional_text(errors, &key, names::qualified_name);
        if !key.has_text() && operator.text() != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(operator.invalid(why));
        }
        if toleration.at("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            errors.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator.text() {
            "Equal" | "" => {
                let complaints = names::label_value(value);
                if !complaints.is_empty() {
                    errors.push(operator.invalid_as(value, &complaints.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.push(operator.invalid_as(value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            // Comparing numbers needs a feature that is off by default; upstream lists them all the same.
            "Lt" | "Gt" => errors.push(operator.not_supported(&["Equal", "Exists", "Lt", "Gt"])),
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if effect.has_text() {
            check::one_of(errors, &effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}

/// Checks `topologySpreadConstraints`.
pub(super) fn spread(errors: &mut Errors, at: &At<'_>) {
    let list = at.value().as_array().map_or(&[][..], Vec::as_slice);
    for (index, constraint) in at.items().enumerate() {
        let (skew, key) = (constraint.number_at("maxSkew"), constraint.at("topologyKey"));
        let otherwise = constraint.text_at("whenUnsatisfiable");
        positive(errors, &skew);
        if !key.has_text() {
            errors.push(key.required("can not be empty"));
        }
        check::one_of(errors, &otherwise, &["DoNotSchedule", "ScheduleAnyway"]);
        let again = list[index + 1..].iter().any(|other| {
            other["topologyKey"] == *key.value() && other["whenUnsatisfiable"].as_str() == Some(otherwise.text())
        });
        if again {
            let pair = format!("{{{}, {}}}", key.text(), otherwise.text());
            errors.push(constraint.at("{topologyKey, whenUnsatisfiable}").duplicate_as(pair));
        }
        min_domains(errors, &constraint, otherwise.text());
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            check::one_of(errors, &constraint.at(policy), &["Honor", "Ignore"]);
        }
        label_keys(errors, &constraint);
        check::label_selector(errors, &constraint.at("labelSelector"));
    }
}

fn positive(errors: &mut Errors, at: &At<'_>) {
    if at.number().is_some_and(|number| number <= 0) {
        errors.push(at.invalid("must be greater than zero"));
    }
}

fn min_domains(errors: &mut Errors, constraint: &At<'_>, otherwise: &str) {
    let least = constraint.at("minDomains");
    positive(errors, &least);
    if least.is_set() && otherwise != "DoNotSchedule" {
        let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {otherwise}");
        errors.push(least.invalid(&why));
    }
}
