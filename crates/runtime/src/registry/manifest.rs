//! Manifests and indexes of registries, and which of several platforms is ours. Pure. The OCI image and distribution
//! specifications and Docker's schema 2 define them.

use cri::is_digest;
use serde::Deserialize;

/// What we say that we understand.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// Manifests above this are refused; registries are asked to keep to it by the distribution specification.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Entries of an index or layers of an image; more is no image.
const ENTRIES_MAX: usize = 1_000;
/// One blob; larger ones are refused before a byte is fetched.
const BLOB_BYTES_MAX: u64 = 64 << 30;

/// A document that is no manifest of an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// No JSON, or JSON of another shape.
    #[error("the manifest cannot be understood: {0}")]
    Json(String),
    /// From before 2016.
    #[error("the image has a manifest of schema 1, which registries have given up: push it again with a newer tool")]
    SchemaOne,
    /// Neither an index nor an image.
    #[error("the manifest has neither a configuration nor other manifests")]
    Neither,
    /// A descriptor that cannot be fetched safely.
    #[error("the manifest refers to {digest:?} with {size} bytes: {why}")]
    Descriptor {
        /// Its digest.
        digest: String,
        /// Its size.
        size: i64,
        /// What is wrong.
        why: &'static str,
    },
    /// More than is sensible.
    #[error("the manifest has more than {ENTRIES_MAX} entries")]
    TooLarge,
}

/// What a document refers to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    /// `sha256:...`
    pub digest: String,
    /// Bytes.
    pub size: i64,
    platform: Option<Platform>,
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default)]
    pub(super) variant: String,
}

/// A document of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image for each platform.
    Index(Vec<Descriptor>),
    /// An image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Lowest first.
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "schemaVersion", default)]
    schema_version: i64,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Understands a document; every digest and size in it can be used afterwards.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        if raw.schema_version == 1 {
            return Err(ManifestError::SchemaOne);
        }
        let document = match (raw.config, raw.manifests) {
            (Some(config), _) => Self::Image { config, layers: raw.layers.unwrap_or_default() },
            (None, Some(manifests)) => Self::Index(manifests),
            (None, None) => return Err(ManifestError::Neither),
        };
        let list = match &document {
            Self::Index(list) | Self::Image { layers: list, .. } => list,
        };
        if list.len() > ENTRIES_MAX {
            return Err(ManifestError::TooLarge);
        }
        list.iter().try_for_each(Descriptor::check)?;
        if let Self::Image { config, .. } = &document {
            config.check()?;
        }
        Ok(document)
    }
}

impl Descriptor {
    pub(super) fn bytes(&self) -> u64 {
        self.size.unsigned_abs()
    }

    fn check(&self) -> Result<(), ManifestError> {
        let refuse = |why| ManifestError::Descriptor { digest: self.digest.clone(), size: self.size, why };
        if !is_digest(&self.digest) {
            return Err(refuse("the digest is not sha256: and 64 hexadecimal digits"));
        }
        if self.size < 0 || self.bytes() > BLOB_BYTES_MAX {
            return Err(refuse("no blob has this size"));
        }
        Ok(())
    }
}

impl Platform {
    /// This machine's, in Go's words.
    pub(super) fn ours() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: variant.to_owned() }
    }

    /// How well an image for `self` runs on `machine`: higher is better, `None` not at all.
    fn fits(&self, machine: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&machine.os, &machine.architecture) {
            return None;
        }
        let level = |variant: &str| variant.trim_start_matches('v').parse::<u32>().unwrap_or(0);
        let (theirs, own) = (level(&self.variant), level(&machine.variant));
        match self.architecture.as_str() {
            // Newer processors run what was made for older ones.
            "arm" | "arm64" => (theirs <= own).then_some(theirs),
            // `v1` is what all have; levels above it are a promise that the machine may not keep.
            "amd64" => (theirs <= 1).then_some(1),
            _ => (self.variant == machine.variant).then_some(1),
        }
    }
}

/// The entry of an index that runs here, the best first where several do; an entry that names no platform is the last choice.
pub(super) fn choose<'a>(list: &'a [Descriptor], machine: &Platform) -> Option<&'a Descriptor> {
    let fitting = list.iter().filter_map(|entry| Some((entry.platform.as_ref()?.fits(machine)?, entry)));
    // The first of equals, so that what is chosen does not depend on the iterator.
    let best = fitting.fold(None, |best: Option<(u32, &Descriptor)>, next| match best {
        Some(best) if best.0 >= next.0 => Some(best),
        _ => Some(next),
    });
    best.map(|(_, entry)| entry).or_else(|| list.iter().find(|entry| entry.platform.is_none()))
}

/// What an index offers, for a message.
pub(super) fn offered(list: &[Descriptor]) -> String {
    let platforms = list.iter().filter_map(|entry| entry.platform.as_ref()).filter(|known| known.os != "unknown");
    let mut names: Vec<_> = platforms
        .map(|platform| match platform.variant.as_str() {
            "" => format!("{}/{}", platform.os, platform.architecture),
            variant => format!("{}/{}/{variant}", platform.os, platform.architecture),
        })
        .take(20)
        .collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn machine(architecture: &str, variant: &str) -> Platform {
        Platform { architecture: architecture.into(), os: "linux".into(), variant: variant.into() }
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let entry = |digit, os: &str, architecture: &str, variant: &str| serde_json::json!({"digest": digest(digit), "size": 1, "platform": {"os": os, "architecture": architecture, "variant": variant}});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            entry('0', "unknown", "unknown", ""), entry('1', "windows", "amd64", ""), entry('2', "linux", "amd64", "v3"),
            entry('3', "linux", "amd64", ""), entry('4', "linux", "arm", "v6"), entry('5', "linux", "arm", "v7"),
            entry('6', "linux", "arm64", "v8"),
        ]});
        let Document::Index(list) = Document::parse(index.to_string().as_bytes()).unwrap() else { panic!("an index") };
        for (architecture, variant, wanted) in [
            ("amd64", "", Some('3')),
            ("arm", "v7", Some('5')),
            ("arm", "v6", Some('4')),
            ("arm", "v5", None),
            ("arm64", "v8", Some('6')),
            ("s390x", "", None),
        ] {
            let found = choose(&list, &machine(architecture, variant)).map(|entry| entry.digest.clone());
            assert_eq!(found, wanted.map(digest), "{architecture} {variant}");
        }
        assert!(offered(&list).starts_with("windows/amd64, linux/amd64/v3, linux/amd64, "));
    }

    #[test]
    fn hostile_documents_are_refused() {
        let layer = |digest: &str, size: i64| {
            serde_json::json!({"config": {"digest": self::digest('a'), "size": 2}, "layers": [{"digest": digest, "size": size}]}).to_string()
        };
        for (text, wanted) in [
            (layer("sha256:../../x", 1), "refers to"),
            (layer(&digest('b'), -1), "no blob has this size"),
            (layer(&digest('b'), i64::MAX), "no blob has this size"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
            ("{}".to_owned(), "neither"),
            ("[]".to_owned(), "cannot be understood"),
        ] {
            let error = Document::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
