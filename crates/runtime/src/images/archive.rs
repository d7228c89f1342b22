//! Image archives as other tools write them: OCI image layouts and `docker save`, as a tar, plain or compressed. Read once
//! from front to back into a spool directory, every file hashed on the way, then interpreted.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use cri::{Reference, is_digest};

/// Manifests and configurations above this are refused.
const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
/// Files in one archive.
const FILES_MAX: usize = 20_000;
/// Bytes in one archive.
const ARCHIVE_BYTES_MAX: u64 = 128 << 30;
/// Indexes within indexes.
const INDEX_DEPTH_MAX: usize = 4;
/// Images in one archive.
const IMAGES_MAX: usize = 1_000;

/// An archive could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// A file that it should hold.
    #[error("the archive has no {0}")]
    Missing(String),
    /// A JSON document in it.
    #[error("cannot understand {0}")]
    Document(String, #[source] serde_json::Error),
    /// A file whose content is not what its name says.
    #[error("{name} is damaged: its content has the digest sha256:{actual}")]
    Damaged {
        /// The file.
        name: String,
        /// What it has.
        actual: String,
    },
    /// More than is sensible.
    #[error("the archive has more than {0}")]
    TooLarge(String),
    /// Neither layout.
    #[error("neither an OCI image layout (index.json) nor a docker-save archive (manifest.json)")]
    Unknown,
}

/// A file of the archive, spooled.
#[derive(Debug, Clone)]
pub(crate) struct Spooled {
    pub(crate) path: PathBuf,
    /// Hexadecimal SHA-256.
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

/// An archive on disk.
#[derive(Debug)]
pub(super) struct Spool {
    files: BTreeMap<String, Spooled>,
    links: BTreeMap<String, String>,
}

/// One image of an archive or a registry.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) names: BTreeSet<String>,
    /// Names with digests, beside those that its names have by its manifest.
    pub(crate) digests: BTreeSet<String>,
    /// Digest of its manifest, where it has one.
    pub(crate) manifest: Option<String>,
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: String,
    /// Lowest first, possibly compressed.
    pub(crate) layers: Vec<Spooled>,
}

/// What is the beginning of a compressed stream.
pub(super) fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let start = io::BufRead::fill_buf(&mut reader)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?));
    }
    Ok(Box::new(reader))
}

/// Hashes what passes through it.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    pub(super) fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Bytes that an archive's reader may take between two entries: headers, long names, extended attributes. They are held in
/// memory, so that without this limit a name of some gigabytes (which compresses to nothing) would take them.
const HEADERS_BYTES_MAX: u64 = 4 << 20;

/// Counts what is read, and stops at what is left.
pub(super) struct Budgeted<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

/// The other end of a [`Budgeted`] reader.
pub(super) struct Budget(Rc<Cell<u64>>);

impl<R> Budgeted<R> {
    pub(super) fn new(inner: R) -> (Self, Budget) {
        let left = Rc::new(Cell::new(u64::MAX));
        (Self { inner, left: left.clone() }, Budget(left))
    }
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other(format!("the headers of an entry have more than {HEADERS_BYTES_MAX} bytes")));
        }
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..count])?;
        self.left.set(left.saturating_sub(count as u64));
        Ok(count)
    }
}

impl Budget {
    /// The next entry, within bounds; what the one before has must have been read.
    pub(super) fn next<T>(&self, entries: &mut impl Iterator<Item = T>) -> Option<T> {
        self.0.set(HEADERS_BYTES_MAX);
        let next = entries.next();
        self.0.set(u64::MAX);
        next
    }
}

