//! Where images come from: mirrors, certificates and credentials of registries, in the words of k3s' `registries.yaml`.
//!
//! ```yaml
//! mirrors:
//!   docker.io:                      # "*" is for every registry without an entry of its own
//!     endpoint: ["https://mirror.example:5000", "http://cache.example"]
//!     rewrite: {"^library/(.*)": "base/$1"}
//! configs:
//!   "mirror.example:5000":
//!     auth: {username: u, password: p}      # or auth: BASE64, or identity_token: TOKEN
//!     tls: {ca_file: /etc/ca.pem, cert_file: /etc/c.pem, key_file: /etc/k.pem}
//! ```
//!
//! A registry's mirrors are asked in order, then the registry itself. Plain HTTP is spoken to endpoints that say `http://`, and
//! to registries on the loopback. A pod's pull secrets go to the image's own registry, never to a mirror.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use cri::Reference;
use serde::Deserialize;

/// Rewrite rules of one mirror, and the size of each: a rule is the administrator's, but a typing error must not take all memory.
const REWRITE_BYTES_MAX: usize = 1 << 20;

/// All that is configured of registries.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// By the registry's name in image references.
    pub mirrors: BTreeMap<String, Mirror>,
    /// By `HOST` or `HOST:PORT` of an endpoint.
    pub configs: BTreeMap<String, HostConfig>,
    /// From the environment, not from the file.
    #[serde(skip)]
    pub proxies: Proxies,
    /// Not from the file.
    #[serde(skip)]
    pub patience: Patience,
}

/// How long a registry is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without a byte. Without it a registry that hangs would hold a pull for ever.
    pub idle: Duration,
    /// Before the second try of what failed; doubled after each.
    pub retry_first: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), retry_first: Duration::from_millis(500) }
    }
}

/// Other places that have a registry's images.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mirror {
    /// URLs, the first one first.
    pub endpoint: Vec<String>,
    /// Regular expressions over the repository's name, and what replaces it there.
    pub rewrite: BTreeMap<String, String>,
}

/// How one endpoint is talked to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Credentials.
    pub auth: Option<Auth>,
    /// Certificates.
    pub tls: Option<Tls>,
}

/// Credentials as the file has them.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Auth(..)")
    }
}

/// Certificates of an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Authorities beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// What we show, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// Not supported, and said so: it would let anybody on the way hand out images.
    pub insecure_skip_verify: bool,
}

/// Proxies, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For plain HTTP.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Hosts, domains, `HOST:PORT`, addresses and CIDRs that are reached directly, between commas.
    pub none: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// An endpoint.
    #[error("mirror endpoint {0:?} is no URL of the form https://HOST:PORT")]
    Endpoint(String),
    /// A rewrite rule.
    #[error("rewrite rule {0:?} is no regular expression")]
    Rewrite(String),
    /// Unsafe.
    #[error("configs {0:?}: insecure_skip_verify is not supported; name the registry's authority in tls.ca_file")]
    Insecure(String),
    /// Half a pair.
    #[error("configs {0:?}: tls.cert_file and tls.key_file belong together")]
    KeyPair(String),
    /// Not base64 of `USER:PASSWORD`.
    #[error("configs {0:?}: auth.auth is not the base64 form of USER:PASSWORD")]
    Auth(String),
}

/// What a registry or its token server is shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    Identity(String),
    /// Shown to the registry as it stands.
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credentials(..)")
    }
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) secure: bool,
    /// `HOST` or `HOST:PORT`.
    pub(super) authority: String,
    /// Before `/REPOSITORY/manifests/...`: `/v2`, for most.
    pub(super) prefix: String,
    pub(super) repository: String,
    /// The registry that a mirror stands in for.
    pub(super) namespace: Option<String>,
    pub(super) credentials: Option<Credentials>,
}

impl Endpoint {
    pub(super) fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// The URL of something in the repository, such as `manifests/latest`.
    pub(super) fn url(&self, what: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let namespace = self.namespace.iter().map(|namespace| format!("?ns={namespace}")).collect::<String>();
        format!("{scheme}://{}{}/{}/{what}{namespace}", self.authority, self.prefix, self.repository)
    }
}

