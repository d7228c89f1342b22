//! What a certificate signing request asks for, and what the cluster's own signers require of it.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// A PKCS#10 request, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// The subject, in DER, as it was written.
    pub(super) subject: Vec<u8>,
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    /// The public key with its algorithm, in DER.
    pub(super) public_key: Vec<u8>,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<Vec<u8>>,
    pub(super) emails: Vec<String>,
    pub(super) uris: Vec<String>,
}

/// The request cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(String);

impl Request {
    /// Reads `spec.request`. That it is signed with its own key is checked again: the certificate vouches for that.
    pub(super) fn of(spec: &Value) -> Result<Self, Unreadable> {
        let unreadable = |why: &dyn std::fmt::Display| Unreadable(why.to_string());
        let bytes = STANDARD.decode(spec["request"].as_str().unwrap_or_default()).map_err(|why| unreadable(&why))?;
        let block = Pem::iter_from_buffer(&bytes).next().and_then(Result::ok);
        let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
        let block = block.ok_or_else(|| unreadable(&"PEM block type must be CERTIFICATE REQUEST"))?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents).map_err(|why| unreadable(&why))?;
        parsed.verify_signature().map_err(|why| unreadable(&why))?;
        let info = &parsed.certification_request_info;
        let mut request = Self {
            subject: info.subject.as_raw().to_vec(),
            common_name: texts(info.subject.iter_common_name()).pop().unwrap_or_default(),
            organizations: texts(info.subject.iter_organization()),
            public_key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for attribute in info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else { continue };
            for extension in &wanted.extensions {
                if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                    names.general_names.iter().for_each(|name| request.add_name(name));
                }
            }
        }
        Ok(request)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(address) => self.addresses.push(address.to_vec()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            // Nobody here vouches for other names: they are left out, as upstream does.
            _ => {}
        }
    }
}

fn texts<'a>(attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> Vec<String> {
    attributes.filter_map(|attribute| attribute.as_str().ok().map(str::to_owned)).collect()
}

/// A subject in DER, from its common name and organizations; for tests and comparisons.
pub(super) fn is_empty_name(der: &[u8]) -> bool {
    X509Name::from_der(der).is_ok_and(|(_, name)| name.iter().next().is_none())
}

/// The usages of a spec.
pub(super) fn usages(spec: &Value) -> BTreeSet<&str> {
    spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a kubelet's client certificate must be.
pub(super) fn kubelet_client(request: &Request, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_nodes(request)?;
    for (names, kind) in [
        (request.dns_names.is_empty(), "DNS"),
        (request.emails.is_empty(), "Email"),
        (request.addresses.is_empty(), "IP"),
        (request.uris.is_empty(), "URI"),
    ] {
        if !names {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
    }
    of_a_node(request)?;
    exactly(usages, "client auth")
}

/// What a kubelet's serving certificate must be.
pub(super) fn kubelet_serving(request: &Request, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_nodes(request)?;
    if request.dns_names.is_empty() && request.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    if !request.emails.is_empty() {
        return Err("Email subjectAltNames are not allowed".to_owned());
    }
    if !request.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed".to_owned());
    }
    exactly(usages, "server auth")?;
    of_a_node(request)
}

/// What a client certificate of the API server must be.
pub(super) fn api_client(usages: &BTreeSet<&str>) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !optional.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    match usages.contains("client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

fn of_nodes(request: &Request) -> Result<(), String> {
    match &request.organizations[..] {
        [one] if one == "system:nodes" => Ok(()),
        _ => Err("subject organization is not system:nodes".to_owned()),
    }
}

fn of_a_node(request: &Request) -> Result<(), String> {
    match request.common_name.starts_with("system:node:") {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:".to_owned()),
    }
}

/// Signature and `purpose`; keys of RSA may be for encipherment too.
fn exactly(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let least = BTreeSet::from(["digital signature", purpose]);
    let most = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    if *usages == least || *usages == most {
        return Ok(());
    }
    let mut all: Vec<&str> = most.into_iter().collect();
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clusters_own_signers_require() {
        let node = Request {
            common_name: "system:node:a".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Request::default()
        };
        let named = Request { dns_names: vec!["a".to_owned()], ..node.clone() };
        let other = Request { organizations: vec!["system:masters".to_owned()], ..node.clone() };
        let person = Request { common_name: "jane".to_owned(), ..node.clone() };
        let client = BTreeSet::from(["digital signature", "client auth"]);
        let server = BTreeSet::from(["digital signature", "key encipherment", "server auth"]);
        let error = |text: &str| Err(text.to_owned());
        assert_eq!(kubelet_client(&node, &client), Ok(()));
        assert_eq!(kubelet_client(&named, &client), error("DNS subjectAltNames are not allowed"));
        assert_eq!(kubelet_client(&other, &client), error("subject organization is not system:nodes"));
        assert_eq!(kubelet_client(&person, &client), error("subject common name does not begin with system:node:"));
        assert_eq!(
            kubelet_client(&node, &server),
            error("usages did not match [client auth digital signature key encipherment]")
        );
        assert_eq!(kubelet_serving(&named, &server), Ok(()));
        assert_eq!(kubelet_serving(&node, &server), error("DNS or IP subjectAltName is required"));
        assert_eq!(api_client(&client), Ok(()));
        assert_eq!(api_client(&server), error("invalid usage for client certificate: server auth"));
        assert_eq!(
            api_client(&BTreeSet::from(["digital signature"])),
            error("missing required usage for client certificate: client auth")
        );
    }
}