/// Reads what nobody wants of an entry, so that it does not count as headers of the next.
fn drain(entry: &mut impl Read, bytes_left: u64) -> Result<(), ArchiveError> {
    let read = io::copy(&mut entry.take(bytes_left.saturating_add(1)), &mut io::sink()).map_err(ArchiveError::Read)?;
    if read > bytes_left { Err(ArchiveError::TooLarge(format!("{ARCHIVE_BYTES_MAX} bytes"))) } else { Ok(()) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Spool {
    /// Reads a whole archive into `directory`.
    pub(super) fn fill(reader: impl Read, directory: &Path) -> Result<Self, ArchiveError> {
        let (reader, budget) = Budgeted::new(decompress(reader).map_err(ArchiveError::Read)?);
        let mut archive = tar::Archive::new(reader);
        let mut spool = Self { files: BTreeMap::new(), links: BTreeMap::new() };
        let mut bytes_left = ARCHIVE_BYTES_MAX;
        let mut entries = archive.entries().map_err(ArchiveError::Read)?;
        while let Some(entry) = budget.next(&mut entries) {
            let mut entry = entry.map_err(ArchiveError::Read)?;
            if spool.files.len() + spool.links.len() >= FILES_MAX {
                return Err(ArchiveError::TooLarge(format!("{FILES_MAX} files")));
            }
            let Some(name) = plain_name(&entry.path().map_err(ArchiveError::Read)?) else {
                drain(&mut entry, bytes_left)?;
                continue;
            };
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let path = directory.join(spool.files.len().to_string());
                    let spooled = spool_file(&mut entry, path, bytes_left)?;
                    bytes_left = bytes_left.saturating_sub(spooled.size);
                    spool.files.insert(name, spooled);
                }
                // Old versions of docker save write a layer that two images share once, and a link to it.
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let relative = entry.header().entry_type() == tar::EntryType::Symlink;
                    if let Some(target) = entry.link_name().map_err(ArchiveError::Read)? {
                        spool.links.insert(name.clone(), resolve(&name, &target, relative));
                    }
                }
                _ => {}
            }
            drain(&mut entry, bytes_left)?;
        }
        Ok(spool)
    }

    fn file(&self, name: &str) -> Result<&Spooled, ArchiveError> {
        let plain = plain_name(Path::new(name)).unwrap_or_default();
        let target = self.links.get(&plain).unwrap_or(&plain);
        self.files.get(target).ok_or_else(|| ArchiveError::Missing(name.to_owned()))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let spooled = self.file(name)?;
        if spooled.size > DOCUMENT_BYTES_MAX {
            return Err(ArchiveError::TooLarge(format!("{DOCUMENT_BYTES_MAX} bytes in {name}")));
        }
        std::fs::read(&spooled.path).map_err(ArchiveError::Read)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, ArchiveError> {
        serde_json::from_slice(&self.document(name)?).map_err(|error| ArchiveError::Document(name.to_owned(), error))
    }

    /// The file of a digest, verified against it.
    fn blob(&self, digest: &str) -> Result<(&Spooled, String), ArchiveError> {
        let hex = digest.strip_prefix("sha256:").filter(|_| is_digest(digest));
        let name = format!("blobs/sha256/{}", hex.ok_or_else(|| ArchiveError::Missing(format!("blob {digest:?}")))?);
        let spooled = self.file(&name)?;
        if Some(spooled.sha256.as_str()) != hex {
            return Err(ArchiveError::Damaged { name, actual: spooled.sha256.clone() });
        }
        Ok((spooled, name))
    }

    /// The images in it.
    pub(super) fn images(&self) -> Result<Vec<Found>, ArchiveError> {
        let has = |name: &str| self.files.contains_key(name);
        let mut found = match (has("index.json"), has("manifest.json")) {
            (true, _) => self.oci_images()?,
            (false, true) => return self.docker_images(),
            (false, false) => return Err(ArchiveError::Unknown),
        };
        // Newer versions of docker save write both, and the whole names only into their own.
        if has("manifest.json") {
            for entry in self.parse::<Vec<DockerEntry>>("manifest.json")? {
                let digest = format!("sha256:{}", self.file(&entry.config)?.sha256);
                let names = entry.repo_tags.unwrap_or_default();
                for image in found.iter_mut().filter(|image| image.config_digest == digest) {
                    image.names.extend(names.iter().filter_map(|name| canonical(name)));
                }
            }
        }
        Ok(found)
    }

    fn docker_images(&self) -> Result<Vec<Found>, ArchiveError> {
        let entries = self.parse::<Vec<DockerEntry>>("manifest.json")?;
        let image = |entry: DockerEntry| {
            let config = self.document(&entry.config)?;
            let layers = entry.layers.iter().map(|name| self.file(name).cloned()).collect::<Result<_, _>>()?;
            Ok(Found {
                names: entry.repo_tags.unwrap_or_default().iter().filter_map(|name| canonical(name)).collect(),
                digests: BTreeSet::new(),
                manifest: None,
                config_digest: format!("sha256:{}", self.file(&entry.config)?.sha256),
                config,
                layers,
            })
        };
        entries.into_iter().take(IMAGES_MAX).map(image).collect()
    }

    fn oci_images(&self) -> Result<Vec<Found>, ArchiveError> {
        let index = self.parse::<Index>("index.json")?;
        let mut found = Vec::new();
        for descriptor in index.manifests {
            let name = descriptor.annotations.get("io.containerd.image.name");
            let name = name.or_else(|| {
                descriptor.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']))
            });
            let name = name.and_then(|name| canonical(name));
            let start = found.len();
            self.collect(&descriptor, INDEX_DEPTH_MAX, &mut found)?;
            found[start..].iter_mut().for_each(|image| image.names.extend(name.clone()));
        }
        Ok(found)
    }

    fn collect(&self, descriptor: &Descriptor, depth: usize, found: &mut Vec<Found>) -> Result<(), ArchiveError> {
        if !descriptor.platform.as_ref().is_none_or(Platform::is_ours) || found.len() >= IMAGES_MAX {
            return Ok(());
        }
        let (_, name) = self.blob(&descriptor.digest)?;
        let manifest = self.parse::<Manifest>(&name)?;
        if !manifest.manifests.is_empty() {
            let depth = depth
                .checked_sub(1)
                .ok_or_else(|| ArchiveError::TooLarge("four indexes within each other".to_owned()))?;
            for inner in &manifest.manifests {
                // An archive may leave out the platforms that nobody asked for.
                match self.collect(inner, depth, found) {
                    Err(ArchiveError::Missing(_)) if inner.platform.is_none() => {}
                    done => done?,
                }
            }
            return Ok(());
        }
        let config = manifest.config.ok_or_else(|| ArchiveError::Missing(format!("configuration in {name}")))?;
        let (_, config_name) = self.blob(&config.digest)?;
        let layers = manifest.layers.iter().map(|layer| self.blob(&layer.digest).map(|(file, _)| file.clone()));
        found.push(Found {
            names: BTreeSet::new(),
            digests: BTreeSet::new(),
            manifest: Some(descriptor.digest.clone()),
            config: self.document(&config_name)?,
            config_digest: config.digest,
            layers: layers.collect::<Result<_, _>>()?,
        });
        Ok(())
    }
}

