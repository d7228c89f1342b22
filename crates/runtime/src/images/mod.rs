//! Images on disk: imported from archives, unpacked once, named, listed, removed. Several processes may use one store at the
//! same time: `timonier image import` writes while the server reads, and the server sees the result at its next look.
//!
//! ```text
//! images/index.json           all images, replaced whole and synced
//! images/import.lock          held by whoever changes the index or removes layers; readers need no lock
//! images/work.lock            shared by whoever has unfinished files below images/spool or layers
//! images/folder.json          which archives of the folder were imported
//! images/blobs/sha256/HEX     configurations and manifests, as they came
//! layers/NAME/                a layer, unpacked; NAME is the first half of its digest
//! ```
//!
//! A name appears in the index only after all that it needs is on the disk. A layer goes when no image and no container
//! needs it. Compressed layers are not kept: an unpacked one is all that a container needs, and half the disk.

mod archive;
mod folder;
mod layer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Deserializer, Serialize};

pub use archive::ArchiveError;
pub use cri::{Reference, ReferenceError};
pub use folder::Imported;
pub use layer::{LayerError, Limits as LayerLimits, unpack as unpack_layer};

pub(crate) use archive::{Found, Spooled, hex};

use crate::records::{self, ContainerRecord, Durability};

/// More layers than this do not fit into one overlay's options.
const LAYERS_MAX: usize = 110;

/// Hexadecimal digits of a layer's name: 128 bits, short enough for [`LAYERS_MAX`] of them.
const LAYER_NAME_DIGITS: usize = 32;

const INDEX: &str = "index.json";

/// The images of a node.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    limits: LayerLimits,
    seen: Mutex<Option<(Stamp, Arc<Index>)>>,
}

