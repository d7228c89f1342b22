//! Signs tokens that do not expire, in the older form of service account tokens (ECDSA P-256).

use api::Object;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Who signs such tokens.
const ISSUER: &str = "kubernetes/serviceaccount";

/// What stands before the public point in a P-256 key's SubjectPublicKeyInfo, of which the key's name is made.
const P256_INFO_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not an ECDSA P-256 key in PKCS 8: {0}")]
pub struct TokenKeyError(String);

/// Signs tokens of service accounts.
pub struct TokenSigner {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSigner").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl TokenSigner {
    /// Reads the signing key, PKCS 8 in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, TokenKeyError> {
        let random = SystemRandom::new();
        let unreadable = |why: &dyn std::fmt::Display| TokenKeyError(why.to_string());
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|why| unreadable(&why))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &block.contents, &random);
        let key = key.map_err(|why| unreadable(&why))?;
        let mut info = Sha256::new();
        info.update(P256_INFO_PREFIX);
        info.update(key.public_key());
        let key_id = URL_SAFE_NO_PAD.encode(info.finalize());
        Ok(Self { key, key_id, random })
    }

    /// A token of an account, bound to the secret that holds it.
    pub(super) fn sign(&self, account: &Object, secret: &str) -> String {
        let key = account.key();
        let claims = json!({
            "iss": ISSUER,
            "kubernetes.io/serviceaccount/namespace": &*key.namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": &*key.name,
            "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
            "sub": format!("system:serviceaccount:{}:{}", key.namespace, key.name),
        });
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = self.key.sign(&self.random, token.as_bytes()).expect("signing fails only without randomness");
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        token
    }
}
