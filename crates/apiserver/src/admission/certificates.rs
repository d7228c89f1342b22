//! `CertificateApproval`, `CertificateSigning` and `CertificateSubjectRestriction`: who may approve and sign requests of a
//! signer, and that nobody is made `system:masters` by a certificate request.

use std::sync::Arc;

use api::{ApiError, resources};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Attempt, Descriptor, Operation, Plugin, forbidden};
use crate::authentication::{MASTERS, UserInfo};
use crate::authorization::{Attributes, Authorization, Decision};
use crate::registry::tree::text;

/// `CertificateApproval`'s line in the list.
pub const APPROVAL: Descriptor = Descriptor {
    name: "CertificateApproval",
    plugin: |parts| Arc::new(CertificateApproval(parts.access.authorization.clone())),
};
/// `CertificateSigning`'s line in the list.
pub const SIGNING: Descriptor = Descriptor {
    name: "CertificateSigning",
    plugin: |parts| Arc::new(CertificateSigning(parts.access.authorization.clone())),
};
/// `CertificateSubjectRestriction`'s line in the list.
pub const SUBJECT: Descriptor =
    Descriptor { name: "CertificateSubjectRestriction", plugin: |_| Arc::new(CertificateSubjectRestriction) };

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

struct CertificateApproval(Arc<Authorization>);
struct CertificateSigning(Arc<Authorization>);
struct CertificateSubjectRestriction;

fn concerns(attempt: &Attempt<'_>, operation: Operation, subresource: &str) -> bool {
    let (asked, requests) = (attempt.resource, resources::CERTIFICATE_SIGNING_REQUESTS);
    attempt.operation == operation
        && attempt.subresource == subresource
        && asked.group == requests.group
        && asked.plural == requests.plural
}

impl Plugin for CertificateApproval {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, _: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        let mut checked = Ok(());
        if let Some(old) = attempt.old.filter(|_| concerns(attempt, Operation::Update, "approval")) {
            checked = check_signer(&self.0, attempt, "approve", text(&old["spec"]["signerName"]));
        }
        Box::pin(std::future::ready(checked))
    }
}

impl Plugin for CertificateSigning {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, request: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        let signs = |old: &&Value| {
            let (before, after) = (&old["status"], &request["status"]);
            concerns(attempt, Operation::Update, "status")
                && (before["certificate"] != after["certificate"] || before["conditions"] != after["conditions"])
        };
        let checked = match attempt.old.filter(signs) {
            Some(old) => check_signer(&self.0, attempt, "sign", text(&old["spec"]["signerName"])),
            None => Ok(()),
        };
        Box::pin(std::future::ready(checked))
    }
}

impl Plugin for CertificateSubjectRestriction {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, request: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        let spec = &request["spec"];
        let mut checked = Ok(());
        if concerns(attempt, Operation::Create, "") && spec["signerName"] == CLIENT_SIGNER {
            checked = check_subject(text(&spec["request"])).map_err(|why| forbidden(attempt, &why));
        }
        Box::pin(std::future::ready(checked))
    }
}

fn check_signer(
    authorization: &Authorization,
    attempt: &Attempt<'_>,
    verb: &str,
    signer: &str,
) -> Result<(), ApiError> {
    if may(authorization, attempt.context.user, verb, signer) {
        return Ok(());
    }
    Err(forbidden(attempt, &format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// Whether a user may `verb` requests of a signer, by its name or its whole domain.
fn may(authorization: &Authorization, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        matches!(authorization.decide(user, &attributes), Decision::Allow { .. })
    })
}

/// The common name and the organizations that a certificate request (PEM in base64, as the API carries it) asks for.
pub fn subject_of(request: &str) -> Option<(String, Vec<String>)> {
    let pem = STANDARD.decode(request).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    let subject = &parsed.certification_request_info.subject;
    let name = subject.iter_common_name().find_map(text).unwrap_or_default();
    Some((name, subject.iter_organization().filter_map(text).collect()))
}

fn check_subject(request: &str) -> Result<(), String> {
    match subject_of(request) {
        None => Err("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST".to_owned()),
        Some((_, groups)) if groups.iter().any(|group| group == MASTERS) => {
            Err(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(group: &str) -> String {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "eve");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let key = rcgen::KeyPair::generate().unwrap();
        STANDARD.encode(parameters.serialize_request(&key).unwrap().pem().unwrap())
    }

    #[test]
    fn nobody_becomes_master_by_a_certificate_request() {
        assert_eq!(check_subject(&request("devs")), Ok(()));
        assert_eq!(subject_of(&request("devs")), Some(("eve".to_owned(), vec!["devs".to_owned()])));
        let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        assert_eq!(check_subject(&request(MASTERS)).unwrap_err(), why);
        assert!(check_subject("bm9uZQ==").unwrap_err().starts_with("failed to parse CSR"));
    }
}
