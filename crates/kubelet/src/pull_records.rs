//! Which credentials the images of this node were pulled with, so that a pod gets no private image that its own credentials would not
//! get it from the registry: `imagePullCredentialsVerificationPolicy` of upstream's kubelet, its decisions and its files.
//!
//! That a pull begins is on disk before it begins, and what it was done with before the image is used. So an image of which nothing
//! is recorded came by another way, an import most likely. What cannot be read counts as pulled with unknown credentials. No secret
//! is stored: a credential is known again by its hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use base::{SharedClock, chain};
use cri::{Reference, Runtime};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::settings::ImageVerification;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Secrets that are remembered of one image: without a limit every pod's new secret would make its file longer.
const SECRETS_MAX: usize = 100;
/// A record of so many secrets is far smaller; what is larger is none of ours.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// A credential of a secret, as it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PullSecret {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) credential_hash: String,
}

impl PullSecret {
    fn is_same_object(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// Who may use an image under one of its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Access {
    /// It was pulled with no pod's credentials.
    node_pods_accessible: bool,
    /// Those that it was pulled with.
    kubernetes_secrets: Vec<PullSecret>,
}

/// What is on disk of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    api_version: String,
    #[serde(default)]
    last_updated_time: Timestamp,
    /// The runtime's id of the image.
    image_ref: String,
    /// By the image's name without tag and digest.
    #[serde(default)]
    credential_mapping: BTreeMap<String, Access>,
    /// Whether the disk has it as it is.
    #[serde(skip)]
    is_written: bool,
}

/// What is on disk while an image is pulled.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
}

/// What is known of an image here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known<'a> {
    /// It came by another way than a pull.
    Preloaded,
    /// It was pulled, or its pull began; with what is recorded of its name.
    Pulled(Option<&'a Access>),
}

/// Whether a pod may use an image that is there.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It may.
    Use,
    /// It may, and this credential of it is remembered too.
    UseAndRemember(PullSecret),
    /// The registry decides.
    Pull,
}

/// Pure: upstream's rules.
fn decide(policy: &ImageVerification, repository: &str, known: Known<'_>, presented: &[PullSecret]) -> Decision {
    let asks = match policy {
        ImageVerification::Never => false,
        ImageVerification::NotPreloaded => matches!(known, Known::Pulled(_)),
        ImageVerification::NotListed(list) => !list.iter().any(|pattern| pattern.matches(repository)),
        ImageVerification::Always => true,
    };
    if !asks {
        return Decision::Use;
    }
    let Known::Pulled(Some(access)) = known else { return Decision::Pull };
    if access.node_pods_accessible {
        return Decision::Use;
    }
    let known = &access.kubernetes_secrets;
    let has_room = known.len() < SECRETS_MAX;
    for secret in presented {
        // A credential that could not be hashed is like no other.
        let same =
            |one: &&PullSecret| !secret.credential_hash.is_empty() && one.credential_hash == secret.credential_hash;
        if known.iter().filter(same).any(|one| one.is_same_object(secret)) {
            return Decision::Use;
        }
        if known.iter().any(|one| same(&one)) {
            return if has_room { Decision::UseAndRemember(secret.clone()) } else { Decision::Use };
        }
        // The same secret with new content: whoever may write it could have written the old one.
        if has_room && known.iter().any(|one| one.is_same_object(secret)) {
            return Decision::UseAndRemember(secret.clone());
        }
    }
    Decision::Pull
}

impl Access {
    /// Takes in what it was pulled with; `None`: with no pod's credentials.
    fn remember(&mut self, with: Option<PullSecret>) {
        let Some(secret) = with else {
            *self = Self { node_pods_accessible: true, kubernetes_secrets: Vec::new() };
            return;
        };
        if self.node_pods_accessible {
            return;
        }
        self.kubernetes_secrets.retain(|one| !one.is_same_object(&secret));
        if self.kubernetes_secrets.len() >= SECRETS_MAX {
            // Who presented the oldest is asked for again by the registry.
            self.kubernetes_secrets.remove(0);
        }
        self.kubernetes_secrets.push(secret);
    }
}

