//! The keys and the form of a sealed record.
//!
//! ```text
//! file:    one line a key, `<name> <32 bytes in base64>`; the first one writes, all of them read; `#` begins a comment
//! record:  0x01 "aesgcm:" <name> ":" <nonce, 12 bytes> <ciphertext> <tag, 16 bytes>
//! ```

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// What a sealed record begins with. JSON never does.
const MARKER: &[u8] = b"\x01aesgcm:";
const KEY_BYTES: usize = 32;
/// More keys than this are a mistake: each record is looked up among them.
const KEYS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 32;

/// The keys that secrets are sealed with.
pub struct EncryptionKeys {
    /// Never empty.
    keys: Vec<Named>,
    random: SystemRandom,
}

struct Named {
    name: String,
    key: LessSafeKey,
}

/// Why a key file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A line is not of the form.
    #[error("line {line}: {why}; a line is `<name> <32 bytes in base64>`")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// There is no key.
    #[error("it holds no key")]
    Empty,
    /// There are too many.
    #[error("it holds more than {KEYS_MAX} keys: remove those that nothing is sealed with any more")]
    TooMany,
}

/// Why a record cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OpenError {
    /// It is under a key that is not here.
    #[error(
        "it is encrypted with key {name:?}, which is not among the server's keys ({known}): add that key to the key file"
    )]
    UnknownKey { name: String, known: String },
    /// The key is there, and does not open it.
    #[error(
        "key {name:?} does not open it: the record was changed or moved, or the key file holds another key under that name"
    )]
    Refused { name: String },
    /// It has the marker and not the form.
    #[error("its encryption header is damaged")]
    Header,
}

impl EncryptionKeys {
    /// Reads a key file.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<Named> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why| KeysError::Line { line: at + 1, why };
            let (name, encoded) = line.split_once(char::is_whitespace).ok_or_else(|| wrong("there is no key"))?;
            let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if name.len() > NAME_BYTES_MAX || !plain(name) {
                return Err(wrong("a key's name is at most 32 letters, digits and dashes"));
            }
            if keys.iter().any(|known| known.name == name) {
                return Err(wrong("another key has this name"));
            }
            let bytes = STANDARD.decode(encoded.trim()).ok().filter(|bytes| bytes.len() == KEY_BYTES);
            let bytes = bytes.ok_or_else(|| wrong("the key is not 32 bytes in base64"))?;
            let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| wrong("the key cannot be used"))?;
            keys.push(Named { name: name.to_owned(), key: LessSafeKey::new(key) });
        }
        match keys.len() {
            0 => Err(KeysError::Empty),
            1..=KEYS_MAX => Ok(Self { keys, random: SystemRandom::new() }),
            _ => Err(KeysError::TooMany),
        }
    }

    /// A new key's line for a key file.
    pub fn new_line() -> String {
        let random = SystemRandom::new();
        let (mut name, mut key) = ([0; 4], [0; KEY_BYTES]);
        for bytes in [&mut name[..], &mut key[..]] {
            random.fill(bytes).expect("the system has a random source");
        }
        let name = name.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{name} {}\n", STANDARD.encode(key))
    }

    /// A key of its own that is gone with the process: for stores that are, too.
    pub fn ephemeral() -> Self {
        Self::parse(&Self::new_line()).expect("a new line is of the form")
    }

    /// The name of the key that writes.
    pub fn current(&self) -> &str {
        &self.keys[0].name
    }

    /// Seals a record that lies under `storage_key`.
    pub(super) fn seal(&self, storage_key: &[u8], plain: &[u8]) -> Vec<u8> {
        let Named { name, key } = &self.keys[0];
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("the system has a random source");
        let mut record = Vec::with_capacity(MARKER.len() + name.len() + 1 + NONCE_LEN + plain.len() + 16);
        record.extend_from_slice(MARKER);
        record.extend_from_slice(name.as_bytes());
        record.push(b':');
        record.extend_from_slice(&nonce);
        let header = record.len();
        record.extend_from_slice(plain);
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(storage_key),
                &mut record[header..],
            )
            .expect("an object is far below the cipher's limit");
        record.extend_from_slice(tag.as_ref());
        record
    }

    /// The plain record; `None` where it is plain already.
    pub(super) fn open(&self, storage_key: &[u8], record: &[u8]) -> Result<Option<Vec<u8>>, OpenError> {
        let Some((name, rest)) = header(record)? else { return Ok(None) };
        let Some(named) = self.keys.iter().find(|named| named.name == name) else {
            let known: Vec<_> = self.keys.iter().map(|named| named.name.as_str()).collect();
            return Err(OpenError::UnknownKey { name: name.to_owned(), known: known.join(", ") });
        };
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or(OpenError::Header)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Header)?;
        let mut sealed = sealed.to_vec();
        let opened = named.key.open_in_place(nonce, Aad::from(storage_key), &mut sealed);
        let length = opened.map_err(|_| OpenError::Refused { name: name.to_owned() })?.len();
        sealed.truncate(length);
        Ok(Some(sealed))
    }

    /// Whether the key that writes now has sealed the record.
    pub(super) fn is_current(&self, record: &[u8]) -> bool {
        matches!(header(record), Ok(Some((name, _))) if name == self.current())
    }
}

