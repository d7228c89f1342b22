//! TLS whose certificate can be replaced while it is in use: connections from then on show the new one.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::ResolvesClientCert;
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
    let mut tls =
        rustls::ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(identity));
    tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(tls))
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
