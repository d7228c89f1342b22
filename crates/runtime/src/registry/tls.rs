//! Whom we believe to be a registry: what the system's authorities and those configured vouch for.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::PullError;
use super::config::Tls;

/// The configuration for one endpoint; read at each pull, so that renewed files count and nothing stays in memory.
pub(super) async fn config(registry: &str, secure: bool, tls: Option<&Tls>) -> Result<Arc<ClientConfig>, PullError> {
    let failed = |why: String| PullError::Certificates { registry: registry.to_owned(), why };
    let tls = tls.cloned().unwrap_or_default();
    let work = move || build(secure, &tls);
    match tokio::task::spawn_blocking(work).await {
        Ok(built) => built.map(Arc::new).map_err(failed),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn build(secure: bool, tls: &Tls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if secure {
        // What of the system's list cannot be read is left out: others may do.
        let system = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(system.certs);
        tracing::debug!(added, errors = system.errors.len(), "read the system's authorities");
    }
    if let Some(path) = &tls.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(config.with_no_client_auth());
    };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    config.with_client_auth_cert(certificates(certificate)?, private).map_err(|error| error.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: rustls_pki_types::pem::Error| format!("{}: {error}", path.display());
    let list = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if list.is_empty() { Err(format!("{} has no certificate", path.display())) } else { Ok(list) }
}