/// The node's records.
pub(crate) struct PullRecords {
    policy: ImageVerification,
    clock: SharedClock,
    pulled: PathBuf,
    pulling: PathBuf,
    state: Mutex<State>,
    /// Held while files are written, so that the later of two states is written later.
    pen: Semaphore,
}

#[derive(Default)]
struct State {
    /// By the image's id.
    records: BTreeMap<String, Record>,
    /// The file names of records that cannot be read.
    damaged: BTreeSet<String>,
    /// Pulls that began and of whose end nothing is recorded, by the image's name, with how many are in hand.
    intents: BTreeMap<String, usize>,
}

/// A record cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct RecordError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl PullRecords {
    /// Reads what an earlier process left below `root_dir`.
    pub(crate) fn open(root_dir: &Path, policy: ImageVerification, clock: SharedClock) -> Result<Self, RecordError> {
        let folder = |name: &str| {
            let path = root_dir.join("image_manager").join(name);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map(|()| path.clone()).map_err(|source| RecordError { path, source })
        };
        let (pulled, pulling) = (folder("pulled")?, folder("pulling")?);
        let mut state = State::default();
        for (name, read) in files::<Record>(&pulled)? {
            match read.filter(|record| file_name(&record.image_ref) == name) {
                Some(record) => {
                    state.records.insert(record.image_ref.clone(), Record { is_written: true, ..record });
                }
                None => {
                    tracing::warn!(file = %pulled.join(&name).display(),
                        "a record of how an image was pulled cannot be read: the registry is asked again about that image");
                    state.damaged.insert(name);
                }
            }
        }
        for (_, intent) in files::<Intent>(&pulling)? {
            state.intents.extend(intent.map(|intent| (intent.image, 0)));
        }
        Ok(Self { policy, clock, pulled, pulling, state: Mutex::new(state), pen: Semaphore::new(1) })
    }

    /// Ends what an earlier process did not: an image whose pull it began, and that is here, was pulled with unknown credentials.
    pub(crate) async fn recover(&self, runtime: &dyn Runtime) {
        let left: Vec<String> = self.state().intents.keys().cloned().collect();
        for name in left {
            let there = match runtime.image_status(&name).await {
                Ok(there) => there,
                Err(error) => {
                    // Its intent stays, and with it the name's image is asked about.
                    tracing::warn!(image = name, error = chain(&error), "cannot tell whether a pull was finished");
                    continue;
                }
            };
            if let Some(image) = there {
                self.state().records.entry(image.id.clone()).or_insert_with(|| Record::of(&image.id));
                if let Err(error) = self.write_record(&image.id).await {
                    tracing::warn!(error = chain(&error), "the pull of an image stays open");
                    continue;
                }
            }
            self.ended(&name).await;
        }
    }

    /// Whether a pod may use an image that is there without the registry's word.
    pub(crate) async fn may_use(&self, image: &str, id: &str, reference: &Reference, presented: &[PullSecret]) -> bool {
        let decision = {
            let state = self.state();
            let record = state.records.get(id);
            let known = match record {
                Some(record) => Known::Pulled(record.credential_mapping.get(&reference.repository)),
                None if state.damaged.contains(&file_name(id)) || state.intents.contains_key(image) => {
                    Known::Pulled(None)
                }
                None => Known::Preloaded,
            };
            decide(&self.policy, &reference.repository, known, presented)
        };
        match decision {
            Decision::Use => true,
            Decision::Pull => false,
            Decision::UseAndRemember(secret) => {
                self.remember(id, reference, Some(secret)).await;
                true
            }
        }
    }

    /// A pull begins.
    pub(crate) async fn begin(&self, image: &str) -> Result<(), RecordError> {
        let _pen = self.pen().await;
        let first = {
            let mut state = self.state();
            let count = state.intents.entry(image.to_owned()).or_default();
            *count += 1;
            *count == 1
        };
        if !first {
            return Ok(());
        }
        let intent =
            Intent { kind: "ImagePullIntent".to_owned(), api_version: API_VERSION.to_owned(), image: image.to_owned() };
        let written = write(&self.pulling, &file_name(image), &intent).await;
        if written.is_err() {
            self.state().intents.remove(image);
        }
        written
    }

    /// A pull brought nothing.
    pub(crate) async fn failed(&self, image: &str) {
        let _pen = self.pen().await;
        self.close(image).await;
    }

    /// A pull brought an image, with this of the pod's credentials.
    pub(crate) async fn pulled(&self, image: &str, id: &str, reference: &Reference, with: Option<PullSecret>) {
        // Where this cannot be written, the intent stays, and with it the image is one that was pulled.
        if self.remember(id, reference, with).await {
            self.failed(image).await;
        }
    }

    /// Forgets the images that are gone. `present` are the ids of those that are there, listed at `listed_at`.
    pub(crate) async fn keep_only(&self, present: &BTreeSet<String>, listed_at: Timestamp) {
        let names: BTreeSet<_> = present.iter().map(|id| file_name(id)).collect();
        let _pen = self.pen().await;
        let gone: Vec<String> = {
            let mut state = self.state();
            // One that was written since may be of an image that came since.
            let keep = |record: &Record| present.contains(&record.image_ref) || record.last_updated_time >= listed_at;
            let (kept, gone) = std::mem::take(&mut state.records).into_iter().partition(|(_, record)| keep(record));
            state.records = kept;
            let (kept, damaged) = std::mem::take(&mut state.damaged).into_iter().partition(|name| names.contains(name));
            state.damaged = kept;
            let gone: BTreeMap<String, Record> = gone;
            gone.into_keys().map(|id| file_name(&id)).chain::<BTreeSet<_>>(damaged).collect()
        };
        for name in gone {
            remove(self.pulled.join(name)).await;
        }
    }

    async fn remember(&self, id: &str, reference: &Reference, with: Option<PullSecret>) -> bool {
        {
            let mut state = self.state();
            let record = state.records.entry(id.to_owned()).or_insert_with(|| Record::of(id));
            let access = record.credential_mapping.entry(reference.repository.clone()).or_default();
            let before = access.clone();
            access.remember(with);
            if *access == before && record.is_written {
                return true;
            }
            (record.is_written, record.last_updated_time) = (false, self.clock.now());
        }
        let written = self.write_record(id).await;
        if let Err(error) = &written {
            tracing::warn!(image = id, error = chain(error), "how an image was pulled cannot be recorded");
        }
        written.is_ok()
    }

    async fn write_record(&self, id: &str) -> Result<(), RecordError> {
        let _pen = self.pen().await;
        let record = {
            let state = self.state();
            let Some(record) = state.records.get(id) else { return Ok(()) };
            record.clone()
        };
        let name = file_name(id);
        write(&self.pulled, &name, &record).await?;
        let mut state = self.state();
        state.damaged.remove(&name);
        if let Some(now) = state.records.get_mut(id).filter(|now| **now == record) {
            now.is_written = true;
        }
        Ok(())
    }

    async fn ended(&self, image: &str) {
        let _pen = self.pen().await;
        self.close(image).await;
    }

    /// With the pen in hand.
    async fn close(&self, image: &str) {
        let last = {
            let mut state = self.state();
            let Some(count) = state.intents.get_mut(image) else { return };
            *count = count.saturating_sub(1);
            *count == 0
        };
        if last && remove(self.pulling.join(file_name(image))).await {
            self.state().intents.remove(image);
        }
    }

    async fn pen(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.pen.acquire().await.expect("the semaphore is never closed")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the records panics")
    }
}

