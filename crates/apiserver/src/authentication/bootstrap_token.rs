//! Bootstrap tokens: what a machine shows that is to join and has no certificate yet. A token `ID.SECRET` is good while
//! `kube-system` has a secret `bootstrap-token-ID` that says so.
//!
//! Public behaviour: the Kubernetes documentation's "Authenticating with Bootstrap Tokens".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::UserInfo;

/// The group that every bootstrap token is in.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// The two parts of a bootstrap token; `None` where it has another shape.
pub(super) fn split(token: &str) -> Option<(&str, &str)> {
    let plain = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token.split_once('.').filter(|(id, secret)| plain(id, 6) && plain(secret, 16))
}

/// The name of the secret that a token stands in.
pub(super) fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Whose token it is, or why its secret does not make it good.
pub(super) fn user(id: &str, secret: &str, object: &Value, now: Timestamp) -> Result<UserInfo, &'static str> {
    let data = |field: &str| -> Option<String> {
        let bytes = STANDARD.decode(object["data"][field].as_str()?).ok()?;
        String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
    };
    if object["type"] != TYPE {
        return Err("it has another type");
    }
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Err("it is being deleted");
    }
    let known = data("token-secret").ok_or("it has no token-secret")?;
    // Digests: how long this takes says nothing about where the two differ.
    if Sha256::digest(known) != Sha256::digest(secret) {
        return Err("token-secret is another one");
    }
    if data("token-id").as_deref() != Some(id) {
        return Err("token-id is another one");
    }
    if let Some(expiration) = data("expiration") {
        let at = machinery::time::parse(&expiration).map_err(|_| "expiration is no time stamp")?;
        if now >= at {
            return Err("it has expired");
        }
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err("it is not for authentication");
    }
    let extra = data("auth-extra-groups").unwrap_or_default();
    let mut groups = vec![BOOTSTRAPPERS];
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        if !is_extra_group(group) {
            return Err("auth-extra-groups holds a group that is not below system:bootstrappers:");
        }
        groups.push(group);
    }
    Ok(UserInfo::new(format!("system:bootstrap:{id}"), &groups))
}

/// `system:bootstrappers:` and up to 256 lower-case letters, digits, colons and dashes, the last a letter or digit.
fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(BOOTSTRAPPERS).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|byte| word(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_has_its_shape() {
        for (token, good) in [
            ("abcdef.0123456789abcdef", true),
            ("Abcdef.0123456789abcdef", false),
            ("abcde.0123456789abcdef", false),
            ("abcdef.0123456789abcdef0", false),
            ("abcdef0123456789abcdef", false),
        ] {
            assert_eq!(split(token).is_some(), good, "{token}");
        }
    }

    #[test]
    fn a_secret_says_for_whom_until_when_and_what_for() {
        let secret = |changes: Value| {
            let mut data = json!({"token-id": "abcdef", "token-secret": "s", "usage-bootstrap-authentication": "true"});
            data.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let data: serde_json::Map<String, Value> = data
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| (key.clone(), STANDARD.encode(value.as_str().unwrap()).into()))
                .collect();
            json!({"type": TYPE, "data": data})
        };
        let now = "2030-01-01T00:00:00Z".parse().unwrap();
        for (changes, given, expected) in [
            (json!({}), "s", Ok("system:bootstrappers system:authenticated")),
            (
                json!({"auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token"}),
                "s",
                Ok("system:bootstrappers system:bootstrappers:kubeadm:default-node-token system:authenticated"),
            ),
            (json!({}), "t", Err("token-secret is another one")),
            (json!({"token-id": "fedcba"}), "s", Err("token-id is another one")),
            (json!({"expiration": "2029-12-31T00:00:00Z"}), "s", Err("it has expired")),
            (json!({"expiration": "2030-12-31T00:00:00Z"}), "s", Ok("system:bootstrappers system:authenticated")),
            (json!({"expiration": "soon"}), "s", Err("expiration is no time stamp")),
            (json!({"usage-bootstrap-authentication": "false"}), "s", Err("it is not for authentication")),
            (
                json!({"auth-extra-groups": "system:masters"}),
                "s",
                Err("auth-extra-groups holds a group that is not below system:bootstrappers:"),
            ),
        ] {
            let found = user("abcdef", given, &secret(changes), now);
            let groups = found.as_ref().map(|user| user.groups.join(" ")).map_err(|why| *why);
            assert_eq!(groups.as_deref().map_err(|why| *why), expected);
            assert!(found.is_err() || found.unwrap().name == "system:bootstrap:abcdef");
        }
        let mut other = secret(json!({}));
        other["type"] = "Opaque".into();
        assert_eq!(user("abcdef", "s", &other, now), Err("it has another type"));
    }
}