/// The key's name and what follows the header; `None` where the record is plain.
fn header(record: &[u8]) -> Result<Option<(&str, &[u8])>, OpenError> {
    let Some(rest) = record.strip_prefix(MARKER) else { return Ok(None) };
    let within = &rest[..rest.len().min(NAME_BYTES_MAX + 1)];
    let end = within.iter().position(|byte| *byte == b':').ok_or(OpenError::Header)?;
    let name = std::str::from_utf8(&rest[..end]).map_err(|_| OpenError::Header)?;
    Ok(Some((name, &rest[end + 1..])))
}

impl fmt::Debug for EncryptionKeys {
    /// Names only: a key never reaches a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|named| &named.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(names: &[&str]) -> String {
        let line =
            |(at, name): (usize, &&str)| format!("{name} {}\n", STANDARD.encode([at as u8 + name.as_bytes()[0]; 32]));
        names.iter().enumerate().map(line).collect()
    }

    #[test]
    fn a_record_opens_with_its_key_in_its_place_only() {
        let keys = EncryptionKeys::parse(&file(&["a"])).unwrap();
        let sealed = keys.seal(b"/x", b"{secret}");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(keys.open(b"/x", &sealed), Ok(Some(b"{secret}".to_vec())));
        assert_eq!(keys.open(b"/x", b"{plain}"), Ok(None));
        assert_eq!(keys.open(b"/y", &sealed), Err(OpenError::Refused { name: "a".to_owned() }));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            // A record whose marker is damaged is no JSON either; everything else is refused here.
            assert!(at < MARKER.len() || keys.open(b"/x", &damaged).is_err(), "byte {at}");
            assert!(keys.open(b"/x", &sealed[..at]) != Ok(Some(b"{secret}".to_vec())), "cut at {at}");
        }
    }

    #[test]
    fn older_keys_read_and_the_first_one_writes() {
        let old = EncryptionKeys::parse("a AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let both = EncryptionKeys::parse(
            "# new\nb AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\na AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        )
        .unwrap();
        let sealed = old.seal(b"/x", b"1");
        assert_eq!(both.open(b"/x", &sealed), Ok(Some(b"1".to_vec())));
        assert!(!both.is_current(&sealed) && both.is_current(&both.seal(b"/x", b"1")) && !both.is_current(b"1"));
        let missing = old.open(b"/x", &both.seal(b"/x", b"1")).unwrap_err();
        let why =
            r#"it is encrypted with key "b", which is not among the server's keys (a): add that key to the key file"#;
        assert_eq!(missing.to_string(), why);
    }

    #[test]
    fn a_wrong_file_says_where() {
        for (text, expected) in [
            ("", "it holds no key"),
            ("a", "line 1: there is no key; a line is `<name> <32 bytes in base64>`"),
            ("# x\na AAAA", "line 2: the key is not 32 bytes in base64; a line is `<name> <32 bytes in base64>`"),
        ] {
            assert_eq!(EncryptionKeys::parse(text).unwrap_err().to_string(), expected);
        }
        let twice = format!("{}{}", file(&["a"]), file(&["a"]));
        assert!(EncryptionKeys::parse(&twice).unwrap_err().to_string().contains("another key has this name"));
        let keys = EncryptionKeys::ephemeral();
        assert_eq!(format!("{keys:?}"), format!("[{:?}]", keys.current()));
    }
}
