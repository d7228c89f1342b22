//! The volumes of a pod: exactly one source each, and what each source needs.

use std::collections::BTreeSet;

use machinery::names;

use super::volume_sources as sources;
use super::{Meta, projected};
use crate::registry::at::{At, Errors};
use crate::registry::{check, claim_spec};

/// A volume source: its field, what upstream calls it in an error about a second source, and its check.
struct Source {
    field: &'static str,
    second: &'static str,
    check: fn(&mut Errors, &At<'_>, &Meta<'_>),
}

const fn source(field: &'static str, check: fn(&mut Errors, &At<'_>, &Meta<'_>)) -> Source {
    Source { field, second: field, check }
}

/// In the order in which upstream looks: the first that is there is checked, each further one is refused.
const SOURCES: &[Source] = &[
    source("emptyDir", |errors, at, _| empty_dir(errors, at)),
    source("hostPath", |errors, at, _| host_path(errors, at)),
    source("gitRepo", |errors, at, _| git_repo(errors, at)),
    source("gcePersistentDisk", |errors, at, _| sources::gce_disk(errors, at)),
    source("awsElasticBlockStore", |errors, at, _| sources::aws_store(errors, at)),
    source("secret", |errors, at, _| projected::secret(errors, at)),
    source("nfs", |errors, at, _| sources::nfs(errors, at)),
    source("iscsi", |errors, at, _| sources::iscsi(errors, at)),
    source("glusterfs", |errors, at, _| sources::glusterfs(errors, at)),
    source("flocker", |errors, at, _| sources::flocker(errors, at)),
    source("persistentVolumeClaim", |errors, at, _| check::required(errors, &at.at("claimName"))),
    source("rbd", |errors, at, _| sources::rbd(errors, at)),
    source("cinder", |errors, at, _| sources::cinder(errors, at)),
    Source { field: "cephfs", second: "cephFS", check: |errors, at, _| sources::cephfs(errors, at) },
    source("quobyte", |errors, at, _| sources::quobyte(errors, at)),
    Source { field: "downwardAPI", second: "downwarAPI", check: |errors, at, _| projected::downward(errors, at) },
    source("fc", |errors, at, _| sources::fibre_channel(errors, at)),
    source("flexVolume", |errors, at, _| sources::flex(errors, at)),
    source("configMap", |errors, at, _| projected::config_map(errors, at)),
    source("azureFile", |errors, at, _| sources::azure_file(errors, at)),
    source("vsphereVolume", |errors, at, _| check::required(errors, &at.at("volumePath"))),
    source("photonPersistentDisk", |errors, at, _| check::required(errors, &at.at("pdID"))),
    source("portworxVolume", |errors, at, _| check::required(errors, &at.at("volumeID"))),
    source("azureDisk", |errors, at, _| sources::azure_disk(errors, at)),
    source("storageos", |errors, at, _| sources::storage_os(errors, at)),
    source("projected", |errors, at, _| projected::projected(errors, at)),
    source("scaleIO", |errors, at, _| sources::scale_io(errors, at)),
    source("csi", |errors, at, _| inline_csi(errors, at)),
    source("ephemeral", |errors, at, _| ephemeral(errors, at)),
    source("image", image),
];

/// What the containers of a spec may mount: the volumes that nothing is wrong with.
pub(super) type Volumes<'a> = std::collections::BTreeMap<&'a str, &'a serde_json::Value>;

/// Checks all volumes.
pub(super) fn validate<'a>(errors: &mut Errors, at: &'a At<'a>, meta: &Meta<'_>) -> Volumes<'a> {
    let mut known = Volumes::new();
    let made: BTreeSet<String> = match meta.name {
        "" => BTreeSet::new(),
        pod => {
            let ephemeral = at.items().filter(|volume| volume.at("ephemeral").is_set());
            ephemeral.map(|volume| format!("{pod}-{}", volume.at("name").text())).collect()
        }
    };
    for (index, volume) in at.items().enumerate() {
        let before = errors.len();
        validate_sources(errors, &volume, meta);
        let name = volume.at("name");
        check::required_text(errors, &name, names::dns1123_label);
        if known.contains_key(name.text()) {
            errors.push(name.duplicate());
        }
        let claim = volume.at("persistentVolumeClaim");
        let sound = errors.len() == before;
        if claim.is_set() && made.contains(claim.at("claimName").text()) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(claim.at("claimName").invalid(why));
        }
        if sound {
            let value = &at.value()[index];
            known.insert(value["name"].as_str().unwrap_or_default(), value);
        }
    }
    known
}

