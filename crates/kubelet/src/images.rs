//! Brings an image to the node as its pull policy says, with back-off after failures. Reasons and messages are upstream's.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use api::typed::core::v1::{Container, Pod};
use base::chain;
use cri::{Reference, Runtime, RuntimeError, v1};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::environment::Lookup;
use crate::pull_records::{PullRecords, PullSecret};
use crate::pull_secrets::{Credential, Keyring};

/// First and longest wait after a failed pull.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// How many failing images are remembered.
const FAILURES_MAX: usize = 1024;

/// When a container's image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    /// The policy that is named; without one, `Always` for images that are named without a tag or as `latest`.
    pub(crate) fn of(named: Option<&str>, image: &str) -> Self {
        match named {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ => {
                let name = image.rsplit('/').next().unwrap_or(image);
                let moving = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
                if moving { Self::Always } else { Self::IfNotPresent }
            }
        }
    }
}

/// An image that a pod wants: of a container, or of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    pub(crate) image: &'a str,
    pub(crate) policy: Policy,
}

impl<'a> Wanted<'a> {
    pub(crate) fn of(spec: &'a Container) -> Self {
        let image = spec.image.as_deref().unwrap_or_default();
        Self { image, policy: Policy::of(spec.image_pull_policy.as_deref(), image) }
    }
}

/// Why an image is not there; the reasons are those of a waiting container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// When it makes sense to try again.
    pub(crate) retry_in: Duration,
}

/// What happens on the way, for events.
pub(crate) trait Progress: Send + Sync {
    fn normal(&self, reason: &str, message: &str);
    fn warning(&self, reason: &str, message: &str);
}

/// The node's images.
pub(crate) struct Images {
    pulls: Semaphore,
    failures: Mutex<BTreeMap<(String, String), Failure>>,
    /// Told when an image came.
    pub(crate) changed: std::sync::Arc<Notify>,
    /// Who may use which image.
    pub(crate) records: PullRecords,
}

#[derive(Clone)]
struct Failure {
    wait: Duration,
    until: Instant,
    message: String,
}

impl Images {
    /// Pulls that run at once take bandwidth and disk from each other: no more than `pulls_max`.
    pub(crate) fn new(pulls_max: usize, records: PullRecords) -> Self {
        let pulls = Semaphore::new(pulls_max.max(1));
        Self { pulls, failures: Mutex::default(), changed: std::sync::Arc::default(), records }
    }

