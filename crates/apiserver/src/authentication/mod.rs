//! Who sends a request: every request has exactly one [`UserInfo`] before anything else looks at it.
//!
//! The behaviour is that of the Kubernetes documentation's "Authenticating": the first authenticator that recognises a
//! credential decides; a credential that is presented and not valid is refused, never passed over.

mod bootstrap_token;
pub mod certificate;
pub(crate) mod impersonation;
pub mod last_used;
pub mod legacy_token;
pub mod review;
pub mod static_tokens;
pub mod token_request;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{ApiError, Key, Reason, resources};
use base::SharedClock;
use base::metrics::Counters;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub use self::certificate::ClientCertificate;
use self::last_used::Uses;
use self::legacy_token::LegacyClaims;
use self::static_tokens::StaticTokens;
use crate::request::notes::Notes;
use crate::tokens::{Claims, Reference, TokenError, Tokens};
use crate::watch_cache::Caches;

/// The user name of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of a request without credentials.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that every request with valid credentials is in.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// An authenticated identity, as `authentication.k8s.io/v1` `UserInfo` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct UserInfo {
    /// The user name, such as `system:node:alpha` or `system:serviceaccount:default:builder`.
    pub name: String,
    /// An identifier that tells users of the same name over time apart; empty where the authenticator has none.
    pub uid: String,
    /// The groups, in the authenticator's order, with [`AUTHENTICATED`] or [`UNAUTHENTICATED`] among them.
    pub groups: Vec<String>,
    /// What else the authenticator knows, such as `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in `groups`, and in [`AUTHENTICATED`].
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The identity of a service account, in the groups that all of them are in.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let of_namespace = format!("system:serviceaccounts:{namespace}");
        Self::new(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &of_namespace])
    }

    /// The identity of a node's agent.
    pub fn node(name: &str) -> Self {
        Self::new(format!("system:node:{name}"), &["system:nodes"])
    }

    /// The identity of a request without credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// Paths that need no credentials: probes and load balancers have none, nor who verifies our tokens or is about to join.
/// What may be read there is up to RBAC (`system:public-info-viewer`). Everything else is closed to who has none: upstream
/// asks RBAC there too, which is one wrong binding away from an open cluster.
const OPEN_PATHS: [&str; 7] = [
    "/livez",
    "/readyz",
    "/healthz",
    "/version",
    "/openid/v1/jwks",
    "/.well-known/openid-configuration",
    "/api/v1/namespaces/kube-public/configmaps/cluster-info",
];
/// How long a token outlives the deletion mark of what it is bound to: a pod that is ending still has work to do.
const DELETED_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Finds out who sends a request.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    static_tokens: StaticTokens,
    caches: Arc<Caches>,
    clock: SharedClock,
    uses: Uses,
}

/// What uses of tokens that secrets hold are counted by.
pub(crate) static AUTO_TOKENS: Counters<0> = Counters::counters(
    "serviceaccount_legacy_auto_token_uses_total",
    "Cumulative auto-generated legacy tokens used",
    [],
);
pub(crate) static MANUAL_TOKENS: Counters<0> = Counters::counters(
    "serviceaccount_legacy_manual_token_uses_total",
    "Cumulative manually created legacy tokens used",
    [],
);
pub(crate) static INVALID_TOKENS: Counters<0> = Counters::counters(
    "serviceaccount_invalid_legacy_auto_token_uses_total",
    "Cumulative invalid auto-generated legacy tokens used",
    [],
);

impl Authenticator {
    /// Checks tokens against a file's and against the objects in `caches`.
    pub fn new(tokens: Arc<Tokens>, static_tokens: StaticTokens, caches: Arc<Caches>, clock: SharedClock) -> Self {
        Self { tokens, static_tokens, caches, clock, uses: Uses::default() }
    }

    /// What is told of the tokens that secrets hold.
    pub(crate) fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The sender of a request to `path`. `certificate` is the client's own, which TLS has verified against the client CA.
    /// The token is taken out of the headers, so that no later step can leak it.
    pub async fn authenticate(
        &self,
        certificate: Option<&ClientCertificate>,
        path: &str,
        headers: &mut HeaderMap,
        notes: &Notes,
    ) -> Result<Arc<UserInfo>, ApiError> {
        if let Some(certificate) = certificate {
            return certificate.user(self.clock.now());
        }
        if let Some(token) = bearer_token(headers)? {
            let audiences = [self.tokens.issuer().to_owned()];
            return match self.token(&token, &audiences, notes).await? {
                Ok((user, _)) => Ok(Arc::new(user)),
                Err(error) => {
                    tracing::debug!(%error, "refused a bearer token");
                    Err(unauthorized())
                }
            };
        }
        let open = OPEN_PATHS.iter().any(|open| path == *open || path.strip_prefix(open).is_some_and(is_below));
        if open { Ok(Arc::new(UserInfo::anonymous())) } else { Err(unauthorized()) }
    }

