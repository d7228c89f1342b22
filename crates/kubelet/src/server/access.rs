//! Who may use the node's endpoints: delegated to the API server, as upstream's kubelet delegates it.
//!
//! A client is who its certificate says, else who `TokenReview` says of its bearer token; whoever shows neither gets 401. What it may
//! do `SubjectAccessReview` says, about `nodes/NAME` and the subresource that the path stands for (`stats`, `metrics`, `pods`,
//! `healthz`, `configz`, else `proxy`); where the fine one is refused, `proxy` is asked about. Answers are kept for a while, in
//! bounded caches. An error is a refusal. Stricter than upstream: what runs in a container wants `create`, by whatever method it is
//! asked for.
//!
//! The API server's own certificate is let in without asking: it is the one that answers these questions, and it has authorized
//! its client already.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::resources::{SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS};
use api::{Key, Resource};
use base::chain;
use bytes::Bytes;
use control::Client;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::Refusal;

/// How long it is believed whose a token is; one that was taken back works so much longer.
const TOKEN_KEPT: Duration = Duration::from_secs(120);
/// A token that the API server did not know may be known a moment later.
const UNKNOWN_TOKEN_KEPT: Duration = Duration::from_secs(10);
/// How long a permission is believed, and a refusal.
const ALLOWED_KEPT: Duration = Duration::from_secs(300);
const DENIED_KEPT: Duration = Duration::from_secs(30);
/// Answers in each cache: without a limit a stranger's made-up tokens would fill the memory.
const ANSWERS_MAX: usize = 1024;
/// What a bearer token may be long; the API server takes no longer ones.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// A client of the node's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct User {
    #[serde(rename = "username")]
    pub(super) name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whom a certificate names; its groups are its organizations.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
        Some(Self { name, groups: groups.collect(), ..Self::default() })
    }
}

/// What is asked about a request: a verb, and the subresources of the node of which one must be allowed.
#[derive(Debug, PartialEq, Eq)]
struct Attributes {
    verb: &'static str,
    subresources: Vec<&'static str>,
}

impl Attributes {
    fn of(method: &Method, path: &str) -> Self {
        let verb = match method.as_str() {
            "POST" => "create",
            "GET" | "HEAD" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        };
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        // A session that begins with a GET, as WebSockets do, runs commands all the same: to read is not enough for it.
        let verb = if matches!(first, "exec" | "attach" | "portForward" | "run") { "create" } else { verb };
        let subresources = match first {
            "stats" => vec!["stats"],
            "metrics" => vec!["metrics"],
            "logs" => vec!["log"],
            "checkpoint" => vec!["checkpoint"],
            "statusz" => vec!["statusz"],
            "flagz" => vec!["configz"],
            "pods" | "runningpods" => vec!["pods", "proxy"],
            "healthz" => vec!["healthz", "proxy"],
            "configz" => vec!["configz", "proxy"],
            _ => vec!["proxy"],
        };
        Self { verb, subresources }
    }
}

/// Answers of the API server, for as long as they are believed.
struct Answers<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Eq + Hash + Clone, V: Clone> Answers<K, V> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let answers = self.0.lock().expect("no holder of kept answers panics");
        answers.get(key).filter(|(_, until)| *until > Instant::now()).map(|(answer, _)| answer.clone())
    }

    fn keep(&self, key: K, answer: V, kept: Duration) {
        let now = Instant::now();
        let mut answers = self.0.lock().expect("no holder of kept answers panics");
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, (_, until)| *until > now);
        }
        if answers.len() >= ANSWERS_MAX
            && let Some(first) = answers.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone())
        {
            answers.remove(&first);
        }
        answers.insert(key, (answer, now + kept));
    }
}

/// Decides who may do what.
pub(super) struct Access {
    node_name: String,
    client: Client,
    /// The names of certificates that are let in without asking.
    trusted: Vec<String>,
    /// By the token's hash: tokens are not kept.
    tokens: Answers<[u8; 32], Option<User>>,
    permissions: Answers<(User, &'static str, &'static str), bool>,
}

impl Access {
    pub(super) fn new(node_name: String, client: Client, trusted: Vec<String>) -> Self {
        Self { node_name, client, trusted, tokens: Answers::new(), permissions: Answers::new() }
    }

