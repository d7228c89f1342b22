//! Image references as people write them, made canonical: `busybox` is `docker.io/library/busybox:latest`. The grammar is
//! that of the distribution project's reference package.

use std::fmt;

/// The longest name that registries accept, without its tag.
const NAME_BYTES_MAX: usize = 255;

/// A canonical image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Registry and repository: `docker.io/library/busybox`.
    pub repository: String,
    /// `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// `sha256:...`
    pub digest: Option<String>,
}

/// A text that names no image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid image reference {text:?}: {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// Understands a reference and fills in what it leaves out.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let failed = |why| ReferenceError { text: text.to_owned(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(failed("the digest is not sha256: and 64 hexadecimal digits"));
        }
        // A colon after the last slash begins a tag; one before it belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(failed("the tag may hold letters, digits, '_', '.' and '-', at most 128"));
        }
        let (domain, path) = split_domain(name);
        if path.is_empty() || !path.split('/').all(is_path_component) {
            return Err(failed("a repository name is lower case letters and digits, joined by '.', '_', '__' or '-'"));
        }
        if !is_domain(&domain) {
            return Err(failed("the registry is not a host name with an optional port"));
        }
        let repository = format!("{domain}/{path}");
        if repository.len() > NAME_BYTES_MAX {
            return Err(failed("the name is longer than 255 characters"));
        }
        let tag = tag.or_else(|| digest.is_none().then_some("latest")).map(str::to_owned);
        Ok(Self { repository, tag, digest: digest.map(str::to_owned) })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(formatter, "@{digest}"),
            (None, Some(tag)) => write!(formatter, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

/// Whether a text is `sha256:` and its digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest.to_owned())
        }
        _ => ("docker.io", name.to_owned()),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let path = if domain == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    (domain.to_owned(), path)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_path_component(component: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(plain) || !bytes.last().is_some_and(plain) {
        return false;
    }
    let separators = bytes.split(plain).filter(|between| !between.is_empty());
    let mut separators = separators.map(|between| std::str::from_utf8(between).unwrap_or("?"));
    separators.all(|between| matches!(between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.rsplit_once(':').unwrap_or((domain, "0"));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    port.parse::<u16>().is_ok() && (host.split('.').all(label) || host.starts_with('[') && host.ends_with(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_canonical() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, canonical) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", "registry.k8s.io/e2e-test-images/agnhost:2.53".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x/y:t", "localhost:5000/x/y:t".to_owned()),
            ("team/x__y-z.w", "docker.io/team/x__y-z.w:latest".to_owned()),
            (&format!("busybox:1@{digest}"), format!("docker.io/library/busybox@{digest}")),
        ] {
            assert_eq!(Reference::parse(text).map(|reference| reference.to_string()), Ok(canonical), "{text}");
        }
        for text in
            ["", "Busybox", "a//b", "a:", "a:b c", "-a", "a___b", "a@sha256:12", "ex ample.com/a", "a/../b", ":5000/x"]
        {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
