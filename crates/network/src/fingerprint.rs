//! A short number that stands for a text, the same in every build.

use sha2::{Digest, Sha256};

/// The first bytes of a SHA-256 digest: some texts are a stranger's, who must not find two with one number.
pub(crate) fn fingerprint(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    u64::from_be_bytes(*digest.first_chunk::<8>().expect("a digest has 32 bytes"))
}
