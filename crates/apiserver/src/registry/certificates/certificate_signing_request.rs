//! Certificate signing requests: what is asked for is fixed when it is created, together with who asked. Approval and
//! certificate are written through subresources of their own, and stay once they are there.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::pem;
use crate::invalid::FieldError;
use crate::registry::tree::{is_set, keep, list, present, remove, set, text};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::CERTIFICATE_SIGNING_REQUESTS, strategy: |_| Arc::new(RequestStrategy) };

struct RequestStrategy;

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Shorter certificates would be over before they are fetched.
const EXPIRATION_SECONDS_MIN: i64 = 600;
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// What a write may change besides metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Nothing,
    SetCertificate,
    SetApproval,
}

impl Strategy for RequestStrategy {
    fn prepare_for_create(&self, context: &Context<'_>, request: &mut Value) {
        set(request, "status", json!({}));
        let Some(spec) = present(request, "spec") else { return };
        for field in ["username", "uid", "groups", "extra"] {
            remove(spec, field);
        }
        let user = context.user;
        set(spec, "username", user.name.as_str());
        if !user.uid.is_empty() {
            set(spec, "uid", user.uid.as_str());
        }
        if !user.groups.is_empty() {
            set(spec, "groups", user.groups.clone());
        }
        if !user.extra.is_empty() {
            let extra: Map<String, Value> =
                user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
            set(spec, "extra", extra);
        }
    }

    fn validate(&self, _: &Context<'_>, request: &Value) -> Vec<FieldError> {
        validate(request, None)
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["spec"], &["status"]],
            "status" => &[&["spec"], &["status", "conditions"]],
            _ => &[&["spec"], &["status", "certificate"]],
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        keep(new, old, "status");
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        validate_update(new, old, May::Nothing)
    }

    fn prepare_for_subresource_update(&self, context: &Context<'_>, subresource: &str, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        if subresource == "status" {
            keep_approval(new, old);
            stamp(new, old, &machinery::time::seconds(context.now));
            return;
        }
        stamp(new, old, &machinery::time::seconds(context.now));
        // An approval writes conditions and nothing else.
        let conditions = new["status"].get("conditions").cloned();
        keep(new, old, "status");
        if !new["status"].is_object() {
            set(new, "status", json!({}));
        }
        if let Some(status) = present(new, "status") {
            match conditions {
                Some(conditions) => set(status, "conditions", conditions),
                None => remove(status, "conditions"),
            }
        }
    }

    fn validate_subresource_update(
        &self,
        _: &Context<'_>,
        subresource: &str,
        new: &Value,
        old: &Value,
    ) -> Vec<FieldError> {
        let may = if subresource == "status" { May::SetCertificate } else { May::SetApproval };
        validate_update(new, old, may)
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        machinery::names::path_segment(name)
    }
}

/// The conditions of that type.
fn conditions<'a>(request: &'a Value, kind: &str) -> Vec<&'a Value> {
    list(&request["status"]["conditions"]).iter().filter(|condition| condition["type"] == kind).collect()
}

/// A writer of status leaves the approval as it is: it may not know all of its fields.
fn keep_approval(new: &mut Value, old: &Value) {
    for kind in [APPROVED, DENIED] {
        let kept: Vec<Value> = conditions(old, kind).into_iter().cloned().collect();
        if kept.len() != conditions(new, kind).len() {
            // One came or went, which validation refuses.
            continue;
        }
        let Some(written) = new["status"].get_mut("conditions").and_then(Value::as_array_mut) else { continue };
        let places = written.iter_mut().filter(|condition| condition["type"] == kind);
        places.zip(kept).for_each(|(place, kept)| *place = kept);
    }
}

/// Gives conditions without times theirs.
fn stamp(new: &mut Value, old: &Value, now: &str) {
    let Some(written) = new["status"].get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for condition in written.iter_mut().filter(|condition| condition.is_object()) {
        if !is_set(condition, "lastUpdateTime") {
            set(condition, "lastUpdateTime", now);
        }
        if !is_set(condition, "lastTransitionTime") {
            let same = |known: &&Value| {
                known["type"] == condition["type"]
                    && known["status"] == condition["status"]
                    && is_set(known, "lastTransitionTime")
            };
            let known = list(&old["status"]["conditions"]).iter().find(same);
            let since = known.map_or_else(|| now.into(), |known| known["lastTransitionTime"].clone());
            set(condition, "lastTransitionTime", since);
        }
    }
}

