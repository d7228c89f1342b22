//! Which credentials of a pod's pull secrets are for an image: by host, with globs in its parts, and by the beginning of the path,
//! the longer key first, as upstream's keyring looks them up. Pure.

use std::collections::BTreeMap;

use api::typed::core::v1::Secret;
use base64::Engine;
use cri::v1;
use serde_json::Value;

use crate::pull_records::{self, PullSecret};

/// What credentials for Docker Hub are found under when no other key is for an image of it.
const DEFAULT_REGISTRY: &str = "index.docker.io";
/// Entries of one secret that are read.
const ENTRIES_MAX: usize = 1_000;

/// A credential, and which secret it is of.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) auth: v1::AuthConfig,
    pub(crate) source: PullSecret,
}

/// Credentials by `HOST[:PORT][/PATH]`.
#[derive(Default)]
pub(crate) struct Keyring {
    keys: BTreeMap<String, Vec<Credential>>,
}

impl Keyring {
    /// Takes in what a secret of either type holds; what cannot be understood holds nothing.
    pub(crate) fn add(&mut self, secret: Secret) {
        let metadata = secret.metadata;
        let source = PullSecret {
            uid: metadata.uid.unwrap_or_default(),
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            credential_hash: String::new(),
        };
        let mut data = secret.data.unwrap_or_default();
        let mut read = |name: &str| {
            let bytes = data.remove(name)?;
            serde_json::from_slice::<Value>(&bytes.0).ok()
        };
        let wrapped = read(".dockerconfigjson").and_then(|mut config| Some(config.get_mut("auths")?.take()));
        let auths = wrapped.or_else(|| read(".dockercfg"));
        for (server, entry) in auths.iter().filter_map(Value::as_object).flatten().take(ENTRIES_MAX) {
            let auth = auth(server, entry);
            let source = PullSecret { credential_hash: pull_records::hash(&auth), ..source.clone() };
            self.keys.entry(key(server)).or_default().push(Credential { auth, source });
        }
    }

    /// The credentials for a repository such as `docker.io/library/busybox`.
    pub(crate) fn lookup(&self, repository: &str) -> Vec<Credential> {
        // The reverse of the alphabet puts the longer of two keys with one beginning first.
        let matching = self.keys.iter().rev().filter(|(key, _)| matches(key, repository));
        let found: Vec<_> = matching.flat_map(|(_, auths)| auths.iter().cloned()).collect();
        if found.is_empty() && repository.starts_with("docker.io/") {
            return self.keys.get(DEFAULT_REGISTRY).cloned().unwrap_or_default();
        }
        found
    }
}

/// `https://index.docker.io/v1/` is `index.docker.io`: the API's version is no path of an image.
fn key(server: &str) -> String {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = ["v1/", "v2/"].iter().find_map(|version| path.strip_prefix(version)).unwrap_or(path);
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        (name.to_owned(), port.to_owned(), format!("/{path}"))
    };
    let ((glob, glob_port, prefix), (name, port, path)) = (split(key), split(repository));
    let (globs, parts): (Vec<_>, Vec<_>) = (glob.split('.').collect(), name.split('.').collect());
    glob_port == port
        && globs.len() == parts.len()
        && globs.iter().zip(&parts).all(|(glob, part)| glob_matches(glob.as_bytes(), part.as_bytes()))
        && (prefix == "/" || path.starts_with(&prefix))
}

/// `*` and `?` within one part of a host name. Work is bounded by the product of both lengths.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(b'?') => (at, from) = (at + 1, from + 1),
            Some(byte) if *byte == text[from] => (at, from) = (at + 1, from + 1),
            _ => match star {
                None => return false,
                Some((back, seen)) => {
                    star = Some((back, seen + 1));
                    (at, from) = (back + 1, seen + 1);
                }
            },
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

fn auth(server: &str, entry: &Value) -> v1::AuthConfig {
    let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let engine = base64::engine::general_purpose::STANDARD;
    let decoded = engine.decode(text("auth").trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => (username.to_owned(), password.to_owned()),
        None => (text("username"), text("password")),
    };
    v1::AuthConfig {
        username,
        password,
        server_address: server.to_owned(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, json: &Value) -> Secret {
        let data = api::typed::ByteString(json.to_string().into_bytes());
        Secret { data: Some([(name.to_owned(), data)].into()), ..Default::default() }
    }

    #[test]
    fn credentials_go_to_their_own_registry_only() {
        let user = |name: &str| serde_json::json!({"username": name, "password": "p"});
        let mut keyring = Keyring::default();
        keyring.add(secret(
            ".dockerconfigjson",
            &serde_json::json!({"auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOnA6cQ=="}, "quay.io": user("quay"), "quay.io/team": user("team"),
                "*.example.com": user("star"), "r?.test:5000": user("port"), "*": user("all"),
            }}),
        ));
        keyring.add(secret(".dockercfg", &serde_json::json!({"old.example": user("old")})));
        keyring.add(secret(".dockerconfigjson", &serde_json::json!("no object")));
        for (repository, wanted) in [
            ("docker.io/library/busybox", "hub"),
            ("quay.io/other/x", "quay"),
            ("quay.io/team/x", "team quay"),
            ("quay.io/teams", "team quay"),
            ("a.example.com/x", "star"),
            ("a.b.example.com/x", ""),
            ("example.com/x", ""),
            ("r1.test:5000/x", "port"),
            ("r1.test/x", ""),
            ("old.example/x", "old"),
            ("localhost/x", "all"),
        ] {
            let names: Vec<_> = keyring.lookup(repository).into_iter().map(|one| one.auth.username).collect();
            assert_eq!(names.join(" "), wanted, "{repository}");
        }
        assert_eq!(keyring.lookup("docker.io/library/busybox")[0].auth.password, "p:q");
    }

    #[test]
    fn globs_do_not_blow_up() {
        assert!(glob_matches(b"a*b?c*", b"axxbyc") && !glob_matches(b"a*b", b"axbx"));
        assert!(!glob_matches(&b"*a".repeat(200), &[b'a'; 150]));
    }
}
