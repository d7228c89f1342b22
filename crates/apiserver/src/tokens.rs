//! Service account tokens: JSON Web Tokens that this server signs (ECDSA P-256) and that anyone can verify by its key set.
//!
//! A token is checked twice: here, that we signed it and that it is in its time; and by its caller against the caches, that
//! the service account and whatever the token is bound to still exist under the same uid. Behaviour: the Kubernetes
//! documentation's "Managing Service Accounts", KEPs 1205 and 2799; formats: RFC 7515, 7517, 7519.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::authentication::legacy_token::LegacyClaims;

/// A longer token is refused before it is looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// What stands before the public point in a P-256 key's SubjectPublicKeyInfo.
const P256_INFO_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom the token is for.
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// Who issued it.
    pub iss: String,
    /// The token's own identifier.
    #[serde(default)]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bindings,
    /// From when on it is valid.
    pub nbf: i64,
    /// The user name.
    pub sub: String,
}

/// What a token is bound to: it is valid as long as all of these exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bindings {
    /// The namespace of the service account.
    pub namespace: String,
    /// The node that the pod was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The service account.
    pub serviceaccount: Reference,
    /// After this time the use of the token is stale: its holder should have fetched a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object, under the uid that it had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Why a token is no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not in the format, or another key signed it.
    #[error("invalid bearer token")]
    Invalid,
    /// It is too early or too late.
    #[error("service account token has expired")]
    Expired,
    /// It is for somebody else.
    #[error("token audiences are not those that were asked for")]
    Audience,
}

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not an ECDSA P-256 key in PKCS 8 and PEM: {0}")]
pub struct KeyError(String);

/// Signs and verifies.
#[derive(Debug)]
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
    issuer: String,
    random: SystemRandom,
}

impl Tokens {
    /// Reads the signing key, PKCS 8 in PEM.
    pub fn new(key_pem: &[u8], issuer: &str) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem).map_err(|error| KeyError(error.to_string()))?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der(), &random);
        let key = key.map_err(|error| KeyError(error.to_string()))?;
        let mut info = Sha256::new();
        info.update(P256_INFO_PREFIX);
        info.update(key.public_key());
        let key_id = URL_SAFE_NO_PAD.encode(info.finalize());
        Ok(Self { key, key_id, issuer: issuer.to_owned(), random })
    }

    /// Who signs.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A signed token.
    pub fn sign(&self, claims: &impl Serialize) -> String {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let claims = serde_json::to_vec(claims).expect("claims are plain data");
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.key.sign(&self.random, token.as_bytes()).expect("signing fails only without randomness");
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        token
    }

    /// What a token says, if we signed it, it is in its time, and it is for one of `audiences`; with those audiences.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(Claims, Vec<String>), TokenError> {
        let claims = self.read(token).ok_or(TokenError::Invalid)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Invalid);
        }
        if now.as_second() >= claims.exp || now.as_second() < claims.nbf {
            return Err(TokenError::Expired);
        }
        let common: Vec<_> = audiences.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        if common.is_empty() { Err(TokenError::Audience) } else { Ok((claims, common)) }
    }

    /// What a token says that a secret holds, if we signed it.
    pub fn legacy(&self, token: &str) -> Option<LegacyClaims> {
        LegacyClaims::read(&self.payload(token)?)
    }

    fn read(&self, token: &str) -> Option<Claims> {
        serde_json::from_slice(&self.payload(token)?).ok()
    }

    /// The claims of a token that we signed.
    fn payload(&self, token: &str) -> Option<Vec<u8>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        // The algorithm is ours to choose, never the token's.
        if header["alg"] != "ES256" || header["kid"] != *self.key_id {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key());
        key.verify(signed.as_bytes(), &signature).ok()?;
        URL_SAFE_NO_PAD.decode(claims).ok()
    }

    /// The document at `/openid/v1/jwks`.
    pub fn key_set(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }

    /// The document at `/.well-known/openid-configuration`. `base` is where clients reach the key set.
    pub fn discovery(&self, base: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", base.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn tokens() -> Tokens {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Tokens::new(key.serialize_pem().as_bytes(), "https://kubernetes.default.svc").unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["https://kubernetes.default.svc".into(), "vault".into()],
            exp: 2_000_000_000,
            iat: 1_900_000_000,
            iss: "https://kubernetes.default.svc".into(),
            jti: "a".into(),
            kubernetes: Bindings { namespace: "default".into(), ..Bindings::default() },
            nbf: 1_900_000_000,
            sub: "system:serviceaccount:default:builder".into(),
        }
    }

    #[test]
    fn only_our_own_whole_tokens_in_their_time_and_for_us_are_valid() {
        let (tokens, claims) = (tokens(), claims());
        let token = tokens.sign(&claims);
        let at = |second| Timestamp::from_second(second).unwrap();
        let check = |token: &str, audience: &str, second| tokens.verify(token, &[audience.to_owned()], at(second));
        assert_eq!(check(&token, "vault", 1_950_000_000).unwrap(), (claims.clone(), vec!["vault".to_owned()]));
        assert_eq!(check(&token, "else", 1_950_000_000), Err(TokenError::Audience));
        assert_eq!(check(&token, "vault", 2_000_000_000), Err(TokenError::Expired));
        assert_eq!(check(&token, "vault", 1_899_999_999), Err(TokenError::Expired));
        let other = super::tests::tokens().sign(&claims);
        assert_eq!(check(&other, "vault", 1_950_000_000), Err(TokenError::Invalid));
        for at in [3, token.len() / 2, token.len() - 4] {
            let mut damaged = token.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert_eq!(check(&damaged, "vault", 1_950_000_000), Err(TokenError::Invalid), "byte {at}");
        }
        // A token that names no algorithm, or another one, is not ours whatever its signature.
        let claims = token.split('.').nth(1).unwrap();
        let unsigned = format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        assert_eq!(check(&unsigned, "vault", 1_950_000_000), Err(TokenError::Invalid));
    }
}