/// What tells one version of the index from another: it is replaced whole, so its inode changes.
type Stamp = (u64, i64, u64, u64);

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:` of its configuration.
    pub id: String,
    /// Canonical names with tags.
    pub names: BTreeSet<String>,
    /// Canonical names with the manifest's digest.
    pub digests: BTreeSet<String>,
    /// Bytes of its layers' files, unpacked.
    pub size: u64,
    /// Layer directories, lowest first.
    pub layers: Vec<String>,
    /// What its containers run.
    pub config: ImageConfig,
    /// The configuration's own bytes, on the way into the store.
    #[serde(skip)]
    config_bytes: Option<Vec<u8>>,
    /// Whether it was imported: such an image may be nowhere else, and is never collected as garbage.
    #[serde(default)]
    pub pinned: bool,
}

/// How an image came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Archive,
    Registry,
}

/// What an image says about its containers. The image specification defines the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `user`, `user:group`, by name or number.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub user: String,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Program.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Where it starts.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub working_dir: String,
    /// What asks it to stop.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub stop_signal: String,
    /// Directories that hold data.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// `sha256:` of its configuration.
    pub id: String,
    /// Its canonical names.
    pub names: Vec<String>,
    /// Bytes, unpacked.
    pub size: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Image>,
}

/// The store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the store.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A record of the store.
    #[error(transparent)]
    Record(#[from] records::RecordError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A layer of it.
    #[error("cannot unpack layer {digest} of image {image}")]
    Layer {
        /// The layer.
        digest: String,
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// An image whose parts do not fit together.
    #[error("image {image} is damaged: {why}")]
    Damaged {
        /// The image.
        image: String,
        /// What does not fit.
        why: String,
    },
    /// It names no image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Somebody removed a layer while it was taken into use.
    #[error("layer {0} was removed meanwhile; try again")]
    Vanished(String),
    /// It runs.
    #[error("image {image} is in use by container {container}")]
    InUse {
        /// The image.
        image: String,
        /// One of them.
        container: String,
    },
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}

impl Store {
    /// Opens the store below the runtime's root, making it where there is none.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for directory in ["images/blobs/sha256", "images/spool", "layers"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(file_error("make", &path))?;
        }
        let store = Self { root: root.to_owned(), limits: LayerLimits::default(), seen: Mutex::new(None) };
        store.clean()?;
        store.index()?;
        Ok(store)
    }

    /// Imports the images of an archive file.
    pub fn import_file(&self, path: &Path) -> Result<Vec<ImageSummary>, StoreError> {
        let file = File::open(path).map_err(file_error("open", path))?;
        self.import(file)
    }

    /// Imports the images of an archive. All of them are there afterwards, or none.
    pub fn import(&self, archive: impl Read) -> Result<Vec<ImageSummary>, StoreError> {
        let spool = self.spool()?;
        let filled = archive::Spool::fill(archive, spool.path())?;
        self.add(filled.images()?, Origin::Archive)
    }

    /// A directory for what is to be added; it goes when this does.
    pub(crate) fn spool(&self) -> Result<SpoolDirectory, StoreError> {
        let working = self.work()?;
        let directory = self.unique("images/spool")?;
        std::fs::create_dir(&directory.0).map_err(file_error("make", &directory.0))?;
        Ok(SpoolDirectory { directory, _working: working })
    }

    /// Unpacks images and enters them: all of them, or none.
    pub(crate) fn add(&self, found: Vec<archive::Found>, origin: Origin) -> Result<Vec<ImageSummary>, StoreError> {
        let _working = self.work()?;
        let (mut images, mut unpacked) = (Vec::new(), Vec::new());
        for image in found {
            images.push(Image { pinned: origin == Origin::Archive, ..self.prepare(image, &mut unpacked)? });
        }
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        self.commit_layers(unpacked)?;
        let mut index = Index::clone(&*self.index()?);
        let mut summaries = Vec::new();
        for image in images {
            // A layer that was there already may have been collected before we held the lock.
            if let Some(gone) = image.layers.iter().find(|layer| !self.layers_directory().join(layer).exists()) {
                return Err(StoreError::Vanished(gone.clone()));
            }
            self.write_blob(&image.id, image.config_bytes.as_deref().unwrap_or_default())?;
            summaries.push(ImageSummary {
                id: image.id.clone(),
                names: image.names.iter().cloned().collect(),
                size: image.size,
            });
            index.add(image);
        }
        self.write_index(&index)?;
        Ok(summaries)
    }

    /// Which layers of an image, by its configuration, are on the disk already.
    pub(crate) fn present_layers(&self, config: &[u8]) -> Vec<bool> {
        let digests = serde_json::from_slice::<ConfigFile>(config).map(|file| file.rootfs.diff_ids).unwrap_or_default();
        let present =
            |digest: &String| cri::is_digest(digest) && self.layers_directory().join(layer_name(digest)).exists();
        digests.iter().map(present).collect()
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        Ok(self.index()?.images.values().cloned().collect())
    }

    /// The image that a name, a digest or an id (or the beginning of one) means.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, StoreError> {
        Ok(self.index()?.find(reference).cloned())
    }

    /// Removes an image with all its names; `false` where there is none. One that a container uses stays.
    pub fn remove(&self, reference: &str) -> Result<bool, StoreError> {
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let mut index = Index::clone(&*self.index()?);
        let Some(image) = index.find(reference).cloned() else { return Ok(false) };
        let uses = |container: &ContainerRecord| {
            container.image_id == image.id || container.volume_images.contains_key(&image.id)
        };
        if let Some(container) = self.containers()?.into_iter().find(uses) {
            return Err(StoreError::InUse { image: reference.to_owned(), container: container.id });
        }
        index.images.remove(&image.id);
        self.write_index(&index)?;
        // A container that was made at this moment is seen now, or sees that its image has gone.
        self.collect_garbage(&index)?;
        Ok(true)
    }

    /// Bytes of all images' layers, each layer counted once with the largest image that has it.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.index()?.images.values().map(|image| image.size).sum())
    }

    /// Where layers are.
    pub fn layers_directory(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn prepare(&self, found: archive::Found, unpacked: &mut Vec<(Unfinished, PathBuf)>) -> Result<Image, StoreError> {
        let damaged = |why: String| StoreError::Damaged { image: found.config_digest.clone(), why };
        let file: ConfigFile = serde_json::from_slice(&found.config)
            .map_err(|error| damaged(format!("its configuration cannot be understood: {error}")))?;
        let digests = file.rootfs.diff_ids;
        if digests.len() != found.layers.len() {
            return Err(damaged(format!("it names {} layers and has {}", digests.len(), found.layers.len())));
        }
        if digests.len() > LAYERS_MAX {
            return Err(damaged(format!("it has {} layers; an overlay holds {LAYERS_MAX}", digests.len())));
        }
        let (mut layers, mut size) = (Vec::new(), 0);
        for (digest, layer) in digests.iter().zip(&found.layers) {
            if !cri::is_digest(digest) {
                return Err(damaged(format!("it names a layer {digest:?}, which is no digest")));
            }
            let name = layer_name(digest).to_owned();
            size += self.prepare_layer(&found.config_digest, digest, &name, layer, unpacked)?;
            layers.push(name);
        }
        if layers.is_empty() {
            // An overlay needs a lower layer: an image from nothing gets an empty one.
            layers.push(self.empty_layer()?);
        }
        let repositories = found.names.iter().filter_map(|name| Reference::parse(name).ok());
        let manifest = found.manifest.as_ref();
        let named = manifest.map(|digest| repositories.map(|name| format!("{}@{digest}", name.repository)).collect());
        let mut digests: BTreeSet<String> = named.unwrap_or_default();
        digests.extend(found.digests);
        Ok(Image {
            id: found.config_digest,
            names: found.names,
            digests,
            size,
            layers,
            config: file.config.unwrap_or_default(),
            pinned: false,
            config_bytes: Some(found.config),
        })
    }

    /// Unpacks a layer beside its place, unless it is there; returns its size.
    fn prepare_layer(
        &self,
        image: &str,
        digest: &str,
        name: &str,
        spooled: &archive::Spooled,
        unpacked: &mut Vec<(Unfinished, PathBuf)>,
    ) -> Result<u64, StoreError> {
        let place = self.layers_directory().join(name);
        let sizes = self.layers_directory().join(format!("{name}.size"));
        if place.exists() {
            let text = std::fs::read_to_string(&sizes).unwrap_or_default();
            return Ok(text.trim().parse().unwrap_or(spooled.size));
        }
        if unpacked.iter().any(|(_, other)| *other == place) {
            return Ok(0);
        }
        let target = self.unique("layers")?;
        // The root of a container has this mode, unless the archive names another; the umask must not decide it.
        std::fs::create_dir(&target.0).map_err(file_error("make", &target.0))?;
        std::fs::set_permissions(&target.0, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(file_error("make", &target.0))?;
        let failed = |source| StoreError::Layer { digest: digest.to_owned(), image: image.to_owned(), source };
        let file = File::open(&spooled.path).map_err(file_error("open", &spooled.path))?;
        let plain = archive::decompress(file).map_err(|error| failed(LayerError::Archive(error)))?;
        let mut hashing = archive::Hashing::new(plain);
        let limits = self.limits.within(&target.0);
        let size = layer::unpack(&mut hashing, &target.0, &limits).map_err(failed)?;
        // Behind the end of an archive there may be padding, which counts for the digest; more than that is a bomb.
        let rest = io::copy(&mut (&mut hashing).take(layer::TRAILER_BYTES_MAX), &mut io::sink());
        rest.map_err(|error| failed(LayerError::Archive(error)))?;
        let actual = format!("sha256:{}", hashing.finish());
        if actual != digest {
            return Err(StoreError::Damaged {
                image: image.to_owned(),
                why: format!("layer {digest} has the content of {actual}"),
            });
        }
        std::fs::write(&sizes, size.to_string()).map_err(file_error("write", &sizes))?;
        unpacked.push((target, place));
        Ok(size)
    }

    /// A layer with nothing in it.
    pub(crate) fn empty_layer(&self) -> Result<String, StoreError> {
        let path = self.layers_directory().join("empty");
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(file_error("make", &path)(error)),
            _ => Ok("empty".to_owned()),
        }
    }

    /// One sync for all layers together, then their names.
    fn commit_layers(&self, unpacked: Vec<(Unfinished, PathBuf)>) -> Result<(), StoreError> {
        let directory = self.layers_directory();
        let folder = File::open(&directory).map_err(file_error("open", &directory))?;
        if !unpacked.is_empty() {
            rustix::fs::syncfs(&folder).map_err(|error| file_error("sync", &directory)(error.into()))?;
        }
        for (unfinished, place) in unpacked {
            // Another import may have brought the same layer meanwhile: then ours goes.
            if !place.exists() {
                std::fs::rename(&unfinished.0, &place).map_err(file_error("rename", &unfinished.0))?;
            }
        }
        folder.sync_all().map_err(file_error("sync", &directory))
    }

    fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let name = digest.strip_prefix("sha256:").unwrap_or(digest);
        Ok(records::write_bytes(&self.root.join("images/blobs/sha256"), name, bytes, Durability::Disk)?)
    }

    fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        Ok(records::write(&self.root.join("images"), INDEX, index, Durability::Disk)?)
    }

    /// The index as it is on disk now; read only when it was replaced since the last look.
    fn index(&self) -> Result<Arc<Index>, StoreError> {
        use std::os::unix::fs::MetadataExt;
        let path = self.root.join("images").join(INDEX);
        let stamp = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(file_error("read", &path)(error)),
            Ok(found) => (found.ino(), found.mtime(), found.mtime_nsec().unsigned_abs(), found.size()),
        };
        let seen = || self.seen.lock().expect("no holder of the index's lock panics");
        if let Some((_, index)) = seen().as_ref().filter(|(seen, _)| *seen == stamp) {
            return Ok(index.clone());
        }
        let text = std::fs::read(&path).map_err(file_error("read", &path))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|error| file_error("understand", &path)(error.into()))?;
        let index = Arc::new(index);
        *seen() = Some((stamp, index.clone()));
        Ok(index)
    }

    fn lock(&self, operation: FlockOperation) -> Result<File, StoreError> {
        self.lock_file("images/import.lock", operation)
    }

    /// Held while there are unfinished files, so that nobody takes them for left behind.
    fn work(&self) -> Result<File, StoreError> {
        self.lock_file("images/work.lock", FlockOperation::LockShared)
    }

    fn lock_file(&self, name: &str, operation: FlockOperation) -> Result<File, StoreError> {
        let path = self.root.join(name);
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(file_error("open", &path))?;
        rustix::fs::flock(&file, operation).map_err(|error| file_error("lock", &path)(error.into()))?;
        Ok(file)
    }

    /// A directory that goes when this does, unless it was renamed.
    fn unique(&self, directory: &str) -> Result<Unfinished, StoreError> {
        Ok(Unfinished(self.root.join(directory).join(format!(".{}", uuid::Uuid::new_v4()))))
    }

    /// Removes what imports that were killed left behind, unless one is at work.
    fn clean(&self) -> Result<(), StoreError> {
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let Ok(_lock) = self.lock_file("images/work.lock", exclusive) else { return Ok(()) };
        for directory in ["images/spool", "layers"] {
            let directory = self.root.join(directory);
            for entry in std::fs::read_dir(&directory).map_err(file_error("list", &directory))? {
                let entry = entry.map_err(file_error("list", &directory))?;
                if entry.file_name().to_string_lossy().starts_with('.') {
                    std::fs::remove_dir_all(entry.path()).map_err(file_error("remove", &entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// All containers on disk, as they use layers.
    fn containers(&self) -> Result<Vec<ContainerRecord>, StoreError> {
        let mut containers = Vec::new();
        for sandbox in directories(&self.root.join("sandboxes"))? {
            for container in directories(&sandbox)? {
                containers.extend(records::read::<ContainerRecord>(&container, records::CONTAINER)?);
            }
        }
        Ok(containers)
    }

    fn collect_garbage(&self, index: &Index) -> Result<(), StoreError> {
        let mut needed: BTreeSet<String> = index.images.values().flat_map(|image| image.layers.clone()).collect();
        for container in self.containers()? {
            needed.extend(container.layers);
            needed.extend(container.volume_images.into_values().flatten());
        }
        for layer in directories(&self.layers_directory())? {
            let name = layer.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !needed.contains(&name) {
                // Renamed first: a removal that is cut short must not leave a layer that looks whole.
                let going = self.unique("layers")?;
                std::fs::rename(&layer, &going.0).map_err(file_error("rename", &layer))?;
                std::fs::remove_dir_all(&going.0).map_err(file_error("remove", &going.0))?;
                let _ = std::fs::remove_file(self.layers_directory().join(format!("{name}.size")));
            }
        }
        let blobs = self.root.join("images/blobs/sha256");
        for entry in std::fs::read_dir(&blobs).map_err(file_error("list", &blobs))? {
            let entry = entry.map_err(file_error("list", &blobs))?;
            if !index.images.contains_key(&format!("sha256:{}", entry.file_name().to_string_lossy())) {
                std::fs::remove_file(entry.path()).map_err(file_error("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

impl Index {
    /// A name belongs to one image: the newest that has it.
    fn add(&mut self, image: Image) {
        for other in self.images.values_mut() {
            other.names.retain(|name| !image.names.contains(name));
        }
        match self.images.get_mut(&image.id) {
            Some(known) => {
                known.names.extend(image.names);
                known.digests.extend(image.digests);
                known.pinned |= image.pinned;
            }
            None => {
                self.images.insert(image.id.clone(), image);
            }
        }
    }

    fn find(&self, reference: &str) -> Option<&Image> {
        let id = reference.strip_prefix("sha256:").unwrap_or(reference);
        if id.len() >= 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let full = format!("sha256:{id}");
            let mut matches = self.images.range(full.clone()..).take_while(|(known, _)| known.starts_with(&full));
            if let (Some((_, image)), None) = (matches.next(), matches.next()) {
                return Some(image);
            }
        }
        let canonical = Reference::parse(reference).ok()?.to_string();
        self.images.values().find(|image| image.names.contains(&canonical) || image.digests.contains(&canonical))
    }
}

impl Image {
    /// What status reports as the reference that was used: by digest where one is known.
    pub fn reference(&self) -> String {
        self.digests.first().cloned().unwrap_or_else(|| self.id.clone())
    }
}

/// The first half of a layer's digest.
fn layer_name(digest: &str) -> &str {
    digest.trim_start_matches("sha256:").get(..LAYER_NAME_DIGITS).unwrap_or_default()
}

/// A directory for files on their way into the store.
#[derive(Debug)]
pub(crate) struct SpoolDirectory {
    directory: Unfinished,
    _working: File,
}

impl SpoolDirectory {
    pub(crate) fn path(&self) -> &Path {
        &self.directory.0
    }
}

/// A directory that is removed when this is dropped, unless it was renamed before.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.0);
        if let Err(error) =
            removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove an unfinished import; the next start tries again");
        }
    }
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(file_error("list", path))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file_error("list", path))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.file_type().map_err(file_error("list", path))?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[derive(Deserialize)]
struct ConfigFile {
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "null_is_empty")]
    diff_ids: Vec<String>,
}

/// Go writes an empty list or map as null.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
