//! Volumes that a pod has through a claim: where they lie on the node.
//!
//! Kinds that a node can serve alone: `local` and `hostPath`. What a claim led to is kept as a symbolic link in the pod's
//! directory, so that a restarted kubelet need not ask, and so that removing the directory removes nothing of the volume.
//! Checks and messages are upstream's.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use api::typed::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use api::{Key, Object, Typed};
use base::chain;
use control::{Client, ClientError};
use machinery::labels::{Operator, Requirement};

use super::local::LocalVolumes;
use super::{VolumeError, host_path, is_read_only, ownership};

/// A volume that a claim led to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    persistent: PersistentVolume,
}

/// The name of the claim behind a volume, and whether it is the pod's own.
pub(crate) fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), false));
    }
    volume.ephemeral.as_ref()?;
    Some((format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name), true))
}

/// Asks the API where a claim leads, and whether the pod may go there.
pub(crate) async fn find(
    client: &Client,
    node: Option<&Object>,
    pod: &Pod,
    volume: &Volume,
    (claim_name, owned): &(String, bool),
) -> Result<Found, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let fails = |why: String| VolumeError {
        stage: "Unable to attach or mount",
        volume: volume.name.clone(),
        waits_for_object: false,
        source: format!("error processing PVC {namespace}/{claim_name}: {why}").into(),
    };
    let claim = get::<PersistentVolumeClaim>(client, &Key::new(namespace, claim_name.as_str()))
        .await
        .map_err(|error| fails(format!("failed to fetch PVC from API server: {error}")))?;
    let name = check_claim(pod, volume, &claim, *owned).map_err(fails)?;
    let persistent = get::<PersistentVolume>(client, &Key::new("", name.as_str()))
        .await
        .map_err(|error| fails(format!("failed to get PV {name}: {error}")))?;
    check_volume(&persistent, &claim).map_err(fails)?;
    if node.is_some_and(|node| !admits(&persistent, node)) {
        return Err(VolumeError {
            stage: "MountVolume.NodeAffinity check failed",
            source: "no matching NodeSelectorTerms".into(),
            ..fails(String::new())
        });
    }
    Ok(Found { persistent })
}

async fn get<T: Typed>(client: &Client, key: &Key) -> Result<T, String> {
    let object: Result<Object, ClientError> = client.get(T::resource(), key).await;
    let object = object.map_err(|error| chain(&error))?;
    T::decode(object.json()).map_err(|error| chain(&error))
}

/// The name of the claim's volume, if the pod may use it.
fn check_claim(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim, owned: bool) -> Result<String, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let mut owners = claim.metadata.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true));
    if owned && !owners.any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref()) {
        return Err("PVC was not created for the pod (pod is not owner)".to_owned());
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let block = spec.volume_mode.as_deref() == Some("Block");
    let containers = || crate::identity::containers(pod).map(|(_, container)| container);
    let name = &volume.name;
    if block && containers().any(|one| one.volume_mounts.iter().flatten().any(|mount| mount.name == *name)) {
        return Err(format!("volume {name} has volumeMode Block, but is specified in volumeMounts"));
    }
    if !block && containers().any(|one| one.volume_devices.iter().flatten().any(|device| device.name == *name)) {
        return Err(format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices"));
    }
    spec.volume_name.filter(|name| !name.is_empty()).ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".to_owned())
}

fn check_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if reference.uid != claim.metadata.uid {
        return Err(format!("found PV object {name} but its pv.Spec.ClaimRef.UID does not point to claim.UID"));
    }
    Ok(())
}

/// Whether the volume can be reached from a node.
fn admits(volume: &PersistentVolume, node: &Object) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return true };
    required.node_selector_terms.iter().any(|term| {
        let (labels, fields) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
        let none = term.match_expressions.iter().flatten().next().is_none() && fields.clone().next().is_none();
        !none
            && labels.clone().all(|one| holds(one, node.label(&one.key)))
            && fields.clone().all(|one| one.key == "metadata.name" && holds(one, Some(&node.key().name)))
    })
}

fn holds(requirement: &api::typed::core::v1::NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.clone().unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let (mine, limit) = (number(value), number(values.first().map(String::as_str)));
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => return mine.zip(limit).is_some_and(|(mine, limit)| mine > limit),
        "Lt" => return mine.zip(limit).is_some_and(|(mine, limit)| mine < limit),
        _ => return false,
    };
    Requirement::new(&requirement.key, operator, values).is_ok_and(|requirement| requirement.matches(value))
}

