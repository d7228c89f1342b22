//! Columns of the kinds that configure and permit: maps, secrets, quotas, roles, certificates, admission.

use serde_json::Value;

use super::About::{Field, Text};
use super::cells::{human, list, or, or_none, plain, size, string};
use super::{AGE, Column, NAME, number, text, wide};

pub(super) const CONFIG_MAP: &[Column] = &[
    NAME,
    text("Data", Field("api.core.v1.ConfigMap.data"), |map, _| (size(map, "/data") + size(map, "/binaryData")).into()),
    AGE,
];

pub(super) const SECRET: &[Column] = &[
    NAME,
    text("Type", Field("api.core.v1.Secret.type"), |secret, _| plain(secret, "/type")),
    text("Data", Field("api.core.v1.Secret.data"), |secret, _| size(secret, "/data").into()),
    AGE,
];

pub(super) const SERVICE_ACCOUNT: &[Column] = &[NAME, AGE];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    text(
        "Request",
        Text("Request represents a minimum amount of cpu/memory that a container may consume."),
        |quota, _| usage(quota, |resource| !resource.starts_with("limits.")),
    ),
    text(
        "Limit",
        Text(
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the \
             node.",
        ),
        |quota, _| usage(quota, |resource| resource.starts_with("limits.")),
    ),
    AGE,
];

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", Field("api.rbac.v1.RoleBinding.roleRef"), |binding, _| role(binding)),
    AGE,
    wide("Users", Text("Users in the roleBinding"), |binding, _| subjects(binding, "User")),
    wide("Groups", Text("Groups in the roleBinding"), |binding, _| subjects(binding, "Group")),
    wide("ServiceAccounts", Text("ServiceAccounts in the roleBinding"), |binding, _| {
        subjects(binding, "ServiceAccount")
    }),
];

pub(super) const CLUSTER_ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", Field("api.rbac.v1.ClusterRoleBinding.roleRef"), |binding, _| role(binding)),
    AGE,
    wide("Users", Text("Users in the clusterRoleBinding"), |binding, _| subjects(binding, "User")),
    wide("Groups", Text("Groups in the clusterRoleBinding"), |binding, _| subjects(binding, "Group")),
    wide("ServiceAccounts", Text("ServiceAccounts in the clusterRoleBinding"), |binding, _| {
        subjects(binding, "ServiceAccount")
    }),
];

pub(super) const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", Field("api.certificates.v1.CertificateSigningRequestSpec.signerName"), |request, _| {
        or_none(request, "/spec/signerName")
    }),
    text("Requestor", Field("api.certificates.v1.CertificateSigningRequestSpec.request"), |request, _| {
        plain(request, "/spec/username")
    }),
    text(
        "RequestedDuration",
        Field("api.certificates.v1.CertificateSigningRequestSpec.expirationSeconds"),
        |request, _| {
            let seconds = request["spec"]["expirationSeconds"].as_i64();
            seconds.map_or_else(|| "<none>".to_owned(), human).into()
        },
    ),
    text("Condition", Field("api.certificates.v1.CertificateSigningRequestStatus.conditions"), |request, _| {
        certificate_state(request).into()
    }),
];

pub(super) const WEBHOOK_CONFIGURATION: &[Column] = &[
    NAME,
    number(
        "Webhooks",
        Text("Webhooks indicates the number of webhooks registered in this configuration"),
        |configuration, _| size(configuration, "/webhooks").into(),
    ),
    AGE,
];

pub(super) const VALIDATING_ADMISSION_POLICY: &[Column] = &[
    NAME,
    number(
        "Validations",
        Text("Validations indicates the number of validation rules defined in this configuration"),
        |policy, _| size(policy, "/spec/validations").into(),
    ),
    PARAM_KIND,
    AGE,
];

pub(super) const MUTATING_ADMISSION_POLICY: &[Column] = &[
    NAME,
    number(
        "Mutations",
        Text("Mutation indicates the number of mutations rules defined in this configuration"),
        |policy, _| size(policy, "/spec/mutations").into(),
    ),
    PARAM_KIND,
    AGE,
];

const PARAM_KIND: Column = text(
    "ParamKind",
    Text("ParamKind specifies the kind of resources used to parameterize this policy"),
    |policy, _| {
        let kind = &policy["spec"]["paramKind"];
        match kind.is_object() {
            true => format!("{}/{}", string(kind, "/apiVersion"), string(kind, "/kind")).into(),
            false => "<unset>".into(),
        }
    },
);

pub(super) const ADMISSION_POLICY_BINDING: &[Column] = &[
    NAME,
    text(
        "PolicyName",
        Text("PolicyName indicates the policy definition which the policy binding binded to"),
        |binding, _| plain(binding, "/spec/policyName"),
    ),
    text("ParamRef", Text("ParamRef indicates the param resource which sets the configuration param"), |binding, _| {
        let reference = &binding["spec"]["paramRef"];
        match (string(reference, "/name"), or(reference, "/namespace", "*").as_str()) {
            ("", _) if reference["selector"].is_object() => super::cells::selector(reference, "/selector"),
            ("", _) => "<unset>".into(),
            (name, namespace) => format!("{}/{name}", namespace.unwrap_or_default()).into(),
        }
    }),
    AGE,
];

/// `pods: 1/10, services: 0/5`: what is used and what may be.
fn usage(quota: &Value, wanted: fn(&str) -> bool) -> Value {
    let Some(hard) = quota["status"]["hard"].as_object() else { return "".into() };
    let of_resource = |(resource, hard): (&String, &Value)| {
        let used = quota["status"]["used"][resource].as_str().unwrap_or("0");
        format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default())
    };
    let mut texts: Vec<String> = hard.iter().filter(|(resource, _)| wanted(resource)).map(of_resource).collect();
    texts.sort();
    texts.join(", ").into()
}

fn role(binding: &Value) -> Value {
    format!("{}/{}", string(binding, "/roleRef/kind"), string(binding, "/roleRef/name")).into()
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let of_kind = list(binding, "/subjects").iter().filter(|subject| subject["kind"] == kind);
    let text = |subject: &Value| match (string(subject, "/namespace"), string(subject, "/name")) {
        (namespace, name) if kind == "ServiceAccount" && !namespace.is_empty() => format!("{namespace}/{name}"),
        (_, name) => name.to_owned(),
    };
    of_kind.map(text).collect::<Vec<_>>().join(", ").into()
}

fn certificate_state(request: &Value) -> String {
    let has = |kind: &str| super::cells::condition(request, kind).is_some();
    let mut state = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !string(request, "/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}
