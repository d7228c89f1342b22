//! Pods from a folder on the node: they run whether or not there is an API server, and a mirror pod shows each to it.
//!
//! The folder is told of by the kernel, and looked at every twenty seconds where that fails. A pod's uid is made from its file:
//! a changed file is another pod, which starts when the old one has ended. A mirror pod that somebody deletes is made anew; one
//! whose file has gone is deleted. Names, annotations and tolerations are upstream's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::typed::core::v1::Pod;
use api::{Object, Typed};
use base::{Stop, chain};
use bytes::Bytes;
use control::{Change, ClientError, DeleteOptions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::host::Host;
use crate::identity::{self, Identity};
use crate::log_file::Watch;
use crate::pods::Pods;
use crate::volumes::mounts;

/// How often the folder is looked at although nobody told of a change.
const INTERVAL: Duration = Duration::from_secs(20);
/// After a write to the API failed.
const RETRY: Duration = Duration::from_secs(5);
/// A file larger than this is no pod.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files in the folder.
const FILES_MAX: usize = 200;

/// A pod of a file.
#[derive(Debug, Clone)]
pub(crate) struct StaticPod {
    pub(crate) identity: Identity,
    pub(crate) object: Object,
}

/// A file that is no pod which could run here.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read it")]
    Read(#[source] std::io::Error),
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("cannot understand it")]
    Parse(#[source] serde_saphyr::Error),
    #[error("it is no object of kind Pod and apiVersion v1 with a name and containers")]
    NoPod,
    #[error("a static pod cannot refer to other API objects: it names {0}")]
    Refers(&'static str),
}

/// Pods by file name.
pub(crate) type Known = BTreeMap<String, StaticPod>;

/// Starts the pods of a folder. To be called before anything of pods that are gone is cleaned up.
pub(crate) async fn start(host: &Host, pods: &Pods, folder: &Path) -> Known {
    if let Err(error) = mounts::directory(folder, 0o700) {
        tracing::warn!(folder = %folder.display(), error = chain(&error), "cannot make the folder of static pods");
    }
    let known = look(host, folder, Known::new()).await;
    pods.run_static(&known);
    known
}

async fn look(host: &Host, folder: &Path, before: Known) -> Known {
    let (path, node, last) = (folder.to_owned(), host.node_name.clone(), before.clone());
    tokio::task::spawn_blocking(move || read(&path, &node, &last)).await.unwrap_or(before)
}

/// Keeps the pods of a folder until `stop`.
pub(crate) async fn run(host: Arc<Host>, pods: Pods, folder: PathBuf, mut known: Known, stop: Stop) {
    let watched = Watch::folder(&folder).map_err(|error| {
        tracing::warn!(folder = %folder.display(), error = chain(&error), "cannot watch the folder of static pods; looking at it now and then");
    });
    let watched = watched.ok();
    let mut changes = host.pods.changes();
    loop {
        known = look(&host, &folder, known).await;
        let released = host.released.notified();
        pods.run_static(&known);
        let failed = match mirror(&host, &known).await {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot write a mirror pod; trying again");
                true
            }
        };
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(if failed { RETRY } else { INTERVAL }) => {}
            () = changed(watched.as_ref()) => {}
            () = released => {}
            () = of_interest(&mut changes, &known), if !failed => {}
        }
    }
}

/// Waits for a change of a mirror pod, or of a pod that has a static pod's name.
async fn of_interest(changes: &mut control::Changes, known: &Known) {
    loop {
        match changes.next().await {
            Change::Applied(object) | Change::Deleted(object) => {
                if identity::mirrored(&object).is_some() || known.values().any(|pod| pod.object.key() == object.key()) {
                    return;
                }
            }
            Change::Synced => return,
        }
    }
}

