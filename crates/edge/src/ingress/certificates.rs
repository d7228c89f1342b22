//! Which certificate a client is shown: that of the secret which an Ingress names for the host, else the default one.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use api::typed::core::v1::Secret;
use api::{Key, Object, Typed};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::POISON;
use super::routes::Routes;

/// A secret is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// No secret at all.
    #[error("it is no secret")]
    Secret(#[from] serde_json::Error),
    /// A part is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A part is not PEM.
    #[error("its {0} is not PEM")]
    Pem(&'static str),
    /// Certificate and key do not belong together, or are of no known kind.
    #[error("its certificate and key cannot be used")]
    Key(#[from] rustls::Error),
}

/// Reads the certificate and key of a secret of type `kubernetes.io/tls`.
pub(super) fn read(object: &Object) -> Result<CertifiedKey, CertificateError> {
    let data = Secret::decode(object.json())?.data.unwrap_or_default();
    let part = |name| data.get(name).map(|value| value.0.as_slice()).ok_or(CertificateError::Missing(name));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(part("tls.crt")?).collect();
    let chain = chain.map_err(|_| CertificateError::Pem("tls.crt"))?;
    if chain.is_empty() {
        return Err(CertificateError::Missing("certificate in tls.crt"));
    }
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")?).map_err(|_| CertificateError::Pem("tls.key"))?;
    let certified = CertifiedKey::new(chain, rustls::crypto::ring::sign::any_supported_type(&key)?);
    certified.keys_match()?;
    Ok(certified)
}

/// Shows certificates by the name that a client asks for.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) routes: Arc<RwLock<Routes>>,
    pub(super) secrets: Arc<RwLock<HashMap<Key, Arc<CertifiedKey>>>>,
    pub(super) default: Arc<dyn ResolvesServerCert>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            let (routes, secrets) = (self.routes.read().expect(POISON), self.secrets.read().expect(POISON));
            routes.secrets(name).find_map(|secret| secrets.get(secret).cloned())
        });
        named.or_else(|| self.default.resolve(hello))
    }
}