/// What is wrong with a request. What was wrong with `old` already is borne with.
fn validate(request: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let (spec, mut errors) = (&request["spec"], Vec::new());
    let bytes = STANDARD.decode(text(&spec["request"])).unwrap_or_default();
    if let Err(why) = pem::request(&bytes) {
        errors.push(FieldError::invalid("spec.request", &spec["request"], &why));
    }
    validate_usages(&mut errors, spec, old);
    let signer = text(&spec["signerName"]);
    if signer == LEGACY_SIGNER && old.is_none() {
        let why = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid("spec.signerName", &spec["signerName"], why));
    } else {
        validate_signer(&mut errors, signer);
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|seconds| *seconds < EXPIRATION_SECONDS_MIN) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid("spec.expirationSeconds", &seconds.into(), why));
    }
    validate_conditions(&mut errors, request, old);
    let certificate = &request["status"]["certificate"];
    let unchanged = old.is_some_and(|old| old["status"]["certificate"] == *certificate);
    if !text(certificate).is_empty() && !unchanged {
        let bytes = STANDARD.decode(text(certificate)).unwrap_or_default();
        if let Err(why) = pem::certificates(&bytes) {
            errors.push(FieldError::invalid("status.certificate", &"<certificate data>".into(), &why));
        }
    }
    errors
}

fn validate_usages(errors: &mut Vec<FieldError>, spec: &Value, old: Option<&Value>) {
    let usages = list(&spec["usages"]);
    if usages.is_empty() {
        errors.push(FieldError::required("spec.usages", ""));
    }
    // They cannot be changed: what was accepted once is accepted.
    if old.is_some() {
        return;
    }
    let mut seen = BTreeSet::new();
    for (at, usage) in usages.iter().enumerate() {
        let path = format!("spec.usages[{at}]");
        if !USAGES.contains(&text(usage)) {
            errors.push(FieldError::not_supported(path.as_str(), usage, &USAGES));
        }
        if !seen.insert(text(usage)) {
            errors.push(FieldError::duplicate(path, usage));
        }
    }
}

fn validate_signer(errors: &mut Vec<FieldError>, signer: &str) {
    const PATH: &str = "spec.signerName";
    if signer.is_empty() {
        errors.push(FieldError::required(PATH, ""));
        return;
    }
    let mut segments = signer.split('/');
    let (Some(domain), Some(name), None) = (segments.next(), segments.next(), segments.next()) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(PATH, &signer.into(), why));
        return;
    };
    if domain.len() > 253 {
        errors.push(FieldError::too_long(PATH, 253));
    }
    labels(errors, PATH, domain, machinery::names::dns1123_label);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(PATH, &domain.into(), why));
    }
    labels(errors, PATH, name, machinery::names::dns1123_subdomain);
    if signer.len() > 571 {
        errors.push(FieldError::too_long(PATH, 571));
    }
}

/// Complains about the first label that is none.
fn labels(errors: &mut Vec<FieldError>, path: &str, segment: &str, check: fn(&str) -> Vec<String>) {
    let wrong = segment.split('.').map(|label| (label, check(label))).find(|(_, complaints)| !complaints.is_empty());
    let Some((label, complaints)) = wrong else { return };
    let complain =
        |why: &String| FieldError::invalid(path, &segment.into(), &format!("validating label {label:?}: {why}"));
    errors.extend(complaints.iter().map(complain));
}

fn validate_conditions(errors: &mut Vec<FieldError>, request: &Value, old: Option<&Value>) {
    const PATH: &str = "status.conditions";
    let had = |kind: &str| old.is_some_and(|old| !conditions(old, kind).is_empty());
    let (bears_both, mut seen) = (had(APPROVED) && had(DENIED), BTreeSet::new());
    for (at, condition) in list(&request["status"]["conditions"]).iter().enumerate() {
        let (kind, status) = (text(&condition["type"]), text(&condition["status"]));
        if kind.is_empty() {
            errors.push(FieldError::required(format!("{PATH}[{at}].type"), ""));
        }
        let supported: &[&str] =
            if [APPROVED, DENIED, FAILED].contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.push(FieldError::required(format!("{PATH}[{at}].status"), ""));
        } else if !supported.contains(&status) {
            errors.push(FieldError::not_supported(format!("{PATH}[{at}].status"), &condition["status"], supported));
        }
        let other = if kind == APPROVED { DENIED } else { APPROVED };
        if !bears_both && [APPROVED, DENIED].contains(&kind) && seen.contains(other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(PATH, &kind.into(), why));
        }
        let bears_twice = old.is_some_and(|old| conditions(old, kind).len() > 1);
        if !seen.insert(kind) && !bears_twice {
            errors.push(FieldError::duplicate(format!("{PATH}[{at}].type"), &condition["type"]));
        }
    }
}