/// Waits until something in the folder changed; for ever without a watch.
async fn changed(watched: Option<&Watch>) {
    let told = match watched {
        Some(watched) => watched.changed().await,
        None => return std::future::pending().await,
    };
    if told.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The pods of the folder by file name. A file that cannot be understood leaves running what it last said.
fn read(folder: &Path, node: &str, before: &Known) -> Known {
    let mut found = Known::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return found,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), error = chain(&error), "cannot read the folder of static pods");
            return before.clone();
        }
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    for path in paths.into_iter().take(FILES_MAX) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        match read_file(&path, node) {
            Ok(pod) if found.values().any(|other| other.object.key() == pod.object.key()) => {
                tracing::warn!(file = %path.display(), pod = pod.identity.display(), "another file has a pod of this name");
            }
            Ok(pod) => drop(found.insert(name, pod)),
            Err(error) => {
                tracing::warn!(file = %path.display(), error = chain(&error), "a file of the static pods' folder is not run");
                if let Some(last) = before.get(&name) {
                    found.insert(name, last.clone());
                }
            }
        }
    }
    found
}

fn read_file(path: &Path, node: &str) -> Result<StaticPod, FileError> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(FileError::Read)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(FileError::Read)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(FileError::TooLarge) } else { parse(&text, node) }
}

