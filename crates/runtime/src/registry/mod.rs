//! Pulls images from registries: by tag or digest, from mirrors first, with what the registry asks for.
//!
//! Nothing is believed: a manifest's and a blob's content is hashed and compared with the digest by which it was asked for
//! before it is used, sizes are checked while bytes come, and layers are compared once more, unpacked, with the image's
//! configuration. A layer that is on the disk already is not fetched. The OCI distribution specification defines the protocol.

mod authorization;
mod config;
mod connection;
mod manifest;
mod tls;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use cri::{Reference, ReferenceError, v1};
use futures::stream::{StreamExt, TryStreamExt};
use tokio::time::Instant;

pub use authorization::{Challenge, challenges};
pub use config::{Auth, Config, ConfigError, HostConfig, Mirror, Patience, Proxies, Tls};
pub use connection::ConnectionError;
pub use manifest::{Descriptor, Document, ManifestError};

use config::{Credentials, Endpoint};
use connection::Route;
use manifest::Platform;
use transfer::Session;

use crate::images::{Found, Image, Spooled, Store, StoreError};

/// Blobs of one image that come at once.
const BLOBS_AT_ONCE: usize = 3;
/// Indexes within indexes.
const INDEX_DEPTH_MAX: usize = 4;
/// Configurations above this are refused.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// An image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// It names no image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry does not have it, or does not say so to us.
    #[error("{registry} has no {what}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// We are not let in.
    #[error("{registry} refuses {what}: {status}{detail}; the image may not exist, or may need a pull secret")]
    Refused {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// Its answer.
        status: http::StatusCode,
        /// Its words, with a blank before them.
        detail: String,
    },
    /// No token.
    #[error("no token for {registry}: {why}")]
    Token {
        /// The registry.
        registry: String,
        /// Why.
        why: String,
    },
    /// It answers something else.
    #[error("{registry} answers {status} to {what}{detail}")]
    Status {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// Its answer.
        status: http::StatusCode,
        /// Its words, with a blank before them.
        detail: String,
    },
    /// The network.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Content that is not what was asked for.
    #[error("{registry} sends other content than {digest}: it has the digest {actual}")]
    Digest {
        /// The registry.
        registry: String,
        /// Asked for.
        digest: String,
        /// Got.
        actual: String,
    },
    /// Content of another size.
    #[error("{registry} sends {actual} bytes of {digest}, which has {wanted}")]
    Size {
        /// The registry.
        registry: String,
        /// The blob.
        digest: String,
        /// As its manifest says.
        wanted: u64,
        /// Got; may be cut off.
        actual: u64,
    },
    /// A manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Made for other machines.
    #[error("the image has nothing for this machine; it has {0}")]
    Platform(String),
    /// Certificates that are configured.
    #[error("cannot use the certificates for {registry}: {why}")]
    Certificates {
        /// The registry.
        registry: String,
        /// What is wrong.
        why: String,
    },
    /// A file here.
    #[error("cannot write {}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// The image store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Registries as they are configured.
