//! Tokens that secrets hold for service accounts: they do not expire, and are valid as long as the account is there and its
//! secret still holds them.
//!
//! Defined by "Manually create a long-lived API token for a ServiceAccount" in the Kubernetes documentation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// Who signs such tokens.
const ISSUER: &str = "kubernetes/serviceaccount";
/// A token that was found unused is marked so before its secret goes.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// What such a token says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LegacyClaims {
    iss: String,
    sub: String,
    /// The namespace of account and secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The secret that holds the token.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The account's name.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// The account's uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

impl LegacyClaims {
    /// Reads the claims of a token whose signature was verified.
    pub fn read(claims: &[u8]) -> Option<Self> {
        let claims: Self = serde_json::from_slice(claims).ok()?;
        let subject = format!("system:serviceaccount:{}:{}", claims.namespace, claims.account);
        (claims.iss == ISSUER && claims.sub == subject).then_some(claims)
    }
}

/// Whether a secret still holds the token.
pub fn holds(secret: &Value, token: &str) -> bool {
    let held = secret["data"]["token"].as_str().and_then(|held| STANDARD.decode(held).ok());
    secret["metadata"]["deletionTimestamp"].is_null() && held.is_some_and(|held| held == token.as_bytes())
}

/// Whether a secret was found unused, and its token is let in no more.
pub fn is_invalidated(secret: &Value) -> bool {
    secret["metadata"]["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty())
}

/// Whether the account lists the secret: an older cluster made it by itself.
pub fn is_auto_generated(account: &Value, secret: &str) -> bool {
    account["secrets"].as_array().is_some_and(|listed| listed.iter().any(|one| one["name"] == secret))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_of_another_form_or_subject_are_none() {
        let claims = |issuer: &str, subject: &str| {
            let claims = json!({"iss": issuer, "sub": subject, "kubernetes.io/serviceaccount/namespace": "n",
                "kubernetes.io/serviceaccount/secret.name": "s",
                "kubernetes.io/serviceaccount/service-account.name": "a",
                "kubernetes.io/serviceaccount/service-account.uid": "u"});
            LegacyClaims::read(claims.to_string().as_bytes()).map(|claims| claims.account)
        };
        assert_eq!(claims(ISSUER, "system:serviceaccount:n:a").as_deref(), Some("a"));
        assert_eq!(claims(ISSUER, "system:serviceaccount:n:b"), None);
        assert_eq!(claims("other", "system:serviceaccount:n:a"), None);
        assert_eq!(LegacyClaims::read(b"{}"), None);
    }

    #[test]
    fn only_the_token_that_the_secret_holds_is_good() {
        let mut secret = json!({"metadata": {}, "data": {"token": STANDARD.encode("jwt")}});
        assert!(holds(&secret, "jwt") && !holds(&secret, "older"));
        secret["metadata"]["labels"] = json!({ INVALID_SINCE: "2030-01-01" });
        assert!(holds(&secret, "jwt") && is_invalidated(&secret));
    }
}