impl Record {
    /// Of an image about whose pull nothing is known.
    fn of(id: &str) -> Self {
        Self {
            kind: "ImagePulledRecord".to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: Timestamp::UNIX_EPOCH,
            image_ref: id.to_owned(),
            credential_mapping: BTreeMap::new(),
            is_written: false,
        }
    }
}

/// The hash that a credential is known again by.
pub(crate) fn hash(auth: &cri::v1::AuthConfig) -> String {
    let fields =
        [&auth.username, &auth.password, &auth.server_address, &auth.identity_token, &auth.registry_token, &auth.auth];
    // As JSON no two lists of fields are one text.
    hex(&serde_json::to_vec(&fields).expect("texts are JSON"))
}

fn file_name(text: &str) -> String {
    format!("sha256-{}", hex(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of a folder by name; `None` for those that cannot be read.
fn files<T: serde::de::DeserializeOwned>(folder: &Path) -> Result<Vec<(String, Option<T>)>, RecordError> {
    let failed = |source| RecordError { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("sha256-") {
            // Of a write that was cut off.
            let _ = std::fs::remove_file(entry.path());
            continue;
        }
        let small = entry.metadata().is_ok_and(|data| data.len() <= RECORD_BYTES_MAX);
        let bytes = small.then(|| std::fs::read(entry.path()).ok()).flatten();
        found.push((name, bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())));
    }
    Ok(found)
}

/// Writes a file that only root can read, whole or not at all, and on disk when this returns.
async fn write<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<(), RecordError> {
    let (path, unfinished) = (folder.join(name), folder.join(format!(".{name}")));
    let bytes = serde_json::to_vec(value).expect("records are plain data");
    let (target, folder) = (path.clone(), folder.to_owned());
    let written = tokio::task::spawn_blocking(move || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &target)?;
        File::open(folder)?.sync_all()
    });
    let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    written.map_err(|source| RecordError { path, source })
}

