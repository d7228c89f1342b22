//! The cluster's keys and certificates, made at the first start.
//!
//! One CA signs servers and clients. The CA lasts ten years; leaf certificates last one and are made anew when less than a
//! third of that is left, also while the process runs, or when the names and addresses that they must cover have changed. Keys are P-256
//! and never leave `pki/` (0700, files 0600) but for the administrator's, which goes into the kubeconfig.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use base::SharedClock;
use controllers::certificates::authority::Authority;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::data_dir::{create_private, write_private};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Other machines' clocks may be behind: a certificate that is not valid yet is as bad as an expired one.
const BACKDATE: Duration = Duration::from_secs(60 * 60);

/// What a certificate is for.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    /// A server under these names and addresses.
    Server { names: Vec<String>, addresses: Vec<IpAddr> },
    /// A client: `user` becomes the user name, `groups` its groups.
    Client { user: String, groups: Vec<String> },
}

/// A certificate with its key, both PEM.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// The cluster's CA and the folder that it keeps.
pub(crate) struct Pki {
    folder: PathBuf,
    clock: SharedClock,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens the folder, making a CA where there is none.
    pub(crate) fn open(folder: PathBuf, clock: SharedClock) -> Result<Self> {
        create_private(&folder)?;
        let (certificate_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        if !certificate_path.exists() {
            // The certificate is written last: it is there only when its key is.
            let (certificate, key) = new_ca(&clock)?;
            write_private(&key_path, key.as_bytes())?;
            write_private(&certificate_path, certificate.as_bytes())?;
        }
        let ca_pem = read(&certificate_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?).with_context(|| damaged(&key_path))?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).with_context(|| damaged(&certificate_path))?;
        Ok(Self { folder, clock, ca_pem, issuer })
    }

    /// The CA's certificate, PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What signs certificates on request.
    pub(crate) fn authority(&self) -> Result<Authority> {
        let key = read(&self.folder.join("ca.key"))?;
        Authority::from_pem(&self.ca_pem, &key).context("the cluster's certificate authority cannot sign")
    }

    /// The certificate of that name, made anew where it is missing, near its end, or made for something else.
    pub(crate) fn leaf(&self, name: &str, purpose: &Purpose) -> Result<Leaf> {
        let (certificate_path, key_path) =
            (self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key")));
        if let (Ok(certificate), Ok(key)) = (read(&certificate_path), read(&key_path))
            && self.still_good(&certificate, &key, purpose)
        {
            return Ok(Leaf { certificate, key });
        }
        let leaf = self.sign(purpose)?;
        write_private(&key_path, leaf.key.as_bytes())?;
        write_private(&certificate_path, leaf.certificate.as_bytes())?;
        Ok(leaf)
    }

    /// The key that signs service account tokens, PKCS#8 PEM.
    pub(crate) fn service_account_key(&self) -> Result<String> {
        let path = self.folder.join("service-account.key");
        if !path.exists() {
            write_private(&path, KeyPair::generate()?.serialize_pem().as_bytes())?;
        }
        read(&path)
    }

    fn sign(&self, purpose: &Purpose) -> Result<Leaf> {
        let mut params = params(&self.clock, LEAF_LIFETIME)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        match purpose {
            Purpose::Server { names, addresses } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.distinguished_name.push(DnType::CommonName, names.first().map_or("server", String::as_str));
                for name in names {
                    params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
                }
                params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
            }
            Purpose::Client { user, groups } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params.distinguished_name.push(DnType::CommonName, user.as_str());
                // The distinguished name holds one value a type: one group is all that our own identities need.
                if let Some(group) = groups.first() {
                    params.distinguished_name.push(DnType::OrganizationName, group.as_str());
                }
            }
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn still_good(&self, certificate: &str, key: &str, purpose: &Purpose) -> bool {
        let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()) else { return false };
        let Ok(parsed) = pem.parse_x509() else { return false };
        let left = parsed.validity().not_after.timestamp() - self.clock.now().as_second();
        let ours = x509_parser::pem::parse_x509_pem(self.ca_pem.as_bytes()).is_ok_and(|(_, ca)| {
            ca.parse_x509().is_ok_and(|ca| parsed.verify_signature(Some(ca.public_key())).is_ok())
        });
        let fits = KeyPair::from_pem(key)
            .is_ok_and(|key| key.public_key_raw() == &*parsed.public_key().subject_public_key.data);
        ours && fits && left > (LEAF_LIFETIME / 3).as_secs().cast_signed() && covers(&parsed, purpose)
    }
}

