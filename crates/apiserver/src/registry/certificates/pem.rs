//! What certificate requests and certificates in PEM must be.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// What is wrong with a request: it must be one PKCS#10 request in PEM, signed with its own key.
pub(super) fn request(pem: &[u8]) -> Result<(), String> {
    let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
    let Some(block) = block.filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    request.verify_signature().map_err(|_| "x509: the request is not signed with the key that it names".to_owned())
}

/// What is wrong with a chain of certificates.
pub(super) fn certificates(pem: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| error.to_string())?;
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        block.parse_x509().map_err(|error| error.to_string())?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}