#[derive(Debug)]
pub struct Registries {
    config: Config,
    /// Two pulls from one repository at a time would fetch their common layers twice.
    repositories: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Registries {
    /// Registries under this configuration.
    pub fn new(config: Config) -> Self {
        Self { config, repositories: Mutex::default() }
    }

    /// Brings an image into the store.
    pub async fn pull(
        &self,
        store: &Arc<Store>,
        image: &str,
        auth: Option<&v1::AuthConfig>,
    ) -> Result<Image, PullError> {
        let reference = Reference::parse(image)?;
        let turn = self.turn(&reference.repository);
        let _turn = turn.lock().await;
        let (began, mut spool) = (Instant::now(), Pulled::default());
        spool.directory = Some(Arc::new(store.spool()?));
        let mut failure = None;
        for endpoint in self.config.endpoints(&reference, auth.and_then(credentials)) {
            let authority = endpoint.authority.clone();
            match self.pull_from(endpoint, store, &reference, &mut spool).await {
                Ok(found) => {
                    tracing::info!(
                        image,
                        registry = authority,
                        bytes = found.size,
                        seconds = began.elapsed().as_secs_f64(),
                        "pulled an image"
                    );
                    return Ok(found);
                }
                Err(error) => {
                    tracing::debug!(
                        image,
                        registry = authority,
                        error = base::chain(&error),
                        "an endpoint does not give the image"
                    );
                    // What the registry itself says counts for more than what a mirror says: it comes last.
                    failure = Some(error);
                }
            }
        }
        Err(failure
            .unwrap_or(PullError::NotFound { registry: reference.repository.clone(), what: "endpoint".to_owned() }))
    }

    fn turn(&self, repository: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.repositories.lock().expect("no holder of the list of repositories panics");
        all.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = all.get(repository).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        all.insert(repository.to_owned(), Arc::downgrade(&turn));
        turn
    }

    async fn pull_from(
        &self,
        endpoint: Endpoint,
        store: &Arc<Store>,
        reference: &Reference,
        spool: &mut Pulled,
    ) -> Result<Image, PullError> {
        let hosts = [&endpoint.authority, endpoint.host()].map(|host| self.config.configs.get(host));
        let tls = hosts.into_iter().flatten().find_map(|host| host.tls.as_ref());
        let route = Route {
            tls: tls::config(&endpoint.authority, endpoint.secure, tls).await?,
            proxies: Arc::new(self.config.proxies.clone()),
            idle: self.config.patience.idle,
        };
        let session = Session::new(route, endpoint, self.config.patience.retry_first);
        let (top, config, layers) = resolve(&session, reference).await?;
        if config.bytes() > CONFIG_BYTES_MAX {
            return Err(ManifestError::TooLarge.into());
        }
        let bytes = session.document("blobs", &config.digest, CONFIG_BYTES_MAX).await?.1;
        let present = store.present_layers(&bytes);
        let directory = spool.directory.clone().expect("it was made before the first endpoint was asked");
        let missing = layers.iter().enumerate().filter(|(index, _)| !present.get(*index).copied().unwrap_or(false));
        let missing: BTreeMap<_, _> = missing
            .map(|(_, layer)| (layer.digest.clone(), layer.clone()))
            .filter(|(digest, _)| !spool.blobs.contains_key(digest))
            .collect();
        let fetch = |layer: Descriptor| {
            let path = directory.path().join(layer.digest.trim_start_matches("sha256:"));
            let session = &session;
            async move { session.blob(&layer, &path).await.map(|()| (layer, path)) }
        };
        let mut coming = futures::stream::iter(missing.into_values().map(fetch)).buffer_unordered(BLOBS_AT_ONCE);
        while let Some((layer, path)) = coming.try_next().await? {
            let sha256 = layer.digest.trim_start_matches("sha256:").to_owned();
            spool.blobs.insert(layer.digest.clone(), Spooled { path, sha256, size: layer.bytes() });
        }
        drop(coming);
        let found = Found {
            names: reference.tag.iter().filter(|_| reference.digest.is_none()).map(|_| reference.to_string()).collect(),
            digests: BTreeSet::from([format!("{}@{top}", reference.repository)]),
            manifest: Some(top),
            config: bytes,
            config_digest: config.digest,
            layers: layers.iter().map(|layer| spool.layer(layer, directory.path())).collect(),
        };
        let (store, id) = (store.clone(), found.config_digest.clone());
        // An owned task: what was begun to be unpacked is finished and entered even when the caller has gone.
        let done = tokio::task::spawn_blocking(move || {
            let _spool = directory;
            store.add(vec![found], crate::images::Origin::Registry)?;
            store.find(&id)
        });
        let image =
            done.await.map_err(|error| PullError::File("image store".into(), std::io::Error::other(error)))??;
        image.ok_or_else(|| PullError::NotFound {
            registry: "the image store".to_owned(),
            what: "image that was just pulled".to_owned(),
        })
    }
}

/// What has come so far; the next endpoint goes on with it.
#[derive(Default)]
struct Pulled {
    directory: Option<Arc<crate::images::SpoolDirectory>>,
    blobs: BTreeMap<String, Spooled>,
}

impl Pulled {
    fn layer(&self, layer: &Descriptor, directory: &Path) -> Spooled {
        let absent = || Spooled { path: directory.join("present"), sha256: String::new(), size: layer.bytes() };
        self.blobs.get(&layer.digest).cloned().unwrap_or_else(absent)
    }
}

/// Follows indexes to the image for this machine: the digest that the reference stands for, the image's configuration and
/// its layers.
async fn resolve(session: &Session, reference: &Reference) -> Result<(String, Descriptor, Vec<Descriptor>), PullError> {
    let wanted = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest");
    let (top, mut bytes) = session.document("manifests", wanted, manifest::DOCUMENT_BYTES_MAX).await?;
    for _ in 0..=INDEX_DEPTH_MAX {
        let list = match Document::parse(&bytes)? {
            Document::Image { config, layers } => return Ok((top, config, layers)),
            Document::Index(list) => list,
        };
        let chosen = manifest::choose(&list, &Platform::ours());
        let chosen = chosen.ok_or_else(|| PullError::Platform(manifest::offered(&list)))?;
        bytes = session.document("manifests", &chosen.digest, manifest::DOCUMENT_BYTES_MAX).await?.1;
    }
    Err(ManifestError::TooLarge.into())
}

fn credentials(auth: &v1::AuthConfig) -> Option<Credentials> {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    given(&auth.registry_token)
        .map(Credentials::Bearer)
        .or_else(|| given(&auth.identity_token).map(Credentials::Identity))
        .or_else(|| {
            let password = auth.password.clone();
            given(&auth.username).map(|username| Credentials::Basic { username, password })
        })
}
