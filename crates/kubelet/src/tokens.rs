//! Service account tokens for a pod's volumes: asked for by TokenRequest, bound to the pod, replaced before they expire.

use std::collections::BTreeMap;

use api::typed::core::v1::{Pod, ServiceAccount};
use api::{Key, Typed};
use base::SharedClock;
use control::{Client, ClientError};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::identity::Identity;
use crate::volumes::payload::{self, TokenClaim};

/// A token is replaced after this part of its life, and after a day at the latest.
const RENEW_PERCENT: i64 = 80;
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

/// The tokens of one pod.
#[derive(Default)]
pub(crate) struct Tokens(BTreeMap<TokenClaim, Token>);

struct Token {
    text: String,
    renew_at: Timestamp,
}

impl Tokens {
    /// Asks for the tokens that the pod's volumes want and that are missing or due.
    pub(crate) async fn refresh(
        &mut self,
        pod: &Pod,
        identity: &Identity,
        client: &Client,
        clock: &SharedClock,
    ) -> Result<(), ClientError> {
        let claims = payload::token_claims(pod);
        self.0.retain(|claim, _| claims.contains(claim));
        for claim in claims {
            let now = clock.now();
            if self.0.get(&claim).is_none_or(|token| token.renew_at <= now) {
                let token = request(pod, identity, &claim, client, now).await?;
                self.0.insert(claim, token);
            }
        }
        Ok(())
    }

    /// The tokens as they are.
    pub(crate) fn texts(&self) -> BTreeMap<TokenClaim, String> {
        self.0.iter().map(|(claim, token)| (claim.clone(), token.text.clone())).collect()
    }

    /// When the first of them is due.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.0.values().map(|token| token.renew_at).min()
    }
}

async fn request(
    pod: &Pod,
    identity: &Identity,
    claim: &TokenClaim,
    client: &Client,
    now: Timestamp,
) -> Result<Token, ClientError> {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
    let account = account.unwrap_or_else(|| "default".to_owned());
    let audiences: Vec<_> = Some(&claim.audience).filter(|audience| !audience.is_empty()).into_iter().collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": claim.expiration_seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": identity.name, "uid": identity.uid},
        },
    });
    let body = serde_json::to_vec(&body).expect("writing JSON to memory does not fail");
    let key = Key::new(identity.namespace.as_str(), account);
    let answer = client.post(ServiceAccount::resource(), &key, Some("token"), body.into()).await?;
    let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Answer {
        request: format!("POST serviceaccounts/{}/token", key.name),
        source,
    };
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| unreadable(error.into()))?;
    let text = answer["status"]["token"].as_str().ok_or_else(|| unreadable("no status.token".into()))?;
    let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|at| at.parse().ok());
    let expires = expires.unwrap_or(now + SignedDuration::from_secs(claim.expiration_seconds));
    Ok(Token { text: text.to_owned(), renew_at: renew_at(now, expires) })
}

fn renew_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now);
    now + SignedDuration::from_secs(life.as_secs() * RENEW_PERCENT / 100).min(AGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_well_before_it_expires() {
        let now = base::Clock::now(&base::FakeClock::default());
        for (life, wanted) in [(3600, 2880), (600, 480), (30 * 86_400, 86_400)] {
            assert_eq!(renew_at(now, now + SignedDuration::from_secs(life)), now + SignedDuration::from_secs(wanted));
        }
    }
}