    /// Whether a request may be answered.
    pub(super) async fn check(
        &self,
        shown: Option<&Arc<User>>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let user = match shown {
            Some(user) if self.trusted.contains(&user.name) => return Ok(()),
            Some(user) => User::clone(user),
            None => self.user_of_token(headers).await?,
        };
        let Attributes { verb, subresources } = Attributes::of(method, path);
        for subresource in &subresources {
            match self.is_allowed(&user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(
                        user = user.name,
                        verb,
                        subresource,
                        error,
                        "the API server does not say whether a request to this node is allowed: it is refused"
                    );
                    let text = describe("Authorization error", &user, verb, &subresources);
                    return Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, text));
                }
            }
        }
        Err(Refusal(StatusCode::FORBIDDEN, describe("Forbidden", &user, verb, &subresources)))
    }

    async fn user_of_token(&self, headers: &HeaderMap) -> Result<User, Refusal> {
        let unauthorized = || Refusal(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
        let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, token) = value.and_then(|value| value.split_once(' ')).ok_or_else(unauthorized)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(unauthorized());
        }
        let hash = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&hash) {
            return known.ok_or_else(unauthorized);
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = self.ask(TOKEN_REVIEWS, &review).await.map_err(|error| {
            tracing::warn!(error, "the API server does not say whose a token is: a request to this node is refused");
            unauthorized()
        })?;
        let user = (answer["status"]["authenticated"] == true)
            .then(|| serde_json::from_value::<User>(answer["status"]["user"].clone()).ok())
            .flatten();
        let kept = if user.is_some() { TOKEN_KEPT } else { UNKNOWN_TOKEN_KEPT };
        self.tokens.keep(hash, user.clone(), kept);
        user.ok_or_else(unauthorized)
    }

    async fn is_allowed(&self, user: &User, verb: &'static str, subresource: &'static str) -> Result<bool, String> {
        let key = (user.clone(), verb, subresource);
        if let Some(known) = self.permissions.get(&key) {
            return Ok(known);
        }
        let attributes = json!({"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource,
            "name": self.node_name});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            "resourceAttributes": attributes}});
        let answer = self.ask(SUBJECT_ACCESS_REVIEWS, &review).await?;
        let allowed = answer["status"]["allowed"] == true;
        self.permissions.keep(key, allowed, if allowed { ALLOWED_KEPT } else { DENIED_KEPT });
        Ok(allowed)
    }

    async fn ask(&self, resource: &Resource, review: &Value) -> Result<Value, String> {
        let answer = self.client.post(resource, &Key::new("", ""), None, Bytes::from(review.to_string())).await;
        let answer = answer.map_err(|error| chain(&error))?;
        serde_json::from_slice(&answer).map_err(|error| chain(&error))
    }
}

fn describe(what: &str, user: &User, verb: &str, subresources: &[&str]) -> String {
    format!("{what} (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])", user.name, subresources.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stands_for_a_subresource() {
        for (method, path, verb, subresources) in [
            (Method::GET, "/stats/summary", "get", &["stats"][..]),
            (Method::GET, "/metrics", "get", &["metrics"]),
            (Method::GET, "/metrics/cadvisor", "get", &["metrics"]),
            (Method::GET, "/metricsx", "get", &["proxy"]),
            (Method::GET, "/pods", "get", &["pods", "proxy"]),
            (Method::GET, "/pods/", "get", &["pods", "proxy"]),
            (Method::GET, "/runningpods/", "get", &["pods", "proxy"]),
            (Method::GET, "/healthz/ping", "get", &["healthz", "proxy"]),
            (Method::GET, "/configz", "get", &["configz", "proxy"]),
            (Method::GET, "/containerLogs/ns/pod/c", "get", &["proxy"]),
            (Method::POST, "/exec/ns/pod/c", "create", &["proxy"]),
            (Method::GET, "//exec/ns/pod/c", "create", &["proxy"]),
            (Method::GET, "/portForward/ns/pod", "create", &["proxy"]),
            (Method::OPTIONS, "/", "", &["proxy"]),
        ] {
            let attributes = Attributes::of(&method, path);
            assert_eq!((attributes.verb, attributes.subresources.as_slice()), (verb, subresources), "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time_and_only_so_many() {
        let answers = Answers::new();
        answers.keep(0, true, Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(answers.get(&0), Some(true));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(answers.get(&0), None);
        for key in 0..ANSWERS_MAX + 10 {
            answers.keep(key, true, Duration::from_secs(10 + key as u64));
        }
        assert_eq!(answers.0.lock().unwrap().len(), ANSWERS_MAX);
        assert_eq!((answers.get(&9), answers.get(&10)), (None, Some(true)));
    }
}