    /// Whose token it is, and for which of `audiences`. The outer error is the server's own.
    pub async fn token(
        &self,
        token: &str,
        audiences: &[String],
        notes: &Notes,
    ) -> Result<Result<(UserInfo, Vec<String>), TokenError>, ApiError> {
        let user = match self.static_tokens.user(token) {
            Some(user) => (**user).clone(),
            None => match bootstrap_token::split(token) {
                Some((id, secret)) => match self.bootstrap_token(id, secret).await? {
                    Some(user) => user,
                    None => return Ok(Err(TokenError::Invalid)),
                },
                None => return self.service_account_token(token, audiences, notes).await,
            },
        };
        // Such tokens name no audience: they are for this server.
        let own = self.tokens.issuer();
        if audiences.iter().any(|audience| audience == own) {
            return Ok(Ok((user, vec![own.to_owned()])));
        }
        Ok(Err(TokenError::Audience))
    }

    async fn bootstrap_token(&self, id: &str, secret: &str) -> Result<Option<UserInfo>, ApiError> {
        let cache = self.caches.of(resources::SECRETS).await?;
        let key = Key::new("kube-system", bootstrap_token::secret_name(id).as_str());
        // Neither a deletion nor a new secret is overlooked.
        self.caches.fresh().await;
        let Some(object) = cache.get(&key) else { return Ok(None) };
        match bootstrap_token::user(id, secret, &object.to_value(), self.clock.now()) {
            Ok(user) => Ok(Some(user)),
            Err(why) => {
                tracing::debug!(secret = %key, why, "refused a bootstrap token");
                Ok(None)
            }
        }
    }

    /// A service account's token: signed by us, in its time, and everything that it is bound to still exists.
    async fn service_account_token(
        &self,
        token: &str,
        audiences: &[String],
        notes: &Notes,
    ) -> Result<Result<(UserInfo, Vec<String>), TokenError>, ApiError> {
        let now = self.clock.now();
        let (claims, audiences) = match self.tokens.verify(token, audiences, now) {
            Ok(valid) => valid,
            Err(TokenError::Invalid) => return self.legacy_token(token, audiences, notes).await,
            Err(error) => return Ok(Err(error)),
        };
        let bound = &claims.kubernetes;
        let references = [
            (resources::SERVICE_ACCOUNTS, Some(&bound.serviceaccount)),
            (resources::PODS, bound.pod.as_ref()),
            (resources::SECRETS, bound.secret.as_ref()),
        ];
        for (resource, reference) in references {
            if let Some(reference) = reference
                && !self.exists(resource, &bound.namespace, reference, now).await?
            {
                return Ok(Err(TokenError::Invalid));
            }
        }
        // A token of a pod names the pod's node for information; one of a node alone is bound to it.
        if let (Some(node), None) = (&bound.node, &bound.pod)
            && !self.exists(resources::NODES, "", node, now).await?
        {
            return Ok(Err(TokenError::Invalid));
        }
        if claims.sub != service_account_name(bound) {
            return Ok(Err(TokenError::Invalid));
        }
        if bound.warnafter.is_some_and(|after| now.as_second() > after) {
            tracing::warn!(subject = claims.sub, pod = ?bound.pod, "stale service account token in use");
        }
        Ok(Ok((user_of(&claims), audiences)))
    }

    /// A service account's token that a secret holds: signed by us, and both are still there.
    async fn legacy_token(
        &self,
        token: &str,
        audiences: &[String],
        notes: &Notes,
    ) -> Result<Result<(UserInfo, Vec<String>), TokenError>, ApiError> {
        let Some(claims) = self.tokens.legacy(token) else { return Ok(Err(TokenError::Invalid)) };
        let account = Reference { name: claims.account.clone(), uid: claims.uid.clone() };
        let cache = self.caches.of(resources::SECRETS).await?;
        // A secret that was deleted or given another token a moment ago counts.
        self.caches.fresh().await;
        let key = Key::new(claims.namespace.as_str(), claims.secret.as_str());
        let secret = cache.get(&key).map(|secret| secret.to_value());
        let Some(secret) = secret.filter(|secret| legacy_token::holds(secret, token)) else {
            return Ok(Err(TokenError::Invalid));
        };
        let now = self.clock.now();
        if !self.exists(resources::SERVICE_ACCOUNTS, &claims.namespace, &account, now).await? {
            return Ok(Err(TokenError::Invalid));
        }
        // Such tokens name no audience: they are for this server.
        let own = self.tokens.issuer();
        if !audiences.iter().any(|audience| audience == own) {
            return Ok(Err(TokenError::Audience));
        }
        if !self.note_use(&claims, &key, &secret, notes).await? {
            return Ok(Err(TokenError::Invalid));
        }
        let mut user = UserInfo::service_account(&claims.namespace, &claims.account);
        user.uid = claims.uid;
        Ok(Ok((user, vec![own.to_owned()])))
    }