fn validate_update(new: &Value, old: &Value, may: May) -> Vec<FieldError> {
    let mut errors = validate(new, Some(old));
    let mut forbid = |field: &str, why: String| errors.push(FieldError::forbidden(field, &why));
    for kind in [APPROVED, DENIED, FAILED] {
        let (now, before) = (conditions(new, kind), conditions(old, kind));
        let fixed = may != May::SetApproval && kind != FAILED;
        if now.len() < before.len() {
            forbid("status.conditions", format!("updates may not remove a condition of type {kind:?}"));
        } else if fixed && now.len() > before.len() {
            forbid("status.conditions", format!("updates may not add a condition of type {kind:?}"));
        } else if fixed && now != before {
            forbid("status.conditions", format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    let (now, before) = (text(&new["status"]["certificate"]), text(&old["status"]["certificate"]));
    if now != before {
        if may != May::SetCertificate {
            forbid("status.certificate", "updates may not set certificate content".to_owned());
        } else if !before.is_empty() {
            forbid("status.certificate", "updates may not modify existing certificate content".to_owned());
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        json!({"metadata": {"name": "r"}, "spec": {"request": STANDARD.encode(request),
            "signerName": "example.com/signer", "usages": ["client auth"]}, "status": {}})
    }

    fn errors(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut request = request();
        change(&mut request);
        validate(&request, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_request_must_be() {
        assert_eq!(errors(|_| {}), Vec::<String>::new());
        let short = errors(|request| request["spec"]["expirationSeconds"] = 599.into());
        let why = "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 \
                   minutes)";
        assert_eq!(short, [why]);
        let none = errors(|request| request["spec"]["usages"] = json!([]));
        assert_eq!(none, ["spec.usages: Required value"]);
        let twice = errors(|request| request["spec"]["usages"] = json!(["any", "any"]));
        assert_eq!(twice, [r#"spec.usages[1]: Duplicate value: "any""#]);
        let garbled = errors(|request| request["spec"]["request"] = "bm8=".into());
        assert_eq!(garbled, [r#"spec.request: Invalid value: "bm8=": PEM block type must be CERTIFICATE REQUEST"#]);
        for (signer, why) in [
            ("", "spec.signerName: Required value"),
            (
                "signer",
                "spec.signerName: Invalid value: \"signer\": must be a fully qualified domain and path of the form \
                 'example.com/signer-name'",
            ),
            (
                "com/signer",
                "spec.signerName: Invalid value: \"com\": should be a domain with at least two segments separated by dots",
            ),
            (
                LEGACY_SIGNER,
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via \
                 this API version",
            ),
        ] {
            assert_eq!(errors(|request| request["spec"]["signerName"] = signer.into()), [why]);
        }
    }

    #[test]
    fn approval_and_certificate_stay() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let with = |conditions: &[Value], certificate: &str| {
            let mut request = request();
            request["spec"]["request"] = "".into();
            request["status"] = json!({"conditions": conditions, "certificate": certificate});
            request
        };
        let check = |new: &Value, old: &Value, may: May| {
            let all = validate_update(new, old, may);
            let all = all.iter().filter(|error| error.field.starts_with("status"));
            all.map(|error| error.detail.clone()).collect::<Vec<_>>()
        };
        let (plain, approved) = (with(&[], ""), with(&[condition(APPROVED)], ""));
        assert!(check(&approved, &plain, May::SetApproval).is_empty());
        assert_eq!(
            check(&approved, &plain, May::SetCertificate),
            [r#"updates may not add a condition of type "Approved""#]
        );
        assert_eq!(
            check(&plain, &approved, May::SetApproval),
            [r#"updates may not remove a condition of type "Approved""#]
        );
        let both = with(&[condition(APPROVED), condition(DENIED)], "");
        assert_eq!(
            check(&both, &approved, May::SetApproval),
            [r#""Denied": Approved and Denied conditions are mutually exclusive"#]
        );
        let denied_false = with(&[json!({"type": DENIED, "status": "False"})], "");
        assert_eq!(check(&denied_false, &plain, May::SetApproval), [r#""False": supported values: "True""#]);
        let issued = with(&[condition(APPROVED)], "aXNzdWVk");
        assert_eq!(
            check(&with(&[condition(APPROVED)], ""), &issued, May::SetCertificate),
            ["updates may not modify existing certificate content"]
        );
    }
}
