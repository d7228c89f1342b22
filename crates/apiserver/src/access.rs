//! Who may come in and what they may do there, made once when the server starts.

use std::sync::Arc;

use crate::Config;
use crate::authentication::Authenticator;
use crate::authorization::Authorization;
use crate::config::StartError;
use crate::tokens::Tokens;
use crate::watch_cache::Caches;

/// Authentication and authorization.
pub struct Access {
    /// Signs and verifies service account tokens.
    pub tokens: Arc<Tokens>,
    /// Finds out who sends a request.
    pub authenticator: Authenticator,
    /// Says what a user may do.
    pub authorization: Arc<Authorization>,
}

impl Access {
    /// Reads the signing key and indexes roles, bindings and pods.
    pub async fn start(config: &Config, caches: &Arc<Caches>) -> Result<Arc<Self>, StartError> {
        let tokens = Tokens::new(&config.service_account_key_pem, &config.issuer);
        let tokens = Arc::new(tokens.map_err(|error| StartError::SigningKey(error.to_string()))?);
        let authenticator =
            Authenticator::new(tokens.clone(), config.static_tokens.clone(), caches.clone(), config.clock.clone());
        let authorization = Authorization::start(caches).await;
        let authorization = authorization.map_err(|source| StartError::Bootstrap {
            path: "/apis/rbac.authorization.k8s.io/v1".to_owned(),
            source,
        })?;
        Ok(Arc::new(Self { tokens, authenticator, authorization }))
    }
}
