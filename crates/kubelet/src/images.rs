//! Brings a container's image to the node as its pull policy says, with back-off after failures.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use api::typed::core::v1::{Container, Pod};
use base::chain;
use base64::Engine;
use cri::{Runtime, v1};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::environment::Lookup;

/// Pulls that run at once: each takes bandwidth and disk from the others.
const PULLS_MAX: usize = 4;
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
    /// The container's policy; without one, `Always` for images that are named without a tag or as `latest`.
    pub(crate) fn of(spec: &Container) -> Self {
        match spec.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ => {
                let image = spec.image.as_deref().unwrap_or_default();
                let name = image.rsplit('/').next().unwrap_or(image);
                let moving = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
                if moving { Self::Always } else { Self::IfNotPresent }
            }
        }
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
}

#[derive(Clone)]
struct Failure {
    wait: Duration,
    until: Instant,
    message: String,
}

impl Images {
    pub(crate) fn new() -> Self {
        Self { pulls: Semaphore::new(PULLS_MAX), failures: Mutex::default(), changed: std::sync::Arc::default() }
    }

    /// The image of a container, pulled first where the policy says so.
    pub(crate) async fn ensure(
        &self,
        runtime: &dyn Runtime,
        pod: &Pod,
        spec: &Container,
        secrets: &dyn Lookup,
        progress: &dyn Progress,
    ) -> Result<v1::Image, ImageError> {
        let image = spec.image.as_deref().unwrap_or_default();
        let policy = Policy::of(spec);
        let failed = |reason, message: String| ImageError { reason, message, retry_in: BACKOFF_FIRST };
        let present = runtime.image_status(image).await.map_err(|error| failed("ImageInspectError", chain(&error)))?;
        match (policy, present) {
            (Policy::IfNotPresent | Policy::Never, Some(present)) => {
                let text =
                    format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
                progress.normal("Pulled", &text);
                Ok(present)
            }
            (Policy::Never, None) => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                progress.warning("ErrImageNeverPull", &message);
                Err(failed("ErrImageNeverPull", message))
            }
            _ => self.pull(runtime, pod, image, secrets, progress).await,
        }
    }

    async fn pull(
        &self,
        runtime: &dyn Runtime,
        pod: &Pod,
        image: &str,
        secrets: &dyn Lookup,
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
        let started = Instant::now();
        let pulled = {
            let _permit = self.pulls.acquire().await.expect("the semaphore is never closed");
            pull_with_any(runtime, image, credentials(pod, image, secrets)).await
        };
        match pulled {
            Ok(found) => {
                let took = started.elapsed();
                progress.normal(
                    "Pulled",
                    &format!("Successfully pulled image \"{image}\" in {took:.3?}. Image size: {} bytes.", found.size),
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

/// Tries each credential, the anonymous one last, and reports the last failure.
async fn pull_with_any(
    runtime: &dyn Runtime,
    image: &str,
    credentials: Vec<v1::AuthConfig>,
) -> Result<v1::Image, String> {
    let mut message = String::new();
    for auth in credentials.into_iter().map(Some).chain([None]) {
        match runtime.pull_image(image, auth).await {
            Ok(id) => {
                let found = runtime.image_status(&id).await.map_err(|error| chain(&error))?;
                return found.ok_or_else(|| format!("image {id} went right after it was pulled"));
            }
            Err(error) => message = chain(&error),
        }
    }
    Err(message)
}

/// The credentials in the pod's pull secrets that are for this image's registry.
fn credentials(pod: &Pod, image: &str, secrets: &dyn Lookup) -> Vec<v1::AuthConfig> {
    let names = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let data = names.filter_map(|reference| secrets.secret(&reference.name)?.data);
    let files = data.filter_map(|mut data| {
        let wrapped = data.remove(".dockerconfigjson").and_then(|json| serde_json::from_slice::<Value>(&json.0).ok());
        let bare = || data.remove(".dockercfg").and_then(|json| serde_json::from_slice::<Value>(&json.0).ok());
        wrapped.map(|mut config| config["auths"].take()).or_else(bare)
    });
    let registry = registry(image);
    files.flat_map(|auths| auths_for(&auths, registry)).collect()
}

/// The host that an image comes from.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

fn auths_for(auths: &Value, registry: &str) -> Vec<v1::AuthConfig> {
    let entries = auths.as_object().into_iter().flatten();
    let matching = entries.filter(|(server, _)| {
        let host = server.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or(host);
        host == registry || (registry == "docker.io" && host == "index.docker.io")
    });
    matching.map(|(server, entry)| auth(server, entry)).collect()
}

fn auth(server: &str, entry: &Value) -> v1::AuthConfig {
    let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(text("auth"))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => (username.to_owned(), password.to_owned()),
        None => (text("username"), text("password")),
    };
    v1::AuthConfig {
        username,
        password,
        server_address: server.to_owned(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        ..Default::default()
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
            let spec = Container { image: Some(image.to_owned()), ..Default::default() };
            assert_eq!(Policy::of(&spec), wanted, "{image}");
        }
    }

    #[test]
    fn credentials_go_to_their_own_registry_only() {
        let auths = serde_json::json!({"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"}, "quay.io": {"username": "q", "password": "p"}});
        assert_eq!(auths_for(&auths, registry("busybox"))[0].password, "pass");
        assert_eq!(auths_for(&auths, registry("quay.io/x/y:1"))[0].username, "q");
        assert!(auths_for(&auths, registry("evil.example/x")).is_empty());
    }
}
