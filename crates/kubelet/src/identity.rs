//! Who a pod is on this node, and the labels and annotations by which its sandbox and containers are found again.
//!
//! The runtime is the only memory that outlives the process: everything that a restarted kubelet must know of a container
//! (whose it is, how often it was restarted, which spec it came from) stands in its annotations, under upstream's names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use api::typed::core::v1::{Container, EphemeralContainer, Pod};
use sha2::{Digest, Sha256};

/// Label: the pod's name.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's uid.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name in the pod.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: hash of the parts of the container's spec that ask for a new container when they change.
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container was restarted.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where in the container its last words are.
pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: seconds that the pod's containers get to end.
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Annotation: the hash of the file that a mirror pod stands for.
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotation: the hash of the file that a pod came from.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation: where a pod came from: `file` or `api`.
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// Namespace, name and uid of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Identity {
    /// The identity that an object's index holds.
    pub(crate) fn of(object: &api::Object) -> Self {
        let key = object.key();
        // A mirror pod stands for the pod of a file, whose uid its containers carry.
        let uid = mirrored(object).unwrap_or_else(|| object.uid().to_owned());
        Self { namespace: key.namespace.to_string(), name: key.name.to_string(), uid }
    }

    /// The identity that a sandbox or container carries in its labels.
    pub(crate) fn from_labels(labels: &HashMap<String, String>) -> Option<Self> {
        let label = |name: &str| labels.get(name).cloned();
        Some(Self { namespace: label(POD_NAMESPACE)?, name: label(POD_NAME)?, uid: label(POD_UID)? })
    }

    /// The labels of the pod's sandbox.
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        [(POD_NAME, &self.name), (POD_NAMESPACE, &self.namespace), (POD_UID, &self.uid)]
            .map(|(label, value)| (label.to_owned(), value.clone()))
            .into()
    }

    /// The label that selects everything of the pod.
    pub(crate) fn selector(&self) -> HashMap<String, String> {
        [(POD_UID.to_owned(), self.uid.clone())].into()
    }

    /// The pod's API key.
    pub(crate) fn key(&self) -> api::Key {
        api::Key::new(self.namespace.as_str(), self.name.as_str())
    }

    /// `name_namespace(uid)`, as messages name a pod.
    pub(crate) fn display(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// The pod's directory of volumes and files.
    pub(crate) fn directory(&self, root: &Path) -> PathBuf {
        root.join("pods").join(&self.uid)
    }

    /// The directory of the pod's container logs.
    pub(crate) fn log_directory(&self, logs: &Path) -> PathBuf {
        logs.join(format!("{}_{}_{}", self.namespace, self.name, self.uid))
    }

    /// The file that receives the last words of one run of a container.
    pub(crate) fn termination_message(&self, root: &Path, container: &str, attempt: u32) -> PathBuf {
        self.directory(root).join("containers").join(container).join(attempt.to_string())
    }
}

/// A hash over what can change in a container's spec while it runs. Other fields of a pod are immutable, and leaving them out
/// keeps containers alive when a newer version of the product knows more fields.
pub(crate) fn hash(container: &Container) -> String {
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Which list of the pod's spec a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container that restarts and runs beside the pod's containers.
    Sidecar,
    /// One of the pod's containers.
    Main,
    /// Added to a running pod, to look into it: runs once, beside everything else, and decides nothing about the pod.
    Ephemeral,
}

impl Role {
    /// How metrics name it.
    pub(crate) fn metric(self) -> &'static str {
        match self {
            Self::Init | Self::Sidecar => "init_container",
            Self::Main => "container",
            Self::Ephemeral => "ephemeral_container",
        }
    }
}

/// The containers of a pod with their roles, in start order.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let main = spec.map(|spec| &spec.containers).into_iter().flatten();
    init.map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, container)
    })
    .chain(main.map(move |container| {
        (if ephemeral(pod, &container.name).is_some() { Role::Ephemeral } else { Role::Main }, container)
    }))
}

/// The ephemeral container of this name.
pub(crate) fn ephemeral<'a>(pod: &'a Pod, name: &str) -> Option<&'a EphemeralContainer> {
    let list = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    list.iter().find(|container| container.name == name)
}

/// Puts a decoded pod's ephemeral containers behind its own, so that all that can be said of a container is said of them
/// too. [`containers`] knows them by their names.
pub(crate) fn adopt_ephemeral(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    let adopted = spec.ephemeral_containers.iter().flatten().cloned().map(|container| Container {
        args: container.args,
        command: container.command,
        env: container.env,
        env_from: container.env_from,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        name: container.name,
        security_context: container.security_context,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        tty: container.tty,
        volume_devices: container.volume_devices,
        volume_mounts: container.volume_mounts,
        working_dir: container.working_dir,
        ..Container::default()
    });
    spec.containers.extend(adopted);
}

/// `spec.containers{web}`: how events name a container.
pub(crate) fn field_path(pod: &Pod, name: &str) -> String {
    match containers(pod).find(|(_, container)| container.name == name) {
        Some((Role::Main, _)) | None => format!("spec.containers{{{name}}}"),
        Some((Role::Ephemeral, _)) => format!("spec.ephemeralContainers{{{name}}}"),
        Some(_) => format!("spec.initContainers{{{name}}}"),
    }
}

/// The uid of the static pod that a mirror pod stands for; `None` for other pods.
pub(crate) fn mirrored(object: &api::Object) -> Option<String> {
    // Most pods are none, and are not decoded to see that.
    let json: &[u8] = object.json();
    let name = CONFIG_MIRROR.as_bytes();
    if !json.windows(name.len()).any(|part| part == name) {
        return None;
    }
    let value = object.to_value();
    value["metadata"]["annotations"][CONFIG_MIRROR].as_str().map(str::to_owned)
}

/// Whether a pod came from a file on this node.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|list| list.get(CONFIG_SOURCE)).is_some_and(|source| source == "file")
}

/// A pod's annotations, or none.
pub(crate) fn annotations(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.annotations.clone().unwrap_or_default()
}