    /// Writes down that a secret's token is used. False where it is let in no more.
    async fn note_use(
        &self,
        claims: &LegacyClaims,
        key: &Key,
        secret: &Value,
        notes: &Notes,
    ) -> Result<bool, ApiError> {
        let annotate =
            |what: &str, value: String| notes.annotate(format!("authentication.k8s.io/legacy-token-{what}"), value);
        let now = self.clock.now();
        self.uses.tell(key, secret, now);
        if legacy_token::is_invalidated(secret) {
            annotate("invalidated", format!("{}/{}", key.name, key.namespace));
            INVALID_TOKENS.with([]).inc();
            tracing::debug!(secret = %key, "the token in a secret has been marked invalid");
            return Ok(false);
        }
        let accounts = self.caches.of(resources::SERVICE_ACCOUNTS).await?;
        let account = accounts.get(&Key::new(claims.namespace.as_str(), claims.account.as_str()));
        if account.is_some_and(|account| legacy_token::is_auto_generated(&account.to_value(), &claims.secret)) {
            notes.warn(
                "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated \
                 secret-based tokens.",
            );
            annotate("autogenerated-secret", claims.secret.clone());
            AUTO_TOKENS.with([]).inc();
        } else {
            annotate("manual-secret", claims.secret.clone());
            MANUAL_TOKENS.with([]).inc();
        }
        Ok(true)
    }

    async fn exists(
        &self,
        resource: &'static api::Resource,
        namespace: &str,
        reference: &Reference,
        now: Timestamp,
    ) -> Result<bool, ApiError> {
        let cache = self.caches.of(resource).await?;
        let key = Key::new(namespace, reference.name.as_str());
        let mut found = cache.get(&key);
        if found.is_none() {
            // The token may be of an object that was created a moment ago.
            self.caches.fresh().await;
            found = cache.get(&key);
        }
        Ok(found.is_some_and(|object| {
            let deleted = object.index().deletion_timestamp.as_deref().and_then(|at| machinery::time::parse(at).ok());
            object.uid() == reference.uid && deleted.is_none_or(|at| now.duration_since(at) < DELETED_LEEWAY)
        }))
    }
}

fn service_account_name(bound: &crate::tokens::Bindings) -> String {
    format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name)
}

fn user_of(claims: &Claims) -> UserInfo {
    let bound = &claims.kubernetes;
    let mut user = UserInfo::service_account(&bound.namespace, &bound.serviceaccount.name);
    user.uid.clone_from(&bound.serviceaccount.uid);
    let mut extra = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    for (what, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            extra(&format!("{what}-name"), reference.name.clone());
            extra(&format!("{what}-uid"), reference.uid.clone());
        }
    }
    if !claims.jti.is_empty() {
        extra("credential-id", format!("JTI={}", claims.jti));
    }
    user
}

fn is_below(rest: &str) -> bool {
    rest.starts_with('/')
}

/// `401 Unauthorized`, which says no more than that.
pub fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

/// The token of the `Authorization` header, or of a browser's WebSocket, which can set no headers but the subprotocol's.
fn bearer_token(headers: &mut HeaderMap) -> Result<Option<String>, ApiError> {
    if let Some(value) = headers.remove(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| unauthorized())?;
        let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = token.map(|(_, token)| token.trim()).filter(|token| !token.is_empty());
        // Another scheme, or none, is a credential that nobody here knows.
        return token.map(|token| Some(token.to_owned())).ok_or_else(unauthorized);
    }
    websocket_token(headers)
}

fn websocket_token(headers: &mut HeaderMap) -> Result<Option<String>, ApiError> {
    use base64::Engine;
    const NAME: &str = "sec-websocket-protocol";
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let offered = headers.get_all(NAME).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<String> =
        offered.flat_map(|value| value.split(',')).map(|protocol| protocol.trim().to_owned()).collect();
    let Some(encoded) = offered.iter().find_map(|protocol| protocol.strip_prefix(PREFIX)) else { return Ok(None) };
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).map_err(|_| unauthorized())?;
    let token = String::from_utf8(token).map_err(|_| unauthorized())?;
    let others: Vec<_> = offered.iter().filter(|protocol| !protocol.starts_with(PREFIX)).map(String::as_str).collect();
    headers.remove(NAME);
    if let Ok(others) = others.join(", ").parse() {
        headers.insert(NAME, others);
    }
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_found_or_refused_never_passed_over() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Result<Option<&'a str>, ()>);
        let table: [Row<'_>; 6] = [
            (&[], Ok(None)),
            (&[("authorization", "Bearer abc")], Ok(Some("abc"))),
            (&[("authorization", "bearer  abc")], Ok(Some("abc"))),
            (&[("authorization", "Basic YTpi")], Err(())),
            (&[("authorization", "Bearer ")], Err(())),
            (
                &[("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj")],
                Ok(Some("abc")),
            ),
        ];
        for (given, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
            }
            let found = bearer_token(&mut headers).map_err(drop);
            assert_eq!(found.as_ref().map(Option::as_deref), expected.as_ref().map(|token| *token), "{given:?}");
            assert!(!format!("{headers:?}").contains("YWJj"), "the token is gone from the headers");
        }
    }
}
