//! The cluster's certificate authority: makes certificates of requests.
//!
//! A certificate says what its request says, subject and names as they were written, and what the request's usages are; it
//! is nobody's authority, and never outlasts ours. Shape: RFC 5280.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use x509_parser::extensions::ParsedExtension;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, DERWriterSeq, Tag, TagClass};

use super::request::{Request, is_empty_name};

/// Other machines' clocks may be behind: a certificate that is not valid yet is as bad as an expired one.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// What lasts no longer than this ends when it was asked to, and not earlier by what it was backdated.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// Usages of the key, each with its bit.
const KEY_USAGES: &[(&str, usize)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Purposes, in the order in which they are written.
const PURPOSES: &[(&[&str], &[u64])] = &[
    (&["any"], &[2, 5, 29, 37, 0]),
    (&["server auth"], &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    (&["client auth"], &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    (&["code signing"], &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    (&["email protection", "s/mime"], &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    (&["ipsec end system"], &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    (&["ipsec tunnel"], &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    (&["ipsec user"], &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    (&["timestamping"], &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    (&["ocsp signing"], &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    (&["microsoft sgc"], &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    (&["netscape sgc"], &[2, 16, 840, 1, 113_730, 4, 1]),
];

/// A certificate authority with its key.
pub struct Authority {
    key: KeyPair,
    /// Its subject, in DER.
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The authority cannot be used, or will not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate is none.
    #[error("cannot read the certificate authority's certificate: {0}")]
    Certificate(String),
    /// The key is none.
    #[error("cannot read the certificate authority's key")]
    Key(#[source] rcgen::Error),
    /// Keys of this kind cannot sign here.
    #[error("the certificate authority's key is none of ECDSA P-256, ECDSA P-384, Ed25519 and RSA")]
    KeyKind,
    /// It is over.
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
    /// Signing failed.
    #[error("failed to sign certificate")]
    Sign(#[source] rcgen::Error),
    /// The system gives no randomness.
    #[error("unable to generate a serial number")]
    Random,
}

impl Authority {
    /// Reads certificate and key, both PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let wrong = |why: &dyn std::fmt::Display| AuthorityError::Certificate(why.to_string());
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|why| wrong(&why))?;
        let parsed = pem.parse_x509().map_err(|why| wrong(&why))?;
        let not_after = parsed.validity().not_after.timestamp();
        let not_after = Timestamp::from_second(not_after).map_err(|why| wrong(&why))?;
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        algorithm(&key).ok_or(AuthorityError::KeyKind)?;
        Ok(Self { key, subject: parsed.subject().as_raw().to_vec(), key_id, not_after })
    }

    /// Signs a certificate that is valid for about `lasting` from `now`. PEM.
    pub(super) fn sign(
        &self,
        request: &Request,
        usages: &[&str],
        lasting: SignedDuration,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let not_before = now - BACKDATE;
        if now >= self.not_after {
            return Err(AuthorityError::Expired(self.not_after));
        }
        let asked = if lasting < SHORT { now + lasting } else { now + lasting - BACKDATE };
        let not_after = asked.min(self.not_after);
        let mut serial = [0; 16];
        SystemRandom::new().fill(&mut serial).map_err(|_| AuthorityError::Random)?;
        let algorithm = algorithm(&self.key).ok_or(AuthorityError::KeyKind)?;
        let body = yasna::construct_der(|writer| {
            writer.write_sequence(|fields| {
                fields.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                fields.next().write_bigint_bytes(&serial, true);
                write_algorithm(fields.next(), algorithm);
                fields.next().write_der(&self.subject);
                fields.next().write_sequence(|times| {
                    write_time(times.next(), not_before);
                    write_time(times.next(), not_after);
                });
                fields.next().write_der(&request.subject);
                fields.next().write_der(&request.public_key);
                fields.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|extensions| self.write_extensions(extensions, request, usages));
                });
            });
        });
        let signature = self.key.sign(&body).map_err(AuthorityError::Sign)?;
        let certificate = yasna::construct_der(|writer| {
            writer.write_sequence(|fields| {
                fields.next().write_der(&body);
                write_algorithm(fields.next(), algorithm);
                fields.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem(&certificate))
    }

    fn write_extensions(&self, extensions: &mut DERWriterSeq<'_>, request: &Request, usages: &[&str]) {
        if let Some(bits) = key_usage(usages) {
            write_extension(extensions.next(), &[2, 5, 29, 15], true, &bits);
        }
        let purposes = PURPOSES.iter().filter(|(names, _)| names.iter().any(|name| usages.contains(name)));
        let purposes: Vec<&[u64]> = purposes.map(|(_, oid)| *oid).collect();
        if !purposes.is_empty() {
            let list = yasna::construct_der(|writer| {
                writer.write_sequence(|list| purposes.iter().for_each(|purpose| list.next().write_oid(&oid(purpose))));
            });
            write_extension(extensions.next(), &[2, 5, 29, 37], false, &list);
        }
        // Nobody's authority.
        let constraints = yasna::construct_der(|writer| writer.write_sequence(|_| {}));
        write_extension(extensions.next(), &[2, 5, 29, 19], true, &constraints);
        if let Some(id) = &self.key_id {
            let issuer = yasna::construct_der(|writer| {
                writer.write_sequence(|fields| {
                    fields.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(id));
                });
            });
            write_extension(extensions.next(), &[2, 5, 29, 35], false, &issuer);
        }
        if let Some(names) = alternative_names(request) {
            write_extension(extensions.next(), &[2, 5, 29, 17], is_empty_name(&request.subject), &names);
        }
    }
}

/// The object identifier of the signatures that a key makes, and whether its parameters are written as null.
fn algorithm(key: &KeyPair) -> Option<(&'static [u64], bool)> {
    let is = |other: &rcgen::SignatureAlgorithm| key.algorithm() == other;
    match () {
        () if is(&rcgen::PKCS_ECDSA_P256_SHA256) => Some((&[1, 2, 840, 10045, 4, 3, 2], false)),
        () if is(&rcgen::PKCS_ECDSA_P384_SHA384) => Some((&[1, 2, 840, 10045, 4, 3, 3], false)),
        () if is(&rcgen::PKCS_ED25519) => Some((&[1, 3, 101, 112], false)),
        () if is(&rcgen::PKCS_RSA_SHA256) => Some((&[1, 2, 840, 113_549, 1, 1, 11], true)),
        () => None,
    }
}

fn write_algorithm(writer: DERWriter<'_>, (identifier, null): (&[u64], bool)) {
    writer.write_sequence(|fields| {
        fields.next().write_oid(&oid(identifier));
        if null {
            fields.next().write_null();
        }
    });
}

/// A time: with two digits for the year until 2049, with four from then on.
fn write_time(writer: DERWriter<'_>, at: Timestamp) {
    let short = at < Timestamp::constant(2_524_608_000, 0);
    let (number, text) = match short {
        true => (23, at.strftime("%y%m%d%H%M%SZ").to_string()),
        false => (24, at.strftime("%Y%m%d%H%M%SZ").to_string()),
    };
    let tag = Tag { tag_class: TagClass::Universal, tag_number: number };
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(text.as_bytes()));
}

fn write_extension(writer: DERWriter<'_>, identifier: &[u64], critical: bool, value: &[u8]) {
    writer.write_sequence(|fields| {
        fields.next().write_oid(&oid(identifier));
        if critical {
            fields.next().write_bool(true);
        }
        fields.next().write_bytes(value);
    });
}

/// The bits of the key's usages, without those behind the last that is set.
fn key_usage(usages: &[&str]) -> Option<Vec<u8>> {
    let bits: Vec<usize> = KEY_USAGES.iter().filter(|(name, _)| usages.contains(name)).map(|(_, bit)| *bit).collect();
    let length = bits.iter().max()? + 1;
    let mut bytes = [0_u8; 2];
    for bit in bits {
        bytes[bit / 8] |= 0x80 >> (bit % 8);
    }
    Some(yasna::construct_der(|writer| writer.write_bitvec_bytes(&bytes[..length.div_ceil(8)], length)))
}

fn alternative_names(request: &Request) -> Option<Vec<u8>> {
    let text = |tag: u64, names: &[String]| -> Vec<(u64, Vec<u8>)> {
        names.iter().map(|name| (tag, name.clone().into_bytes())).collect()
    };
    let mut names = text(2, &request.dns_names);
    names.extend(text(1, &request.emails));
    names.extend(request.addresses.iter().map(|address| (7, address.clone())));
    names.extend(text(6, &request.uris));
    if names.is_empty() {
        return None;
    }
    Some(yasna::construct_der(|writer| {
        writer.write_sequence(|list| {
            for (tag, name) in &names {
                list.next().write_tagged_implicit(Tag::context(*tag), |writer| writer.write_bytes(name));
            }
        });
    }))
}

fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

fn pem(der: &[u8]) -> String {
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let text = STANDARD.encode(der);
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    use serde_json::json;
    use x509_parser::extensions::GeneralName;

    use super::*;

    /// An authority that lasts until 2040.
    pub(crate) fn authority() -> Arc<Authority> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Arc::new(Authority::from_pem(&certificate, &key.serialize_pem()).expect("an authority"))
    }

    /// A request in base64, for a user of one group, with names.
    pub(crate) fn request(user: &str, group: &str, names: &[&str]) -> String {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        STANDARD.encode(params.serialize_request(&key).expect("a request").pem().expect("PEM"))
    }

    #[test]
    fn a_certificate_says_what_its_request_says_and_others_can_read_it() {
        let authority = authority();
        let request = Request::of(&json!({"request": request("jane", "team", &["a.example", "10.0.0.1"])}));
        let request = request.expect("a request");
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let usages = ["key encipherment", "digital signature", "client auth", "server auth"];
        let pem = authority.sign(&request, &usages, SignedDuration::from_hours(24), now).expect("a certificate");
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let certificate = block.parse_x509().expect("a certificate");
        assert_eq!(certificate.subject().to_string(), "CN=jane, O=team");
        assert_eq!(certificate.validity().not_before.timestamp(), now.as_second() - 300);
        assert_eq!(certificate.validity().not_after.timestamp(), now.as_second() + 24 * 3600 - 300);
        let usage = certificate.key_usage().expect("extensions").expect("usages").value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let purposes = certificate.extended_key_usage().expect("extensions").expect("purposes").value;
        assert!(purposes.client_auth && purposes.server_auth && !purposes.any);
        let names = &certificate.subject_alternative_name().expect("extensions").expect("names").value.general_names;
        assert_eq!(names[0], GeneralName::DNSName("a.example"));
        assert_eq!(names[1], GeneralName::IPAddress(&[10, 0, 0, 1]));
        assert!(!certificate.is_ca());
        // Never longer than its authority, and not at all when that is over.
        let long = authority.sign(&request, &usages, SignedDuration::from_hours(24 * 10_000), now).expect("signed");
        let (_, block) = x509_parser::pem::parse_x509_pem(long.as_bytes()).expect("PEM");
        let end = block.parse_x509().expect("a certificate").validity().not_after.timestamp();
        assert_eq!(end, "2040-01-01T00:00:00Z".parse::<Timestamp>().expect("a time").as_second());
        let late = "2040-01-02T00:00:00Z".parse().expect("a time");
        assert!(matches!(
            authority.sign(&request, &usages, SignedDuration::from_hours(1), late),
            Err(AuthorityError::Expired(_))
        ));
    }
}