    /// An image, pulled first where the policy says so.
    pub(crate) async fn ensure(
        &self,
        runtime: &dyn Runtime,
        pod: &Pod,
        wanted: Wanted<'_>,
        secrets: &dyn Lookup,
        progress: &dyn Progress,
    ) -> Result<v1::Image, ImageError> {
        let Wanted { image, policy } = wanted;
        let failed = |reason, message: String| ImageError { reason, message, retry_in: BACKOFF_FIRST };
        let reference = Reference::parse(image).map_err(|error| {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {}",
                chain(&error)
            );
            progress.warning("InspectFailed", &message);
            failed("InvalidImageName", message)
        })?;
        let present = runtime.image_status(image).await.map_err(|error| {
            let message = format!("Failed to inspect image \"{image}\": {}", chain(&error));
            progress.warning("InspectFailed", &message);
            failed("ImageInspectError", message)
        })?;
        let credentials = credentials(pod, &reference, secrets, progress);
        let usable = match present {
            // The registry says who may use it, each time.
            Some(_) if policy == Policy::Always => None,
            Some(present) => {
                let presented: Vec<PullSecret> = credentials.iter().map(|one| one.source.clone()).collect();
                let may_use = self.records.may_use(image, &present.id, &reference, &presented).await;
                may_use.then_some(present)
            }
            None => None,
        };
        match usable {
            Some(present) => {
                let text =
                    format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
                progress.normal("Pulled", &text);
                Ok(present)
            }
            // The same for one that is there and not the pod's: it must not learn that.
            None if policy == Policy::Never => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                progress.warning("ErrImageNeverPull", &message);
                Err(failed("ErrImageNeverPull", message))
            }
            None => self.pull(runtime, pod, &reference, image, credentials, progress).await,
        }
    }

    async fn pull(
        &self,
        runtime: &dyn Runtime,
        pod: &Pod,
        reference: &Reference,
        image: &str,
        credentials: Vec<Credential>,
        progress: &dyn Progress,
    ) -> Result<v1::Image, ImageError> {
        let name = (pod.metadata.uid.clone().unwrap_or_default(), image.to_owned());
        if let Some(known) = self.failure(&name) {
            let message = format!("Back-off pulling image \"{image}\"");
            progress.normal("BackOff", &message);
            // The image may come without a pull, by an import: that is looked for sooner than the next pull.
            let retry_in = known.until.saturating_duration_since(Instant::now()).min(BACKOFF_FIRST);
            return Err(ImageError {
                reason: "ImagePullBackOff",
                message: format!("{message}: {}", known.message),
                retry_in,
            });
        }
        progress.normal("Pulling", &format!("Pulling image \"{image}\""));
        let asked = Instant::now();
        let (pulled, took) = {
            let _permit = self.pulls.acquire().await.expect("the semaphore is never closed");
            let started = Instant::now();
            (self.pull_recorded(runtime, reference, image, credentials).await, started.elapsed())
        };
        match pulled {
            Ok(found) => {
                progress.normal(
                    "Pulled",
                    &format!(
                        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                        go_milliseconds(took),
                        go_milliseconds(asked.elapsed()),
                        found.size
                    ),
                );
                self.lock().remove(&name);
                self.changed.notify_one();
                Ok(found)
            }
            Err(message) => {
                progress.warning("Failed", &format!("Failed to pull image \"{image}\": {message}"));
                self.remember(name, format!("ErrImagePull: {message}"));
                // The next try, at once, reports the back-off; it starts no pull.
                Err(ImageError { reason: "ErrImagePull", message, retry_in: Duration::from_millis(500) })
            }
        }
    }

    /// Pulls, and records who may use what comes.
    async fn pull_recorded(
        &self,
        runtime: &dyn Runtime,
        reference: &Reference,
        image: &str,
        credentials: Vec<Credential>,
    ) -> Result<v1::Image, String> {
        self.records.begin(image).await.map_err(|error| {
            format!("Failed to record image pull intent for container image \"{image}\": {}", chain(&error))
        })?;
        match pull_with_any(runtime, image, credentials).await {
            Ok((found, with)) => {
                self.records.pulled(image, &found.id, reference, with).await;
                Ok(found)
            }
            Err(message) => {
                self.records.failed(image).await;
                Err(message)
            }
        }
    }

    /// The failure that still forbids a pull.
    fn failure(&self, name: &(String, String)) -> Option<Failure> {
        self.lock().get(name).filter(|failure| failure.until > Instant::now()).cloned()
    }

    fn remember(&self, name: (String, String), message: String) {
        let now = Instant::now();
        let mut failures = self.lock();
        let wait = failures.get(&name).map_or(BACKOFF_FIRST, |known| (known.wait * 2).min(BACKOFF_MAX));
        failures.retain(|_, failure| failure.until + BACKOFF_MAX > now);
        if failures.len() < FAILURES_MAX {
            failures.insert(name, Failure { wait, until: now + wait, message });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Failure>> {
        self.failures.lock().expect("no holder of the list of failures panics")
    }
}

/// Tries each credential, or none where there is none for this registry, and reports the last failure. Says which was taken.
async fn pull_with_any(
    runtime: &dyn Runtime,
    image: &str,
    credentials: Vec<Credential>,
) -> Result<(v1::Image, Option<PullSecret>), String> {
    let anonymous = credentials.is_empty().then_some((None, None));
    let mut message = String::new();
    for (auth, source) in credentials.into_iter().map(|one| (Some(one.auth), Some(one.source))).chain(anonymous) {
        match runtime.pull_image(image, auth).await {
            Ok(id) => {
                let found = runtime.image_status(&id).await.map_err(|error| chain(&error))?;
                let found = found.ok_or_else(|| format!("image {id} went right after it was pulled"))?;
                return Ok((found, source));
            }
            // What the runtime tried is said already.
            Err(RuntimeError::Failed { source, .. }) => message = chain(&*source),
            Err(error) => message = chain(&error),
        }
    }
    Err(message)
}

/// The credentials in the pod's pull secrets that are for this image.
fn credentials(pod: &Pod, reference: &Reference, secrets: &dyn Lookup, progress: &dyn Progress) -> Vec<Credential> {
    let (mut keyring, mut missing) = (Keyring::default(), Vec::new());
    for name in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()).map(|secret| &secret.name) {
        match secrets.secret(name) {
            Some(secret) => keyring.add(secret),
            None => missing.push(name.as_str()),
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        progress.warning("FailedToRetrieveImagePullSecret", &message);
    }
    keyring.lookup(&reference.repository)
}

/// `1.234s`, `56ms`: how upstream's messages write what a pull took.
fn go_milliseconds(took: Duration) -> String {
    match took.as_millis() {
        0 => "0s".to_owned(),
        milliseconds @ ..1000 => format!("{milliseconds}ms"),
        milliseconds if took.as_secs() < 60 => {
            let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => crate::status::go_duration(took.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        for (image, wanted) in [
            ("busybox", Policy::Always),
            ("host:5000/busybox", Policy::Always),
            ("busybox:latest", Policy::Always),
            ("busybox:1.36", Policy::IfNotPresent),
            ("busybox@sha256:0", Policy::IfNotPresent),
        ] {
            assert_eq!(Policy::of(None, image), wanted, "{image}");
        }
    }

    #[test]
    fn what_a_pull_took_is_written_as_upstream_does() {
        for (milliseconds, wanted) in
            [(0, "0s"), (7, "7ms"), (1500, "1.5s"), (2000, "2s"), (1234, "1.234s"), (61_000, "1m1s")]
        {
            assert_eq!(go_milliseconds(Duration::from_millis(milliseconds)), wanted);
        }
    }
}