pub(super) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Config {
    /// Finds what cannot be used before the first image is pulled.
    pub fn check(&self) -> Result<(), ConfigError> {
        for mirror in self.mirrors.values() {
            for endpoint in &mirror.endpoint {
                split_url(endpoint).ok_or_else(|| ConfigError::Endpoint(endpoint.clone()))?;
            }
            for rule in mirror.rewrite.keys() {
                regex(rule).ok_or_else(|| ConfigError::Rewrite(rule.clone()))?;
            }
        }
        for (host, config) in &self.configs {
            if let Some(tls) = &config.tls {
                if tls.insecure_skip_verify {
                    return Err(ConfigError::Insecure(host.clone()));
                }
                if tls.cert_file.is_some() != tls.key_file.is_some() {
                    return Err(ConfigError::KeyPair(host.clone()));
                }
            }
            if config.auth.as_ref().is_some_and(|auth| !auth.auth.is_empty() && decode_pair(&auth.auth).is_none()) {
                return Err(ConfigError::Auth(host.clone()));
            }
        }
        Ok(())
    }

    /// The places to ask for an image, in order; `given` are the pod's credentials.
    pub(super) fn endpoints(&self, reference: &Reference, given: Option<Credentials>) -> Vec<Endpoint> {
        let (registry, repository) = reference.repository.split_once('/').unwrap_or(("docker.io", ""));
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut found = Vec::new();
        for url in mirror.iter().flat_map(|mirror| &mirror.endpoint) {
            let Some((secure, authority, path)) = split_url(url) else { continue };
            let own = authority == registry;
            found.push(Endpoint {
                secure,
                prefix: if path.is_empty() { "/v2".to_owned() } else { path },
                repository: rewritten(repository, mirror.map(|mirror| &mirror.rewrite)),
                namespace: (!own).then(|| registry.to_owned()),
                credentials: given.clone().filter(|_| own).or_else(|| self.credentials(&authority)),
                authority,
            });
        }
        let authority = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let configured = self.configs.get(authority).or_else(|| self.configs.get(registry));
        let plain = is_loopback(host_of(authority)) && configured.is_none_or(|config| config.tls.is_none());
        if !found.iter().any(|endpoint| endpoint.authority == authority) {
            found.push(Endpoint {
                secure: !plain,
                authority: authority.to_owned(),
                prefix: "/v2".to_owned(),
                repository: repository.to_owned(),
                namespace: None,
                credentials: given.or_else(|| self.credentials(authority)).or_else(|| self.credentials(registry)),
            });
        }
        found
    }

    fn credentials(&self, authority: &str) -> Option<Credentials> {
        let auth = self.configs.get(authority)?.auth.as_ref()?;
        if !auth.identity_token.is_empty() {
            return Some(Credentials::Identity(auth.identity_token.clone()));
        }
        let pair = decode_pair(&auth.auth).unwrap_or_else(|| (auth.username.clone(), auth.password.clone()));
        (!pair.0.is_empty()).then_some(Credentials::Basic { username: pair.0, password: pair.1 })
    }
}

fn decode_pair(text: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(username, password)| (username.to_owned(), password.to_owned()))
}

fn split_url(url: &str) -> Option<(bool, String, String)> {
    let uri: http::Uri = url.parse().ok()?;
    let secure = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    let plain = uri.query().is_none() && !authority.contains('@') && !authority.is_empty();
    plain.then(|| (secure, authority.to_owned(), uri.path().trim_end_matches('/').to_owned()))
}

fn regex(rule: &str) -> Option<regex::Regex> {
    regex::RegexBuilder::new(rule).size_limit(REWRITE_BYTES_MAX).build().ok()
}

/// The first rule that matches decides.
fn rewritten(repository: &str, rules: Option<&BTreeMap<String, String>>) -> String {
    for (rule, replacement) in rules.into_iter().flatten() {
        if let Some(rule) = regex(rule).filter(|rule| rule.is_match(repository)) {
            return rule.replace(repository, replacement.as_str()).into_owned();
        }
    }
    repository.to_owned()
}

impl Proxies {
    /// The proxy for an endpoint. The loopback is never reached through one.
    pub(super) fn of(&self, secure: bool, host: &str, port: u16) -> Option<&str> {
        let proxy = if secure { &self.https } else { &self.http }.as_deref().filter(|proxy| !proxy.is_empty())?;
        (!is_loopback(host) && !self.none.split(',').any(|rule| excepts(rule.trim(), host, port))).then_some(proxy)
    }
}

