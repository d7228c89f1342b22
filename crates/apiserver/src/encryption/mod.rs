//! Secrets are encrypted where they are stored: the datastore's file and its backups never hold one in plain.
//!
//! A record is sealed with AES-256-GCM, with a random nonce, and bound to its storage key, so that it cannot be moved to
//! another name. It begins with a marker and its key's name: several keys can be read, the first one writes. Records that
//! are plain or under an older key are written anew in the background after a start. Only the API server knows of this:
//! the store below sees bytes, the caches above see objects.

mod keys;
mod sealed;

pub use keys::{EncryptionKeys, KeysError};
pub(crate) use sealed::SealedStore;