/// Whether the file is gone.
async fn remove(path: PathBuf) -> bool {
    match tokio::fs::remove_file(&path).await {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a record of a pull");
            false
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn secret(name: &str, credential: &str) -> PullSecret {
        PullSecret {
            uid: format!("uid-{name}"),
            namespace: "ns".into(),
            name: name.into(),
            credential_hash: credential.into(),
        }
    }

    fn access(everybody: bool, secrets: &[PullSecret]) -> Access {
        Access { node_pods_accessible: everybody, kubernetes_secrets: secrets.to_vec() }
    }

    #[test]
    fn a_pod_uses_what_its_credentials_would_get_it() {
        use ImageVerification::{Always, Never, NotListed, NotPreloaded};
        let listed = |pattern: &str| NotListed(vec![crate::settings::ImagePattern::parse(pattern).unwrap()]);
        let (one, other) = (secret("one", "hash"), secret("other", "else"));
        let (public, private) = (access(true, &[]), access(false, std::slice::from_ref(&one)));
        let (unknown, pulled) = (Known::Pulled(None), |access| Known::Pulled(Some(access)));
        let full: Vec<_> = (0..SECRETS_MAX).map(|at| secret(&format!("s{at}"), &format!("h{at}"))).collect();
        let full_access = access(false, &full);
        let (renamed, rotated) = (secret("renamed", "hash"), secret("one", "new"));
        for (policy, known, presented, expected) in [
            (Never, unknown, vec![], Decision::Use),
            (NotPreloaded, Known::Preloaded, vec![], Decision::Use),
            (Always, Known::Preloaded, vec![one.clone()], Decision::Pull),
            (listed("registry.example/team/*"), pulled(&private), vec![], Decision::Use),
            (listed("registry.example/team/app"), pulled(&private), vec![], Decision::Use),
            (listed("registry.example/team/ap"), pulled(&private), vec![], Decision::Pull),
            (listed("registry.example/tea/*"), pulled(&private), vec![], Decision::Pull),
            (NotPreloaded, unknown, vec![one.clone()], Decision::Pull),
            (NotPreloaded, pulled(&public), vec![], Decision::Use),
            (NotPreloaded, pulled(&private), vec![], Decision::Pull),
            (NotPreloaded, pulled(&private), vec![other.clone()], Decision::Pull),
            (NotPreloaded, pulled(&private), vec![other, one], Decision::Use),
            (NotPreloaded, pulled(&private), vec![renamed.clone()], Decision::UseAndRemember(renamed)),
            (NotPreloaded, pulled(&private), vec![rotated.clone()], Decision::UseAndRemember(rotated)),
            (NotPreloaded, pulled(&full_access), vec![secret("new", "h7")], Decision::Use),
            (NotPreloaded, pulled(&full_access), vec![secret("s7", "new")], Decision::Pull),
            (NotPreloaded, pulled(&access(false, &[secret("a", "")])), vec![secret("b", "")], Decision::Pull),
        ] {
            let decided = decide(&policy, "registry.example/team/app", known, &presented);
            assert_eq!(decided, expected, "{policy:?} {known:?} {presented:?}");
        }
    }

    #[test]
    fn what_an_image_was_pulled_with_adds_up_within_a_limit() {
        let mut access = Access::default();
        for at in 0..SECRETS_MAX + 5 {
            access.remember(Some(secret(&format!("s{at}"), "hash")));
        }
        assert_eq!(access.kubernetes_secrets.len(), SECRETS_MAX);
        assert_eq!(access.kubernetes_secrets[0].name, "s5");
        access.remember(Some(secret("s9", "new")));
        assert_eq!(access.kubernetes_secrets.len(), SECRETS_MAX);
        assert_eq!(access.kubernetes_secrets.last(), Some(&secret("s9", "new")));
        access.remember(None);
        access.remember(Some(secret("s9", "new")));
        assert_eq!(access, Access { node_pods_accessible: true, kubernetes_secrets: vec![] });
    }

    #[tokio::test]
    async fn records_outlive_the_process_and_damage_is_no_permission() {
        let root = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(base::SystemClock);
        let open = || PullRecords::open(root.path(), ImageVerification::NotPreloaded, clock.clone()).unwrap();
        let reference = Reference::parse("registry.example/app:1").unwrap();
        let may = async |records: &PullRecords, id: &str, presented: &[PullSecret]| {
            records.may_use("registry.example/app:1", id, &reference, presented).await
        };
        let records = open();
        assert!(may(&records, "id", &[]).await, "it was imported");
        records.begin("registry.example/app:1").await.unwrap();
        records.begin("registry.example/app:1").await.unwrap();
        assert!(!may(&records, "id", &[]).await, "its pull began");
        records.failed("registry.example/app:1").await;
        assert!(!may(&open(), "id", &[]).await, "another pull is under way, says the disk");
        records.pulled("registry.example/app:1", "id", &reference, Some(secret("one", "hash"))).await;
        let records = open();
        assert!(!may(&records, "id", &[]).await && may(&records, "id", &[secret("one", "hash")]).await);
        assert!(may(&records, "other", &[]).await, "no pull is under way any more");
        let file = root.path().join("image_manager/pulled").join(file_name("id"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("\"imageRef\":\"id\"") && text.contains("\"registry.example/app\""), "{text}");
        std::fs::write(&file, &text[..text.len() - 2]).unwrap();
        let records = open();
        assert!(!may(&records, "id", &[secret("one", "hash")]).await, "damaged");
        let later = clock.now() + std::time::Duration::from_secs(60);
        records.keep_only(&BTreeSet::from(["id".to_owned()]), later).await;
        assert!(!may(&open(), "id", &[]).await);
        records.keep_only(&BTreeSet::new(), later).await;
        assert!(may(&open(), "id", &[]).await && !file.exists(), "the image is gone, and with it what was known of it");
    }
}
