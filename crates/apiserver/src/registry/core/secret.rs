//! Secrets: `stringData` is for writers only and becomes `data`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::names::config_map_key;
use serde_json::Value;

use super::{DATA_BYTES_MAX, decoded, decoded_length, validate_frozen};
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{child, entries, immutable, remove, set, set_default, text};
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
        let mut errors = Vec::new();
        let root = At::new(secret, "");
        let data = root.at("data");
        for (key, value) in data.entries() {
            errors.extend(config_map_key(key).iter().map(|why| value.invalid_as(key, why)));
        }
        if data.entries().map(|(_, value)| decoded_length(value.text())).sum::<usize>() > DATA_BYTES_MAX {
            errors.push(data.too_long(DATA_BYTES_MAX));
        }
        of_type(&mut errors, &root, &data);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        immutable(&mut errors, &new["type"], &old["type"], "type");
        validate_frozen(&mut errors, new, old, &["data"]);
        errors
    }
}

/// What a secret must have to be of its type.
fn of_type(errors: &mut Errors, root: &At<'_>, data: &At<'_>) {
    let kind = root.at("type").text();
    for key in REQUIRED.iter().filter(|(of, _)| *of == kind).flat_map(|(_, keys)| *keys) {
        if !data.at(key).is_set() || (kind == "kubernetes.io/ssh-auth" && !data.at(key).has_text()) {
            errors.push(data.key(key).required(""));
        } else if kind.starts_with("kubernetes.io/docker")
            && let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded(data.at(key).value()))
        {
            // The text is a parser's and differs; what it was of is not told.
            errors.push(data.key(key).invalid_as("<secret contents redacted>", &error.to_string()));
        }
    }
    if kind == "kubernetes.io/basic-auth" && !data.at("username").is_set() && !data.at("password").is_set() {
        errors.push(data.key("username").required(""));
        errors.push(data.key("password").required(""));
    }
    let metadata = root.at("metadata");
    let annotations = metadata.at("annotations");
    let account = annotations.key("kubernetes.io/service-account.name");
    if kind == "kubernetes.io/service-account-token" && !account.has_text() {
        errors.push(account.required(""));
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
