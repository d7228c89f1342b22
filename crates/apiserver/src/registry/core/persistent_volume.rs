//! Persistent volumes: one source each, which stays what it is.

use std::sync::Arc;

use machinery::names;
use serde_json::{Map, Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::diff::difference;
use crate::registry::pod_spec::volume_sources as sources;
use crate::registry::tree::{child, entries, is_set, present, remove, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, check, claim_spec, node_labels, node_selector, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::PERSISTENT_VOLUMES, strategy: |_| Arc::new(PersistentVolumeStrategy) };

/// What a volume's spec says besides its one source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

type SourceCheck = fn(&mut Errors, &At<'_>, &str);
/// In the order in which upstream looks.
const SOURCES: &[(&str, SourceCheck)] = &[
    ("hostPath", |errors, at, _| pod_spec::host_path(errors, at)),
    ("gcePersistentDisk", |errors, at, _| sources::gce_disk(errors, at)),
    ("awsElasticBlockStore", |errors, at, _| sources::aws_store(errors, at)),
    ("glusterfs", |errors, at, _| glusterfs(errors, at)),
    ("flocker", |errors, at, _| sources::flocker(errors, at)),
    ("nfs", |errors, at, _| sources::nfs(errors, at)),
    ("rbd", |errors, at, _| sources::rbd(errors, at)),
    ("quobyte", |errors, at, _| sources::quobyte(errors, at)),
    ("cephfs", |errors, at, _| sources::cephfs(errors, at)),
    ("iscsi", sources::persistent_iscsi),
    ("cinder", |errors, at, _| in_namespace(errors, at, sources::cinder)),
    ("fc", |errors, at, _| sources::fibre_channel(errors, at)),
    ("flexVolume", |errors, at, _| sources::flex(errors, at)),
    ("azureFile", |errors, at, _| azure_file(errors, at)),
    ("vsphereVolume", |errors, at, _| check::required(errors, &at.at("volumePath"))),
    ("photonPersistentDisk", |errors, at, _| check::required(errors, &at.at("pdID"))),
    ("portworxVolume", |errors, at, _| check::required(errors, &at.at("volumeID"))),
    ("azureDisk", |errors, at, _| sources::azure_disk(errors, at)),
    ("scaleIO", |errors, at, _| sources::scale_io(errors, at)),
    ("local", |errors, at, _| local(errors, at)),
    ("storageos", |errors, at, _| in_namespace(errors, at, sources::storage_os)),
    ("csi", |errors, at, _| csi(errors, at)),
];

struct PersistentVolumeStrategy;

impl Strategy for PersistentVolumeStrategy {
    fn default(&self, volume: &mut Value) {
        let Some(spec) = child(volume, "spec") else { return };
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        if let Some(capacity) = present(spec, "capacity") {
            pod_spec::round_up(capacity);
        }
        pod_spec::default_sources_of_storage(spec);
    }

    fn prepare_for_create(&self, context: &Context<'_>, volume: &mut Value) {
        let at = crate::request::metadata::time(context.now);
        set(volume, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": at}));
    }

    /// The time of the last phase is the server's where a client that changes the phase does not say.
    fn prepare_for_subresource_update(&self, context: &Context<'_>, subresource: &str, new: &mut Value, old: &Value) {
        crate::registry::reset(new, old, self.reset_fields(subresource));
        let (phase, since) = ("phase", "lastPhaseTransitionTime");
        let Some(status) = present(new, "status") else { return };
        let same_phase = text(&status[phase]) == text(&old["status"][phase]);
        let was = &old["status"][since];
        if same_phase && !is_set(status, since) && !was.is_null() {
            set(status, since, was.clone());
        } else if !same_phase && (!is_set(status, since) || status[since] == *was) {
            set(status, since, crate::request::metadata::time(context.now));
        }
    }

    fn validate(&self, _: &Context<'_>, volume: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(volume, "");
        let (metadata, spec) = (root.at("metadata"), root.at("spec"));
        validate_common(&mut errors, &spec);
        validate_source(&mut errors, &spec, metadata.at("name").text());
        validate_classes(&mut errors, &spec);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        let (spec, before) = (root.at("spec"), &old["spec"]);
        let mut source = source_of(spec.value());
        // A secret for expansion may be added to a driver that had none.
        if let Some(csi) = present(&mut source, "csi")
            && !is_set(&before["csi"], "controllerExpandSecretRef")
        {
            remove(csi, "controllerExpandSecretRef");
        }
        let was = source_of(before);
        if source != was {
            let why = format!("spec.persistentvolumesource is immutable after creation\n{}", difference(&was, &source));
            errors.push(spec.at("persistentvolumesource").forbidden(&why));
        }
        check::immutable(
            &mut errors,
            &root.at("volumeMode").with(spec.at("volumeMode").value()),
            &before["volumeMode"],
        );
        let affinity = root.at("nodeAffinity").with(spec.at("nodeAffinity").value());
        if is_set(before, "nodeAffinity")
            && with_new_labels(&before["nodeAffinity"]) != with_new_labels(affinity.value())
        {
            let why = "field is immutable, except for updating from beta label to GA";
            errors.push(affinity.invalid_as(affinity.value().clone(), why));
        }
        let class = spec.at("volumeAttributesClassName");
        if is_set(before, "volumeAttributesClassName") && !class.is_set() {
            errors.push(class.forbidden("update from non-nil value to nil is forbidden"));
        }
        errors
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::new(new, "");
        let spec = root.at("spec");
        if root.at("metadata").at("annotations").at("volume.beta.kubernetes.io/storage-class").is_set() {
            warnings.push(
                "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \
                 \"storageClassName\" attribute instead"
                    .to_owned(),
            );
        }
        if spec.at("persistentVolumeReclaimPolicy").text() == "Recycle" {
            warnings.push(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
                 approach is to use dynamic provisioning."
                    .to_owned(),
            );
        }
        for term in spec.at("nodeAffinity").at("required").at("nodeSelectorTerms").items() {
            node_labels::warn_term(&mut warnings, &term);
        }
        for (source, why) in GONE {
            if spec.at(source).is_set() {
                warnings.push(format!("spec.{source}: {why}"));
            }
        }
        claim_spec::warn_fraction(&mut warnings, &spec.at("capacity").key("storage"));
        warnings
    }
}

const GONE: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn source_of(spec: &Value) -> Value {
    let sources = entries(spec).filter(|(field, _)| !NOT_SOURCES.contains(&field.as_str()));
    Value::Object(sources.map(|(field, value)| (field.clone(), value.clone())).collect::<Map<_, _>>())
}

/// Node affinity with the names that its labels have got since.
fn with_new_labels(affinity: &Value) -> String {
    const RENAMED: &[(&str, &str)] = &[
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ];
    let text = affinity.to_string();
    RENAMED.iter().fold(text, |text, (old, new)| text.replace(&format!("{old:?}"), &format!("{new:?}")))
}

/// All that is wrong with a volume that is written out where it is attached: it has no claim, no class and no place.
pub(in crate::registry) fn validate_inline(errors: &mut Errors, spec: &At<'_>) {
    const HERE: &str = "in the context of inline volumes";
    let not_here = |errors: &mut Errors, field: &str| {
        let field = spec.at(field);
        if field.count() > 0 || field.has_text() {
            errors.push(field.forbidden(&format!("may not be specified {HERE}")));
        }
    };
    ["claimRef", "capacity"].iter().for_each(|field| not_here(errors, field));
    if !spec.at("csi").is_set() {
        errors.push(spec.at("csi").required(&format!("has to be specified {HERE}")));
    }
    validate_modes(errors, spec);
    let policy = spec.at("persistentVolumeReclaimPolicy");
    if policy.has_text() && policy.text() != "Retain" {
        errors.push(policy.forbidden(&format!("may only be Retain {HERE}")));
    }
    not_here(errors, "nodeAffinity");
    validate_source(errors, spec, "");
    not_here(errors, "storageClassName");
    let mode = spec.at("volumeMode");
    if mode.is_set() && mode.text() != "Filesystem" {
        errors.push(mode.forbidden(&format!("may not specify volumeMode other than Filesystem {HERE}")));
    }
}

fn validate_modes(errors: &mut Errors, spec: &At<'_>) {
    let modes = spec.at("accessModes");
    if modes.count() == 0 {
        errors.push(modes.required(""));
    }
    claim_spec::access_modes(errors, &modes);
}

fn validate_common(errors: &mut Errors, spec: &At<'_>) {
    validate_modes(errors, spec);
    let capacity = spec.at("capacity");
    if capacity.count() == 0 {
        errors.push(capacity.required(""));
    }
    if !capacity.at("storage").is_set() || capacity.count() > 1 {
        let shown = if capacity.is_set() { capacity.value().clone() } else { Value::Null };
        errors.push(FieldError::not_supported(capacity.path(), &shown, &["storage"]));
    }
    for (_, amount) in capacity.entries() {
        let Some(given) = amount.quantity() else { continue };
        if given.value() < 0 {
            errors.push(amount.invalid_as(given.value(), "must be a valid resource quantity"));
        }
        if given.is_negative() || given.is_zero() {
            errors.push(amount.invalid_as(given.to_string(), "must be greater than zero"));
        }
    }
    check::one_of(errors, &spec.at("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"]);
    let affinity = spec.at("nodeAffinity");
    let required = affinity.at("required");
    if required.is_set() {
        node_selector::validate(errors, &required);
    } else if affinity.is_set() {
        errors.push(required.required("must specify required node constraints"));
    }
}

fn validate_source(errors: &mut Errors, spec: &At<'_>, name: &str) {
    let mut found = 0;
    for (field, check) in SOURCES.iter().filter(|(field, _)| spec.at(field).is_set()) {
        found += 1;
        let second = if *field == "cephfs" { "cephFS" } else { field };
        if found > 1 && *field != "flexVolume" {
            errors.push(spec.at(second).forbidden("may not specify more than 1 volume type"));
            continue;
        }
        let shown = if *field == "gcePersistentDisk" { "persistentDisk" } else { field };
        check(errors, &spec.at(shown).with(spec.at(field).value()), name);
        if *field == "local" && !spec.at("nodeAffinity").is_set() {
            errors.push(spec.at("nodeAffinity").required("Local volume requires node affinity"));
        }
    }
    if found == 0 {
        errors.push(spec.required("must specify a volume type"));
    }
    let path = spec.value()["hostPath"]["path"].as_str().unwrap_or_default();
    let is_root = path.starts_with('/') && path.split('/').all(|part| part.is_empty() || part == ".");
    let policy = spec.at("persistentVolumeReclaimPolicy");
    if is_root && policy.text() == "Recycle" {
        errors.push(policy.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
}

fn validate_classes(errors: &mut Errors, spec: &At<'_>) {
    check::optional_text(errors, &spec.at("storageClassName"), names::dns1123_subdomain);
    check::one_of(errors, &spec.at("volumeMode"), &["Block", "Filesystem"]);
    let class = spec.at("volumeAttributesClassName");
    if !class.is_set() {
        return;
    }
    if class.has_text() {
        check::text(errors, &class, names::dns1123_subdomain);
    } else {
        errors.push(class.required("an empty string is disallowed"));
    }
    if !spec.at("csi").is_set() {
        errors.push(spec.at("csi").required("has to be specified when using volumeAttributesClassName"));
    }
}

fn glusterfs(errors: &mut Errors, at: &At<'_>) {
    sources::glusterfs(errors, at);
    let namespace = at.at("endpointsNamespace");
    if namespace.is_set() && !namespace.has_text() {
        errors.push(namespace.invalid("if the endpointnamespace is set, it must be a valid namespace name"));
    } else {
        check::optional_text(errors, &namespace, names::dns1123_label);
    }
}

/// A source whose secret is in some namespace, since the volume itself is in none.
fn in_namespace(errors: &mut Errors, at: &At<'_>, check_source: fn(&mut Errors, &At<'_>)) {
    check_source(errors, at);
    if at.at("secretRef").is_set() {
        check::required(errors, &at.at("secretRef").at("namespace"));
    }
}

fn azure_file(errors: &mut Errors, at: &At<'_>) {
    sources::azure_file(errors, at);
    let namespace = at.at("secretNamespace");
    if namespace.is_set() {
        check::required(errors, &namespace);
    }
}

fn local(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("path"));
    check::path_without_backsteps(errors, &at.at("path"));
}

fn csi(errors: &mut Errors, at: &At<'_>) {
    sources::csi_driver_name(errors, &at.at("driver"));
    check::required(errors, &at.at("volumeHandle"));
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let secret = at.at(field);
        if secret.is_set() {
            check::required_text(errors, &secret.at("name"), names::dns1123_subdomain);
            check::required_text(errors, &secret.at("namespace"), names::dns1123_label);
        }
    }
}
