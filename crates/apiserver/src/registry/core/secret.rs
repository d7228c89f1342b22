//! Secrets: `stringData` is for writers only and becomes `data`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{validate_data, validate_frozen};
use crate::invalid::FieldError;
use crate::registry::tree::{child, entries, immutable, is_set, remove, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::SECRETS, strategy: |_| Arc::new(SecretStrategy) };

/// The keys that a secret of a type must have.
const REQUIRED: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

struct SecretStrategy;

impl Strategy for SecretStrategy {
    fn default(&self, secret: &mut Value) {
        set_default(secret, "type", "Opaque");
        let plain = secret["stringData"].clone();
        if entries(&plain).next().is_some()
            && let Some(data) = child(secret, "data")
        {
            for (key, value) in entries(&plain) {
                set(data, key, STANDARD.encode(text(value)));
            }
        }
        remove(secret, "stringData");
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        // A type cannot change: a writer that leaves it out means the one that it has.
        if text(&new["type"]) == "Opaque" && !text(&old["type"]).is_empty() {
            set(new, "type", old["type"].clone());
        }
    }

    fn validate(&self, _: &Context<'_>, secret: &Value) -> Vec<FieldError> {
        let mut errors = validate_data(secret, &[], &["data"]);
        let kind = text(&secret["type"]);
        for key in REQUIRED.iter().filter(|(of, _)| *of == kind).flat_map(|(_, keys)| *keys) {
            if secret["data"].get(*key).is_none() {
                errors.push(FieldError::required(format!("data[{key}]"), ""));
            }
        }
        let data = &secret["data"];
        if kind == "kubernetes.io/basic-auth" && !is_set(data, "username") && !is_set(data, "password") {
            errors.push(FieldError::required("data[username]", ""));
            errors.push(FieldError::required("data[password]", ""));
        }
        let account = "kubernetes.io/service-account.name";
        if kind == "kubernetes.io/service-account-token" && text(&secret["metadata"]["annotations"][account]).is_empty()
        {
            errors.push(FieldError::required(format!("metadata.annotations[{account}]"), ""));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        immutable(&mut errors, &new["type"], &old["type"], "type");
        validate_frozen(&mut errors, new, old, &["data"]);
        errors
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_text_becomes_data_and_is_not_kept() {
        let mut secret = json!({"data": {"a": "MQ=="}, "stringData": {"a": "2", "b": "3"}});
        SecretStrategy.default(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "Mg==", "b": "Mw=="}, "type": "Opaque"}));
    }
}
