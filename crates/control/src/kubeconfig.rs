//! A client from a kubeconfig: the current context's cluster and user, with embedded certificates or a token.
//!
//! The format is `client.authentication.k8s.io`'s `Config` as kubectl writes it. References to files and exec plugins are
//! refused by name: files are read by the binary only.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::{Client, HttpTransport};

/// Why a kubeconfig gives no client.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// Not YAML.
    #[error("kubeconfig is not YAML")]
    Yaml(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A field is missing or of a form that is not read.
    #[error("kubeconfig: {0}")]
    Field(String),
    /// Certificates or the key do not fit together.
    #[error("kubeconfig: cannot use its certificates")]
    Tls(#[from] rustls::Error),
    /// The server's URL cannot be used.
    #[error("kubeconfig: cannot use its server")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A client for the current context; `user_agent` names the component.
pub fn client(kubeconfig: &str, user_agent: &str) -> Result<Client, KubeconfigError> {
    let config: Value = serde_saphyr::from_str(kubeconfig).map_err(|error| KubeconfigError::Yaml(error.into()))?;
    let current = text(&config, "current-context")?;
    let context = named(&config, "contexts", current)?.get("context").unwrap_or(&Value::Null);
    let cluster = &named(&config, "clusters", text(context, "cluster")?)?["cluster"];
    let user = &named(&config, "users", text(context, "user")?)?["user"];
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&data(cluster, "certificate-authority-data")?)? {
        roots.add(certificate)?;
    }
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots);
    let token = user.get("token").and_then(Value::as_str).map(str::to_owned);
    let tls = if token.is_some() {
        tls.with_no_client_auth()
    } else {
        let key = PrivateKeyDer::from_pem_slice(&data(user, "client-key-data")?)
            .map_err(|error| KubeconfigError::Field(format!("client-key-data: {error}")))?;
        tls.with_client_auth_cert(certificates(&data(user, "client-certificate-data")?)?, key)?
    };
    let transport = HttpTransport::new(text(cluster, "server")?, tls, token.as_deref())
        .map_err(|error| KubeconfigError::Server(error.into()))?;
    Ok(Client::new(Arc::new(transport), user_agent))
}

fn named<'a>(config: &'a Value, list: &str, name: &str) -> Result<&'a Value, KubeconfigError> {
    let entries = config.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found = entries.iter().find(|entry| entry["name"] == name);
    found.ok_or_else(|| KubeconfigError::Field(format!("{list} has no entry {name:?}")))
}

fn text<'a>(from: &'a Value, field: &str) -> Result<&'a str, KubeconfigError> {
    from.get(field).and_then(Value::as_str).ok_or_else(|| KubeconfigError::Field(format!("{field} is missing")))
}

fn data(from: &Value, field: &str) -> Result<Vec<u8>, KubeconfigError> {
    STANDARD
        .decode(text(from, field)?)
        .map_err(|error| KubeconfigError::Field(format!("{field} is not base64: {error}")))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, KubeconfigError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| KubeconfigError::Field(format!("a certificate is not PEM: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let check = |kubeconfig: &str, expected: &str| {
            let error = client(kubeconfig, "test").err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{error}");
        };
        check("a: [", "not YAML");
        check("a: b", "current-context is missing");
        check("current-context: x", "contexts has no entry \"x\"");
        check(
            "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: s}}], users: [{name: u, user: {}}]}",
            "certificate-authority-data is missing",
        );
    }
}
