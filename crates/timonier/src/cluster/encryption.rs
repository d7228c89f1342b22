//! The file that holds what secrets in the datastore are encrypted with.

use std::fs;

use anyhow::{Context, Result, bail};
use apiserver::EncryptionKeys;

use crate::data_dir::{DataDir, write_private};

const FILE: &str = "encryption.keys";

const HEAD: &str = "# What secrets in the datastore are encrypted with. The first key writes, all of them read.\n\
                    # Without this file they are lost: keep a copy apart from the datastore's backups.\n";

/// The keys; a first one is made where there is no file.
pub(crate) fn keys(data: &DataDir) -> Result<EncryptionKeys> {
    let path = data.path(FILE);
    if !path.exists() {
        write_private(&path, format!("{HEAD}{}", EncryptionKeys::new_line()).as_bytes())?;
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    EncryptionKeys::parse(&text).with_context(|| format!("cannot use {}", path.display()))
}

/// Puts a new key first, from the next start on, and keeps the others for reading; the new key's name.
pub(crate) fn rotate(data: &DataDir) -> Result<String> {
    let path = data.path(FILE);
    if !path.exists() {
        bail!("there is no cluster in {}: start one with `timonier up`", data.root().display());
    }
    keys(data)?;
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let old = old.strip_prefix(HEAD).unwrap_or(&old);
    let new = format!("{HEAD}{}{old}", EncryptionKeys::new_line());
    let keys = EncryptionKeys::parse(&new).with_context(|| format!("cannot add a key to {}", path.display()))?;
    write_private(&path, new.as_bytes())?;
    Ok(keys.current().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_made_once_and_rotation_adds_in_front() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path()).unwrap();
        assert!(rotate(&data).unwrap_err().to_string().contains("timonier up"));
        let first = keys(&data).unwrap().current().to_owned();
        assert_eq!(keys(&data).unwrap().current(), first);
        let second = rotate(&data).unwrap();
        let both = keys(&data).unwrap();
        assert_eq!(format!("{both:?}"), format!("[{second:?}, {first:?}]"));
        let path = data.path(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "nonsense").unwrap();
        let wrong = format!("{:#}", keys(&data).unwrap_err());
        assert!(wrong.contains("encryption.keys: line 1: there is no key"), "{wrong}");
    }
}
