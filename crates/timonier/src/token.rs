//! What a machine joins a cluster with: `ID.SECRET@sha256:HASH`.
//!
//! `ID.SECRET` is a bootstrap token, by which the cluster knows the machine; `HASH` is that of the public key of the cluster's
//! CA, by which the machine knows the cluster: the same that kubeadm calls `--discovery-token-ca-cert-hash`. Both in one word,
//! so that no machine joins whoever happens to answer. The secret is never printed but by who made it.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

/// The hash of a CA's public key.
pub(crate) type CaHash = [u8; 32];

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const HASH_PREFIX: &str = "@sha256:";

/// A token with the hash of the CA.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JoinToken {
    /// Names the token: no secret.
    pub(crate) id: String,
    /// What only its holders know.
    pub(crate) secret: String,
    /// Whom it is for.
    pub(crate) ca: CaHash,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl JoinToken {
    /// A new one.
    pub(crate) fn generate(ca: CaHash) -> Result<Self> {
        Ok(Self { id: random_text(ID_LENGTH)?, secret: random_text(SECRET_LENGTH)?, ca })
    }

    /// The whole token, secret included.
    pub(crate) fn reveal(&self) -> String {
        format!("{}{HASH_PREFIX}{}", self.bearer(), hex(&self.ca))
    }

    /// What the API server is shown.
    pub(crate) fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = anyhow::Error;

    /// Errors never repeat what was given.
    fn from_str(text: &str) -> Result<Self> {
        let expected = "expected ID.SECRET@sha256:HASH, as `timonier token create` prints it on the server";
        let Some((token, hash)) = text.trim().split_once(HASH_PREFIX) else {
            bail!("the token names no cluster, so that any server could pass for it: {expected}");
        };
        let plain = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let parts = token.split_once('.').filter(|(id, secret)| plain(id, ID_LENGTH) && plain(secret, SECRET_LENGTH));
        let (id, secret) = parts.with_context(|| format!("the token has another shape: {expected}"))?;
        let ca = unhex(hash).with_context(|| format!("the token's hash is not 64 hexadecimal digits: {expected}"))?;
        Ok(Self { id: id.to_owned(), secret: secret.to_owned(), ca })
    }
}

/// The hash of a certificate's public key.
pub(crate) fn hash(certificate_der: &[u8]) -> Result<CaHash> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate_der).context("not a certificate")?;
    Ok(Sha256::digest(certificate.public_key().raw).into())
}

/// `sha256:` and the digits.
pub(crate) fn show(ca: &CaHash) -> String {
    format!("sha256:{}", hex(ca))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Option<CaHash> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let bytes: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// Lower-case letters and digits, each as likely as any other.
fn random_text(length: usize) -> Result<String> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::new();
    while text.len() < length {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).ok().context("the system gives no randomness")?;
        // Bytes beyond the largest multiple of 36 would make some letters likelier.
        let fair = bytes.iter().filter(|byte| **byte < 252).map(|byte| char::from(LETTERS[usize::from(byte % 36)]));
        text.extend(fair.take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_printed_and_never_shown_by_accident() {
        let token = JoinToken::generate([7; 32]).unwrap();
        assert_eq!(token.reveal().parse::<JoinToken>().unwrap(), token);
        assert_eq!((token.id.len(), token.secret.len()), (6, 16));
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said_without_its_secret() {
        let hash = "0".repeat(64);
        for (text, expected) in [
            ("abcdef.0123456789abcdef".to_owned(), "names no cluster"),
            (format!("abcdef@sha256:{hash}"), "another shape"),
            (format!("abcdef.0123456789ABCDEF@sha256:{hash}"), "another shape"),
            ("abcdef.0123456789abcdef@sha256:12".to_owned(), "64 hexadecimal digits"),
            (format!("abcdef.0123456789abcdef@sha256:{}", "é".repeat(32)), "64 hexadecimal digits"),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("timonier token create"), "{error}");
            assert!(!error.to_lowercase().contains("0123456789abcdef"), "{error}");
        }
    }
}
