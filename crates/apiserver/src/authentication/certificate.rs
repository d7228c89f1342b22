//! Client certificates: read once a connection, however many requests come over it.

use std::sync::Arc;

use api::ApiError;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use super::{UserInfo, unauthorized};

/// A client's certificate, which TLS has verified when the connection was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    user: Arc<UserInfo>,
    expires: Timestamp,
}

impl ClientCertificate {
    /// Reads a certificate: the common name is the user, each organization a group.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, ApiError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| unauthorized())?;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
        let name = parsed.subject().iter_common_name().find_map(text).filter(|name| !name.is_empty());
        let groups: Vec<String> = parsed.subject().iter_organization().filter_map(text).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let user = Arc::new(UserInfo::new(name.ok_or_else(unauthorized)?, &groups));
        let expires = Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
        Ok(Self { user, expires })
    }

    /// Whose it is. A connection may outlive its certificate, which then counts no more.
    pub fn user(&self, now: Timestamp) -> Result<Arc<UserInfo>, ApiError> {
        if now > self.expires { Err(unauthorized()) } else { Ok(self.user.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_user_and_groups_until_it_expires() {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "system:node:alpha");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        parameters.not_after = rcgen::date_time_ymd(2031, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let read = ClientCertificate::read(certificate.der()).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(*read.user(at("2030-12-31T00:00:00Z")).unwrap(), UserInfo::node("alpha"));
        assert_eq!(read.user(at("2031-01-02T00:00:00Z")).unwrap_err().code, 401);
    }
}