/// The pod that a file asks for on this node.
fn parse(text: &str, node: &str) -> Result<StaticPod, FileError> {
    let mut pod: Value = serde_saphyr::from_str(text).map_err(FileError::Parse)?;
    let name = pod["metadata"]["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let containers = pod["spec"]["containers"].as_array().is_some_and(|list| !list.is_empty());
    let (Some(name), "Pod", "v1", true) =
        (name, pod["kind"].as_str().unwrap_or_default(), pod["apiVersion"].as_str().unwrap_or_default(), containers)
    else {
        return Err(FileError::NoPod);
    };
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update([0]);
    hash.update(text.as_bytes());
    let hash: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let namespace = pod["metadata"]["namespace"].as_str().filter(|text| !text.is_empty()).unwrap_or("default");
    let identity = Identity { namespace: namespace.to_owned(), name: format!("{name}-{node}"), uid: hash.clone() };
    if let Some(object) = pod.as_object_mut() {
        object.remove("status");
    }
    pod["metadata"]["name"] = identity.name.clone().into();
    pod["metadata"]["namespace"] = identity.namespace.clone().into();
    pod["metadata"]["uid"] = hash.clone().into();
    for (annotation, value) in [(identity::CONFIG_HASH, hash.as_str()), (identity::CONFIG_SOURCE, "file")] {
        pod["metadata"]["annotations"][annotation] = value.into();
    }
    pod["spec"]["nodeName"] = node.into();
    // Nothing that happens to the node makes it leave.
    let everything = json!({"operator": "Exists", "effect": "NoExecute"});
    match pod["spec"]["tolerations"].as_array_mut() {
        Some(list) => list.push(everything),
        None => pod["spec"]["tolerations"] = json!([everything]),
    }
    let json = Bytes::from(pod.to_string());
    let typed = Pod::decode(&json).map_err(|_| FileError::NoPod)?;
    if let Some(what) = refers_to(&typed) {
        return Err(FileError::Refers(what));
    }
    let object = Object::parse(Pod::resource(), json).map_err(|_| FileError::NoPod)?;
    Ok(StaticPod { identity, object })
}

/// What a pod needs of the API that it could not have without it.
fn refers_to(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let (maps, secrets) = crate::environment::references(pod);
    let (volume_maps, volume_secrets) = crate::volumes::payload::references(pod);
    let none = |list: &Option<String>| list.as_deref().unwrap_or_default().is_empty();
    let volumes = || spec.volumes.iter().flatten();
    let tokens =
        volumes().flat_map(|volume| volume.projected.iter().flat_map(|source| source.sources.iter().flatten()));
    let mut tokens = tokens.filter(|source| source.service_account_token.is_some());
    [
        ("a config map", maps.into_iter().chain(volume_maps).next().is_some()),
        ("a secret", secrets.into_iter().chain(volume_secrets).next().is_some()),
        ("a pull secret", spec.image_pull_secrets.as_ref().is_some_and(|list| !list.is_empty())),
        ("a service account", !none(&spec.service_account_name) || !none(&spec.service_account)),
        ("a service account token", tokens.next().is_some()),
        ("a persistent volume claim", volumes().any(|volume| volume.persistent_volume_claim.is_some())),
        ("a runtime class", !none(&spec.runtime_class_name)),
    ]
    .into_iter()
    .find_map(|(what, refers)| refers.then_some(what))
}

/// Makes the API show the static pods as they are; does nothing before it is known what the API has.
async fn mirror(host: &Host, known: &Known) -> Result<(), ClientError> {
    if !host.pods.is_synced() {
        return Ok(());
    }
    for object in host.pods.all() {
        let Some(hash) = identity::mirrored(&object) else { continue };
        let current = known.values().any(|pod| pod.identity.uid == hash && pod.object.key() == object.key());
        if !current || object.is_deleting() {
            let options =
                DeleteOptions { uid: Some(object.uid().to_owned()), grace_seconds: Some(0), ..Default::default() };
            match host.client.delete(Pod::resource(), object.key(), &options).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
    }
    for pod in known.values().filter(|pod| host.pods.get(pod.object.key()).is_none()) {
        let namespace = &pod.identity.namespace;
        match host.client.create(Pod::resource(), namespace, mirror_of(host, pod)).await {
            // The watch will show it.
            Err(error) if error.is_already_exists() => {}
            created => drop(created?),
        }
    }
    Ok(())
}

fn mirror_of(host: &Host, pod: &StaticPod) -> Bytes {
    let mut value = pod.object.to_value();
    value["metadata"]["annotations"][identity::CONFIG_MIRROR] = pod.identity.uid.clone().into();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("uid");
    }
    // It goes with its node.
    if let Some(node) = host.node.get(&api::Key::new("", host.node_name.as_str())) {
        value["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Node", "name": host.node_name, "uid": node.uid(), "controller": true,
        }]);
    }
    value.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: i}]\n";

    #[test]
    fn a_file_is_a_pod_of_this_node() {
        let pod = parse(WEB, "node-1").unwrap();
        assert_eq!((pod.identity.namespace.as_str(), pod.identity.name.as_str()), ("default", "web-node-1"));
        assert_eq!(pod.identity.uid.len(), 32);
        let value = pod.object.to_value();
        assert_eq!(value["metadata"]["annotations"][identity::CONFIG_HASH], pod.identity.uid.as_str());
        assert_eq!(value["spec"]["tolerations"][0]["effect"], "NoExecute");
        assert_eq!(parse(WEB, "node-1").unwrap().identity, pod.identity, "it is the same pod after a restart");
        assert_ne!(parse(&WEB.replace("image: i", "image: j"), "node-1").unwrap().identity.uid, pod.identity.uid);
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j","namespace":"kube-system"},"spec":{"containers":[{"name":"c"}]}}"#;
        assert_eq!(parse(json, "n").unwrap().identity.namespace, "kube-system");
    }

    #[test]
    fn what_could_not_run_without_an_api_server_is_refused() {
        for (text, wanted) in [
            (WEB.replace("kind: Pod", "kind: Job"), "no object of kind Pod"),
            (WEB.replace("{name: web}", "{}"), "no object of kind Pod"),
            ("\t{".to_owned(), "cannot understand it"),
            (format!("{WEB}  serviceAccountName: x\n"), "a service account"),
            (format!("{WEB}  volumes: [{{name: v, secret: {{secretName: s}}}}]\n"), "a secret"),
            (
                format!("{WEB}  volumes: [{{name: v, persistentVolumeClaim: {{claimName: s}}}}]\n"),
                "a persistent volume claim",
            ),
            (WEB.replace("image: i", "envFrom: [{configMapRef: {name: m}}]"), "a config map"),
        ] {
            let error = chain(&parse(&text, "n").unwrap_err());
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_breaks_leaves_running_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("web.yaml"), WEB).unwrap();
        std::fs::write(folder.path().join(".hidden.yaml"), WEB).unwrap();
        let first = read(folder.path(), "n", &Known::new());
        assert_eq!(first.len(), 1);
        std::fs::write(folder.path().join("web.yaml"), "kind: Po").unwrap();
        let second = read(folder.path(), "n", &first);
        assert_eq!(second["web.yaml"].identity, first["web.yaml"].identity);
        std::fs::remove_file(folder.path().join("web.yaml")).unwrap();
        assert!(read(folder.path(), "n", &second).is_empty());
    }
}