fn validate_sources(errors: &mut Errors, volume: &At<'_>, meta: &Meta<'_>) {
    let mut found = 0;
    let name = volume.at("name");
    for source in SOURCES {
        let at = volume.at(source.field);
        if !at.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            errors.push(volume.at(source.second).forbidden("may not specify more than 1 volume type"));
        } else {
            // Upstream's path of this one has another name.
            let disk = volume.at("persistentDisk").with(at.value());
            let shown = if source.field == "gcePersistentDisk" { &disk } else { &at };
            (source.check)(errors, shown, meta);
        }
        match source.field {
            "iscsi" if sources::iscsi_name_too_long(&at, name.text()) => {
                errors.push(name.invalid(sources::ISCSI_NAME_TOO_LONG));
            }
            "ephemeral" if found == 1 && !meta.name.is_empty() && name.has_text() => {
                let claim = format!("{}-{}", meta.name, name.text());
                let complaints = names::dns1123_subdomain(&claim);
                errors.extend(complaints.iter().map(|why| name.invalid(&format!("PVC name {claim:?}: {why}"))));
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.push(volume.required("must specify a volume type"));
    }
}

fn empty_dir(errors: &mut Errors, at: &At<'_>) {
    let limit = at.at("sizeLimit");
    if limit.quantity().is_some_and(|limit| limit.is_negative()) {
        errors.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
    }
}

/// A path on the node.
pub(crate) fn host_path(errors: &mut Errors, at: &At<'_>) {
    const TYPES: &[&str] =
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = at.at("path");
    if !path.has_text() {
        errors.push(path.required(""));
        return;
    }
    check::path_without_backsteps(errors, &path);
    check::one_of(errors, &at.at("type"), TYPES);
}

fn git_repo(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("repository"));
    check::descending_path(errors, &at.at("directory"));
}

fn inline_csi(errors: &mut Errors, at: &At<'_>) {
    sources::csi_driver_name(errors, &at.at("driver"));
    let secret = at.at("nodePublishSecretRef");
    if !secret.is_set() {
        return;
    }
    if secret.at("name").has_text() {
        // Upstream's path leaves the reference out.
        check::text(errors, &at.at("name").with(secret.at("name").value()), names::dns1123_subdomain);
    } else {
        errors.push(secret.at("name").required(""));
    }
}

fn ephemeral(errors: &mut Errors, at: &At<'_>) {
    let template = at.at("volumeClaimTemplate");
    if !template.is_set() {
        errors.push(template.required(""));
        return;
    }
    claim_metadata(errors, &template.at("metadata"));
    claim_spec::validate(errors, &template.at("spec"));
}

fn image(errors: &mut Errors, at: &At<'_>, meta: &Meta<'_>) {
    if meta.is_pod {
        check::required(errors, &at.at("reference"));
    }
    super::containers::pull_policy(errors, &at.at("pullPolicy"));
}

/// Only labels and annotations go into the claim; anything else would be ignored.
fn claim_metadata(errors: &mut Errors, at: &At<'_>) {
    crate::request::metadata::validate_annotations(errors, &at.at("annotations"));
    check::labels(errors, &at.at("labels"));
    for (field, _) in at.entries() {
        let unset = matches!(field, "annotations" | "labels" | "creationTimestamp");
        if !unset && at.at(field).is_set() {
            errors.push(at.at(field).forbidden("cannot be set"));
        }
    }
}
