//! Labels of nodes that have got another name, or none.

use machinery::names;

use super::at::At;

const DEPRECATED: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#),
    ("beta.kubernetes.io/os", r#"deprecated since v1.14; use "kubernetes.io/os" instead"#),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    ("failure-domain.beta.kubernetes.io/zone", r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#),
    ("beta.kubernetes.io/instance-type", r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", r#"use "node-role.kubernetes.io/control-plane" instead"#),
];

/// What to say about a label that should not be used any more.
pub fn deprecation(label: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(old, _)| *old == label).map(|(_, message)| *message)
}

/// Warns about node affinity.
pub fn warn_affinity(warnings: &mut Vec<String>, at: &At<'_>) {
    let required = at.at("requiredDuringSchedulingIgnoredDuringExecution");
    for term in required.at("nodeSelectorTerms").items() {
        warn_term(warnings, &term);
    }
    for term in at.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        let preference = term.at("preference");
        warn_term(warnings, &preference);
        for expression in preference.at("matchExpressions").items() {
            for value in expression.at("values").items() {
                let complaints = names::label_value(value.text());
                let path = value.path();
                warnings.extend(complaints.iter().map(|why| format!("{path}: {} is invalid, {why}", value.text())));
            }
        }
    }
}

/// Warns about a node selector's term.
pub fn warn_term(warnings: &mut Vec<String>, at: &At<'_>) {
    for expression in at.at("matchExpressions").items() {
        let key = expression.at("key");
        if let Some(message) = deprecation(key.text()) {
            warnings.push(format!("{}: {} is {message}", key.path(), key.text()));
        }
    }
}
