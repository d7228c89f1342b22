//! What a machine learns of the cluster before it trusts it is signed with every bootstrap token that may sign: the
//! ConfigMap `cluster-info` in `kube-public`.
//!
//! Whoever holds a token can tell by its signature that the cluster's address and CA were not swapped on the way. The
//! signatures are JSON Web Signatures without their content (RFC 7515, appendix F). Defined by "Bootstrap Tokens" in the
//! Kubernetes documentation; who publishes the ConfigMap is not this controller's business.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Key, Object, resources};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use control::{Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use jiff::Timestamp;
use machinery::time;
use ring::hmac;
use serde_json::{Map, Value, json};

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "bootstrap-signer",
    reconciles: resources::CONFIG_MAPS,
    owns: &[],
    watches: &[Trigger { resource: resources::SECRETS, keys: signed_with }],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const TOKEN_NAMESPACE: &str = "kube-system";
const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
const TOKEN_PREFIX: &str = "bootstrap-token-";

/// The key of what is signed, and how the keys of signatures begin; the token's id follows.
const CONTENT: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

fn is_token(secret: &Object) -> bool {
    *secret.key().namespace == *TOKEN_NAMESPACE && secret.field(resources::SECRETS, "type") == Some(TOKEN_TYPE)
}

fn signed_with(_: &Informers, secret: &Object) -> Vec<Key> {
    is_token(secret).then(|| Key::new(NAMESPACE, NAME)).into_iter().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    if *key != Key::new(NAMESPACE, NAME) {
        return Ok(Next::OnChange);
    }
    let Some(object) = ctx.cache(resources::CONFIG_MAPS).get(key) else { return Ok(Next::OnChange) };
    let secrets = ctx.cache(resources::SECRETS).in_namespace(TOKEN_NAMESPACE);
    let secrets: Vec<Value> = secrets.iter().filter(|secret| is_token(secret)).map(Object::to_value).collect();
    let plan = plan(&object.to_value(), &secrets, ctx.clock.now());
    if let Some(signed) = plan.signed {
        let body = Bytes::from(signed.to_string());
        match ctx.client.update(resources::CONFIG_MAPS, key, body).await {
            Err(error) if error.is_not_found() => {}
            written => drop(written?),
        }
    }
    Ok(plan.next.map_or(Next::OnChange, Next::After))
}

#[derive(Debug, PartialEq)]
struct Plan {
    /// The ConfigMap with its signatures, where they are others.
    signed: Option<Value>,
    /// When the first of the tokens expires: its signature goes then.
    next: Option<Duration>,
}

fn plan(map: &Value, secrets: &[Value], now: Timestamp) -> Plan {
    let Some(content) = map["data"][CONTENT].as_str() else { return Plan { signed: None, next: None } };
    let tokens: Vec<Token> = secrets.iter().filter_map(|secret| Token::of(secret, now)).collect();
    let mut data: Map<String, Value> = map["data"].as_object().cloned().unwrap_or_default();
    data.retain(|name, _| !name.starts_with(SIGNATURE_PREFIX));
    let signatures: BTreeMap<String, Value> =
        tokens.iter().map(|token| (format!("{SIGNATURE_PREFIX}{}", token.id), token.sign(content).into())).collect();
    data.extend(signatures);
    let mut signed = map.clone();
    signed["data"] = data.into();
    Plan { signed: (signed != *map).then_some(signed), next: tokens.iter().filter_map(|token| token.lasts).min() }
}

/// A bootstrap token that may sign.
struct Token {
    id: String,
    secret: String,
    /// How much longer.
    lasts: Option<Duration>,
}

impl Token {
    fn of(secret: &Value, now: Timestamp) -> Option<Self> {
        let text = |name: &str| {
            let decoded = STANDARD.decode(secret["data"][name].as_str()?).ok()?;
            String::from_utf8(decoded).ok().filter(|text| !text.is_empty())
        };
        let id = secret["metadata"]["name"].as_str()?.strip_prefix(TOKEN_PREFIX)?.to_owned();
        let signs = text("token-id")? == id && text("usage-bootstrap-signing").as_deref() == Some("true");
        let lasts = match text("expiration") {
            None => None,
            // A time that cannot be read is over.
            Some(expires) => Some(Duration::try_from(time::parse(&expires).ok()?.duration_since(now)).ok()?),
        };
        let deleted = !secret["metadata"]["deletionTimestamp"].is_null();
        let good = signs && !deleted && lasts != Some(Duration::ZERO);
        Some(Self { id, secret: text("token-secret")?, lasts }).filter(|_| good)
    }

    /// The signature, in compact form, without the content between its dots.
    fn sign(&self, content: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": self.id}).to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let tag = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(content)).as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    fn token(id: &str, fields: &[(&str, &str)]) -> Value {
        let fields = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")]
            .iter()
            .chain(fields)
            .map(|(name, value)| ((*name).to_owned(), STANDARD.encode(value).into()))
            .collect::<Map<String, Value>>();
        json!({"apiVersion": "v1", "kind": "Secret", "type": TOKEN_TYPE, "data": fields,
            "metadata": {"name": format!("{TOKEN_PREFIX}{id}"), "namespace": TOKEN_NAMESPACE}})
    }

    fn signatures(api: &Api) -> Vec<String> {
        let map = api.get(resources::CONFIG_MAPS, NAMESPACE, NAME).expect("the map");
        let names = map["data"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
        names.filter(|name| name != CONTENT).collect()
    }

    /// Counted by another program.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let token = Token { id: "abcdef".to_owned(), secret: "0123456789abcdef".to_owned(), lasts: None };
        let signature = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..psz1NayrXM3IaFzKZGsb5n_mBl7MjtlsZ1xE8MRmF_4";
        assert_eq!(token.sign("content"), signature);
    }

    #[tokio::test(start_paused = true)]
    async fn every_token_that_may_sign_does_while_it_lasts() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {CONTENT: "first", "jws-kubeconfig-gone": "x"}});
        let mut other = map.clone();
        other["metadata"]["name"] = "other".into();
        let mut renamed = token("eeeeee", &[]);
        renamed["metadata"]["name"] = "bootstrap-token-ffffff".into();
        let objects = [
            map,
            other,
            token("aaaaaa", &[]),
            token("bbbbbb", &[("expiration", "2030-01-01T00:01:00Z")]),
            token("cccccc", &[("usage-bootstrap-signing", "false")]),
            token("dddddd", &[("expiration", "2029-01-01T00:00:00Z")]),
            renamed,
        ];
        let both = ["jws-kubeconfig-aaaaaa", "jws-kubeconfig-bbbbbb"];
        let steps = [
            Step::Do(&|api| assert_eq!(signatures(api), both)),
            Step::Wait(Duration::from_secs(61)),
            Step::Do(&|api| assert_eq!(signatures(api), ["jws-kubeconfig-aaaaaa"])),
            Step::Do(&|api| drop(api.put(token("gggggg", &[])))),
            Step::Do(&|api| api.delete(resources::SECRETS, TOKEN_NAMESPACE, "bootstrap-token-aaaaaa")),
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert_eq!(signatures(&end), ["jws-kubeconfig-gggggg"]);
        let other = end.get(resources::CONFIG_MAPS, NAMESPACE, "other").expect("kept");
        assert_eq!(other["data"]["jws-kubeconfig-gone"], "x", "not ours");
    }
}