/// Makes the volume ready and keeps at `link` where it lies.
pub(crate) fn set_up(
    found: &Found,
    volume: &Volume,
    link: &Path,
    local: &LocalVolumes,
    group: Option<(u32, bool)>,
) -> io::Result<()> {
    let spec = found.persistent.spec.clone().unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    if spec.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(io::Error::other("Mount options are not supported for this kind of volume"));
    }
    let target = if let Some(source) = &spec.local {
        let path = PathBuf::from(&source.path);
        local.make_if_ours(&found.persistent, &path)?;
        check_local(&path, block)?;
        if let Some((group, only_if_wrong)) = group.filter(|_| !is_read_only(volume) && !block) {
            ownership::give(&path, group, only_if_wrong)?;
        }
        path
    } else if let Some(source) = &spec.host_path {
        host_path(source)?;
        PathBuf::from(&source.path)
    } else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kind of persistent volume is not supported"));
    };
    keep(link, &target)
}

fn check_local(path: &Path, block: bool) -> io::Result<()> {
    let kind = match fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::other(format!("path {:?} does not exist", path.display().to_string())));
        }
        Err(error) => return Err(error),
    };
    match (block, kind.is_dir(), kind.is_block_device()) {
        (false, true, _) | (true, _, true) => Ok(()),
        (true, ..) => Err(io::Error::other(format!("{} is not a block device", path.display()))),
        (false, ..) => Err(io::Error::other(format!("{} is not a directory", path.display()))),
    }
}

/// Whole or not at all: a link that is there says that its volume is ready.
fn keep(link: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = link.with_extension("new~");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &new)?;
    fs::rename(&new, link)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn check(claim: &Value, mount: bool) -> Result<String, String> {
        let container = if mount {
            r#"{"name":"c","volumeMounts":[{"name":"data","mountPath":"/d"}]}"#
        } else {
            r#"{"name":"c","volumeDevices":[{"name":"data","devicePath":"/dev/d"}]}"#
        };
        let pod = pod(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{{"containers":[{container}],
                "volumes":[{{"name":"data","persistentVolumeClaim":{{"claimName":"c"}}}}]}}}}"#
        ));
        let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        assert_eq!(claim_of(&pod, volume), Some(("c".to_owned(), false)));
        let claim = PersistentVolumeClaim::decode(claim.to_string().as_bytes()).unwrap();
        check_claim(&pod, volume, &claim, false)
    }

    #[test]
    fn only_a_bound_claim_of_the_right_mode_is_used() {
        let bound = |over: Value| {
            let mut claim =
                json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
            machinery::patch::merge(&mut claim, &over);
            claim
        };
        assert_eq!(check(&bound(json!({})), true), Ok("v".to_owned()));
        for (over, mount, why) in [
            (json!({"status": {"phase": "Pending"}}), true, "PVC is not bound"),
            (json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}}), true, "PVC is being deleted"),
            (json!({"spec": {"volumeName": null}}), true, "PVC has empty pvc.Spec.VolumeName"),
            (
                json!({"spec": {"volumeMode": "Block"}}),
                true,
                "volume data has volumeMode Block, but is specified in volumeMounts",
            ),
            (json!({}), false, "volume data has volumeMode Filesystem, but is specified in volumeDevices"),
        ] {
            assert_eq!(check(&bound(over), mount), Err(why.to_owned()));
        }
    }

    #[test]
    fn a_volume_is_for_the_nodes_that_its_affinity_admits() {
        let node = json!({"metadata": {"name": "a", "labels": {"zone": "1", "kubernetes.io/hostname": "a"}}});
        let node = Object::parse(api::resources::NODES, node.to_string().into_bytes().into()).unwrap();
        let check = |term: Value, expected: bool| {
            let volume = json!({"metadata": {"name": "v"},
                "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}});
            let volume = PersistentVolume::decode(volume.to_string().as_bytes()).unwrap();
            assert_eq!(admits(&volume, &node), expected, "{term}");
        };
        let label = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]});
        check(label("In", json!(["1", "2"])), true);
        check(label("In", json!(["2"])), false);
        check(label("NotIn", json!(["2"])), true);
        check(label("Gt", json!(["0"])), true);
        check(label("Lt", json!(["0"])), false);
        check(json!({}), false);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}), true);
    }
}