/// Whether a certificate was made for `purpose`.
fn covers(certificate: &x509_parser::certificate::X509Certificate<'_>, purpose: &Purpose) -> bool {
    use x509_parser::extensions::GeneralName;
    match purpose {
        Purpose::Server { names, addresses } => {
            let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
            let has = |wanted: GeneralName<'_>| extension.value.general_names.contains(&wanted);
            names.iter().all(|name| has(GeneralName::DNSName(name)))
                && addresses.iter().all(|address| match address {
                    IpAddr::V4(address) => has(GeneralName::IPAddress(&address.octets())),
                    IpAddr::V6(address) => has(GeneralName::IPAddress(&address.octets())),
                })
        }
        Purpose::Client { user, .. } => {
            certificate.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == user))
        }
    }
}

fn new_ca(clock: &SharedClock) -> Result<(String, String)> {
    let mut params = params(clock, CA_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, format!("timonier-ca@{}", clock.now().as_second()));
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn params(clock: &SharedClock, lifetime: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let now = clock.now();
    let date = |at: jiff::Timestamp| {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().cast_unsigned(), date.day().cast_unsigned())
    };
    // Whole days: the start is today's (an hour ago's) midnight, so the end is moved a day on.
    params.not_before = date(now.checked_sub(BACKDATE)?);
    params.not_after = date(now.checked_add(lifetime)?.checked_add(DAY)?);
    Ok(params)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn damaged(path: &Path) -> String {
    format!("{} is damaged: restore it from a backup, or start over with `timonier reset`", path.display())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::{FakeClock, SystemClock};

    use super::*;

    fn server(address: &str) -> Purpose {
        Purpose::Server { names: vec!["localhost".into()], addresses: vec![address.parse().unwrap()] }
    }

    #[test]
    fn certificates_are_kept_and_made_anew_when_they_no_longer_fit() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Pki::open(folder.path().join("pki"), Arc::new(SystemClock)).unwrap();
        let pki = open();
        let first = pki.leaf("apiserver", &server("10.0.0.1")).unwrap();
        assert_eq!(open().leaf("apiserver", &server("10.0.0.1")).unwrap().certificate, first.certificate);
        let moved = open().leaf("apiserver", &server("10.0.0.2")).unwrap();
        assert_ne!(moved.certificate, first.certificate);
        assert_eq!(open().ca_pem(), pki.ca_pem());
        crate::tls::server(crate::tls::Identity::of(&moved).unwrap(), pki.ca_pem(), &["h2"]).unwrap();
        let admin = Purpose::Client { user: "timonier-admin".into(), groups: vec!["system:masters".into()] };
        let admin = pki.leaf("admin", &admin).unwrap();
        crate::tls::client(crate::tls::Identity::of(&admin).unwrap(), pki.ca_pem()).unwrap();
    }

    #[test]
    fn certificates_are_renewed_before_they_end() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(FakeClock::default());
        let pki = Pki::open(folder.path().join("pki"), clock.clone()).unwrap();
        let first = pki.leaf("apiserver", &server("10.0.0.1")).unwrap();
        clock.advance(DAY * 200);
        assert_eq!(pki.leaf("apiserver", &server("10.0.0.1")).unwrap().certificate, first.certificate);
        clock.advance(DAY * 60);
        assert_ne!(pki.leaf("apiserver", &server("10.0.0.1")).unwrap().certificate, first.certificate);
    }

    #[test]
    fn a_damaged_ca_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pki");
        drop(Pki::open(path.clone(), Arc::new(SystemClock)).unwrap());
        std::fs::write(path.join("ca.key"), "junk").unwrap();
        let error = Pki::open(path, Arc::new(SystemClock)).err().unwrap();
        assert!(format!("{error:#}").contains("ca.key is damaged"), "{error:#}");
    }
}