fn excepts(rule: &str, host: &str, port: u16) -> bool {
    if rule.is_empty() {
        return false;
    }
    if let (Ok(net), Ok(address)) = (rule.parse::<ipnet::IpNet>(), host.parse::<std::net::IpAddr>()) {
        return net.contains(&address);
    }
    let (rule, only) = match rule.rsplit_once(':') {
        Some((rule, port)) if port.parse::<u16>().is_ok() => (rule, port.parse::<u16>().ok()),
        _ => (rule, None),
    };
    let domain = rule.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    let matches = rule == "*" || host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'));
    matches && only.is_none_or(|only| only == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        serde_json::from_value(serde_json::json!({
            "mirrors": {
                "docker.io": {"endpoint": ["https://m.example:5000", "http://c.example/proxy/v2"], "rewrite": {"^library/(.*)": "base/$1"}},
                "quay.io": {"endpoint": ["https://quay.io"]},
                "*": {"endpoint": ["http://all.example"]},
            },
            "configs": {"m.example:5000": {"auth": {"auth": "dTpwOnE="}}, "quay.io": {"auth": {"identity_token": "t"}}},
        }))
        .unwrap()
    }

    #[test]
    fn mirrors_come_first_and_keep_the_pod_s_credentials_out() {
        let config = config();
        config.check().unwrap();
        let given = Some(Credentials::Basic { username: "pod".into(), password: "s".into() });
        let urls = |image: &str| -> Vec<String> {
            let list = config.endpoints(&Reference::parse(image).unwrap(), given.clone());
            list.iter()
                .map(|endpoint| {
                    let who = match &endpoint.credentials {
                        None => "nobody",
                        Some(Credentials::Basic { username, .. }) => username,
                        Some(_) => "token",
                    };
                    format!("{who} {}", endpoint.url("manifests/1"))
                })
                .collect()
        };
        assert_eq!(
            urls("busybox:1"),
            [
                "u https://m.example:5000/v2/base/busybox/manifests/1?ns=docker.io",
                "nobody http://c.example/proxy/v2/base/busybox/manifests/1?ns=docker.io",
                "pod https://registry-1.docker.io/v2/library/busybox/manifests/1",
            ]
        );
        assert_eq!(urls("quay.io/a/b:1"), ["pod https://quay.io/v2/a/b/manifests/1"]);
        assert_eq!(
            urls("localhost:5000/a:1"),
            [
                "nobody http://all.example/v2/a/manifests/1?ns=localhost:5000",
                "pod http://localhost:5000/v2/a/manifests/1"
            ]
        );
    }

    #[test]
    fn what_cannot_be_used_is_found_at_once() {
        for (json, wanted) in [
            (
                serde_json::json!({"mirrors": {"a": {"endpoint": ["m.example"]}}}),
                ConfigError::Endpoint("m.example".into()),
            ),
            (serde_json::json!({"mirrors": {"a": {"rewrite": {"(": ""}}}}), ConfigError::Rewrite("(".into())),
            (
                serde_json::json!({"configs": {"a": {"tls": {"insecure_skip_verify": true}}}}),
                ConfigError::Insecure("a".into()),
            ),
            (serde_json::json!({"configs": {"a": {"tls": {"cert_file": "c"}}}}), ConfigError::KeyPair("a".into())),
            (serde_json::json!({"configs": {"a": {"auth": {"auth": "!"}}}}), ConfigError::Auth("a".into())),
        ] {
            let config: Config = serde_json::from_value(json).unwrap();
            assert_eq!(config.check(), Err(wanted));
        }
    }

    #[test]
    fn proxies_leave_out_what_is_named() {
        let proxies = Proxies {
            http: None,
            https: Some("http://p:3128".into()),
            none: "10.0.0.0/8, .corp.example,exact.example:444".into(),
        };
        for (host, port, through) in [
            ("registry.example", 443, true),
            ("10.1.2.3", 443, false),
            ("a.corp.example", 443, false),
            ("exact.example", 444, false),
            ("exact.example", 443, true),
            ("notcorp.example", 443, true),
            ("127.0.0.1", 443, false),
        ] {
            assert_eq!(proxies.of(true, host, port).is_some(), through, "{host}:{port}");
        }
        assert_eq!(proxies.of(false, "registry.example", 80), None);
    }
}