fn spool_file(entry: impl Read, path: PathBuf, bytes_left: u64) -> Result<Spooled, ArchiveError> {
    let mut file = File::create(&path).map_err(ArchiveError::Read)?;
    let mut hashing = Hashing::new(entry.take(bytes_left.saturating_add(1)));
    let size = io::copy(&mut hashing, &mut file).map_err(ArchiveError::Read)?;
    if size > bytes_left {
        return Err(ArchiveError::TooLarge(format!("{ARCHIVE_BYTES_MAX} bytes")));
    }
    file.flush().map_err(ArchiveError::Read)?;
    Ok(Spooled { path, sha256: hashing.finish(), size })
}

/// The plain name of an entry; `None` for one that climbs, which is ignored as nothing refers to it.
fn plain_name(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Where a link within the archive leads.
fn resolve(name: &str, target: &Path, relative: bool) -> String {
    let mut parts: Vec<String> = if relative { name.split('/').map(str::to_owned).collect() } else { Vec::new() };
    parts.pop();
    for component in target.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

fn canonical(name: &str) -> Option<String> {
    match Reference::parse(name) {
        Ok(reference) => Some(reference.to_string()),
        Err(error) => {
            tracing::warn!(name, error = base::chain(&error), "an image's name in the archive is not usable");
            None
        }
    }
}

#[derive(Deserialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Platform {
    fn is_ours(&self) -> bool {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os == "linux" && self.architecture == architecture
    }
}

/// A manifest or an index: which one shows by what it has.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}
