//! TLS whose certificate can be replaced while it is in use: connections from then on show the new one.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::CipherSuite;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::pki::Leaf;

/// A certificate with its key, or the place for one that is still to come. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Identity(watch::Sender<Option<Arc<CertifiedKey>>>);

impl Identity {
    /// None yet: handshakes fail until there is one.
    pub(crate) fn none() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn of(leaf: &Leaf) -> Result<Self> {
        let identity = Self::none();
        identity.replace(leaf)?;
        Ok(identity)
    }

    /// New connections show this one.
    pub(crate) fn replace(&self, leaf: &Leaf) -> Result<()> {
        let chain = certificates(&leaf.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).context("a key is not PEM")?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).context("a key is of no known kind")?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().context("a certificate is not of its key")?;
        self.0.send_replace(Some(Arc::new(certified)));
        Ok(())
    }

    /// Waits until there is one.
    pub(crate) async fn there(&self) {
        // The sender lives as long as this value.
        drop(self.0.subscribe().wait_for(Option::is_some).await);
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS for a server: clients may show a certificate of the CA; whether they must is decided by what serves.
pub(crate) fn server(identity: Identity, ca_pem: &str, alpn: &[&str]) -> Result<Arc<rustls::ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca_pem)?)).allow_unauthenticated().build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(server_provider()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(identity));
    tls.ignore_client_order = has_aes();
    tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(tls))
}

/// Where the processor has instructions for AES, AES-128-GCM comes first, as in the servers of Go: both sides of a large list
/// or of many watches spend most of their time encrypting, and the client's own first choice is often the slower AES-256.
fn server_provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if has_aes() {
        // All else stays in its order, what a version can use before what an older one would.
        provider.cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), !is_aes_128_gcm(suite.suite())));
    }
    provider
}

fn is_aes_128_gcm(suite: CipherSuite) -> bool {
    use CipherSuite as Is;
    [
        Is::TLS13_AES_128_GCM_SHA256,
        Is::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Is::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ]
    .contains(&suite)
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// TLS for a client with a certificate, that trusts the CA.
pub(crate) fn client(identity: Identity, ca_pem: &str) -> Result<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots(ca_pem)?);
    Ok(builder.with_client_cert_resolver(Arc::new(identity)))
}

/// TLS for a client without a certificate, that trusts the CA.
pub(crate) fn anonymous_client(ca_pem: &str) -> Result<rustls::ClientConfig> {
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots(ca_pem)?).with_no_client_auth())
}

fn roots(ca_pem: &str) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The certificates of a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().context("a certificate is not PEM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_chooses_the_fastest_cipher_that_the_processor_has() {
        if !has_aes() {
            return;
        }
        let suites: Vec<_> = server_provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(suites[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        let all = rustls::crypto::ring::default_provider().cipher_suites;
        assert!(all.len() == suites.len() && all.iter().all(|suite| suites.contains(&suite.suite())));
    }
}
